//! The sort of the ids of a batch by row.

use std::ffi::c_void;

use bagdot::Index;
use bagdot::ops::index_sort::{Sort, SortedIndices};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{
    Either, Family, Raw, Typed, bags, destroy, handle, handle_mut, make, other_backend, read_bags,
    with_index,
};
use crate::error::{Error, Result, guard};
use crate::tables::{Tables, bagdot_tables, tables_of};
use crate::types::{
    CStruct, bagdot_bags, c_structs, check_len, check_pointer, read_struct, size, write,
    write_struct,
};

/// The order of the ids of a batch: opaque. Its memory is the library's or the caller's.
pub struct bagdot_order(pub(crate) Either<Orders>);

/// The family of the contents of orders.
pub(crate) struct Orders;

impl Family for Orders {
    type Of<D: Raw> = SortedIndices<D>;
}

/// The memory of an order, on its device.
///
/// Let `n` and `u` be the two numbers of `counts`: of ids without padding and bad ids, and of rows.
/// Row `rows[k]`, `k < u`, counted through all tables, occurs at `positions[segments[k] ..
/// segments[k + 1]]` of the ids, in the bags `bags[segments[k] .. segments[k + 1]]`. `rows`
/// increases strictly.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_order_memory {
    /// `sizeof(bagdot_order_memory)`.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// The largest number of ids.
    pub capacity: u64,
    /// The largest number of bags, those of all features together.
    pub num_bags: u64,
    /// The rows, `[capacity]`.
    pub rows: *mut u64,
    /// The bounds of each row's occurrences, `[capacity + 1]`.
    pub segments: *mut u32,
    /// The positions of the ids, `[capacity]`.
    pub positions: *mut u32,
    /// The bag of each of these positions, `[capacity]`.
    pub bags: *mut u32,
    /// The number of ids of each bag without padding and bad ids, `[num_bags]`.
    pub bag_lengths: *mut u32,
    /// `n` and `u`, `[2]`.
    pub counts: *mut u32,
}

c_structs! { bagdot_order_memory }

/// Allocates an order for at most `capacity` ids in at most `num_bags` bags.
///
/// # Safety
/// `context` is a context, and `out` to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_order_create(
    context: *const bagdot_context,
    capacity: u64,
    num_bags: u64,
    out: *mut *mut bagdot_order,
) -> i32 {
    const OP: &str = "bagdot_order_create";
    fn create<D: Raw>(on: &On<D>, capacity: usize, num_bags: usize) -> Result<bagdot_order> {
        Ok(bagdot_order(D::wrap(SortedIndices::new(&on.device, capacity, num_bags)?)))
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (capacity, num_bags) =
            (size(OP, "capacity", capacity)?, size(OP, "num_bags", num_bags)?);
        make(OP, out, || on_device!(OP, context, on => create(on, capacity, num_bags)))
    })
}

/// Makes an order on memory of the caller, whatever it holds.
///
/// # Safety
/// `context` is a context, `out` to memory for a pointer, and `memory` to a struct with the
/// addresses of as many initialised elements of its device. Until the order is destroyed, and on
/// CUDA until all work on it has run, nothing but the order uses them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_order_create_on(
    context: *const bagdot_context,
    memory: *const bagdot_order_memory,
    out: *mut *mut bagdot_order,
) -> i32 {
    const OP: &str = "bagdot_order_create_on";
    /// # Safety
    /// As for the function around this one.
    unsafe fn create<D: Raw>(on: &On<D>, memory: &bagdot_order_memory) -> Result<bagdot_order> {
        let capacity = size(OP, "capacity", memory.capacity)?;
        let num_bags = size(OP, "num_bags", memory.num_bags)?;
        let device = &on.device;
        // SAFETY: the caller's promise.
        let order = unsafe {
            SortedIndices::with_buffers(
                device,
                buffer(OP, "rows", device, memory.rows, capacity)?,
                buffer(OP, "segments", device, memory.segments, capacity.saturating_add(1))?,
                [
                    buffer(OP, "positions", device, memory.positions, capacity)?,
                    buffer(OP, "bags", device, memory.bags, capacity)?,
                    buffer(OP, "bag_lengths", device, memory.bag_lengths, num_bags)?,
                ],
                buffer(OP, "counts", device, memory.counts, 2)?,
            )?
        };
        Ok(bagdot_order(D::wrap(order)))
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let memory = read_struct(OP, memory)?;
        make(OP, out, || on_device!(OP, context, on => create(on, &memory)))
    })
}

/// Makes a buffer of memory of the caller. Checks the pointer.
///
/// # Safety
/// As for [`Raw::raw_buffer`].
pub(crate) unsafe fn buffer<D: Raw, T: bagdot::Scalar>(
    op: &str,
    argument: &str,
    device: &D,
    pointer: *mut T,
    len: usize,
) -> Result<D::Buffer<T>> {
    if len > 0 {
        check_pointer(op, argument, pointer)?;
        check_len::<T>(op, argument, len)?;
    }
    // SAFETY: the caller's promise; pointer and length have been checked.
    Ok(unsafe { device.raw_buffer(pointer, len) })
}

/// Gets the memory of an order: `capacity`, `num_bags`, and addresses on its device, whose contents
/// stay until the next sort into it.
///
/// # Safety
/// `order` is an order, and `memory` to a struct whose size is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_order_get_memory(
    order: *const bagdot_order,
    memory: *mut bagdot_order_memory,
) -> i32 {
    const OP: &str = "bagdot_order_get_memory";
    fn memory_of<D: Raw>(order: &SortedIndices<D>) -> bagdot_order_memory {
        bagdot_order_memory {
            struct_size: 0,
            reserved: 0,
            capacity: order.capacity() as u64,
            num_bags: order.bag_lengths().len() as u64,
            rows: D::address(&order.rows()) as *mut u64,
            segments: D::address(&order.segments()) as *mut u32,
            positions: D::address(&order.positions()) as *mut u32,
            bags: D::address(&order.bags()) as *mut u32,
            bag_lengths: D::address(&order.bag_lengths()) as *mut u32,
            counts: D::address(&order.counts()) as *mut u32,
        }
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let found = match &handle(OP, "order", order)?.0 {
            Either::Cpu(order) => memory_of(order),
            Either::Cuda(order) => memory_of(order),
        };
        write_struct(OP, memory, found)
    })
}

/// Destroys an order; null is nothing. Memory of the caller stays.
///
/// # Safety
/// `order` is null or an order that nothing uses any more. On CUDA, all work on it has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_order_destroy(order: *mut bagdot_order) {
    // SAFETY: the caller's promise.
    unsafe { destroy(order) }
}

/// Gets the size in bytes of the workspace of bagdot_index_sort() for a batch of this size.
///
/// # Safety
/// `context` is a context, `tables` are its tables, and `bytes` is to memory for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_index_sort_workspace_size(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    num_indices: u64,
    bytes: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_index_sort_workspace_size";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let num_indices = size(OP, "num_indices", num_indices)?;
        let words = on_device!(OP, context, on => words(on, tables_of(OP, tables)?, num_indices));
        write(OP, "bytes", bytes, (words as u64).saturating_mul(8))
    })
}

fn words<D: Raw>(on: &On<D>, tables: &Tables<D>, num_indices: usize) -> usize {
    Sort::<D, i64>::workspace_len(&on.device, tables.layout.as_ref(), num_indices)
}

/// Sorts the ids of a batch by row, without padding and bad ids. `order` must have room for its ids
/// and bags. If there is a bad id, the order is complete for the others.
///
/// # Safety
/// `context` is a context, `tables` and `order` are handles of the same context, and `bags` is to a
/// struct whose pointers are to as much memory of its device as its fields say. `workspace` is null
/// or to `workspace_size` bytes of the device, at a multiple of 8 bytes. Nothing else uses order
/// and workspace meanwhile. On CUDA all of it stays unchanged until the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_index_sort(
    context: *const bagdot_context,
    tables: *const bagdot_tables,
    bags: *const bagdot_bags,
    order: *mut bagdot_order,
    workspace: *mut c_void,
    workspace_size: u64,
) -> i32 {
    const OP: &str = "bagdot_index_sort";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let bags = read_bags(OP, bags)?;
        on_device!(OP, context, on => with_index!(OP, bags, I => {
            let workspace = (workspace, workspace_size);
            sort::<_, I>(OP, on, tables_of(OP, tables)?, &bags, order, workspace)
        }))
    })
}

/// # Safety
/// As for [`bagdot_index_sort`].
unsafe fn sort<D: Raw, I: Index + Typed>(
    op: &str,
    on: &On<D>,
    tables: &Tables<D>,
    of: &bagdot_bags,
    order: *mut bagdot_order,
    workspace: (*mut c_void, u64),
) -> Result<()> {
    let layout = &tables.layout;
    // SAFETY: the caller's promise.
    unsafe {
        let bags = bags::<D, I>(op, of, layout.as_ref().features().len())?;
        let order = D::pick_mut(&mut handle_mut(op, "order", order)?.0);
        let order = order.map_or_else(other_backend, Ok)?;
        on.with_workspace(op, workspace, words(on, tables, bags.num_indices()), |workspace| {
            Ok(Sort::new(layout, bags, order, workspace).run(&on.device)?)
        })
    }
}

/// Returns the content of an order for a backend.
///
/// # Safety
/// The pointer is null or to an order, which nothing writes in the lifetime `'a`.
pub(crate) unsafe fn order_of<'a, D: Raw>(
    op: &str,
    order: *const bagdot_order,
) -> Result<&'a SortedIndices<D>> {
    if order.is_null() {
        return Err(Error::null(op, "order"));
    }
    // SAFETY: the caller's promise.
    D::pick(unsafe { &handle(op, "order", order)?.0 }).map_or_else(other_backend, Ok)
}
