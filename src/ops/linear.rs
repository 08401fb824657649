//! A fully connected layer: `Y = act(X Wᵀ + b)`, with `X` `[batch_size, K]`, `W` `[N, K]` as in
//! PyTorch, `b` `[N]`, `Y` `[batch_size, N]`.
//!
//! Backward, with `G` the gradient of `Y`: `Z = G` where the activation passed the value on, 0
//! elsewhere; then `dL/dX = Z W`, `dL/dW = Zᵀ X`, `dL/db = Σ_samples Z`. Where `X` is the output of
//! another layer with ReLU, the pass can go on to that layer's `Z` and `dL/db` while `dL/dX` is at
//! hand ([`Backward::through_relu`]).
//!
//! `X`, `W`, `Y` and the gradients of `X` and `Y` are of one storage type; bias and parameter
//! gradients are `f32`.
//!
//! **Numerics.** Products and sums are in `f32`. Their order depends on the backend, but not on the
//! number of threads. A value stored in 16 bits is rounded once. The error of an element of `Y` is
//! at most `γ_{K+1} (Σ|x w| + |b|)`, where `γ_k = k u / (1 - k u)`. That of an element of the
//! gradients is at most `γ_N` (of `X`) or `γ_{batch_size}` (of `W` and `b`) times the sum of the
//! absolute terms. The unit roundoff `u` is 2⁻²⁴. On tensor cores, which 16-bit types and
//! [`Precision::Tf32`] use, `u` is 2⁻²³, because they may truncate sums, and `Tf32` adds 2⁻¹⁰ to
//! each term for its rounded factors. A library such as cuBLASLt may round more often; see
//! `backend::cuda::Gemm`.
//!
//! # Example
//!
//! The layer has two inputs and two outputs, and the batch has one sample.
//!
//! ```
//! use bagdot::Cpu;
//! use bagdot::ops::linear::{Backward, Forward};
//! use bagdot::ops::{Activation, Matrix, MatrixMut};
//!
//! let cpu = Cpu::on_current_thread();
//! let (x, w, bias) = ([1.0_f32, 2.0], [1.0_f32, 1.0, 1.0, -1.0], [0.5_f32, 0.0]);
//! let (input, weight) = (Matrix::contiguous(&x, 1, 2), Matrix::contiguous(&w, 2, 2));
//! let mut y = [0.0_f32; 2];
//! Forward::new(input, weight, &bias, MatrixMut::contiguous(&mut y, 1, 2))
//!     .activation(Activation::Relu)
//!     .run(&cpu)?;
//! // 1 + 2 + 0.5, and max(1 - 2, 0).
//! assert_eq!(y, [3.5, 0.0]);
//!
//! let (mut grad_y, mut grad_x) = ([1.0_f32, 1.0], [0.0_f32; 2]);
//! let (mut grad_w, mut grad_bias) = ([0.0_f32; 4], [0.0_f32; 2]);
//! let mut workspace = vec![0_u64; Backward::<Cpu, f32>::workspace_len(&cpu, 1, 2, 2)];
//! Backward::new(
//!     input,
//!     weight,
//!     Matrix::contiguous(&y, 1, 2),
//!     MatrixMut::contiguous(&mut grad_y, 1, 2),
//!     MatrixMut::contiguous(&mut grad_w, 2, 2),
//!     &mut grad_bias,
//!     &mut workspace,
//! )
//! .activation(Activation::Relu)
//! .grad_input(MatrixMut::contiguous(&mut grad_x, 1, 2))
//! .run(&cpu)?;
//! // The activation passes on the first gradient only: Z = [1, 0].
//! assert_eq!(grad_x, [1.0, 1.0]);
//! assert_eq!(grad_w, [1.0, 2.0, 0.0, 0.0]);
//! assert_eq!(grad_bias, [1.0, 0.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use super::device::Device;
use super::matrix::{Matrix, MatrixMut, matrix_name};
use super::precision::Precision;
use super::views::{View, ViewMut};
use crate::dtype::Element;
use crate::error::{Result, expect_at_least, expect_size, invalid};
use crate::size::{product, sum};

/// The activation function, which follows the affine map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// `max(x, 0)`; its derivative at 0 is 0.
    Relu,
}

/// The treatment of the values that an output holds before the op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Accum {
    /// The result overwrites them, even if they are NaN.
    #[default]
    Replace,
    /// The result is added to them.
    Add,
}

/// The backend's side of the op. Call it through the methods `run` of the arguments, which validate
/// them.
pub trait LinearOps: Device {
    /// Runs [`Forward`] with arguments that are valid.
    fn linear_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()>;
    /// Runs [`Backward`] with arguments that are valid.
    fn linear_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()>;
    /// Runs [`ActivationGrad`] with arguments that are valid.
    fn linear_activation_grad<E: Element>(&self, args: ActivationGrad<'_, Self, E>) -> Result<()>;
    /// Runs [`Pack`] with arguments that are valid. By default packs nothing.
    fn linear_pack<E: Element>(&self, _args: Pack<'_, Self, E>) -> Result<()> {
        Ok(())
    }
    /// Computes [`Pack::len`]. By default returns 0: the backend does not pack.
    fn linear_packed_len<E: Element>(&self, _outputs: usize, _inputs: usize) -> usize {
        0
    }
    /// Computes [`Backward::workspace_len`].
    fn linear_backward_workspace_len<E: Element>(
        &self,
        batch_size: usize,
        outputs: usize,
        inputs: usize,
    ) -> usize;
}

/// The arguments of the forward pass.
#[non_exhaustive]
pub struct Forward<'a, D: Device, E: Element> {
    /// `X`, `[batch_size, K]`.
    pub input: Matrix<'a, D, E>,
    /// `W`, `[N, K]`.
    pub weight: Matrix<'a, D, E>,
    /// The result of [`Pack`] for `W`, [`Pack::len`] words of 8 bytes, if there is one: it makes
    /// the op faster, with the same results.
    pub packed_weight: Option<View<'a, D, u64>>,
    /// `b`, `[N]`.
    pub bias: View<'a, D, f32>,
    /// `b`, `[N]`, rounded to the type of the layer, if there is such a copy: a backend that adds
    /// the bias in that type then need not round it in each call.
    pub rounded_bias: Option<View<'a, D, E>>,
    /// The activation function.
    pub activation: Activation,
    /// The precision of products of `f32`; ignored for other elements.
    pub precision: Precision,
    /// `Y`, `[batch_size, N]`.
    pub output: MatrixMut<'a, D, E>,
}

impl<'a, D: Device, E: Element> Forward<'a, D, E> {
    /// Makes the arguments of a layer without an activation, with products in full precision, and
    /// without a packed weight.
    pub fn new(
        input: Matrix<'a, D, E>,
        weight: Matrix<'a, D, E>,
        bias: impl Into<View<'a, D, f32>>,
        output: MatrixMut<'a, D, E>,
    ) -> Self {
        Self {
            input,
            weight,
            bias: bias.into(),
            output,
            packed_weight: None,
            rounded_bias: None,
            activation: Activation::None,
            precision: Precision::Full,
        }
    }

    /// Gives the result of [`Pack`] for the weight. By default there is none.
    pub fn packed_weight(self, packed_weight: impl Into<View<'a, D, u64>>) -> Self {
        Self { packed_weight: Some(packed_weight.into()), ..self }
    }

    /// Gives a copy of the bias that is rounded to the type of the layer. By default there is none.
    pub fn rounded_bias(self, rounded_bias: impl Into<View<'a, D, E>>) -> Self {
        Self { rounded_bias: Some(rounded_bias.into()), ..self }
    }

    /// Chooses the activation function; the default is [`Activation::None`].
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Chooses the precision of products of `f32`; the default is [`Precision::Full`].
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }
}

impl<D: LinearOps, E: Element> Forward<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.linear_forward(self)
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "linear.forward";
        self.input.check(OP, matrix_name!("input"), self.output.rows, self.weight.cols)?;
        self.weight.check(OP, matrix_name!("weight"), self.output.cols, self.weight.cols)?;
        self.output.check(OP, matrix_name!("output"), self.output.rows, self.weight.rows)?;
        if let Some(packed) = &self.packed_weight {
            let len = Pack::<D, E>::len(backend, self.weight.rows, self.weight.cols);
            expect_size(OP, "packed_weight", packed.len(), len)?;
        }
        if let Some(rounded) = &self.rounded_bias {
            expect_size(OP, "rounded_bias", rounded.len(), self.weight.rows)?;
        }
        expect_size(OP, "bias", self.bias.len(), self.weight.rows)
    }

    /// Returns the least number of bytes moved: input, weight and bias are read once, the output
    /// is written once.
    pub fn bytes_moved(&self) -> usize {
        let (m, n, k) = (self.output.rows, self.weight.rows, self.weight.cols);
        let elements = sum([product([m, k]), product([n, k]), product([m, n])]);
        sum([product([elements, size_of::<E>()]), product([n, 4])])
    }
}

/// The arguments of packing a weight into the layout in which the backend's GEMM reads it. This
/// pays if many batches use the weight, as in a server. The layout is the backend's own.
#[non_exhaustive]
pub struct Pack<'a, D: Device, E: Element> {
    /// `W`, `[N, K]`.
    pub weight: Matrix<'a, D, E>,
    /// The output, [`Self::len`] words of 8 bytes, for [`Forward::packed_weight`] of the same
    /// backend with the same instruction set.
    pub packed: ViewMut<'a, D, u64>,
}

impl<'a, D: Device, E: Element> Pack<'a, D, E> {
    /// Makes the arguments of packing a weight `[N, K]`. `packed` is the output.
    pub fn new(weight: Matrix<'a, D, E>, packed: impl Into<ViewMut<'a, D, u64>>) -> Self {
        Self { weight, packed: packed.into() }
    }
}

impl<D: LinearOps, E: Element> Pack<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        const OP: &str = "linear.pack";
        let (n, k) = (self.weight.rows, self.weight.cols);
        self.weight.check(OP, matrix_name!("weight"), n, k)?;
        expect_size(OP, "packed", self.packed.len(), Self::len(backend, n, k))?;
        backend.linear_pack(self)
    }

    /// Returns the number of 8-byte words of a packed weight `[outputs, inputs]`; 0 if the backend
    /// does not pack weights.
    pub fn len(backend: &D, outputs: usize, inputs: usize) -> usize {
        backend.linear_packed_len::<E>(outputs, inputs)
    }
}

/// The arguments of the backward pass.
#[non_exhaustive]
pub struct Backward<'a, D: Device, E: Element> {
    /// `X`, `[batch_size, K]`.
    pub input: Matrix<'a, D, E>,
    /// `W`, `[N, K]`.
    pub weight: Matrix<'a, D, E>,
    /// `Y`, `[batch_size, N]`, from the forward pass: it shows which values the activation passed
    /// on.
    pub output: Matrix<'a, D, E>,
    /// The activation function.
    pub activation: Activation,
    /// The precision of products of `f32`; ignored for other elements.
    pub precision: Precision,
    /// The gradient, `[batch_size, N]`: of `Y` before the op, of the affine map (`Z`) after it.
    pub grad_output: MatrixMut<'a, D, E>,
    /// The gradient of `X`, `[batch_size, K]`, overwritten; `None` if it is not needed.
    pub grad_input: Option<MatrixMut<'a, D, E>>,
    /// The gradient of `W`, `[N, K]`.
    pub grad_weight: MatrixMut<'a, D, f32>,
    /// The gradient of `b`, `[N]`; `None` if `grad_output` is the gradient of the affine map
    /// already, as [`ActivationGrad`] and [`Self::through_relu`] leave it with this gradient.
    pub grad_bias: Option<ViewMut<'a, D, f32>>,
    /// The gradient of the bias of the layer with ReLU whose output the input is, `[K]`.
    /// `grad_input` is then the gradient of that layer's affine map. `None` if the gradient of the
    /// input is wanted as it is.
    pub grad_bias_before: Option<ViewMut<'a, D, f32>>,
    /// The treatment of the values that the gradients of weight and biases hold before the op.
    pub accum: Accum,
    /// The workspace: at least [`Self::workspace_len`] words of 8 bytes.
    pub workspace: ViewMut<'a, D, u64>,
    /// The branch of a step that computes the gradient of the weight, with a workspace of its own
    /// of as many words; `None` if the backend of the op computes it. Only the engine, which joins
    /// the branch, can begin one.
    pub(crate) branch: Option<(&'a D, ViewMut<'a, D, u64>)>,
}

impl<'a, D: Device, E: Element> Backward<'a, D, E> {
    /// Makes the arguments of a layer without an activation, with products in full precision.
    /// `input`, `weight` and `output` are those of the forward pass. The gradient of the input is
    /// not computed, and those of weight and bias are overwritten.
    pub fn new(
        input: Matrix<'a, D, E>,
        weight: Matrix<'a, D, E>,
        output: Matrix<'a, D, E>,
        grad_output: MatrixMut<'a, D, E>,
        grad_weight: MatrixMut<'a, D, f32>,
        grad_bias: impl Into<ViewMut<'a, D, f32>>,
        workspace: impl Into<ViewMut<'a, D, u64>>,
    ) -> Self {
        Self {
            input,
            weight,
            output,
            grad_output,
            grad_weight,
            grad_bias: Some(grad_bias.into()),
            grad_bias_before: None,
            workspace: workspace.into(),
            branch: None,
            activation: Activation::None,
            precision: Precision::Full,
            grad_input: None,
            accum: Accum::Replace,
        }
    }

    /// Chooses the activation function; the default is [`Activation::None`].
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Chooses the precision of products of `f32`; the default is [`Precision::Full`].
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Asks for the gradient of the input, `[batch_size, K]`. By default it is not computed.
    pub fn grad_input(self, grad_input: MatrixMut<'a, D, E>) -> Self {
        Self { grad_input: Some(grad_input), ..self }
    }

    /// Multiplies the gradient of the input by the derivative of ReLU, whose output the input is,
    /// and asks for the gradient of the bias of that layer, `[K]`. By default it does neither.
    pub fn through_relu(self, grad_bias_before: impl Into<ViewMut<'a, D, f32>>) -> Self {
        Self { grad_bias_before: Some(grad_bias_before.into()), ..self }
    }

    /// Chooses whether the gradients of weight and biases are added to; the default is
    /// [`Accum::Replace`].
    pub fn accum(self, accum: Accum) -> Self {
        Self { accum, ..self }
    }
}

impl<D: LinearOps, E: Element> Backward<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.linear_backward(self)
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "linear.backward";
        let (m, n, k) = (self.grad_output.rows, self.weight.rows, self.weight.cols);
        self.input.check(OP, matrix_name!("input"), m, k)?;
        self.weight.check(OP, matrix_name!("weight"), n, k)?;
        self.output.check(OP, matrix_name!("output"), m, n)?;
        self.grad_output.check(OP, matrix_name!("grad_output"), m, n)?;
        if let Some(grad_input) = &self.grad_input {
            grad_input.check(OP, matrix_name!("grad_input"), m, k)?;
        }
        self.grad_weight.check(OP, matrix_name!("grad_weight"), n, k)?;
        if let Some(grad_bias) = &self.grad_bias {
            expect_size(OP, "grad_bias", grad_bias.len(), n)?;
        } else if self.activation != Activation::None {
            return Err(invalid(OP, "grad_bias", "missing, but the activation changes it"));
        }
        if let Some(before) = &self.grad_bias_before {
            expect_size(OP, "grad_bias_before", before.len(), k)?;
            if self.grad_input.is_none() {
                return Err(invalid(OP, "grad_input", "missing, but its column sums are wanted"));
            }
        }
        let needed = Self::workspace_len(backend, m, n, k);
        if let Some((_, workspace)) = &self.branch {
            expect_at_least(OP, "branch.workspace", workspace.len(), needed)?;
        }
        expect_at_least(OP, "workspace", self.workspace.len(), needed)
    }

    /// Returns the number of 8-byte words of workspace for a layer `[outputs, inputs]` and a batch.
    /// A larger batch needs at least as many.
    pub fn workspace_len(backend: &D, batch_size: usize, outputs: usize, inputs: usize) -> usize {
        backend.linear_backward_workspace_len::<E>(batch_size, outputs, inputs)
    }

    /// Returns the least number of bytes moved: input, output, weight and gradient are read once,
    /// the gradients that are asked for are written once.
    pub fn bytes_moved(&self) -> usize {
        let (m, n, k) = (self.grad_output.rows, self.weight.rows, self.weight.cols);
        let if_any = |is_there: bool, len: usize| if is_there { len } else { 0 };
        // Without a bias the gradient is that of the affine map already, which is only read.
        let (has_bias, passes) = if self.grad_bias.is_some() { (true, 3) } else { (false, 1) };
        let grad_input = if_any(self.grad_input.is_some(), sum([product([m, k]), product([n, k])]));
        let elements = sum([product([m, k]), product([passes, m, n]), grad_input]);
        let biases = [if_any(has_bias, n), if_any(self.grad_bias_before.is_some(), k)];
        sum([
            product([elements, size_of::<E>()]),
            product([sum([product([n, k]), sum(biases)]), 4]),
        ])
    }
}

/// The arguments of the first part of the backward pass: `Z` and the gradient of the bias. The rest
/// is a [`Backward`] without a bias.
#[non_exhaustive]
pub struct ActivationGrad<'a, D: Device, E: Element> {
    /// `Y`, `[batch_size, N]`, from the forward pass.
    pub output: Matrix<'a, D, E>,
    /// The activation function.
    pub activation: Activation,
    /// The gradient, `[batch_size, N]`: of `Y` before the op, of the affine map (`Z`) after it.
    pub grad_output: MatrixMut<'a, D, E>,
    /// The gradient of `b`, `[N]`.
    pub grad_bias: ViewMut<'a, D, f32>,
    /// The treatment of the values that `grad_bias` holds before the op.
    pub accum: Accum,
    /// The workspace: at least [`Backward::workspace_len`] words of 8 bytes.
    pub workspace: ViewMut<'a, D, u64>,
}

impl<'a, D: Device, E: Element> ActivationGrad<'a, D, E> {
    /// Makes the arguments. The gradient of the bias is overwritten.
    pub fn new(
        output: Matrix<'a, D, E>,
        activation: Activation,
        grad_output: MatrixMut<'a, D, E>,
        grad_bias: impl Into<ViewMut<'a, D, f32>>,
        workspace: impl Into<ViewMut<'a, D, u64>>,
    ) -> Self {
        let (grad_bias, workspace, accum) = (grad_bias.into(), workspace.into(), Accum::Replace);
        Self { output, activation, grad_output, grad_bias, accum, workspace }
    }

    /// Chooses whether the gradient of the bias is added to; the default is [`Accum::Replace`].
    pub fn accum(self, accum: Accum) -> Self {
        Self { accum, ..self }
    }
}

impl<D: LinearOps, E: Element> ActivationGrad<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        const OP: &str = "linear.activation_grad";
        let (m, n) = (self.grad_output.rows, self.grad_output.cols);
        self.output.check(OP, matrix_name!("output"), m, n)?;
        self.grad_output.check(OP, matrix_name!("grad_output"), m, n)?;
        expect_size(OP, "grad_bias", self.grad_bias.len(), n)?;
        let needed = Backward::<D, E>::workspace_len(backend, m, n, 0);
        expect_at_least(OP, "workspace", self.workspace.len(), needed)?;
        backend.linear_activation_grad(self)
    }
}
