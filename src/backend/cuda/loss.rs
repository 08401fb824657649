//! [`loss`](crate::ops::loss) on a CUDA device. The header of kernels/loss.cu describes the
//! algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::arrivals::Arrivals;
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
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "loss")?;
        Ok(Self { forward: module.function()?, _module: module })
    }
}

impl LossOps for Cuda {
    fn loss_forward(&self, args: Forward<'_, Self>) -> Result<()> {
        let Forward { loss, threshold, loss_scale, logits, labels, mean, grad_logits, workspace } =
            args;
        let (negative, positive) = label_weights(loss);
        let blocks = self.loss_workspace_len(logits.len()).max(1);
        let forward = params::LossForward {
            logits: logits.on(self)?,
            labels: labels.on(self)?,
            grad_logits: ViewMut::on_or_null(&grad_logits, self)?,
            partial_sums: workspace.on(self)?.cast::<f64>(),
            mean: mean.on(self)?,
            arrivals: self.inner.arrivals.of(Arrivals::LOSS),
            batch_size: logits.len() as u64,
            squared: u32::from(loss == Loss::Mse),
            threshold,
            loss_scale,
            negative,
            positive,
            status: self.inner.faults.pointer(),
        };
        let grid = Grid::new((blocks as u32, 1), params::THREADS);
        // SAFETY: the function is the kernel's. The op has been validated: labels and gradient have
        // the length of the logits, and the workspace has a word for each block, unless there is
        // only one. All memory that is written is an exclusive view, and counters and status are
        // the backend's own.
        unsafe { self.inner.kernels.loss.forward.launch(self, grid, forward) }
    }

    fn loss_workspace_len(&self, batch_size: usize) -> usize {
        batch_size.div_ceil(params::THREADS)
    }
}

/// Returns the weights of the labels 0 and 1.
pub(super) fn label_weights(loss: Loss) -> (f32, f32) {
    match loss {
        Loss::WeightedBce { negative, positive } => (negative, positive),
        Loss::BceWithLogits | Loss::Mse => (1.0, 1.0),
    }
}
