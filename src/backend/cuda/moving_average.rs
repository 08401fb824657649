//! [`moving_average`](crate::ops::moving_average) on a CUDA device. The header of
//! kernels/moving_average.cu describes the algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::launch::{Function, Grid};
use super::runtime::module::Module;
use super::runtime::params::moving_average as params;
use crate::error::Result;
use crate::ops::moving_average::{MovingAverageOps, Update};

/// The kernels of kernels/moving_average.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    update: Function<params::MovingAverage>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "moving_average")?;
        Ok(Self { update: module.function()?, _module: module })
    }
}

impl MovingAverageOps for Cuda {
    fn moving_average(&self, args: Update<'_, Self>) -> Result<()> {
        let Update { control, decay, values, average } = args;
        let grid =
            Grid::looping(values.len().div_ceil(params::RUN), params::THREADS, Grid::FILLING);
        let parameters = params::MovingAverage {
            values: values.on(self)?,
            average: average.on(self)?,
            len: values.len() as u64,
            decay,
            control: self.step_pointers(&control)?,
        };
        // SAFETY: the function is the kernel's. The op has been validated: both views have the same
        // length, and the average is an exclusive view.
        unsafe { self.inner.kernels.moving_average.update.launch(self, grid, parameters) }
    }
}
