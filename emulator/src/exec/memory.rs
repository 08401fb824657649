//! Device memory: allocations at addresses that are never used again, each with its written bytes
//! and its history of accesses.

use super::known::ByteSet;
use super::shadow::Shadow;
use crate::fault::FaultKind;

/// Where the first allocation lies. No host pointer looks like it, so that one passed by mistake is
/// reported.
const FIRST: u64 = 0x7f00_0000_0000;
/// What driver allocations are aligned to.
const ALIGN: u64 = 256;
/// Unused addresses behind each allocation.
const GAP: u64 = 4096;

pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) known: ByteSet,
    pub(crate) shadow: Shadow,
    size: usize,
    live: bool,
}

pub(crate) struct Memory {
    allocations: Vec<Allocation>,
    next: u64,
    used: usize,
    last: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { allocations: vec![], next: FIRST, used: 0, last: 0 }
    }
}

/// Why an address cannot be used.
pub(crate) type Reason = (FaultKind, String);

impl Memory {
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Fresh memory: its bytes are all set, which makes NaNs of floats, and count as not written.
    pub(crate) fn allocate(&mut self, size: usize) -> u64 {
        let base = self.next;
        self.next = (base + size as u64 + GAP).next_multiple_of(ALIGN);
        self.used += size;
        self.allocations.push(Allocation {
            base,
            data: vec![0xff; size],
            known: ByteSet::new(size),
            shadow: Shadow::default(),
            size,
            live: true,
        });
        base
    }

    /// Frees what begins at `base`; false if nothing does.
    pub(crate) fn free(&mut self, base: u64) -> bool {
        let Ok(index) = self.allocations.binary_search_by_key(&base, |a| a.base) else {
            return false;
        };
        let allocation = &mut self.allocations[index];
        if !allocation.live {
            return false;
        }
        allocation.live = false;
        allocation.data = Vec::new();
        allocation.known = ByteSet::default();
        allocation.shadow = Shadow::default();
        self.used -= allocation.size;
        true
    }

    /// The allocation that holds all of `bytes` bytes at `address`, and their offset in it.
    pub(crate) fn find(
        &mut self,
        address: u64,
        bytes: usize,
    ) -> Result<(&mut Allocation, usize), Reason> {
        let inside = |a: &Allocation| {
            address >= a.base && address - a.base + bytes as u64 <= a.data.len() as u64
        };
        if !self.allocations.get(self.last).is_some_and(inside) {
            self.last = self.allocations.partition_point(|a| a.base <= address).wrapping_sub(1);
        }
        let index = self.last;
        if !self.allocations.get(index).is_some_and(|a| a.live && inside(a)) {
            return Err(self.explain(address, bytes));
        }
        let allocation = &mut self.allocations[index];
        let offset = (address - allocation.base) as usize;
        Ok((allocation, offset))
    }

    fn explain(&self, address: u64, bytes: usize) -> Reason {
        let after = self.allocations.partition_point(|a| a.base <= address);
        let before = after.checked_sub(1).map(|k| &self.allocations[k]);
        let next = self.allocations.get(after).filter(|a| a.live && a.base - address < GAP);
        if let Some(a) = before {
            let offset = address - a.base;
            if !a.live && offset < a.size as u64 {
                let detail = format!(
                    "{bytes} bytes at offset {offset} of a freed allocation of {} bytes",
                    a.size
                );
                return (FaultKind::UseAfterFree, detail);
            }
            if offset < a.size as u64 + GAP {
                let detail = format!(
                    "{bytes} bytes at offset {offset} of an allocation of {} bytes",
                    a.size
                );
                return (FaultKind::OutOfBounds, detail);
            }
        }
        let place = next.map_or_else(String::new, |a| {
            format!(", {} bytes below an allocation", a.base - address)
        });
        (
            FaultKind::OutOfBounds,
            format!("{bytes} bytes at {address:#x}, which is in no allocation{place}"),
        )
    }

    pub(crate) fn size_of(&self, base: u64) -> Option<usize> {
        let index = self.allocations.binary_search_by_key(&base, |a| a.base).ok()?;
        Some(&self.allocations[index]).filter(|a| a.live).map(|a| a.size)
    }

    /// Copies from the host.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Reason> {
        let (allocation, at) = self.find(address, bytes.len())?;
        allocation.data[at..at + bytes.len()].copy_from_slice(bytes);
        allocation.known.set(at, bytes.len(), true);
        Ok(())
    }

    /// Copies to the host.
    pub(crate) fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Reason> {
        let (allocation, at) = self.find(address, bytes.len())?;
        bytes.copy_from_slice(&allocation.data[at..at + bytes.len()]);
        Ok(())
    }

    pub(crate) fn fill(
        &mut self,
        address: u64,
        pattern: &[u8],
        count: usize,
    ) -> Result<(), Reason> {
        let bytes = count * pattern.len();
        let (allocation, at) = self.find(address, bytes)?;
        allocation.data[at..at + bytes]
            .chunks_mut(pattern.len())
            .for_each(|chunk| chunk.copy_from_slice(pattern));
        allocation.known.set(at, bytes, true);
        Ok(())
    }

    /// Copies within the device; bytes that were not written stay so.
    pub(crate) fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), Reason> {
        let (source, at) = self.find(from, bytes)?;
        let data = source.data[at..at + bytes].to_vec();
        let whole = source.known.all_of(at, bytes);
        let known: Vec<bool> =
            if whole { vec![] } else { (at..at + bytes).map(|k| source.known.get(k)).collect() };
        let (target, at) = self.find(to, bytes)?;
        target.data[at..at + bytes].copy_from_slice(&data);
        if whole {
            target.known.set(at, bytes, true);
        }
        for (k, known) in known.into_iter().enumerate() {
            target.known.set(at + k, 1, known);
        }
        Ok(())
    }
}
