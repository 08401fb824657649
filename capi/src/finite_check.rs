//! A check that allows a step only if its loss and its gradients are finite.

use bagdot::ops::finite_check::{Check, NonFinite, Verdict};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{Raw, view, view_mut, view_option};
use crate::error::{Result, guard};
use crate::types::{CStruct, bagdot_step_values, c_structs, conversion, read_struct, size};

/// The policy for a step whose loss or gradient is not finite.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_non_finite {
    /// Neither that step nor any later one changes anything.
    ERROR = 0,
    /// That step changes nothing, and the next one is taken as usual.
    SKIP_STEP = 1,
}

conversion! {
    policy: bagdot_non_finite -> NonFinite {
        ERROR => NonFinite::Error,
        SKIP_STEP => NonFinite::SkipStep,
    }
}

/// The number of words of a verdict: gate, steps that were not finite, the first and the last of
/// these, and a word that is not 0 if an earlier op has found a value that is not finite.
pub const BAGDOT_VERDICT_WORDS: u32 = 5;
const _: () = assert!(BAGDOT_VERDICT_WORDS as usize == Verdict::WORDS && Verdict::GATE == 0);

/// The arguments of bagdot_finite_check().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_finite_check_arguments {
    /// `sizeof(bagdot_finite_check_arguments)`.
    pub struct_size: u32,
    /// A `bagdot_non_finite`.
    pub policy: i32,
    /// The number of the step, from 1.
    pub step: u64,
    /// One entry on the device whose `step` takes the place of `step`; or null.
    pub values: *const bagdot_step_values,
    /// The mean loss, one value.
    pub loss: *const f64,
    /// Two gradients to check; null for none.
    pub grads: [*const f32; 2],
    /// The number of elements of each.
    pub num_grads: [u64; 2],
    /// The verdict, `[BAGDOT_VERDICT_WORDS]`: zeros before the first check, updated by each. Its
    /// first word is a gate for bagdot_step_control.
    pub verdict: *mut u64,
}

c_structs! { bagdot_finite_check_arguments }

/// Shuts the gate of a step if its loss or a gradient is not finite, or if ops have found a bad id,
/// offset or label that no call has reported yet. The result stays on the device.
///
/// # Safety
/// `context` is a context, and the pointers of the arguments are null or to as much memory of its
/// device as they say. The verdict overlaps nothing else. On CUDA all of it stays unchanged until
/// the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_finite_check(
    context: *const bagdot_context,
    arguments: *const bagdot_finite_check_arguments,
) -> i32 {
    const OP: &str = "bagdot_finite_check";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let arguments = read_struct(OP, arguments)?;
        on_device!(OP, context, on => check(OP, on, &arguments))
    })
}

/// # Safety
/// As for [`bagdot_finite_check`].
unsafe fn check<D: Raw>(
    op: &str,
    on: &On<D>,
    arguments: &bagdot_finite_check_arguments,
) -> Result<()> {
    let policy = policy(op, "policy", arguments.policy)?;
    // SAFETY: the caller's promise.
    unsafe {
        let len = |k: usize| size(op, "num_grads", arguments.num_grads[k]);
        let grads = [
            view::<D, f32>(op, "grads[0]", arguments.grads[0], len(0)?)?,
            view(op, "grads[1]", arguments.grads[1], len(1)?)?,
        ];
        let loss = view(op, "loss", arguments.loss, 1)?;
        let verdict = view_mut(op, "verdict", arguments.verdict, Verdict::WORDS)?;
        let check = Check::new(policy, arguments.step, loss, grads, verdict);
        let check = match view_option(op, "values", arguments.values.cast(), 1)? {
            Some(values) => check.values(values),
            None => check,
        };
        Ok(check.run(&on.device)?)
    }
}
