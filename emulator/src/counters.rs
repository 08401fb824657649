//! What a kernel did: per instruction, per source line and per block.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ir::Kernel;

/// Counts of one instruction, of one source line or of a whole kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions, each counted once per warp that executes it.
    pub instructions: u64,
    /// The same, counted once per lane.
    pub lane_instructions: u64,
    /// Warp accesses to global memory.
    pub global_requests: u64,
    /// The 32-byte sectors that these touch.
    pub sectors: u64,
    /// The sectors that the same bytes would fill if they lay together.
    pub ideal_sectors: u64,
    /// Bytes that lanes read from global memory.
    pub global_read: u64,
    /// Bytes that lanes write to global memory.
    pub global_written: u64,
    /// Warp accesses to shared memory.
    pub shared_requests: u64,
    /// The passes that the banks of shared memory need for these.
    pub bank_passes: u64,
    /// The passes without any bank conflict.
    pub ideal_passes: u64,
    /// Bytes that lanes read from shared memory.
    pub shared_read: u64,
    /// Bytes that lanes write to shared memory.
    pub shared_written: u64,
}

impl Counts {
    /// The fields in their order, for [`Self::from_fields`].
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

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        let (a, b) = (self.fields(), other.fields());
        *self = Self::from_fields(std::array::from_fn(|k| a[k] + b[k]));
    }
}

/// The counts of a line of a CUDA source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineCounts {
    /// The file's path as the compiler was given it.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// The counts of all instructions that come from it.
    pub counts: Counts,
}

/// The counts of a kernel over all its launches since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounts {
    /// The kernel's name.
    pub name: String,
    /// How often it was launched.
    pub launches: u64,
    /// Everything together.
    pub total: Counts,
    /// By source line.
    pub lines: Vec<LineCounts>,
    /// Instructions of each block of the last launch, in the order of the blocks' indices.
    pub block_instructions: Vec<u64>,
}

/// Counts of one kernel as they are collected: one slot per instruction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collected {
    pub(crate) launches: u64,
    pub(crate) code: Vec<Counts>,
    pub(crate) blocks: Vec<u64>,
}

impl Collected {
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
        }
    }
}

/// The distinct sectors of one request, and the bytes of them that are wanted.
#[derive(Default)]
pub(crate) struct Sectors {
    seen: Vec<(u64, u32)>,
}

impl Sectors {
    pub(crate) fn clear(&mut self) {
        self.seen.clear();
    }

    pub(crate) fn add(&mut self, address: u64, bytes: usize) {
        let (sector, from) = (address / 32, address % 32);
        let wanted = ((1u64 << bytes.min(32)) - 1) << from;
        self.add_part(sector, wanted as u32);
        if wanted >> 32 != 0 {
            self.add_part(sector + 1, (wanted >> 32) as u32);
        }
    }

    fn add_part(&mut self, sector: u64, wanted: u32) {
        // Neighbouring lanes most often share their sector.
        match self.seen.iter_mut().rev().find(|(known, _)| *known == sector) {
            Some((_, bytes)) => *bytes |= wanted,
            None => self.seen.push((sector, wanted)),
        }
    }

    pub(crate) fn count(&self, counts: &mut Counts) {
        if self.seen.is_empty() {
            return;
        }
        counts.global_requests += 1;
        counts.sectors += self.seen.len() as u64;
        let bytes: u64 = self.seen.iter().map(|(_, bytes)| u64::from(bytes.count_ones())).sum();
        counts.ideal_sectors += bytes.div_ceil(32);
    }
}

/// Passes over the 32 banks for the words of one phase of a request, and without conflicts.
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
