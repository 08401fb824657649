//! Gradients of rows, kept or applied at once.

use std::ffi::c_void;

use bagdot::ops::index_sort::Sort;
use bagdot::ops::sparse_update::{Apply, Merge, PooledGrad, Reduce, SparseGrad, Update};
use bagdot::{Element, Index};

use crate::context::{On, bagdot_context, on_device};
use crate::dense_update::control;
use crate::device::{
    Either, Family, Raw, Typed, bags, destroy, dtype_of, handle, handle_mut, make, matrix,
    matrix_option, other_backend, read_bags, view_option, with_element, with_index,
};
use crate::error::{Error, Result, guard};
use crate::index_sort::{buffer, order_of};
use crate::tables::{Tables, bagdot_tables, tables_of, tables_of_mut, with_weights};
use crate::types::{
    CStruct, bagdot_bags, bagdot_matrix, bagdot_pooled_grad, bagdot_rule, bagdot_step_control,
    c_structs, read_option, read_struct, size, write, write_struct,
};

/// A gradient that has values for some rows only: opaque. Its memory is the library's or the
/// caller's.
pub struct bagdot_gradient(Either<Gradients>);

/// The family of the contents of gradients.
struct Gradients;

impl Family for Gradients {
    type Of<D: Raw> = SparseGrad<D>;
}

/// The memory of a gradient, on its device.
///
/// Let `u` be the number in `counts`. Row `rows[k]`, `k < u`, counted through all tables, has the
/// gradient `values[starts[k] .. starts[k + 1]]`. `rows` increases strictly.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_gradient_memory {
    /// `sizeof(bagdot_gradient_memory)`.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// The largest number of rows.
    pub capacity: u64,
    /// The number of elements of `values`, at least `capacity` times the largest dimension.
    pub num_values: u64,
    /// The rows, `[capacity]`.
    pub rows: *mut u64,
    /// The bounds of each row's values, `[capacity + 1]`.
    pub starts: *mut u64,
    /// The values, `[num_values]`.
    pub values: *mut f32,
    /// `u`, one number.
    pub counts: *mut u32,
}

c_structs! { bagdot_gradient_memory }

/// Allocates a gradient for at most `capacity` rows of these tables. A batch needs at most as many
/// as it has ids.
///
/// # Safety
/// `context` is a context, `tables` are its tables, and `out` is to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_gradient_create(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    capacity: u64,
    out: *mut *mut bagdot_gradient,
) -> i32 {
    const OP: &str = "bagdot_gradient_create";
    fn create<D: Raw>(on: &On<D>, tables: &Tables<D>, capacity: usize) -> Result<bagdot_gradient> {
        let gradient = SparseGrad::new(&on.device, tables.layout.as_ref(), capacity)?;
        Ok(bagdot_gradient(D::wrap(gradient)))
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let capacity = size(OP, "capacity", capacity)?;
        make(
            OP,
            out,
            || on_device!(OP, context, on => create(on, tables_of(OP, tables)?, capacity)),
        )
    })
}

/// Makes a gradient without rows on memory of the caller, whatever it holds.
///
/// # Safety
/// `context` is a context, `tables` are its tables, `out` is to memory for a pointer, and `memory`
/// to a struct with the addresses of as many initialised elements of its device. Until the gradient
/// is destroyed, and on CUDA until all work on it has run, nothing but the gradient uses them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_gradient_create_on(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    memory: *const bagdot_gradient_memory,
    out: *mut *mut bagdot_gradient,
) -> i32 {
    const OP: &str = "bagdot_gradient_create_on";
    /// # Safety
    /// As for the function around this one.
    unsafe fn create<D: Raw>(
        on: &On<D>,
        tables: &Tables<D>,
        memory: &bagdot_gradient_memory,
    ) -> Result<bagdot_gradient> {
        let capacity = size(OP, "capacity", memory.capacity)?;
        let num_values = size(OP, "num_values", memory.num_values)?;
        let device = &on.device;
        // SAFETY: the caller's promise.
        let gradient = unsafe {
            SparseGrad::with_buffers(
                device,
                tables.layout.as_ref(),
                buffer(OP, "rows", device, memory.rows, capacity)?,
                buffer(OP, "starts", device, memory.starts, capacity.saturating_add(1))?,
                buffer(OP, "values", device, memory.values, num_values)?,
                buffer(OP, "counts", device, memory.counts, 1)?,
            )?
        };
        Ok(bagdot_gradient(D::wrap(gradient)))
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let memory = read_struct(OP, memory)?;
        make(OP, out, || on_device!(OP, context, on => create(on, tables_of(OP, tables)?, &memory)))
    })
}

/// Gets the memory of a gradient: `capacity`, `num_values`, and addresses on its device, whose
/// contents stay until the next op that writes the gradient.
///
/// # Safety
/// `gradient` is a gradient, and `memory` to a struct whose size is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_gradient_get_memory(
    gradient: *const bagdot_gradient,
    memory: *mut bagdot_gradient_memory,
) -> i32 {
    const OP: &str = "bagdot_gradient_get_memory";
    fn memory_of<D: Raw>(gradient: &SparseGrad<D>) -> bagdot_gradient_memory {
        bagdot_gradient_memory {
            struct_size: 0,
            reserved: 0,
            capacity: gradient.capacity() as u64,
            num_values: gradient.values().len() as u64,
            rows: D::address(&gradient.rows()) as *mut u64,
            starts: D::address(&gradient.starts()) as *mut u64,
            values: D::address(&gradient.values()) as *mut f32,
            counts: D::address(&gradient.counts()) as *mut u32,
        }
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let found = match &handle(OP, "gradient", gradient)?.0 {
            Either::Cpu(gradient) => memory_of(gradient),
            Either::Cuda(gradient) => memory_of(gradient),
        };
        write_struct(OP, memory, found)
    })
}

/// Destroys a gradient; null is nothing. Memory of the caller stays.
///
/// # Safety
/// `gradient` is null or a gradient that nothing uses any more. On CUDA, all work on it has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_gradient_destroy(gradient: *mut bagdot_gradient) {
    // SAFETY: the caller's promise.
    unsafe { destroy(gradient) }
}

/// Returns the content of a gradient for a backend.
///
/// # Safety
/// The pointer is null or to a gradient, which nothing writes in the lifetime `'a`.
unsafe fn gradient_of<'a, D: Raw>(
    op: &str,
    argument: &str,
    gradient: *const bagdot_gradient,
) -> Result<&'a SparseGrad<D>> {
    // SAFETY: the caller's promise.
    D::pick(unsafe { &handle(op, argument, gradient)?.0 }).map_or_else(other_backend, Ok)
}

/// Returns the content of a gradient for a backend, for writing.
///
/// # Safety
/// As for [`gradient_of`], and nothing else uses the gradient.
unsafe fn gradient_of_mut<'a, D: Raw>(
    op: &str,
    argument: &str,
    gradient: *mut bagdot_gradient,
) -> Result<&'a mut SparseGrad<D>> {
    // SAFETY: the caller's promise.
    let gradient = unsafe { &mut handle_mut(op, argument, gradient)?.0 };
    D::pick_mut(gradient).map_or_else(other_backend, Ok)
}

/// Gets the size in bytes of the workspace of bagdot_sparse_update() and
/// bagdot_sparse_update_reduce() for a batch of this size.
///
/// # Safety
/// `context` is a context, `tables` are its tables, and `bytes` is to memory for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_sparse_update_workspace_size(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    num_indices: u64,
    bytes: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_sparse_update_workspace_size";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let num_indices = size(OP, "num_indices", num_indices)?;
        let words =
            on_device!(OP, context, on => words_of(on, tables_of(OP, tables)?, num_indices));
        write(OP, "bytes", bytes, (words as u64).saturating_mul(8))
    })
}

fn words_of<D: Raw>(on: &On<D>, tables: &Tables<D>, num_indices: usize) -> usize {
    words(&on.device, &tables.layout, num_indices)
}

fn words<D: Raw>(device: &D, layout: &D::Tables, num_indices: usize) -> usize {
    Reduce::<D, i64>::workspace_len(device, layout.as_ref(), num_indices)
}

/// Makes the source of a gradient.
///
/// # Safety
/// As for [`bagdot_sparse_update`].
unsafe fn pooled_grad<'a, D: Raw, I: Index + Typed, G: Element + Typed>(
    op: &str,
    layout: &'a D::Tables,
    of: &bagdot_bags,
    source: &bagdot_pooled_grad,
) -> Result<PooledGrad<'a, D, I, G>> {
    // SAFETY: the caller's promise.
    unsafe {
        let bags = bags::<D, I>(op, of, layout.as_ref().features().len())?;
        let order = order_of(op, source.order)?;
        let grad_output = matrix(op, "grad_output", source.grad_output)?;
        let mut made = PooledGrad::new(layout, bags, order, grad_output);
        if source.loss_scale != 0.0 {
            made = made.loss_scale(source.loss_scale);
        }
        if let Some(argmax) = matrix_option(op, "argmax", source.argmax)? {
            made = made.argmax(argmax);
        }
        Ok(if source.max_gradient == 0.0 { made } else { made.max_gradient(source.max_gradient) })
    }
}

/// Takes one step of the optimizer on each row that the batch looks up, without a gradient in
/// memory. The tables must have the state of the rule's optimizer.
///
/// `control` is null or values and gate of the step on the device. `decay_scale` is null or the
/// factor of the weight decay of each row, by row number through all tables.
///
/// # Safety
/// `context` is a context, and the handles are of the same context. The other pointers are null or
/// to structs and arrays whose pointers are to as much memory of its device as their fields say;
/// `workspace` to `workspace_size` bytes, at a multiple of 8. Nothing else uses the tables, their
/// weights and state, and the workspace meanwhile. On CUDA all of it stays unchanged until the op
/// has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_sparse_update(
    context: *const bagdot_context,
    tables: *mut bagdot_tables,
    source: *const bagdot_pooled_grad,
    rule: *const bagdot_rule,
    control: *const bagdot_step_control,
    decay_scale: *const f32,
    workspace: *mut c_void,
    workspace_size: u64,
) -> i32 {
    const OP: &str = "bagdot_sparse_update";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (source, rule) = (read_struct(OP, source)?, read_struct(OP, rule)?);
        let bags = read_bags(OP, source.bags)?;
        let dtype = dtype_of(OP, "grad_output", source.grad_output)?;
        let control = read_option(OP, control)?;
        let workspace = (workspace, workspace_size);
        on_device!(OP, context, on => with_index!(OP, bags, I => {
            with_element!(OP, "grad_output", dtype, G => {
                let tables = tables_of_mut(OP, tables)?;
                let step = Step { rule, control, decay_scale };
                update::<_, I, G>(OP, on, tables, (&bags, &source), step, workspace)
            })
        }))
    })
}

/// The arguments of a step beside its gradient and tables.
struct Step {
    rule: bagdot_rule,
    control: Option<bagdot_step_control>,
    decay_scale: *const f32,
}

/// # Safety
/// As for [`bagdot_sparse_update`].
unsafe fn update<D: Raw, I: Index + Typed, G: Element + Typed>(
    op: &str,
    on: &On<D>,
    tables: &mut Tables<D>,
    (of, source): (&bagdot_bags, &bagdot_pooled_grad),
    step: Step,
    workspace: (*mut c_void, u64),
) -> Result<()> {
    let (device, Tables { layout, weights, state }) = (&on.device, tables);
    let layout = &*layout;
    let rule = step.rule.to_rule(op)?;
    // SAFETY: the caller's promise.
    unsafe {
        let source = pooled_grad::<D, I, G>(op, layout, of, source)?;
        let control = control(op, step.control)?;
        let rows = layout.as_ref().num_rows();
        let scale = view_option(op, "decay_scale", step.decay_scale, rows)?;
        let words = words(device, layout, source.bags.num_indices());
        with_weights!(op, weights, values => {
            let weights = values.view_mut(device, layout)?;
            let state = state.view_mut(op, device, layout)?;
            on.with_workspace(op, workspace, words, |workspace| {
                let update = Update::new(source, rule, weights, state, workspace).control(control);
                let update = match scale {
                    Some(scale) => update.decay_scale(scale),
                    None => update,
                };
                Ok(update.run(device)?)
            })
        })
    }
}

/// Sorts the ids of a batch and takes one step of the optimizer on each row that it looks up:
/// bagdot_index_sort() and bagdot_sparse_update() in one call, with an order and a workspace that
/// the context keeps. They grow with the largest batch so far.
///
/// `grad_output` is the gradient of the pooled output, `[batch_size, width]`, of f32, f16 or bf16;
/// there is no loss scale. No feature may be pooled by max. After a bad id no row has changed on
/// the CPU; on CUDA the rows of the valid ids have.
///
/// # Safety
/// As for bagdot_sparse_update().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_sparse_update_step(
    context: *const bagdot_context,
    tables: *mut bagdot_tables,
    bags: *const bagdot_bags,
    grad_output: *const bagdot_matrix,
    rule: *const bagdot_rule,
) -> i32 {
    const OP: &str = "bagdot_sparse_update_step";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (bags, rule) = (read_bags(OP, bags)?, read_struct(OP, rule)?);
        let dtype = dtype_of(OP, "grad_output", grad_output)?;
        on_device!(OP, context, on => with_index!(OP, bags, I => {
            with_element!(OP, "grad_output", dtype, G => {
                take_step::<_, I, G>(OP, on, tables_of_mut(OP, tables)?, &bags, grad_output, rule)
            })
        }))
    })
}

/// # Safety
/// As for [`bagdot_sparse_update_step`].
unsafe fn take_step<D: Raw, I: Index + Typed, G: Element + Typed>(
    op: &str,
    on: &On<D>,
    tables: &mut Tables<D>,
    of: &bagdot_bags,
    grad_output: *const bagdot_matrix,
    rule: bagdot_rule,
) -> Result<()> {
    let (device, Tables { layout, weights, state }) = (&on.device, tables);
    let layout = &*layout;
    let rule = rule.to_rule(op)?;
    let features = layout.as_ref().features().len();
    // SAFETY: the caller's promise.
    unsafe {
        let bags = bags::<D, I>(op, of, features)?;
        let grad_output = matrix::<D, G>(op, "grad_output", grad_output)?;
        let ids = bags.num_indices();
        let sort_words = Sort::<D, I>::workspace_len(device, layout.as_ref(), ids);
        let own = (std::ptr::null_mut(), 0);
        on.with_order(op, (ids, features.saturating_mul(bags.batch_size)), |order| {
            on.with_workspace(op, own, sort_words, |workspace| {
                Ok(Sort::new(layout, bags, order, workspace).run(device)?)
            })?;
            let source = PooledGrad::new(layout, bags, order, grad_output);
            with_weights!(op, weights, values => {
                let weights = values.view_mut(device, layout)?;
                let state = state.view_mut(op, device, layout)?;
                on.with_workspace(op, own, words(device, layout, ids), |workspace| {
                    Ok(Update::new(source, rule, weights, state, workspace).run(device)?)
                })
            })
        })
    }
}

/// Sums the gradient of each row of a batch. `gradient` must have room for a row for each id, or
/// for all rows if there are fewer.
///
/// # Safety
/// As for bagdot_sparse_update(); nothing else uses the gradient meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_sparse_update_reduce(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    source: *const bagdot_pooled_grad,
    gradient: *mut bagdot_gradient,
    workspace: *mut c_void,
    workspace_size: u64,
) -> i32 {
    const OP: &str = "bagdot_sparse_update_reduce";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let source = read_struct(OP, source)?;
        let bags = read_bags(OP, source.bags)?;
        let dtype = dtype_of(OP, "grad_output", source.grad_output)?;
        let workspace = (workspace, workspace_size);
        on_device!(OP, context, on => with_index!(OP, bags, I => {
            with_element!(OP, "grad_output", dtype, G => {
                let tables = tables_of(OP, tables)?;
                reduce::<_, I, G>(OP, on, tables, (&bags, &source), gradient, workspace)
            })
        }))
    })
}

/// # Safety
/// As for [`bagdot_sparse_update_reduce`].
unsafe fn reduce<D: Raw, I: Index + Typed, G: Element + Typed>(
    op: &str,
    on: &On<D>,
    tables: &Tables<D>,
    (of, source): (&bagdot_bags, &bagdot_pooled_grad),
    gradient: *mut bagdot_gradient,
    workspace: (*mut c_void, u64),
) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let source = pooled_grad::<D, I, G>(op, &tables.layout, of, source)?;
        let gradient = gradient_of_mut(op, "gradient", gradient)?;
        let words = words_of(on, tables, source.bags.num_indices());
        on.with_workspace(op, workspace, words, |workspace| {
            Ok(Reduce::new(source, gradient, workspace).run(&on.device)?)
        })
    }
}

/// Gets the size in bytes of the workspace of bagdot_sparse_update_merge() for gradients with room
/// for `num_rows` rows together.
///
/// # Safety
/// `context` is a context, `tables` are its tables, and `bytes` is to memory for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_sparse_update_merge_workspace_size(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    num_rows: u64,
    bytes: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_sparse_update_merge_workspace_size";
    fn words<D: Raw>(on: &On<D>, tables: &Tables<D>, num_rows: usize) -> usize {
        Merge::workspace_len(&on.device, tables.layout.as_ref(), num_rows)
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let num_rows = size(OP, "num_rows", num_rows)?;
        let words = on_device!(OP, context, on => words(on, tables_of(OP, tables)?, num_rows));
        write(OP, "bytes", bytes, (words as u64).saturating_mul(8))
    })
}

/// Adds two gradients: `sum = a + b`. `sum` must have room for as many rows as both have room for,
/// or for all rows if there are fewer.
///
/// # Safety
/// As for bagdot_sparse_update(); the three gradients are different.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_sparse_update_merge(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    a: *const bagdot_gradient,
    b: *const bagdot_gradient,
    sum: *mut bagdot_gradient,
    workspace: *mut c_void,
    workspace_size: u64,
) -> i32 {
    const OP: &str = "bagdot_sparse_update_merge";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        if std::ptr::eq(a, sum) || std::ptr::eq(b, sum) {
            return Err(Error::invalid(OP, "sum", "it must be another gradient than a and b"));
        }
        let workspace = (workspace, workspace_size);
        on_device!(OP, context, on => merge(OP, on, tables_of(OP, tables)?, [a, b], sum, workspace))
    })
}

/// # Safety
/// As for [`bagdot_sparse_update_merge`].
unsafe fn merge<D: Raw>(
    op: &str,
    on: &On<D>,
    tables: &Tables<D>,
    [a, b]: [*const bagdot_gradient; 2],
    sum: *mut bagdot_gradient,
    workspace: (*mut c_void, u64),
) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (gradient_of::<D>(op, "a", a)?, gradient_of::<D>(op, "b", b)?);
        let sum = gradient_of_mut(op, "sum", sum)?;
        let rows = a.capacity().saturating_add(b.capacity());
        let words = Merge::workspace_len(&on.device, tables.layout.as_ref(), rows);
        on.with_workspace(op, workspace, words, |workspace| {
            Ok(Merge::new(&tables.layout, a, b, sum, workspace).run(&on.device)?)
        })
    }
}

/// Takes one step of the optimizer on each row of a gradient. The tables must have the state of the
/// rule's optimizer. `decay_scale` is as for bagdot_sparse_update().
///
/// # Safety
/// As for bagdot_sparse_update().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_sparse_update_apply(
    context: *const bagdot_context,
    tables: *mut bagdot_tables,
    gradient: *const bagdot_gradient,
    rule: *const bagdot_rule,
    decay_scale: *const f32,
) -> i32 {
    const OP: &str = "bagdot_sparse_update_apply";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let step = Step { rule: read_struct(OP, rule)?, control: None, decay_scale };
        on_device!(OP, context, on => apply(OP, on, tables_of_mut(OP, tables)?, gradient, step))
    })
}

/// # Safety
/// As for [`bagdot_sparse_update_apply`].
unsafe fn apply<D: Raw>(
    op: &str,
    on: &On<D>,
    tables: &mut Tables<D>,
    gradient: *const bagdot_gradient,
    step: Step,
) -> Result<()> {
    let (device, Tables { layout, weights, state }) = (&on.device, tables);
    let layout = &*layout;
    let rule = step.rule.to_rule(op)?;
    // SAFETY: the caller's promise.
    unsafe {
        let gradient = gradient_of(op, "gradient", gradient)?;
        let rows = layout.as_ref().num_rows();
        let scale = view_option(op, "decay_scale", step.decay_scale, rows)?;
        with_weights!(op, weights, values => {
            let weights = values.view_mut(device, layout)?;
            let state = state.view_mut(op, device, layout)?;
            let apply = Apply::new(layout, gradient, rule, weights, state);
            let apply = match scale {
                Some(scale) => apply.decay_scale(scale),
                None => apply,
            };
            Ok(apply.run(device)?)
        })
    }
}
