//! [`dense_update`](crate::ops::dense_update) on a CUDA device: kernels/dense_update.cu says how.

use super::Cuda;
use super::kernels::{DenseUpdate, Grid, OptimizerStep, StepPointers};
use super::optimizer::state_pointers;
use crate::error::Result;
use crate::ops::UpdateRule;
use crate::ops::dense_update::{DenseUpdateOps, Update};

/// Threads of a block, as the kernel is compiled.
const THREADS: u32 = 256;
/// Elements that a thread takes at once.
const RUN: usize = 4;

impl DenseUpdateOps for Cuda {
    fn dense_update(&self, args: Update<'_, Self>) -> Result<()> {
        let Update { control, rule, max_gradient, grad, parameters, state } = args;
        let (first, second) = state_pointers(&state);
        let grid = Grid::looping(grad.len().div_ceil(RUN), THREADS, Grid::FILLING);
        let kernel = DenseUpdate {
            grad: grad.pointer(),
            parameters: parameters.pointer(),
            first,
            second,
            len: grad.len() as u64,
            max_gradient: max_gradient.unwrap_or(f32::INFINITY),
            step: OptimizerStep::of(&UpdateRule { optimizer: rule.optimizer.for_dense(), ..rule }),
            control: StepPointers::of(&control),
        };
        // SAFETY: the function is the kernel's. The op has been validated: parameters and the optimizer's state are as long as the gradient,
        // and exclusive views; state that the optimizer does not have is null, and then not touched.
        unsafe { kernel.launch(self, self.inner.kernels.dense_update, grid) }
    }
}
