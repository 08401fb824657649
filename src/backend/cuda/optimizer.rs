//! An optimizer step, as kernels/common/optimizer.cuh sees it.

use super::Cuda;
use super::kernels::{OptimizerStep, StepPointers};
use crate::error::Result;
use crate::ops::{Optimizer, OptimizerStateMut, StepControl, UpdateRule};

impl Cuda {
    /// The addresses of what an optimizer remembers; null for what it does not.
    pub(super) fn state_pointers(&self, state: &OptimizerStateMut<'_, Self>) -> Result<(u64, u64)> {
        Ok(match state {
            OptimizerStateMut::None => (0, 0),
            OptimizerStateMut::SumOfSquares(sums) => (sums.on(self)?, 0),
            OptimizerStateMut::Moments { first, second } => (first.on(self)?, second.on(self)?),
        })
    }

    /// The addresses of values and gate; null where there are none.
    pub(super) fn step_pointers(&self, control: &StepControl<'_, Self>) -> Result<StepPointers> {
        Ok(StepPointers {
            values: control.values.map_or(Ok(0), |values| values.on(self))?,
            gate: control.gate.map_or(Ok(0), |gate| gate.on(self))?,
        })
    }
}

impl OptimizerStep {
    /// What of a rule is the same for all parameters. The numbers of the optimizers are those of
    /// kernels/common/optimizer.cuh.
    pub(super) fn of(rule: &UpdateRule) -> Self {
        let (optimizer, eps, beta1, beta2) = match rule.optimizer {
            Optimizer::Sgd => (0, 0.0, 0.0, 0.0),
            Optimizer::Adagrad { eps } => (1, eps, 0.0, 0.0),
            Optimizer::RowwiseAdagrad { eps } => (2, eps, 0.0, 0.0),
            Optimizer::Adam { beta1, beta2, eps } => (3, eps, beta1, beta2),
        };
        let (l2, shrink) = rule.decay_factors();
        let (first_correction, second_correction) = rule.bias_corrections();
        let learning_rate = rule.learning_rate;
        Self {
            optimizer,
            learning_rate,
            l2,
            shrink,
            eps,
            beta1,
            beta2,
            first_correction,
            second_correction,
        }
    }
}
