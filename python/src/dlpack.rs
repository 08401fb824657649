//! The structs of DLPack 1.x, and of the table of C functions with which newer producers exchange
//! tensors without a capsule.

use std::ffi::{c_char, c_int, c_void};

use pyo3::ffi::PyObject;

pub(crate) const CPU: i32 = 1;
pub(crate) const CUDA: i32 = 2;
pub(crate) const CUDA_HOST: i32 = 3;

pub(crate) const INT: u8 = 0;
pub(crate) const UINT: u8 = 1;
pub(crate) const FLOAT: u8 = 2;
pub(crate) const BFLOAT: u8 = 4;

/// The flag of a tensor that must not be written.
pub(crate) const READ_ONLY: u64 = 1;

/// The names of capsules.
pub(crate) const TENSOR: &std::ffi::CStr = c"dltensor";
pub(crate) const USED_TENSOR: &std::ffi::CStr = c"used_dltensor";
pub(crate) const VERSIONED: &std::ffi::CStr = c"dltensor_versioned";
pub(crate) const USED_VERSIONED: &std::ffi::CStr = c"used_dltensor_versioned";
pub(crate) const EXCHANGE_API: &std::ffi::CStr = c"dlpack_exchange_api";

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct DlDevice {
    pub(crate) device_type: i32,
    pub(crate) device_id: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DlDataType {
    pub(crate) code: u8,
    pub(crate) bits: u8,
    pub(crate) lanes: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct DlTensor {
    pub(crate) data: *mut c_void,
    pub(crate) device: DlDevice,
    pub(crate) ndim: i32,
    pub(crate) dtype: DlDataType,
    pub(crate) shape: *mut i64,
    /// In elements; null for a tensor without gaps.
    pub(crate) strides: *mut i64,
    pub(crate) byte_offset: u64,
}

impl Default for DlTensor {
    fn default() -> Self {
        let null = std::ptr::null_mut();
        Self {
            data: null,
            device: DlDevice { device_type: CPU, device_id: 0 },
            ndim: 0,
            dtype: DlDataType { code: FLOAT, bits: 32, lanes: 1 },
            shape: null.cast(),
            strides: null.cast(),
            byte_offset: 0,
        }
    }
}

#[repr(C)]
pub(crate) struct Managed {
    pub(crate) tensor: DlTensor,
    pub(crate) context: *mut c_void,
    pub(crate) deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct DlVersion {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

#[repr(C)]
pub(crate) struct Versioned {
    pub(crate) version: DlVersion,
    pub(crate) context: *mut c_void,
    pub(crate) deleter: Option<unsafe extern "C" fn(*mut Versioned)>,
    pub(crate) flags: u64,
    pub(crate) tensor: DlTensor,
}

type SetError = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char);

/// `DLPackExchangeAPI`: the functions of a producer. It is static there.
#[repr(C)]
pub(crate) struct ExchangeApi {
    pub(crate) version: DlVersion,
    previous: *mut c_void,
    pub(crate) allocate: Option<
        unsafe extern "C" fn(*mut DlTensor, *mut *mut Versioned, *mut c_void, SetError) -> c_int,
    >,
    managed_from_object: Option<unsafe extern "C" fn(*mut c_void, *mut *mut Versioned) -> c_int>,
    pub(crate) managed_to_object:
        Option<unsafe extern "C" fn(*mut Versioned, *mut *mut PyObject) -> c_int>,
    pub(crate) tensor_from_object:
        Option<unsafe extern "C" fn(*mut PyObject, *mut DlTensor) -> c_int>,
    pub(crate) current_stream: Option<unsafe extern "C" fn(i32, i32, *mut *mut c_void) -> c_int>,
}
