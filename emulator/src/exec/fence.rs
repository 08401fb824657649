//! Fences, and the accesses that release and acquire what a fence covers.

use super::block::Block;
use super::clock::merge;
use super::machine::Machine;
use super::warp::lanes_of;
use crate::ir::{Lanes, Space};

impl Machine<'_> {
    /// Executes a fence. A later release of the lanes passes on all that they did before it. A
    /// fence of the block alone counts as one of the device.
    pub(super) fn fence(&mut self, block: &mut Block, w: usize, lanes: u32) {
        if !self.config.races {
            return;
        }
        for lane in lanes_of(lanes) {
            let covered = block.clock.fence(block.index, w, lane);
            block.warps[w].fences[lane] = Some(covered);
        }
    }

    /// Releases, by a strong store or an atomic operation, what the lane's last fence covers.
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

    /// Acquires, by a strong load or an atomic operation, what was released there.
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

/// Returns the key of a location. Each block has a shared memory of its own.
fn place_of(block: &Block, space: Space, address: u64) -> (u32, u64) {
    (if space == Space::Shared { block.index } else { u32::MAX }, address)
}
