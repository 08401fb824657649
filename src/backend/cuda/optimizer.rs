//! The parameters of an optimizer step in the layout of kernels/common/optimizer.cuh.

use super::Cuda;
use super::runtime::params::optimizer::{OptimizerKind, OptimizerStep, StepPointers};
use super::runtime::pointer::PtrMut;
use crate::error::Result;
use crate::ops::{Optimizer, OptimizerStateMut, StepControl, UpdateRule, View};

impl Cuda {
    /// Returns the addresses of the two buffers of optimizer state; null for a buffer that the
    /// optimizer does not have.
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

    /// Returns the addresses of the step values and of the gate; null for one that is not given.
    pub(super) fn step_pointers(&self, control: &StepControl<'_, Self>) -> Result<StepPointers> {
        Ok(StepPointers {
            values: View::on_or_null(&control.values, self)?,
            gate: View::on_or_null(&control.gate, self)?,
        })
    }
}

impl OptimizerStep {
    /// Returns the part of a rule that is the same for all parameters.
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
