//! The head of a model: a fully connected layer of one output, with the loss of its logits and all
//! gradients in one op.
//!
//! The logits are `z = X w + b`, with `X` `[batch_size, K]`, `w` `[K]` and `b` a number, as of
//! [`linear`](super::linear) with one output. [`LossAndGrads`] also computes the mean loss of the
//! logits and `g`, its gradient times `loss_scale`, as [`loss`] does, and from these
//! `dL/dX = g wᵀ`, `dL/dw = Xᵀ g` and `dL/db = Σ_samples g`. Where `X` is the output of a layer
//! with ReLU, it can go on to the gradients of that layer's affine map and bias
//! ([`Grads::through_relu`]).
//!
//! `X` and its gradient are of one storage type; everything else is `f32`, but for the mean loss,
//! which is `f64`. So logits of a model in 16 bits are never rounded to 16 bits.
//!
//! A label that is NaN or not in [0, 1] is treated as [`loss`] treats it: its sample
//! has no loss and no gradient, and it is reported.
//!
//! **Numerics.** Products and sums are in `f32`, in an order that depends on the backend, but not
//! on the number of threads; losses are in `f64`, summed as `loss` sums them. The error of a logit
//! is at most `γ_{K+1} (Σ|x w| + |b|)`, where `γ_k = k u / (1 - k u)` and the unit roundoff `u` is
//! 2⁻²⁴. An element of `dL/dX` is rounded to `f32`, and once more to its type. The error of `dL/dw`
//! and `dL/db` is at most `γ_{batch_size}` times the sum of the absolute terms.
//!
//! # Example
//!
//! One logit of a batch of two is 0, a probability of 1/2, and the other one is large.
//!
//! ```
//! use bagdot::ops::head::{Forward, Grads, LossAndGrads};
//! use bagdot::ops::{Loss, Matrix, MatrixMut};
//!
//! let cpu = bagdot::Cpu::on_current_thread();
//! let (x, w, bias) = ([1.0_f32, 2.0, 50.0, 25.0], [2.0_f32, -1.0], [0.0_f32]);
//! let input = Matrix::contiguous(&x, 2, 2);
//! let mut logits = [0.0_f32; 2];
//! Forward::new(input, &w, &bias, &mut logits).run(&cpu)?;
//! assert_eq!(logits, [0.0, 75.0]);
//!
//! let (labels, mut mean, mut grad_logits) = ([0.0_f32, 1.0], [0.0_f64], [0.0_f32; 2]);
//! let (mut grad_x, mut grad_w, mut grad_bias) = ([0.0_f32; 4], [0.0_f32; 2], [0.0_f32]);
//! let mut workspace = vec![0_u64; LossAndGrads::<_, f32>::workspace_len(&cpu, 2, 2)];
//! LossAndGrads::new(
//!     Loss::BceWithLogits,
//!     Forward::new(input, &w, &bias, &mut logits),
//!     &labels,
//!     &mut mean,
//!     Grads::new(
//!         &mut grad_logits,
//!         MatrixMut::contiguous(&mut grad_x, 2, 2),
//!         &mut grad_w,
//!         &mut grad_bias,
//!     ),
//!     &mut workspace,
//! )
//! .run(&cpu)?;
//! assert!((mean[0] - std::f64::consts::LN_2 / 2.0).abs() < 1e-12);
//! // (1/2 - 0) / 2, and the gradient of the other logit rounds to 0.
//! assert_eq!(grad_logits, [0.25, 0.0]);
//! assert_eq!(grad_x, [0.5, -0.25, 0.0, 0.0]);
//! assert_eq!((grad_w, grad_bias), ([0.25, 0.5], [0.25]));
//! # Ok::<(), bagdot::Error>(())
//! ```

use super::device::Device;
use super::linear::Accum;
use super::loss::{self, Loss};
use super::matrix::{Matrix, MatrixMut, matrix_name};
use super::views::{View, ViewMut};
use crate::dtype::Element;
use crate::error::{Result, expect_at_least, expect_size};
use crate::size::{product, sum};

/// The name of the op that reads labels, in errors.
pub(crate) const OP: &str = "head.loss_and_grads";

/// The backend's side of the op. Call it through [`Forward::run`] and [`LossAndGrads::run`], which
/// validate the arguments.
pub trait HeadOps: Device {
    /// Runs [`Forward`] with arguments that are valid.
    fn head_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()>;
    /// Runs [`LossAndGrads`] with arguments that are valid.
    fn head_loss_and_grads<E: Element>(&self, args: LossAndGrads<'_, Self, E>) -> Result<()>;
    /// Computes [`LossAndGrads::workspace_len`].
    fn head_workspace_len<E: Element>(&self, batch_size: usize, inputs: usize) -> usize;
}

/// The arguments of the forward pass.
#[non_exhaustive]
pub struct Forward<'a, D: Device, E: Element> {
    /// `X`, `[batch_size, K]`.
    pub input: Matrix<'a, D, E>,
    /// `w`, `[K]`.
    pub weight: View<'a, D, f32>,
    /// `b`, one value.
    pub bias: View<'a, D, f32>,
    /// The output: `z`, `[batch_size]`.
    pub logits: ViewMut<'a, D, f32>,
}

impl<'a, D: Device, E: Element> Forward<'a, D, E> {
    /// Makes the arguments. `logits` is the output.
    pub fn new(
        input: Matrix<'a, D, E>,
        weight: impl Into<View<'a, D, f32>>,
        bias: impl Into<View<'a, D, f32>>,
        logits: impl Into<ViewMut<'a, D, f32>>,
    ) -> Self {
        Self { input, weight: weight.into(), bias: bias.into(), logits: logits.into() }
    }
}

impl<D: HeadOps, E: Element> Forward<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.head_forward(self)
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self) -> Result<()> {
        self.check("head.forward")
    }

    fn check(&self, op: &'static str) -> Result<()> {
        self.input.check(op, matrix_name!("input"), self.logits.len(), self.weight.len())?;
        expect_size(op, "bias", self.bias.len(), 1)
    }

    /// Returns the least number of bytes moved: input, weight and bias are read once, the logits
    /// are written once.
    pub fn bytes_moved(&self) -> usize {
        let (m, k) = (self.input.rows, self.input.cols);
        sum([product([m, k, size_of::<E>()]), product([sum([k, 1, m]), 4])])
    }
}

/// The gradients that [`LossAndGrads`] computes, all times `loss_scale`.
#[non_exhaustive]
pub struct Grads<'a, D: Device, E: Element> {
    /// The gradient of `z`, `[batch_size]`, overwritten.
    pub logits: ViewMut<'a, D, f32>,
    /// The gradient of `X`, `[batch_size, K]`, overwritten.
    pub input: MatrixMut<'a, D, E>,
    /// The gradient of `w`, `[K]`.
    pub weight: ViewMut<'a, D, f32>,
    /// The gradient of `b`, one value.
    pub bias: ViewMut<'a, D, f32>,
    /// The gradient of the bias of the layer with ReLU whose output `X` is, `[K]`. `input` is then
    /// the gradient of that layer's affine map. `None` if the gradient of `X` is wanted as it is.
    pub bias_before: Option<ViewMut<'a, D, f32>>,
}

impl<'a, D: Device, E: Element> Grads<'a, D, E> {
    /// Names the outputs.
    pub fn new(
        logits: impl Into<ViewMut<'a, D, f32>>,
        input: MatrixMut<'a, D, E>,
        weight: impl Into<ViewMut<'a, D, f32>>,
        bias: impl Into<ViewMut<'a, D, f32>>,
    ) -> Self {
        let (logits, weight, bias) = (logits.into(), weight.into(), bias.into());
        Self { logits, input, weight, bias, bias_before: None }
    }

    /// Multiplies the gradient of `X` by the derivative of ReLU, whose output `X` is, and asks for
    /// the gradient of the bias of that layer, `[K]`. By default it does neither.
    pub fn through_relu(self, bias_before: impl Into<ViewMut<'a, D, f32>>) -> Self {
        Self { bias_before: Some(bias_before.into()), ..self }
    }
}

/// The arguments of the forward pass with the mean loss and all gradients.
#[non_exhaustive]
pub struct LossAndGrads<'a, D: Device, E: Element> {
    /// The forward pass, whose logits are an output of this op, too.
    pub forward: Forward<'a, D, E>,
    /// The loss function that training minimises.
    pub loss: Loss,
    /// The threshold, in [0, 0.5): probabilities are clamped to `[threshold, 1 - threshold]`; 0 for
    /// no clamp.
    pub threshold: f32,
    /// The factor of all gradients, a power of two, which keeps those of 16-bit types within their
    /// range.
    pub loss_scale: f32,
    /// The labels, `[batch_size]`.
    pub labels: View<'a, D, f32>,
    /// The output: the mean loss of the batch, one value.
    pub mean: ViewMut<'a, D, f64>,
    /// The gradients, which are outputs.
    pub grads: Grads<'a, D, E>,
    /// The treatment of the values that the gradients of `w` and of biases hold before the op.
    pub accum: Accum,
    /// The workspace: at least [`Self::workspace_len`] words of 8 bytes.
    pub workspace: ViewMut<'a, D, u64>,
}

impl<'a, D: Device, E: Element> LossAndGrads<'a, D, E> {
    /// Makes the arguments of a loss without a threshold and with a scale of 1. `mean` and `grads`
    /// are outputs, and overwritten.
    pub fn new(
        loss: Loss,
        forward: Forward<'a, D, E>,
        labels: impl Into<View<'a, D, f32>>,
        mean: impl Into<ViewMut<'a, D, f64>>,
        grads: Grads<'a, D, E>,
        workspace: impl Into<ViewMut<'a, D, u64>>,
    ) -> Self {
        Self {
            forward,
            loss,
            labels: labels.into(),
            mean: mean.into(),
            grads,
            workspace: workspace.into(),
            threshold: 0.0,
            loss_scale: 1.0,
            accum: Accum::Replace,
        }
    }

    /// Clamps probabilities to `[threshold, 1 - threshold]`; the default is 0, for no clamp.
    pub fn threshold(self, threshold: f32) -> Self {
        Self { threshold, ..self }
    }

    /// Multiplies the gradients by a power of two; the default is 1.
    pub fn loss_scale(self, loss_scale: f32) -> Self {
        Self { loss_scale, ..self }
    }

    /// Chooses whether the gradients of `w` and of biases are added to; the default is
    /// [`Accum::Replace`].
    pub fn accum(self, accum: Accum) -> Self {
        Self { accum, ..self }
    }
}

impl<D: HeadOps, E: Element> LossAndGrads<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid threshold, scale or weight, before anything
    /// is written. Reports [`Error::LabelOutOfRange`](crate::Error::LabelOutOfRange) here or at the
    /// next [`Device::synchronize`]; everything else is then computed.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.head_loss_and_grads(self)
    }

    /// Checks shapes, threshold, scale and weights, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid threshold, scale or weight.
    pub fn validate(&self, backend: &D) -> Result<()> {
        let Self { forward, grads, .. } = self;
        let (m, k) = (forward.logits.len(), forward.weight.len());
        forward.check(OP)?;
        loss::check(OP, (self.loss, self.threshold, self.loss_scale), m, self.labels.len())?;
        expect_size(OP, "mean", self.mean.len(), 1)?;
        expect_size(OP, "grads.logits", grads.logits.len(), m)?;
        grads.input.check(OP, matrix_name!("grads.input"), m, k)?;
        expect_size(OP, "grads.weight", grads.weight.len(), k)?;
        expect_size(OP, "grads.bias", grads.bias.len(), 1)?;
        if let Some(before) = &grads.bias_before {
            expect_size(OP, "grads.bias_before", before.len(), k)?;
        }
        let needed = Self::workspace_len(backend, m, k);
        expect_at_least(OP, "workspace", self.workspace.len(), needed)
    }

    /// Returns the number of 8-byte words of workspace for a layer of `inputs` inputs and a batch.
    /// A larger batch needs at least as many.
    pub fn workspace_len(backend: &D, batch_size: usize, inputs: usize) -> usize {
        backend.head_workspace_len::<E>(batch_size, inputs)
    }

    /// Returns the least number of bytes moved: input, weight, bias and labels are read once, the
    /// outputs are written once.
    pub fn bytes_moved(&self) -> usize {
        let (m, k) = (self.forward.input.rows, self.forward.input.cols);
        sum([
            product([2, m, k, size_of::<E>()]),
            product([sum([product([3, m]), product([2, sum([k, 1])])]), 4]),
            8,
        ])
    }
}
