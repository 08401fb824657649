//! A warp: its registers, and which of its lanes stand where.

use std::collections::VecDeque;

use super::clock::Knowledge;
use super::known::ByteSet;
use super::random::Random;
use crate::ir::{Kernel, Lanes};

/// Lanes that stand at one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) pc: u32,
    pub(super) lanes: u32,
}

/// Lanes that wait for others of their warp, at one instruction and with one mask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) pc: u32,
    pub(super) mask: u32,
    pub(super) lanes: u32,
}

/// A copy to shared memory that has not been waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) to: usize,
    pub(super) bytes: usize,
    pub(super) from: u64,
    pub(super) from_bytes: usize,
    pub(super) pc: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    pub(super) open: Vec<Copy>,
    pub(super) groups: VecDeque<Vec<Copy>>,
}

pub(super) struct Warp {
    pub(super) index: usize,
    pub(super) registers: Vec<Lanes>,
    pub(super) groups: Vec<Group>,
    pub(super) waits: Vec<Wait>,
    /// Lanes that have not ended.
    pub(super) live: u32,
    pub(super) tid: [Lanes; 3],
    /// The registers that the hardware fills, by their index.
    pub(super) special: Vec<Lanes>,
    pub(super) copies: Vec<Copies>,
    /// What each lane's last fence covers.
    pub(super) fences: Vec<Option<Knowledge>>,
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

    /// Back to the kernel's first instruction.
    pub(super) fn reset(&mut self, threads: u32) {
        let lanes = (threads - self.index as u32 * 32).min(32);
        self.live = u32::MAX >> (32 - lanes);
        self.groups.clear();
        self.groups.push(Group { pc: 0, lanes: self.live });
        self.waits.clear();
        // A register that nobody has set: a bit pattern that shows.
        self.registers.iter_mut().for_each(|register| *register = [0xdead_beef_dead_beef; 32]);
        self.copies.iter_mut().for_each(|copies| *copies = Copies::default());
        self.fences.iter_mut().for_each(|fence| *fence = None);
        self.local.fill(0xff);
        self.local_known.reset(self.local_bytes * 32);
    }

    pub(super) fn runnable(&self) -> bool {
        !self.groups.is_empty()
    }

    /// An instruction at which a lane stands.
    pub(super) fn somewhere(&self) -> Option<usize> {
        let running = self.groups.first().map(|group| group.pc as usize);
        running.or_else(|| self.waits.first().map(|wait| wait.pc as usize))
    }

    /// Takes out the lanes that run next: those furthest behind, all of them together.
    pub(super) fn behind(&mut self) -> Group {
        if self.groups.len() == 1 {
            return self.groups[0];
        }
        self.groups
            .iter()
            .copied()
            .min_by_key(|group| group.pc)
            .unwrap_or(Group { pc: 0, lanes: 0 })
    }

    /// Some lanes of some group.
    pub(super) fn random(&mut self, random: &mut Random) -> Group {
        let group = self.groups[random.below(self.groups.len())];
        let some = if random.below(4) == 0 { group.lanes & random.next() as u32 } else { 0 };
        Group { pc: group.pc, lanes: if some == 0 { group.lanes } else { some } }
    }

    /// Takes lanes from where they stand.
    pub(super) fn remove(&mut self, lanes: u32) {
        for group in &mut self.groups {
            group.lanes &= !lanes;
        }
        self.groups.retain(|group| group.lanes != 0);
    }

    /// Puts lanes at an instruction.
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

/// The lanes of a mask.
pub(super) fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> + Clone {
    std::iter::from_fn(move || {
        let lane = mask.checked_ilog2().map(|_| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(lane)
    })
}
