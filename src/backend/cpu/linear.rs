//! [`linear`](crate::ops::linear) on the CPU, by [matrix products](super::compute::gemm).
//!
//! The methods of the trait only erase the element type, so that all loops are compiled in this
//! library, see [`erased`](super::runtime::erased).

use bytemuck::{cast_slice, cast_slice_mut};

use super::Cpu;
use super::compute::column_sums::column_sums;
use super::compute::gemm::{Epilogue, Operand, Product, gemm, pack_b, packed_b_len};
use super::runtime::erased::{ByElement, Retype, with_elements};
use crate::dtype::{DType, Element, bf16, f16};
use crate::error::Result;
use crate::ops::linear::{Activation, ActivationGrad, Backward, Forward, LinearOps, Pack};
use crate::ops::{Accum, Matrix, MatrixMut, ViewMut};
use crate::simd::{Lanes, Loop};
use crate::size::product;

impl LinearOps for Cpu {
    fn linear_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        forward(self, ByElement::of::<E, _>(args));
        Ok(())
    }

    fn linear_pack<E: Element>(&self, args: Pack<'_, Self, E>) -> Result<()> {
        pack(self, ByElement::of::<E, _>(args));
        Ok(())
    }

    fn linear_packed_len<E: Element>(&self, outputs: usize, inputs: usize) -> usize {
        packed_len(self, E::DTYPE, outputs, inputs)
    }

    fn linear_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()> {
        backward(self, ByElement::of::<E, _>(args));
        Ok(())
    }

    fn linear_activation_grad<E: Element>(&self, args: ActivationGrad<'_, Self, E>) -> Result<()> {
        activation_grad(self, ByElement::of::<E, _>(args));
        Ok(())
    }

    fn linear_backward_workspace_len<E: Element>(
        &self,
        _batch_size: usize,
        _outputs: usize,
        _inputs: usize,
    ) -> usize {
        0
    }
}

/// [`Forward`] with elements of any type.
type AnyForward<'a> =
    ByElement<Forward<'a, Cpu, f32>, Forward<'a, Cpu, f16>, Forward<'a, Cpu, bf16>>;

/// [`Pack`] with elements of any type.
type AnyPack<'a> = ByElement<Pack<'a, Cpu, f32>, Pack<'a, Cpu, f16>, Pack<'a, Cpu, bf16>>;

/// [`Backward`] with elements of any type.
type AnyBackward<'a> =
    ByElement<Backward<'a, Cpu, f32>, Backward<'a, Cpu, f16>, Backward<'a, Cpu, bf16>>;

/// [`ActivationGrad`] with elements of any type.
type AnyActivationGrad<'a> = ByElement<
    ActivationGrad<'a, Cpu, f32>,
    ActivationGrad<'a, Cpu, f16>,
    ActivationGrad<'a, Cpu, bf16>,
>;

#[inline(never)]
fn forward(cpu: &Cpu, args: AnyForward<'_>) {
    with_elements!(args => forward_elements(cpu, args));
}

#[inline(never)]
fn pack(cpu: &Cpu, args: AnyPack<'_>) {
    with_elements!(args => pack_elements(cpu, args));
}

#[inline(never)]
fn activation_grad(cpu: &Cpu, args: AnyActivationGrad<'_>) {
    with_elements!(args => activation_grad_elements(cpu, args));
}

#[inline(never)]
fn backward(cpu: &Cpu, args: AnyBackward<'_>) {
    with_elements!(args => backward_elements(cpu, args));
}

/// Returns [`Pack::len`].
#[inline(never)]
fn packed_len(cpu: &Cpu, dtype: DType, outputs: usize, inputs: usize) -> usize {
    let packed_elements = match dtype {
        DType::F32 => packed_b_len::<f32>(cpu, outputs, inputs),
        DType::F16 => packed_b_len::<f16>(cpu, outputs, inputs),
        DType::BF16 => packed_b_len::<bf16>(cpu, outputs, inputs),
    };
    // A packed element has 4 bytes, a word of a packed weight 8.
    packed_elements.div_ceil(2)
}

/// Computes `Y = act(X Wᵀ + b)`.
fn forward_elements<E: Element>(cpu: &Cpu, args: Forward<'_, Cpu, E>) {
    let Forward { input, weight, packed_weight, bias, activation, output, .. } = args;
    let product = Product {
        shape: (output.rows, output.cols, input.cols),
        a: Operand::row_major(input.data.as_slice(), input.ld),
        b: Operand::row_major(weight.data.as_slice(), weight.ld),
        packed_b: packed_weight.map(|packed| cast_slice(packed.as_slice())),
        epilogue: Epilogue::Bias { bias: bias.as_slice(), relu: activation == Activation::Relu },
        row_sums: None,
    };
    gemm(cpu, product, output);
}

/// Packs `Wᵀ`, the B of the forward product.
fn pack_elements<E: Element>(cpu: &Cpu, Pack { weight, packed }: Pack<'_, Cpu, E>) {
    let b = Operand::row_major(weight.data.as_slice(), weight.ld);
    pack_b(cpu, b, (weight.rows, weight.cols), cast_slice_mut(packed.into_slice()));
}

/// Computes `Z`, the gradient of the affine map, in place of the gradient of the output. Then
/// computes `dL/dX = Z W`, and `dL/dW = Zᵀ X` with `dL/db`, the row sums of `Zᵀ`.
fn backward_elements<E: Element>(cpu: &Cpu, args: Backward<'_, Cpu, E>) {
    let Backward { input, weight, output, activation, mut grad_output, .. } = args;
    let Backward { grad_input, grad_weight, grad_bias, grad_bias_before, accum, .. } = args;
    let (m, n, k) = (grad_output.rows, grad_output.cols, input.cols);
    if activation == Activation::Relu {
        relu_grad(cpu, output, grad_output.reborrow());
    }
    let (z, ld) = (&*grad_output.data, grad_output.ld);
    if let Some(mut grad_input) = grad_input {
        let product = Product {
            shape: (m, k, n),
            a: Operand::row_major(z, ld),
            b: Operand::col_major(weight.data.as_slice(), weight.ld),
            packed_b: None,
            epilogue: Epilogue::Replace,
            row_sums: None,
        };
        gemm(cpu, product, grad_input.reborrow());
        if let Some(mut sums) = grad_bias_before {
            relu_grad(cpu, input, grad_input.reborrow());
            column_sums(cpu, grad_input.as_matrix(), None, &mut sums, accum);
        }
    }
    let product = Product {
        shape: (n, k, m),
        a: Operand::col_major(z, ld),
        b: Operand::col_major(input.data.as_slice(), input.ld),
        packed_b: None,
        epilogue: match accum {
            Accum::Replace => Epilogue::Replace,
            Accum::Add => Epilogue::Add,
        },
        row_sums: grad_bias.map(ViewMut::into_slice),
    };
    gemm(cpu, product, grad_weight);
}

fn activation_grad_elements<E: Element>(cpu: &Cpu, args: ActivationGrad<'_, Cpu, E>) {
    let ActivationGrad { output, activation, mut grad_output, mut grad_bias, accum, .. } = args;
    if activation == Activation::Relu {
        relu_grad(cpu, output, grad_output.reborrow());
    }
    column_sums(cpu, grad_output.as_matrix(), None, &mut grad_bias, accum);
}

/// Computes the gradient of the affine map in place of that of ReLU's output.
pub(super) fn relu_grad<E: Element>(
    cpu: &Cpu,
    output: Matrix<'_, Cpu, E>,
    grad: MatrixMut<'_, Cpu, E>,
) {
    // A load and a store of an element take as long as several operations.
    let cpu = cpu.for_operations(product([8, grad.rows, grad.cols]));
    cpu.for_each_row(grad, |r, grad| cpu.dispatch.run(ReluGrad { grad, output: output.row(r) }));
}

/// Replaces the gradient of a ReLU's output by the gradient of its input: 0 where the output is 0.
/// The gradient is kept if the output is NaN.
struct ReluGrad<'a, E> {
    grad: &'a mut [E],
    output: &'a [E],
}

impl<E: Element> Loop for ReluGrad<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, _: V) {
        for (g, y) in self.grad.iter_mut().zip(self.output) {
            *g = if y.to_f32() <= 0.0 { E::default() } else { *g };
        }
    }
}

impl<'a, E: Element, T: Element> Retype<E, T> for Forward<'a, Cpu, E> {
    type Output = Forward<'a, Cpu, T>;

    fn retype(self) -> Self::Output {
        let Self { packed_weight, bias, activation, precision, .. } = self;
        let Self { input, weight, output, rounded_bias: _, .. } = self;
        let (input, weight, output) = (input.retype(), weight.retype(), output.retype());
        // The CPU adds the bias in `f32`.
        let rounded_bias = None;
        Forward { input, weight, packed_weight, bias, rounded_bias, activation, precision, output }
    }
}

impl<'a, E: Element, T: Element> Retype<E, T> for Pack<'a, Cpu, E> {
    type Output = Pack<'a, Cpu, T>;

    fn retype(self) -> Self::Output {
        Pack { weight: self.weight.retype(), packed: self.packed }
    }
}

impl<'a, E: Element, T: Element> Retype<E, T> for Backward<'a, Cpu, E> {
    type Output = Backward<'a, Cpu, T>;

    fn retype(self) -> Self::Output {
        Backward {
            input: self.input.retype(),
            weight: self.weight.retype(),
            output: self.output.retype(),
            activation: self.activation,
            precision: self.precision,
            grad_output: self.grad_output.retype(),
            grad_input: self.grad_input.retype(),
            grad_weight: self.grad_weight,
            grad_bias: self.grad_bias,
            grad_bias_before: self.grad_bias_before,
            accum: self.accum,
            workspace: self.workspace,
            // Ops of the CPU have no branches.
            branch: None,
        }
    }
}

impl<'a, E: Element, T: Element> Retype<E, T> for ActivationGrad<'a, Cpu, E> {
    type Output = ActivationGrad<'a, Cpu, T>;

    fn retype(self) -> Self::Output {
        let Self { output, activation, grad_output, grad_bias, accum, workspace } = self;
        let (output, grad_output) = (output.retype(), grad_output.retype());
        ActivationGrad { output, activation, grad_output, grad_bias, accum, workspace }
    }
}
