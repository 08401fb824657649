//! A check that allows a step only if its loss and its gradients are finite and no op has found an
//! error in its ids and labels.
//!
//! The result stays on the device, where the ops of the step read it
//! ([`StepControl::gate`](super::StepControl)), so that the host does not wait for it.
//!
//! # Example
//!
//! The gradient of the second step is not a number, so that an op with this gate does nothing.
//!
//! ```
//! use bagdot::ops::finite_check::{Check, NonFinite, Verdict};
//! use bagdot::ops::{StepControl, View, moving_average::Update};
//!
//! let cpu = bagdot::Cpu::on_current_thread();
//! let (loss, finite, nan) = ([0.5_f64], [1.0_f32, 2.0], [f32::NAN]);
//! let mut verdict = [0_u64; Verdict::WORDS];
//! let grads = [View::from(&finite), View::from(&finite)];
//! Check::new(NonFinite::SkipStep, 1, &loss, grads, &mut verdict).run(&cpu)?;
//! assert_eq!(verdict[Verdict::GATE], 0);
//! let grads = [View::from(&finite), View::from(&nan)];
//! Check::new(NonFinite::SkipStep, 2, &loss, grads, &mut verdict).run(&cpu)?;
//! assert_ne!(verdict[Verdict::GATE], 0);
//! assert_eq!(Verdict::of(&verdict), Verdict { steps: 1, first: 2, last: 2 });
//!
//! let gate = View::from(std::slice::from_ref(&verdict[Verdict::GATE]));
//! let control = StepControl { gate: Some(gate), ..StepControl::default() };
//! let mut average = [0.0_f32; 2];
//! Update::new(0.5, &finite, &mut average).control(control).run(&cpu)?;
//! assert_eq!(average, [0.0, 0.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use super::device::Device;
use super::optimizer::StepValues;
use super::views::{View, ViewMut};
use crate::error::{Result, expect_size};
use crate::size::{product, sum};

/// The policy for a step whose loss or gradient is infinite or not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum NonFinite {
    /// Neither that step nor any later one changes anything, and the next call that waits for the
    /// device returns an error.
    #[default]
    Error,
    /// That step changes nothing, and the next one is taken as usual.
    SkipStep,
}

/// The result of all checks since the words of the verdict's buffer were zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The number of steps with a loss or gradient that is not finite.
    pub steps: u64,
    /// The number of the first such step, from 1; 0 for none.
    pub first: u64,
    /// The number of the last such step; 0 for none.
    pub last: u64,
}

impl Verdict {
    /// The number of words of a verdict: gate, steps, first, last, found.
    pub const WORDS: usize = 5;
    /// The index of the gate, a word that is not 0 if the step must change nothing.
    pub const GATE: usize = 0;
    /// The index of the word that other ops of the step set to 1 if they have written a value that
    /// is not finite ([`interaction::Backward`](super::interaction::Backward)). The check takes
    /// account of it and clears it.
    pub const FOUND: usize = 4;

    /// Reads the words of a verdict.
    pub fn of(words: &[u64; Self::WORDS]) -> Self {
        let [_, steps, first, last, _] = *words;
        Self { steps, first, last }
    }
}

/// The backend's side of the op. Call it through [`Check::run`], which validates the arguments.
pub trait FiniteCheckOps: Device {
    /// Runs [`Check`] with arguments that are valid.
    fn finite_check(&self, args: Check<'_, Self>) -> Result<()>;
}

/// The arguments of the check of a step. The op shuts the gate if the loss or a gradient is not
/// finite, if an op before has found such a value ([`Verdict::FOUND`]), if the gate was shut before
/// and the policy is [`NonFinite::Error`], or if ops have found an error in ids, offsets or labels
/// that no call has reported yet.
#[non_exhaustive]
pub struct Check<'a, D: Device> {
    /// The policy for the steps after one that is not finite.
    pub policy: NonFinite,
    /// The number of the step, from 1.
    pub step: u64,
    /// One entry whose `step` takes the place of `step` here, if given.
    pub values: Option<View<'a, D, StepValues>>,
    /// The mean loss, one value.
    pub loss: View<'a, D, f64>,
    /// The gradients to check, each of any number of elements, 0 included.
    pub grads: [View<'a, D, f32>; 2],
    /// The verdict, [`Verdict::WORDS`] words; updated.
    pub verdict: ViewMut<'a, D, u64>,
}

impl<'a, D: Device> Check<'a, D> {
    /// Makes the arguments of the check of a step, counted from 1. `verdict` holds zeros before the
    /// first check, and is then passed from check to check.
    pub fn new(
        policy: NonFinite,
        step: u64,
        loss: impl Into<View<'a, D, f64>>,
        grads: [View<'a, D, f32>; 2],
        verdict: impl Into<ViewMut<'a, D, u64>>,
    ) -> Self {
        Self { policy, step, loss: loss.into(), grads, verdict: verdict.into(), values: None }
    }

    /// Lets the op read the number of the step from the device: one entry. By default the number is
    /// the one given to [`Self::new`].
    pub fn values(self, values: impl Into<View<'a, D, StepValues>>) -> Self {
        Self { values: Some(values.into()), ..self }
    }
}

impl<D: FiniteCheckOps> Check<'_, D> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.finite_check(self)
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "finite_check";
        expect_size(OP, "loss", self.loss.len(), 1)?;
        expect_size(OP, "verdict", self.verdict.len(), Verdict::WORDS)?;
        self.values.map_or(Ok(()), |values| expect_size(OP, "values", values.len(), 1))
    }

    /// Returns the least number of bytes moved: loss and gradients are read once, the verdict is
    /// read and written once.
    pub fn bytes_moved(&self) -> usize {
        let grads = sum(self.grads.iter().map(View::len));
        sum([product([grads, 4]), product([1 + 2 * Verdict::WORDS, 8])])
    }
}
