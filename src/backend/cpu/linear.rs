//! [`linear`](crate::ops::linear) on the CPU.

use bytemuck::{cast_slice, cast_slice_mut};

use super::Cpu;
use super::compute::gemm::{Epilogue, Operand, Product, gemm, pack_b, packed_b_len};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::Accum;
use crate::ops::linear::{Activation, Backward, Forward, LinearOps, Pack};
use crate::simd::{Lanes, Loop};
use crate::size::product;

impl LinearOps for Cpu {
    fn linear_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        let Forward { input, weight, packed_weight, bias, activation, output, .. } = args;
        let product = Product {
            shape: (output.rows, output.cols, input.cols),
            a: Operand::row_major(input.data, input.ld),
            b: Operand::row_major(weight.data, weight.ld),
            packed_b: packed_weight.map(cast_slice),
            epilogue: Epilogue::Bias { bias, relu: activation == Activation::Relu },
            row_sums: None,
        };
        gemm(self, product, output);
        Ok(())
    }

    fn linear_pack<E: Element>(&self, Pack { weight, packed }: Pack<'_, Self, E>) -> Result<()> {
        let b = Operand::row_major(weight.data, weight.ld);
        pack_b(self, b, (weight.rows, weight.cols), cast_slice_mut(packed));
        Ok(())
    }

    fn linear_packed_len<E: Element>(&self, outputs: usize, inputs: usize) -> usize {
        packed_b_len::<E>(self, outputs, inputs).div_ceil(2)
    }

    fn linear_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()> {
        let Backward { input, weight, output, activation, mut grad_output, .. } = args;
        let Backward { grad_input, grad_weight, grad_bias, accum, .. } = args;
        let (m, n, k) = (grad_output.rows, grad_output.cols, input.cols);
        if activation == Activation::Relu {
            // To bring an element from memory and back takes as long as several operations.
            let cpu = self.for_operations(product([8, m, n]));
            cpu.for_each_row(grad_output.reborrow(), |r, grad| {
                cpu.dispatch.run(HoldBack { grad, output: output.row(r) })
            });
        }
        let (z, ld) = (&*grad_output.data, grad_output.ld);
        if let Some(grad_input) = grad_input {
            let (a, b) = (Operand::row_major(z, ld), Operand::col_major(weight.data, weight.ld));
            let epilogue = Epilogue::Replace;
            let product =
                Product { shape: (m, k, n), a, b, packed_b: None, epilogue, row_sums: None };
            gemm(self, product, grad_input);
        }
        let epilogue = match accum {
            Accum::Replace => Epilogue::Replace,
            Accum::Add => Epilogue::Add,
        };
        let (a, b) = (Operand::col_major(z, ld), Operand::col_major(input.data, input.ld));
        let row_sums = Some(grad_bias);
        let product = Product { shape: (n, k, m), a, b, packed_b: None, epilogue, row_sums };
        gemm(self, product, grad_weight);
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

/// The gradient of ReLU: 0 where the output is, but not where it is a NaN.
struct HoldBack<'a, E> {
    grad: &'a mut [E],
    output: &'a [E],
}

impl<E: Element> Loop for HoldBack<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, _: V) {
        for (g, y) in self.grad.iter_mut().zip(self.output) {
            *g = if y.to_f32() <= 0.0 { E::default() } else { *g };
        }
    }
}
