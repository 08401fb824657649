//! Functions that cudarc can call but the emulator lacks. They return an error, where a missing
//! symbol would make cudarc panic.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::{c_int, c_uint, c_void};

use super::api::api;
use super::code::Code;

api! {
    // Contexts other than the primary ones.
    fn cuCtxCreate_v3(
        _context: *mut u64,
        _affinity: *mut c_void,
        _count: c_int,
        _flags: c_uint,
        _device: c_int,
    ) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    fn cuCtxCreate_v4(
        _context: *mut u64,
        _params: *mut c_void,
        _flags: c_uint,
        _device: c_int,
    ) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    fn cuCtxDestroy_v2(_context: u64) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    // Managed memory.
    fn cuMemAllocManaged(_address: *mut u64, _bytes: usize, _flags: c_uint) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    fn cuMemAdvise_v2(_address: u64, _bytes: usize, _advice: c_int, _location: u64) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    fn cuMemPrefetchAsync_v2(
        _address: u64,
        _bytes: usize,
        _location: u64,
        _flags: c_uint,
        _stream: u64,
    ) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    fn cuStreamAttachMemAsync(_stream: u64, _address: u64, _bytes: usize, _flags: c_uint) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    // Memory that is shared with other interfaces.
    fn cuImportExternalMemory(_memory: *mut u64, _description: *const c_void) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    fn cuExternalMemoryGetMappedBuffer(
        _address: *mut u64,
        _memory: u64,
        _description: *const c_void,
    ) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    fn cuDestroyExternalMemory(_memory: u64) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    // Launches with attributes, such as those of clusters.
    fn cuLaunchKernelEx(
        _config: *const c_void,
        _function: u64,
        _params: *const *const c_void,
        _extra: *const *const c_void,
    ) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
}
