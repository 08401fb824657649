//! [`finite_check`](crate::ops::finite_check) on a CUDA device: kernels/finite_check.cu says how.

use super::Cuda;
use super::kernels::{FiniteCheckJudge, FiniteCheckScan, Grid};
use crate::error::Result;
use crate::ops::finite_check::{Check, FiniteCheckOps, NonFinite};

/// Threads of a block that looks through gradients, as the kernel is compiled.
const THREADS: u32 = 256;
/// Elements that a thread takes at once.
const RUN: usize = 4;

impl FiniteCheckOps for Cuda {
    fn finite_check(&self, args: Check<'_, Self>) -> Result<()> {
        let Check { policy, step, values, loss, grads: [a, b], verdict } = args;
        let grid = Grid::looping(a.len().max(b.len()).div_ceil(RUN), THREADS, Grid::FILLING);
        let scan = FiniteCheckScan {
            a: a.on(self)?,
            b: b.on(self)?,
            a_len: a.len() as u64,
            b_len: b.len() as u64,
            verdict: verdict.on(self)?,
        };
        // SAFETY: the function is the kernel's. The op has been validated: the verdict has all its
        // words, and is an exclusive view.
        unsafe { scan.launch(self, self.inner.kernels.finite_check_scan, grid)? };
        let judge = FiniteCheckJudge {
            loss: loss.on(self)?,
            values: values.map_or(Ok(0), |values| values.on(self))?,
            status: self.inner.faults.pointer(),
            verdict: verdict.on(self)?,
            step,
            stays_shut: u32::from(policy == NonFinite::Error),
        };
        // SAFETY: as above; loss and values have an entry, and the status words are the backend's
        // own.
        unsafe { judge.launch(self, self.inner.kernels.finite_check_judge, Grid::new((1, 1), 32)) }
    }
}
