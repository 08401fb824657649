//! The types that layers compute in.

use crate::error::Result;
use crate::ops::Precision;
use crate::ops::cast::check_power_of_two;

/// The type that the layers of a model compute in.
///
/// In every case parameters, their gradients, the state of the optimizers and all sums are of
/// `f32`, and the last layer computes in `f32`. With a 16-bit type, the other layers read copies of
/// their weights, which each step of the optimizer rounds to nearest. The pooled vectors, the
/// inputs and outputs of the interaction and of these layers, and the gradients of all of them are
/// stored in 16 bits, each rounded once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase", deny_unknown_fields))]
pub enum ComputePrecision {
    /// `f32` with exact products.
    #[default]
    F32,
    /// `f32` with factors that may be rounded to tf32 where that is faster, as it is on the tensor
    /// cores of a GPU. This includes the factors of the interaction. On the CPU this is
    /// [`Self::F32`].
    Tf32,
    /// `bf16`.
    BF16,
    /// `f16`.
    F16 {
        /// The loss scale, a power of two. Gradients are computed for this many times the loss, so
        /// that they are not lost below the smallest `f16`, which is 2⁻²⁴; the factor is divided
        /// out of the gradients of parameters, exactly, before these are used. If it is too large,
        /// gradients become infinite, and [`NonFinite`](crate::ops::finite_check::NonFinite) says
        /// what happens to the step.
        loss_scale: f32,
    },
}

impl ComputePrecision {
    /// The loss scale that suits batches of 32 to 65536 samples: the gradient of the mean loss by a
    /// logit is at most 1 over the number of samples.
    pub const DEFAULT_LOSS_SCALE: f32 = 4096.0;

    /// Returns the precision of products of `f32`, except in the last layer.
    pub(super) fn product_precision(self) -> Precision {
        match self {
            Self::F32 | Self::BF16 | Self::F16 { .. } => Precision::Full,
            Self::Tf32 => Precision::Tf32,
        }
    }

    /// Returns the loss scale, 1 for every type but `f16`.
    pub(super) fn loss_scale(self) -> f32 {
        match self {
            Self::F16 { loss_scale } => loss_scale,
            Self::F32 | Self::Tf32 | Self::BF16 => 1.0,
        }
    }

    /// Returns the bytes of the copy of a parameter, 0 if layers compute with the parameters
    /// themselves.
    pub(super) fn copy_bytes(self) -> usize {
        match self {
            Self::F32 | Self::Tf32 => 0,
            Self::F16 { .. } | Self::BF16 => 2,
        }
    }

    /// Checks the loss scale.
    pub(super) fn check(self) -> Result<()> {
        check_power_of_two("Dlrm", "precision.loss_scale", self.loss_scale())
    }
}

impl std::fmt::Display for ComputePrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::Tf32 => f.write_str("tf32"),
            Self::BF16 => f.write_str("bf16"),
            Self::F16 { loss_scale } => write!(f, "f16, loss scale {loss_scale}"),
        }
    }
}
