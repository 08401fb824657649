//! An exponential moving average of parameters: `average += (1 - decay) (value - average)`.
//!
//! A model with averaged parameters generalises better than the one that the last steps left
//! (Polyak & Juditsky, 1992).

use super::device::Device;
use super::optimizer::StepControl;
use super::views::Extent;
use crate::error::{Result, expect_size, invalid};

/// What a backend provides; call it through [`Update::run`], which validates.
pub trait MovingAverageOps: Device {
    /// See [`Update`].
    fn moving_average(&self, args: Update<'_, Self>) -> Result<()>;
}

/// One step of the average, in place.
pub struct Update<'a, D: Device> {
    /// What is read from the device: the decay, in place of the one here, and whether there is
    /// anything to do.
    pub control: StepControl<'a, D>,
    /// How much of the average stays, in [0, 1].
    pub decay: f32,
    /// What is averaged.
    pub values: D::Slice<'a, f32>,
    /// The average, as long.
    pub average: D::SliceMut<'a, f32>,
}

impl<D: MovingAverageOps> Update<'_, D> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Different lengths or a decay outside [0, 1], before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.moving_average(self)
    }

    /// Checks lengths and decay; see [`Self::run`].
    ///
    /// # Errors
    /// Different lengths or a decay outside [0, 1].
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "moving_average";
        if !(0.0..=1.0).contains(&self.decay) {
            return Err(invalid(OP, "decay", format!("{}, but must be in [0, 1]", self.decay)));
        }
        self.control.check(OP)?;
        expect_size(OP, "average", self.average.extent(), self.values.extent())
    }
}
