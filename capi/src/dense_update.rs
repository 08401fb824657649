//! An optimizer step on dense parameters.

use std::ffi::c_void;

use bagdot::Element;
use bagdot::ops::dense_update::Update;
use bagdot::ops::{StateOf, StepControl, StepValues, UpdateRule};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{Raw, view, view_mut, view_mut_option, with_element};
use crate::error::{Result, guard};
use crate::types::{
    CStruct, bagdot_optimizer, bagdot_rule, bagdot_step_control, bagdot_step_values, c_structs,
    dtype, optimizer, read_option, read_struct, size, write,
};

/// The memory of dense parameters and their step.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_dense_step {
    /// `sizeof(bagdot_dense_step)`.
    pub struct_size: u32,
    /// The factor of the loss whose gradient `grad` is, a power of two; 0 for 1.
    pub loss_scale: f32,
    /// The bound of every element of the gradient, which is clamped to `[-max, max]`; 0 for no
    /// clamp.
    pub max_gradient: f32,
    /// The type of `rounded`: `BAGDOT_DTYPE_F32`, `F16` or `BF16`.
    pub rounded_dtype: i32,
    /// The number N of parameters.
    pub num_parameters: u64,
    /// The gradient, `[N]`.
    pub grad: *const f32,
    /// The parameters, `[N]`, updated.
    pub parameters: *mut f32,
    /// The sums of squares of Adagrad, or the first moments of Adam, `[N]`; else null.
    pub first: *mut f32,
    /// The second moments of Adam, `[N]`; else null.
    pub second: *mut f32,
    /// The output for the new parameters rounded to `rounded_dtype`, `[N]`; null if they are not
    /// needed.
    pub rounded: *mut c_void,
}

c_structs! { bagdot_dense_step }

// The struct of the interface has the fields of the one that ops read.
const _: () = {
    assert!(size_of::<bagdot_step_values>() == size_of::<StepValues>());
    assert!(align_of::<bagdot_step_values>() == align_of::<StepValues>());
    macro_rules! same {
        ($($field:ident)*) => {$(
            assert!(
                std::mem::offset_of!(bagdot_step_values, $field)
                    == std::mem::offset_of!(StepValues, $field)
            );
        )*};
    }
    same!(step learning_rate shrink first_correction second_correction decay);
};

/// Computes the values of a rule, with the decay of a moving average, for bagdot_step_control.
///
/// # Safety
/// `rule` is to a struct whose size is set, and `values` to memory of the host for the values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_step_values_of(
    rule: *const bagdot_rule,
    decay: f32,
    values: *mut bagdot_step_values,
) -> i32 {
    const OP: &str = "bagdot_step_values_of";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let found = StepValues::new(&read_struct(OP, rule)?.to_rule(OP)?, decay);
        let StepValues { step, learning_rate, shrink, first_correction, second_correction, .. } =
            found;
        let found = bagdot_step_values {
            step,
            learning_rate,
            shrink,
            first_correction,
            second_correction,
            decay,
            reserved: 0,
        };
        write(OP, "values", values, found)
    })
}

/// Makes the values and the gate that an op reads from the device.
///
/// # Safety
/// The pointers are null or to one entry each on the device, as [`view`] needs them.
pub(crate) unsafe fn control<'a, D: Raw>(
    op: &str,
    control: Option<bagdot_step_control>,
) -> Result<StepControl<'a, D>> {
    let Some(control) = control else { return Ok(StepControl::default()) };
    // SAFETY: the caller's promise. Both structs of values have the same fields.
    let (values, gate) = unsafe {
        (
            crate::device::view_option(op, "control.values", control.values.cast(), 1)?,
            crate::device::view_option(op, "control.gate", control.gate, 1)?,
        )
    };
    Ok(StepControl { values, gate })
}

/// Takes a step on N dense parameters: parameters and state are updated in place. Row-wise Adagrad
/// means Adagrad here.
///
/// # Safety
/// `context` is a context, and the other pointers are null or to structs whose pointers are to as
/// much memory of its device as their fields say. Parameters, state and `rounded` overlap nothing
/// else. On CUDA all of it stays unchanged until the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_dense_update(
    context: *const bagdot_context,
    rule: *const bagdot_rule,
    step: *const bagdot_dense_step,
    control: *const bagdot_step_control,
) -> i32 {
    const OP: &str = "bagdot_dense_update";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (rule, step) = (read_struct(OP, rule)?, read_struct(OP, step)?);
        let control = read_option(OP, control)?;
        let kind = optimizer(OP, "rule.optimizer", rule.optimizer)?;
        let rule = rule.to_rule(OP)?;
        let dtype = dtype(OP, "rounded_dtype", step.rounded_dtype)?;
        on_device!(OP, context, on => with_element!(OP, "rounded_dtype", dtype, E => {
            update::<_, E>(OP, on, (kind, rule), &step, control)
        }))
    })
}

/// # Safety
/// As for [`bagdot_dense_update`].
unsafe fn update<D: Raw, E: Element>(
    op: &str,
    on: &On<D>,
    (optimizer, rule): (bagdot_optimizer, UpdateRule),
    step: &bagdot_dense_step,
    step_control: Option<bagdot_step_control>,
) -> Result<()> {
    let n = size(op, "num_parameters", step.num_parameters)?;
    // SAFETY: the caller's promise.
    unsafe {
        let grad = view::<D, f32>(op, "grad", step.grad, n)?;
        let parameters = view_mut(op, "parameters", step.parameters, n)?;
        let state = match optimizer {
            bagdot_optimizer::SGD => StateOf::None,
            bagdot_optimizer::ADAGRAD | bagdot_optimizer::ROWWISE_ADAGRAD => {
                StateOf::SumOfSquares(view_mut(op, "first", step.first, n)?)
            }
            bagdot_optimizer::ADAM => StateOf::Moments {
                first: view_mut(op, "first", step.first, n)?,
                second: view_mut(op, "second", step.second, n)?,
            },
        };
        let rounded = view_mut_option::<D, E>(op, "rounded", step.rounded.cast(), n)?;
        let mut update =
            Update::new(rule, grad, parameters, state).control(control(op, step_control)?);
        if step.loss_scale != 0.0 {
            update = update.loss_scale(step.loss_scale);
        }
        if step.max_gradient != 0.0 {
            update = update.max_gradient(step.max_gradient);
        }
        let update = match rounded {
            Some(rounded) => update.rounded(rounded),
            None => update,
        };
        Ok(update.run(&on.device)?)
    }
}
