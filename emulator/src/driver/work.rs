//! Streams: queues of work. What is in them is done when somebody waits for it, or some time
//! before: which, the seed decides, so that a test that forgets to wait does not get what it wants
//! by luck.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use super::capture::{Graph, Tail};
use super::code::{Code, Result};
use super::host::{self, bytes_at, write_bytes};
use super::pinned::Clock;
use super::product::Product;
use super::state::Driver;
use crate::device::{AccessError, KernelId, LaunchError};
use crate::exec::Grid;
use crate::fault::FaultKind;

/// A pointer of the host's that work will use later.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostPointer(pub(super) usize);

impl HostPointer {
    pub(super) fn pointer(self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.0)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Work {
    Kernel {
        kernel: KernelId,
        grid: Grid,
        args: Vec<Vec<u8>>,
    },
    /// Bytes that were taken when the copy was asked for, as from pageable memory.
    Bytes {
        to: u64,
        bytes: Vec<u8>,
    },
    ToDevice {
        to: u64,
        from: HostPointer,
        bytes: usize,
        /// The number of the pinned memory where that lies.
        pinned: Option<u64>,
    },
    ToHost {
        to: HostPointer,
        from: u64,
        bytes: usize,
        pinned: Option<u64>,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        count: usize,
    },
    Product(Box<Product>),
    Host {
        function: extern "C" fn(*mut c_void),
        data: HostPointer,
    },
    Record {
        event: u64,
        time: u64,
    },
    Wait {
        event: u64,
        time: u64,
    },
    Free(u64),
    Graph(Arc<Graph>),
    Nothing,
}

#[derive(Default)]
pub(super) struct Stream {
    pub(super) device: usize,
    /// Whether it waits for the legacy stream and the other way round.
    pub(super) blocking: bool,
    pub(super) priority: i32,
    pub(super) queue: VecDeque<Work>,
    /// The work of all streams that comes before the next work of this one.
    pub(super) clock: Clock,
    /// The capture that it takes part in, and the nodes that its next depends on.
    pub(super) capture: Option<(u64, Tail)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    pub(super) timing: bool,
    /// How often it was recorded, and how many of these have been reached.
    pub(super) recorded: u64,
    pub(super) reached: u64,
    pub(super) at: Option<Instant>,
    /// The work that came before the event when it was recorded last.
    pub(super) clock: Clock,
    /// Where it was recorded, in a capture.
    pub(super) captured: Option<(u64, Tail)>,
}

impl Driver {
    /// The stream that a handle means, made on first use where it is the legacy or the thread's
    /// own.
    pub(super) fn stream(&mut self, handle: u64) -> Result<u64> {
        let device = self.current()?;
        match handle {
            // Each device has its own of these.
            0..=2 => {
                let id = u64::from(handle == 2) + 2 * device as u64;
                self.streams.entry(id).or_insert_with(|| Stream {
                    device,
                    blocking: true,
                    ..Stream::default()
                });
                Ok(id)
            }
            _ => self
                .streams
                .contains_key(&handle)
                .then_some(handle)
                .ok_or(Code::ERROR_INVALID_HANDLE),
        }
    }

    pub(super) fn is_legacy(&self, stream: u64) -> bool {
        stream < 2 * self.gpus.len() as u64 && stream.is_multiple_of(2)
    }

    /// Adds work to a stream, or to the graph that it is captured into.
    pub(super) fn enqueue(&mut self, stream: u64, work: Work) -> Result<()> {
        if self.is_legacy(stream) {
            self.legacy_allowed()?;
            self.synchronize_blocking(stream)?;
            return self.perform(stream, work);
        }
        if self.streams[&stream].capture.is_some() {
            return self.capture_node(stream, work);
        }
        self.depart(stream, &work)?;
        self.streams.entry(stream).and_modify(|s| s.queue.push_back(work));
        if !self.settings.deferred {
            return self.drain(stream);
        }
        // Some of what waits is done now, most often nothing.
        let mut left = if self.random.below(3) == 0 { 1 + self.random.below(4) } else { 0 };
        while left > 0 && self.advance(None) {
            left -= 1;
        }
        let device = self.streams[&stream].device;
        self.gpus[device].failed.map_or(Ok(()), Err)
    }

    /// Does the next work of some stream, most often of the one that is waited for, that need not
    /// wait itself. What goes wrong the stream's device remembers. False when there is no work.
    pub(super) fn advance(&mut self, waited_for: Option<u64>) -> bool {
        let ready = |s: &Stream| match s.queue.front() {
            None => false,
            Some(Work::Wait { event, time }) => {
                self.events.get(event).is_none_or(|e| e.reached >= *time)
            }
            Some(_) => true,
        };
        let ready: Vec<u64> =
            self.streams.iter().filter(|(_, s)| ready(s)).map(|(&id, _)| id).collect();
        if ready.is_empty() {
            return false;
        }
        let preferred =
            waited_for.filter(|stream| ready.contains(stream) && self.random.below(4) != 0);
        let stream = preferred.unwrap_or_else(|| ready[self.random.below(ready.len())]);
        let work = self.streams.get_mut(&stream).and_then(|s| s.queue.pop_front());
        if let Some(work) = work {
            _ = self.perform(stream, work);
        }
        true
    }

    /// Waits until a stream is empty. Others run meanwhile.
    pub(super) fn drain(&mut self, stream: u64) -> Result<()> {
        while self.streams.get(&stream).is_some_and(|s| !s.queue.is_empty())
            && self.advance(Some(stream))
        {}
        let device = self.streams.get(&stream).map_or(0, |s| s.device);
        self.gpus[device].failed.map_or(Ok(()), Err)
    }

    pub(super) fn drain_where(&mut self, which: impl Fn(&Stream) -> bool) -> Result<()> {
        let streams: Vec<u64> =
            self.streams.iter().filter(|(_, s)| which(s)).map(|(&id, _)| id).collect();
        streams.into_iter().try_for_each(|stream| self.drain(stream))
    }

    /// Drains a stream as [`Self::drain`] does, and notes that the host has waited for its work.
    pub(super) fn synchronize(&mut self, stream: u64) -> Result<()> {
        self.drain(stream)?;
        self.settle_stream(stream);
        Ok(())
    }

    /// Waits for the streams that the legacy one of a device waits for.
    pub(super) fn synchronize_blocking(&mut self, legacy: u64) -> Result<()> {
        let device = self.streams[&legacy].device;
        let is_waited_for = |s: &Stream| s.blocking && s.device == device;
        let streams: Vec<u64> =
            self.streams.iter().filter(|(_, s)| is_waited_for(s)).map(|(&id, _)| id).collect();
        streams.into_iter().try_for_each(|stream| self.synchronize(stream))
    }

    /// Does a piece of work. A device that has failed does nothing more; events are reached all the
    /// same, so that nobody waits for ever.
    pub(super) fn perform(&mut self, stream: u64, work: Work) -> Result<()> {
        let device = self.streams.get(&stream).map_or(0, |s| s.device);
        if let Work::Record { event, time } = work {
            if let Some(event) = self.events.get_mut(&event) {
                event.reached = event.reached.max(time);
                event.at = Some(Instant::now());
            }
            return Ok(());
        }
        if let Some(code) = self.gpus[device].failed {
            return Err(code);
        }
        if let Work::Graph(graph) = work {
            return self.run_graph(stream, &graph);
        }
        let outcome = self.run(device, work);
        outcome.map_err(|(code, text)| {
            self.say(&text);
            self.gpus[device].failed = Some(code);
            code
        })
    }

    fn run(&mut self, device: usize, work: Work) -> std::result::Result<(), (Code, String)> {
        if let Work::ToDevice { from: host, pinned, .. } | Work::ToHost { to: host, pinned, .. } =
            work
        {
            self.check_alive(host, pinned)?;
        }
        let gpu = &mut self.gpus[device].device;
        let access =
            |error: AccessError| (Code::ERROR_ILLEGAL_ADDRESS, format!("a copy or fill: {error}"));
        let host = |code| (code, "a copy from or to a null pointer".to_owned());
        match work {
            Work::Kernel { kernel, grid, args } => {
                let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                gpu.launch(kernel, grid, &args)
                    .map_err(|error| (code_of(&error), error.to_string()))
            }
            Work::Bytes { to, bytes } => gpu.write(to, &bytes).map_err(access),
            Work::ToDevice { to, from, bytes, .. } => {
                let bytes = bytes_at(from.pointer(), bytes).map_err(host)?;
                gpu.write(to, &bytes).map_err(access)
            }
            Work::ToHost { to, from, bytes, .. } => {
                let mut data = vec![0; bytes];
                gpu.read(from, &mut data).map_err(access)?;
                write_bytes(to.pointer(), &data).map_err(host)
            }
            Work::Copy { to, from, bytes } => gpu.copy(to, from, bytes).map_err(access),
            Work::Fill { to, pattern, count } => gpu.fill(to, &pattern, count).map_err(access),
            Work::Product(product) => product.run(gpu).map_err(access),
            Work::Host { function, data } => {
                host::call(function, data.pointer());
                Ok(())
            }
            Work::Free(address) => {
                gpu.free(address);
                Ok(())
            }
            Work::Record { .. } | Work::Wait { .. } | Work::Graph(_) | Work::Nothing => Ok(()),
        }
    }
}

/// What a driver answers after such a launch.
pub(super) fn code_of(error: &LaunchError) -> Code {
    let faults = match error {
        LaunchError::Faults(faults) => faults,
        LaunchError::Grid { resources: true, .. } => return Code::ERROR_LAUNCH_OUT_OF_RESOURCES,
        LaunchError::UnknownKernel(_) => return Code::ERROR_INVALID_HANDLE,
        _ => return Code::ERROR_INVALID_VALUE,
    };
    let code = |kind| match kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree => Some(Code::ERROR_ILLEGAL_ADDRESS),
        FaultKind::Misaligned => Some(Code::ERROR_MISALIGNED_ADDRESS),
        FaultKind::StepLimit => Some(Code::ERROR_LAUNCH_TIMEOUT),
        FaultKind::UnknownOpcode => Some(Code::ERROR_ILLEGAL_INSTRUCTION),
        _ => None,
    };
    faults.iter().find_map(|fault| code(fault.kind)).unwrap_or(Code::ERROR_LAUNCH_FAILED)
}
