//! The happens-before order of accesses. Every thread stamps its accesses with a growing number.
//! Barriers, and fences with atomics, tell other threads up to which stamp the accesses of a thread
//! happened before theirs. Nothing else orders accesses: not the order in which the warps happened
//! to run.

use std::collections::HashMap;

/// The mark that an access leaves: its thread, its stamp and its instruction. Stamp 0 marks no
/// access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) stamp: u32,
    pub(crate) block: u32,
    pub(crate) pc: u32,
    pub(crate) thread: u16,
    pub(crate) strong: bool,
    /// Set for a compare-and-swap. A plain read does not race with it: it is the first guess of a
    /// compare-and-swap loop.
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

/// The accesses of a block that happened before something: those up to these stamps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The stamp for all threads.
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

/// The accesses of all blocks that happened before something, by the index of the block.
pub(crate) type Knowledge = HashMap<u32, Known>;

/// Adds what `from` knows.
pub(crate) fn merge(into: &mut Knowledge, from: &Knowledge) {
    for (&block, known) in from {
        into.entry(block).or_default().merge(known);
    }
}

/// The clock of a warp.
#[derive(Clone, Debug)]
struct WarpClock {
    /// The stamp up to which the accesses of all lanes are ordered for all lanes.
    known: u32,
    /// The stamp of the next access of each lane.
    stamps: [u32; 32],
    /// The stamps of synchronisations of some lanes only: accesses of lane b up to `pairs[a][b]`
    /// are ordered for lane a.
    pairs: Option<Box<[[u32; 32]; 32]>>,
}

/// The clock of a block.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The newest stamp.
    now: u32,
    /// The stamp up to which all accesses of the block are ordered for all its threads.
    all: u32,
    warps: Vec<WarpClock>,
    /// The stamps of barriers of some warps only: accesses of warp b up to `between[a][b]` are
    /// ordered for warp a.
    between: Vec<Vec<u32>>,
    /// The ordered accesses of other blocks.
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

    /// Returns the stamp of the next access of a lane.
    pub(crate) fn stamp(&self, warp: usize, lane: usize) -> u32 {
        self.warps[warp].stamps[lane]
    }

    /// Returns whether `earlier` happened before `me`, an access that this block is making.
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

    /// Orders the accesses before a barrier of the whole block.
    pub(crate) fn synchronise_block(&mut self) {
        self.all = self.now;
        self.now += 1;
        self.warps.iter_mut().for_each(|warp| warp.stamps = [self.now; 32]);
    }

    /// Orders the accesses before a barrier of some lanes of a warp. `live` are the lanes that have
    /// not ended.
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

    /// Notes that a warp arrives at a barrier of some warps. Returns the stamp of its accesses so
    /// far.
    pub(crate) fn arrive(&mut self, warp: usize) -> u32 {
        let stamp = self.now;
        self.now += 1;
        self.warps[warp].stamps = [self.now; 32];
        stamp
    }

    /// Orders, when a barrier of some warps completes, the accesses of all that arrived up to their
    /// stamps there for all that waited.
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

    /// Executes the fence of one lane. Returns what a later release may pass on.
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
        // Accesses after the fence have a later stamp, which is not passed on.
        self.now += 1;
        self.warps[warp].stamps[lane] = self.now;
        let mut all = self.foreign.clone();
        all.entry(block).or_default().merge(&own);
        all
    }

    /// Orders, when a lane has read what another lane released, the accesses before the release.
    /// Accesses of another block become ordered for the whole block, not for the lane alone. This
    /// is lenient.
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
