//! [`linear`](crate::ops::linear) on the CPU.

use super::Cpu;
use super::gemm::Strided;
use crate::error::Result;
use crate::ops::Accum;
use crate::ops::linear::{Activation, Backward, Forward, LinearOps};

impl LinearOps for Cpu {
    fn linear_forward(&self, args: Forward<'_, Self>) -> Result<()> {
        let Forward { input, weight, bias, activation, output } = args;
        let (m, n, k) = (output.rows, output.cols, input.cols);
        let x = Strided { data: input.data, row_stride: input.ld, col_stride: 1 };
        let w_transposed = Strided { data: weight.data, row_stride: 1, col_stride: weight.ld };
        self.gemm((m, n, k), x, w_transposed, output.data, output.ld, false);
        self.for_each_row(output, |_, row| {
            for (y, b) in row.iter_mut().zip(bias) {
                *y += b;
                if activation == Activation::Relu {
                    // Unlike `f32::max`, this lets a NaN through.
                    *y = if *y < 0.0 { 0.0 } else { *y };
                }
            }
        });
        Ok(())
    }

    fn linear_backward(&self, args: Backward<'_, Self>) -> Result<()> {
        let Backward {
            input,
            weight,
            output,
            activation,
            mut grad_output,
            grad_input,
            grad_weight,
            grad_bias,
            accum,
            ..
        } = args;
        let (m, n, k) = (grad_output.rows, grad_output.cols, input.cols);
        if activation == Activation::Relu {
            self.for_each_row(grad_output.reborrow(), |r, grad| {
                grad.iter_mut().zip(output.row(r)).for_each(|(g, y)| *g = if *y <= 0.0 { 0.0 } else { *g });
            });
        }
        let z = &*grad_output.data;
        if let Some(grad_input) = grad_input {
            let z = Strided { data: z, row_stride: grad_output.ld, col_stride: 1 };
            let w = Strided { data: weight.data, row_stride: weight.ld, col_stride: 1 };
            self.gemm((m, k, n), z, w, grad_input.data, grad_input.ld, false);
        }
        let z_transposed = Strided { data: z, row_stride: 1, col_stride: grad_output.ld };
        let x = Strided { data: input.data, row_stride: input.ld, col_stride: 1 };
        self.gemm((n, k, m), z_transposed, x, grad_weight.data, grad_weight.ld, accum == Accum::Add);
        if accum == Accum::Replace {
            grad_bias.fill(0.0);
        }
        for row in z.chunks(grad_output.ld.max(1)).take(m) {
            grad_bias.iter_mut().zip(row).for_each(|(sum, z)| *sum += z);
        }
        Ok(())
    }

    fn linear_backward_workspace_len(&self, _batch_size: usize, _outputs: usize, _inputs: usize) -> usize {
        0
    }
}
