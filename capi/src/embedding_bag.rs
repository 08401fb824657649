//! Pooled lookup of bags of ids in a batch of tables, and the gradient of per-sample weights.

use bagdot::ops::embedding_bag::{Forward, WeightGrad};
use bagdot::{Element, Index};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{
    Raw, Typed, bags, dtype_of, matrix, matrix_mut, matrix_mut_option, read_bags, view_mut,
    with_element, with_index,
};
use crate::error::{Result, guard};
use crate::tables::{Tables, bagdot_tables, tables_of, with_weights};
use crate::types::{bagdot_bags, bagdot_matrix};

/// Computes the pooled vectors of all bags: for each feature, the sum, mean or maximum of the rows
/// of a bag.
///
/// `output` is `[batch_size, width]`, of f32, f16 or bf16, whatever the type of the tables.
/// `argmax`, of the same shape and of u32, receives the sources of maxima in columns of features
/// that are pooled by max; null if no gradient follows. A bad id adds nothing to its bag, and all
/// others are pooled.
///
/// # Safety
/// `context` is a context, `tables` are tables of the same context with weights, and the other
/// pointers are null or to structs whose pointers are to as much memory of its device as their
/// fields say. `output` and `argmax` overlap nothing else. On CUDA all of it stays unchanged until
/// the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_embedding_bag_forward(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    bags: *const bagdot_bags,
    output: *const bagdot_matrix,
    argmax: *const bagdot_matrix,
) -> i32 {
    const OP: &str = "bagdot_embedding_bag_forward";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let bags = read_bags(OP, bags)?;
        let dtype = dtype_of(OP, "output", output)?;
        on_device!(OP, context, on => with_index!(OP, bags, I => {
            with_element!(OP, "output", dtype, O => {
                forward::<_, I, O>(OP, on, tables_of(OP, tables)?, &bags, output, argmax)
            })
        }))
    })
}

/// # Safety
/// As for [`bagdot_embedding_bag_forward`].
unsafe fn forward<D: Raw, I: Index + Typed, O: Element + Typed>(
    op: &str,
    on: &On<D>,
    tables: &Tables<D>,
    of: &bagdot_bags,
    output: *const bagdot_matrix,
    argmax: *const bagdot_matrix,
) -> Result<()> {
    let layout = &tables.layout;
    // SAFETY: the caller's promise.
    unsafe {
        let bags = bags::<D, I>(op, of, layout.as_ref().features().len())?;
        let output = matrix_mut::<D, O>(op, "output", output)?;
        let argmax = matrix_mut_option(op, "argmax", argmax)?;
        with_weights!(op, &tables.weights, values => {
            let weights = values.view(&on.device, layout)?;
            let forward = Forward::new(layout, weights, bags, output);
            let forward = match argmax {
                Some(argmax) => forward.argmax(argmax),
                None => forward,
            };
            Ok(forward.run(&on.device)?)
        })
    }
}

/// Computes the gradient of the per-sample weights, from the rows before any update: one value for
/// each id, zero for padding and for bad ids.
///
/// `grad_output` is the gradient of the pooled output, `[batch_size, width]`, of f32, f16 or bf16.
/// `grad_weights` has `num_indices` elements.
///
/// # Safety
/// As for bagdot_embedding_bag_forward(); `grad_weights` overlaps nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_embedding_bag_weight_grad(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    bags: *const bagdot_bags,
    grad_output: *const bagdot_matrix,
    grad_weights: *mut f32,
) -> i32 {
    const OP: &str = "bagdot_embedding_bag_weight_grad";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let bags = read_bags(OP, bags)?;
        let dtype = dtype_of(OP, "grad_output", grad_output)?;
        on_device!(OP, context, on => with_index!(OP, bags, I => {
            with_element!(OP, "grad_output", dtype, G => {
                let tables = tables_of(OP, tables)?;
                weight_grad::<_, I, G>(OP, on, tables, &bags, grad_output, grad_weights)
            })
        }))
    })
}

/// # Safety
/// As for [`bagdot_embedding_bag_weight_grad`].
unsafe fn weight_grad<D: Raw, I: Index + Typed, G: Element + Typed>(
    op: &str,
    on: &On<D>,
    tables: &Tables<D>,
    of: &bagdot_bags,
    grad_output: *const bagdot_matrix,
    grad_weights: *mut f32,
) -> Result<()> {
    let layout = &tables.layout;
    // SAFETY: the caller's promise.
    unsafe {
        let bags = bags::<D, I>(op, of, layout.as_ref().features().len())?;
        let grad_output = matrix::<D, G>(op, "grad_output", grad_output)?;
        let grad_weights = view_mut(op, "grad_weights", grad_weights, bags.num_indices())?;
        with_weights!(op, &tables.weights, values => {
            let weights = values.view(&on.device, layout)?;
            Ok(WeightGrad::new(layout, weights, bags, grad_output, grad_weights).run(&on.device)?)
        })
    }
}
