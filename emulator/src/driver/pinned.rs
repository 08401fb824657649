//! Checks the copies that use pinned memory while the host goes on.
//!
//! A copy is under way until the host has waited for it, not just until it has been made. The host
//! waits by synchronising the copy's stream, its device, or an event that comes after it. So a
//! missing wait is found under every seed.

use std::ops::Range;

use super::code::{Code, Result};
use super::host::bytes_at;
use super::state::Driver;
use super::transit::Transit;
use super::work::{Clock, HostPointer, Work};
use crate::fault::FaultKind;

impl Driver {
    /// Returns the serial number of the pinned memory that holds these bytes.
    pub(super) fn pinned_at(&self, pointer: HostPointer, bytes: usize) -> Option<u64> {
        let (&base, pinned) = self.pinned.range(..=pointer.0).next_back()?;
        (pointer.0 + bytes <= base + pinned.layout.size()).then_some(pinned.serial)
    }

    /// Notes that `work` is enqueued into a stream: its place in the order of all work, and the
    /// copies in it that use pinned memory.
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
                // The host may have filled the memory for this copy while an earlier one reads it.
                self.check_sources();
                (from, bytes, Some(bytes_at(from.pointer(), bytes)?), text)
            }
            Work::ToHost { to, from, bytes, pinned: Some(serial) } if self.is_alive(serial) => {
                self.check_sources();
                // A source that a device overwrites is not checked any more: the host is not to
                // blame.
                let target = to.0..to.0 + bytes;
                let overwritten = self.transits.iter_mut().filter(|t| t.uses(&target));
                overwritten.for_each(|t| t.source = None);
                (to, bytes, None, format!("a copy of {bytes} bytes from {from:#x} to {:#x}", to.0))
            }
            _ => return Ok(()),
        };
        let host = host.0..host.0 + bytes;
        self.transits.push(Transit { stream, position, host, source, text });
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

    /// Reports each copy under way whose source has changed since the host enqueued the copy.
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

    /// Reports each copy under way that uses `memory`, which is about to be freed, and forgets it.
    pub(super) fn abandon(&mut self, memory: &Range<usize>) {
        let lost: Vec<Transit> = self.transits.extract_if(.., |t| t.uses(memory)).collect();
        for Transit { text, .. } in lost {
            self.say_pending(&format!(
                "pinned memory at {:#x} is freed while {text} is under way",
                memory.start
            ));
        }
    }

    fn say_pending(&mut self, text: &str) {
        self.say(&format!("{}: {text}", FaultKind::CopyPending.name()));
    }

    /// Notes that the host has waited for all work before a clock.
    pub(super) fn settle(&mut self, clock: &Clock) {
        self.check_sources();
        self.transits.retain(|t| clock.get(&t.stream).is_none_or(|&reached| t.position > reached));
    }

    /// Notes that the host has waited for all work of a stream.
    pub(super) fn settle_stream(&mut self, stream: u64) {
        if let Some(clock) = self.streams.get(&stream).map(|s| s.clock.clone()) {
            self.settle(&clock);
        }
    }

    /// Notes that the host has waited for all work of a device.
    pub(super) fn settle_device(&mut self, device: usize) {
        self.check_sources();
        let Self { transits, streams, .. } = self;
        transits.retain(|t| streams.get(&t.stream).is_some_and(|s| s.device != device));
    }
}
