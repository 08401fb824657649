//! Memory of the caller as the ops of either backend take it, and handles that belong to one of the
//! backends.

use std::ffi::c_void;

use bagdot::backend::{cpu, cuda};
use bagdot::ops::{
    Backend, Bags, Matrix, MatrixMut, SeparateTables, SeparateTablesMut, TableBatch, TableValues,
    TableValuesMut, View, ViewMut,
};
use bagdot::{Cpu, Cuda, Index, Scalar, bf16, f16};

use crate::error::{Error, Result, bagdot_status};
use crate::types::{
    array, array_option, bagdot_bags, bagdot_dtype, bagdot_matrix, check_len, check_pointer, dtype,
    read_option, read_struct, size,
};

/// A type that is different for each backend.
pub(crate) trait Family {
    /// The type for a backend.
    type Of<D: Raw>;
}

/// A value of a family, for one of the backends: the content of a handle.
pub(crate) enum Either<F: Family> {
    Cpu(F::Of<Cpu>),
    Cuda(F::Of<Cuda>),
}

/// The matrix of a table in memory of the caller.
#[derive(Clone, Copy)]
pub(crate) struct RawMatrix<T> {
    pub(crate) data: *mut T,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) ld: usize,
}

impl<T> RawMatrix<T> {
    /// Returns the number of elements that the matrix spans. The error names the argument.
    pub(crate) fn extent(&self, op: &str, argument: &str) -> Result<usize> {
        let Self { rows, cols, ld, .. } = *self;
        if rows == 0 || cols == 0 {
            return Ok(0);
        }
        let span = (rows - 1).checked_mul(ld).and_then(|span| span.checked_add(cols));
        let extent = span.unwrap_or(usize::MAX);
        check_len::<T>(op, argument, extent)?;
        Ok(extent)
    }
}

/// A backend that makes views of raw pointers.
pub(crate) trait Raw: Backend + 'static {
    /// Tables in memory of their own, as a handle keeps them.
    type Kept<E: Scalar>;

    /// Returns the content of a handle, if it belongs to this backend.
    fn pick<F: Family>(either: &Either<F>) -> Option<&F::Of<Self>>;
    /// Returns the content of a handle for writing, if it belongs to this backend.
    fn pick_mut<F: Family>(either: &mut Either<F>) -> Option<&mut F::Of<Self>>;
    /// Makes the content of a handle.
    fn wrap<F: Family>(of: F::Of<Self>) -> Either<F>;

    /// Views memory of the caller.
    ///
    /// # Safety
    /// As for `View::from_raw` of CUDA: `len` elements, not 0, aligned, which nothing writes before
    /// all work that was given the view has run.
    unsafe fn raw<'a, T: Scalar>(pointer: *const T, len: usize) -> View<'a, Self, T>;
    /// Views memory of the caller for writing.
    ///
    /// # Safety
    /// As for [`Self::raw`], and nothing else reads the elements either.
    unsafe fn raw_mut<'a, T: Scalar>(pointer: *mut T, len: usize) -> ViewMut<'a, Self, T>;
    /// Makes a buffer of memory of the caller.
    ///
    /// # Safety
    /// As for [`Self::raw_mut`], as long as the buffer lives. The elements are initialised.
    unsafe fn raw_buffer<T: Scalar>(&self, pointer: *mut T, len: usize) -> Self::Buffer<T>;
    /// Returns an empty view.
    fn none<'a, T: Scalar>() -> View<'a, Self, T>;
    /// Returns an empty view for writing.
    fn none_mut<'a, T: Scalar>() -> ViewMut<'a, Self, T>;

    /// Keeps tables in memory of their own. On CUDA, copies their addresses to the device.
    ///
    /// # Safety
    /// As for [`Self::raw_mut`], for each call that is given values of the result.
    unsafe fn keep<E: Scalar>(
        &self,
        tables: &TableBatch,
        matrices: Vec<RawMatrix<E>>,
    ) -> Result<Self::Kept<E>>;
    /// Views kept tables.
    ///
    /// # Safety
    /// As for [`Self::raw`].
    unsafe fn kept<'a, E: Scalar>(
        &self,
        tables: &TableBatch,
        kept: &'a Self::Kept<E>,
    ) -> Result<TableValues<'a, Self, E>>;
    /// Views kept tables for writing.
    ///
    /// # Safety
    /// As for [`Self::raw_mut`].
    unsafe fn kept_mut<'a, E: Scalar>(
        &self,
        tables: &TableBatch,
        kept: &'a mut Self::Kept<E>,
    ) -> Result<TableValuesMut<'a, Self, E>>;
}

impl Raw for Cpu {
    /// The tables as they were given: a Rust reference to them may exist only during a call.
    type Kept<E: Scalar> = Vec<RawMatrix<E>>;

    fn pick<F: Family>(either: &Either<F>) -> Option<&F::Of<Self>> {
        match either {
            Either::Cpu(of) => Some(of),
            Either::Cuda(_) => None,
        }
    }

    fn pick_mut<F: Family>(either: &mut Either<F>) -> Option<&mut F::Of<Self>> {
        match either {
            Either::Cpu(of) => Some(of),
            Either::Cuda(_) => None,
        }
    }

    fn wrap<F: Family>(of: F::Of<Self>) -> Either<F> {
        Either::Cpu(of)
    }

    unsafe fn raw<'a, T: Scalar>(pointer: *const T, len: usize) -> View<'a, Self, T> {
        // SAFETY: the caller's promise; any bits are a value of a scalar.
        View::from(unsafe { std::slice::from_raw_parts(pointer, len) })
    }

    unsafe fn raw_mut<'a, T: Scalar>(pointer: *mut T, len: usize) -> ViewMut<'a, Self, T> {
        // SAFETY: the caller's promise; any bits are a value of a scalar.
        ViewMut::from(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
    }

    unsafe fn raw_buffer<T: Scalar>(&self, pointer: *mut T, len: usize) -> cpu::Buffer<T> {
        // SAFETY: the caller's promise.
        unsafe { cpu::Buffer::from_raw(pointer, len) }
    }

    fn none<'a, T: Scalar>() -> View<'a, Self, T> {
        View::from(&[][..])
    }

    fn none_mut<'a, T: Scalar>() -> ViewMut<'a, Self, T> {
        ViewMut::from(&mut [][..])
    }

    unsafe fn keep<E: Scalar>(
        &self,
        tables: &TableBatch,
        matrices: Vec<RawMatrix<E>>,
    ) -> Result<Vec<RawMatrix<E>>> {
        // SAFETY: the caller's promise. This checks the shapes.
        unsafe { self.kept(tables, &matrices)? };
        Ok(matrices)
    }

    unsafe fn kept<'a, E: Scalar>(
        &self,
        tables: &TableBatch,
        kept: &'a Vec<RawMatrix<E>>,
    ) -> Result<TableValues<'a, Self, E>> {
        // SAFETY: the caller's promise.
        let views = kept.iter().map(|matrix| unsafe { shared(*matrix) });
        let values = views.collect::<Result<Vec<_>>>()?;
        Ok(TableValues::Separate(SeparateTables::new(self, tables, values)?))
    }

    unsafe fn kept_mut<'a, E: Scalar>(
        &self,
        tables: &TableBatch,
        kept: &'a mut Vec<RawMatrix<E>>,
    ) -> Result<TableValuesMut<'a, Self, E>> {
        // SAFETY: the caller's promise.
        let views = kept.iter().map(|matrix| unsafe { exclusive(*matrix) });
        let values = views.collect::<Result<Vec<_>>>()?;
        Ok(TableValuesMut::Separate(SeparateTablesMut::new(self, tables, values)?))
    }
}

impl Raw for Cuda {
    /// The tables with their addresses on the device. Views of the device hold no Rust reference to
    /// the memory, so that they may live as long as the handle.
    type Kept<E: Scalar> = SeparateTablesMut<'static, Cuda, E>;

    fn pick<F: Family>(either: &Either<F>) -> Option<&F::Of<Self>> {
        match either {
            Either::Cuda(of) => Some(of),
            Either::Cpu(_) => None,
        }
    }

    fn pick_mut<F: Family>(either: &mut Either<F>) -> Option<&mut F::Of<Self>> {
        match either {
            Either::Cuda(of) => Some(of),
            Either::Cpu(_) => None,
        }
    }

    fn wrap<F: Family>(of: F::Of<Self>) -> Either<F> {
        Either::Cuda(of)
    }

    unsafe fn raw<'a, T: Scalar>(pointer: *const T, len: usize) -> View<'a, Self, T> {
        // SAFETY: the caller's promise.
        unsafe { View::from_raw(pointer as u64, len) }
    }

    unsafe fn raw_mut<'a, T: Scalar>(pointer: *mut T, len: usize) -> ViewMut<'a, Self, T> {
        // SAFETY: the caller's promise.
        unsafe { ViewMut::from_raw(pointer as u64, len) }
    }

    unsafe fn raw_buffer<T: Scalar>(&self, pointer: *mut T, len: usize) -> cuda::Buffer<T> {
        // SAFETY: the caller's promise.
        unsafe { cuda::Buffer::from_raw(self, pointer as u64, len) }
    }

    fn none<'a, T: Scalar>() -> View<'a, Self, T> {
        // SAFETY: there are no elements.
        unsafe { View::from_raw(0, 0) }
    }

    fn none_mut<'a, T: Scalar>() -> ViewMut<'a, Self, T> {
        // SAFETY: there are no elements.
        unsafe { ViewMut::from_raw(0, 0) }
    }

    unsafe fn keep<E: Scalar>(
        &self,
        tables: &TableBatch,
        matrices: Vec<RawMatrix<E>>,
    ) -> Result<SeparateTablesMut<'static, Cuda, E>> {
        // SAFETY: the caller's promise.
        let views = matrices.into_iter().map(|matrix| unsafe { exclusive(matrix) });
        let values = views.collect::<Result<Vec<_>>>()?;
        Ok(SeparateTablesMut::new(self, tables, values)?)
    }

    unsafe fn kept<'a, E: Scalar>(
        &self,
        _tables: &TableBatch,
        kept: &'a SeparateTablesMut<'static, Cuda, E>,
    ) -> Result<TableValues<'a, Self, E>> {
        Ok(kept.into())
    }

    unsafe fn kept_mut<'a, E: Scalar>(
        &self,
        _tables: &TableBatch,
        kept: &'a mut SeparateTablesMut<'static, Cuda, E>,
    ) -> Result<TableValuesMut<'a, Self, E>> {
        Ok(kept.into())
    }
}

/// Makes a matrix for reading. The shape is checked where it is used.
///
/// # Safety
/// As for [`Raw::raw`]; a null pointer is refused.
pub(crate) unsafe fn shared<'a, D: Raw, T: Scalar>(
    matrix: RawMatrix<T>,
) -> Result<Matrix<'a, D, T>> {
    let (op, name, RawMatrix { data, rows, cols, ld }) = ("tables", "weights or state", matrix);
    // SAFETY: the caller's promise.
    let data = unsafe { view(op, name, data, matrix.extent(op, name)?)? };
    Ok(Matrix { data, rows, cols, ld })
}

/// Makes a matrix for writing. The shape is checked where it is used.
///
/// # Safety
/// As for [`Raw::raw_mut`]; a null pointer is refused.
pub(crate) unsafe fn exclusive<'a, D: Raw, T: Scalar>(
    matrix: RawMatrix<T>,
) -> Result<MatrixMut<'a, D, T>> {
    let (op, name, RawMatrix { data, rows, cols, ld }) = ("tables", "weights or state", matrix);
    // SAFETY: the caller's promise.
    let data = unsafe { view_mut(op, name, data, matrix.extent(op, name)?)? };
    Ok(MatrixMut { data, rows, cols, ld })
}

/// Views memory of the caller for reading. Checks the pointer.
///
/// # Safety
/// As for [`Raw::raw`]; a null or misaligned pointer is refused, and none is needed without
/// elements.
pub(crate) unsafe fn view<'a, D: Raw, T: Scalar>(
    op: &str,
    argument: &str,
    pointer: *const T,
    len: usize,
) -> Result<View<'a, D, T>> {
    if len == 0 {
        return Ok(D::none());
    }
    check_pointer(op, argument, pointer)?;
    check_len::<T>(op, argument, len)?;
    // SAFETY: the caller's promise; pointer and length have been checked.
    Ok(unsafe { D::raw(pointer, len) })
}

/// Views memory of the caller for writing. Checks the pointer.
///
/// # Safety
/// As for [`Raw::raw_mut`], with the exceptions of [`view`].
pub(crate) unsafe fn view_mut<'a, D: Raw, T: Scalar>(
    op: &str,
    argument: &str,
    pointer: *mut T,
    len: usize,
) -> Result<ViewMut<'a, D, T>> {
    if len == 0 {
        return Ok(D::none_mut());
    }
    check_pointer(op, argument, pointer)?;
    check_len::<T>(op, argument, len)?;
    // SAFETY: the caller's promise; pointer and length have been checked.
    Ok(unsafe { D::raw_mut(pointer, len) })
}

/// Views memory of the caller for reading, or returns `None` for null.
///
/// # Safety
/// As for [`view`].
pub(crate) unsafe fn view_option<'a, D: Raw, T: Scalar>(
    op: &str,
    argument: &str,
    pointer: *const T,
    len: usize,
) -> Result<Option<View<'a, D, T>>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { view(op, argument, pointer, len).map(Some) }
}

/// Views memory of the caller for writing, or returns `None` for null.
///
/// # Safety
/// As for [`view_mut`].
pub(crate) unsafe fn view_mut_option<'a, D: Raw, T: Scalar>(
    op: &str,
    argument: &str,
    pointer: *mut T,
    len: usize,
) -> Result<Option<ViewMut<'a, D, T>>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { view_mut(op, argument, pointer, len).map(Some) }
}

/// A scalar with a number in the C interface.
pub(crate) trait Typed: Scalar {
    const DTYPE: bagdot_dtype;
}

macro_rules! typed {
    ($($Type:ty: $dtype:ident,)+) => {
        $(impl Typed for $Type {
            const DTYPE: bagdot_dtype = bagdot_dtype::$dtype;
        })+
    };
}
typed! { f32: F32, f16: F16, bf16: BF16, i32: I32, i64: I64, u32: U32, }

/// Reads a matrix of elements of `T`.
///
/// # Safety
/// The pointer is null or to a `bagdot_matrix`.
unsafe fn raw_matrix<T: Typed>(
    op: &str,
    argument: &str,
    pointer: *const bagdot_matrix,
) -> Result<RawMatrix<T>> {
    if pointer.is_null() {
        return Err(Error::null(op, argument));
    }
    // SAFETY: the caller's promise.
    let matrix = unsafe { read_struct(op, pointer)? };
    let found = dtype(op, argument, matrix.dtype)?;
    if found != T::DTYPE {
        let message = format!("{op}: {argument} holds {found:?}, not {:?}", T::DTYPE);
        return Err(Error::Interface(bagdot_status::DTYPE_MISMATCH, message));
    }
    let ld = if matrix.ld == 0 { matrix.cols } else { matrix.ld };
    Ok(RawMatrix {
        data: matrix.data.cast(),
        rows: size(op, argument, matrix.rows)?,
        cols: size(op, argument, matrix.cols)?,
        ld: size(op, argument, ld)?,
    })
}

/// Reads the element type of a matrix.
///
/// # Safety
/// The pointer is null or to a `bagdot_matrix`.
pub(crate) unsafe fn dtype_of(
    op: &str,
    argument: &str,
    pointer: *const bagdot_matrix,
) -> Result<bagdot_dtype> {
    if pointer.is_null() {
        return Err(Error::null(op, argument));
    }
    // SAFETY: the caller's promise.
    dtype(op, argument, unsafe { read_struct(op, pointer)? }.dtype)
}

/// Makes a matrix of the caller for reading.
///
/// # Safety
/// The pointer is null or to a `bagdot_matrix`, whose memory is as [`view`] needs it.
pub(crate) unsafe fn matrix<'a, D: Raw, T: Typed>(
    op: &str,
    argument: &str,
    pointer: *const bagdot_matrix,
) -> Result<Matrix<'a, D, T>> {
    // SAFETY: the caller's promise.
    let matrix = unsafe { raw_matrix::<T>(op, argument, pointer)? };
    let RawMatrix { data, rows, cols, ld } = matrix;
    // SAFETY: the caller's promise.
    let data = unsafe { view(op, argument, data, matrix.extent(op, argument)?)? };
    Ok(Matrix { data, rows, cols, ld })
}

/// Makes a matrix of the caller for writing.
///
/// # Safety
/// The pointer is null or to a `bagdot_matrix`, whose memory is as [`view_mut`] needs it.
pub(crate) unsafe fn matrix_mut<'a, D: Raw, T: Typed>(
    op: &str,
    argument: &str,
    pointer: *const bagdot_matrix,
) -> Result<MatrixMut<'a, D, T>> {
    // SAFETY: the caller's promise.
    let matrix = unsafe { raw_matrix::<T>(op, argument, pointer)? };
    let RawMatrix { data, rows, cols, ld } = matrix;
    // SAFETY: the caller's promise.
    let data = unsafe { view_mut(op, argument, data, matrix.extent(op, argument)?)? };
    Ok(MatrixMut { data, rows, cols, ld })
}

/// Makes a matrix of the caller for reading, or returns `None` for null.
///
/// # Safety
/// As for [`matrix`].
pub(crate) unsafe fn matrix_option<'a, D: Raw, T: Typed>(
    op: &str,
    argument: &str,
    pointer: *const bagdot_matrix,
) -> Result<Option<Matrix<'a, D, T>>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { matrix(op, argument, pointer).map(Some) }
}

/// Makes a matrix of the caller for writing, or returns `None` for null.
///
/// # Safety
/// As for [`matrix_mut`].
pub(crate) unsafe fn matrix_mut_option<'a, D: Raw, T: Typed>(
    op: &str,
    argument: &str,
    pointer: *const bagdot_matrix,
) -> Result<Option<MatrixMut<'a, D, T>>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { matrix_mut(op, argument, pointer).map(Some) }
}

/// Makes the bags of a batch for tables with this number of features.
///
/// # Safety
/// All pointers of the struct are null or to as much memory as its fields say, as [`view`] needs
/// it.
pub(crate) unsafe fn bags<'a, D: Raw, I: Index + Typed>(
    op: &str,
    bags: &bagdot_bags,
    features: usize,
) -> Result<Bags<'a, D, I>> {
    let batch_size = size(op, "bags.batch_size", bags.batch_size)?;
    let num_indices = size(op, "bags.num_indices", bags.num_indices)?;
    // SAFETY: the caller's promise, here and below.
    let ids = unsafe { view::<D, I>(op, "bags.indices", bags.indices.cast(), num_indices)? };
    let made = if bags.offsets.is_null() {
        let length = size(op, "bags.bag_length", bags.bag_length)?;
        if length == 0 && num_indices > 0 {
            return Err(Error::null(op, "bags.offsets"));
        }
        Bags::of_length(batch_size, ids, length)
    } else {
        let num_bags = features.checked_mul(batch_size).and_then(|bags| bags.checked_add(1));
        let num_bags = num_bags
            .ok_or_else(|| Error::invalid(op, "bags.batch_size", "more bags than fit"))?
            - 1;
        let len = num_bags + usize::from(bags.has_starts == 0);
        macro_rules! with_offsets {
            ($Type:ty) => {{
                let pointer = bags.offsets.cast::<$Type>();
                // SAFETY: as above.
                let offsets = unsafe { view::<D, $Type>(op, "bags.offsets", pointer, len)? };
                match bags.has_starts {
                    0 => Bags::new(batch_size, ids, offsets),
                    _ => Bags::from_starts(batch_size, ids, offsets),
                }
            }};
        }
        match dtype(op, "bags.offset_dtype", bags.offset_dtype)? {
            bagdot_dtype::I32 => with_offsets!(i32),
            bagdot_dtype::I64 => with_offsets!(i64),
            bagdot_dtype::U32 => with_offsets!(u32),
            other => return Err(not_an_index(op, "bags.offset_dtype", other)),
        }
    };
    let name = "bags.per_sample_weights";
    // SAFETY: as above.
    let factors = unsafe { view_option(op, name, bags.per_sample_weights, num_indices)? };
    let made = factors.map_or(made, |factors| made.weighted(factors));
    Ok(if bags.has_slack == 0 { made } else { made.with_slack() })
}

/// Reads the bags of a batch.
///
/// # Safety
/// The pointer is null or to a `bagdot_bags`.
pub(crate) unsafe fn read_bags(op: &str, pointer: *const bagdot_bags) -> Result<bagdot_bags> {
    // SAFETY: the caller's promise.
    unsafe { read_option(op, pointer)?.ok_or_else(|| Error::null(op, "bags")) }
}

/// Makes the error for a type that ids and offsets do not have.
pub(crate) fn not_an_index(op: &str, argument: &str, dtype: bagdot_dtype) -> Error {
    Error::invalid(op, argument, format!("{dtype:?}, but must be I32, I64 or U32"))
}

/// Makes the error for a type that elements do not have.
pub(crate) fn not_an_element(op: &str, argument: &str, dtype: bagdot_dtype) -> Error {
    Error::invalid(op, argument, format!("{dtype:?}, but must be F32, F16 or BF16"))
}

/// Evaluates an expression for the type of the ids of bags.
macro_rules! with_index {
    ($op:expr, $bags:expr, $I:ident => $body:expr) => {
        match $crate::types::dtype($op, "bags.index_dtype", $bags.index_dtype)? {
            $crate::types::bagdot_dtype::I32 => {
                type $I = i32;
                $body
            }
            $crate::types::bagdot_dtype::I64 => {
                type $I = i64;
                $body
            }
            $crate::types::bagdot_dtype::U32 => {
                type $I = u32;
                $body
            }
            other => Err($crate::device::not_an_index($op, "bags.index_dtype", other)),
        }
    };
}
pub(crate) use with_index;

/// Evaluates an expression for a type of elements.
macro_rules! with_element {
    ($op:expr, $argument:expr, $dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::types::bagdot_dtype::F32 => {
                type $E = f32;
                $body
            }
            $crate::types::bagdot_dtype::F16 => {
                type $E = bagdot::f16;
                $body
            }
            $crate::types::bagdot_dtype::BF16 => {
                type $E = bagdot::bf16;
                $body
            }
            other => Err($crate::device::not_an_element($op, $argument, other)),
        }
    };
}
pub(crate) use with_element;

/// Returns the object behind a handle.
///
/// # Safety
/// The pointer is null or a handle of the library that has not been destroyed, and nothing writes
/// the object in the lifetime `'a`.
pub(crate) unsafe fn handle<'a, T>(op: &str, argument: &str, pointer: *const T) -> Result<&'a T> {
    check_pointer(op, argument, pointer)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { &*pointer })
}

/// Returns the object behind a handle for writing.
///
/// # Safety
/// As for [`handle`], and nothing else reads the object.
pub(crate) unsafe fn handle_mut<'a, T>(
    op: &str,
    argument: &str,
    pointer: *mut T,
) -> Result<&'a mut T> {
    check_pointer(op, argument, pointer)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { &mut *pointer })
}

/// Frees the object behind a handle; null is nothing.
///
/// # Safety
/// The pointer is null or a handle of the library, which nothing uses any more.
pub(crate) unsafe fn destroy<T>(pointer: *mut T) {
    crate::error::guard(|| {
        if !pointer.is_null() {
            // SAFETY: the library made the handle by `Box::into_raw`.
            drop(unsafe { Box::from_raw(pointer) });
        }
        Ok(())
    });
}

/// Makes a handle of an object, and writes it to `out`.
///
/// # Safety
/// `out` is null or to memory for a pointer.
pub(crate) unsafe fn make<T>(
    op: &str,
    out: *mut *mut T,
    object: impl FnOnce() -> Result<T>,
) -> Result<()> {
    check_pointer(op, "out", out)?;
    let object = Box::into_raw(Box::new(object()?));
    // SAFETY: the pointer is not null, and aligned; the rest is the caller's promise.
    unsafe { out.write(object) };
    Ok(())
}

/// Returns the error for a handle that belongs to another backend than the context.
pub(crate) fn other_backend<T>() -> Result<T> {
    Err(Error::Core(bagdot::Error::OtherBackend))
}

/// Reads the addresses of tables in memory of their own, with their leading dimensions.
///
/// # Safety
/// Each pointer is null or to as many entries as there are shapes.
pub(crate) unsafe fn raw_tables<E>(
    op: &str,
    argument: &str,
    (addresses, lds): (*const *mut c_void, *const u64),
    shapes: &[(usize, usize)],
) -> Result<Vec<RawMatrix<E>>> {
    // SAFETY: the caller's promise.
    let (addresses, lds) = unsafe {
        (
            array(op, argument, addresses, shapes.len())?,
            array_option(op, argument, lds, shapes.len())?,
        )
    };
    let matrices = addresses.iter().zip(shapes).enumerate().map(|(t, (&data, &(rows, cols)))| {
        let ld = match lds.map_or(0, |lds| lds[t]) {
            0 => cols,
            ld => size(op, argument, ld)?,
        };
        let data = data.cast::<E>();
        check_pointer(op, &format!("{argument}[{t}]"), data)?;
        Ok(RawMatrix { data, rows, cols, ld })
    });
    matrices.collect()
}
