//! Capturing streams into graphs, and replaying these. What a real driver refuses during a capture
//! is refused here, with its code.

use std::collections::BTreeSet;
use std::thread::ThreadId;

use super::code::{Code, Result};
use super::state::Driver;
use super::work::Work;

/// Nodes of a graph.
pub(super) type Tail = BTreeSet<usize>;

#[derive(Clone, Debug)]
pub(super) struct Node {
    work: Work,
    after: Tail,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    pub(super) fn of(value: i32) -> Result<Self> {
        match value {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => Err(Code::ERROR_INVALID_VALUE),
        }
    }
}

thread_local! {
    /// What cuThreadExchangeStreamCaptureMode has set.
    pub(super) static THREAD_MODE: std::cell::Cell<i32> = const { std::cell::Cell::new(0) };
}

/// A capture that has begun.
pub(super) struct Session {
    pub(super) origin: u64,
    mode: Mode,
    thread: ThreadId,
    graph: Graph,
    pub(super) valid: bool,
}

impl Driver {
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

    /// Ends a capture: the graph, if everything in it was allowed and has come back to the stream
    /// where it began.
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

    /// Whether a stream takes part in a capture: none, active or invalidated.
    pub(super) fn capture_status(&self, stream: u64) -> i32 {
        match &self.streams[&stream].capture {
            None => 0,
            Some((id, _)) if self.sessions.get(id).is_some_and(|s| s.valid) => 1,
            Some(_) => 2,
        }
    }

    fn invalidate(&mut self, session: u64) {
        self.sessions.entry(session).and_modify(|s| s.valid = false);
    }

    /// The capture of a stream, if it is still valid.
    fn active(&self, stream: u64) -> Result<Option<u64>> {
        match &self.streams[&stream].capture {
            None => Ok(None),
            Some((id, _)) if self.sessions.get(id).is_some_and(|s| s.valid) => Ok(Some(*id)),
            Some(_) => Err(Code::ERROR_STREAM_CAPTURE_INVALIDATED),
        }
    }

    /// Adds a node after what the stream has so far.
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

    /// Calls that would wait for, or ask about, a stream that is being captured.
    pub(super) fn refuse_if_capturing(&mut self, stream: u64) -> Result<()> {
        match self.streams[&stream].capture {
            None => Ok(()),
            Some((id, _)) => {
                self.invalidate(id);
                Err(Code::ERROR_STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    }

    /// Calls that would wait for everything.
    pub(super) fn refuse_in_any_capture(&mut self) -> Result<()> {
        if self.sessions.is_empty() {
            return Ok(());
        }
        self.sessions.values_mut().for_each(|session| session.valid = false);
        Err(Code::ERROR_STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Calls that may wait for the device without saying so, such as cuMemAlloc. Captures of the
    /// global mode forbid them to everybody, those of the thread-local mode to their thread.
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

    /// The legacy stream waits for all blocking streams, and cannot where one is being captured.
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

    /// Records an event; in a capture it is a place in the graph.
    pub(super) fn record(&mut self, event: u64, stream: u64) -> Result<()> {
        let capturing = self.active(stream)?;
        let tail = self.streams[&stream].capture.as_ref().map(|(_, tail)| tail.clone());
        let slot = self.events.get_mut(&event).ok_or(Code::ERROR_INVALID_HANDLE)?;
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

    /// Makes a stream wait for an event; one that was recorded in a capture draws the stream into
    /// it.
    pub(super) fn wait_event(&mut self, stream: u64, event: u64) -> Result<()> {
        let slot = self.events.get(&event).ok_or(Code::ERROR_INVALID_HANDLE)?.clone();
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

    /// Replays a graph, its nodes in some order that their dependencies allow.
    pub(super) fn run_graph(&mut self, stream: u64, graph: &Graph) -> Result<()> {
        let mut done = Tail::new();
        while done.len() < graph.nodes.len() {
            let ready = |k: &usize| !done.contains(k) && graph.nodes[*k].after.is_subset(&done);
            let ready: Vec<usize> = (0..graph.nodes.len()).filter(ready).collect();
            let next = ready[self.random.below(ready.len())];
            self.perform(stream, graph.nodes[next].work.clone())?;
            done.insert(next);
        }
        Ok(())
    }
}

impl Graph {
    /// Returns the work of each node.
    pub(super) fn works(&self) -> impl Iterator<Item = &Work> {
        self.nodes.iter().map(|node| &node.work)
    }

    /// These nodes and all that they come after.
    fn reached_from(&self, tail: &Tail) -> Tail {
        let mut reached = Tail::new();
        let mut left: Vec<usize> = tail.iter().copied().collect();
        while let Some(node) = left.pop() {
            if reached.insert(node) {
                left.extend(&self.nodes[node].after);
            }
        }
        reached
    }
}
