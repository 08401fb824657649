//! The barriers of a block.

use super::block::{Arrival, Block, Slot};
use super::machine::{Machine, write};
use super::warp::Group;
use crate::fault::{FaultKind, Problem};
use crate::ir::{Barrier, BarrierKind, Op};

impl Machine<'_> {
    /// Executes a barrier instruction: the lanes arrive and, unless they only arrive, wait.
    pub(super) fn barrier(
        &mut self,
        block: &mut Block,
        w: usize,
        group: Group,
        active: u32,
        barrier: &Barrier,
    ) -> Result<(), Problem> {
        let first = active.trailing_zeros() as usize;
        let id = self.value(block, w, &barrier.id)[first] as usize;
        let count = barrier.count.map(|count| self.value(block, w, &count)[first] as u32);
        if id >= 16 || count.is_some_and(|count| count == 0 || count % 32 != 0) {
            let detail = format!(
                "barrier {id} of {count:?} threads: there are 16, and they count whole warps"
            );
            return Err(Problem::new(FaultKind::DivergentBarrier, first, detail));
        }
        let holds = match barrier.reduce {
            Some((_, predicate)) => (self.predicate(block, w, &predicate) & active).count_ones(),
            None => 0,
        };
        let only_arrives = barrier.kind == BarrierKind::Arrive;
        let stamp = if count.is_some() { block.clock.arrive(w) } else { 0 };
        let slot = &mut block.barriers.slots[id];
        if slot.arrivals.is_empty() {
            *slot = Slot { count, ..Slot::default() };
        } else if slot.count != count {
            let detail = format!(
                "barrier {id} for {count:?} threads, but others wait there for {:?}",
                slot.count
            );
            return Err(Problem::new(FaultKind::DivergentBarrier, first, detail));
        }
        if !only_arrives {
            slot.kind = Some(barrier.kind);
        }
        slot.holds += holds;
        slot.arrivals.push(Arrival { warp: w, lanes: active, pc: group.pc, only_arrives, stamp });
        let warp = &mut block.warps[w];
        if only_arrives {
            warp.advance(group);
        } else {
            warp.remove(group.lanes);
            warp.insert(group.pc + 1, group.lanes & !active);
        }
        self.try_complete(block, id)
    }

    /// Completes the barriers and warp instructions that waited only for lanes that have now ended.
    pub(super) fn lanes_ended(&mut self, block: &mut Block, w: usize) -> Result<(), Problem> {
        for id in 0..16 {
            if !block.barriers.slots[id].arrivals.is_empty() {
                self.try_complete(block, id)?;
            }
        }
        self.retry_waits(block, w)
    }

    /// Completes a barrier if all threads that it is for have arrived.
    fn try_complete(&mut self, block: &mut Block, id: usize) -> Result<(), Problem> {
        let slot = &block.barriers.slots[id];
        let mut arrived = vec![0u32; block.warps.len()];
        slot.arrivals.iter().for_each(|a| arrived[a.warp] |= a.lanes);
        let complete = match slot.count {
            None => {
                let total: u32 = arrived.iter().map(|lanes| lanes.count_ones()).sum();
                total > 0 && total >= block.live_threads()
            }
            Some(count) => {
                // A warp whose live lanes have all arrived counts as 32 threads.
                let of = |(w, &lanes): (usize, &u32)| {
                    let whole = lanes != 0 && lanes & block.warps[w].live == block.warps[w].live;
                    if whole { 32 } else { lanes.count_ones() }
                };
                arrived.iter().enumerate().map(of).sum::<u32>() >= count
            }
        };
        if complete { self.complete(block, id) } else { Ok(()) }
    }

    /// Completes a barrier: orders the accesses before it, and lets the waiting lanes go on.
    fn complete(&mut self, block: &mut Block, id: usize) -> Result<(), Problem> {
        let slot = std::mem::take(&mut block.barriers.slots[id]);
        let first = slot.arrivals[0];
        // The lanes of a warp must be at the same instruction; without a count, those of the block.
        for a in &slot.arrivals {
            let other = slot
                .arrivals
                .iter()
                .find(|b| b.pc != a.pc && (b.warp == a.warp || slot.count.is_none()));
            if let Some(other) = other {
                let (here, there) = (a.pc as usize, other.pc as usize);
                let detail = format!(
                    "warp {} is at this barrier while warp {} is at that of PTX line {}, {}",
                    a.warp,
                    other.warp,
                    self.kernel.code[there].line,
                    self.kernel.source(there)
                );
                let lane = a.lanes.trailing_zeros() as usize;
                return Err(
                    Problem::new(FaultKind::DivergentBarrier, lane, detail).at(a.warp, here)
                );
            }
        }
        let threads: u32 = slot.arrivals.iter().map(|a| a.lanes.count_ones()).sum();
        let total: u32 = block.live_threads();
        if threads >= total && slot.arrivals.iter().all(|a| !a.only_arrives) {
            block.clock.synchronise_block();
        } else {
            let waited: Vec<usize> =
                slot.arrivals.iter().filter(|a| !a.only_arrives).map(|a| a.warp).collect();
            let arrived: Vec<(usize, u32)> =
                slot.arrivals.iter().map(|a| (a.warp, a.stamp)).collect();
            block.clock.synchronise_warps(&waited, &arrived);
        }
        let result = match slot.kind {
            Some(BarrierKind::Count) => slot.holds,
            Some(BarrierKind::And) => u32::from(slot.holds == threads),
            _ => u32::from(slot.holds > 0),
        };
        for a in slot.arrivals.iter().filter(|a| !a.only_arrives) {
            let warp = &mut block.warps[a.warp];
            if let Op::Barrier(Barrier { reduce: Some((d, _)), .. }) =
                &self.kernel.code[first.pc as usize].op
            {
                write(&mut warp.registers[*d as usize], &[u64::from(result); 32], a.lanes);
            }
            warp.insert(a.pc + 1, a.lanes);
        }
        Ok(())
    }

    /// Returns the problem of a block in which no lane can run: who waits for whom.
    pub(super) fn explain_deadlock(&self, block: &Block) -> Problem {
        for (w, warp) in block.warps.iter().enumerate() {
            if let Some(wait) = warp.waits.first() {
                let missing = wait.mask & warp.live & !wait.lanes;
                let elsewhere = self.where_are(block, w, missing);
                let detail = format!(
                    "lanes {:#010x} wait for lanes {missing:#010x}, which their mask {:#010x} \
                     names{elsewhere}",
                    wait.lanes, wait.mask
                );
                let lane = wait.lanes.trailing_zeros() as usize;
                return Problem::new(FaultKind::DivergedCollective, lane, detail)
                    .at(w, wait.pc as usize);
            }
        }
        let arrivals = block
            .barriers
            .slots
            .iter()
            .enumerate()
            .find_map(|(id, slot)| Some((id, slot, slot.arrivals.first()?)));
        let Some((id, slot, first)) = arrivals else {
            return Problem::new(
                FaultKind::DivergentBarrier,
                0,
                "no thread of the block can go on",
            );
        };
        let there: u32 = slot.arrivals.iter().map(|a| a.lanes.count_ones()).sum();
        let wanted = slot.count.unwrap_or_else(|| block.live_threads());
        let detail =
            format!("{there} threads wait at barrier {id} for {wanted}, and no other can go on");
        let lane = first.lanes.trailing_zeros() as usize;
        Problem::new(FaultKind::DivergentBarrier, lane, detail).at(first.warp, first.pc as usize)
    }

    /// Returns where some of these lanes are, as the end of a sentence.
    fn where_are(&self, block: &Block, w: usize, lanes: u32) -> String {
        let waits = block.warps[w].waits.iter().map(|wait| (wait.lanes, wait.pc, "wait"));
        let barriers =
            block.barriers.slots.iter().flat_map(|slot| &slot.arrivals).filter(|a| a.warp == w);
        let mut places = waits.chain(barriers.map(|a| (a.lanes, a.pc, "are at the barrier")));
        match places.find(|&(there, ..)| there & lanes != 0) {
            Some((_, pc, what)) => {
                format!(
                    " but which {what} at PTX line {}, {}",
                    self.kernel.code[pc as usize].line,
                    self.kernel.source(pc as usize)
                )
            }
            None => String::new(),
        }
    }
}
