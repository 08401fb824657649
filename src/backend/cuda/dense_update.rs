//! [`dense_update`](crate::ops::dense_update) on a CUDA device. The header of
//! kernels/dense_update.cu describes the algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::launch::Grid;
use super::runtime::module::{ByElement, Module};
use super::runtime::params::dense_update::{self as params, OptimizerStep};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::ViewMut;
use crate::ops::dense_update::{DenseUpdateOps, Update};

/// The kernels of kernels/dense_update.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    update: ByElement<params::DenseUpdate<()>>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "dense_update")?;
        Ok(Self { update: module.by_element("")?, _module: module })
    }
}

impl DenseUpdateOps for Cuda {
    fn dense_update<E: Element>(&self, args: Update<'_, Self, E>) -> Result<()> {
        let Update { control, rule, loss_scale, max_gradient, grad, parameters, state, rounded } =
            args;
        let (first, second) = self.state_pointers(&state)?;
        let grid = Grid::looping(grad.len().div_ceil(params::RUN), params::THREADS, Grid::FILLING);
        let parameters = params::DenseUpdate {
            grad: grad.on(self)?,
            parameters: parameters.on(self)?,
            first,
            second,
            rounded: ViewMut::on_or_null(&rounded, self)?,
            len: grad.len() as u64,
            factor: 1.0 / loss_scale,
            max_gradient: max_gradient.unwrap_or(f32::INFINITY),
            step: OptimizerStep::of(&rule),
            control: self.step_pointers(&control)?,
        };
        // SAFETY: the function is the instance of the kernel for `E`. The op has been validated:
        // parameters, their rounded copy and the optimizer state are as long as the gradient, and
        // exclusive views. State that the optimizer does not have is null and is not accessed;
        // neither is the rounded copy if it is null.
        unsafe { self.inner.kernels.dense_update.update.of::<E>().launch(self, grid, parameters) }
    }
}
