//! An optimizer step on dense parameters: [`Optimizer`](super::Optimizer) applied to every element.
//!
//! Layers that compute in 16 bits read a rounded copy of the parameters, which the step leaves in
//! the same pass.

use super::cast::check_power_of_two;
use super::device::Device;
use super::optimizer::{OptimizerStateMut, StepControl, UpdateRule, check_max_gradient};
use super::views::Extent;
use crate::dtype::Element;
use crate::error::{Result, expect_size};

/// What a backend provides; call it through [`Update::run`], which validates.
pub trait DenseUpdateOps: Device {
    /// See [`Update`].
    fn dense_update<E: Element>(&self, args: Update<'_, Self, E>) -> Result<()>;
}

/// Gradient and state to new parameters and state, in place.
pub struct Update<'a, D: Device, E: Element> {
    /// What is read from the device.
    pub control: StepControl<'a, D>,
    /// The step. [`Optimizer::RowwiseAdagrad`](super::Optimizer::RowwiseAdagrad) means Adagrad
    /// here.
    pub rule: UpdateRule,
    /// The gradient is one of so many times the loss, and divided by it before all else; a power of
    /// two.
    pub loss_scale: f32,
    /// Every element of the gradient is clamped to `[-max, max]`.
    pub max_gradient: Option<f32>,
    /// The gradient.
    pub grad: D::Slice<'a, f32>,
    /// The parameters.
    pub parameters: D::SliceMut<'a, f32>,
    /// What the optimizer remembers.
    pub state: OptimizerStateMut<'a, D>,
    /// The new parameters, each as the nearest value of `E`, if they are wanted.
    pub rounded: Option<D::SliceMut<'a, E>>,
}

impl<D: DenseUpdateOps, E: Element> Update<'_, D, E> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes or a rule without meaning, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.dense_update(Self { rule: self.rule.for_dense(), ..self })
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
        check_power_of_two(OP, "loss_scale", self.loss_scale)?;
        check_max_gradient(OP, self.max_gradient)?;
        expect_size(OP, "grad", self.grad.extent(), elements)?;
        self.rounded
            .as_ref()
            .map_or(Ok(()), |rounded| expect_size(OP, "rounded", rounded.extent(), elements))?;
        self.state.check(OP, self.rule.optimizer.for_dense(), elements, elements)
    }
}
