//! [`dense_update`](crate::ops::dense_update) on a CUDA device: kernels/dense_update.cu says how.

use super::Cuda;
use super::kernels::{DenseUpdate, Grid};
use crate::error::Result;
use crate::ops::dense_update::{DenseUpdateOps, Update};
use crate::ops::{Optimizer, OptimizerStateMut};

/// Threads of a block, as the kernel is compiled.
const THREADS: u32 = 256;
/// Elements that a thread takes at once.
const RUN: usize = 4;
/// Enough blocks to fill any device; they loop over what is left.
const MAX_BLOCKS: usize = 4096;

impl DenseUpdateOps for Cuda {
    fn dense_update(&self, args: Update<'_, Self>) -> Result<()> {
        let Update { rule, max_gradient, grad, parameters, state } = args;
        // The numbers of the optimizers are those of kernels/common/optimizer.cuh.
        let (optimizer, (beta1, beta2), eps) = match rule.optimizer {
            Optimizer::Sgd => (0, (0.0, 0.0), 0.0),
            Optimizer::Adagrad { eps } | Optimizer::RowwiseAdagrad { eps } => (1, (0.0, 0.0), eps),
            Optimizer::Adam { beta1, beta2, eps } => (2, (beta1, beta2), eps),
        };
        let (first, second) = match state {
            OptimizerStateMut::None => (0, 0),
            OptimizerStateMut::SumOfSquares(sums) => (sums.pointer(), 0),
            OptimizerStateMut::Moments { first, second } => (first.pointer(), second.pointer()),
        };
        let (l2, shrink) = rule.decay_factors();
        let (first_correction, second_correction) = rule.bias_corrections();
        let blocks = grad.len().div_ceil(THREADS as usize * RUN).min(MAX_BLOCKS);
        let kernel = DenseUpdate {
            grad: grad.pointer(),
            parameters: parameters.pointer(),
            first,
            second,
            len: grad.len() as u64,
            optimizer,
            max_gradient: max_gradient.unwrap_or(f32::INFINITY),
            learning_rate: rule.learning_rate,
            l2,
            shrink,
            beta1,
            beta2,
            eps,
            first_correction,
            second_correction,
        };
        // SAFETY: the function is the kernel's. The op has been validated: parameters and the optimizer's state are as long as the gradient,
        // and exclusive views; state that the optimizer does not have is null, and then not touched.
        unsafe { kernel.launch(self, self.inner.kernels.dense_update, Grid::new((blocks as u32, 1), THREADS)) }
    }
}
