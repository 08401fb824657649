//! Streams and events.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::{c_int, c_uint, c_void};

use super::api;
use super::capture::{Mode, THREAD_MODE};
use super::code::{Code, Result};
use super::host::put;
use super::state::{Driver, with};
use super::work::{Event, HostPointer, Stream, Work};

const NON_BLOCKING: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;

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

    /// Whether an event has been reached. Whoever waits has work done to that end; whoever asks may
    /// find that time has passed.
    fn event(&mut self, event: u64, wait: bool) -> Result<()> {
        self.current()?;
        let slot = self.events.get(&event).ok_or(Code::ERROR_INVALID_HANDLE)?;
        if slot.captured.is_some() {
            return Err(Code::ERROR_CAPTURED_EVENT);
        }
        let mut passes = wait || self.random.below(2) == 0;
        loop {
            let slot = &self.events[&event];
            if slot.reached >= slot.recorded {
                let clock = slot.clock.clone();
                self.settle(&clock);
                return self.current().map(|_| ());
            }
            if !passes || !self.advance(None) {
                return Err(Code::ERROR_NOT_READY);
            }
            passes = wait;
        }
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
            // What is in it is done all the same.
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
    fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) {
        with(|d| d.stream(stream).and_then(|stream| d.wait_event(stream, event)))
    }
    fn cuLaunchHostFunc(stream: u64, function: extern "C" fn(*mut c_void), data: *mut c_void) {
        with(|d| {
            let stream = d.stream(stream)?;
            d.enqueue(stream, Work::Host { function, data: HostPointer(data.expose_provenance()) })
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
        let wanted = super::host::int_at(mode)?;
        Mode::of(wanted)?;
        put(mode, THREAD_MODE.replace(wanted))
    }
    fn cuEventCreate(event: *mut u64, flags: c_uint) {
        with(|d| {
            d.current()?;
            let handle = d.handle();
            d.events.insert(handle, Event { timing: flags & DISABLE_TIMING == 0, ..Event::default() });
            put(event, handle)
        })
    }
    fn cuEventDestroy_v2(event: u64) {
        with(|d| d.events.remove(&event).map(|_| ()).ok_or(Code::ERROR_INVALID_HANDLE))
    }
    fn cuEventRecord(event: u64, stream: u64) {
        with(|d| {
            let stream = d.stream(stream)?;
            d.record(event, stream)
        })
    }
    fn cuEventSynchronize(event: u64) {
        with(|d| d.event(event, true))
    }
    fn cuEventQuery(event: u64) {
        with(|d| d.event(event, false))
    }
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: u64, end: u64) {
        with(|d| {
            d.current()?;
            let (Some(a), Some(b)) = (d.events.get(&start), d.events.get(&end)) else {
                return Err(Code::ERROR_INVALID_HANDLE);
            };
            if !a.timing || !b.timing || a.recorded == 0 || b.recorded == 0 || a.captured.is_some() || b.captured.is_some() {
                return Err(Code::ERROR_INVALID_HANDLE);
            }
            if a.reached < a.recorded || b.reached < b.recorded {
                return Err(Code::ERROR_NOT_READY);
            }
            let (Some(a), Some(b)) = (a.at, b.at) else { return Err(Code::ERROR_NOT_READY) };
            // Events resolve half a microsecond.
            let elapsed = b.saturating_duration_since(a).as_secs_f32() * 1e3;
            put(milliseconds, elapsed.max(0.0005))
        })
    }
    fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) {
        Code::of(cuEventElapsedTime_v2(milliseconds, start, end))
    }
}
