//! A block that is resident: its warps, its shared memory and its barriers.

use super::clock::Clock;
use super::shared::Shared;
use super::warp::Warp;
use crate::ir::BarrierKind;

/// A block that is resident.
pub(super) struct Block {
    /// Its index among all blocks.
    pub(super) index: u32,
    pub(super) at: [u32; 3],
    pub(super) warps: Vec<Warp>,
    pub(super) shared: Shared,
    pub(super) clock: Clock,
    pub(super) barriers: Barriers,
    pub(super) executed: u64,
}

impl Block {
    pub(super) fn live_threads(&self) -> u32 {
        self.warps.iter().map(|warp| warp.live.count_ones()).sum()
    }
}

/// Lanes of a warp that have arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) warp: usize,
    pub(super) lanes: u32,
    pub(super) pc: u32,
    /// They go on without waiting.
    pub(super) only_arrives: bool,
    pub(super) stamp: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub(super) count: Option<u32>,
    pub(super) arrivals: Vec<Arrival>,
    /// Of a reduction: how many lanes' predicates hold.
    pub(super) holds: u32,
    pub(super) kind: Option<BarrierKind>,
}

/// The barriers of a block, by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Barriers {
    pub(super) slots: [Slot; 16],
}
