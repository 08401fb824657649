//! Batches on their way to the device: through pinned memory, on a stream of their own, while ops
//! compute.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::super::Cuda;
use super::buffer::SliceMut;
use super::driver::check;
use crate::dtype::Scalar;
use crate::error::{Error, Result};

/// Where parts of a batch begin in pinned memory.
const ALIGN: usize = 64;

/// A way from the host to the device, for one batch after another.
///
/// The device reads pinned memory until `arrived` has been reached. That holds whatever becomes of
/// a batch: where an error kept it from arriving, or nobody called `arrive`, the next `begin` and
/// `drop` make up for it.
pub struct Transfer {
    cuda: Cuda,
    pinned: Vec<Pinned>,
    /// The copies that have been asked for and that `arrived` does not know of.
    sent: usize,
    /// Reached when all copies have been made.
    arrived: Event,
    /// Reached when the ops that read them have run.
    released: Event,
}

impl Transfer {
    pub(crate) fn new(cuda: &Cuda) -> Result<Self> {
        cuda.bind()?;
        let [arrived, released] = [Event::new(cuda.context())?, Event::new(cuda.context())?];
        Ok(Self { cuda: cuda.clone(), pinned: Vec::new(), sent: 0, arrived, released })
    }

    pub(crate) fn begin(&mut self) -> Result<()> {
        self.cuda.bind()?;
        self.settle()?;
        self.released.hold(self.cuda.copy_stream())?;
        // An event of a recording has drawn the stream into that.
        refuse_recording(self.cuda.copy_stream())
    }

    pub(crate) fn send<T: Scalar>(&mut self, source: &[T], target: &SliceMut<'_, T>) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(source);
        if bytes.is_empty() {
            return Ok(());
        }
        self.cuda.bind()?;
        let context = self.cuda.context();
        if self.sent == self.pinned.len() {
            self.pinned.push(Pinned {
                pointer: std::ptr::null_mut(),
                len: 0,
                context: Arc::clone(context),
            });
        }
        let pinned = &mut self.pinned[self.sent];
        if pinned.len < bytes.len() {
            *pinned = Pinned::new(context, bytes.len().next_power_of_two().max(ALIGN))?;
        }
        self.sent += 1;
        let staged = pinned.fill(bytes);
        // SAFETY: the target is memory of as many bytes that nobody else uses, by its type; ops
        // that were launched before are waited for by the copy stream, since `begin`. The source
        // stays as it is until the copy has been made, for which `settle` waits.
        let copy =
            unsafe { result::memcpy_htod_async(target.pointer(), staged, self.cuda.copy_stream()) };
        check("copy to the device", copy)
    }

    pub(crate) fn arrive(&mut self) -> Result<()> {
        self.cuda.bind()?;
        self.record_arrival()?;
        self.arrived.hold(self.cuda.raw_stream())
    }

    pub(crate) fn release(&mut self) -> Result<()> {
        self.cuda.bind()?;
        refuse_recording(self.cuda.raw_stream())?;
        self.released.record(self.cuda.raw_stream())
    }

    fn record_arrival(&mut self) -> Result<()> {
        self.arrived.record(self.cuda.copy_stream())?;
        self.sent = 0;
        Ok(())
    }

    /// Waits until no copy reads pinned memory.
    fn settle(&mut self) -> Result<()> {
        if self.sent > 0 {
            self.record_arrival()?;
        }
        self.arrived.wait()
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.cuda.bind().and_then(|()| self.settle()).is_err() {
            // Nobody knows whether pinned memory is still read, so it stays.
            std::mem::forget(std::mem::take(&mut self.pinned));
        }
    }
}

/// Refuses to go on where a stream is being captured: copies would become part of the graph, and
/// every replay would read pinned memory anew, whatever lies there by then.
fn refuse_recording(stream: sys::CUstream) -> Result<()> {
    // SAFETY: the stream lives as long as the backend.
    let status =
        check("ask whether ops are recorded", unsafe { result::stream::is_capturing(stream) })?;
    match status {
        sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
        _ => Err(Error::Recording { op: "Staging" }),
    }
}

/// Memory of the host that the device reads by itself.
struct Pinned {
    pointer: *mut c_void,
    len: usize,
    context: Arc<CudaContext>,
}

// SAFETY: the memory is this value's alone.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self> {
        // SAFETY: the memory is freed once, by `drop`.
        let pointer = check("allocate pinned memory", unsafe { result::malloc_host(len, 0) })?;
        Ok(Self { pointer, len, context: Arc::clone(context) })
    }

    /// Takes in bytes, for which there is room.
    fn fill(&mut self, bytes: &[u8]) -> &[u8] {
        assert!(bytes.len() <= self.len, "{} bytes do not fit into {}", bytes.len(), self.len);
        let to = self.pointer.cast::<u8>();
        // SAFETY: there are `len` bytes, enough for these, in memory that is this value's alone and
        // that no copy reads any more, as `begin` has seen to; it is borrowed for as long as the
        // result.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            std::slice::from_raw_parts(to, bytes.len())
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.pointer.is_null() && self.context.bind_to_thread().is_ok() {
            // SAFETY: it comes from `malloc_host`, and is freed nowhere else; the copies from it
            // have been made.
            let _ = unsafe { result::free_host(self.pointer) };
        }
    }
}

/// A place in the order of work on a stream.
struct Event {
    event: sys::CUevent,
    context: Arc<CudaContext>,
}

// SAFETY: an event is a handle of the driver, which may be used from any thread with the context
// bound.
unsafe impl Send for Event {}

impl Event {
    fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let event = check(
            "create an event",
            result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING),
        )?;
        Ok(Self { event, context: Arc::clone(context) })
    }

    fn record(&self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: event and stream live; so below.
        check("record an event", unsafe { result::event::record(self.event, stream) })
    }

    /// Lets a stream wait for where the event was recorded last.
    fn hold(&self, stream: sys::CUstream) -> Result<()> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as above.
        check("wait for an event", unsafe { result::stream::wait_event(stream, self.event, flags) })
    }

    /// Waits for where it was recorded last; not at all if it never was.
    fn wait(&self) -> Result<()> {
        check("bind the context", self.context.bind_to_thread())?;
        // SAFETY: as above.
        check("wait for an event", unsafe { result::event::synchronize(self.event) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it was made by `new`, and is destroyed nowhere else.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::Gemm;
    use crate::ops::Device;

    /// Batches that an error kept from arriving: the emulator reports pinned memory that is written
    /// or freed under a copy.
    #[test]
    fn what_was_sent_and_did_not_arrive_is_waited_for()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        let Some(emulator) = bagdot_emulator::install()? else { return Ok(()) };
        for seed in 0..10 {
            let alone = emulator.exclusive();
            alone.configure(bagdot_emulator::Config { seed, ..Default::default() });
            let cuda = Cuda::with_gemm(0, Gemm::Own)?;
            let mut buffer = cuda.alloc::<u64>(64)?;
            let mut transfer = Transfer::new(&cuda)?;
            transfer.release()?;
            for (value, arrives) in [false, false, true, false].into_iter().enumerate() {
                transfer.begin()?;
                transfer.send(&[value as u64; 64], &Cuda::view_mut(&mut buffer))?;
                if arrives {
                    transfer.arrive()?;
                    assert_eq!(cuda.to_vec(&buffer)?, [2; 64]);
                    transfer.release()?;
                }
            }
            drop(transfer);
            assert_eq!(alone.report(), "");
        }
        Ok(())
    }
}
