//! Fences, and the accesses that pass on what a fence covers.

use super::block::Block;
use super::clock::merge;
use super::machine::Machine;
use super::warp::lanes_of;
use crate::ir::{Lanes, Space};

impl Machine<'_> {
    /// A fence: what the lanes did before may be passed on by what they do next.
    pub(super) fn fence(&mut self, block: &mut Block, w: usize, lanes: u32) {
        if !self.config.races {
            return;
        }
        for lane in lanes_of(lanes) {
            let covered = block.clock.fence(block.index, w, lane);
            block.warps[w].fences[lane] = Some(covered);
        }
    }

    /// A strong store or an atomic operation passes on what the lane's last fence covers.
    pub(super) fn release(
        &mut self,
        block: &Block,
        w: usize,
        space: Space,
        lanes: u32,
        addresses: &Lanes,
    ) {
        for lane in lanes_of(lanes) {
            if let Some(covered) = &block.warps[w].fences[lane] {
                let place = place_of(block, space, addresses[lane]);
                merge(self.released.entry(place).or_default(), covered);
            }
        }
    }

    /// A strong load or an atomic operation learns what was passed on there.
    pub(super) fn acquire(
        &mut self,
        block: &mut Block,
        w: usize,
        space: Space,
        lanes: u32,
        addresses: &Lanes,
    ) {
        if self.released.is_empty() {
            return;
        }
        for lane in lanes_of(lanes) {
            if let Some(released) = self.released.get(&place_of(block, space, addresses[lane])) {
                block.clock.acquire(block.index, w, lane, released);
            }
        }
    }
}

/// A location: shared memory is each block's own.
fn place_of(block: &Block, space: Space, address: u64) -> (u32, u64) {
    (if space == Space::Shared { block.index } else { u32::MAX }, address)
}
