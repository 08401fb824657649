//! Asynchronous copies from global to shared memory.

use super::access::{Accessor, Touch, check_aligned, count_shared, mark, pending, race, unknown};
use super::block::Block;
use super::machine::Machine;
use super::shadow::Conflict;
use super::warp::{Copy, lanes_of};
use crate::fault::Problem;
use crate::ir::{CopyAsync, Operand, SHARED_WINDOW, Space};

impl Machine<'_> {
    /// Begins an asynchronous copy. The bytes are copied when the copy is waited for, which is as
    /// late as may be, so that an early read of the destination is found.
    pub(super) fn copy_async(
        &mut self,
        block: &mut Block,
        w: usize,
        copy: &CopyAsync,
        active: u32,
        pc: u32,
    ) -> Result<(), Problem> {
        let by = Accessor { warp: w, pc, strong: false, swap: false };
        let to = self
            .addresses(block, w, &copy.to, Space::Shared)
            .map(|a| if a >= SHARED_WINDOW { a - SHARED_WINDOW } else { a });
        let from = self.addresses(block, w, &copy.from, Space::Global);
        let wanted = copy.from_bytes.map(|operand| *self.value(block, w, &operand));
        let ignored = copy.ignore.map_or(0, |operand| self.predicate(block, w, &operand));
        let mut finding = None;
        self.sectors.clear();
        let mut read = 0;
        for lane in lanes_of(active) {
            let problem = |(kind, detail)| Problem::new(kind, lane, detail);
            check_aligned(to[lane], copy.bytes, lane)?;
            let mut from_bytes =
                wanted.map_or(copy.bytes, |wanted| (wanted[lane] as u32 as usize).min(copy.bytes));
            if ignored >> lane & 1 == 1 {
                from_bytes = 0;
            }
            let at = block.shared.place(to[lane], copy.bytes).map_err(problem)?;
            if from_bytes > 0 {
                check_aligned(from[lane], copy.bytes, lane)?;
                self.sectors.add(from[lane], from_bytes);
                read += from_bytes as u64;
                let me = mark(block, by, lane);
                let (allocation, offset) =
                    self.memory.find(from[lane], from_bytes).map_err(problem)?;
                let races = self.config.races;
                let shadow = &mut allocation.shadow;
                let conflict = races
                    .then(|| shadow.touch(offset, from_bytes, false, me, self.run, &block.clock))
                    .flatten();
                if let Some(conflict) = conflict {
                    let touch = Touch {
                        space: Space::Global,
                        address: from[lane],
                        bytes: from_bytes,
                        lane,
                        write: false,
                    };
                    finding.get_or_insert_with(|| race(self.kernel, me.block, touch, conflict));
                } else if self.config.uninitialised && !allocation.known.all(offset, from_bytes) {
                    finding.get_or_insert_with(|| unknown("global", from[lane], from_bytes, lane));
                }
            }
            if let Some(conflict) = self.touch_destination(block, by, lane, at, copy.bytes) {
                let touch = Touch {
                    space: Space::Shared,
                    address: to[lane],
                    bytes: copy.bytes,
                    lane,
                    write: true,
                };
                finding.get_or_insert_with(|| race(self.kernel, block.index, touch, conflict));
            } else if block.shared.is_pending(at, copy.bytes) {
                finding.get_or_insert_with(|| pending(to[lane], copy.bytes, lane));
            }
            block.shared.begin_copy(at, copy.bytes);
            block.warps[w].copies[lane].open.push(Copy {
                to: at,
                bytes: copy.bytes,
                from: from[lane],
                from_bytes,
                pc,
            });
        }
        let counts = &mut self.counts.code[pc as usize];
        self.sectors.count(counts, false);
        counts.global_read += read;
        counts.shared_written += u64::from(active.count_ones()) * copy.bytes as u64;
        count_shared(counts, active, &to, copy.bytes);
        self.note(block, w, pc, finding);
        Ok(())
    }

    /// Records the write of a copy to its destination. Returns an earlier access that races with
    /// it.
    fn touch_destination(
        &self,
        block: &mut Block,
        by: Accessor,
        lane: usize,
        at: usize,
        bytes: usize,
    ) -> Option<Conflict> {
        if !self.config.races {
            return None;
        }
        let me = mark(block, by, lane);
        let Block { shared, clock, .. } = block;
        shared.shadow.touch(at, bytes, true, me, shared.run, clock)
    }

    /// Commits the open copies of each lane as a group.
    pub(super) fn copy_commit(&mut self, block: &mut Block, w: usize, active: u32) {
        for lane in lanes_of(active) {
            let copies = &mut block.warps[w].copies[lane];
            let group = std::mem::take(&mut copies.open);
            copies.groups.push_back(group);
        }
    }

    /// Ends all copies except those of the newest `keep` groups. Without `keep` it ends all,
    /// committed or not.
    pub(super) fn copy_wait(
        &mut self,
        block: &mut Block,
        w: usize,
        keep: Option<Operand>,
        active: u32,
    ) -> Result<(), Problem> {
        let keep = keep.map(|operand| *self.value(block, w, &operand));
        for lane in lanes_of(active) {
            let copies = &mut block.warps[w].copies[lane];
            let mut ended = vec![];
            let left = keep.map_or(0, |keep| keep[lane] as usize);
            while copies.groups.len() > left
                && let Some(group) = copies.groups.pop_front()
            {
                ended.extend(group);
            }
            if keep.is_none() {
                ended.append(&mut copies.open);
            }
            for copy in ended {
                let mut data = [0; 16];
                let data = &mut data[..copy.from_bytes];
                if copy.from_bytes > 0 {
                    let problem = |(kind, detail)| Problem::new(kind, lane, detail);
                    self.memory.read(copy.from, data).map_err(problem)?;
                }
                block.shared.end_copy(copy.to, copy.bytes, data);
                // From here on the bytes count as written by this lane: others must be ordered
                // after it.
                let by = Accessor { warp: w, pc: copy.pc, strong: false, swap: false };
                self.touch_destination(block, by, lane, copy.to, copy.bytes);
            }
        }
        Ok(())
    }
}
