//! Pinned memory of the host, and the copies that use it while the host goes on.
//!
//! A copy is under way until the host has waited for it, not just until it has been made: its
//! stream or its device was synchronised, or an event that comes after it. So a wait that is
//! missing is found under every seed.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::Range;

use super::code::{Code, Result};
use super::host::{allocate, bytes_at, deallocate};
use super::state::Driver;
use super::work::{HostPointer, Work};
use crate::fault::FaultKind;

/// Memory of cuMemHostAlloc.
pub(super) struct Pinned {
    layout: Layout,
    /// A number of its own, since the same address may be allocated again.
    serial: u64,
}

/// A vector clock: for each stream, the number of its pieces of work that something comes after.
pub(super) type Clock = BTreeMap<u64, u64>;

/// A copy between pinned memory and a device that is under way.
pub(super) struct Transit {
    /// Which piece of its stream's work it is.
    stream: u64,
    position: u64,
    host: Range<usize>,
    /// The bytes of the host's memory when it asked for the copy; `None` if the copy is to the
    /// host, or once a device writes to this memory.
    source: Option<Vec<u8>>,
    text: String,
}

fn meet(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Driver {
    pub(super) fn pin(&mut self, bytes: usize) -> Result<*mut c_void> {
        let (fresh, layout) = allocate(bytes).ok_or(Code::ERROR_OUT_OF_MEMORY)?;
        let serial = self.handle();
        self.pinned.insert(fresh.expose_provenance(), Pinned { layout, serial });
        Ok(fresh)
    }

    pub(super) fn unpin(&mut self, pointer: *mut c_void) -> Result<()> {
        let start = pointer.expose_provenance();
        let layout = self.pinned.get(&start).ok_or(Code::ERROR_INVALID_VALUE)?.layout;
        let all = start..start + layout.size();
        let lost: Vec<Transit> = self.transits.extract_if(.., |t| meet(&t.host, &all)).collect();
        for Transit { text, .. } in lost {
            self.say_pending(&format!(
                "pinned memory at {start:#x} is freed while {text} is under way"
            ));
        }
        // Nothing that would still use it is left, whether or not the device has failed.
        let outcome = self.drain_where(|s| s.capture.is_none());
        if outcome.is_err() {
            self.streams
                .values_mut()
                .for_each(|s| s.queue.retain(|work| matches!(work, Work::Record { .. })));
        }
        self.pinned.remove(&start);
        deallocate(pointer, layout);
        Ok(())
    }

    /// The number of the pinned memory that holds these bytes.
    pub(super) fn pinned_at(&self, pointer: HostPointer, bytes: usize) -> Option<u64> {
        let (&base, pinned) = self.pinned.range(..=pointer.0).next_back()?;
        (pointer.0 + bytes <= base + pinned.layout.size()).then_some(pinned.serial)
    }

    /// Notes what work comes after that a stream is given, and the copies in it that use pinned
    /// memory.
    pub(super) fn depart(&mut self, stream: u64, work: &Work) -> Result<()> {
        let Some(slot) = self.streams.get_mut(&stream) else { return Ok(()) };
        let position = slot.clock.entry(stream).or_default();
        *position += 1;
        let position = *position;
        match work {
            Work::Record { event, .. } => {
                let clock = slot.clock.clone();
                self.events.entry(*event).and_modify(|event| event.clock = clock);
                Ok(())
            }
            Work::Wait { event, .. } => {
                for (&other, &theirs) in
                    self.events.get(event).into_iter().flat_map(|event| &event.clock)
                {
                    let ours = slot.clock.entry(other).or_default();
                    *ours = theirs.max(*ours);
                }
                Ok(())
            }
            Work::Graph(graph) => {
                graph.works().try_for_each(|work| self.depart_copy((stream, position), work))
            }
            work => self.depart_copy((stream, position), work),
        }
    }

    fn depart_copy(&mut self, (stream, position): (u64, u64), work: &Work) -> Result<()> {
        let (host, bytes, source, text) = match *work {
            Work::ToDevice { to, from, bytes, pinned: Some(serial) } if self.is_alive(serial) => {
                let text = format!("a copy of {bytes} bytes from {:#x} to {to:#x}", from.0);
                // The memory may have been filled for this copy while one of before still reads it.
                self.check_sources();
                (from, bytes, Some(bytes_at(from.pointer(), bytes)?), text)
            }
            Work::ToHost { to, from, bytes, pinned: Some(serial) } if self.is_alive(serial) => {
                self.check_sources();
                // The host is not to blame for a source that a device overwrites, so it is not
                // checked any more.
                let target = to.0..to.0 + bytes;
                self.transits
                    .iter_mut()
                    .filter(|t| meet(&t.host, &target))
                    .for_each(|t| t.source = None);
                (to, bytes, None, format!("a copy of {bytes} bytes from {from:#x} to {:#x}", to.0))
            }
            _ => return Ok(()),
        };
        self.transits.push(Transit {
            stream,
            position,
            host: host.0..host.0 + bytes,
            source,
            text,
        });
        Ok(())
    }

    fn is_alive(&self, serial: u64) -> bool {
        self.pinned.values().any(|pinned| pinned.serial == serial)
    }

    /// Returns an error if the pinned memory of a copy has been freed, as may happen to a copy in a
    /// graph.
    pub(super) fn check_alive(
        &self,
        host: HostPointer,
        pinned: Option<u64>,
    ) -> std::result::Result<(), (Code, String)> {
        match pinned {
            Some(serial) if !self.is_alive(serial) => {
                let kind = FaultKind::UseAfterFree.name();
                Err((
                    Code::ERROR_ILLEGAL_ADDRESS,
                    format!("{kind}: a copy uses pinned memory at {:#x} that was freed", host.0),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Reports each copy under way whose source is not any more what the host asked to have copied.
    pub(super) fn check_sources(&mut self) {
        let is_changed = |transit: &mut Transit| {
            let source = transit.source.as_ref();
            source.is_some_and(|source| {
                bytes_at(HostPointer(transit.host.start).pointer(), source.len()).as_ref()
                    != Ok(source)
            })
        };
        let overtaken: Vec<Transit> = self.transits.extract_if(.., is_changed).collect();
        for Transit { text, .. } in overtaken {
            self.say_pending(&format!(
                "the host has written to pinned memory while {text} is under way"
            ));
        }
    }

    fn say_pending(&mut self, text: &str) {
        self.say(&format!("{}: {text}", FaultKind::CopyPending.name()));
    }

    /// The host has waited for all that comes before a clock.
    pub(super) fn settle(&mut self, clock: &Clock) {
        self.check_sources();
        self.transits.retain(|t| clock.get(&t.stream).is_none_or(|&reached| t.position > reached));
    }

    /// The host has waited for all of a stream.
    pub(super) fn settle_stream(&mut self, stream: u64) {
        if let Some(clock) = self.streams.get(&stream).map(|s| s.clock.clone()) {
            self.settle(&clock);
        }
    }

    /// The host has waited for all of a device.
    pub(super) fn settle_device(&mut self, device: usize) {
        self.check_sources();
        let Self { transits, streams, .. } = self;
        transits.retain(|t| streams.get(&t.stream).is_some_and(|s| s.device != device));
    }
}
