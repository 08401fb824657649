//! [`moving_average`](crate::ops::moving_average) on a CUDA device: kernels/moving_average.cu says
//! how.

use super::Cuda;
use super::kernels::{Grid, MovingAverage};
use crate::error::Result;
use crate::ops::moving_average::{MovingAverageOps, Update};

/// Threads of a block, as the kernel is compiled.
const THREADS: u32 = 256;
/// Elements that a thread takes at once.
const RUN: usize = 4;

impl MovingAverageOps for Cuda {
    fn moving_average(&self, args: Update<'_, Self>) -> Result<()> {
        let Update { control, decay, values, average } = args;
        let grid = Grid::looping(values.len().div_ceil(RUN), THREADS, Grid::FILLING);
        let kernel = MovingAverage {
            values: values.on(self)?,
            average: average.on(self)?,
            len: values.len() as u64,
            decay,
            control: self.step_pointers(&control)?,
        };
        // SAFETY: the function is the kernel's. The op has been validated: both views are as long,
        // and the average is an exclusive one.
        unsafe { kernel.launch(self, self.inner.kernels.moving_average, grid) }
    }
}
