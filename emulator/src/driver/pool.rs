//! Memory pools. All of a device's pools share its one memory, and freed memory is free at once.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::{c_int, c_void};

use super::api::api;
use super::code::{Code, Result};
use super::host::{put, write_bytes};
use super::state::{Driver, with};
use super::work::Work;

/// The handle of the pool of device 0. Each further device has the next handle.
const FIRST: u64 = 0x100;

impl Driver {
    /// Returns the device of a pool.
    fn pool(&self, pool: u64) -> Result<usize> {
        let device = pool.checked_sub(FIRST).map(|device| device as usize);
        device.filter(|&device| device < self.gpus.len()).ok_or(Code::ERROR_INVALID_VALUE)
    }
}

api! {
    fn cuDeviceGetDefaultMemPool(pool: *mut u64, device: c_int) {
        with(|d| d.device(device).and_then(|device| put(pool, FIRST + device as u64)))
    }
    fn cuDeviceGetMemPool(pool: *mut u64, device: c_int) {
        with(|d| d.device(device).and_then(|device| put(pool, FIRST + device as u64)))
    }
    fn cuDeviceSetMemPool(device: c_int, pool: u64) {
        with(|d| {
            let is_own = d.pool(pool)? == d.device(device)?;
            if is_own { Ok(()) } else { Err(Code::ERROR_INVALID_VALUE) }
        })
    }
    fn cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: u64, stream: u64) {
        with(|d| {
            let stream = d.stream(stream)?;
            if d.pool(pool)? != d.current()? {
                return Err(Code::ERROR_INVALID_VALUE);
            }
            let fresh = d.allocate(bytes)?;
            d.enqueue(stream, Work::Nothing)?;
            put(address, fresh)
        })
    }
    fn cuMemPoolGetAttribute(pool: u64, attribute: c_int, value: *mut c_void) {
        with(|d| {
            let used = d.gpus[d.pool(pool)?].device.used() as u64;
            match attribute {
                // The three reuse policies of freed memory are all on.
                1..=3 => write_bytes(value, &1i32.to_ne_bytes()),
                4 => write_bytes(value, &0u64.to_ne_bytes()),
                5..=8 => write_bytes(value, &used.to_ne_bytes()),
                _ => Err(Code::ERROR_INVALID_VALUE),
            }
        })
    }
    fn cuMemPoolSetAttribute(pool: u64, attribute: c_int, value: *mut c_void) {
        if value.is_null() || !(1..=8).contains(&attribute) {
            return Err(Code::ERROR_INVALID_VALUE);
        }
        with(|d| d.pool(pool).map(|_| ()))
    }
    fn cuMemPoolTrimTo(pool: u64, _bytes: usize) {
        with(|d| d.pool(pool).map(|_| ()))
    }
    fn cuMemPoolCreate(_pool: *mut u64, _properties: *const c_void) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    fn cuMemPoolDestroy(_pool: u64) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
}
