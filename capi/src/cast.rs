//! Conversion of a matrix to another storage type.

use bagdot::Element;
use bagdot::ops::cast::Cast;

use crate::context::{On, bagdot_context, on_device};
use crate::device::{Raw, Typed, dtype_of, matrix, matrix_mut, with_element};
use crate::error::{Result, guard};
use crate::types::bagdot_matrix;

/// Converts a matrix: `to = factor * from`, where `factor` is a power of two. Each of both is f32,
/// f16 or bf16.
///
/// # Safety
/// `context` is a context, and the matrices are structs whose pointers are to as much memory of its
/// device as their fields say, which does not overlap. On CUDA all of it stays unchanged until the
/// op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_cast(
    context: *const bagdot_context,
    factor: f32,
    from: *const bagdot_matrix,
    to: *const bagdot_matrix,
) -> i32 {
    const OP: &str = "bagdot_cast";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (of, other) = (dtype_of(OP, "from", from)?, dtype_of(OP, "to", to)?);
        on_device!(OP, context, on => with_element!(OP, "from", of, A => {
            with_element!(OP, "to", other, B => cast::<_, A, B>(OP, on, factor, from, to))
        }))
    })
}

/// # Safety
/// As for [`bagdot_cast`].
unsafe fn cast<D: Raw, A: Element + Typed, B: Element + Typed>(
    op: &str,
    on: &On<D>,
    factor: f32,
    from: *const bagdot_matrix,
    to: *const bagdot_matrix,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let (from, to) =
        unsafe { (matrix::<D, A>(op, "from", from)?, matrix_mut::<D, B>(op, "to", to)?) };
    Ok(Cast { factor, from, to }.run(&on.device)?)
}
