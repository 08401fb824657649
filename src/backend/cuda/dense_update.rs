//! [`dense_update`](crate::ops::dense_update) on a CUDA device: kernels/dense_update.cu says how.

use super::Cuda;
use super::kernels::{DenseUpdate, Grid, OptimizerStep};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::dense_update::{DenseUpdateOps, Update};

/// Threads of a block, as the kernel is compiled.
const THREADS: u32 = 256;
/// Elements that a thread takes at once.
const RUN: usize = 4;

impl DenseUpdateOps for Cuda {
    fn dense_update<E: Element>(&self, args: Update<'_, Self, E>) -> Result<()> {
        let Update { control, rule, loss_scale, max_gradient, grad, parameters, state, rounded } =
            args;
        let (first, second) = self.state_pointers(&state)?;
        let grid = Grid::looping(grad.len().div_ceil(RUN), THREADS, Grid::FILLING);
        let kernel = DenseUpdate {
            grad: grad.on(self)?,
            parameters: parameters.on(self)?,
            first,
            second,
            rounded: rounded.map_or(Ok(0), |rounded| rounded.on(self))?,
            len: grad.len() as u64,
            factor: 1.0 / loss_scale,
            max_gradient: max_gradient.unwrap_or(f32::INFINITY),
            step: OptimizerStep::of(&rule),
            control: self.step_pointers(&control)?,
        };
        // SAFETY: the function is the kernel's, of `E`. The op has been validated: parameters,
        // rounded ones and the optimizer's state are as long as the gradient, and exclusive views;
        // state that the optimizer does not have is null, and then not touched, as are rounded
        // parameters.
        unsafe { kernel.launch(self, self.inner.kernels.dense_update.of::<E>(), grid) }
    }
}
