//! A fully connected layer: `Y = act(X Wᵀ + b)`, with `X` `[batch_size, K]`, `W` `[N, K]` as in
//! PyTorch, `b` `[N]`, `Y` `[batch_size, N]`.
//!
//! Backward, with `G` the gradient of `Y`: `Z = G` where the activation let the value through, 0
//! elsewhere; then `dL/dX = Z W`, `dL/dW = Zᵀ X`, `dL/db = Σ_samples Z`.
//!
//! `X`, `W`, `Y` and the gradients of `X` and `Y` are of one storage type; bias and parameter
//! gradients are `f32`.
//!
//! **Numerics.** Products and sums in `f32` and in an order that is the backend's own, the same for
//! any number of threads; what is stored in 16 bits is rounded once. The error of an element of `Y`
//! is at most `γ_{K+1} (Σ|x w| + |b|)`, that of a gradient `γ_N`, `γ_{batch_size}` times the sum of
//! the absolute terms, where `γ_k = k u / (1 - k u)`. The unit roundoff `u` is 2⁻²⁴; where a device
//! multiplies matrices in hardware, for 16-bit types and [`Precision::Tf32`], it is 2⁻²³, since
//! that may cut off where it adds, and `Tf32` adds 2⁻¹⁰ to each term for its factors. Where a
//! library multiplies in a device's stead, it may round more: `backend::cuda::Gemm` says what.

use super::device::Device;
use super::matrix::{Matrix, MatrixMut, matrix_name};
use super::precision::Precision;
use super::views::Extent;
use crate::dtype::Element;
use crate::error::{Result, expect_at_least, expect_size};
use crate::size::{product, sum};

/// What follows the affine map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`; its derivative at 0 is 0.
    Relu,
}

/// What happens to the values that an output holds before the op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Accum {
    /// They are overwritten, even if they are not numbers.
    #[default]
    Replace,
    /// The result is added to them.
    Add,
}

/// What a backend provides; call it through [`Forward::run`] and [`Backward::run`], which validate.
pub trait LinearOps: Device {
    /// See [`Forward`].
    fn linear_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()>;
    /// See [`Backward`].
    fn linear_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()>;
    /// See [`Pack`]. What a backend does not pack takes no room.
    fn linear_pack<E: Element>(&self, _args: Pack<'_, Self, E>) -> Result<()> {
        Ok(())
    }
    /// See [`Pack::len`].
    fn linear_packed_len<E: Element>(&self, _outputs: usize, _inputs: usize) -> usize {
        0
    }
    /// See [`Backward::workspace_len`].
    fn linear_backward_workspace_len<E: Element>(
        &self,
        batch_size: usize,
        outputs: usize,
        inputs: usize,
    ) -> usize;
}

/// Input to output.
pub struct Forward<'a, D: Device, E: Element> {
    /// `X`, `[batch_size, K]`.
    pub input: Matrix<'a, D, E>,
    /// `W`, `[N, K]`.
    pub weight: Matrix<'a, D, E>,
    /// What [`Pack`] made of `W`, if it did: the same results, sooner.
    pub packed_weight: Option<D::Slice<'a, u64>>,
    /// `b`, `[N]`.
    pub bias: D::Slice<'a, f32>,
    /// What follows the affine map.
    pub activation: Activation,
    /// How products are computed, of meaning for `f32`.
    pub precision: Precision,
    /// `Y`, `[batch_size, N]`.
    pub output: MatrixMut<'a, D, E>,
}

impl<D: LinearOps, E: Element> Forward<'_, D, E> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.linear_forward(self)
    }

    /// Checks shapes; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "linear.forward";
        self.input.check(OP, matrix_name!("input"), self.output.rows, self.weight.cols)?;
        self.weight.check(OP, matrix_name!("weight"), self.output.cols, self.weight.cols)?;
        self.output.check(OP, matrix_name!("output"), self.output.rows, self.weight.rows)?;
        if let Some(packed) = &self.packed_weight {
            let len = Pack::<D, E>::len(backend, self.weight.rows, self.weight.cols);
            expect_size(OP, "packed_weight", packed.extent(), len)?;
        }
        expect_size(OP, "bias", self.bias.extent(), self.weight.rows)
    }

    /// The least number of bytes: input, weight and bias read once, output written once.
    pub fn bytes_moved(&self) -> usize {
        let (m, n, k) = (self.output.rows, self.weight.rows, self.weight.cols);
        let elements = sum([product([m, k]), product([n, k]), product([m, n])]);
        sum([product([elements, size_of::<E>()]), product([n, 4])])
    }
}

/// Brings a weight that many batches will meet, as in a server, into the order in which the backend
/// multiplies it, of which nothing more is promised.
pub struct Pack<'a, D: Device, E: Element> {
    /// `W`, `[N, K]`.
    pub weight: Matrix<'a, D, E>,
    /// [`Self::len`] words, for [`Forward::packed_weight`] of the same backend with the same
    /// instruction set.
    pub packed: D::SliceMut<'a, u64>,
}

impl<D: LinearOps, E: Element> Pack<'_, D, E> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        const OP: &str = "linear.pack";
        let (n, k) = (self.weight.rows, self.weight.cols);
        self.weight.check(OP, matrix_name!("weight"), n, k)?;
        expect_size(OP, "packed", self.packed.extent(), Self::len(backend, n, k))?;
        backend.linear_pack(self)
    }

    /// The 8-byte words that a packed layer `[outputs, inputs]` takes; 0 where a backend reads
    /// weights as they are.
    pub fn len(backend: &D, outputs: usize, inputs: usize) -> usize {
        backend.linear_packed_len::<E>(outputs, inputs)
    }
}

/// Gradient of the output to those of input, weight and bias.
pub struct Backward<'a, D: Device, E: Element> {
    /// `X`, `[batch_size, K]`.
    pub input: Matrix<'a, D, E>,
    /// `W`, `[N, K]`.
    pub weight: Matrix<'a, D, E>,
    /// `Y`, `[batch_size, N]`, from the forward pass: it tells what the activation let through.
    pub output: Matrix<'a, D, E>,
    /// What follows the affine map.
    pub activation: Activation,
    /// How products are computed, of meaning for `f32`.
    pub precision: Precision,
    /// `[batch_size, N]`: the gradient of `Y` when the op begins, that of the affine map (`Z`) when
    /// it ends.
    pub grad_output: MatrixMut<'a, D, E>,
    /// The gradient of `X`, `[batch_size, K]`, if it is wanted; overwritten.
    pub grad_input: Option<MatrixMut<'a, D, E>>,
    /// The gradient of `W`, `[N, K]`.
    pub grad_weight: MatrixMut<'a, D, f32>,
    /// The gradient of `b`, `[N]`.
    pub grad_bias: D::SliceMut<'a, f32>,
    /// Whether the gradients of `W` and `b` are added to what is there.
    pub accum: Accum,
    /// [`Self::workspace_len`] words.
    pub workspace: D::SliceMut<'a, u64>,
}

impl<D: LinearOps, E: Element> Backward<'_, D, E> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.linear_backward(self)
    }

    /// Checks shapes; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes.
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
        expect_size(OP, "grad_bias", self.grad_bias.extent(), n)?;
        expect_at_least(
            OP,
            "workspace",
            self.workspace.extent(),
            Self::workspace_len(backend, m, n, k),
        )
    }

    /// The 8-byte words of workspace for a layer `[outputs, inputs]` and a batch; no fewer for a
    /// larger batch.
    pub fn workspace_len(backend: &D, batch_size: usize, outputs: usize, inputs: usize) -> usize {
        backend.linear_backward_workspace_len::<E>(batch_size, outputs, inputs)
    }

    /// The least number of bytes: input, output, weight and gradient read once, the gradients
    /// written once.
    pub fn bytes_moved(&self) -> usize {
        let (m, n, k) = (self.grad_output.rows, self.weight.rows, self.weight.cols);
        let grad_input =
            if self.grad_input.is_some() { sum([product([m, k]), product([n, k])]) } else { 0 };
        let elements = sum([product([m, k]), product([3, m, n]), grad_input]);
        sum([product([elements, size_of::<E>()]), product([n, k, 4]), product([n, 4])])
    }
}
