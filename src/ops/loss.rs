//! Losses of a batch of logits, and their gradients.
//!
//! Let `z` be the logit, `y` the label in [0, 1], and `p = 1 / (1 + e⁻ᶻ)`. With a threshold `t > 0`
//! (the `--loss-threshold` of facebookresearch/dlrm), `p` is clamped to `[t, 1 - t]`, and the
//! gradient outside the clamp is 0. The losses of a sample are
//!
//! - [`Loss::BceWithLogits`]: `-y ln p - (1 - y) ln(1 - p)`, computed from `z` without overflow or
//!   cancellation as `max(z, 0) - z y + ln(1 + e^{-|z|})`;
//! - [`Loss::WeightedBce`]: the cross-entropy times the weight of the label, `positive` if `y`
//!   rounds to 1,
//!   else `negative`;
//! - [`Loss::Mse`]: `(p - y)²`.
//!
//! Without a threshold, the cross-entropy of an infinite logit is its limit: 0 if the logit is `+∞`
//! and the label 1, or the logit is `-∞` and the label 0; otherwise infinite.
//!
//! A sample whose label is NaN or not in [0, 1] is skipped: its loss and gradient are 0. It is
//! reported like a bad id: by the call itself on the CPU, by the next [`Device::synchronize`] on a
//! GPU.
//!
//! **Numerics.** The loss is the mean over the batch, in `f64`; 0 for an empty batch. Terms are in
//! `f64`, summed in an order that depends on the backend and is the same in every run.
//!
//! # Example
//!
//! A logit of 0 is a probability of 1/2: its cross-entropy is `ln 2`, and its gradient in a batch
//! of two is `(1/2 - y) / 2`.
//!
//! ```
//! use bagdot::ops::loss::{Forward, Loss};
//!
//! let cpu = bagdot::Cpu::on_current_thread();
//! let (logits, labels) = ([0.0_f32, 0.0], [1.0_f32, 0.0]);
//! let (mut mean, mut grad_logits) = ([0.0_f64], [0.0_f32; 2]);
//! let mut workspace = vec![0_u64; Forward::workspace_len(&cpu, 2)];
//! Forward::new(Loss::BceWithLogits, &logits, &labels, &mut mean, &mut workspace)
//!     .grad_logits(&mut grad_logits)
//!     .run(&cpu)?;
//! assert!((mean[0] - std::f64::consts::LN_2).abs() < 1e-12);
//! assert_eq!(grad_logits, [-0.25, 0.25]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use super::cast::check_power_of_two;
use super::device::Device;
use super::views::{View, ViewMut};
use crate::error::{Result, expect_at_least, expect_size, invalid};

/// The loss function that training minimises.
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

/// Checks the number of labels of a batch, and loss, threshold and scale.
pub(super) fn check(
    op: &'static str,
    (loss, threshold, loss_scale): (Loss, f32, f32),
    batch_size: usize,
    labels: usize,
) -> Result<()> {
    expect_size(op, "labels", labels, batch_size)?;
    if batch_size > u32::MAX as usize - 1 {
        return Err(invalid(op, "labels", "more than 2^32 - 2 samples: split the batch"));
    }
    check_power_of_two(op, "loss_scale", loss_scale)?;
    loss.check(op)?;
    if !(0.0..0.5).contains(&threshold) {
        return Err(invalid(op, "threshold", format!("{threshold}, but must be in [0, 0.5)")));
    }
    Ok(())
}

/// The name of the op in errors.
pub(crate) const OP: &str = "loss.forward";

/// The backend's side of the op. Call it through [`Forward::run`], which validates the arguments.
pub trait LossOps: Device {
    /// Runs [`Forward`] with arguments that are valid.
    fn loss_forward(&self, args: Forward<'_, Self>) -> Result<()>;
    /// Computes [`Forward::workspace_len`].
    fn loss_workspace_len(&self, batch_size: usize) -> usize;
}

/// The arguments of the loss, which computes the mean loss and, in the same pass, its gradient.
#[non_exhaustive]
pub struct Forward<'a, D: Device> {
    /// The loss function that training minimises.
    pub loss: Loss,
    /// The threshold, in [0, 0.5): probabilities are clamped to `[threshold, 1 - threshold]`; 0 for
    /// no clamp.
    pub threshold: f32,
    /// The factor of the gradient, a power of two, which keeps the gradients computed from it
    /// within the range of 16-bit types.
    pub loss_scale: f32,
    /// `z`, `[batch_size]`.
    pub logits: View<'a, D, f32>,
    /// `y`, `[batch_size]`.
    pub labels: View<'a, D, f32>,
    /// The output: the mean loss of the batch, one value.
    pub mean: ViewMut<'a, D, f64>,
    /// The gradient of `loss_scale` times the mean loss with respect to the logits, `[batch_size]`;
    /// `None` if it is not needed.
    pub grad_logits: Option<ViewMut<'a, D, f32>>,
    /// The workspace: at least [`Self::workspace_len`] words of 8 bytes.
    pub workspace: ViewMut<'a, D, u64>,
}

impl<'a, D: Device> Forward<'a, D> {
    /// Makes the arguments of a loss without gradient and threshold, and with a scale of 1. `mean`
    /// is the output.
    pub fn new(
        loss: Loss,
        logits: impl Into<View<'a, D, f32>>,
        labels: impl Into<View<'a, D, f32>>,
        mean: impl Into<ViewMut<'a, D, f64>>,
        workspace: impl Into<ViewMut<'a, D, u64>>,
    ) -> Self {
        Self {
            loss,
            logits: logits.into(),
            labels: labels.into(),
            mean: mean.into(),
            workspace: workspace.into(),
            grad_logits: None,
            threshold: 0.0,
            loss_scale: 1.0,
        }
    }

    /// Asks for the gradient, `[batch_size]`. By default it is not computed.
    pub fn grad_logits(self, grad_logits: impl Into<ViewMut<'a, D, f32>>) -> Self {
        Self { grad_logits: Some(grad_logits.into()), ..self }
    }

    /// Clamps probabilities to `[threshold, 1 - threshold]`; the default is 0, for no clamp.
    pub fn threshold(self, threshold: f32) -> Self {
        Self { threshold, ..self }
    }

    /// Multiplies the gradient by a power of two; the default is 1.
    pub fn loss_scale(self, loss_scale: f32) -> Self {
        Self { loss_scale, ..self }
    }
}

impl<D: LossOps> Forward<'_, D> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid threshold, scale or weight, before anything
    /// is written. Reports [`Error::LabelOutOfRange`](crate::Error::LabelOutOfRange) here or at the
    /// next [`Device::synchronize`]; loss and gradient of all other samples are then computed.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.loss_forward(self)
    }

    /// Checks shapes, threshold, scale and weights, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid threshold, scale or weight.
    pub fn validate(&self, backend: &D) -> Result<()> {
        let batch_size = self.logits.len();
        let how = (self.loss, self.threshold, self.loss_scale);
        check(OP, how, batch_size, self.labels.len())?;
        expect_size(OP, "mean", self.mean.len(), 1)?;
        if let Some(grad) = &self.grad_logits {
            expect_size(OP, "grad_logits", grad.len(), batch_size)?;
        }
        let needed = Self::workspace_len(backend, batch_size);
        expect_at_least(OP, "workspace", self.workspace.len(), needed)
    }

    /// Returns the number of 8-byte words of workspace for a batch of `batch_size` logits.
    pub fn workspace_len(backend: &D, batch_size: usize) -> usize {
        backend.loss_workspace_len(batch_size)
    }
}
