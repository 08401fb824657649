//! Modules, functions and launches.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::api::api;
use super::code::{Code, Result};
use super::context::DEFAULT_SHARED;
use super::host::{bytes_at, magic_at, pointer_at, put, size, text_at};
use super::state::{Driver, Function, with};
use super::work::Work;
use crate::device::MAX_THREADS;
use crate::exec::Grid;
use crate::ir::Kernel;

/// The first bytes of a cubin.
const CUBIN: [u8; 4] = *b"\x7fELF";
/// The first bytes of a fatbin.
const FATBIN: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();

/// Returns the newest version of PTX that a driver reads. CUDA 11.x reads 7.x, 12.x reads 8.x, and
/// 13.x reads 9.x. 12.6 brought no new version, so that from there on 12.x reads 8.(x - 1).
fn newest_ptx(driver: i32) -> (u32, u32) {
    let minor = (driver % 1000 / 10).unsigned_abs();
    (
        (driver / 1000 - 4).max(0).unsigned_abs(),
        minor - u32::from(driver / 10 > 1205 && driver < 13_000),
    )
}

/// Returns the major version of the toolkit that made a cubin, from its ELF header: CUDA 13 began
/// the ABI 8; earlier ones give their release in place of the version of the format.
fn toolkit_of(image: *const c_void) -> Result<i32> {
    let [abi] = bytes_at(image.wrapping_byte_add(8), 1)?[..] else { return Ok(0) };
    if abi >= 8 {
        return Ok(13);
    }
    let version = bytes_at(image.wrapping_byte_add(20), 4)?;
    Ok(version.iter().rev().fold(0, |all, byte| all << 8 | i32::from(*byte)) / 10)
}

impl Driver {
    /// Refuses machine code, which the emulator does not run, and reports machine code that the
    /// driver is too old to load.
    fn refuse_cubin(&mut self, image: *const c_void) -> Result<()> {
        let (toolkit, driver) = (toolkit_of(image)?, self.settings.version / 1000);
        if toolkit <= driver {
            return Err(Code::ERROR_NO_BINARY_FOR_GPU);
        }
        self.say(&format!("a cubin of CUDA {toolkit} is newer than the driver, of CUDA {driver}"));
        Err(Code::ERROR_INVALID_IMAGE)
    }

    /// Loads a PTX module into the current device, unless the device or the driver is too old for
    /// it.
    fn load(&mut self, text: Vec<u8>) -> Result<u64> {
        let device = self.current()?;
        let text = String::from_utf8(text).map_err(|_| Code::ERROR_INVALID_IMAGE)?;
        if !text.contains(".version") {
            return Err(Code::ERROR_INVALID_IMAGE);
        }
        let loaded = self.gpus[device].device.load(&text);
        let module = loaded.map_err(|error| {
            self.say(&error.to_string());
            Code::ERROR_INVALID_PTX
        })?;
        let (major, minor) = self.gpus[device].device.version(module);
        let capability = self.settings.capability;
        let newest = newest_ptx(self.settings.version);
        let refused = if (major, minor) > newest {
            self.say(&format!(
                "PTX {major}.{minor} is newer than {}.{}, the newest of the driver",
                newest.0, newest.1
            ));
            Some(Code::ERROR_UNSUPPORTED_PTX_VERSION)
        } else if let Some(target) = self.gpus[device].device.other_target(module, capability) {
            self.say(&format!("PTX for {target} does not run on sm_{capability}"));
            Some(Code::ERROR_NO_BINARY_FOR_GPU)
        } else {
            None
        };
        if let Some(code) = refused {
            self.gpus[device].device.unload(module);
            return Err(code);
        }
        let handle = self.handle();
        self.modules.insert(handle, (device, module));
        Ok(handle)
    }

    /// Returns the function of a handle.
    pub(super) fn function(&self, function: u64) -> Result<Function> {
        self.functions.get(&function).copied().ok_or(Code::ERROR_INVALID_HANDLE)
    }

    /// Returns the kernel of a function.
    pub(super) fn kernel(&self, function: u64) -> Result<Arc<Kernel>> {
        let f = self.function(function)?;
        self.gpus[f.device].device.definition(f.kernel).ok_or(Code::ERROR_INVALID_HANDLE)
    }

    /// Enqueues a launch, with copies of its arguments.
    fn launch(
        &mut self,
        function: u64,
        grid: Grid,
        stream: u64,
        params: *const *const c_void,
    ) -> Result<()> {
        let stream = self.stream(stream)?;
        let f = self.function(function)?;
        let kernel = self.gpus[f.device].device.check(f.kernel, &grid).map_err(|error| {
            self.say(&error.to_string());
            Code::from(&error)
        })?;
        if kernel.static_shared + grid.dynamic_shared > self.limits().block_shared {
            self.say(&format!(
                "{} asks for more shared memory than a block of this device may have",
                kernel.name
            ));
            return Err(Code::ERROR_INVALID_VALUE);
        }
        if grid.dynamic_shared
            > f.dynamic_shared.max(DEFAULT_SHARED.saturating_sub(kernel.static_shared))
        {
            self.say(&format!(
                "{} is launched with {} bytes of dynamic shared memory without cuFuncSetAttribute",
                kernel.name, grid.dynamic_shared
            ));
            return Err(Code::ERROR_INVALID_VALUE);
        }
        let arg = |k: usize| {
            pointer_at(params, k).and_then(|pointer| bytes_at(pointer, kernel.params[k].size))
        };
        let args = (0..kernel.params.len()).map(arg).collect::<Result<Vec<_>>>()?;
        self.enqueue(stream, Work::Kernel { kernel: f.kernel, grid, args })
    }
}

api! {
    fn cuModuleLoadData(module: *mut u64, image: *const c_void) {
        with(|d| {
            d.current()?;
            d.refuse_unsafe()?;
            let magic = magic_at(image)?;
            if magic == CUBIN {
                return d.refuse_cubin(image);
            }
            if magic == FATBIN {
                return Err(Code::ERROR_NO_BINARY_FOR_GPU);
            }
            let handle = d.load(text_at(image.cast::<c_char>())?)?;
            put(module, handle)
        })
    }
    fn cuModuleLoad(module: *mut u64, path: *const c_char) {
        with(|d| {
            d.current()?;
            d.refuse_unsafe()?;
            let path = String::from_utf8(text_at(path)?).map_err(|_| Code::ERROR_FILE_NOT_FOUND)?;
            let image = std::fs::read(path).map_err(|_| Code::ERROR_FILE_NOT_FOUND)?;
            if image.starts_with(&CUBIN) || image.starts_with(&FATBIN) {
                return Err(Code::ERROR_NO_BINARY_FOR_GPU);
            }
            let handle = d.load(image)?;
            put(module, handle)
        })
    }
    fn cuModuleUnload(module: u64) {
        with(|d| {
            let (device, id) = d.modules.remove(&module).ok_or(Code::ERROR_INVALID_HANDLE)?;
            // Kernels of the module may still wait in streams.
            let outcome = d.drain_where(|s| s.device == device && s.capture.is_none());
            d.gpus[device].device.unload(id);
            outcome
        })
    }
    fn cuModuleGetFunction(function: *mut u64, module: u64, name: *const c_char) {
        with(|d| {
            let (device, id) = *d.modules.get(&module).ok_or(Code::ERROR_INVALID_HANDLE)?;
            let name = String::from_utf8(text_at(name)?).map_err(|_| Code::ERROR_NOT_FOUND)?;
            let kernel = d.gpus[device].device.kernel(id, &name).ok_or(Code::ERROR_NOT_FOUND)?;
            let handle = d.handle();
            d.functions.insert(handle, Function { device, kernel, dynamic_shared: 0 });
            put(function, handle)
        })
    }
    fn cuModuleGetGlobal_v2(
        address: *mut u64,
        bytes: *mut usize,
        module: u64,
        name: *const c_char,
    ) {
        with(|d| {
            let (device, id) = *d.modules.get(&module).ok_or(Code::ERROR_INVALID_HANDLE)?;
            let name = String::from_utf8(text_at(name)?).map_err(|_| Code::ERROR_NOT_FOUND)?;
            let variable = d.gpus[device].device.variable(id, &name);
            let (at, length) = variable.ok_or(Code::ERROR_NOT_FOUND)?;
            // A caller that wants one of the two only passes null for the other.
            _ = put(bytes, length);
            _ = put(address, at);
            Ok(())
        })
    }
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: u64) {
        with(|d| {
            let (f, kernel) = (d.function(function)?, d.kernel(function)?);
            let plain = DEFAULT_SHARED.saturating_sub(kernel.static_shared);
            put(value, match attribute {
                0 => kernel.max_threads.unwrap_or(MAX_THREADS as usize) as i32,
                1 => kernel.static_shared as i32,
                3 => kernel.local_bytes as i32,
                4 => 32, // registers, which the emulator does not count
                5 | 6 => d.settings.capability as i32,
                8 => f.dynamic_shared.max(plain) as i32,
                9 => -1,
                _ => 0,
            })
        })
    }
    fn cuFuncSetAttribute(function: u64, attribute: c_int, value: c_int) {
        with(|d| {
            let kernel = d.kernel(function)?;
            if attribute == 8 {
                if value < 0 || kernel.static_shared + size(value) > d.limits().block_shared {
                    return Err(Code::ERROR_INVALID_VALUE);
                }
                d.functions.entry(function).and_modify(|f| f.dynamic_shared = size(value));
            }
            Ok(())
        })
    }
    fn cuFuncSetCacheConfig(function: u64, _config: c_int) {
        with(|d| d.function(function).map(|_| ()))
    }
    fn cuLaunchKernel(
        function: u64,
        x: c_uint,
        y: c_uint,
        z: c_uint,
        tx: c_uint,
        ty: c_uint,
        tz: c_uint,
        shared: c_uint,
        stream: u64,
        params: *const *const c_void,
        extra: *const *const c_void,
    ) {
        if !extra.is_null() {
            return Err(Code::ERROR_NOT_SUPPORTED);
        }
        let grid = Grid {
            blocks: [x, y, z],
            threads: [tx, ty, tz],
            dynamic_shared: shared as usize,
            cooperative: false,
        };
        with(|d| d.launch(function, grid, stream, params))
    }
    fn cuLaunchCooperativeKernel(
        function: u64,
        x: c_uint,
        y: c_uint,
        z: c_uint,
        tx: c_uint,
        ty: c_uint,
        tz: c_uint,
        shared: c_uint,
        stream: u64,
        params: *const *const c_void,
    ) {
        let grid = Grid {
            blocks: [x, y, z],
            threads: [tx, ty, tz],
            dynamic_shared: shared as usize,
            cooperative: true,
        };
        with(|d| d.launch(function, grid, stream, params))
    }
}
