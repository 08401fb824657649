//! Tables and features of a call, with weights and optimizer state in memory of the caller.

use std::ffi::c_void;

use bagdot::ops::{
    Feature, StateOf, Table, TableBatch, TableStateMut, TableValues, TableValuesMut,
};
use bagdot::{Scalar, bf16, f16};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{
    Either, Family, Raw, destroy, handle, make, not_an_element, raw_tables, view, view_mut,
};
use crate::error::{Error, Result, guard};
use crate::types::{
    CStruct, array, array_option, bagdot_dtype, bagdot_optimizer, c_structs, check_pointer, dtype,
    optimizer, pooling, read_struct, size, write_struct,
};

/// Tables, the features that look them up, and the memory of weights and state: opaque.
///
/// Lookups may use a handle from many threads at once; an update needs it alone.
pub struct bagdot_tables(pub(crate) Either<TablesFamily>);

/// The family of the contents of tables.
pub(crate) struct TablesFamily;

impl Family for TablesFamily {
    type Of<D: Raw> = Tables<D>;
}

/// Tables on a backend.
pub(crate) struct Tables<D: Raw> {
    /// The layout, as the ops of the backend read it.
    pub(crate) layout: D::Tables,
    pub(crate) weights: Weights<D>,
    pub(crate) state: State<D>,
}

/// The weights of tables, of any type.
pub(crate) enum Weights<D: Raw> {
    /// None: such tables can be sorted for, and gradients of their rows be computed.
    None,
    F32(Values<D, f32>),
    F16(Values<D, f16>),
    Bf16(Values<D, bf16>),
}

/// The state of the optimizer of tables.
pub(crate) struct State<D: Raw> {
    optimizer: bagdot_optimizer,
    first: Option<Values<D, f32>>,
    second: Option<Values<D, f32>>,
}

/// Values of all tables in memory of the caller.
pub(crate) enum Values<D: Raw, E: Scalar> {
    /// One block of this many elements, table after table.
    Joined(*mut E, usize),
    /// Memory of each table's own.
    Separate(D::Kept<E>),
}

impl<D: Raw, E: Scalar> Values<D, E> {
    /// Views the values.
    ///
    /// # Safety
    /// The caller of the library keeps the promises of bagdot_tables_create().
    pub(crate) unsafe fn view<'a>(
        &'a self,
        device: &D,
        layout: &D::Tables,
    ) -> Result<TableValues<'a, D, E>> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Joined(data, len) => {
                    Ok(TableValues::Joined(view("tables", "weights", *data, *len)?))
                }
                Self::Separate(kept) => device.kept(layout.as_ref(), kept),
            }
        }
    }

    /// Views the values for writing.
    ///
    /// # Safety
    /// As for [`Self::view`], and nothing else uses the values.
    pub(crate) unsafe fn view_mut<'a>(
        &'a mut self,
        device: &D,
        layout: &D::Tables,
    ) -> Result<TableValuesMut<'a, D, E>> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Joined(data, len) => {
                    Ok(TableValuesMut::Joined(view_mut("tables", "weights", *data, *len)?))
                }
                Self::Separate(kept) => device.kept_mut(layout.as_ref(), kept),
            }
        }
    }
}

impl<D: Raw> State<D> {
    /// Views the state for writing.
    ///
    /// # Safety
    /// As for [`Values::view_mut`].
    pub(crate) unsafe fn view_mut<'a>(
        &'a mut self,
        op: &str,
        device: &D,
        layout: &D::Tables,
    ) -> Result<TableStateMut<'a, D>> {
        let missing = || Error::invalid(op, "tables", "the state of the optimizer is missing");
        // SAFETY: the caller's promise.
        let values = |values: &'a mut Option<Values<D, f32>>| unsafe {
            values.as_mut().ok_or_else(missing)?.view_mut(device, layout)
        };
        Ok(match self.optimizer {
            bagdot_optimizer::SGD => StateOf::None,
            bagdot_optimizer::ADAGRAD | bagdot_optimizer::ROWWISE_ADAGRAD => {
                StateOf::SumOfSquares(values(&mut self.first)?)
            }
            bagdot_optimizer::ADAM => StateOf::Moments {
                first: values(&mut self.first)?,
                second: values(&mut self.second)?,
            },
        })
    }
}

/// Evaluates an expression for the weights of tables, of any type.
macro_rules! with_weights {
    ($op:expr, $weights:expr, $values:ident => $body:expr) => {
        match $weights {
            $crate::tables::Weights::F32($values) => $body,
            $crate::tables::Weights::F16($values) => $body,
            $crate::tables::Weights::Bf16($values) => $body,
            $crate::tables::Weights::None => {
                Err($crate::error::Error::invalid($op, "tables", "made without weights"))
            }
        }
    };
}
pub(crate) use with_weights;

/// The description of tables. Arrays are in memory of the host, and may be freed when the handle is
/// made. The memory of weights and state is the caller's: of the context's device, used by every
/// call with the handle.
///
/// Weights lie in one block (`joined_weights`), table after table, or in memory of each table's own
/// (`weights`): an address for each table, and a leading dimension in elements. State is given in
/// the same way. Without either, the handle has no weights, and serves bagdot_index_sort() and the
/// gradients of rows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_tables_options {
    /// `sizeof(bagdot_tables_options)`.
    pub struct_size: u32,
    /// The type of the weights: `BAGDOT_DTYPE_F32`, `F16` or `BF16`.
    pub dtype: i32,
    /// The `bagdot_optimizer` whose state follows; `BAGDOT_OPTIMIZER_SGD` has none.
    pub optimizer: i32,
    /// Zero.
    pub reserved: u32,
    /// The number of tables.
    pub num_tables: u64,
    /// The number of rows of each table.
    pub num_embeddings: *const u64,
    /// The number of elements of a row of each table.
    pub embedding_dims: *const u64,
    /// The number of features; 0 for one feature for each table.
    pub num_features: u64,
    /// The table of each feature; null if feature `f` looks up table `f`.
    pub feature_tables: *const u64,
    /// A `bagdot_pooling` for each feature; null for sums.
    pub poolings: *const i32,
    /// The padding id of each feature, which is neither pooled nor updated, or -1; null for none.
    pub padding_indices: *const i64,
    /// The weights of all tables in one block; or null.
    pub joined_weights: *mut c_void,
    /// The address of the weights of each table; or null.
    pub weights: *const *mut c_void,
    /// The leading dimension of each table, 0 for its dimension; null for those of all tables.
    pub weight_lds: *const u64,
    /// The sums of squares or first moments of all tables in one block; or null.
    pub joined_first: *mut f32,
    /// The address of the sums of squares or first moments of each table; or null.
    pub first: *const *mut c_void,
    /// The leading dimension of each, 0 for its number of columns: 1 for row-wise Adagrad, else the
    /// dimension. Null for those of all tables.
    pub first_lds: *const u64,
    /// The second moments of all tables in one block; or null.
    pub joined_second: *mut f32,
    /// The address of the second moments of each table; or null.
    pub second: *const *mut c_void,
    /// The leading dimension of each, as for the first moments.
    pub second_lds: *const u64,
}

/// The sizes of tables.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_table_sizes {
    /// `sizeof(bagdot_table_sizes)`.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// The number of features.
    pub num_features: u64,
    /// The number of rows of all tables.
    pub num_rows: u64,
    /// The number of elements of all tables.
    pub num_weights: u64,
    /// The number of columns of the pooled output: the sum of the features' dimensions.
    pub width: u64,
    /// The largest dimension.
    pub max_dim: u64,
}

c_structs! { bagdot_tables_options bagdot_table_sizes }

/// Reads the tables and features of a description.
///
/// # Safety
/// The arrays are null or have as many entries as the description says.
unsafe fn layout(op: &str, options: &bagdot_tables_options) -> Result<TableBatch> {
    let num_tables = size(op, "num_tables", options.num_tables)?;
    // SAFETY: the caller's promise, here and below.
    let (rows, dims) = unsafe {
        (
            array(op, "num_embeddings", options.num_embeddings, num_tables)?,
            array(op, "embedding_dims", options.embedding_dims, num_tables)?,
        )
    };
    let tables = rows.iter().zip(dims).map(|(&rows, &dim)| {
        let num_embeddings = size(op, "num_embeddings", rows)?;
        Ok(Table { num_embeddings, embedding_dim: size(op, "embedding_dims", dim)? })
    });
    let tables = tables.collect::<Result<Vec<_>>>()?;
    let num_features = match options.num_features {
        0 => num_tables,
        features => size(op, "num_features", features)?,
    };
    // SAFETY: as above.
    let (of_tables, poolings, paddings) = unsafe {
        (
            array_option(op, "feature_tables", options.feature_tables, num_features)?,
            array_option(op, "poolings", options.poolings, num_features)?,
            array_option(op, "padding_indices", options.padding_indices, num_features)?,
        )
    };
    if of_tables.is_none() && num_features != num_tables {
        return Err(Error::null(op, "feature_tables"));
    }
    let features = (0..num_features).map(|f| {
        let table = match of_tables {
            Some(tables) => size(op, "feature_tables", tables[f])?,
            None => f,
        };
        let pooling = pooling(op, "poolings", poolings.map_or(0, |poolings| poolings[f]))?;
        let padding_idx = match paddings.map_or(-1, |paddings| paddings[f]) {
            -1 => None,
            padding => Some(usize::try_from(padding).map_err(|_| {
                Error::invalid(op, "padding_indices", format!("{padding}, but must be -1 or a row"))
            })?),
        };
        Ok(Feature { table, pooling, padding_idx })
    });
    Ok(TableBatch::new(tables, features.collect::<Result<Vec<_>>>()?)?)
}

/// Takes the memory of values of all tables; `None` if there is none. `per_row` values have one
/// column.
///
/// # Safety
/// The arrays are null or have an entry for each table, and the addresses are those of the values.
unsafe fn values<D: Raw, E: Scalar>(
    (op, argument): (&str, &str),
    device: &D,
    layout: &TableBatch,
    per_row: bool,
    joined: *mut E,
    separate: (*const *mut c_void, *const u64),
) -> Result<Option<Values<D, E>>> {
    match (joined.is_null(), separate.0.is_null()) {
        (true, true) => Ok(None),
        (false, false) => {
            Err(Error::invalid(op, argument, "given as one block and for each table"))
        }
        (false, true) => {
            check_pointer(op, argument, joined)?;
            let len = if per_row { layout.num_rows() } else { layout.num_weights() };
            Ok(Some(Values::Joined(joined, len)))
        }
        (true, false) => {
            let columns = |table: &Table| if per_row { 1 } else { table.embedding_dim };
            let shapes = layout.tables().iter().map(|t| (t.num_embeddings, columns(t)));
            // SAFETY: the caller's promise.
            let kept = unsafe {
                let matrices = raw_tables(op, argument, separate, &shapes.collect::<Vec<_>>())?;
                device.keep(layout, matrices)?
            };
            Ok(Some(Values::Separate(kept)))
        }
    }
}

/// Makes tables.
///
/// # Safety
/// As for [`layout`] and [`values`].
unsafe fn create<D: Raw>(
    op: &str,
    on: &On<D>,
    options: &bagdot_tables_options,
) -> Result<bagdot_tables> {
    let device = &on.device;
    // SAFETY: the caller's promise, here and below.
    let layout = unsafe { layout(op, options)? };
    let separate = (options.weights, options.weight_lds);
    macro_rules! weights {
        ($Variant:ident) => {{
            let joined = options.joined_weights.cast();
            // SAFETY: as above.
            unsafe { values((op, "weights"), device, &layout, false, joined, separate)? }
                .map_or(Weights::None, Weights::$Variant)
        }};
    }
    let weights = match dtype(op, "dtype", options.dtype)? {
        bagdot_dtype::F32 => weights!(F32),
        bagdot_dtype::F16 => weights!(F16),
        bagdot_dtype::BF16 => weights!(Bf16),
        other => return Err(not_an_element(op, "dtype", other)),
    };
    let optimizer = optimizer(op, "optimizer", options.optimizer)?;
    let per_row = optimizer == bagdot_optimizer::ROWWISE_ADAGRAD;
    let (first, second) = (options.joined_first, options.joined_second);
    let first_of = (options.first, options.first_lds);
    let second_of = (options.second, options.second_lds);
    // SAFETY: as above.
    let (first, second) = unsafe {
        (
            values((op, "first"), device, &layout, per_row, first, first_of)?,
            values((op, "second"), device, &layout, per_row, second, second_of)?,
        )
    };
    let state = State { optimizer, first, second };
    Ok(bagdot_tables(D::wrap(Tables { layout: device.tables(layout)?, weights, state })))
}

/// Makes tables of a description. On CUDA, copies the layout and the addresses to the device.
///
/// # Safety
/// `context` is a context and `out` to memory for a pointer. The pointers in `options` are null or
/// to as much memory as its fields say. Weights and state stay where they are until the handle is
/// destroyed. While an op reads them nothing writes them, and while an op writes them nothing else
/// uses them: on CUDA, until the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_tables_create(
    context: *const bagdot_context,
    options: *const bagdot_tables_options,
    out: *mut *mut bagdot_tables,
) -> i32 {
    const OP: &str = "bagdot_tables_create";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let options = read_struct(OP, options)?;
        make(OP, out, || on_device!(OP, context, on => create(OP, on, &options)))
    })
}

/// Destroys tables; null is nothing. Their memory stays.
///
/// # Safety
/// `tables` is null or tables that nothing uses any more. On CUDA, all work on them has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_tables_destroy(tables: *mut bagdot_tables) {
    // SAFETY: the caller's promise.
    unsafe { destroy(tables) }
}

/// Gets the sizes of tables.
///
/// # Safety
/// `tables` are tables, and `sizes` to a struct whose size is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_tables_sizes(
    tables: *const bagdot_tables,
    sizes: *mut bagdot_table_sizes,
) -> i32 {
    const OP: &str = "bagdot_tables_sizes";
    fn sizes_of(layout: &TableBatch) -> bagdot_table_sizes {
        bagdot_table_sizes {
            struct_size: 0,
            reserved: 0,
            num_features: layout.features().len() as u64,
            num_rows: layout.num_rows() as u64,
            num_weights: layout.num_weights() as u64,
            width: layout.width() as u64,
            max_dim: layout.max_dim() as u64,
        }
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let found = match &handle(OP, "tables", tables)?.0 {
            Either::Cpu(tables) => sizes_of(&tables.layout),
            Either::Cuda(tables) => sizes_of(tables.layout.as_ref()),
        };
        write_struct(OP, sizes, found)
    })
}

/// Returns the content of tables for a backend.
///
/// # Safety
/// The pointer is null or to tables, which nothing writes in the lifetime `'a`.
pub(crate) unsafe fn tables_of<'a, D: Raw>(
    op: &str,
    tables: *const bagdot_tables,
) -> Result<&'a Tables<D>> {
    // SAFETY: the caller's promise.
    let tables = unsafe { handle(op, "tables", tables)? };
    D::pick(&tables.0).map_or_else(crate::device::other_backend, Ok)
}

/// Returns the content of tables for a backend, for writing.
///
/// # Safety
/// As for [`tables_of`], and nothing else uses the tables.
pub(crate) unsafe fn tables_of_mut<'a, D: Raw>(
    op: &str,
    tables: *mut bagdot_tables,
) -> Result<&'a mut Tables<D>> {
    // SAFETY: the caller's promise.
    let tables = unsafe { crate::device::handle_mut(op, "tables", tables)? };
    D::pick_mut(&mut tables.0).map_or_else(crate::device::other_backend, Ok)
}
