//! An optimizer step, as kernels/common/optimizer.cuh sees it.

use super::runtime::params::optimizer::{OptimizerKind, OptimizerStep, StepPointers};
use super::runtime::pointer::PtrMut;
use super::{Cuda, Slice};
use crate::error::Result;
use crate::ops::{Optimizer, OptimizerStateMut, StepControl, UpdateRule};

impl Cuda {
    /// The addresses of what an optimizer remembers; null for what it does not.
    pub(super) fn state_pointers(
        &self,
        state: &OptimizerStateMut<'_, Self>,
    ) -> Result<(PtrMut<f32>, PtrMut<f32>)> {
        Ok(match state {
            OptimizerStateMut::None => (PtrMut::NULL, PtrMut::NULL),
            OptimizerStateMut::SumOfSquares(sums) => (sums.on(self)?, PtrMut::NULL),
            OptimizerStateMut::Moments { first, second } => (first.on(self)?, second.on(self)?),
        })
    }

    /// The addresses of values and gate; null where there are none.
    pub(super) fn step_pointers(&self, control: &StepControl<'_, Self>) -> Result<StepPointers> {
        Ok(StepPointers {
            values: Slice::on_or_null(&control.values, self)?,
            gate: Slice::on_or_null(&control.gate, self)?,
        })
    }
}

impl OptimizerStep {
    /// Returns what of a rule is the same for all parameters.
    pub(super) fn of(rule: &UpdateRule) -> Self {
        let (optimizer, eps, beta1, beta2) = match rule.optimizer {
            Optimizer::Sgd => (OptimizerKind::Sgd, 0.0, 0.0, 0.0),
            Optimizer::Adagrad { eps } => (OptimizerKind::Adagrad, eps, 0.0, 0.0),
            Optimizer::RowwiseAdagrad { eps } => (OptimizerKind::RowwiseAdagrad, eps, 0.0, 0.0),
            Optimizer::Adam { beta1, beta2, eps } => (OptimizerKind::Adam, eps, beta1, beta2),
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
