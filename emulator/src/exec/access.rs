//! Loads and stores, and the checks of every access to memory.

use super::block::Block;
use super::clock::Mark;
use super::machine::Machine;
use super::shadow::Conflict;
use super::warp::{Warp, lanes_of};
use crate::counters::{Counts, bank_passes};
use crate::fault::{FaultKind, Problem};
use crate::ir::{
    Kernel, LOCAL_WINDOW, Lanes, Operand, PARAM_WINDOW, SHARED_WINDOW, Space, Transfer,
};

/// The warp and the instruction that make an access.
#[derive(Clone, Copy)]
pub(super) struct Accessor {
    pub(super) warp: usize,
    pub(super) pc: u32,
    /// Set for volatile, relaxed, acquire, release and atomic accesses.
    pub(super) strong: bool,
    /// Set for a compare-and-swap.
    pub(super) swap: bool,
}

/// Returns the mark of an access by a lane.
pub(super) fn mark(block: &Block, by: Accessor, lane: usize) -> Mark {
    Mark {
        stamp: block.clock.stamp(by.warp, lane),
        block: block.index,
        pc: by.pc,
        thread: (by.warp * 32 + lane) as u16,
        strong: by.strong,
        swap: by.swap,
    }
}

/// Checks that an address is a multiple of the size of its access.
pub(super) fn check_aligned(address: u64, bytes: usize, lane: usize) -> Result<(), Problem> {
    if address.is_multiple_of(bytes as u64) {
        return Ok(());
    }
    let detail = format!("{bytes} bytes at {address:#x}, which is no multiple of {bytes}");
    Err(Problem::new(FaultKind::Misaligned, lane, detail))
}

/// Returns the problem of a read of bytes that have not all been written.
pub(super) fn unknown(space: &str, address: u64, bytes: usize, lane: usize) -> Problem {
    let detail = format!(
        "{bytes} bytes at {address:#x} of {space} memory, not all of which have been written"
    );
    Problem::new(FaultKind::Uninitialised, lane, detail)
}

/// Returns the problem of an access to bytes that an asynchronous copy still writes.
pub(super) fn pending(address: u64, bytes: usize, lane: usize) -> Problem {
    let detail = format!(
        "{bytes} bytes at {address:#x} of shared memory, which a cp.async is still writing"
    );
    Problem::new(FaultKind::CopyPending, lane, detail)
}

/// The access of one lane in a request.
#[derive(Clone, Copy)]
pub(super) struct Touch {
    pub(super) space: Space,
    pub(super) address: u64,
    pub(super) bytes: usize,
    pub(super) lane: usize,
    pub(super) write: bool,
}

/// Returns the problem of two accesses that nothing orders.
pub(super) fn race(kernel: &Kernel, block: u32, touch: Touch, conflict: Conflict) -> Problem {
    let kind =
        if touch.space == Space::Shared { FaultKind::SharedRace } else { FaultKind::GlobalRace };
    let did = |write| if write { "write" } else { "read" };
    let by = match conflict.other {
        None => "a launch in another branch of the graph".to_owned(),
        Some(other) => {
            let (warp, lane) = (other.thread / 32, other.thread % 32);
            let of = if other.block == block {
                String::new()
            } else {
                format!("block number {}, ", other.block)
            };
            let line = kernel.code[other.pc as usize].line;
            let source = kernel.source(other.pc as usize);
            format!("{of}warp {warp}, lane {lane} at PTX line {line}, {source}")
        }
    };
    let detail = format!(
        "the {} of {} bytes at {:#x} is not ordered after the {} by {by}",
        did(touch.write),
        touch.bytes,
        touch.address,
        did(conflict.wrote),
    );
    Problem::new(kind, touch.lane, detail)
}

/// Returns the offset of an access to a lane's local memory in the local memory of its warp.
fn local_place(all: usize, lane: usize, address: u64, bytes: usize) -> Result<usize, Problem> {
    let own = all / 32;
    if address.checked_add(bytes as u64).is_some_and(|end| end <= own as u64) {
        return Ok(lane * own + address as usize);
    }
    let detail = format!("{bytes} bytes at {address} of {own} bytes of local memory");
    Err(Problem::new(FaultKind::OutOfBounds, lane, detail))
}

/// Returns the little-endian number in up to 8 bytes.
pub(super) fn read_number(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => bytes.iter().rev().fold(0, |all, &byte| (all << 8) | u64::from(byte)),
    }
}

/// Splits a request by address space. Returns, for each space that generic addresses lie in, the
/// lanes and their addresses inside it.
pub(super) fn by_space(
    space: Space,
    lanes: u32,
    addresses: Lanes,
) -> impl Iterator<Item = (Space, u32, Lanes)> {
    let spaces = [
        (Space::Global, 0),
        (Space::Shared, SHARED_WINDOW),
        (Space::Local, LOCAL_WINDOW),
        (Space::Param, PARAM_WINDOW),
    ];
    let generic = space == Space::Generic;
    spaces.into_iter().filter_map(move |(one, window)| {
        if !generic {
            return (one == space).then_some((one, lanes, addresses));
        }
        let mask = lanes_of(lanes)
            .filter(|&lane| Space::of(addresses[lane]) == one)
            .fold(0, |m, lane| m | (1 << lane));
        (mask != 0).then(|| (one, mask, addresses.map(|a| a.wrapping_sub(window))))
    })
}

/// Counts a request to shared memory. Lanes take turns, so that each phase moves at most 128 bytes.
pub(super) fn count_shared(counts: &mut Counts, lanes: u32, addresses: &Lanes, bytes: usize) {
    counts.shared_requests += 1;
    let together = (128 / bytes.max(4)).max(1) as u32;
    for phase in 0..32 / together {
        let part = lanes & ((((1u64 << together) - 1) as u32) << (phase * together));
        if part != 0 {
            counts.bank_passes += bank_passes(lanes_of(part).map(|lane| addresses[lane]), bytes);
            counts.ideal_passes += 1;
        }
    }
}

impl Machine<'_> {
    /// Executes a load or, with `write`, a store.
    pub(super) fn transfer(
        &mut self,
        block: &mut Block,
        w: usize,
        t: &Transfer,
        active: u32,
        pc: u32,
        write: bool,
    ) -> Result<(), Problem> {
        let addresses = self.addresses(block, w, &t.address, t.space);
        for (space, lanes, addresses) in by_space(t.space, active, addresses) {
            let request = (space, lanes, &addresses);
            if write {
                self.store(block, w, t, request, pc)?;
            } else {
                self.load(block, w, t, request, pc)?;
            }
        }
        Ok(())
    }

    /// Loads from one space. A store has other rules in each of the spaces: [`Self::store`].
    fn load(
        &mut self,
        block: &mut Block,
        w: usize,
        t: &Transfer,
        (space, lanes, addresses): (Space, u32, &Lanes),
        pc: u32,
    ) -> Result<(), Problem> {
        let size = t.ty.size();
        let bytes = size * t.values.len();
        let by = Accessor { warp: w, pc, strong: t.access.strong, swap: false };
        let (races, uninitialised) = (self.config.races, self.config.uninitialised);
        let mut finding = None;
        self.sectors.clear();
        for lane in lanes_of(lanes) {
            let address = addresses[lane];
            check_aligned(address, bytes, lane)?;
            let problem = |(kind, detail)| Problem::new(kind, lane, detail);
            let touch = Touch { space, address, bytes, lane, write: false };
            let me = mark(block, by, lane);
            let Block { shared, clock, warps, .. } = &mut *block;
            let Warp { registers, local, local_known, .. } = &mut warps[w];
            let data: &[u8] = match space {
                Space::Shared => {
                    let at = shared.place(address, bytes).map_err(problem)?;
                    let conflict = races
                        .then(|| shared.shadow.touch(at, bytes, false, me, shared.run, clock))
                        .flatten();
                    if let Some(conflict) = conflict {
                        finding.get_or_insert_with(|| race(self.kernel, me.block, touch, conflict));
                    } else if shared.is_pending(at, bytes) {
                        finding.get_or_insert_with(|| pending(address, bytes, lane));
                    } else if uninitialised && !shared.is_known(at, bytes) {
                        finding.get_or_insert_with(|| unknown("shared", address, bytes, lane));
                    }
                    &shared.data[at..at + bytes]
                }
                Space::Local => {
                    let at = local_place(local.len(), lane, address, bytes)?;
                    if uninitialised && !local_known.all(at, bytes) {
                        finding.get_or_insert_with(|| unknown("local", address, bytes, lane));
                    }
                    &local[at..at + bytes]
                }
                Space::Param => {
                    let outside = || {
                        Problem::new(
                            FaultKind::OutOfBounds,
                            lane,
                            format!("{address} of the parameters"),
                        )
                    };
                    self.params
                        .get(address as usize..address as usize + bytes)
                        .ok_or_else(outside)?
                }
                Space::Global | Space::Generic => {
                    self.sectors.add(address, bytes);
                    let (allocation, at) = self.memory.find(address, bytes).map_err(problem)?;
                    let shadow = &mut allocation.shadow;
                    if races && t.access.read_only && shadow.written(at, self.run.number).is_some()
                    {
                        let detail =
                            format!("{bytes} bytes at {address:#x}, which this launch has written");
                        return Err(Problem::new(FaultKind::ReadOnlyWritten, lane, detail));
                    }
                    let conflict = races
                        .then(|| shadow.touch(at, bytes, false, me, self.run, clock))
                        .flatten();
                    if let Some(conflict) = conflict {
                        finding.get_or_insert_with(|| race(self.kernel, me.block, touch, conflict));
                    } else if uninitialised && !allocation.known.all(at, bytes) {
                        finding.get_or_insert_with(|| unknown("global", address, bytes, lane));
                    }
                    &allocation.data[at..at + bytes]
                }
            };
            let mut values = [0; 8];
            for (slot, part) in values.iter_mut().zip(data.chunks_exact(size)) {
                *slot = t.ty.extend(read_number(part));
            }
            for (to, value) in t.values.iter().zip(values) {
                if let Operand::Reg(register) = *to {
                    registers[register as usize][lane] = value;
                }
            }
        }
        self.count(space, lanes, addresses, bytes, pc, false);
        self.note(block, w, pc, finding);
        if t.access.strong {
            self.acquire(block, w, space, lanes, addresses);
        }
        Ok(())
    }

    /// Stores to one space.
    fn store(
        &mut self,
        block: &mut Block,
        w: usize,
        t: &Transfer,
        (space, lanes, addresses): (Space, u32, &Lanes),
        pc: u32,
    ) -> Result<(), Problem> {
        let size = t.ty.size();
        let bytes = size * t.values.len();
        let by = Accessor { warp: w, pc, strong: t.access.strong, swap: false };
        if t.access.release {
            self.fence(block, w, lanes);
        }
        if t.access.strong {
            self.release(block, w, space, lanes, addresses);
        }
        let mut finding = None;
        self.sectors.clear();
        for lane in lanes_of(lanes) {
            let address = addresses[lane];
            check_aligned(address, bytes, lane)?;
            let problem = |(kind, detail)| Problem::new(kind, lane, detail);
            let touch = Touch { space, address, bytes, lane, write: true };
            let mut new = [0u8; 64];
            for (part, value) in new.chunks_exact_mut(size).zip(&t.values) {
                part.copy_from_slice(&self.value(block, w, value)[lane].to_le_bytes()[..size]);
            }
            let new = &new[..bytes];
            match space {
                Space::Shared => {
                    let at = block.shared.place(address, bytes).map_err(problem)?;
                    let me = mark(block, by, lane);
                    let Block { shared, clock, .. } = block;
                    if self.config.races
                        && !(self.config.same_value_stores && shared.data[at..at + bytes] == *new)
                        && let Some(conflict) =
                            shared.shadow.touch(at, bytes, true, me, shared.run, clock)
                    {
                        finding.get_or_insert_with(|| race(self.kernel, me.block, touch, conflict));
                    }
                    if shared.is_pending(at, bytes) {
                        finding.get_or_insert_with(|| pending(address, bytes, lane));
                    }
                    shared.data[at..at + bytes].copy_from_slice(new);
                    shared.set_known(at, bytes);
                }
                Space::Local => {
                    let warp = &mut block.warps[w];
                    let at = local_place(warp.local.len(), lane, address, bytes)?;
                    warp.local[at..at + bytes].copy_from_slice(new);
                    warp.local_known.set(at, bytes, true);
                }
                Space::Param => {
                    return Err(Problem::new(
                        FaultKind::OutOfBounds,
                        lane,
                        "a store to the kernel's parameters",
                    ));
                }
                Space::Global | Space::Generic => {
                    self.sectors.add(address, bytes);
                    let (allocation, at) = self.memory.find(address, bytes).map_err(problem)?;
                    if self.config.races
                        && !(self.config.same_value_stores
                            && allocation.data[at..at + bytes] == *new)
                    {
                        let me = mark(block, by, lane);
                        if let Some(conflict) =
                            allocation.shadow.touch(at, bytes, true, me, self.run, &block.clock)
                        {
                            finding.get_or_insert_with(|| {
                                race(self.kernel, me.block, touch, conflict)
                            });
                        }
                    }
                    allocation.data[at..at + bytes].copy_from_slice(new);
                    allocation.known.set(at, bytes, true);
                }
            }
        }
        self.count(space, lanes, addresses, bytes, pc, true);
        self.note(block, w, pc, finding);
        Ok(())
    }

    /// Counts a request. Its sectors have been collected in `self.sectors`.
    pub(super) fn count(
        &mut self,
        space: Space,
        lanes: u32,
        addresses: &Lanes,
        bytes: usize,
        pc: u32,
        write: bool,
    ) {
        let counts = &mut self.counts.code[pc as usize];
        let moved = u64::from(lanes.count_ones()) * bytes as u64;
        match space {
            Space::Shared => {
                count_shared(counts, lanes, addresses, bytes);
                *(if write { &mut counts.shared_written } else { &mut counts.shared_read }) +=
                    moved;
            }
            Space::Global | Space::Generic => {
                self.sectors.count(counts, write);
                *(if write { &mut counts.global_written } else { &mut counts.global_read }) +=
                    moved;
            }
            Space::Local | Space::Param => {}
        }
    }
}
