//! The registers that the hardware fills when a block begins.

use super::block::Block;
use super::config::SM_COUNT;
use super::machine::Machine;
use super::warp::Warp;
use crate::ir::{Lanes, Special};

impl Machine<'_> {
    /// Fills the special registers of all warps of a block.
    pub(super) fn fill_special(&self, block: &mut Block) {
        for w in 0..block.warps.len() {
            let all: Vec<Lanes> = Special::ALL
                .iter()
                .map(|&special| self.special(block, &block.warps[w], special))
                .collect();
            block.warps[w].special = all;
        }
    }

    /// Returns the lanes of a special register.
    fn special(&self, block: &Block, warp: &Warp, special: Special) -> Lanes {
        let each = |f: fn(u32) -> u32| std::array::from_fn(|lane| u64::from(f(lane as u32)));
        let all = |value: u64| [value; 32];
        match special {
            Special::Tid(axis) => warp.tid[usize::from(axis)],
            Special::Ntid(axis) => all(self.grid.threads[usize::from(axis)].into()),
            Special::Ctaid(axis) => all(block.at[usize::from(axis)].into()),
            Special::Nctaid(axis) => all(self.grid.blocks[usize::from(axis)].into()),
            Special::Lane => each(|lane| lane),
            Special::Warp => all(warp.index as u64),
            Special::WarpCount => all(block.warps.len() as u64),
            Special::WarpSize => all(32),
            Special::MaskLt => each(|lane| (1 << lane) - 1),
            Special::MaskLe => each(|lane| ((2u64 << lane) - 1) as u32),
            Special::MaskGt => each(|lane| (u64::from(u32::MAX) << (lane + 1)) as u32),
            Special::MaskGe => each(|lane| u32::MAX << lane),
            Special::MaskEq => each(|lane| 1 << lane),
            Special::Sm => all((block.index % SM_COUNT).into()),
            Special::SmCount => all(SM_COUNT.into()),
            Special::DynamicShared => all(self.grid.dynamic_shared as u64),
            Special::DynamicStart => all(self.kernel.static_shared as u64),
            Special::TotalShared => all(block.shared.data.len() as u64),
            Special::Clock => all(block.executed),
        }
    }
}
