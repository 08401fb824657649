//! The pieces of work that streams hold, and what orders them: streams, events and graphs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::c_void;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use super::code::{Code, Result};
use super::product::Product;
use crate::device::KernelId;
use crate::exec::Grid;

/// A pointer to host memory that work will use later.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostPointer(pub(super) usize);

impl HostPointer {
    pub(super) fn pointer(self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.0)
    }
}

/// A piece of work.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Kernel {
        kernel: KernelId,
        grid: Grid,
        args: Vec<Vec<u8>>,
    },
    /// A copy of bytes that were read by the call that enqueued it, as from pageable memory.
    Bytes {
        to: u64,
        bytes: Vec<u8>,
    },
    ToDevice {
        to: u64,
        from: HostPointer,
        bytes: usize,
        /// The serial number of the pinned memory that holds the source, if any does.
        pinned: Option<u64>,
    },
    ToHost {
        to: HostPointer,
        from: u64,
        bytes: usize,
        /// The serial number of the pinned memory that holds the destination, if any does.
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

/// The nodes of a graph that the next node comes after.
pub(super) type Tail = BTreeSet<usize>;

/// A piece of work in a graph, and the nodes that it comes after.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) work: Work,
    pub(super) after: Tail,
}

/// A graph of work.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
}

impl Graph {
    /// Returns the work of each node.
    pub(super) fn works(&self) -> impl Iterator<Item = &Work> {
        self.nodes.iter().map(|node| &node.work)
    }

    /// Returns the number of nodes on the longest path.
    pub(super) fn longest_path(&self) -> usize {
        // A node comes after nodes with lower numbers.
        let mut lengths = vec![0; self.nodes.len()];
        for (k, node) in self.nodes.iter().enumerate() {
            lengths[k] = 1 + node.after.iter().map(|&before| lengths[before]).max().unwrap_or(0);
        }
        lengths.into_iter().max().unwrap_or(0)
    }

    /// Returns the nodes of `tail` and all nodes that they come after.
    pub(super) fn reached_from(&self, tail: &Tail) -> Tail {
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

/// A vector clock: for each stream, the number of its pieces of work that the next piece comes
/// after.
pub(super) type Clock = BTreeMap<u64, u64>;

/// A stream.
#[derive(Default)]
pub(super) struct Stream {
    /// The ordinal of its device.
    pub(super) device: usize,
    /// Set if the stream and the legacy stream wait for each other.
    pub(super) blocking: bool,
    pub(super) priority: i32,
    pub(super) queue: VecDeque<Work>,
    /// The work of all streams that comes before the next work of this one.
    pub(super) clock: Clock,
    /// The capture that the stream takes part in, and the nodes that its next node comes after.
    pub(super) capture: Option<(u64, Tail)>,
}

/// An event.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    /// Set if the event can be used to measure time.
    pub(super) timing: bool,
    /// The number of times it was recorded.
    pub(super) recorded: u64,
    /// The number of its records that its streams have reached.
    pub(super) reached: u64,
    /// The time at which the last record was reached.
    pub(super) at: Option<Instant>,
    /// The work that came before the last record.
    pub(super) clock: Clock,
    /// The capture that the last record belongs to, and the nodes before it.
    pub(super) captured: Option<(u64, Tail)>,
    /// Set if the event has been destroyed. Streams still wait for its last record.
    pub(super) destroyed: bool,
}

/// The mode of a capture: whom it forbids to call functions that may wait for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    /// Returns the mode of a `CUstreamCaptureMode`.
    pub(super) fn of(value: i32) -> Result<Self> {
        match value {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => Err(Code::ERROR_INVALID_VALUE),
        }
    }
}

/// A capture that has begun.
pub(super) struct Session {
    /// The stream in which it began.
    pub(super) origin: u64,
    pub(super) mode: Mode,
    /// The thread that began it.
    pub(super) thread: ThreadId,
    pub(super) graph: Graph,
    /// Unset once a call was refused because of this capture.
    pub(super) valid: bool,
}
