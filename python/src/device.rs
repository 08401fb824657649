//! The backends that ops run on: the CPU with the threads that it has been given, and a CUDA
//! device on the stream of the producer.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use bagdot::ops::{Backend, Device, View, ViewMut};
use bagdot::{Cpu, Cuda};
use pyo3::prelude::*;

use crate::array::{Array, Origin, Place};
use crate::dlpack;
use crate::error::{op_error, value_error};

/// The number of elements that an op reads, below which it runs on the calling thread: waking
/// another one, or giving up the interpreter's lock, would take longer.
const SMALL: usize = 1 << 15;

/// A backend, with views of memory that Python owns.
pub(crate) trait Views: Backend {
    /// Views memory for reading.
    ///
    /// # Safety
    /// `data` must be memory of this device for `len` elements, aligned to them, that nobody
    /// writes and that stays alive for `'a`.
    unsafe fn of<'a, T: bagdot::Scalar>(data: *mut u8, len: usize) -> View<'a, Self, T>;
    /// Views memory for writing.
    ///
    /// # Safety
    /// As above, and nobody else may read the memory.
    unsafe fn of_mut<'a, T: bagdot::Scalar>(data: *mut u8, len: usize) -> ViewMut<'a, Self, T>;
}

impl Views for Cpu {
    unsafe fn of<'a, T: bagdot::Scalar>(data: *mut u8, len: usize) -> View<'a, Self, T> {
        if len == 0 {
            return View::from(&[] as &[T]);
        }
        // SAFETY: the caller vouches for the memory, and any bits are a value of a `Scalar`.
        View::from(unsafe { std::slice::from_raw_parts(data.cast::<T>(), len) })
    }

    unsafe fn of_mut<'a, T: bagdot::Scalar>(data: *mut u8, len: usize) -> ViewMut<'a, Self, T> {
        if len == 0 {
            return ViewMut::from(&mut [] as &mut [T]);
        }
        // SAFETY: as above.
        ViewMut::from(unsafe { std::slice::from_raw_parts_mut(data.cast::<T>(), len) })
    }
}

impl Views for Cuda {
    unsafe fn of<'a, T: bagdot::Scalar>(data: *mut u8, len: usize) -> View<'a, Self, T> {
        // SAFETY: the caller vouches for the memory.
        unsafe { View::from_raw(data as u64, len) }
    }

    unsafe fn of_mut<'a, T: bagdot::Scalar>(data: *mut u8, len: usize) -> ViewMut<'a, Self, T> {
        // SAFETY: the caller vouches for the memory.
        unsafe { ViewMut::from_raw(data as u64, len) }
    }
}

/// The CPU with all of its threads, once it has been used.
static CPU: RwLock<Option<Cpu>> = RwLock::new(None);
/// The number of its threads; 0 for as many as the process can use.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Makes the CPU with this number of threads, 0 for all.
fn cpu_with(threads: usize) -> bagdot::Result<Cpu> {
    if threads == 0 { Cpu::new() } else { Cpu::with_threads(threads) }
}

/// Returns the CPU with all of its threads.
pub(crate) fn cpu() -> bagdot::Result<Cpu> {
    if let Ok(cpu) = CPU.read()
        && let Some(cpu) = &*cpu
    {
        return Ok(cpu.clone());
    }
    let cpu = cpu_with(THREADS.load(Ordering::Relaxed))?;
    if let Ok(mut slot) = CPU.write() {
        *slot = Some(cpu.clone());
    }
    Ok(cpu)
}

/// Sets the number of threads of ops on the CPU. Results do not depend on it.
#[pyfunction]
pub(crate) fn set_num_threads(py: Python<'_>, threads: usize) -> PyResult<()> {
    let cpu = Cpu::with_threads(threads).map_err(|e| op_error(py, e))?;
    THREADS.store(threads, Ordering::Relaxed);
    if let Ok(mut slot) = CPU.write() {
        *slot = Some(cpu);
    }
    Ok(())
}

/// Returns the number of threads of ops on the CPU.
#[pyfunction]
pub(crate) fn get_num_threads(py: Python<'_>) -> PyResult<usize> {
    Ok(cpu().map_err(|e| op_error(py, e))?.num_threads())
}

/// Forgets the threads of the process that this one was forked from, where they have stayed. The
/// next op makes others.
#[pyfunction]
pub(crate) fn _after_fork() {
    if let Ok(mut slot) = CPU.write() {
        // Dropping the pool would wait for its threads.
        std::mem::forget(slot.take());
    }
}

/// The backends of CUDA on streams of other libraries, by device and stream.
static STREAMS: Mutex<Option<HashMap<(i32, usize), Cuda>>> = Mutex::new(None);
/// The backends with a stream of their own, by device.
static OWN: Mutex<Option<HashMap<i32, Cuda>>> = Mutex::new(None);

/// Returns the backend of a stream that is not ours.
fn on_stream(device: i32, stream: *mut c_void) -> bagdot::Result<Cuda> {
    let Ok(mut streams) = STREAMS.lock() else { return Err(bagdot::Error::NoDriver) };
    let streams = streams.get_or_insert_default();
    if let Some(cuda) = streams.get(&(device, stream as usize)) {
        return Ok(cuda.clone());
    }
    // The backends of a device share its kernels.
    let first = own_cuda(device)?;
    // SAFETY: the stream is the current one of its library, which keeps its streams as long as the
    // process runs, and which orders the work on others with the work on this one.
    let cuda = unsafe { first.on(stream)? };
    streams.insert((device, stream as usize), cuda.clone());
    Ok(cuda)
}

/// Returns the backend with a stream of its own.
pub(crate) fn own_cuda(device: i32) -> bagdot::Result<Cuda> {
    let Ok(mut own) = OWN.lock() else { return Err(bagdot::Error::NoDriver) };
    let own = own.get_or_insert_default();
    if let Some(cuda) = own.get(&device) {
        return Ok(cuda.clone());
    }
    let cuda = Cuda::new(device as usize)?;
    own.insert(device, cuda.clone());
    Ok(cuda)
}

/// Returns our own stream on a device, as DLPack counts streams.
pub(crate) fn own_stream(py: Python<'_>, device: i32, op: &str) -> PyResult<usize> {
    let cuda = own_cuda(device).map_err(|e| value_error(op, "device", e))?;
    let _ = py;
    Ok(cuda.stream() as usize)
}

/// Waits for the ops of all streams of a CUDA device, and reports the first bad id that they have
/// found. On the CPU there is nothing to wait for.
#[pyfunction]
#[pyo3(signature = (device=0))]
pub(crate) fn synchronize(py: Python<'_>, device: i32) -> PyResult<()> {
    let mut backends: Vec<Cuda> = Vec::new();
    if let Ok(streams) = STREAMS.lock() {
        let of_device = streams.iter().flatten().filter(|((of, _), _)| *of == device);
        backends.extend(of_device.map(|(_, cuda)| cuda.clone()));
    }
    if let Ok(own) = OWN.lock() {
        backends
            .extend(own.iter().flatten().filter(|(of, _)| **of == device).map(|(_, c)| c.clone()));
    }
    let wait = || backends.iter().map(Device::synchronize).fold(Ok(()), Result::and);
    py.detach(wait).map_err(|e| op_error(py, e))
}

/// Returns the CUDA devices that bagdot can see, by name; none without a driver.
#[pyfunction]
pub(crate) fn cuda_devices() -> Vec<String> {
    bagdot::backend::cuda::devices()
        .map(|devices| devices.into_iter().map(|device| device.name).collect())
        .unwrap_or_default()
}

/// The backend of a call.
pub(crate) enum Target {
    Cpu(Cpu),
    Cuda {
        cuda: Cuda,
        device: i32,
        stream: usize,
        /// Set if nobody else knows the stream, so that a call must wait for its op.
        waits: bool,
    },
}

impl Target {
    /// Finds the backend of these arrays, which must lie on one device. `work` is about the number
    /// of elements that the op reads.
    pub(crate) fn of<'a>(
        py: Python<'_>,
        op: &'static str,
        arrays: impl Iterator<Item = &'a Array> + Clone,
        work: usize,
    ) -> PyResult<Self> {
        let Some(first) = arrays.clone().next() else {
            return Err(value_error(op, "arguments", "no arrays"));
        };
        if arrays.clone().any(|array| array.place != first.place) {
            return Err(value_error(op, "arguments", "arrays on different devices"));
        }
        let failed = |error| op_error(py, error);
        match first.place {
            Place::Host if work < SMALL => Ok(Self::Cpu(Cpu::on_current_thread())),
            Place::Host => Ok(Self::Cpu(cpu().map_err(failed)?)),
            Place::Cuda(device) => {
                let api = arrays.clone().find_map(|array| match array.origin {
                    Origin::Exchange(api) => api.current_stream,
                    _ => None,
                });
                let mut stream = std::ptr::null_mut();
                match api {
                    Some(current) => {
                        // SAFETY: the producer's function writes to the place that it is given.
                        if unsafe { current(dlpack::CUDA, device, &mut stream) } != 0 {
                            return Err(PyErr::fetch(py));
                        }
                        let cuda = on_stream(device, stream).map_err(failed)?;
                        // Producers without such a table were told our own stream, which must have
                        // waited for them before another stream reads their arrays.
                        let is_other = |array: &Array| matches!(array.origin, Origin::Other);
                        let waits = arrays.clone().any(is_other);
                        if waits {
                            own_cuda(device).and_then(|own| own.synchronize()).map_err(failed)?;
                        }
                        Ok(Self::Cuda { cuda, device, stream: stream as usize, waits })
                    }
                    None => {
                        let cuda = own_cuda(device).map_err(failed)?;
                        let stream = cuda.stream() as usize;
                        Ok(Self::Cuda { cuda, device, stream, waits: true })
                    }
                }
            }
        }
    }
}

/// A closure that may leave the thread's hold on the interpreter.
struct Unlocked<F>(F);

// SAFETY: the closure runs on the same thread. It holds addresses of arrays, which the caller of
// the op keeps alive, and no Python object.
unsafe impl<F> Send for Unlocked<F> {}

impl<F: FnOnce() -> R, R> Unlocked<F> {
    fn call(self) -> R {
        (self.0)()
    }
}

/// Runs an op, without the interpreter's lock unless it is small.
pub(crate) fn run<R: Send>(py: Python<'_>, work: usize, op: impl FnOnce() -> R) -> R {
    if work < SMALL {
        return op();
    }
    let op = Unlocked(op);
    py.detach(move || op.call())
}
