//! Asynchronous copies of batches to the device, through pinned memory and on a separate stream,
//! while ops compute.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};
use rayon::prelude::*;

use super::super::Cuda;
use super::driver::{Quiet, bind, check, refuse_recording};
use crate::dtype::Scalar;
use crate::error::Result;
use crate::ops::ViewMut;

/// The least size of a piece of pinned memory, in bytes.
const MIN_PINNED_BYTES: usize = 64;
/// The bytes that one thread copies to pinned memory; more are shared by the threads of rayon's
/// pool, since one thread copies more slowly than the link to the device does.
const COPIED_AT_ONCE: usize = 1 << 18;

/// A transfer from the host to the device, for one batch after another, made for
/// [`Staging`](crate::nn::Staging).
///
/// The device reads pinned memory until the event `arrived` is reached. This holds even if an error
/// kept a batch from arriving, or if `arrive` was not called: the next `begin`, or `drop`, then
/// records the event and waits for it.
pub struct Transfer {
    cuda: Cuda,
    /// A piece of pinned memory for each part of a batch.
    pinned: Vec<Pinned>,
    /// The number of copies that were started since `arrived` was recorded.
    sent: usize,
    /// The event that is reached when all copies have completed.
    arrived: Event,
    /// The event that is reached when the ops that read the batch have run.
    released: Event,
}

impl Transfer {
    pub(crate) fn new(cuda: &Cuda) -> Result<Self> {
        let _bound = cuda.bind()?;
        let [arrived, released] = [Event::new(cuda.context())?, Event::new(cuda.context())?];
        Ok(Self { cuda: cuda.clone(), pinned: Vec::new(), sent: 0, arrived, released })
    }

    pub(crate) fn begin(&mut self) -> Result<()> {
        let _bound = self.cuda.bind()?;
        self.settle()?;
        self.released.hold(self.cuda.copy_stream())?;
        // If `released` was recorded in a stream that is being captured, the wait has drawn the
        // copy stream into that capture.
        refuse_staging(self.cuda.copy_stream())
    }

    pub(crate) fn send<T: Scalar>(
        &mut self,
        source: &[T],
        target: &ViewMut<'_, Cuda, T>,
    ) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(source);
        if bytes.is_empty() {
            return Ok(());
        }
        let _bound = self.cuda.bind()?;
        let context = self.cuda.context();
        if self.sent == self.pinned.len() {
            self.pinned.push(Pinned {
                pointer: std::ptr::null_mut(),
                len: 0,
                context: Quiet::new(Arc::clone(context)),
            });
        }
        let pinned = &mut self.pinned[self.sent];
        if pinned.len < bytes.len() {
            *pinned = Pinned::new(context, bytes.len().next_power_of_two().max(MIN_PINNED_BYTES))?;
        }
        self.sent += 1;
        let staged = pinned.fill(bytes);
        // SAFETY: by its type, the target is memory of as many bytes that nothing else uses. Since
        // `begin`, the copy stream waits for the ops that were launched before. The source stays
        // unchanged until the copy has completed, for which `settle` waits.
        let copy =
            unsafe { result::memcpy_htod_async(target.pointer(), staged, self.cuda.copy_stream()) };
        check("copy to the device", copy)
    }

    pub(crate) fn arrive(&mut self) -> Result<()> {
        let _bound = self.cuda.bind()?;
        self.record_arrival()?;
        self.arrived.hold(self.cuda.raw_stream())
    }

    pub(crate) fn release(&mut self) -> Result<()> {
        let _bound = self.cuda.bind()?;
        refuse_staging(self.cuda.raw_stream())?;
        self.released.record(self.cuda.raw_stream())
    }

    fn record_arrival(&mut self) -> Result<()> {
        self.arrived.record(self.cuda.copy_stream())?;
        self.sent = 0;
        Ok(())
    }

    /// Waits until no copy reads pinned memory any more.
    fn settle(&mut self) -> Result<()> {
        if self.sent > 0 {
            self.record_arrival()?;
        }
        self.arrived.wait()
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.cuda.bind().and_then(|_bound| self.settle()).is_err() {
            // Copies may still read the pinned memory, so it is leaked.
            std::mem::forget(std::mem::take(&mut self.pinned));
        }
    }
}

/// Returns an error if a stream is being captured. Otherwise copies would become part of the graph,
/// and every replay would read the pinned memory again, with whatever it holds by then.
fn refuse_staging(stream: sys::CUstream) -> Result<()> {
    refuse_recording(stream, "Staging")
}

/// Pinned memory of the host, which the device can read by itself.
struct Pinned {
    pointer: *mut c_void,
    len: usize,
    context: Quiet<Arc<CudaContext>>,
}

// SAFETY: the value owns the memory alone.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self> {
        // SAFETY: `drop` frees the memory once.
        let pointer = check("allocate pinned memory", unsafe { result::malloc_host(len, 0) })?;
        Ok(Self { pointer, len, context: Quiet::new(Arc::clone(context)) })
    }

    /// Copies `bytes` into the memory and returns the copy. Panics if there is too little room.
    fn fill(&mut self, bytes: &[u8]) -> &[u8] {
        assert!(bytes.len() <= self.len, "{} bytes do not fit into {}", bytes.len(), self.len);
        let to = self.pointer.cast::<MaybeUninit<u8>>();
        // SAFETY: the memory has `len` bytes, which are enough. This value owns them alone, and no
        // copy reads them any more, since `begin` has waited for that. They are borrowed as long as
        // the result.
        let to = unsafe { std::slice::from_raw_parts_mut(to, bytes.len()) };
        // SAFETY: `MaybeUninit<u8>` has the layout of `u8`.
        let bytes: &[MaybeUninit<u8>] =
            unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) };
        if bytes.len() <= COPIED_AT_ONCE {
            to.copy_from_slice(bytes);
        } else {
            let parts = to.par_chunks_mut(COPIED_AT_ONCE).zip(bytes.par_chunks(COPIED_AT_ONCE));
            parts.for_each(|(to, from)| to.copy_from_slice(from));
        }
        // SAFETY: all of these bytes have just been written.
        unsafe { std::slice::from_raw_parts(to.as_ptr().cast(), to.len()) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.pointer.is_null() {
            return;
        }
        if let Ok(_bound) = bind(&self.context) {
            // SAFETY: the memory comes from `malloc_host`, and nothing else frees it. All copies
            // from it have completed.
            let _ = unsafe { result::free_host(self.pointer) };
        }
    }
}

/// An event: a point in the order of work on a stream.
struct Event {
    event: sys::CUevent,
    context: Quiet<Arc<CudaContext>>,
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
        Ok(Self { event, context: Quiet::new(Arc::clone(context)) })
    }

    fn record(&self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: the event lives as long as `self`, and the stream as long as the backend.
        check("record an event", unsafe { result::event::record(self.event, stream) })
    }

    /// Makes a stream wait for the point at which the event was last recorded.
    fn hold(&self, stream: sys::CUstream) -> Result<()> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as above.
        check("wait for an event", unsafe { result::stream::wait_event(stream, self.event, flags) })
    }

    /// Waits for the point at which the event was last recorded, or not at all if it never was.
    fn wait(&self) -> Result<()> {
        let _bound = bind(&self.context)?;
        // SAFETY: as above.
        check("wait for an event", unsafe { result::event::synchronize(self.event) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_bound) = bind(&self.context) {
            // SAFETY: `new` made the event, and nothing else destroys it.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::Gemm;
    use crate::ops::Device;

    /// The emulator reports pinned memory that is written or freed while a copy reads it, here for
    /// batches that never arrive.
    #[test]
    fn begin_and_drop_wait_for_batches_that_did_not_arrive()
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
