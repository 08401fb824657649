//! A warp: its registers, and the instructions at which its lanes are.

use std::collections::VecDeque;

use super::clock::Knowledge;
use super::known::ByteSet;
use super::random::Random;
use crate::ir::{Kernel, Lanes};

/// Lanes that are at one instruction, converged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) pc: u32,
    pub(super) lanes: u32,
}

/// Lanes that wait for other lanes of their warp, at one instruction and with one mask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) pc: u32,
    pub(super) mask: u32,
    pub(super) lanes: u32,
}

/// An asynchronous copy to shared memory that has not been waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    /// The offset of the destination in shared memory.
    pub(super) to: usize,
    pub(super) bytes: usize,
    pub(super) from: u64,
    /// The bytes that are read; the rest of the destination becomes zero.
    pub(super) from_bytes: usize,
    pub(super) pc: u32,
}

/// The asynchronous copies of a lane.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    /// The copies that have not been committed.
    pub(super) open: Vec<Copy>,
    /// The groups that have been committed, the oldest first.
    pub(super) groups: VecDeque<Vec<Copy>>,
}

/// A warp.
pub(super) struct Warp {
    pub(super) index: usize,
    pub(super) registers: Vec<Lanes>,
    pub(super) groups: Vec<Group>,
    pub(super) waits: Vec<Wait>,
    /// The lanes that have not ended.
    pub(super) live: u32,
    pub(super) tid: [Lanes; 3],
    /// The special registers by their index.
    pub(super) special: Vec<Lanes>,
    pub(super) copies: Vec<Copies>,
    /// The accesses that each lane's last fence covers.
    pub(super) fences: Vec<Option<Knowledge>>,
    /// Bytes of local memory of a lane.
    local_bytes: usize,
    pub(super) local: Vec<u8>,
    pub(super) local_known: ByteSet,
}

impl Warp {
    pub(super) fn new(index: usize, block: [u32; 3], kernel: &Kernel) -> Self {
        let thread = |lane: usize| (index * 32 + lane) as u32;
        let [width, height, _] = block;
        Self {
            index,
            registers: vec![[0; 32]; kernel.registers],
            groups: vec![],
            waits: vec![],
            live: 0,
            tid: [
                std::array::from_fn(|lane| u64::from(thread(lane) % width)),
                std::array::from_fn(|lane| u64::from(thread(lane) / width % height)),
                std::array::from_fn(|lane| u64::from(thread(lane) / width / height)),
            ],
            special: vec![],
            copies: vec![Copies::default(); 32],
            fences: vec![None; 32],
            local_bytes: kernel.local_bytes,
            local: vec![0xff; kernel.local_bytes * 32],
            local_known: ByteSet::new(kernel.local_bytes * 32),
        }
    }

    /// Sends all lanes back to the first instruction of the kernel.
    pub(super) fn reset(&mut self, threads: u32) {
        let lanes = (threads - self.index as u32 * 32).min(32);
        self.live = u32::MAX >> (32 - lanes);
        self.groups.clear();
        self.groups.push(Group { pc: 0, lanes: self.live });
        self.waits.clear();
        // A conspicuous pattern shows that nobody has set a register.
        self.registers.iter_mut().for_each(|register| *register = [0xdead_beef_dead_beef; 32]);
        self.copies.iter_mut().for_each(|copies| *copies = Copies::default());
        self.fences.iter_mut().for_each(|fence| *fence = None);
        self.local.fill(0xff);
        self.local_known.reset(self.local_bytes * 32);
    }

    /// Returns whether some lanes can run.
    pub(super) fn runnable(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Returns an instruction at which a lane is.
    pub(super) fn somewhere(&self) -> Option<usize> {
        let running = self.groups.first().map(|group| group.pc as usize);
        running.or_else(|| self.waits.first().map(|wait| wait.pc as usize))
    }

    /// Returns the group that runs next in lockstep: the one with the lowest instruction.
    pub(super) fn behind(&self) -> Group {
        if self.groups.len() == 1 {
            return self.groups[0];
        }
        self.groups
            .iter()
            .copied()
            .min_by_key(|group| group.pc)
            .unwrap_or(Group { pc: 0, lanes: 0 })
    }

    /// Returns some lanes of some group.
    pub(super) fn random(&self, random: &mut Random) -> Group {
        let group = self.groups[random.below(self.groups.len())];
        let some = if random.below(4) == 0 { group.lanes & random.next() as u32 } else { 0 };
        Group { pc: group.pc, lanes: if some == 0 { group.lanes } else { some } }
    }

    /// Removes lanes from their groups.
    pub(super) fn remove(&mut self, lanes: u32) {
        for group in &mut self.groups {
            group.lanes &= !lanes;
        }
        self.groups.retain(|group| group.lanes != 0);
    }

    /// Adds lanes to the group at an instruction.
    pub(super) fn insert(&mut self, pc: u32, lanes: u32) {
        if lanes == 0 {
            return;
        }
        match self.groups.iter_mut().find(|group| group.pc == pc) {
            Some(group) => group.lanes |= lanes,
            None => self.groups.push(Group { pc, lanes }),
        }
    }

    /// Moves lanes of a group to the next instruction.
    pub(super) fn advance(&mut self, group: Group) {
        if let [only] = self.groups.as_mut_slice()
            && only.lanes == group.lanes
        {
            only.pc = group.pc + 1;
            return;
        }
        self.remove(group.lanes);
        self.insert(group.pc + 1, group.lanes);
    }
}

/// Returns the lanes of a mask.
pub(super) fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> + Clone {
    std::iter::from_fn(move || {
        let lane = mask.checked_ilog2().map(|_| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(lane)
    })
}
