//! An optimizer step on dense parameters: [`Optimizer`](super::Optimizer) applied to every element.
//!
//! Layers that compute in 16 bits read a rounded copy of the parameters, which the step writes in
//! the same pass. The optimizer's documentation gives formulas, sources and numerics.
//!
//! # Example
//!
//! The first step of Adagrad moves each parameter by the learning rate: `g / √g²` is 1 or -1.
//!
//! ```
//! use bagdot::bf16;
//! use bagdot::ops::dense_update::Update;
//! use bagdot::ops::{Optimizer, OptimizerStateMut, UpdateRule, ViewMut};
//!
//! let cpu = bagdot::Cpu::on_current_thread();
//! let (mut parameters, grad) = ([1.0_f32, 2.0], [2.0_f32, -4.0]);
//! let (mut sums, mut rounded) = ([0.0_f32; 2], [bf16::ZERO; 2]);
//! let rule = UpdateRule::new(Optimizer::Adagrad { eps: 0.0 }, 0.5);
//! let state = OptimizerStateMut::SumOfSquares(ViewMut::from(&mut sums));
//! Update::new(rule, &grad, &mut parameters, state).rounded(&mut rounded).run(&cpu)?;
//! assert_eq!(parameters, [0.5, 2.5]);
//! assert_eq!(rounded.map(bf16::to_f32), [0.5, 2.5]);
//! assert_eq!(sums, [4.0, 16.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! Only [`Update::rounded`] fixes the element type `E`. Without a rounded copy, name any type:
//! `Update::<_, f32>::new`.

use super::cast::check_power_of_two;
use super::device::Device;
use super::optimizer::{OptimizerStateMut, StepControl, UpdateRule, check_max_gradient};
use super::views::{View, ViewMut};
use crate::dtype::Element;
use crate::error::{Result, expect_size};
use crate::size::{product, sum};

/// The backend's side of the op. Call it through [`Update::run`], which validates the arguments.
pub trait DenseUpdateOps: Device {
    /// Runs [`Update`] with arguments that are valid.
    fn dense_update<E: Element>(&self, args: Update<'_, Self, E>) -> Result<()>;
}

/// The arguments of a step on `N` parameters, which updates parameters and state in place.
#[non_exhaustive]
pub struct Update<'a, D: Device, E: Element> {
    /// The values and the gate of the step that the op reads from the device, one entry each.
    pub control: StepControl<'a, D>,
    /// The update rule. [`Optimizer::RowwiseAdagrad`](super::Optimizer::RowwiseAdagrad) means
    /// Adagrad here.
    pub rule: UpdateRule,
    /// The factor of the loss whose gradient `grad` is, a power of two. The gradient is divided by
    /// it before anything else.
    pub loss_scale: f32,
    /// The bound of every element of the gradient, which is clamped to `[-max, max]`; `None` for no
    /// clamp.
    pub max_gradient: Option<f32>,
    /// The gradient, `[N]`.
    pub grad: View<'a, D, f32>,
    /// The parameters, `[N]`.
    pub parameters: ViewMut<'a, D, f32>,
    /// The state of the optimizer, `[N]` for each of its buffers.
    pub state: OptimizerStateMut<'a, D>,
    /// The output for the new parameters rounded to the nearest value of `E`, `[N]`; `None` if they
    /// are not needed.
    pub rounded: Option<ViewMut<'a, D, E>>,
}

impl<'a, D: Device, E: Element> Update<'a, D, E> {
    /// Makes the arguments of a step whose values are those of the rule. Its gate is open, the
    /// gradient is neither scaled nor clamped, and there is no rounded copy.
    pub fn new(
        rule: UpdateRule,
        grad: impl Into<View<'a, D, f32>>,
        parameters: impl Into<ViewMut<'a, D, f32>>,
        state: OptimizerStateMut<'a, D>,
    ) -> Self {
        Self {
            rule,
            grad: grad.into(),
            parameters: parameters.into(),
            state,
            control: StepControl::default(),
            loss_scale: 1.0,
            max_gradient: None,
            rounded: None,
        }
    }

    /// Lets the op read values and gate of the step from the device. By default the values are
    /// those of the rule, and there is no gate.
    pub fn control(self, control: StepControl<'a, D>) -> Self {
        Self { control, ..self }
    }

    /// Divides the gradient by a power of two; the default is 1.
    pub fn loss_scale(self, loss_scale: f32) -> Self {
        Self { loss_scale, ..self }
    }

    /// Clamps every element of the gradient to `[-max, max]`. By default there is no clamp.
    pub fn max_gradient(self, max_gradient: f32) -> Self {
        Self { max_gradient: Some(max_gradient), ..self }
    }

    /// Asks for the new parameters rounded to `E`, `[N]`. By default there is no rounded copy.
    pub fn rounded(self, rounded: impl Into<ViewMut<'a, D, E>>) -> Self {
        Self { rounded: Some(rounded.into()), ..self }
    }
}

impl<D: DenseUpdateOps, E: Element> Update<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid rule, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.dense_update(Self { rule: self.rule.for_dense(), ..self })
    }

    /// Checks the shapes and the rule, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid rule.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "dense_update";
        let elements = self.parameters.len();
        self.rule.check(OP)?;
        self.control.check(OP)?;
        check_power_of_two(OP, "loss_scale", self.loss_scale)?;
        check_max_gradient(OP, self.max_gradient)?;
        expect_size(OP, "grad", self.grad.len(), elements)?;
        self.rounded
            .as_ref()
            .map_or(Ok(()), |rounded| expect_size(OP, "rounded", rounded.len(), elements))?;
        let check =
            |state: &ViewMut<'_, D, f32>, name| expect_size(OP, name, state.len(), elements);
        self.state.check(OP, self.rule.optimizer.for_dense(), check)
    }

    /// Returns the least number of bytes moved: the gradient is read once, parameters and state are
    /// read and written once, and the rounded parameters are written once.
    pub fn bytes_moved(&self) -> usize {
        let elements = self.parameters.len();
        let state = sum(self.rule.optimizer.for_dense().state_len(elements, elements));
        let rounded = self.rounded.as_ref().map_or(0, ViewMut::len);
        sum([
            product([elements, 3 * 4]),
            product([state, 2 * 4]),
            product([rounded, size_of::<E>()]),
        ])
    }
}
