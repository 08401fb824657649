//! Streams: making them, waiting for them and capturing them.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::{c_int, c_uint, c_void};

use super::api::api;
use super::capture::THREAD_MODE;
use super::code::{Code, Result};
use super::host::{int_at, put};
use super::state::{Driver, with};
use super::work::{HostPointer, Mode, Stream, Work};

const NON_BLOCKING: c_uint = 1;

impl Driver {
    fn create_stream(&mut self, flags: c_uint, priority: c_int) -> Result<u64> {
        let device = self.current()?;
        if flags > NON_BLOCKING {
            return Err(Code::ERROR_INVALID_VALUE);
        }
        let handle = self.handle();
        let blocking = flags != NON_BLOCKING;
        self.streams.insert(
            handle,
            Stream { device, blocking, priority: priority.clamp(-5, 0), ..Stream::default() },
        );
        Ok(handle)
    }
}

api! {
    fn cuStreamCreate(stream: *mut u64, flags: c_uint) {
        with(|d| d.create_stream(flags, 0).and_then(|handle| put(stream, handle)))
    }
    fn cuStreamCreateWithPriority(stream: *mut u64, flags: c_uint, priority: c_int) {
        with(|d| d.create_stream(flags, priority).and_then(|handle| put(stream, handle)))
    }
    fn cuStreamGetFlags(stream: u64, flags: *mut c_uint) {
        with(|d| {
            let stream = d.stream(stream)?;
            put(flags, if d.streams[&stream].blocking { 0 } else { NON_BLOCKING })
        })
    }
    fn cuStreamGetCtx(stream: u64, context: *mut u64) {
        with(|d| {
            let stream = d.stream(stream)?;
            put(context, d.context_of(d.streams[&stream].device))
        })
    }
    fn cuStreamGetPriority(stream: u64, priority: *mut c_int) {
        with(|d| {
            let stream = d.stream(stream)?;
            put(priority, d.streams[&stream].priority)
        })
    }
    fn cuStreamDestroy_v2(stream: u64) {
        with(|d| {
            if stream <= 2 || !d.streams.contains_key(&stream) {
                return Err(Code::ERROR_INVALID_HANDLE);
            }
            // CUDA finishes the work that a destroyed stream still holds.
            let outcome = d.drain(stream);
            d.streams.remove(&stream);
            outcome
        })
    }
    fn cuStreamSynchronize(stream: u64) {
        with(|d| {
            let stream = d.stream(stream)?;
            d.refuse_if_capturing(stream)?;
            if d.is_legacy(stream) {
                d.legacy_allowed()?;
                d.synchronize_blocking(stream)?;
            }
            d.synchronize(stream)
        })
    }
    fn cuStreamQuery(stream: u64) {
        with(|d| {
            let stream = d.stream(stream)?;
            d.refuse_if_capturing(stream)?;
            if d.random.below(2) == 0 {
                d.advance(Some(stream));
            }
            d.current()?;
            if !d.streams[&stream].queue.is_empty() {
                return Err(Code::ERROR_NOT_READY);
            }
            d.settle_stream(stream);
            Ok(())
        })
    }
    fn cuLaunchHostFunc(stream: u64, function: extern "C" fn(*mut c_void), data: *mut c_void) {
        with(|d| {
            let stream = d.stream(stream)?;
            let data = HostPointer(data.expose_provenance());
            d.enqueue(stream, Work::Host { function, data })
        })
    }
    fn cuStreamIsCapturing(stream: u64, status: *mut c_int) {
        with(|d| {
            let stream = d.stream(stream)?;
            if d.is_legacy(stream) {
                d.legacy_allowed()?;
            }
            put(status, d.capture_status(stream))
        })
    }
    fn cuStreamBeginCapture_v2(stream: u64, mode: c_int) {
        with(|d| {
            let stream = d.stream(stream)?;
            d.begin_capture(stream, Mode::of(mode)?)
        })
    }
    fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) {
        let wanted = int_at(mode)?;
        Mode::of(wanted)?;
        put(mode, THREAD_MODE.replace(wanted))
    }
}
