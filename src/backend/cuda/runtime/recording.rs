//! Graph capture and replay: ops are recorded as a CUDA graph and replayed with one launch.
//!
//! A graph holds addresses, so memory must outlive every graph that may name it. If a buffer is
//! dropped while graphs exist that were recorded before, its memory is freed when the last of these
//! graphs is dropped. The graphs are tracked for each context of the process, since memory belongs
//! to a context.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, result, sys};

use super::super::Cuda;
use super::driver::{Quiet, bind, check};
use crate::error::{Error, Result};

/// A recording of ops, captured as a CUDA graph by [`Stage::record`](crate::ops::Stage::record) and
/// launched by [`Stage::replay`](crate::ops::Stage::replay). It keeps the backend that recorded it.
/// Dropping it waits for the backend's stream.
pub struct Recording {
    executable: sys::CUgraphExec,
    graph: sys::CUgraph,
    /// The backend whose kernels the graph launches.
    cuda: Cuda,
    /// The number of the recording. It is dropped after the graph has been destroyed, and then
    /// frees the memory that only this recording kept.
    _serial: Serial,
}

// SAFETY: both are handles of the driver, which may be used from any thread with the context bound.
// Launches of an executable are ordered by its stream, and nothing changes it.
unsafe impl Send for Recording {}
// SAFETY: as above.
unsafe impl Sync for Recording {}

/// The recordings of a context, and the memory whose release is deferred until they are dropped.
#[derive(Default)]
struct Ledger {
    /// The number of the last recording that began.
    last: u64,
    /// The numbers of the recordings that have not been dropped.
    live: BTreeSet<u64>,
    /// The memory of dropped buffers, each with the number of the last recording when it was
    /// dropped.
    waiting: Vec<(u64, sys::CUdeviceptr)>,
}

/// The ledgers, by the address of the context.
static LEDGERS: Mutex<BTreeMap<usize, Ledger>> = Mutex::new(BTreeMap::new());

fn with_ledger<R>(context: &CudaContext, work: impl FnOnce(&mut Ledger) -> R) -> R {
    let mut ledgers = LEDGERS.lock().unwrap_or_else(PoisonError::into_inner);
    work(ledgers.entry(context.cu_ctx().addr()).or_default())
}

/// The number of a recording. It exists from the beginning of the capture on, even if that fails.
struct Serial {
    number: u64,
    context: Quiet<Arc<CudaContext>>,
}

impl Serial {
    fn new(context: &Arc<CudaContext>) -> Self {
        let number = with_ledger(context, |ledger| {
            ledger.last += 1;
            ledger.live.insert(ledger.last);
            ledger.last
        });
        Self { number, context: Quiet::new(Arc::clone(context)) }
    }
}

/// Frees the memory that only this recording kept.
impl Drop for Serial {
    fn drop(&mut self) {
        let free: Vec<_> = with_ledger(&self.context, |ledger| {
            ledger.live.remove(&self.number);
            let oldest = ledger.live.first().copied().unwrap_or(u64::MAX);
            ledger.waiting.extract_if(.., |(last, _)| *last < oldest).collect()
        });
        free.into_iter().for_each(|(_, pointer)| free_now(&self.context, pointer));
    }
}

/// Frees memory from `malloc_sync` as soon as no live recording can name it.
///
/// # Safety
/// The pointer must come from `malloc_sync`. From here on nothing else may free it, and only work
/// that has been launched or recorded may use it.
pub(crate) unsafe fn free(context: &CudaContext, pointer: sys::CUdeviceptr) {
    let waits = with_ledger(context, |ledger| {
        let waits = !ledger.live.is_empty();
        if waits {
            ledger.waiting.push((ledger.last, pointer));
        }
        waits
    });
    if !waits {
        free_now(context, pointer);
    }
}

fn free_now(context: &CudaContext, pointer: sys::CUdeviceptr) {
    if let Ok(_bound) = bind(context) {
        // The thread may be capturing a stream, in which freeing is not allowed otherwise.
        let _relaxed = Relaxed::new();
        // SAFETY: only `free` and `Serial` call this, each pointer was passed to `free`, and each
        // is freed once. Freeing waits for the device, so no work that was launched still uses the
        // memory. If the context is broken, its memory is gone with it, and the error can be
        // ignored.
        let _ = unsafe { result::free_sync(pointer) };
    }
}

impl Recording {
    pub(crate) fn new(cuda: &Cuda, ops: impl FnOnce() -> Result<()>) -> Result<Self> {
        let _bound = cuda.bind()?;
        let serial = Serial::new(cuda.context());
        let (graph, executable) = capture(cuda, ops)?;
        Ok(Self { executable, graph, cuda: cuda.clone(), _serial: serial })
    }

    /// Launches the graph, if this backend or a clone of it recorded it.
    ///
    /// # Errors
    /// Returns [`Error::OtherBackend`] if another backend recorded it, and propagates errors of the
    /// driver.
    pub(crate) fn launch(&self, cuda: &Cuda) -> Result<()> {
        if self.cuda.owner() != cuda.owner() {
            return Err(Error::OtherBackend);
        }
        let _bound = self.cuda.bind()?;
        // SAFETY: the executable lives as long as `self`. The memory that it names is not freed
        // before it, and it keeps the backend with the kernels. The stream orders the launch with
        // all other ops of the backend, as for any op.
        check("launch a graph", unsafe {
            result::graph::launch(self.executable, self.cuda.raw_stream())
        })
    }
}

fn capture(
    cuda: &Cuda,
    ops: impl FnOnce() -> Result<()>,
) -> Result<(sys::CUgraph, sys::CUgraphExec)> {
    let capture = Capture::begin(cuda)?;
    ops()?;
    let graph = capture.end()?;
    let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    // SAFETY: the graph has just been captured and is valid.
    let executable = check("make a graph", unsafe { result::graph::instantiate(graph, flags) });
    executable.map(|executable| (graph, executable)).inspect_err(|_| {
        // SAFETY: nothing uses the graph.
        let _ = unsafe { result::graph::destroy(graph) };
    })
}

/// A capture of the backend's stream, which ends when this value is dropped, even if an op fails.
/// Otherwise all later ops would be captured too.
struct Capture<'a>(&'a Cuda);

impl<'a> Capture<'a> {
    fn begin(cuda: &'a Cuda) -> Result<Self> {
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the backend, and `end` or `drop` ends the capture.
        check("begin to record", unsafe {
            result::stream::begin_capture(cuda.raw_stream(), mode)
        })?;
        Ok(Self(cuda))
    }

    fn end(self) -> Result<sys::CUgraph> {
        let cuda = self.0;
        std::mem::forget(self);
        // SAFETY: as above.
        check("end a recording", unsafe { result::stream::end_capture(cuda.raw_stream()) })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        // SAFETY: as above. The driver returns no graph if the capture has failed.
        match unsafe { result::stream::end_capture(self.0.raw_stream()) } {
            // SAFETY: nothing uses the graph.
            Ok(graph) if !graph.is_null() => _ = unsafe { result::graph::destroy(graph) },
            _ => {}
        }
    }
}

/// A guard of the relaxed capture mode: while it lives, its thread may make calls that a capture
/// forbids, such as loading a kernel. These calls are not captured.
pub(crate) struct Relaxed(sys::CUstreamCaptureMode);

impl Relaxed {
    pub(crate) fn new() -> Result<Self> {
        exchange_mode(sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED).map(Self)
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        let _ = exchange_mode(self.0);
    }
}

/// Sets the capture mode of the calling thread, and returns the previous mode.
fn exchange_mode(mut mode: sys::CUstreamCaptureMode) -> Result<sys::CUstreamCaptureMode> {
    // SAFETY: the driver reads the mode and replaces it.
    let exchanged = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    check("change the mode of recording", exchanged.result()).map(|()| mode)
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Ok(_bound) = self.cuda.bind() {
            // Waits for launches that may still run, since graph and memory are freed next.
            let _ = self.cuda.wait();
            // SAFETY: `capture` made both, and nothing else destroys them. No launch is running.
            unsafe {
                let _ = result::graph::exec_destroy(self.executable);
                let _ = result::graph::destroy(self.graph);
            }
        }
    }
}
