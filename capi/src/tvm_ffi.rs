//! Functions for Apache TVM-FFI, by which JAX, CuPy and others call the ops on their arrays.
//!
//! A function `name` of TVM-FFI is the symbol `__tvm_ffi_name`, which takes an array of tagged
//! values: integers, floats and `DLTensor` pointers. The structs are those of `tvm/ffi/c_api.h` and
//! `dlpack.h`, written by hand. Nothing is linked: the two functions of `libtvm_ffi` that are
//! needed are looked up in the process, whose host has loaded it if it can make such a call.
//!
//! These functions are a caller of the C interface. They work on contexts of their own: the CPU
//! with the global pool, and each device and stream that the host names.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::context::{
    bagdot_context, bagdot_context_create, bagdot_context_on_stream, bagdot_context_options,
    bagdot_device, bagdot_synchronize, bagdot_threads,
};
use crate::embedding_bag::bagdot_embedding_bag_forward;
use crate::error::{Error, Result, bagdot_last_error_message, bagdot_status, guard};
use crate::interaction::{bagdot_interaction_backward, bagdot_interaction_forward};
use crate::sparse_update::bagdot_sparse_update_step;
use crate::tables::{
    bagdot_tables, bagdot_tables_create, bagdot_tables_destroy, bagdot_tables_options,
};
use crate::types::{
    CStruct, bagdot_bags, bagdot_dtype, bagdot_features, bagdot_interaction, bagdot_matrix,
    bagdot_optimizer, bagdot_rule, check_len,
};

/// `DLDataType` of dlpack.h: a code, the bits of a lane, and the number of lanes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DlDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `DLTensor` of dlpack.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    dtype: DlDataType,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

/// `TVMFFIAny` of c_api.h: a type index and 8 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TvmFfiAny {
    type_index: i32,
    zero_padding: u32,
    value: u64,
}

const NONE: i32 = 0;
const INT: i32 = 1;
const BOOL: i32 = 2;
const FLOAT: i32 = 3;
const DL_TENSOR: i32 = 7;
/// An object: a header of `OBJECT_HEADER` bytes, and a `DLTensor`.
const TENSOR: i32 = 70;
const OBJECT_HEADER: usize = 24;
const CPU: i32 = 1;
const CUDA: i32 = 2;

const _: () = {
    assert!(size_of::<TvmFfiAny>() == 16);
    assert!(size_of::<DlTensor>() == 48);
};

/// A pointer to a context that lives as long as the process.
#[derive(Clone, Copy)]
struct Shared(*const bagdot_context);

// SAFETY: ops may use a context from any thread.
unsafe impl Send for Shared {}

/// Contexts by device type, device and stream.
type Contexts = HashMap<(i32, i32, usize), Shared>;

/// The contexts that calls have needed so far.
static CONTEXTS: LazyLock<Mutex<Contexts>> = LazyLock::new(Mutex::default);

/// Returns the address of a function of libtvm_ffi, if the process has loaded it.
fn of_host(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the names are C strings. The library is not loaded anew, and not closed.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        if !found.is_null() {
            return Some(found);
        }
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
        let library = libc::dlopen(c"libtvm_ffi.so".as_ptr(), flags);
        if library.is_null() {
            return None;
        }
        let found = libc::dlsym(library, name.as_ptr());
        (!found.is_null()).then_some(found)
    }
}

/// Returns the stream that the host has set for a device.
fn stream(device_type: i32, device_id: i32) -> *mut c_void {
    type Get = unsafe extern "C" fn(i32, i32) -> *mut c_void;
    match of_host(c"TVMFFIEnvGetStream") {
        // SAFETY: c_env_api.h declares the function with this type.
        Some(get) => unsafe {
            std::mem::transmute::<*mut c_void, Get>(get)(device_type, device_id)
        },
        None => null_mut(),
    }
}

/// Tells the host the message of an error.
fn raise(message: &CStr) {
    type Raise = unsafe extern "C" fn(*const c_char, *const c_char);
    if let Some(raise) = of_host(c"TVMFFIErrorSetRaisedFromCStr") {
        // SAFETY: c_api.h declares the function with this type; it copies both strings.
        unsafe {
            std::mem::transmute::<*mut c_void, Raise>(raise)(
                c"ValueError".as_ptr(),
                message.as_ptr(),
            );
        }
    }
}

/// Turns the status of a call of the C interface into a result.
fn checked(status: i32) -> Result<()> {
    if status == bagdot_status::OK as i32 {
        return Ok(());
    }
    // SAFETY: the message is a C string, which stays until the next failed call of this thread.
    let message = unsafe { CStr::from_ptr(bagdot_last_error_message()) };
    Err(Error::Interface(bagdot_status::OTHER, message.to_string_lossy().into_owned()))
}

/// Makes a struct of the C interface whose fields are all zero but for its size.
fn zeroed<T: CStruct>() -> T {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the struct begins with its size, and any bits are a value of it.
    unsafe {
        value.as_mut_ptr().cast::<u32>().write(size_of::<T>() as u32);
        value.assume_init()
    }
}

/// The arguments of a call, taken one after another.
struct Arguments<'a> {
    op: &'static str,
    left: &'a [TvmFfiAny],
}

impl Arguments<'_> {
    fn next(&mut self, name: &str) -> Result<TvmFfiAny> {
        let Some((first, left)) = self.left.split_first() else {
            return Err(Error::invalid(self.op, name, "missing"));
        };
        self.left = left;
        Ok(*first)
    }

    fn int(&mut self, name: &str) -> Result<i64> {
        let value = self.next(name)?;
        match value.type_index {
            INT => Ok(value.value as i64),
            BOOL => Ok(i64::from(value.value as u8 != 0)),
            _ => Err(Error::invalid(self.op, name, "not an integer")),
        }
    }

    fn float(&mut self, name: &str) -> Result<f32> {
        let value = self.next(name)?;
        match value.type_index {
            INT => Ok(value.value as i64 as f32),
            FLOAT => Ok(f64::from_bits(value.value) as f32),
            _ => Err(Error::invalid(self.op, name, "not a number")),
        }
    }

    fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let value = self.next(name)?;
        let pointer = match value.type_index {
            DL_TENSOR => value.value as usize,
            TENSOR => value.value as usize + OBJECT_HEADER,
            _ => return Err(Error::invalid(self.op, name, "not a tensor")),
        };
        // SAFETY: by its type index, the value is a tensor, which the host keeps during the call.
        unsafe { Tensor::read(self.op, name, pointer as *const DlTensor) }
    }

    /// Takes all arguments but the last `keep` as tensors.
    fn tensors(&mut self, name: &str, keep: usize) -> Result<Vec<Tensor>> {
        let mut tensors = Vec::new();
        while self.left.len() > keep {
            tensors.push(self.tensor(name)?);
        }
        Ok(tensors)
    }

    fn end(&self) -> Result<()> {
        match self.left.is_empty() {
            true => Ok(()),
            false => Err(Error::invalid(self.op, "arguments", "more than the function takes")),
        }
    }
}

/// A tensor of at most two dimensions.
#[derive(Clone, Copy)]
struct Tensor {
    data: *mut c_void,
    device: (i32, i32),
    dtype: bagdot_dtype,
    rows: u64,
    /// The number of columns; 1 for a tensor of one dimension.
    cols: u64,
    /// The distance of rows, in elements.
    ld: u64,
    ndim: i32,
}

impl Tensor {
    /// # Safety
    /// The pointer is to a `DLTensor`.
    unsafe fn read(op: &str, name: &str, pointer: *const DlTensor) -> Result<Self> {
        crate::types::check_pointer(op, name, pointer)?;
        // SAFETY: the caller's promise.
        let tensor = unsafe { pointer.read() };
        let wrong = |reason: &str| Err(Error::invalid(op, name, reason));
        let dtype = match (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes) {
            (0, 32, 1) => bagdot_dtype::I32,
            (0, 64, 1) => bagdot_dtype::I64,
            (1, 32, 1) => bagdot_dtype::U32,
            (2, 32, 1) => bagdot_dtype::F32,
            (2, 16, 1) => bagdot_dtype::F16,
            (4, 16, 1) => bagdot_dtype::BF16,
            _ => return wrong("not of i32, i64, u32, f32, f16 or bf16"),
        };
        let ndim = tensor.ndim;
        if !(1..=2).contains(&ndim) {
            return wrong("not of one or two dimensions");
        }
        let len = ndim as usize;
        // SAFETY: a tensor has a size and, unless they are null, a stride for each dimension.
        let (shape, strides) = unsafe {
            (
                crate::types::array(op, name, tensor.shape, len)?,
                crate::types::array_option(op, name, tensor.strides, len)?,
            )
        };
        let size = |value: i64| {
            u64::try_from(value).map_err(|_| Error::invalid(op, name, "of a negative size"))
        };
        let (rows, cols) = match *shape {
            [rows, cols] => (size(rows)?, size(cols)?),
            [rows, ..] => (size(rows)?, 1),
            [] => (0, 0),
        };
        let ld = match strides {
            None => cols,
            Some(&[ld, 1]) if ndim == 2 => size(ld)?.max(cols),
            Some(&[ld, _]) if ndim == 2 && cols <= 1 => size(ld)?.max(cols),
            Some(&[1]) => 1,
            Some(&[_]) if rows <= 1 => 1,
            Some(_) => return wrong("with gaps between the elements of a row"),
        };
        // The address of no element may be null.
        let data = tensor.data.cast::<u8>().wrapping_add(tensor.byte_offset as usize).cast();
        let device = (tensor.device_type, tensor.device_id);
        Ok(Self { data, device, dtype, rows, cols, ld, ndim })
    }

    /// Returns the tensor as a matrix of the C interface.
    fn matrix(&self) -> bagdot_matrix {
        let Self { data, dtype, rows, cols, ld, .. } = *self;
        bagdot_matrix { dtype: dtype as i32, data, rows, cols, ld, ..zeroed() }
    }

    /// Returns the number of elements of a tensor of one dimension.
    fn len(&self, op: &str, name: &str) -> Result<u64> {
        match self.ndim {
            1 => Ok(self.rows),
            _ => Err(Error::invalid(op, name, "not of one dimension")),
        }
    }

    /// Returns the context for the device of the tensors, which must be one.
    fn context(op: &str, tensors: &[&Tensor]) -> Result<*const bagdot_context> {
        let Some(&&Tensor { device: (device_type, device_id), .. }) = tensors.first() else {
            return Err(Error::invalid(op, "arguments", "no tensors"));
        };
        if tensors.iter().any(|tensor| tensor.device != (device_type, device_id)) {
            return Err(Error::invalid(op, "arguments", "tensors of different devices"));
        }
        let stream = match device_type {
            CPU => null_mut(),
            CUDA => stream(device_type, device_id),
            _ => return Err(Error::invalid(op, "arguments", "tensors of an unknown device")),
        };
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (device_type, device_id, stream as usize);
        if let Some(found) = contexts.get(&key) {
            return Ok(found.0);
        }
        let same_device = |other: &&(i32, i32, usize)| (other.0, other.1) == (key.0, key.1);
        let relative = contexts.keys().find(same_device).and_then(|key| contexts.get(key));
        let mut made = null_mut();
        // SAFETY: the options are valid. The host keeps the stream as long as it calls with it.
        checked(unsafe {
            match (device_type, relative) {
                (CUDA, Some(relative)) => {
                    bagdot_context_on_stream(relative.0, stream, &raw mut made)
                }
                _ => {
                    let mut options = zeroed::<bagdot_context_options>();
                    if device_type == CUDA {
                        options.device = bagdot_device::CUDA as i32;
                        options.ordinal = device_id as u32;
                        options.has_stream = 1;
                        options.stream = stream;
                    } else {
                        options.threads = bagdot_threads::GLOBAL as i32;
                    }
                    bagdot_context_create(&raw const options, &raw mut made)
                }
            }
        })?;
        contexts.insert(key, Shared(made));
        Ok(made)
    }
}

/// Tables made for one call.
struct CallTables(*mut bagdot_tables);

impl Drop for CallTables {
    fn drop(&mut self) {
        // SAFETY: the call has ended, so that nothing uses them.
        unsafe { bagdot_tables_destroy(self.0) }
    }
}

/// Makes tables of matrices. There is a feature for each, or any number of them if there is one
/// table. `sums` are the sums of squares of row-wise Adagrad, one tensor for each table, or empty.
fn tables_of(
    op: &str,
    context: *const bagdot_context,
    (weights, sums): (&[Tensor], &[Tensor]),
    num_features: u64,
    pooling: i64,
) -> Result<CallTables> {
    if weights.len() > 1 && weights.len() as u64 != num_features {
        let reason = format!("{} tables for {num_features} features", weights.len());
        return Err(Error::invalid(op, "offsets", reason));
    }
    if weights.iter().any(|table| table.dtype != weights[0].dtype || table.ndim != 2) {
        return Err(Error::invalid(op, "weights", "not matrices of one type"));
    }
    for (table, sums) in weights.iter().zip(sums) {
        if sums.dtype != bagdot_dtype::F32 || sums.len(op, "sums")? != table.rows {
            return Err(Error::invalid(op, "sums", "not an f32 for each row"));
        }
    }
    let pooling = i32::try_from(pooling).unwrap_or(-1);
    check_len::<u64>(op, "offsets", num_features as usize)?;
    let rows: Vec<u64> = weights.iter().map(|table| table.rows).collect();
    let dims: Vec<u64> = weights.iter().map(|table| table.cols).collect();
    let addresses: Vec<*mut c_void> = weights.iter().map(|table| table.data).collect();
    let lds: Vec<u64> = weights.iter().map(|table| table.ld).collect();
    let sums: Vec<*mut c_void> = sums.iter().map(|sums| sums.data).collect();
    let poolings = vec![pooling; num_features as usize];
    let of_tables: Vec<u64> =
        (0..num_features).map(|feature| if weights.len() == 1 { 0 } else { feature }).collect();
    let options = bagdot_tables_options {
        dtype: weights.first().map_or(0, |table| table.dtype as i32),
        num_tables: weights.len() as u64,
        num_embeddings: rows.as_ptr(),
        embedding_dims: dims.as_ptr(),
        num_features,
        feature_tables: of_tables.as_ptr(),
        poolings: poolings.as_ptr(),
        weights: addresses.as_ptr(),
        weight_lds: lds.as_ptr(),
        optimizer: match sums.is_empty() {
            true => bagdot_optimizer::SGD as i32,
            false => bagdot_optimizer::ROWWISE_ADAGRAD as i32,
        },
        first: if sums.is_empty() { null() } else { sums.as_ptr() },
        ..zeroed()
    };
    let mut tables = null_mut();
    // SAFETY: the arrays have an entry for each table or feature, and the host keeps the tensors
    // during the call.
    checked(unsafe { bagdot_tables_create(context, &raw const options, &raw mut tables) })?;
    Ok(CallTables(tables))
}

/// Waits for the ops of a call before its tables are freed, which would wait anyway,
/// and reports a bad id.
fn settle(context: *const bagdot_context) -> Result<()> {
    // SAFETY: contexts live as long as the process.
    checked(unsafe { bagdot_synchronize(context) })
}

/// Makes bags of ids and offsets, and returns the number of features.
fn bags_of(
    op: &str,
    ids: &Tensor,
    offsets: &Tensor,
    batch_size: u64,
) -> Result<(bagdot_bags, u64)> {
    let (num_indices, num_offsets) = (ids.len(op, "ids")?, offsets.len(op, "offsets")?);
    let features = num_offsets
        .checked_sub(1)
        .filter(|bags| batch_size > 0 && bags % batch_size == 0)
        .map(|bags| bags / batch_size);
    let features = features.ok_or_else(|| {
        let reason = format!("{num_offsets} offsets for a batch of {batch_size}");
        Error::invalid(op, "offsets", reason)
    })?;
    let bags = bagdot_bags {
        index_dtype: ids.dtype as i32,
        offset_dtype: offsets.dtype as i32,
        batch_size,
        num_indices,
        indices: ids.data,
        offsets: offsets.data,
        ..zeroed()
    };
    Ok((bags, features))
}

/// Runs a function of TVM-FFI.
///
/// # Safety
/// `arguments` is to as many values, and `result` null or to memory for a value.
unsafe fn function(
    op: &'static str,
    arguments: *const TvmFfiAny,
    num_arguments: i32,
    result: *mut TvmFfiAny,
    body: impl FnOnce(&mut Arguments<'_>) -> Result<()>,
) -> c_int {
    let status = guard(|| {
        let len = usize::try_from(num_arguments).unwrap_or(0);
        // SAFETY: the caller's promise.
        let left = unsafe { crate::types::array(op, "arguments", arguments, len)? };
        body(&mut Arguments { op, left })
    });
    if !result.is_null() {
        // SAFETY: the caller's promise.
        unsafe { result.write(TvmFfiAny { type_index: NONE, zero_padding: 0, value: 0 }) };
    }
    if status == bagdot_status::OK as i32 {
        return 0;
    }
    // SAFETY: as in `checked`. The host gets a copy, since its functions may call back.
    let message: CString = unsafe { CStr::from_ptr(bagdot_last_error_message()) }.into();
    raise(&message);
    -1
}

/// `bagdot_embedding_bag(pooling, ids, offsets, weights..., pooled)`: the pooled vectors of bags.
///
/// `offsets` is `[F * B + 1]`, feature after feature, and `pooled` `[B, sum of dimensions]`, of
/// f32, f16 or bf16. There is one table for each feature, or one table for all of them. `pooling`
/// is a `bagdot_pooling`.
///
/// # Safety
/// TVM-FFI calls it with `num_arguments` values, whose tensors are what they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __tvm_ffi_bagdot_embedding_bag(
    _self: *mut c_void,
    arguments: *const TvmFfiAny,
    num_arguments: i32,
    result: *mut TvmFfiAny,
) -> c_int {
    const OP: &str = "bagdot_embedding_bag";
    let body = |arguments: &mut Arguments<'_>| {
        let pooling = arguments.int("pooling")?;
        let (ids, offsets) = (arguments.tensor("ids")?, arguments.tensor("offsets")?);
        let weights = arguments.tensors("weights", 1)?;
        let pooled = arguments.tensor("pooled")?;
        let mut all = vec![&ids, &offsets, &pooled];
        all.extend(&weights);
        let context = Tensor::context(OP, &all)?;
        let (bags, features) = bags_of(OP, &ids, &offsets, pooled.rows)?;
        let tables = tables_of(OP, context, (&weights, &[]), features, pooling)?;
        let output = pooled.matrix();
        // SAFETY: the tensors are what they say, and the host keeps them during the call.
        checked(unsafe {
            bagdot_embedding_bag_forward(
                context,
                tables.0,
                &raw const bags,
                &raw const output,
                null(),
            )
        })?;
        settle(context)
    };
    // SAFETY: the caller's promise.
    unsafe { function(OP, arguments, num_arguments, result, body) }
}

/// Takes a step on the rows that bags look up. The arguments left are ids, offsets, the gradient of
/// the pooled output, the tables and, for row-wise Adagrad, as many sums of squares.
fn update(arguments: &mut Arguments<'_>, pooling: i64, rule: bagdot_rule) -> Result<()> {
    let op = arguments.op;
    let (ids, offsets) = (arguments.tensor("ids")?, arguments.tensor("offsets")?);
    let grad_pooled = arguments.tensor("grad_pooled")?;
    let tensors = arguments.tensors("weights", 0)?;
    let has_sums = rule.optimizer == bagdot_optimizer::ROWWISE_ADAGRAD as i32;
    if has_sums && !tensors.len().is_multiple_of(2) {
        return Err(Error::invalid(op, "sums", "not one for each table"));
    }
    let (weights, sums) =
        tensors.split_at(if has_sums { tensors.len() / 2 } else { tensors.len() });
    let mut all = vec![&ids, &offsets, &grad_pooled];
    all.extend(&tensors);
    let context = Tensor::context(op, &all)?;
    let (bags, features) = bags_of(op, &ids, &offsets, grad_pooled.rows)?;
    let tables = tables_of(op, context, (weights, sums), features, pooling)?;
    let grad = grad_pooled.matrix();
    let (bags, grad, rule) = (&raw const bags, &raw const grad, &raw const rule);
    // SAFETY: the tensors are what they say, and the host keeps them during the call.
    checked(unsafe { bagdot_sparse_update_step(context, tables.0, bags, grad, rule) })?;
    settle(context)
}

/// `bagdot_embedding_bag_sgd(pooling, learning_rate, ids, offsets, grad_pooled, weights...)`: takes
/// `weights -= learning_rate * gradient` on the rows that the bags look up, in place. Of zeros, the
/// rate 1 and `-grad_pooled`, it makes the gradient of the tables.
///
/// # Safety
/// As for [`__tvm_ffi_bagdot_embedding_bag`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __tvm_ffi_bagdot_embedding_bag_sgd(
    _self: *mut c_void,
    arguments: *const TvmFfiAny,
    num_arguments: i32,
    result: *mut TvmFfiAny,
) -> c_int {
    let body = |arguments: &mut Arguments<'_>| {
        let pooling = arguments.int("pooling")?;
        let learning_rate = arguments.float("learning_rate")?;
        let optimizer = bagdot_optimizer::SGD as i32;
        update(arguments, pooling, bagdot_rule { optimizer, learning_rate, ..zeroed() })
    };
    // SAFETY: the caller's promise.
    unsafe { function("bagdot_embedding_bag_sgd", arguments, num_arguments, result, body) }
}

/// `bagdot_embedding_bag_rowwise_adagrad(pooling, learning_rate, eps, ids, offsets, grad_pooled,
/// weights..., sums...)`: takes a step of row-wise Adagrad on the rows that the bags look up, in
/// place. `sums` are the sums of squares, `[rows]` for each table.
///
/// # Safety
/// As for [`__tvm_ffi_bagdot_embedding_bag`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __tvm_ffi_bagdot_embedding_bag_rowwise_adagrad(
    _self: *mut c_void,
    arguments: *const TvmFfiAny,
    num_arguments: i32,
    result: *mut TvmFfiAny,
) -> c_int {
    const OP: &str = "bagdot_embedding_bag_rowwise_adagrad";
    let body = |arguments: &mut Arguments<'_>| {
        let pooling = arguments.int("pooling")?;
        let (learning_rate, eps) = (arguments.float("learning_rate")?, arguments.float("eps")?);
        let optimizer = bagdot_optimizer::ROWWISE_ADAGRAD as i32;
        update(arguments, pooling, bagdot_rule { optimizer, learning_rate, eps, ..zeroed() })
    };
    // SAFETY: the caller's promise.
    unsafe { function(OP, arguments, num_arguments, result, body) }
}

/// Makes the interaction of features `[B, D]` and `[B, T * D]`.
fn interaction_of(arguments: &mut Arguments<'_>) -> Result<(bagdot_interaction, [Tensor; 2])> {
    let pair_order = arguments.int("pair_order")?;
    let include_self = arguments.int("include_self")?;
    let (dense, sparse) = (arguments.tensor("dense")?, arguments.tensor("sparse")?);
    let interaction = bagdot_interaction {
        pair_order: i32::try_from(pair_order).unwrap_or(-1),
        include_self: u32::from(include_self != 0),
        dim: dense.cols,
        ..zeroed()
    };
    Ok((interaction, [dense, sparse]))
}

/// `bagdot_interaction(pair_order, include_self, dense, sparse, output)`: the dense vector `[B, D]`
/// and the dot products of all pairs of it and the vectors of `sparse`, `[B, T * D]`.
///
/// # Safety
/// As for [`__tvm_ffi_bagdot_embedding_bag`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __tvm_ffi_bagdot_interaction(
    _self: *mut c_void,
    arguments: *const TvmFfiAny,
    num_arguments: i32,
    result: *mut TvmFfiAny,
) -> c_int {
    const OP: &str = "bagdot_interaction";
    let body = |arguments: &mut Arguments<'_>| {
        let (interaction, [dense, sparse]) = interaction_of(arguments)?;
        let output = arguments.tensor("output")?;
        arguments.end()?;
        let context = Tensor::context(OP, &[&dense, &sparse, &output])?;
        let (dense, sparse, output) = (dense.matrix(), sparse.matrix(), output.matrix());
        let features =
            bagdot_features { dense: &raw const dense, sparse: &raw const sparse, ..zeroed() };
        // SAFETY: the tensors are what they say, and the host keeps them during the call.
        checked(unsafe {
            bagdot_interaction_forward(
                context,
                &raw const interaction,
                &raw const features,
                &raw const output,
            )
        })
    };
    // SAFETY: the caller's promise.
    unsafe { function(OP, arguments, num_arguments, result, body) }
}

/// `bagdot_interaction_grad(pair_order, include_self, dense, sparse, grad_output, grad_dense,
/// grad_sparse)`: the gradient of both kinds of features.
///
/// # Safety
/// As for [`__tvm_ffi_bagdot_embedding_bag`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __tvm_ffi_bagdot_interaction_grad(
    _self: *mut c_void,
    arguments: *const TvmFfiAny,
    num_arguments: i32,
    result: *mut TvmFfiAny,
) -> c_int {
    const OP: &str = "bagdot_interaction_grad";
    let body = |arguments: &mut Arguments<'_>| {
        let (interaction, [dense, sparse]) = interaction_of(arguments)?;
        let grad_output = arguments.tensor("grad_output")?;
        let grad_dense = arguments.tensor("grad_dense")?;
        let grad_sparse = arguments.tensor("grad_sparse")?;
        arguments.end()?;
        let all = [&dense, &sparse, &grad_output, &grad_dense, &grad_sparse];
        let context = Tensor::context(OP, &all)?;
        let [dense, sparse, grad_output, grad_dense, grad_sparse] = all.map(Tensor::matrix);
        let features =
            bagdot_features { dense: &raw const dense, sparse: &raw const sparse, ..zeroed() };
        let grads = bagdot_features {
            dense: &raw const grad_dense,
            sparse: &raw const grad_sparse,
            ..zeroed()
        };
        // SAFETY: the tensors are what they say, and the host keeps them during the call.
        checked(unsafe {
            bagdot_interaction_backward(
                context,
                &raw const interaction,
                &raw const features,
                &raw const grad_output,
                &raw const grads,
            )
        })
    };
    // SAFETY: the caller's promise.
    unsafe { function(OP, arguments, num_arguments, result, body) }
}
