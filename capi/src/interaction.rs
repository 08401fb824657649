//! The interaction of the features of a sample: their pairwise dot products, or their
//! concatenation.

use bagdot::Element;
use bagdot::ops::interaction::{Backward, Features, FeaturesMut, Forward};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{Raw, Typed, dtype_of, matrix, matrix_mut, with_element};
use crate::error::{Error, Result, guard};
use crate::types::{bagdot_features, bagdot_interaction, bagdot_matrix, read_struct, size, write};

/// Gets the number of columns of the output for `num_sparse` pooled vectors, with or without a
/// dense vector.
///
/// # Safety
/// `interaction` is to a struct whose size is set, and `width` to memory for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_interaction_width(
    interaction: *const bagdot_interaction,
    has_dense: u32,
    num_sparse: u64,
    width: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_interaction_width";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (interaction, dim, _) = read_struct(OP, interaction)?.parts(OP)?;
        let columns = interaction.width(has_dense != 0, size(OP, "num_sparse", num_sparse)?, dim);
        write(OP, "width", width, columns as u64)
    })
}

/// Returns the matrix that says the type of the features.
fn typed_by(op: &str, features: &bagdot_features) -> Result<*const bagdot_matrix> {
    match (features.joined.is_null(), features.dense.is_null() || features.sparse.is_null()) {
        (false, _) if features.dense.is_null() && features.sparse.is_null() => Ok(features.joined),
        (true, false) => Ok(features.sparse),
        _ => Err(Error::invalid(op, "features", "set dense and sparse, or joined alone")),
    }
}

/// Computes the dense vector followed by the dot products of all pairs of features, or the
/// concatenation of the features.
///
/// Features and output, `[batch_size, width]`, are of one type: f32, f16 or bf16.
///
/// # Safety
/// `context` is a context, and the other pointers are to structs whose pointers are to as much
/// memory of its device as their fields say. `output` overlaps nothing else. On CUDA all of it
/// stays unchanged until the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_interaction_forward(
    context: *const bagdot_context,
    interaction: *const bagdot_interaction,
    features: *const bagdot_features,
    output: *const bagdot_matrix,
) -> i32 {
    const OP: &str = "bagdot_interaction_forward";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (interaction, features) = (read_struct(OP, interaction)?, read_struct(OP, features)?);
        let dtype = dtype_of(OP, "features", typed_by(OP, &features)?)?;
        on_device!(OP, context, on => with_element!(OP, "features", dtype, E => {
            forward::<_, E>(OP, on, interaction, &features, output)
        }))
    })
}

/// Makes features for reading.
///
/// # Safety
/// As for [`bagdot_interaction_forward`].
pub(crate) unsafe fn shared<'a, D: Raw, E: Element + Typed>(
    op: &str,
    features: &bagdot_features,
) -> Result<Features<'a, D, E>> {
    typed_by(op, features)?;
    // SAFETY: the caller's promise.
    unsafe {
        Ok(match features.joined.is_null() {
            true => Features::Split {
                dense: matrix(op, "features.dense", features.dense)?,
                sparse: matrix(op, "features.sparse", features.sparse)?,
            },
            false => Features::Joined {
                block: matrix(op, "features.joined", features.joined)?,
                has_dense: features.has_dense != 0,
            },
        })
    }
}

/// # Safety
/// As for [`bagdot_interaction_forward`].
unsafe fn forward<D: Raw, E: Element + Typed>(
    op: &str,
    on: &On<D>,
    interaction: bagdot_interaction,
    features: &bagdot_features,
    output: *const bagdot_matrix,
) -> Result<()> {
    let (interaction, dim, precision) = interaction.parts(op)?;
    // SAFETY: the caller's promise.
    let (features, output) =
        unsafe { (shared::<D, E>(op, features)?, matrix_mut(op, "output", output)?) };
    Ok(Forward::new(interaction, dim, features, output).precision(precision).run(&on.device)?)
}

/// Computes the gradient of the features from that of the output. `grad_features` has the layout of
/// the features, and is overwritten.
///
/// # Safety
/// As for bagdot_interaction_forward(); the memory of `grad_features` overlaps nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_interaction_backward(
    context: *const bagdot_context,
    interaction: *const bagdot_interaction,
    features: *const bagdot_features,
    grad_output: *const bagdot_matrix,
    grad_features: *const bagdot_features,
) -> i32 {
    const OP: &str = "bagdot_interaction_backward";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (interaction, features) = (read_struct(OP, interaction)?, read_struct(OP, features)?);
        let grad_features = read_struct(OP, grad_features)?;
        let dtype = dtype_of(OP, "features", typed_by(OP, &features)?)?;
        on_device!(OP, context, on => with_element!(OP, "features", dtype, E => {
            backward::<_, E>(OP, on, interaction, &features, grad_output, &grad_features)
        }))
    })
}

/// # Safety
/// As for [`bagdot_interaction_backward`].
unsafe fn backward<D: Raw, E: Element + Typed>(
    op: &str,
    on: &On<D>,
    interaction: bagdot_interaction,
    features: &bagdot_features,
    grad_output: *const bagdot_matrix,
    grads: &bagdot_features,
) -> Result<()> {
    let (interaction, dim, precision) = interaction.parts(op)?;
    typed_by(op, grads)?;
    // SAFETY: the caller's promise.
    unsafe {
        let features = shared::<D, E>(op, features)?;
        let grad_output = matrix(op, "grad_output", grad_output)?;
        let grads = match grads.joined.is_null() {
            true => FeaturesMut::Split {
                dense: matrix_mut(op, "grad_features.dense", grads.dense)?,
                sparse: matrix_mut(op, "grad_features.sparse", grads.sparse)?,
            },
            false => {
                FeaturesMut::Joined { block: matrix_mut(op, "grad_features.joined", grads.joined)? }
            }
        };
        let backward = Backward::new(interaction, dim, features, grad_output, grads);
        Ok(backward.precision(precision).run(&on.device)?)
    }
}
