//! [`linear`](crate::ops::linear) on the CPU.

use super::Cpu;
use super::gemm::Strided;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::ops::linear::{Activation, Backward, Forward, LinearOps};
use crate::ops::{Accum, MatrixMut};

impl LinearOps for Cpu {
    fn linear_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        let Forward { input, weight, bias, activation, mut output, .. } = args;
        let shape = (output.rows, output.cols, input.cols);
        let x = Strided { data: input.data, row_stride: input.ld, col_stride: 1 };
        let w_transposed = Strided { data: weight.data, row_stride: 1, col_stride: weight.ld };
        let finish = |sum: f32, bias: f32| match sum + bias {
            // Unlike `f32::max`, this lets a NaN through.
            y if activation == Activation::Relu && y < 0.0 => 0.0,
            y => y,
        };
        if E::DTYPE != DType::F32 {
            self.gemm_widened(shape, x, w_transposed, output, |c, sum, _| E::from_f32(finish(sum, bias[c])));
            return Ok(());
        }
        self.product(shape, x, w_transposed, output.reborrow(), Accum::Replace);
        self.for_each_row(output, |_, row| {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y = E::from_f32(finish(y.to_f32(), *b)));
        });
        Ok(())
    }

    fn linear_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()> {
        let Backward { input, weight, output, activation, mut grad_output, .. } = args;
        let Backward { grad_input, grad_weight, grad_bias, accum, .. } = args;
        let (m, n, k) = (grad_output.rows, grad_output.cols, input.cols);
        if activation == Activation::Relu {
            self.for_each_row(grad_output.reborrow(), |r, grad| {
                let held_back = |y: &E| y.to_f32() <= 0.0;
                grad.iter_mut().zip(output.row(r)).for_each(|(g, y)| *g = if held_back(y) { E::default() } else { *g });
            });
        }
        let z = &*grad_output.data;
        if let Some(grad_input) = grad_input {
            let z = Strided { data: z, row_stride: grad_output.ld, col_stride: 1 };
            let w = Strided { data: weight.data, row_stride: weight.ld, col_stride: 1 };
            self.product((m, k, n), z, w, grad_input, Accum::Replace);
        }
        let z_transposed = Strided { data: z, row_stride: 1, col_stride: grad_output.ld };
        let x = Strided { data: input.data, row_stride: input.ld, col_stride: 1 };
        self.product((n, k, m), z_transposed, x, grad_weight, accum);
        if accum == Accum::Replace {
            grad_bias.fill(0.0);
        }
        for row in z.chunks(grad_output.ld.max(1)).take(m) {
            grad_bias.iter_mut().zip(row).for_each(|(sum, z)| *sum += z.to_f32());
        }
        Ok(())
    }

    fn linear_backward_workspace_len<E: Element>(&self, _batch_size: usize, _outputs: usize, _inputs: usize) -> usize {
        0
    }
}

impl Cpu {
    /// `out = lhs rhs`, or `out += lhs rhs`: `[m, k]` times `[k, n]`.
    fn product<E: Element, O: Element>(
        &self,
        shape: (usize, usize, usize),
        lhs: Strided<'_, E>,
        rhs: Strided<'_, E>,
        out: MatrixMut<'_, Self, O>,
        accum: Accum,
    ) {
        match (E::DTYPE, O::DTYPE) {
            (DType::F32, DType::F32) => {
                let out_data = bytemuck::cast_slice_mut(out.data);
                self.gemm(shape, lhs.as_f32(), rhs.as_f32(), out_data, out.ld, accum == Accum::Add);
            }
            _ => self.gemm_widened(shape, lhs, rhs, out, |_, sum, before| match accum {
                Accum::Replace => O::from_f32(sum),
                Accum::Add => O::from_f32(before.to_f32() + sum),
            }),
        }
    }
}
