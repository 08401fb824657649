//! An optimizer step on dense parameters: [`Optimizer`](super::Optimizer) applied to every element.

use super::optimizer::check_max_gradient;
use super::{Device, Extent, OptimizerStateMut, StepControl, UpdateRule};
use crate::error::{Result, expect_size};

/// What a backend provides; call it through [`Update::run`], which validates.
pub trait DenseUpdateOps: Device {
    /// See [`Update`].
    fn dense_update(&self, args: Update<'_, Self>) -> Result<()>;
}

/// Gradient and state to new parameters and state, in place.
pub struct Update<'a, D: Device> {
    /// What is read from the device.
    pub control: StepControl<'a, D>,
    /// The step. [`Optimizer::RowwiseAdagrad`](super::Optimizer::RowwiseAdagrad) means Adagrad here.
    pub rule: UpdateRule,
    /// Every element of the gradient is clamped to `[-max, max]`.
    pub max_gradient: Option<f32>,
    /// The gradient.
    pub grad: D::Slice<'a, f32>,
    /// The parameters.
    pub parameters: D::SliceMut<'a, f32>,
    /// What the optimizer remembers.
    pub state: OptimizerStateMut<'a, D>,
}

impl<D: DenseUpdateOps> Update<'_, D> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes or a rule without meaning, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.dense_update(self)
    }

    /// Checks shapes and rule; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes or a rule without meaning.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "dense_update";
        let elements = self.parameters.extent();
        self.rule.check(OP)?;
        self.control.check(OP)?;
        check_max_gradient(OP, self.max_gradient)?;
        expect_size(OP, "grad", self.grad.extent(), elements)?;
        self.state.check(OP, self.rule.optimizer.for_dense(), elements, elements)
    }

    /// The least number of bytes: gradient read, parameters and state read and written.
    pub fn bytes_moved(&self) -> usize {
        let elements = self.parameters.extent();
        let state: usize = self.rule.optimizer.for_dense().state_len(elements, elements).iter().sum();
        (3 * elements + 2 * state) * 4
    }

    /// Additions, multiplications, divisions and roots, about.
    pub fn flops(&self) -> usize {
        self.parameters.extent() * 4
    }
}
