//! The counters of kernels: for each instruction, source line and block.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::ir::Kernel;

/// Counts of one instruction, of one source line or of a whole kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Warp instructions: an instruction counts once for each warp that executes it.
    pub instructions: u64,
    /// Lane instructions: an instruction counts once for each active lane.
    pub lane_instructions: u64,
    /// Requests of warps to global memory.
    pub global_requests: u64,
    /// The 32-byte sectors that these requests touch.
    pub sectors: u64,
    /// The sectors that the same bytes would fill if they were contiguous.
    pub ideal_sectors: u64,
    /// Bytes that lanes read from global memory.
    pub global_read: u64,
    /// Bytes that lanes write to global memory.
    pub global_written: u64,
    /// Requests of warps to shared memory.
    pub shared_requests: u64,
    /// The passes over the banks of shared memory that these requests need.
    pub bank_passes: u64,
    /// The passes that they would need without bank conflicts.
    pub ideal_passes: u64,
    /// Bytes that lanes read from shared memory.
    pub shared_read: u64,
    /// Bytes that lanes write to shared memory.
    pub shared_written: u64,
}

impl Counts {
    /// Returns the fields in the order of [`Self::from_fields`].
    pub(crate) fn fields(&self) -> [u64; 12] {
        [
            self.instructions,
            self.lane_instructions,
            self.global_requests,
            self.sectors,
            self.ideal_sectors,
            self.global_read,
            self.global_written,
            self.shared_requests,
            self.bank_passes,
            self.ideal_passes,
            self.shared_read,
            self.shared_written,
        ]
    }

    /// Returns counts with these fields, in the order of [`Self::fields`].
    pub(crate) fn from_fields(f: [u64; 12]) -> Self {
        Self {
            instructions: f[0],
            lane_instructions: f[1],
            global_requests: f[2],
            sectors: f[3],
            ideal_sectors: f[4],
            global_read: f[5],
            global_written: f[6],
            shared_requests: f[7],
            bank_passes: f[8],
            ideal_passes: f[9],
            shared_read: f[10],
            shared_written: f[11],
        }
    }

    /// Adds other counts to these.
    pub fn add(&mut self, other: &Self) {
        let (a, b) = (self.fields(), other.fields());
        *self = Self::from_fields(std::array::from_fn(|k| a[k] + b[k]));
    }
}

/// The counts of one line of a CUDA source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineCounts {
    /// The path of the file as it was given to the compiler.
    pub file: String,
    /// The number of the line.
    pub line: u32,
    /// The counts of all instructions that come from the line.
    pub counts: Counts,
}

/// The counts of a kernel over all its launches since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounts {
    /// The kernel's name.
    pub name: String,
    /// The number of launches.
    pub launches: u64,
    /// The counts of all instructions.
    pub total: Counts,
    /// The counts of each source line.
    pub lines: Vec<LineCounts>,
    /// The warp instructions of each block of the last launch, by the index of the block.
    pub block_instructions: Vec<u64>,
    /// The traffic that a launch cannot avoid; see [`Config::footprints`](crate::Config).
    pub footprint: Footprint,
}

/// The distinct 32-byte sectors of global memory that each launch touches, summed over launches:
/// the traffic of memory behind a cache that holds all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// The sectors that are read.
    pub read: u64,
    /// The sectors that are written, or changed by an atomic operation.
    pub written: u64,
}

impl Footprint {
    /// Returns the bytes of all sectors.
    pub fn bytes(&self) -> u64 {
        (self.read + self.written) * 32
    }
}

/// The counts of one kernel as they are collected: `code` has an element for each instruction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collected {
    pub(crate) launches: u64,
    pub(crate) code: Vec<Counts>,
    pub(crate) blocks: Vec<u64>,
    pub(crate) footprint: Footprint,
}

impl Collected {
    /// Returns the counts by source line.
    pub(crate) fn summary(&self, kernel: &Kernel) -> KernelCounts {
        let mut total = Counts::default();
        let mut lines: BTreeMap<(Arc<str>, u32), Counts> = BTreeMap::new();
        for (pc, counts) in self.code.iter().enumerate() {
            total.add(counts);
            if let Some(location) = kernel.location(pc) {
                lines.entry((location.file.clone(), location.line)).or_default().add(counts);
            }
        }
        let line = |((file, line), counts): ((Arc<str>, u32), Counts)| LineCounts {
            file: file.to_string(),
            line,
            counts,
        };
        KernelCounts {
            name: kernel.name.clone(),
            launches: self.launches,
            total,
            lines: lines.into_iter().map(line).collect(),
            block_instructions: self.blocks.clone(),
            footprint: self.footprint,
        }
    }
}

/// The distinct sectors of one request, each with a mask of the bytes that the request accesses.
#[derive(Default)]
pub(crate) struct Sectors {
    seen: Vec<(u64, u32)>,
    /// The sectors that the launch has read and those that it has written, if they are collected.
    of_launch: Option<[HashSet<u64>; 2]>,
}

impl Sectors {
    /// Returns the sectors of a request of a launch whose footprint is wanted or not.
    pub(crate) fn new(footprint: bool) -> Self {
        Self { of_launch: footprint.then(Default::default), ..Self::default() }
    }

    pub(crate) fn clear(&mut self) {
        self.seen.clear();
    }

    /// Adds the access of a lane, of at most 32 bytes.
    pub(crate) fn add(&mut self, address: u64, bytes: usize) {
        let (sector, from) = (address / 32, address % 32);
        let wanted = ((1u64 << bytes.min(32)) - 1) << from;
        self.add_part(sector, wanted as u32);
        if wanted >> 32 != 0 {
            self.add_part(sector + 1, (wanted >> 32) as u32);
        }
    }

    fn add_part(&mut self, sector: u64, wanted: u32) {
        // Neighbouring lanes mostly share a sector, so the newest ones are looked at first.
        match self.seen.iter_mut().rev().find(|(known, _)| *known == sector) {
            Some((_, bytes)) => *bytes |= wanted,
            None => self.seen.push((sector, wanted)),
        }
    }

    /// Adds the request to the counts of its instruction and to the footprint of the launch.
    pub(crate) fn count(&mut self, counts: &mut Counts, write: bool) {
        if self.seen.is_empty() {
            return;
        }
        if let Some(of_launch) = &mut self.of_launch {
            of_launch[usize::from(write)].extend(self.seen.iter().map(|(sector, _)| sector));
        }
        counts.global_requests += 1;
        counts.sectors += self.seen.len() as u64;
        let bytes: u64 = self.seen.iter().map(|(_, bytes)| u64::from(bytes.count_ones())).sum();
        counts.ideal_sectors += bytes.div_ceil(32);
    }

    /// Adds the footprint of the launch to `footprint`.
    pub(crate) fn add_footprint(&self, footprint: &mut Footprint) {
        if let Some([read, written]) = &self.of_launch {
            footprint.read += read.len() as u64;
            footprint.written += written.len() as u64;
        }
    }
}

/// Returns the passes over the 32 banks that one phase of a request needs. Lanes that access the
/// same word share a pass.
pub(crate) fn bank_passes(offsets: impl Iterator<Item = u64> + Clone, bytes: usize) -> u64 {
    let words = bytes.div_ceil(4) as u64;
    let mut banks = [0u32; 32];
    let mut first = [u64::MAX; 32];
    let mut others: Vec<u64> = vec![];
    for offset in offsets {
        for word in offset / 4..offset / 4 + words {
            let bank = (word % 32) as usize;
            if first[bank] == u64::MAX {
                first[bank] = word;
            } else if first[bank] == word || others.contains(&word) {
                continue;
            } else {
                others.push(word);
            }
            banks[bank] += 1;
        }
    }
    u64::from(banks.into_iter().max().unwrap_or(0))
}
