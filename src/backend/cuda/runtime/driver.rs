//! The driver: its presence and version, the devices that it lists, and its errors.
//!
//! # The functions that a driver must have
//!
//! The bindings look a function up when it is first called, and panic if the driver lacks it. They
//! are those of CUDA 12.8, so only functions that old drivers have, too, may be called. This is
//! every function that this backend calls, itself or by way of the bindings;
//! `tests/suite/older_drivers_cuda.rs` compares the list with the calls.
//!
//! - from CUDA 11.4 on: `cuGraphInstantiateWithFlags`;
//! - 11.0: `cuDevicePrimaryCtxRelease_v2`;
//! - 10.1: `cuStreamBeginCapture_v2`, `cuThreadExchangeStreamCaptureMode`;
//! - 10.0: `cuGraphDestroy`, `cuGraphExecDestroy`, `cuGraphLaunch`, `cuStreamEndCapture`,
//!   `cuStreamIsCapturing`;
//! - 9.0: `cuFuncSetAttribute`;
//! - before: `cuCtxGetCurrent`, `cuCtxSetCurrent`, `cuDeviceGet`, `cuDeviceGetAttribute`,
//!   `cuDeviceGetCount`, `cuDeviceGetName`, `cuDevicePrimaryCtxRetain`, `cuDeviceTotalMem_v2`,
//!   `cuDriverGetVersion`, `cuEventCreate`, `cuEventDestroy_v2`, `cuEventRecord`,
//!   `cuEventSynchronize`, `cuGetErrorName`, `cuGetErrorString`, `cuInit`, `cuLaunchKernel`,
//!   `cuMemAlloc_v2`, `cuMemFreeHost`, `cuMemFree_v2`, `cuMemGetInfo_v2`, `cuMemHostAlloc`,
//!   `cuMemcpyDtoDAsync_v2`, `cuMemcpyDtoHAsync_v2`, `cuMemcpyDtoH_v2`, `cuMemcpyHtoDAsync_v2`,
//!   `cuMemsetD8Async`, `cuModuleGetFunction`, `cuModuleLoadData`, `cuModuleUnload`,
//!   `cuOccupancyMaxActiveBlocksPerMultiprocessor`, `cuStreamCreate`, `cuStreamDestroy_v2`,
//!   `cuStreamSynchronize`, `cuStreamWaitEvent`.
//!
//! CUDA 11.4 also knows the flag with which the first one is called. The bindings ask each device
//! for the attribute `MEMORY_POOLS_SUPPORTED`, which is of CUDA 11.2. The PTX that ships is of
//! version 7.0, which drivers of CUDA 11.0 read.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, DriverError, result, sys};
use libloading::Library;

use crate::error::{Error, Result};

/// The CUDA version of the oldest driver that has all functions which are called: 11.4, that of
/// R470. See the docs of this module.
const OLDEST_DRIVER: i32 = 11_040;

/// The names of the driver's library.
const NAMES: &[&str] =
    if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };

/// The driver's description of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The name.
    pub name: String,
    /// The compute capability: major and minor version.
    pub capability: (u32, u32),
    /// The total memory in bytes.
    pub memory: usize,
}

/// Returns the version of CUDA that the driver supports, as `1000 major + 10 minor`.
///
/// # Errors
/// Returns [`Error::NoDriver`] if there is no driver, and propagates errors of the driver.
pub fn driver_version() -> Result<i32> {
    // Every other call of the driver comes after this check has succeeded: the bindings panic if
    // they do not find the library. They also try these names, unless another crate makes them link
    // the library. Then it is there.
    // SAFETY: a library of this name is the driver, whose initialisers have no requirements.
    if !NAMES.iter().any(|name| unsafe { Library::new(*name) }.is_ok()) {
        return Err(Error::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the call writes one integer, and the driver need not be initialised for it.
    let result = unsafe { sys::cuDriverGetVersion(&mut version) };
    check("ask for the driver's version", result.result())?;
    Ok(version)
}

/// Returns the descriptions of all devices, in the order of their numbers.
///
/// ```no_run
/// for (number, device) in bagdot::backend::cuda::devices()?.iter().enumerate() {
///     println!("{number}: {}, {} bytes", device.name, device.memory);
/// }
/// # Ok::<(), bagdot::Error>(())
/// ```
///
/// # Errors
/// Returns [`Error::NoDriver`] or [`Error::DriverTooOld`], or [`Error::NoDevice`] if the driver
/// finds no device. Propagates other errors of the driver.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    initialise()?;
    (0..count()?)
        .map(|ordinal| describe(check("find the device", result::device::get(ordinal))?))
        .collect()
}

/// A guard that keeps a context current in its thread, as calls of the driver need it, and restores
/// the one that was current before when it is dropped; if there was none, the context stays.
#[must_use]
pub(crate) struct Bound {
    /// The context that was current before, if it was another one.
    before: Option<sys::CUcontext>,
}

/// Makes a context current in the calling thread, as every call of the driver requires.
pub(crate) fn bind(context: &CudaContext) -> Result<Bound> {
    let before = current()?.filter(|before| *before != context.cu_ctx());
    check("bind the context", context.bind_to_thread())?;
    Ok(Bound { before })
}

/// A value of the bindings that may make its own context current when it is dropped. Afterwards the
/// context that was current before is current again.
#[derive(Debug)]
pub(crate) struct Quiet<T>(ManuallyDrop<T>);

impl<T> Quiet<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }
}

impl<T> Deref for Quiet<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        let _bound = Bound { before: current().unwrap_or_default() };
        // SAFETY: the value is dropped here alone, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

fn current() -> Result<Option<sys::CUcontext>> {
    check("ask for the current context", result::ctx::get_current())
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && current() != Ok(self.before)
        {
            // SAFETY: the context was current in this thread. If it has been destroyed meanwhile,
            // the driver refuses it, and this thread keeps the present one.
            let _ = unsafe { result::ctx::set_current(before) };
        }
    }
}

/// Returns an error that names `op` if a stream is being captured, in which a call that waits would
/// invalidate the capture.
pub(crate) fn refuse_recording(stream: sys::CUstream, op: &'static str) -> Result<()> {
    if is_recording(stream)? { Err(Error::Recording { op }) } else { Ok(()) }
}

/// Returns whether a stream is being captured.
pub(crate) fn is_recording(stream: sys::CUstream) -> Result<bool> {
    // SAFETY: the stream lives as long as the backend that passes it.
    let status = unsafe { result::stream::is_capturing(stream) };
    let status = check("ask whether ops are recorded", status)?;
    Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// Returns the primary context of a device, and a guard that binds it.
pub(crate) fn context(device: usize) -> Result<(Arc<CudaContext>, Bound)> {
    initialise()?;
    let devices = count()?;
    if i32::try_from(device).map_or(true, |device| device >= devices) {
        return Err(Error::NoDevice { device, devices: devices as usize });
    }
    let before = current()?;
    let context = check("create a context", CudaContext::new(device))?;
    let bound = Bound { before: before.filter(|before| *before != context.cu_ctx()) };
    // SAFETY: without event tracking, cudarc does not order work on different streams; the backend
    // does that itself. Ops go to the stream of the backend or to that of its branch; events order
    // the branch and the copy stream with it. Buffers are not cudarc's, and none exist yet.
    unsafe { context.disable_event_tracking() };
    Ok((context, bound))
}

/// Returns the compute capability of a context's device.
pub(crate) fn capability(context: &CudaContext) -> Result<(u32, u32)> {
    check("ask for the compute capability", context.compute_capability())
        .map(|(major, minor)| (major.unsigned_abs(), minor.unsigned_abs()))
}

fn initialise() -> Result<()> {
    let found = driver_version()?;
    if found < OLDEST_DRIVER {
        return Err(Error::DriverTooOld { required: OLDEST_DRIVER, found });
    }
    match result::init() {
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            Err(Error::NoDevice { device: 0, devices: 0 })
        }
        initialised => check("initialise the driver", initialised),
    }
}

fn count() -> Result<i32> {
    match result::device::get_count() {
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
        counted => check("count the devices", counted),
    }
}

fn describe(device: sys::CUdevice) -> Result<DeviceInfo> {
    let attribute = |attribute| {
        // SAFETY: the driver returned the device.
        check("ask for an attribute", unsafe { result::device::get_attribute(device, attribute) })
    };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(DeviceInfo {
        name: check("ask for the name", result::device::get_name(device))?,
        capability: (major.unsigned_abs(), minor.unsigned_abs()),
        // SAFETY: the driver returned the device.
        memory: check("ask for the memory", unsafe { result::device::total_mem(device) })?,
    })
}

/// Converts an error of the driver to [`Error::Cuda`]. Reads the text of the error at once, while
/// the library is known to be loaded.
pub(crate) fn check<T>(
    during: &'static str,
    result: std::result::Result<T, DriverError>,
) -> Result<T> {
    result.map_err(|error| {
        let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
            text.map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
        };
        let message = format!("{}: {}", text(error.error_name()), text(error.error_string()));
        Error::Cuda { during, code: error.0 as i32, message }
    })
}
