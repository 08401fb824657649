//! The shared memory of a block.

use super::known::ByteSet;
use super::shadow::{Run, Shadow};
use crate::fault::FaultKind;

/// The shared memory of a block.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) data: Vec<u8>,
    /// The bytes that have been written.
    known: ByteSet,
    /// The destinations of copies that have not been waited for.
    pending: ByteSet,
    /// The number of these copies.
    copies: usize,
    pub(super) shadow: Shadow,
    /// This block in the history.
    pub(super) run: Run<'static>,
}

impl Shared {
    /// Makes this the memory of the next block, of `bytes` bytes that count as not written.
    pub(super) fn reset(&mut self, bytes: usize) {
        self.data.clear();
        self.data.resize(bytes, 0xff);
        self.known.reset(bytes);
        self.pending.reset(bytes);
        self.copies = 0;
        self.run.number += 1;
    }

    /// Returns the offset of an access, if it is inside the memory.
    pub(super) fn place(&self, address: u64, bytes: usize) -> Result<usize, (FaultKind, String)> {
        if address.checked_add(bytes as u64).is_none_or(|end| end > self.data.len() as u64) {
            let detail =
                format!("{bytes} bytes at {address} of {} bytes of shared memory", self.data.len());
            return Err((FaultKind::OutOfBounds, detail));
        }
        Ok(address as usize)
    }

    /// Returns whether a copy that has not been waited for writes some of these bytes.
    pub(super) fn is_pending(&self, at: usize, bytes: usize) -> bool {
        self.copies > 0 && self.pending.any(at, bytes)
    }

    /// Returns whether all of these bytes have been written.
    pub(super) fn is_known(&self, at: usize, bytes: usize) -> bool {
        self.known.all(at, bytes)
    }

    /// Notes that these bytes have been written.
    pub(super) fn set_known(&mut self, at: usize, bytes: usize) {
        self.known.set(at, bytes, true);
    }

    /// Begins a copy to these bytes. Until it is waited for, nobody may access them.
    pub(super) fn begin_copy(&mut self, at: usize, bytes: usize) {
        self.data[at..at + bytes].fill(0xff);
        self.known.set(at, bytes, false);
        self.pending.set(at, bytes, true);
        self.copies += 1;
    }

    /// Ends a copy. Bytes for which there is no data become zero.
    pub(super) fn end_copy(&mut self, at: usize, bytes: usize, data: &[u8]) {
        self.data[at..at + data.len()].copy_from_slice(data);
        self.data[at + data.len()..at + bytes].fill(0);
        self.known.set(at, bytes, true);
        self.pending.set(at, bytes, false);
        self.copies -= 1;
    }
}
