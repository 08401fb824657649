//! Captures streams into graphs. A call that a real driver refuses during a capture is refused here
//! with the same code.

use std::cell::Cell;

use super::code::{Code, Result};
use super::state::Driver;
use super::work::{Graph, Mode, Node, Session, Tail, Work};

thread_local! {
    /// The mode that cuThreadExchangeStreamCaptureMode has set for the calling thread.
    pub(super) static THREAD_MODE: Cell<i32> = const { Cell::new(0) };
}

impl Driver {
    /// Begins a capture of a stream.
    pub(super) fn begin_capture(&mut self, stream: u64, mode: Mode) -> Result<()> {
        if self.is_legacy(stream) {
            return Err(Code::ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if self.streams[&stream].capture.is_some() {
            return Err(Code::ERROR_ILLEGAL_STATE);
        }
        let id = self.handle();
        let thread = std::thread::current().id();
        let session =
            Session { origin: stream, mode, thread, graph: Graph::default(), valid: true };
        self.sessions.insert(id, session);
        self.streams.entry(stream).and_modify(|s| s.capture = Some((id, Tail::new())));
        Ok(())
    }

    /// Ends a capture. Returns its graph, if every call was allowed and every stream that took part
    /// was joined into the stream where the capture began.
    pub(super) fn end_capture(&mut self, stream: u64) -> Result<Graph> {
        let Some((id, tail)) = self.streams[&stream].capture.clone() else {
            return Err(Code::ERROR_ILLEGAL_STATE);
        };
        let session = self.sessions.get(&id).ok_or(Code::ERROR_ILLEGAL_STATE)?;
        if session.origin != stream {
            self.invalidate(id);
            return Err(Code::ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if session.mode != Mode::Relaxed && session.thread != std::thread::current().id() {
            return Err(Code::ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        let mut joined = true;
        if session.valid {
            let reached = session.graph.reached_from(&tail);
            let mut others = self
                .streams
                .values()
                .filter_map(|s| s.capture.as_ref())
                .filter(|(of, _)| *of == id);
            joined = others.all(|(_, tail)| tail.is_subset(&reached));
        }
        for stream in self.streams.values_mut() {
            if stream.capture.as_ref().is_some_and(|(of, _)| *of == id) {
                stream.capture = None;
            }
        }
        let session = self.sessions.remove(&id).ok_or(Code::ERROR_ILLEGAL_STATE)?;
        if !session.valid {
            return Err(Code::ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        if joined { Ok(session.graph) } else { Err(Code::ERROR_STREAM_CAPTURE_UNJOINED) }
    }

    /// Returns the `CUstreamCaptureStatus` of a stream: 0 none, 1 active, 2 invalidated.
    pub(super) fn capture_status(&self, stream: u64) -> i32 {
        match &self.streams[&stream].capture {
            None => 0,
            Some((id, _)) if self.sessions.get(id).is_some_and(|s| s.valid) => 1,
            Some(_) => 2,
        }
    }

    /// Makes a capture invalid, as a refused call does.
    pub(super) fn invalidate(&mut self, session: u64) {
        self.sessions.entry(session).and_modify(|s| s.valid = false);
    }

    /// Returns the capture that a stream takes part in, if any; an error if it is invalid.
    pub(super) fn active(&self, stream: u64) -> Result<Option<u64>> {
        match &self.streams[&stream].capture {
            None => Ok(None),
            Some((id, _)) if self.sessions.get(id).is_some_and(|s| s.valid) => Ok(Some(*id)),
            Some(_) => Err(Code::ERROR_STREAM_CAPTURE_INVALIDATED),
        }
    }

    /// Adds a node after the nodes that the stream has so far.
    pub(super) fn capture_node(&mut self, stream: u64, work: Work) -> Result<()> {
        let Some(id) = self.active(stream)? else { return Ok(()) };
        let Some((_, tail)) = self.streams.get_mut(&stream).and_then(|s| s.capture.as_mut()) else {
            return Ok(());
        };
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let after = std::mem::replace(tail, Tail::from([session.graph.nodes.len()]));
        session.graph.nodes.push(Node { work, after });
        Ok(())
    }

    /// Refuses a call that would wait for, or query, a stream that is being captured.
    pub(super) fn refuse_if_capturing(&mut self, stream: u64) -> Result<()> {
        match self.streams[&stream].capture {
            None => Ok(()),
            Some((id, _)) => {
                self.invalidate(id);
                Err(Code::ERROR_STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    }

    /// Refuses a call that would wait for all streams while any is being captured.
    pub(super) fn refuse_in_any_capture(&mut self) -> Result<()> {
        if self.sessions.is_empty() {
            return Ok(());
        }
        self.sessions.values_mut().for_each(|session| session.valid = false);
        Err(Code::ERROR_STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses a call that may wait for the device implicitly, such as cuMemAlloc. A capture of the
    /// global mode forbids these calls to all threads, one of the thread-local mode to its thread.
    pub(super) fn refuse_unsafe(&mut self) -> Result<()> {
        if THREAD_MODE.get() == 2 {
            return Ok(());
        }
        let here = std::thread::current().id();
        let forbids = |s: &&mut Session| match s.mode {
            Mode::Global => THREAD_MODE.get() == 0 || s.thread == here,
            Mode::ThreadLocal => s.thread == here,
            Mode::Relaxed => false,
        };
        let mut refused = false;
        for session in self.sessions.values_mut().filter(forbids) {
            session.valid = false;
            refused = true;
        }
        if refused { Err(Code::ERROR_STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// Refuses a use of the legacy stream while a blocking stream is being captured: the legacy
    /// stream would wait for it.
    pub(super) fn legacy_allowed(&mut self) -> Result<()> {
        let captured = self
            .streams
            .values()
            .filter(|s| s.blocking)
            .find_map(|s| s.capture.as_ref().map(|(id, _)| *id));
        match captured {
            None => Ok(()),
            Some(id) => {
                self.invalidate(id);
                Err(Code::ERROR_STREAM_CAPTURE_IMPLICIT)
            }
        }
    }
}
