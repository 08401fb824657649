//! [`loss`](crate::ops::loss) on a CUDA device: kernels/loss.cu says how.

use super::Cuda;
use super::kernels::{Grid, LossForward, LossMean};
use crate::error::Result;
use crate::ops::loss::{Forward, Loss, LossOps};

/// Threads of a block, as the kernels are compiled, and samples that it sums up.
const THREADS: u32 = 256;

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
        let forward = LossForward {
            logits: logits.on(self)?,
            labels: labels.on(self)?,
            grad_logits: grad_logits.map_or(Ok(0), |grad| grad.on(self))?,
            partial_sums: workspace.on(self)?,
            batch_size,
            squared: u32::from(loss == Loss::Mse),
            threshold,
            loss_scale,
            negative,
            positive,
            status: self.inner.faults.pointer(),
        };
        // SAFETY: the function is the kernel's. The op has been validated: labels and gradient are
        // as long as the logits, the workspace has a word for each block, all memory that is
        // written is an exclusive view, and the status words are the backend's own.
        unsafe {
            forward.launch(
                self,
                self.inner.kernels.loss_forward,
                Grid::new((partial_sums as u32, 1), THREADS),
            )?
        };
        let mean = LossMean {
            partial_sums: workspace.on(self)?,
            mean: mean.on(self)?,
            num_partial_sums: partial_sums as u64,
            batch_size,
        };
        // SAFETY: as above; the partial sums have been written by the launch before, on the same
        // stream.
        unsafe { mean.launch(self, self.inner.kernels.loss_mean, Grid::new((1, 1), THREADS)) }
    }

    fn loss_workspace_len(&self, batch_size: usize) -> usize {
        batch_size.div_ceil(THREADS as usize)
    }
}
