//! [`finite_check`](crate::ops::finite_check) on a CUDA device. The header of
//! kernels/finite_check.cu describes the algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::arrivals::Arrivals;
use super::runtime::launch::{Function, Grid};
use super::runtime::module::Module;
use super::runtime::params::finite_check as params;
use crate::error::Result;
use crate::ops::View;
use crate::ops::finite_check::{Check, FiniteCheckOps, NonFinite, Verdict};

// The kernels access the words of a verdict as fields of a struct.
const _: () = assert!(
    size_of::<params::Verdict>() == Verdict::WORDS * size_of::<u64>()
        && std::mem::offset_of!(params::Verdict, gate) == Verdict::GATE * size_of::<u64>()
        && std::mem::offset_of!(params::Verdict, found) == Verdict::FOUND * size_of::<u64>()
);

/// The kernel of kernels/finite_check.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    check: Function<params::FiniteCheck>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "finite_check")?;
        Ok(Self { check: module.function()?, _module: module })
    }
}

impl FiniteCheckOps for Cuda {
    fn finite_check(&self, args: Check<'_, Self>) -> Result<()> {
        let Check { policy, step, values, loss, grads: [a, b], verdict } = args;
        let work = a.len().max(b.len()).div_ceil(params::RUN).max(1);
        let grid = Grid::looping(work, params::THREADS, Grid::FILLING);
        let parameters = params::FiniteCheck {
            a: a.on(self)?,
            b: b.on(self)?,
            a_len: a.len() as u64,
            b_len: b.len() as u64,
            loss: loss.on(self)?,
            values: View::on_or_null(&values, self)?,
            status: self.inner.faults.pointer().as_const(),
            verdict: verdict.on(self)?.cast(),
            arrivals: self.inner.arrivals.of(Arrivals::FINITE_CHECK),
            step,
            stays_shut: u32::from(policy == NonFinite::Error),
        };
        // SAFETY: the function is the kernel's. The op has been validated: the verdict has all its
        // words and is an exclusive view, the loss has an element, and so have the step values
        // unless they are null. Both gradients are views of the lengths that are passed. Counters
        // and status are the backend's own.
        unsafe { self.inner.kernels.finite_check.check.launch(self, grid, parameters) }
    }
}
