//! Events: recording them, waiting for them, and the time between two of them.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::c_uint;

use super::api::api;
use super::code::{Code, Result};
use super::host::put;
use super::state::{Driver, with};
use super::work::{Event, Tail, Work};

const DISABLE_TIMING: c_uint = 2;
/// The resolution of events in milliseconds: half a microsecond.
const RESOLUTION_MS: f32 = 0.0005;

impl Driver {
    /// Returns an event that has not been destroyed.
    fn event(&mut self, event: u64) -> Result<&mut Event> {
        let found = self.events.get_mut(&event).filter(|event| !event.destroyed);
        found.ok_or(Code::ERROR_INVALID_HANDLE)
    }

    /// Records an event. In a capture it becomes a place in the graph.
    fn record(&mut self, event: u64, stream: u64) -> Result<()> {
        let capturing = self.active(stream)?;
        let tail = self.streams[&stream].capture.as_ref().map(|(_, tail)| tail.clone());
        let slot = self.event(event)?;
        if let (Some(id), Some(tail)) = (capturing, tail) {
            slot.captured = Some((id, tail));
            return Ok(());
        }
        slot.captured = None;
        slot.clock.clear();
        slot.recorded += 1;
        let time = slot.recorded;
        self.enqueue(stream, Work::Record { event, time })
    }

    /// Makes a stream wait for an event. An event that was recorded in a capture draws the stream
    /// into that capture.
    fn wait_event(&mut self, stream: u64, event: u64) -> Result<()> {
        let slot = self.event(event)?.clone();
        let capturing = self.active(stream)?;
        match (capturing, slot.captured) {
            (None, None) if slot.recorded == 0 => Ok(()),
            (None, None) => self.enqueue(stream, Work::Wait { event, time: slot.recorded }),
            (Some(_), None) if slot.recorded == 0 => Ok(()),
            (Some(id), None) => {
                self.invalidate(id);
                Err(Code::ERROR_STREAM_CAPTURE_ISOLATION)
            }
            (Some(id), Some((other, _))) if id != other => {
                self.invalidate(id);
                self.invalidate(other);
                Err(Code::ERROR_STREAM_CAPTURE_MERGE)
            }
            (None, Some((other, _))) if self.is_legacy(stream) => {
                self.invalidate(other);
                Err(Code::ERROR_STREAM_CAPTURE_IMPLICIT)
            }
            (_, Some((other, nodes))) => {
                if !self.sessions.get(&other).is_some_and(|s| s.valid) {
                    return Err(Code::ERROR_STREAM_CAPTURE_INVALIDATED);
                }
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.capture.get_or_insert_with(|| (other, Tail::new())).1.extend(nodes);
                }
                Ok(())
            }
        }
    }

    /// Returns success if an event has been reached. With `wait` this does work until it is;
    /// without, some work may happen to be done, as if time had passed.
    fn reach_event(&mut self, event: u64, wait: bool) -> Result<()> {
        self.current()?;
        let slot = self.event(event)?;
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

    /// Returns the milliseconds between two events.
    fn elapsed(&mut self, start: u64, end: u64) -> Result<f32> {
        self.current()?;
        let (a, b) = (&self.event(start)?.clone(), &self.event(end)?.clone());
        let measures = |e: &Event| e.timing && e.recorded > 0 && e.captured.is_none();
        if !measures(a) || !measures(b) {
            return Err(Code::ERROR_INVALID_HANDLE);
        }
        if a.reached < a.recorded || b.reached < b.recorded {
            return Err(Code::ERROR_NOT_READY);
        }
        let (Some(a), Some(b)) = (a.at, b.at) else { return Err(Code::ERROR_NOT_READY) };
        Ok((b.saturating_duration_since(a).as_secs_f32() * 1e3).max(RESOLUTION_MS))
    }
}

api! {
    fn cuEventCreate(event: *mut u64, flags: c_uint) {
        with(|d| {
            d.current()?;
            let handle = d.handle();
            let timing = flags & DISABLE_TIMING == 0;
            d.events.insert(handle, Event { timing, ..Event::default() });
            put(event, handle)
        })
    }
    fn cuEventDestroy_v2(event: u64) {
        with(|d| d.event(event).map(|event| event.destroyed = true))
    }
    fn cuEventRecord(event: u64, stream: u64) {
        with(|d| {
            let stream = d.stream(stream)?;
            d.record(event, stream)
        })
    }
    fn cuEventSynchronize(event: u64) {
        with(|d| d.reach_event(event, true))
    }
    fn cuEventQuery(event: u64) {
        with(|d| d.reach_event(event, false))
    }
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: u64, end: u64) {
        with(|d| d.elapsed(start, end).and_then(|elapsed| put(milliseconds, elapsed)))
    }
    fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) {
        with(|d| d.elapsed(start, end).and_then(|elapsed| put(milliseconds, elapsed)))
    }
    fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) {
        with(|d| d.stream(stream).and_then(|stream| d.wait_event(stream, event)))
    }
}
