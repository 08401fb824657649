//! Which access happens before which. Every thread stamps its accesses; barriers, and fences with
//! atomics, tell others up to which stamp they may rely on them. Nothing else does: not the order
//! in which the warps happened to run.

use std::collections::HashMap;

/// An access: who, when by that thread's stamps, and by which instruction. Stamp 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) stamp: u32,
    pub(crate) block: u32,
    pub(crate) pc: u32,
    pub(crate) thread: u16,
    pub(crate) strong: bool,
    /// A compare-and-swap: a plain read beside it is the first guess of its loop.
    pub(crate) swap: bool,
}

impl Mark {
    pub(crate) fn same_thread(&self, other: &Self) -> bool {
        self.thread == other.thread && self.block == other.block
    }

    pub(crate) fn same_warp(&self, other: &Self) -> bool {
        self.thread / 32 == other.thread / 32 && self.block == other.block
    }

    fn warp(&self) -> usize {
        usize::from(self.thread / 32)
    }

    fn lane(&self) -> usize {
        usize::from(self.thread % 32)
    }
}

/// What is known of a block's accesses: those up to these stamps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    all: u32,
    warps: HashMap<u16, u32>,
    threads: HashMap<u16, u32>,
}

impl Known {
    fn covers(&self, mark: &Mark) -> bool {
        let up_to = |known: Option<&u32>| known.is_some_and(|&stamp| mark.stamp <= stamp);
        mark.stamp <= self.all
            || up_to(self.warps.get(&(mark.thread / 32)))
            || up_to(self.threads.get(&mark.thread))
    }

    fn merge(&mut self, other: &Self) {
        self.all = self.all.max(other.all);
        for (mine, theirs) in [(&mut self.warps, &other.warps), (&mut self.threads, &other.threads)]
        {
            for (&key, &stamp) in theirs {
                let known = mine.entry(key).or_default();
                *known = stamp.max(*known);
            }
        }
    }
}

/// What is known of all blocks.
pub(crate) type Knowledge = HashMap<u32, Known>;

pub(crate) fn merge(into: &mut Knowledge, from: &Knowledge) {
    for (&block, known) in from {
        into.entry(block).or_default().merge(known);
    }
}

#[derive(Clone, Debug)]
struct WarpClock {
    /// Every lane relies on the accesses of all others up to this stamp.
    known: u32,
    stamps: [u32; 32],
    /// Synchronisations of some lanes only: `pairs[a][b]` is how far lane a relies on lane b.
    pairs: Option<Box<[[u32; 32]; 32]>>,
}

/// The clock of a block.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    now: u32,
    all: u32,
    warps: Vec<WarpClock>,
    /// Barriers of some warps only: how far one warp relies on another.
    between: Vec<Vec<u32>>,
    foreign: Knowledge,
}

impl Clock {
    pub(crate) fn new(warps: usize) -> Self {
        let warp = WarpClock { known: 0, stamps: [1; 32], pairs: None };
        Self {
            now: 1,
            all: 0,
            warps: vec![warp; warps],
            between: vec![],
            foreign: Knowledge::new(),
        }
    }

    pub(crate) fn stamp(&self, warp: usize, lane: usize) -> u32 {
        self.warps[warp].stamps[lane]
    }

    /// Whether `earlier` happens before `me`, an access of this block that is being made.
    pub(crate) fn ordered(&self, earlier: &Mark, me: &Mark) -> bool {
        if earlier.block != me.block {
            return self.foreign.get(&earlier.block).is_some_and(|known| known.covers(earlier));
        }
        if earlier.stamp <= self.all {
            return true;
        }
        let (mine, other) = (me.warp(), earlier.warp());
        if mine != other {
            return self.between.get(mine).is_some_and(|known| earlier.stamp <= known[other]);
        }
        let warp = &self.warps[mine];
        earlier.stamp <= warp.known
            || warp
                .pairs
                .as_ref()
                .is_some_and(|pairs| earlier.stamp <= pairs[me.lane()][earlier.lane()])
    }

    /// A barrier of the whole block.
    pub(crate) fn synchronise_block(&mut self) {
        self.all = self.now;
        self.now += 1;
        self.warps.iter_mut().for_each(|warp| warp.stamps = [self.now; 32]);
    }

    /// A barrier of these lanes of a warp, `live` being all that have not ended.
    pub(crate) fn synchronise_lanes(&mut self, warp: usize, lanes: u32, live: u32) {
        let warp = &mut self.warps[warp];
        if lanes & live == live {
            warp.known = self.now;
        } else {
            let pairs = warp.pairs.get_or_insert_with(|| Box::new([[0; 32]; 32]));
            let members = || (0..32).filter(|lane| lanes >> lane & 1 == 1);
            let mut joint = [0; 32];
            for member in members() {
                for other in 0..32 {
                    joint[other] = pairs[member][other].max(joint[other]);
                }
            }
            members().for_each(|member| joint[member] = self.now);
            members().for_each(|member| pairs[member] = joint);
        }
        self.now += 1;
        (0..32).filter(|lane| lanes >> lane & 1 == 1).for_each(|lane| warp.stamps[lane] = self.now);
    }

    /// A warp arrives at a barrier of some warps: answers with the stamp that its accesses so far
    /// have.
    pub(crate) fn arrive(&mut self, warp: usize) -> u32 {
        let stamp = self.now;
        self.now += 1;
        self.warps[warp].stamps = [self.now; 32];
        stamp
    }

    /// The barrier completes: those who waited rely on all who arrived, up to their stamps there.
    pub(crate) fn synchronise_warps(&mut self, waited: &[usize], arrived: &[(usize, u32)]) {
        let count = self.warps.len();
        self.between.resize(count, vec![0; count]);
        let mut joint = vec![0; count];
        for &(warp, stamp) in arrived {
            joint
                .iter_mut()
                .zip(&self.between[warp])
                .for_each(|(all, &known)| *all = known.max(*all));
            joint[warp] = joint[warp].max(stamp);
        }
        for &warp in waited {
            self.warps[warp].known = self.warps[warp].known.max(joint[warp]);
            self.between[warp]
                .iter_mut()
                .zip(&joint)
                .for_each(|(known, &all)| *known = all.max(*known));
        }
    }

    /// A fence of one lane: what a release that follows may pass on.
    pub(crate) fn fence(&mut self, block: u32, warp: usize, lane: usize) -> Knowledge {
        let stamp = self.stamp(warp, lane);
        let mut own = Known { all: self.all, ..Known::default() };
        own.warps.insert(warp as u16, self.warps[warp].known);
        own.threads.insert((warp * 32 + lane) as u16, stamp);
        if let Some(pairs) = &self.warps[warp].pairs {
            for (other, &known) in pairs[lane].iter().enumerate() {
                let slot = own.threads.entry((warp * 32 + other) as u16).or_default();
                *slot = known.max(*slot);
            }
        }
        if let Some(between) = self.between.get(warp) {
            for (other, &known) in between.iter().enumerate() {
                let slot = own.warps.entry(other as u16).or_default();
                *slot = known.max(*slot);
            }
        }
        // What comes after the fence is not passed on.
        self.now += 1;
        self.warps[warp].stamps[lane] = self.now;
        let mut all = self.foreign.clone();
        all.entry(block).or_default().merge(&own);
        all
    }

    /// A lane has read what another released. The whole block counts as knowing it, which is
    /// lenient.
    pub(crate) fn acquire(&mut self, block: u32, warp: usize, lane: usize, released: &Knowledge) {
        for (&other, known) in released {
            if other != block {
                self.foreign.entry(other).or_default().merge(known);
                continue;
            }
            let count = self.warps.len();
            self.between.resize(count, vec![0; count]);
            for (&thread, &stamp) in &known.threads {
                let (theirs, lane_of) = (usize::from(thread / 32), usize::from(thread % 32));
                if theirs == warp {
                    let pairs =
                        self.warps[warp].pairs.get_or_insert_with(|| Box::new([[0; 32]; 32]));
                    pairs[lane][lane_of] = pairs[lane][lane_of].max(stamp);
                } else {
                    self.between[warp][theirs] = self.between[warp][theirs].max(stamp);
                }
            }
            for (&theirs, &stamp) in &known.warps {
                let slot = &mut self.between[warp][usize::from(theirs)];
                *slot = stamp.max(*slot);
            }
        }
    }
}
