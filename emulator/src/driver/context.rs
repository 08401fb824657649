//! Devices and contexts.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::{c_char, c_int, c_uint};

use super::api::api;
use super::code::{Code, Result, describe};
use super::host::{put, put_text, size};
use super::state::{CONTEXT, Driver, set_context, with};
use crate::device::MAX_THREADS;
use crate::exec::SM_COUNT;

const NAME: &str = "bagdot emulator";
/// Bytes of shared memory that a block may have without opting in to more.
pub(super) const DEFAULT_SHARED: usize = 48 * 1024;

/// The resources of a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of shared memory that one block may have. The multiprocessor has [`RESERVED`] more.
    pub(super) block_shared: usize,
    /// The most threads of all resident blocks together.
    pub(super) threads: usize,
    /// The most resident blocks.
    pub(super) blocks: usize,
}

impl Limits {
    /// Returns the limits of a compute capability, times ten.
    pub(super) fn of(capability: u32) -> Self {
        let (block_shared, threads, blocks) = match capability {
            ..=79 => (64 << 10, 1024, 16),
            80 => (163 << 10, 2048, 32),
            81..=86 => (99 << 10, 1536, 16),
            87 => (163 << 10, 1536, 16),
            88..=89 => (99 << 10, 1536, 24),
            90..=119 => (227 << 10, 2048, 32),
            _ => (99 << 10, 1536, 24),
        };
        Self { block_shared, threads, blocks }
    }

    /// Returns the number of blocks that fit on a multiprocessor, as far as threads and shared
    /// memory limit it. Registers do not: the emulator does not count them.
    pub(super) fn resident_blocks(self, threads: usize, shared: usize) -> usize {
        if threads == 0 || threads > MAX_THREADS as usize || shared > self.block_shared {
            return 0;
        }
        let by_threads = self.threads / threads.next_multiple_of(32);
        by_threads.min(self.blocks).min((self.block_shared + RESERVED) / (shared + RESERVED))
    }
}

/// Bytes of shared memory that the system reserves for each block.
const RESERVED: usize = 1024;

/// Returns the value of a `CUdevice_attribute`.
fn attribute(driver: &Driver, attribute: c_int) -> i32 {
    let limits = driver.limits();
    match attribute {
        1..=3 => MAX_THREADS as i32, // threads of a block; its extents in x and y
        4 => 64,                     // extent of a block in z
        5 => i32::MAX,               // blocks of a grid in x
        6 | 7 => 65535,              // blocks of a grid in y and z
        8 => DEFAULT_SHARED as i32,  // shared memory of a block
        9 => 64 << 10,               // constant memory
        10 => 32,                    // lanes of a warp
        12 | 82 => 65536,            // registers of a block, and of a multiprocessor
        13 => 1_000_000,             // clock rate in kHz
        14 => 512,                   // alignment of textures
        16 => SM_COUNT as i32,       // multiprocessors
        31 | 40 | 41 => 1,           // concurrent kernels, copy engines, unified addresses
        36 => 1_000_000,             // memory clock rate in kHz
        37 => 4096,                  // bits of the memory bus
        38 => 32 << 20,              // level 2 cache
        39 => limits.threads as i32, // threads of a multiprocessor
        75 => (driver.settings.capability / 10) as i32,
        76 => (driver.settings.capability % 10) as i32,
        78 => 1,                                       // stream priorities
        95 | 96 => 1,                                  // cooperative launches
        81 => (limits.block_shared + RESERVED) as i32, // shared memory of a multiprocessor
        97 => limits.block_shared as i32,              // shared memory that a block may opt in to
        106 => limits.blocks as i32,                   // blocks of a multiprocessor
        111 => RESERVED as i32,                        // reserved shared memory of a block
        115 => 1,                                      // memory pools
        _ => 0,
    }
}

impl Driver {
    /// Returns the limits of the devices.
    pub(super) fn limits(&self) -> Limits {
        Limits::of(self.settings.capability)
    }

    fn uuid(&self, ordinal: c_int) -> Result<[u8; 16]> {
        let mut uuid = *b"bagdot-emulator\0";
        uuid[15] = self.device(ordinal)? as u8;
        Ok(uuid)
    }
}

api! {
    fn cuInit(flags: c_uint) {
        with(|d| {
            if flags != 0 {
                return Err(Code::ERROR_INVALID_VALUE);
            }
            if d.gpus.is_empty() {
                return Err(Code::ERROR_NO_DEVICE);
            }
            d.initialised = true;
            Ok(())
        })
    }
    fn cuDriverGetVersion(version: *mut c_int) {
        put(version, with(|d| d.settings.version))
    }
    fn cuDeviceGetCount(count: *mut c_int) {
        with(|d| {
            if !d.initialised {
                return Err(Code::ERROR_NOT_INITIALIZED);
            }
            put(count, d.gpus.len() as i32)
        })
    }
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        with(|d| d.device(ordinal).and_then(|_| put(device, ordinal)))
    }
    fn cuDeviceGetName(name: *mut c_char, room: c_int, device: c_int) {
        with(|d| d.device(device))?;
        put_text(name, size(room), NAME);
        Ok(())
    }
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) {
        put(uuid, with(|d| d.uuid(device))?)
    }
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) {
        put(uuid, with(|d| d.uuid(device))?)
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        with(|d| d.device(device).and_then(|_| put(bytes, d.settings.memory_bytes)))
    }
    fn cuDeviceGetAttribute(value: *mut c_int, which: c_int, device: c_int) {
        with(|d| d.device(device).and_then(|_| put(value, attribute(d, which))))
    }
    fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) {
        with(|d| {
            let device = d.device(device)?;
            put(context, d.context_of(device))
        })
    }
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        with(|d| d.device(device).map(|_| ()))
    }
    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        with(|d| {
            d.device(device)?;
            d.reset();
            d.initialised = true;
            Ok(())
        })
    }
    fn cuCtxGetCurrent(context: *mut u64) {
        put(context, CONTEXT.get())
    }
    fn cuCtxSetCurrent(context: u64) {
        set_context(context)
    }
    fn cuCtxGetDevice(device: *mut c_int) {
        put(device, with(|d| d.current())? as i32)
    }
    fn cuCtxSynchronize() {
        with(|d| {
            let device = d.current()?;
            d.refuse_in_any_capture()?;
            d.drain_where(|s| s.device == device)?;
            d.settle_device(device);
            Ok(())
        })
    }
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        with(|d| d.current())?;
        put(least, 0).and_then(|()| put(greatest, -5))
    }
    fn cuCtxGetLimit(value: *mut usize, _limit: c_int) {
        with(|d| d.current())?;
        put(value, 1024)
    }
    fn cuCtxSetLimit(_limit: c_int, _value: usize) {
        with(|d| d.current().map(|_| ()))
    }
    fn cuCtxSetFlags(_flags: c_uint) {
        with(|d| d.current().map(|_| ()))
    }
    fn cuCtxGetCacheConfig(config: *mut c_int) {
        put(config, 0)
    }
    fn cuCtxSetCacheConfig(_config: c_int) {
        with(|d| d.current().map(|_| ()))
    }
    fn cuProfilerStart() {
        Ok(())
    }
    fn cuProfilerStop() {
        Ok(())
    }
    fn cuGetErrorName(code: c_int, text: *mut *const c_char) {
        let (name, _) = describe(code).ok_or(Code::ERROR_INVALID_VALUE)?;
        put(text, name.as_ptr())
    }
    fn cuGetErrorString(code: c_int, text: *mut *const c_char) {
        let (_, message) = describe(code).ok_or(Code::ERROR_INVALID_VALUE)?;
        put(text, message.as_ptr())
    }
}
