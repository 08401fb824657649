//! Losses of a batch of logits, and their gradients.
//!
//! With `z` the logit, `y` the label in [0, 1], `p = 1 / (1 + e⁻ᶻ)`, clamped to `[t, 1 - t]` if
//! there is a threshold `t > 0` (the `--loss-threshold` of facebookresearch/dlrm; outside the clamp
//! the gradient is 0):
//!
//! - [`Loss::BceWithLogits`]: `-y ln p - (1 - y) ln(1 - p)`, computed from `z` without overflow or
//!   cancellation as `max(z, 0) - z y + ln(1 + e^{-|z|})`;
//! - [`Loss::WeightedBce`]: the same times the weight of the label, `positive` if `y` rounds to 1,
//!   else `negative`;
//! - [`Loss::Mse`]: `(p - y)²`.
//!
//! Without a threshold, the cross-entropy of an infinite logit is its limit: 0 if the logit is `+∞`
//! and the label 1, or the logit is `-∞` and the label 0; otherwise infinite.
//!
//! A sample whose label is not in [0, 1], or not a number, is skipped: its loss and gradient are 0.
//! It is reported like a bad id: by the call itself on the CPU, by the next [`Device::synchronize`]
//! on a device.
//!
//! The loss is the mean over the batch, in `f64`; 0 for an empty batch. Terms are in `f64`, summed
//! in an order that is the backend's own and the same in every run.

use super::cast::check_power_of_two;
use super::device::Device;
use super::views::Extent;
use crate::error::{Result, expect_at_least, expect_size, invalid};

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Loss {
    /// Binary cross-entropy.
    #[default]
    BceWithLogits,
    /// Binary cross-entropy with a weight for each label; the mean is over the batch, not over the
    /// weights.
    WeightedBce {
        /// The weight of a sample whose label rounds to 0.
        negative: f32,
        /// The weight of a sample whose label rounds to 1.
        positive: f32,
    },
    /// The squared error of the probability.
    Mse,
}

impl Loss {
    fn check(self, op: &'static str) -> Result<()> {
        let Self::WeightedBce { negative, positive } = self else { return Ok(()) };
        match [negative, positive].into_iter().find(|weight| !weight.is_finite() || *weight < 0.0) {
            None => Ok(()),
            Some(weight) => Err(invalid(
                op,
                "loss",
                format!("a weight of {weight}, but must be a finite number of 0 or more"),
            )),
        }
    }
}

/// What a backend provides; call it through [`Forward::run`], which validates.
pub trait LossOps: Device {
    /// See [`Forward`].
    fn loss_forward(&self, args: Forward<'_, Self>) -> Result<()>;
    /// See [`Forward::workspace_len`].
    fn loss_workspace_len(&self, batch_size: usize) -> usize;
}

/// Logits and labels to the mean loss and, in the same pass, its gradient.
pub struct Forward<'a, D: Device> {
    /// What is minimised.
    pub loss: Loss,
    /// Probabilities are clamped to `[threshold, 1 - threshold]`; 0 for no clamp.
    pub threshold: f32,
    /// The gradient is that of so many times the mean loss, so that 16 bits can hold what becomes
    /// of it; a power of two.
    pub loss_scale: f32,
    /// `z`, `[batch_size]`.
    pub logits: D::Slice<'a, f32>,
    /// `y`, `[batch_size]`.
    pub labels: D::Slice<'a, f32>,
    /// The mean loss, one value.
    pub mean: D::SliceMut<'a, f64>,
    /// `[batch_size]`: the gradient of the mean loss, scaled, with respect to the logits, if it is
    /// wanted.
    pub grad_logits: Option<D::SliceMut<'a, f32>>,
    /// [`Self::workspace_len`] words.
    pub workspace: D::SliceMut<'a, u64>,
}

impl<D: LossOps> Forward<'_, D> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, or a threshold, scale or weights without meaning, before anything is written;
    /// [`Error::LabelOutOfRange`](crate::Error::LabelOutOfRange), here or at the next
    /// [`Device::synchronize`], with loss and gradient of all other samples computed.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.loss_forward(self)
    }

    /// Checks shapes, threshold, scale and weights; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes, or a threshold, scale or weights without meaning.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "loss.forward";
        expect_size(OP, "labels", self.labels.extent(), self.logits.extent())?;
        if self.labels.extent() > u32::MAX as usize - 1 {
            return Err(invalid(OP, "labels", "more than 2^32 - 2 samples: split the batch"));
        }
        expect_size(OP, "mean", self.mean.extent(), 1)?;
        if let Some(grad) = &self.grad_logits {
            expect_size(OP, "grad_logits", grad.extent(), self.logits.extent())?;
        }
        check_power_of_two(OP, "loss_scale", self.loss_scale)?;
        self.loss.check(OP)?;
        if !(0.0..0.5).contains(&self.threshold) {
            return Err(invalid(
                OP,
                "threshold",
                format!("{}, but must be in [0, 0.5)", self.threshold),
            ));
        }
        let needed = Self::workspace_len(backend, self.logits.extent());
        expect_at_least(OP, "workspace", self.workspace.extent(), needed)
    }

    /// The 8-byte words of workspace for a batch of `batch_size` logits.
    pub fn workspace_len(backend: &D, batch_size: usize) -> usize {
        backend.loss_workspace_len(batch_size)
    }
}
