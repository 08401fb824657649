//! A block that is resident: its warps, its shared memory and its barriers.

use super::clock::Clock;
use super::shared::Shared;
use super::warp::Warp;
use crate::ir::BarrierKind;

/// A block that is resident.
pub(super) struct Block {
    /// The index among all blocks.
    pub(super) index: u32,
    /// The index in each direction.
    pub(super) at: [u32; 3],
    pub(super) warps: Vec<Warp>,
    pub(super) shared: Shared,
    pub(super) clock: Clock,
    pub(super) barriers: Barriers,
    /// The number of warp instructions so far.
    pub(super) executed: u64,
}

impl Block {
    /// Returns the number of threads that have not ended.
    pub(super) fn live_threads(&self) -> u32 {
        self.warps.iter().map(|warp| warp.live.count_ones()).sum()
    }
}

/// Lanes of a warp that have arrived at a barrier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) warp: usize,
    pub(super) lanes: u32,
    pub(super) pc: u32,
    /// Set if they go on without waiting (`bar.arrive`).
    pub(super) only_arrives: bool,
    /// The stamp of the accesses before the barrier.
    pub(super) stamp: u32,
}

/// A barrier, and who has arrived there.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    /// The number of threads that it is for; `None` for all of the block.
    pub(super) count: Option<u32>,
    pub(super) arrivals: Vec<Arrival>,
    /// The number of lanes whose predicate is set, in a reduction.
    pub(super) holds: u32,
    pub(super) kind: Option<BarrierKind>,
}

/// The barriers of a block by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Barriers {
    pub(super) slots: [Slot; 16],
}
