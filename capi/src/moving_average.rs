//! An exponential moving average of parameters.

use bagdot::ops::moving_average::Update;

use crate::context::{On, bagdot_context, on_device};
use crate::dense_update::control as control_of;
use crate::device::{Raw, view, view_mut};
use crate::error::{Result, guard};
use crate::types::{bagdot_step_control, read_option, size};

/// Takes one step of the average of `num_values` parameters:
/// `average += (1 - decay) (value - average)`. Values of `control` take the place of `decay`.
///
/// # Safety
/// `context` is a context, `control` is null or to a struct with addresses on its device, and the
/// arrays have `num_values` elements there. `average` overlaps nothing else. On CUDA all of it
/// stays unchanged until the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_moving_average(
    context: *const bagdot_context,
    decay: f32,
    num_values: u64,
    values: *const f32,
    average: *mut f32,
    control: *const bagdot_step_control,
) -> i32 {
    const OP: &str = "bagdot_moving_average";
    /// # Safety
    /// As for the function around this one.
    unsafe fn update<D: Raw>(
        on: &On<D>,
        (decay, len): (f32, usize),
        values: *const f32,
        average: *mut f32,
        control: Option<bagdot_step_control>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            let values = view::<D, f32>(OP, "values", values, len)?;
            let average = view_mut(OP, "average", average, len)?;
            let update = Update::new(decay, values, average).control(control_of(OP, control)?);
            Ok(update.run(&on.device)?)
        }
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let sizes = (decay, size(OP, "num_values", num_values)?);
        let control = read_option(OP, control)?;
        on_device!(OP, context, on => update(on, sizes, values, average, control))
    })
}
