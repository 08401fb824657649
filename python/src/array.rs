//! Arrays of Python, borrowed for the time of a call: from NumPy by `__array_struct__`, from newer
//! producers (PyTorch) by DLPack's table of C functions, from all others by `__dlpack__`.
//!
//! Nothing is copied. An [`Array`] of the first two kinds borrows from the object, which the
//! caller of the op keeps alive; of the third, it owns the producer's tensor until it is dropped.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Mutex;

use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use crate::dlpack::{self, DlDataType, DlDevice, DlTensor, ExchangeApi, Managed, Versioned};
use crate::error::{type_error, value_error};

/// The most dimensions of an array that ops take.
pub(crate) const MAX_DIMS: usize = 4;

/// The type of the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    BF16,
    F64,
    I32,
    I64,
    U32,
    U64,
}

impl Kind {
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::F64 => "float64",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
        }
    }

    pub(crate) fn dlpack(self) -> DlDataType {
        let code = match self {
            Self::F32 | Self::F16 | Self::F64 => dlpack::FLOAT,
            Self::BF16 => dlpack::BFLOAT,
            Self::I32 | Self::I64 => dlpack::INT,
            Self::U32 | Self::U64 => dlpack::UINT,
        };
        DlDataType { code, bits: 8 * self.size() as u8, lanes: 1 }
    }

    fn of_dlpack(dtype: DlDataType) -> Option<Self> {
        [Self::F32, Self::I64, Self::I32, Self::F16, Self::BF16, Self::F64, Self::U32, Self::U64]
            .into_iter()
            .find(|kind| kind.dlpack() == dtype)
    }
}

/// The memory in which the elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Host,
    Cuda(i32),
}

/// The library that an array comes from, which makes outputs of its own kind.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    NumPy,
    Exchange(&'static ExchangeApi),
    Other,
}

/// The producer's tensor that an array keeps.
enum Kept {
    Nothing,
    Managed(*mut Managed),
    Versioned(*mut Versioned),
}

/// An array of Python.
pub(crate) struct Array {
    pub(crate) data: *mut u8,
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    pub(crate) origin: Origin,
    pub(crate) writable: bool,
    dims: usize,
    shape: [usize; MAX_DIMS],
    /// In elements.
    strides: [isize; MAX_DIMS],
    kept: Kept,
}

impl Drop for Array {
    fn drop(&mut self) {
        match self.kept {
            Kept::Nothing => {}
            Kept::Managed(tensor) => {
                // SAFETY: the tensor came out of a capsule that was marked as used, so that
                // nothing else deletes it.
                unsafe {
                    if let Some(deleter) = (*tensor).deleter {
                        deleter(tensor);
                    }
                }
            }
            Kept::Versioned(tensor) => {
                // SAFETY: as above.
                unsafe {
                    if let Some(deleter) = (*tensor).deleter {
                        deleter(tensor);
                    }
                }
            }
        }
    }
}

/// NumPy's `PyArrayInterface`, which a capsule of `__array_struct__` points to.
#[repr(C)]
struct ArrayInterface {
    two: c_int,
    dims: c_int,
    kind: c_char,
    item_size: c_int,
    flags: c_int,
    shape: *mut isize,
    /// In bytes.
    strides: *mut isize,
    data: *mut c_void,
    description: *mut ffi::PyObject,
}

const NUMPY_NOT_SWAPPED: c_int = 0x200;
const NUMPY_WRITEABLE: c_int = 0x400;

/// The tables of C functions of the types that have been met, or null for a type without one. A
/// type that is listed is kept alive, so that its address stays its own.
static TYPES: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Returns the table of C functions of an object's type.
fn exchange_api(object: &Bound<'_, PyAny>) -> Option<&'static ExchangeApi> {
    // SAFETY: the object is alive, and so is its type.
    let class = unsafe { ffi::Py_TYPE(object.as_ptr()) } as usize;
    let known = |types: &[(usize, usize)]| {
        types.iter().find(|(known, _)| *known == class).map(|(_, api)| *api)
    };
    let found = TYPES.lock().ok().and_then(|types| known(&types));
    let api = found.unwrap_or_else(|| {
        let api = find_api(object).unwrap_or(ptr::null()) as usize;
        if let Ok(mut types) = TYPES.lock()
            && known(&types).is_none()
        {
            std::mem::forget(object.get_type().unbind());
            types.push((class, api));
        }
        api
    });
    // SAFETY: the producer promises that its table lives as long as the process.
    unsafe { (api as *const ExchangeApi).as_ref() }
}

/// Finds the table of C functions of a type, if it has one of the major version 1.
fn find_api(object: &Bound<'_, PyAny>) -> Option<*const ExchangeApi> {
    let py = object.py();
    let name = pyo3::intern!(py, "__dlpack_c_exchange_api__");
    let capsule = object.get_type().getattr_opt(name).ok()??;
    let capsule = capsule.cast::<PyCapsule>().ok()?;
    let api: *const ExchangeApi =
        capsule.pointer_checked(Some(dlpack::EXCHANGE_API)).ok()?.as_ptr().cast();
    // SAFETY: a capsule of this name points to such a table, whose head is the same in all
    // versions.
    let usable = unsafe { (*api).version.major == 1 && (*api).tensor_from_object.is_some() };
    usable.then_some(api)
}

impl Array {
    /// Borrows an array for a call of `op`.
    pub(crate) fn new(object: &Bound<'_, PyAny>, op: &str, name: &str) -> PyResult<Self> {
        if let Some(api) = exchange_api(object) {
            return Self::by_exchange(object, api, op, name);
        }
        let interface = object.getattr_opt(pyo3::intern!(object.py(), "__array_struct__"))?;
        if let Some(capsule) = interface
            && let Some(array) = Self::by_interface(object, &capsule, op, name)?
        {
            return Ok(array);
        }
        Self::by_capsule(object, op, name)
    }

    fn by_exchange(
        object: &Bound<'_, PyAny>,
        api: &'static ExchangeApi,
        op: &str,
        name: &str,
    ) -> PyResult<Self> {
        let mut tensor = DlTensor::default();
        let Some(read) = api.tensor_from_object else {
            return Self::by_capsule(object, op, name);
        };
        // SAFETY: the object is of the type whose table this is, and the tensor is a place to
        // write.
        if unsafe { read(object.as_ptr(), &mut tensor) } != 0 {
            let error = PyErr::fetch(object.py());
            return Err(type_error(op, name, error.value(object.py())));
        }
        // SAFETY: the producer filled it in, and the caller keeps the object.
        unsafe { Self::of_tensor(&tensor, true, Origin::Exchange(api), Kept::Nothing, op, name) }
    }

    /// Returns `None` for elements that the interface cannot describe.
    fn by_interface(
        object: &Bound<'_, PyAny>,
        capsule: &Bound<'_, PyAny>,
        op: &str,
        name: &str,
    ) -> PyResult<Option<Self>> {
        let Ok(capsule) = capsule.cast::<PyCapsule>() else { return Ok(None) };
        let Ok(pointer) = capsule.pointer_checked(None) else { return Ok(None) };
        // SAFETY: a capsule of `__array_struct__` points to such a struct, which lives as long as
        // the capsule. The data, which are used after that, belong to the object.
        let interface = unsafe { &*pointer.as_ptr().cast::<ArrayInterface>() };
        if interface.two != 2 || interface.flags & NUMPY_NOT_SWAPPED == 0 {
            return Err(type_error(op, name, "its elements are not in the order of this machine"));
        }
        let kind = match (interface.kind as u8, interface.item_size) {
            (b'f', 4) => Kind::F32,
            (b'f', 2) => Kind::F16,
            (b'f', 8) => Kind::F64,
            (b'i', 4) => Kind::I32,
            (b'i', 8) => Kind::I64,
            (b'u', 4) => Kind::U32,
            (b'u', 8) => Kind::U64,
            (b'V', 2) if object.getattr("dtype")?.str()? == "bfloat16" => Kind::BF16,
            (kind, size) => {
                let reason = format!(
                    "elements of kind '{}' and {size} bytes; float32, float16, bfloat16, int32, \
                     int64 or uint32 are possible",
                    char::from(kind)
                );
                return Err(type_error(op, name, reason));
            }
        };
        let dims = dims_of(interface.dims, op, name)?;
        let mut array = Self {
            data: interface.data.cast(),
            kind,
            place: Place::Host,
            origin: Origin::NumPy,
            writable: interface.flags & NUMPY_WRITEABLE != 0,
            dims,
            shape: [1; MAX_DIMS],
            strides: [1; MAX_DIMS],
            kept: Kept::Nothing,
        };
        for dim in 0..dims {
            // SAFETY: the arrays of sizes and of strides have as many entries as there are
            // dimensions.
            let (size, stride) =
                unsafe { (*interface.shape.add(dim), *interface.strides.add(dim)) };
            array.shape[dim] = size as usize;
            array.strides[dim] = stride / kind.size() as isize;
            if stride % kind.size() as isize != 0 && size > 1 {
                return Err(value_error(op, name, "its rows are not whole elements apart"));
            }
        }
        Ok(Some(array))
    }

    fn by_capsule(object: &Bound<'_, PyAny>, op: &str, name: &str) -> PyResult<Self> {
        let py = object.py();
        if !object.hasattr(pyo3::intern!(py, "__dlpack__"))? {
            let class = object.get_type().name()?;
            let reason = format!("a {class} is no array: it has no `__dlpack__`");
            return Err(type_error(op, name, reason));
        }
        let device: (i32, i32) = object.call_method0("__dlpack_device__")?.extract()?;
        let arguments = PyDict::new(py);
        if device.0 == dlpack::CUDA {
            // The producer makes this stream wait for what it has still to write.
            let stream = crate::device::own_stream(py, device.1, op)?;
            arguments.set_item("stream", stream)?;
        }
        arguments.set_item("max_version", (1, 0))?;
        let capsule = match object.call_method("__dlpack__", (), Some(&arguments)) {
            // Producers of older versions do not know the argument.
            Err(error) if error.is_instance_of::<PyTypeError>(py) => {
                arguments.del_item("max_version")?;
                object.call_method("__dlpack__", (), Some(&arguments))?
            }
            Err(error) if error.is_instance_of::<PyBufferError>(py) => {
                return Err(type_error(op, name, error.value(py)));
            }
            capsule => capsule?,
        };
        let capsule = capsule
            .cast::<PyCapsule>()
            .map_err(|_| type_error(op, name, "its `__dlpack__` returns no capsule"))?;
        if capsule.is_valid_checked(Some(dlpack::VERSIONED)) {
            let tensor: *mut Versioned =
                capsule.pointer_checked(Some(dlpack::VERSIONED))?.as_ptr().cast();
            // SAFETY: a capsule of this name owns such a tensor. Once it is renamed, it no longer
            // does, and this array does.
            unsafe {
                if ffi::PyCapsule_SetName(capsule.as_ptr(), dlpack::USED_VERSIONED.as_ptr()) != 0 {
                    return Err(PyErr::fetch(py));
                }
                let writable = (*tensor).flags & dlpack::READ_ONLY == 0;
                let kept = Kept::Versioned(tensor);
                return Self::of_tensor(&(*tensor).tensor, writable, Origin::Other, kept, op, name);
            }
        }
        let tensor: *mut Managed = capsule.pointer_checked(Some(dlpack::TENSOR))?.as_ptr().cast();
        // SAFETY: as above.
        unsafe {
            if ffi::PyCapsule_SetName(capsule.as_ptr(), dlpack::USED_TENSOR.as_ptr()) != 0 {
                return Err(PyErr::fetch(py));
            }
            let kept = Kept::Managed(tensor);
            Self::of_tensor(&(*tensor).tensor, true, Origin::Other, kept, op, name)
        }
    }

    /// Reads the description of a tensor.
    ///
    /// # Safety
    /// The description must be valid, and what it names alive as long as this array is used.
    unsafe fn of_tensor(
        tensor: &DlTensor,
        writable: bool,
        origin: Origin,
        kept: Kept,
        op: &str,
        name: &str,
    ) -> PyResult<Self> {
        // The array exists first, so that an error gives the producer's tensor back.
        let mut array = Self {
            data: tensor.data.cast::<u8>().wrapping_add(tensor.byte_offset as usize),
            kind: Kind::F32,
            place: Place::Host,
            origin,
            writable,
            dims: 0,
            shape: [1; MAX_DIMS],
            strides: [1; MAX_DIMS],
            kept,
        };
        let DlDataType { code, bits, .. } = tensor.dtype;
        array.kind = Kind::of_dlpack(tensor.dtype).ok_or_else(|| {
            let reason = format!(
                "elements of DLPack's type {code} and {bits} bits; float32, float16, bfloat16, \
                 int32, int64 or uint32 are possible"
            );
            type_error(op, name, reason)
        })?;
        let DlDevice { device_type, device_id } = tensor.device;
        array.place = match device_type {
            dlpack::CPU | dlpack::CUDA_HOST => Place::Host,
            dlpack::CUDA => Place::Cuda(device_id),
            other => {
                let reason = format!("on a device of DLPack's type {other}: CPU or CUDA");
                return Err(value_error(op, name, reason));
            }
        };
        array.dims = dims_of(tensor.ndim, op, name)?;
        let mut stride = 1;
        for dim in (0..array.dims).rev() {
            // SAFETY: the arrays have as many entries as there are dimensions.
            unsafe {
                array.shape[dim] = *tensor.shape.add(dim) as usize;
                array.strides[dim] = match tensor.strides.is_null() {
                    true => stride,
                    false => *tensor.strides.add(dim) as isize,
                };
            }
            stride = stride.saturating_mul(array.shape[dim] as isize);
        }
        Ok(array)
    }

    /// Returns the sizes.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape[..self.dims]
    }

    /// Returns the number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape().iter().fold(1, |product, size| product.saturating_mul(*size))
    }

    /// Returns the stride of a dimension, in elements.
    pub(crate) fn stride(&self, dim: usize) -> isize {
        self.strides[dim]
    }

    /// Returns whether the dimensions from `first` on lie in memory without gaps.
    fn is_dense_from(&self, first: usize) -> bool {
        let mut stride = 1;
        (first..self.dims).rev().all(|dim| {
            let (size, as_wanted) = (self.shape[dim], self.strides[dim] == stride);
            stride = stride.saturating_mul(size as isize);
            size <= 1 || as_wanted
        })
    }

    /// Checks that the elements lie in memory as an op reads them: at a whole number of elements.
    fn check_data(&self, op: &str, name: &str) -> PyResult<()> {
        if self.len() > 0
            && (self.data.is_null() || !(self.data as usize).is_multiple_of(self.kind.size()))
        {
            return Err(value_error(op, name, "its memory is not aligned to its elements"));
        }
        Ok(())
    }

    /// Checks that there are no gaps, and returns the number of elements.
    pub(crate) fn flat(&self, op: &str, name: &str) -> PyResult<usize> {
        self.check_data(op, name)?;
        if self.len() > 0 && !self.is_dense_from(0) {
            return Err(value_error(op, name, "it must lie in memory without gaps (contiguous)"));
        }
        Ok(self.len())
    }

    /// Checks that this is a matrix whose rows have no gaps, and returns rows, columns and the
    /// distance between rows. The columns of a block `[B, F, D]` are the last two dimensions.
    pub(crate) fn matrix(&self, op: &str, name: &str) -> PyResult<(usize, usize, usize)> {
        self.check_data(op, name)?;
        if self.dims < 2 {
            let reason = format!("it has {} dimensions, but must be a matrix", self.dims);
            return Err(value_error(op, name, reason));
        }
        let (rows, cols) = (self.shape[0], self.shape[1..self.dims].iter().product::<usize>());
        if self.len() > 0 && !self.is_dense_from(1) {
            return Err(value_error(op, name, "the elements of a row must lie side by side"));
        }
        let ld = if rows <= 1 || cols == 0 { cols as isize } else { self.strides[0] };
        match usize::try_from(ld) {
            Ok(ld) if ld >= cols => Ok((rows, cols, ld)),
            _ => Err(value_error(op, name, format!("its rows are {ld} elements apart"))),
        }
    }

    /// Checks that the elements are of this type.
    pub(crate) fn expect(&self, kind: Kind, op: &str, name: &str) -> PyResult<()> {
        if self.kind == kind {
            return Ok(());
        }
        let reason = format!("{}, but must be {}", self.kind.name(), kind.name());
        Err(type_error(op, name, reason))
    }

    /// Checks that the array may be written.
    pub(crate) fn expect_writable(&self, op: &str, name: &str) -> PyResult<()> {
        match self.writable {
            true => Ok(()),
            false => Err(value_error(op, name, "it is read-only")),
        }
    }

    /// Returns the addresses from the first to behind the last element.
    fn extent(&self) -> (usize, usize) {
        if self.len() == 0 {
            return (0, 0);
        }
        let (mut low, mut high) = (self.data as usize as isize, self.data as usize as isize);
        for dim in 0..self.dims {
            let reach = (self.shape[dim] as isize - 1)
                .saturating_mul(self.strides[dim])
                .saturating_mul(self.kind.size() as isize);
            if reach < 0 { low += reach } else { high += reach }
        }
        (low as usize, high as usize + self.kind.size())
    }

    /// Returns whether two arrays share memory, or could.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let ((a, a_end), (b, b_end)) = (self.extent(), other.extent());
        self.place == other.place && a < b_end && b < a_end
    }
}

/// Returns the number of dimensions, if ops take as many.
fn dims_of(dims: i32, op: &str, name: &str) -> PyResult<usize> {
    usize::try_from(dims).ok().filter(|dims| *dims <= MAX_DIMS).ok_or_else(|| {
        value_error(op, name, format!("it has {dims} dimensions, but at most {MAX_DIMS} can be"))
    })
}
