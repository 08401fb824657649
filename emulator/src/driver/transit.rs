//! Pinned host memory, and the copies between it and a device that are under way.

use std::alloc::Layout;
use std::ops::Range;

/// Memory of cuMemHostAlloc.
pub(super) struct Pinned {
    pub(super) layout: Layout,
    /// A number of its own, since the same address may be allocated again.
    pub(super) serial: u64,
}

/// A copy between pinned memory and a device that the host has not waited for.
pub(super) struct Transit {
    pub(super) stream: u64,
    /// The position of the copy in the work of its stream.
    pub(super) position: u64,
    pub(super) host: Range<usize>,
    /// The bytes of the source when the host enqueued the copy; `None` if the copy is to the host,
    /// or once a device writes to this memory.
    pub(super) source: Option<Vec<u8>>,
    /// The words that name the copy in a report.
    pub(super) text: String,
}

impl Transit {
    /// Returns whether the copy reads or writes some of these host bytes.
    pub(super) fn uses(&self, bytes: &Range<usize>) -> bool {
        self.host.start < bytes.end && bytes.start < self.host.end
    }
}
