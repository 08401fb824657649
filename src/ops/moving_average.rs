//! An exponential moving average of parameters: `average += (1 - decay) (value - average)`.
//!
//! A model with averaged parameters generalises better than one with the parameters of the last
//! step (Polyak & Juditsky, 1992).
//!
//! # Example
//!
//! ```
//! use bagdot::ops::moving_average::Update;
//!
//! let cpu = bagdot::Cpu::on_current_thread();
//! let (values, mut average) = ([4.0_f32, 0.0], [0.0_f32, 4.0]);
//! Update::new(0.75, &values, &mut average).run(&cpu)?;
//! // 0 + 0.25 (4 - 0), and 4 + 0.25 (0 - 4).
//! assert_eq!(average, [1.0, 3.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use super::device::Device;
use super::optimizer::StepControl;
use super::views::{View, ViewMut};
use crate::error::{Result, expect_size, invalid};
use crate::size::product;

/// The backend's side of the op. Call it through [`Update::run`], which validates the arguments.
pub trait MovingAverageOps: Device {
    /// Runs [`Update`] with arguments that are valid.
    fn moving_average(&self, args: Update<'_, Self>) -> Result<()>;
}

/// The arguments of one step of the average of `N` parameters, in place.
#[non_exhaustive]
pub struct Update<'a, D: Device> {
    /// The values of the step, whose decay takes the place of `decay`, and the gate of the step,
    /// one entry each.
    pub control: StepControl<'a, D>,
    /// The weight of the old average, in [0, 1].
    pub decay: f32,
    /// The parameters, `[N]`.
    pub values: View<'a, D, f32>,
    /// The average, `[N]`; updated.
    pub average: ViewMut<'a, D, f32>,
}

impl<'a, D: Device> Update<'a, D> {
    /// Makes the arguments of a step with this decay, whose gate is open.
    pub fn new(
        decay: f32,
        values: impl Into<View<'a, D, f32>>,
        average: impl Into<ViewMut<'a, D, f32>>,
    ) -> Self {
        Self {
            decay,
            values: values.into(),
            average: average.into(),
            control: StepControl::default(),
        }
    }

    /// Lets the op read decay and gate from the device. By default the decay is the one given to
    /// [`Self::new`], and there is no gate.
    pub fn control(self, control: StepControl<'a, D>) -> Self {
        Self { control, ..self }
    }
}

impl<D: MovingAverageOps> Update<'_, D> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for different lengths or a decay outside [0, 1], before anything is
    /// written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.moving_average(self)
    }

    /// Checks the lengths and the decay, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for different lengths or a decay outside [0, 1].
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "moving_average";
        if !(0.0..=1.0).contains(&self.decay) {
            return Err(invalid(OP, "decay", format!("{}, but must be in [0, 1]", self.decay)));
        }
        self.control.check(OP)?;
        expect_size(OP, "average", self.average.len(), self.values.len())
    }

    /// Returns the least number of bytes moved: parameters are read once, the average is read and
    /// written once.
    pub fn bytes_moved(&self) -> usize {
        product([3, self.values.len(), 4])
    }
}
