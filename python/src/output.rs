//! Outputs that the caller does not bring: arrays of the library that the inputs come from, or
//! [`Owned`] ones, which every library can take over.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Arc;

use bagdot::Cpu;
use bagdot::ops::Device;
use pyo3::exceptions::{PyBufferError, PyMemoryError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::array::{Array, Kind, Origin, Place};
use crate::dlpack::{self, DlDevice, DlTensor, DlVersion, Managed, Versioned};
use crate::error::{op_error, type_error};

type Bytes = <Cpu as Device>::Buffer<u8>;

/// An array in memory of bagdot: it begins at a cache line. `numpy.asarray` and the `from_dlpack`
/// of other libraries view it without a copy.
#[pyclass(frozen, name = "Array", module = "bagdot")]
pub(crate) struct Owned {
    bytes: Arc<Bytes>,
    /// The address of the bytes, which nothing but views of Python reads or writes.
    address: usize,
    kind: Kind,
    shape: Vec<i64>,
}

/// The memory that an exported tensor keeps, and its sizes.
struct Export {
    _bytes: Arc<Bytes>,
    shape: Vec<i64>,
}

impl Owned {
    fn new(kind: Kind, shape: &[usize]) -> bagdot::Result<Self> {
        let len = shape.iter().fold(kind.size(), |product, size| product.saturating_mul(*size));
        let bytes = Cpu::on_current_thread().alloc::<u8>(len)?;
        Ok(Self::with(bytes, kind, shape.iter().map(|size| *size as i64).collect()))
    }

    /// Makes an array of values.
    pub(crate) fn of_f32(values: &[f32]) -> bagdot::Result<Self> {
        let mut bytes = Cpu::on_current_thread().alloc::<u8>(4 * values.len())?;
        for (place, value) in bytes.chunks_exact_mut(4).zip(values) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        Ok(Self::with(bytes, Kind::F32, vec![values.len() as i64]))
    }

    fn with(mut bytes: Bytes, kind: Kind, shape: Vec<i64>) -> Self {
        let address = bytes.as_mut_ptr() as usize;
        Self { bytes: Arc::new(bytes), address, kind, shape }
    }

    fn tensor(&self, export: &mut Export) -> DlTensor {
        DlTensor {
            data: self.address as *mut c_void,
            device: DlDevice { device_type: dlpack::CPU, device_id: 0 },
            ndim: export.shape.len() as i32,
            dtype: self.kind.dlpack(),
            shape: export.shape.as_mut_ptr(),
            strides: ptr::null_mut(),
            byte_offset: 0,
        }
    }
}

unsafe extern "C" fn delete_managed(tensor: *mut Managed) {
    // SAFETY: both were boxed below, and the consumer calls this once.
    unsafe {
        drop(Box::from_raw((*tensor).context.cast::<Export>()));
        drop(Box::from_raw(tensor));
    }
}

unsafe extern "C" fn delete_versioned(tensor: *mut Versioned) {
    // SAFETY: as above.
    unsafe {
        drop(Box::from_raw((*tensor).context.cast::<Export>()));
        drop(Box::from_raw(tensor));
    }
}

/// Frees a tensor that nobody has taken out of its capsule.
unsafe extern "C" fn drop_managed(capsule: *mut ffi::PyObject) {
    // SAFETY: a capsule with this name still owns its tensor.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, dlpack::TENSOR.as_ptr()) == 1 {
            delete_managed(ffi::PyCapsule_GetPointer(capsule, dlpack::TENSOR.as_ptr()).cast());
        }
    }
}

unsafe extern "C" fn drop_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as above.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, dlpack::VERSIONED.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, dlpack::VERSIONED.as_ptr()).cast());
        }
    }
}

#[pymethods]
impl Owned {
    /// The sizes.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    /// The name of the type of the elements.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.kind.name()
    }

    fn __len__(&self) -> usize {
        self.shape.first().map_or(0, |size| *size as usize)
    }

    fn __repr__(&self) -> String {
        format!("bagdot.Array(shape={:?}, dtype={})", self.shape, self.kind.name())
    }

    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let code = match self.kind {
            Kind::F32 => "<f4",
            Kind::F16 => "<f2",
            Kind::F64 => "<f8",
            Kind::I32 => "<i4",
            Kind::I64 => "<i8",
            Kind::U32 => "<u4",
            Kind::U64 => "<u8",
            Kind::BF16 => {
                return Err(pyo3::exceptions::PyAttributeError::new_err(
                    "the array interface has no bfloat16: use DLPack",
                ));
            }
        };
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", self.shape(py)?)?;
        interface.set_item("typestr", code)?;
        interface.set_item("data", (self.address, false))?;
        Ok(interface)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (dlpack::CPU, 0)
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = stream;
        if dl_device.is_some_and(|(device, _)| device != dlpack::CPU) || copy == Some(true) {
            return Err(PyBufferError::new_err("only the memory itself can be exported, uncopied"));
        }
        let mut export =
            Box::new(Export { _bytes: Arc::clone(&self.bytes), shape: self.shape.clone() });
        let tensor = self.tensor(&mut export);
        let context = Box::into_raw(export).cast::<c_void>();
        // SAFETY: the capsules own tensors whose deleters free what was boxed here.
        unsafe {
            let capsule = if max_version.is_some_and(|(major, _)| major >= 1) {
                let tensor = Versioned {
                    version: DlVersion { major: 1, minor: 0 },
                    context,
                    deleter: Some(delete_versioned),
                    flags: 0,
                    tensor,
                };
                let tensor = Box::into_raw(Box::new(tensor)).cast();
                ffi::PyCapsule_New(tensor, dlpack::VERSIONED.as_ptr(), Some(drop_versioned))
            } else {
                let tensor = Managed { tensor, context, deleter: Some(delete_managed) };
                let tensor = Box::into_raw(Box::new(tensor)).cast();
                ffi::PyCapsule_New(tensor, dlpack::TENSOR.as_ptr(), Some(drop_managed))
            };
            Bound::from_owned_ptr_or_err(py, capsule)
        }
    }
}

unsafe extern "C" fn set_error(_: *mut c_void, _: *const c_char, message: *const c_char) {
    // SAFETY: the producer passes a text, and calls this with the interpreter's lock, which the
    // caller holds.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    Python::attach(|py| PyMemoryError::new_err(text).restore(py));
}

/// Makes an output of the same library and device as an input.
pub(crate) fn empty<'py>(
    py: Python<'py>,
    op: &'static str,
    like: &Array,
    kind: Kind,
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    match like.origin {
        Origin::Exchange(api) => {
            let mut sizes: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
            let (device_type, device_id) = match like.place {
                Place::Host => (dlpack::CPU, 0),
                Place::Cuda(device) => (dlpack::CUDA, device),
            };
            let mut wanted = DlTensor {
                device: DlDevice { device_type, device_id },
                ndim: sizes.len() as i32,
                dtype: kind.dlpack(),
                shape: sizes.as_mut_ptr(),
                ..DlTensor::default()
            };
            let (Some(allocate), Some(to_object)) = (api.allocate, api.managed_to_object) else {
                return Err(type_error(op, "out", "this library makes no outputs: pass `out`"));
            };
            let (mut tensor, mut object) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: the functions are those of the producer, and the arguments as it wants them:
            // a description, and places for the results.
            unsafe {
                if allocate(&mut wanted, &mut tensor, ptr::null_mut(), set_error) != 0
                    || to_object(tensor, &mut object) != 0
                {
                    return Err(PyErr::fetch(py));
                }
                Bound::from_owned_ptr_or_err(py, object)
            }
        }
        Origin::NumPy if kind != Kind::BF16 => {
            let module = py.import(pyo3::intern!(py, "numpy"))?;
            let shape = PyTuple::new(py, shape)?;
            module.call_method1(pyo3::intern!(py, "empty"), (shape, kind.name()))
        }
        _ if like.place != Place::Host => {
            Err(type_error(op, "out", "on a GPU, pass an output of your library as `out`"))
        }
        _ => {
            let owned = Owned::new(kind, shape).map_err(|error| op_error(py, error))?;
            Ok(Bound::new(py, owned)?.into_any())
        }
    }
}
