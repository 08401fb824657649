//! [`index_sort`](crate::ops::index_sort) on a CUDA device: kernels/index_sort.cu says how.

use super::Cuda;
use super::buffer::Parts;
use super::kernels::{Grid, IndexSortPass, IndexSortRows, IndexSortSegments};
use crate::dtype::Index;
use crate::error::Result;
use crate::ops::index_sort::{IndexSortOps, Sort};
use crate::ops::{Device, TableBatch};
use crate::size::{product, sum};

/// Threads of a block, as the kernels are compiled.
const THREADS: u32 = 256;
/// Keys that a block takes: of many keys more, so that fewer blocks wait for what those before them
/// have found, of few keys less, so that more multiprocessors have some.
const TILES: (usize, usize) = (2048, 1024);
/// Keys from which on tiles are large.
const MANY_KEYS: usize = 1 << 17;
/// The bits of the largest digit, and the numbers of digits and of passes over them.
const MAX_DIGIT_BITS: u32 = 8;
const DIGITS: usize = 1 << MAX_DIGIT_BITS;
const MAX_PASSES: usize = 8;
/// Blocks that name the rows; they loop over what is left. Each has digits to count and to add, so
/// that there are no more than fill a device.
const MAX_BLOCKS: usize = 528;

/// What a sort is made of, as far as sizes decide it.
struct Plan {
    /// The key of what stands for no row: behind all rows.
    end_key: u64,
    key_bytes: usize,
    passes: u32,
    digit_bits: u32,
    /// Blocks of a pass, and of the numbering of rows, which has a key more.
    tiles: usize,
    segment_tiles: usize,
}

impl Plan {
    fn new(tables: &TableBatch, num_keys: usize) -> Self {
        let end_key = tables.num_rows() as u64;
        let bits = u64::BITS - end_key.leading_zeros();
        let passes = bits.div_ceil(MAX_DIGIT_BITS);
        Self {
            end_key,
            key_bytes: if bits <= 32 { 4 } else { 8 },
            passes,
            digit_bits: bits.div_ceil(passes.max(1)),
            tiles: num_keys.div_ceil(tile(num_keys)),
            segment_tiles: segment_tiles(num_keys),
        }
    }

    /// The words that begin as zeros: tickets, histograms, and what tiles tell each other.
    fn cleared_words(&self) -> [usize; 4] {
        [
            (MAX_PASSES + 1).div_ceil(2),
            MAX_PASSES * DIGITS / 2,
            self.tiles * DIGITS,
            self.segment_tiles,
        ]
    }
}

fn has_large_tiles(num_keys: usize) -> bool {
    num_keys >= MANY_KEYS
}

/// Keys that a block takes.
fn tile(num_keys: usize) -> usize {
    if has_large_tiles(num_keys) { TILES.0 } else { TILES.1 }
}

/// Blocks that number the rows among `num_keys` keys, and words in which they tell each other how
/// many they have: there is a key more.
pub(super) fn segment_tiles(num_keys: usize) -> usize {
    sum([num_keys, 1]).div_ceil(tile(num_keys))
}

impl Cuda {
    /// Launches the numbering of rows among sorted keys of so many bytes.
    ///
    /// # Safety
    /// As that of the kernel's launch: there must be room for as many rows and bags as keys, for a
    /// segment more, and for two counts; ticket and words must be zero.
    pub(super) unsafe fn number_rows(
        &self,
        kernel: IndexSortSegments,
        key_bytes: usize,
    ) -> Result<()> {
        let num_keys = kernel.num_keys as usize;
        let function =
            self.inner.kernels.index_sort_segments.of(has_large_tiles(num_keys)).of(key_bytes);
        // SAFETY: what the caller promises.
        unsafe {
            kernel.launch(self, function, Grid::new((segment_tiles(num_keys) as u32, 1), THREADS))
        }
    }
}

impl IndexSortOps for Cuda {
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()> {
        let Sort { tables, bags, sorted, mut workspace } = args;
        let num_bags = bags.num_bags(tables.as_ref());
        // Without bags there is nothing that an id could be in.
        let n = if num_bags == 0 { 0 } else { bags.num_indices() };
        let plan = Plan::new(tables.as_ref(), n);
        let cleared = plan.cleared_words();
        let mut parts = Parts::of(&workspace, self)?;
        workspace.first(cleared.iter().sum()).clear(self.raw_stream())?;
        let [tickets, histograms, words, segment_words] =
            cleared.map(|words| parts.take(words * 8));
        let mut keys = [(); 2].map(|()| parts.take(n * plan.key_bytes));
        let [spare, bag_of] = [(); 2].map(|()| parts.take(n * 4));
        let sorted_positions = Self::view(&sorted.positions).on(self)?;
        let kernels = &self.inner.kernels;

        let lanes = n.div_ceil(num_bags.max(1)).next_power_of_two().min(32);
        let rows = IndexSortRows {
            features: tables.features(self)?,
            tables: tables.tables(self)?,
            indices: bags.indices.on(self)?,
            offsets: bags.offsets.on(self)?,
            keys: keys[0],
            bag_of,
            bag_lengths: Self::view_mut(&mut sorted.bag_lengths).on(self)?,
            histograms,
            status: self.inner.faults.pointer(),
            num_indices: n as u64,
            end_key: plan.end_key,
            num_bags: num_bags as u32,
            batch_size: bags.batch_size as u32,
            lanes: lanes as u32,
            passes: plan.passes,
            digit_bits: plan.digit_bits,
            key_bytes: plan.key_bytes as u32,
            has_slack: bags.has_slack.into(),
        };
        let grid = Grid::looping(num_bags * lanes, THREADS, MAX_BLOCKS);
        // SAFETY: the function is that of `I`. The op has been validated: ids, offsets and order
        // have the sizes that bags and ids call for, and the workspace is as long as
        // `index_sort_workspace_len` says, so that all parts of it lie within it; it and the order
        // are exclusive views. Ids and offsets may hold anything: the kernel checks them before it
        // uses them.
        unsafe { rows.launch(self, kernels.index_sort_rows.of(size_of::<I>()), grid)? };

        for pass in 0..plan.passes {
            // The last pass leaves the positions where they belong, so every second one before it
            // does.
            let (from, to) = match (plan.passes - pass) % 2 {
                1 => (spare, sorted_positions),
                _ => (sorted_positions, spare),
            };
            let kernel = IndexSortPass {
                keys: keys[0],
                positions: if pass == 0 { 0 } else { from },
                keys_out: keys[1],
                positions_out: to,
                histograms,
                words,
                tickets,
                num_keys: n as u64,
                pass,
                digit_bits: plan.digit_bits,
            };
            keys.swap(0, 1);
            // SAFETY: as above; keys and positions go from one part of the workspace to another
            // one.
            unsafe {
                let function = kernels.index_sort_pass.of(has_large_tiles(n)).of(plan.key_bytes);
                kernel.launch(self, function, Grid::new((plan.tiles as u32, 1), THREADS))?;
            }
        }

        let segments = IndexSortSegments {
            keys: keys[0],
            positions: sorted_positions,
            bag_of,
            rows: Self::view_mut(&mut sorted.rows).on(self)?,
            segments: Self::view_mut(&mut sorted.segments).on(self)?,
            bags: Self::view_mut(&mut sorted.bags).on(self)?,
            counts: Self::view_mut(&mut sorted.counts).on(self)?,
            words: segment_words,
            tickets: tickets + 4 * MAX_PASSES as u64,
            num_keys: n as u64,
            end_key: plan.end_key,
        };
        // SAFETY: as above; every position is that of an id, since each pass permutes them.
        unsafe { self.number_rows(segments, plan.key_bytes) }
    }

    fn index_sort_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize {
        let words = |num_keys: usize| {
            let plan = Plan::new(tables, num_keys);
            // Keys twice, a copy of the positions, and the bag of each position.
            let keys = product([num_keys, plan.key_bytes]).div_ceil(8);
            sum(plan.cleared_words().into_iter().chain([
                keys,
                keys,
                product([2, num_keys.div_ceil(2)]),
            ]))
        };
        // Enough for fewer ids as well, which may need more since their tiles are small.
        words(num_indices).max(words(num_indices.min(MANY_KEYS - 1)))
    }
}
