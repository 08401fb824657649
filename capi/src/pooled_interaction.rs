//! Lookup and interaction in one pass.

use bagdot::ops::embedding_bag;
use bagdot::ops::pooled_interaction::{Forward, Interact};
use bagdot::{Element, Index};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{
    Raw, Typed, bags, dtype_of, matrix, matrix_mut, matrix_mut_option, read_bags, with_element,
    with_index,
};
use crate::error::{Result, guard};
use crate::tables::{Tables, bagdot_tables, tables_of, with_weights};
use crate::types::{
    CStruct, bagdot_bags, bagdot_interaction, bagdot_matrix, c_structs, read_struct,
};

/// The arguments of bagdot_pooled_interaction_forward(). `dense`, `pooled` and `output` are of one
/// type: f32, f16 or bf16, whatever the type of the tables.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_pooled_interaction {
    /// `sizeof(bagdot_pooled_interaction)`.
    pub struct_size: u32,
    /// 1 if the op must write the pooled vectors to `pooled`, as a gradient needs them. Otherwise
    /// the contents of `pooled` are unspecified afterwards.
    pub keeps_pooled: u32,
    /// The ids.
    pub bags: *const bagdot_bags,
    /// The interaction.
    pub interaction: *const bagdot_interaction,
    /// The dense vectors, `[batch_size, dim]`.
    pub dense: *const bagdot_matrix,
    /// The pooled vectors, `[batch_size, width]`: an output, or workspace.
    pub pooled: *const bagdot_matrix,
    /// The sources of maxima, as for bagdot_embedding_bag_forward(); or null.
    pub argmax: *const bagdot_matrix,
    /// The output of the interaction.
    pub output: *const bagdot_matrix,
}

c_structs! { bagdot_pooled_interaction }

/// Does bagdot_embedding_bag_forward() and bagdot_interaction_forward() in one pass, with the same
/// bits. On the CPU the pooled vectors stay in the cache meanwhile.
///
/// # Safety
/// As for these two.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_pooled_interaction_forward(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    arguments: *const bagdot_pooled_interaction,
) -> i32 {
    const OP: &str = "bagdot_pooled_interaction_forward";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let arguments = read_struct(OP, arguments)?;
        let bags = read_bags(OP, arguments.bags)?;
        let dtype = dtype_of(OP, "pooled", arguments.pooled)?;
        on_device!(OP, context, on => with_index!(OP, bags, I => {
            with_element!(OP, "pooled", dtype, O => {
                forward::<_, I, O>(OP, on, tables_of(OP, tables)?, &bags, &arguments)
            })
        }))
    })
}

/// # Safety
/// As for [`bagdot_pooled_interaction_forward`].
unsafe fn forward<D: Raw, I: Index + Typed, O: Element + Typed>(
    op: &str,
    on: &On<D>,
    tables: &Tables<D>,
    of: &bagdot_bags,
    arguments: &bagdot_pooled_interaction,
) -> Result<()> {
    let layout = &tables.layout;
    // SAFETY: the caller's promise.
    unsafe {
        let (interaction, dim, precision) = read_struct(op, arguments.interaction)?.parts(op)?;
        let bags = bags::<D, I>(op, of, layout.as_ref().features().len())?;
        let pooled = matrix_mut::<D, O>(op, "pooled", arguments.pooled)?;
        let argmax = matrix_mut_option(op, "argmax", arguments.argmax)?;
        let dense = matrix(op, "dense", arguments.dense)?;
        let output = matrix_mut(op, "output", arguments.output)?;
        let interact = Interact::new(interaction, dim, dense, output)
            .precision(precision)
            .keeps_pooled(arguments.keeps_pooled != 0);
        with_weights!(op, &tables.weights, values => {
            let weights = values.view(&on.device, layout)?;
            let lookup = embedding_bag::Forward::new(layout, weights, bags, pooled);
            let lookup = match argmax {
                Some(argmax) => lookup.argmax(argmax),
                None => lookup,
            };
            Ok(Forward { lookup, interact }.run(&on.device)?)
        })
    }
}
