//! Device memory. Each allocation has the set of its written bytes and the history of its accesses.
//! Addresses are never used again.

use super::known::ByteSet;
use super::shadow::Shadow;
use crate::fault::FaultKind;

/// The address of the first allocation. No host pointer is near it, so that a host pointer which is
/// passed by mistake is reported.
const FIRST: u64 = 0x7f00_0000_0000;
/// The alignment of allocations in bytes, as of a driver.
const ALIGN: u64 = 256;
/// The number of unused addresses after each allocation.
const GAP: u64 = 4096;

/// An allocation, live or freed.
pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) data: Vec<u8>,
    /// The bytes that have been written.
    pub(crate) known: ByteSet,
    pub(crate) shadow: Shadow,
    size: usize,
    live: bool,
}

/// The memory of a device.
pub(crate) struct Memory {
    allocations: Vec<Allocation>,
    next: u64,
    /// Bytes of all live allocations.
    used: usize,
    /// The index of the allocation that was found last.
    last: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { allocations: vec![], next: FIRST, used: 0, last: 0 }
    }
}

/// The reason why an address cannot be used.
pub(crate) type Reason = (FaultKind, String);

impl Memory {
    /// Returns the bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Allocates memory. Its bits are all set, which makes NaNs of floats, and its bytes count as
    /// not written.
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

    /// Frees the allocation at `base`. Returns false if there is none.
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

    /// Returns the allocation that holds all of `bytes` bytes at `address`, and their offset in it.
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

    /// Returns the reason why an access is refused.
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

    /// Returns the bytes of the allocation at `base`.
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

    /// Writes a pattern `count` times.
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

    /// Copies within the device. Copies of bytes that have not been written count as not written.
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
