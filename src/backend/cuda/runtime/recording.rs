//! Ops that are recorded as a CUDA graph, and replayed with one launch.
//!
//! A graph holds addresses. So that no replay can find memory gone, a buffer that is dropped while
//! there are graphs that were recorded before is freed only with the last of these. The graphs are
//! tracked for each context of the process, since memory belongs to a context.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, result, sys};

use super::super::Cuda;
use super::driver::check;
use crate::error::{Error, Result};

/// Ops that have been recorded.
pub struct Recording {
    executable: sys::CUgraphExec,
    graph: sys::CUgraph,
    /// Whose kernels the graph launches.
    cuda: Cuda,
    /// Goes last.
    _serial: Serial,
}

// SAFETY: both are handles of the driver, which may be used from any thread with the context bound;
// launches of one executable are ordered by its stream, and it is changed nowhere.
unsafe impl Send for Recording {}
// SAFETY: as above.
unsafe impl Sync for Recording {}

/// The recordings of a context, and memory that waits for their end.
#[derive(Default)]
struct Ledger {
    last: u64,
    live: BTreeSet<u64>,
    /// Each with the last recording at the time when it was dropped.
    waiting: Vec<(u64, sys::CUdeviceptr)>,
}

/// By the address of the context.
static LEDGERS: Mutex<BTreeMap<usize, Ledger>> = Mutex::new(BTreeMap::new());

fn with_ledger<R>(context: &CudaContext, work: impl FnOnce(&mut Ledger) -> R) -> R {
    let mut ledgers = LEDGERS.lock().unwrap_or_else(PoisonError::into_inner);
    work(ledgers.entry(context.cu_ctx().addr()).or_default())
}

/// The number of a recording, from its beginning on: also of one that fails.
struct Serial {
    number: u64,
    context: Arc<CudaContext>,
}

impl Serial {
    fn new(context: &Arc<CudaContext>) -> Self {
        let number = with_ledger(context, |ledger| {
            ledger.last += 1;
            ledger.live.insert(ledger.last);
            ledger.last
        });
        Self { number, context: Arc::clone(context) }
    }
}

/// Frees what only this recording was keeping.
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

/// Frees memory that comes from `malloc_sync`, once no recording can be about it.
///
/// # Safety
/// The pointer comes from there, and nobody else frees it or uses it from here on, but for work
/// that has been launched or recorded.
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
    if context.bind_to_thread().is_ok() {
        // SAFETY: only `free` and `Serial` come here, with memory that `free` was given to free,
        // each once. Freeing waits for the device, so nothing that was launched still uses it. If
        // the context is broken, its memory is gone with it.
        let _ = unsafe { result::free_sync(pointer) };
    }
}

impl Recording {
    pub(crate) fn new(cuda: &Cuda, ops: impl FnOnce() -> Result<()>) -> Result<Self> {
        cuda.bind()?;
        let serial = Serial::new(cuda.context());
        let (graph, executable) = capture(cuda, ops)?;
        Ok(Self { executable, graph, cuda: cuda.clone(), _serial: serial })
    }

    /// Runs what was recorded, if it was by this backend or a clone of it.
    pub(crate) fn launch(&self, cuda: &Cuda) -> Result<()> {
        if self.cuda.owner() != cuda.owner() {
            return Err(Error::OtherBackend);
        }
        self.cuda.bind()?;
        // SAFETY: the executable lives as long as this; the memory that it names is not freed
        // before, the kernels are those of a backend that is kept, and the order of work on the
        // stream is that of the calls, as for any op.
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
    // SAFETY: the graph has just been captured.
    let executable = check("make a graph", unsafe { result::graph::instantiate(graph, flags) });
    executable.map(|executable| (graph, executable)).inspect_err(|_| {
        // SAFETY: the graph is used by nobody.
        let _ = unsafe { result::graph::destroy(graph) };
    })
}

/// A stream that is being captured. That ends with this value, whatever comes of the ops: else all
/// that are called later would be recorded, too.
struct Capture<'a>(&'a Cuda);

impl<'a> Capture<'a> {
    fn begin(cuda: &'a Cuda) -> Result<Self> {
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the backend; the capture is ended by `end` or by
        // `drop`.
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
        // SAFETY: as above. The driver gives no graph where the capture has failed.
        match unsafe { result::stream::end_capture(self.0.raw_stream()) } {
            // SAFETY: the graph is used by nobody.
            Ok(graph) if !graph.is_null() => _ = unsafe { result::graph::destroy(graph) },
            _ => {}
        }
    }
}

/// While it lives, its thread may do what recording forbids it, such as loading a kernel. None of
/// that is recorded.
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

/// Sets the mode of the calling thread, and returns the one before.
fn exchange_mode(mut mode: sys::CUstreamCaptureMode) -> Result<sys::CUstreamCaptureMode> {
    // SAFETY: the mode is read and replaced.
    let exchanged = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    check("change the mode of recording", exchanged.result()).map(|()| mode)
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.cuda.bind().is_ok() {
            // A launch may be running, and what it uses is about to be freed, which waits for the
            // device.
            let _ = self.cuda.wait();
            // SAFETY: both were made by `capture`, and are destroyed nowhere else; nothing that was
            // launched is running.
            unsafe {
                let _ = result::graph::exec_destroy(self.executable);
                let _ = result::graph::destroy(self.graph);
            }
        }
    }
}
