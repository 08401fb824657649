//! [`loss`](crate::ops::loss) on a CUDA device. The header of kernels/loss.cu describes the
//! algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::launch::{Function, Grid};
use super::runtime::module::Module;
use super::runtime::params::loss as params;
use crate::error::Result;
use crate::ops::ViewMut;
use crate::ops::loss::{Forward, Loss, LossOps};

/// The kernels of kernels/loss.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    forward: Function<params::LossForward>,
    mean: Function<params::LossMean>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "loss")?;
        Ok(Self { forward: module.function()?, mean: module.function()?, _module: module })
    }
}

impl LossOps for Cuda {
    fn loss_forward(&self, args: Forward<'_, Self>) -> Result<()> {
        let Forward { loss, threshold, loss_scale, logits, labels, mean, grad_logits, workspace } =
            args;
        let (negative, positive) = match loss {
            Loss::WeightedBce { negative, positive } => (negative, positive),
            Loss::BceWithLogits | Loss::Mse => (1.0, 1.0),
        };
        let (batch_size, partial_sums) =
            (logits.len() as u64, self.loss_workspace_len(logits.len()));
        let sums = workspace.on(self)?.cast::<f64>();
        let forward = params::LossForward {
            logits: logits.on(self)?,
            labels: labels.on(self)?,
            grad_logits: ViewMut::on_or_null(&grad_logits, self)?,
            partial_sums: sums,
            batch_size,
            squared: u32::from(loss == Loss::Mse),
            threshold,
            loss_scale,
            negative,
            positive,
            status: self.inner.faults.pointer(),
        };
        let grid = Grid::new((partial_sums as u32, 1), params::THREADS);
        // SAFETY: the function is the kernel's. The op has been validated: labels and gradient have
        // the length of the logits, and the workspace has a word for each block. All memory that is
        // written is an exclusive view, and the status words are the backend's own.
        unsafe { self.inner.kernels.loss.forward.launch(self, grid, forward)? };
        let mean = params::LossMean {
            partial_sums: sums.as_const(),
            mean: mean.on(self)?,
            num_partial_sums: partial_sums as u64,
            batch_size,
        };
        let one_block = Grid::new((1, 1), params::THREADS);
        // SAFETY: as above. The launch before, on the same stream, has written the partial sums.
        unsafe { self.inner.kernels.loss.mean.launch(self, one_block, mean) }
    }

    fn loss_workspace_len(&self, batch_size: usize) -> usize {
        batch_size.div_ceil(params::THREADS)
    }
}
