//! What layers compute in.

use crate::error::Result;
use crate::ops::Precision;
use crate::ops::cast::check_power_of_two;

/// What the layers of a model compute in.
///
/// Whatever it is, parameters, their gradients, what optimizers remember and the pooled vectors are
/// of `f32`, sums are of `f32`, and the last layer computes in `f32`. In 16 bits, the other layers
/// read copies of their weights that each step of the optimizer leaves rounded to nearest, and
/// their inputs, outputs and the gradients of these are stored in 16 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase", deny_unknown_fields))]
pub enum ComputePrecision {
    /// `f32`, with exact products.
    #[default]
    F32,
    /// `f32`, with factors that may be rounded to tf32 where that is faster, as it is on the tensor
    /// cores of a GPU; so are those of the interaction. On the CPU this is [`Self::F32`].
    Tf32,
    /// `bf16`; on the tensor cores of a GPU the interaction multiplies in tf32.
    BF16,
    /// `f16`; on the tensor cores of a GPU the interaction multiplies in tf32.
    F16 {
        /// Gradients of layers are those of so many times the loss, so that they are not lost below
        /// the smallest `f16`, which is 2⁻²⁴; this is undone, exactly, before anything else is made
        /// of them. A power of two. Where it is too large, gradients become infinite, and
        /// [`NonFinite`](crate::ops::finite_check::NonFinite) says what happens to the step.
        loss_scale: f32,
    },
}

impl ComputePrecision {
    /// A loss scale that suits batches of 32 to 65536 samples: the gradient of the mean loss by a
    /// logit is at most 1 over that number.
    pub const DEFAULT_LOSS_SCALE: f32 = 4096.0;

    /// How products of `f32` are computed, but for those of the last layer.
    pub(super) fn of_products(self) -> Precision {
        match self {
            Self::F32 => Precision::Full,
            Self::Tf32 | Self::BF16 | Self::F16 { .. } => Precision::Tf32,
        }
    }

    pub(super) fn loss_scale(self) -> f32 {
        match self {
            Self::F16 { loss_scale } => loss_scale,
            Self::F32 | Self::Tf32 | Self::BF16 => 1.0,
        }
    }

    /// The bytes of a copy of a parameter; none where layers compute with the parameters
    /// themselves.
    pub(super) fn bytes_of_copy(self) -> usize {
        match self {
            Self::F32 | Self::Tf32 => 0,
            Self::F16 { .. } | Self::BF16 => 2,
        }
    }

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
