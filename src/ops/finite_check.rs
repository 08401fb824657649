//! Checks whether a step may be taken: its loss and its gradients must be finite, and nothing may
//! have been found wrong with its ids and labels.
//!
//! The result stays on the device, where the ops of the step read it
//! ([`StepControl::gate`](super::StepControl)): nobody waits for it.

use super::device::Device;
use super::optimizer::StepValues;
use super::views::Extent;
use crate::error::{Result, expect_size};

/// What happens where a loss or a gradient is infinite or not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum NonFinite {
    /// Neither that step nor any after it changes anything, and the next call that waits for the
    /// device says so.
    #[default]
    Error,
    /// That step changes nothing; the next one is taken as if it had not been.
    SkipStep,
}

/// What has been found since the verdict was all zeros, as words of its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Steps with a loss or gradient that is not finite.
    pub steps: u64,
    /// The number of the first of these, from 1; 0 for none.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
}

impl Verdict {
    /// The words of a verdict: gate, steps, first, last, and one for the op's own use.
    pub const WORDS: usize = 5;
    /// The word that is not 0 if the step must change nothing.
    pub const GATE: usize = 0;

    /// What the words say.
    pub fn of(words: &[u64; Self::WORDS]) -> Self {
        let [_, steps, first, last, _] = *words;
        Self { steps, first, last }
    }
}

/// What a backend provides; call it through [`Check::run`], which validates.
pub trait FiniteCheckOps: Device {
    /// See [`Check`].
    fn finite_check(&self, args: Check<'_, Self>) -> Result<()>;
}

/// Looks through loss and gradients of a step. The gate is shut if one of them is not finite, if it
/// was shut before and the policy is [`NonFinite::Error`], or if ops have found ids, offsets or
/// labels wrong that no call has reported yet.
pub struct Check<'a, D: Device> {
    /// What a shut gate means for the steps after this one.
    pub policy: NonFinite,
    /// The number of the step, from 1.
    pub step: u64,
    /// One entry; if there, it has the number of the step.
    pub values: Option<D::Slice<'a, StepValues>>,
    /// The mean loss, one value.
    pub loss: D::Slice<'a, f64>,
    /// Gradients.
    pub grads: [D::Slice<'a, f32>; 2],
    /// [`Verdict::WORDS`] words.
    pub verdict: D::SliceMut<'a, u64>,
}

impl<D: FiniteCheckOps> Check<'_, D> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.finite_check(self)
    }

    /// Checks shapes; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "finite_check";
        expect_size(OP, "loss", self.loss.extent(), 1)?;
        expect_size(OP, "verdict", self.verdict.extent(), Verdict::WORDS)?;
        self.values.map_or(Ok(()), |values| expect_size(OP, "values", values.extent(), 1))
    }
}
