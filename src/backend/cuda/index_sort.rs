//! [`index_sort`](crate::ops::index_sort) on a CUDA device. The header of kernels/index_sort.cu
//! describes the algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::arrivals::Arrivals;
use super::runtime::buffer::Parts;
use super::runtime::launch::{Function, Grid, Kernel};
use super::runtime::module::{ByWidth, Module};
use super::runtime::params::bags::FaultyOp;
use super::runtime::params::index_sort::{
    self as params, DIGITS, LARGE, MAX_DIGIT_BITS, MAX_PASSES, MAX_TABLES, SMALL, TABLE_SHARED,
    TABLE_THREADS, TABLE_TILE, THREADS,
};
use super::runtime::pointer::{Ptr, PtrMut};
use super::runtime::tables::Tables;
use crate::dtype::Index;
use crate::error::Result;
use crate::ops::bags::OffsetsOf;
use crate::ops::index_sort::{IndexSortOps, Sort, SortedIndices};
use crate::ops::{Bags, Device, Table, TableBatch};
use crate::size::{product, sum};

/// The number of keys of a large tile and of a small tile. Large tiles leave fewer blocks to wait
/// for the look-back. Small tiles give work to more multiprocessors if there are few keys.
const TILES: (usize, usize) = (THREADS * LARGE, THREADS * SMALL);
/// The number of keys from which on tiles are large.
const MANY_KEYS: usize = 1 << 17;
/// The most ids of a table, on average, if a block sorts each table: half of what it sorts in
/// shared memory, since only the device knows how many ids each table has.
const MEAN_TABLE: usize = TABLE_TILE / 2;
/// The most blocks of `index_sort_rows`, which loop over the bags. Each block adds digit counts of
/// its own to the histograms, so there are no more blocks than fill a device.
const MAX_BLOCKS: usize = 528;

/// The instances of a kernel for small and for large tiles, each for both widths of keys.
#[derive(Debug)]
struct ByTile<K: Kernel>([ByWidth<K>; 2]);

impl<K: Kernel> ByTile<K> {
    fn find(module: &Module) -> Result<Self> {
        let [small, large] = ["_small", "_large"].map(|tile| module.by_width(tile, ["u32", "u64"]));
        Ok(Self([small?, large?]))
    }

    /// Returns the instance for `num_keys` keys of `T`.
    fn of<T>(&self, num_keys: usize) -> Function<K> {
        self.0[usize::from(has_large_tiles(num_keys))].of::<T>()
    }
}

/// The kernels of kernels/index_sort.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    tables: ByWidth<params::IndexSortTables<()>>,
    rows: ByWidth<params::IndexSortRows<()>>,
    pass: ByTile<params::IndexSortPass<()>>,
    segments: ByTile<params::IndexSortSegments<()>>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "index_sort")?;
        let tables: ByWidth<params::IndexSortTables<()>> = module.by_width("", ["i32", "i64"])?;
        for kernel in [tables.of::<i32>(), tables.of::<i64>()] {
            module.allow_shared(kernel, TABLE_SHARED as u32)?;
        }
        Ok(Self {
            tables,
            rows: module.by_width("", ["i32", "i64"])?,
            pass: ByTile::find(&module)?,
            segments: ByTile::find(&module)?,
            _module: module,
        })
    }
}

/// Returns whether a block can sort each of these tables.
fn has_blocks(tables: &TableBatch) -> bool {
    let all = tables.tables();
    let fits = |(table, of): (usize, &Table)| {
        of.num_embeddings <= u32::MAX as usize && tables.features_of(table).len() <= TABLE_THREADS
    };
    (1..=MAX_TABLES).contains(&all.len()) && all.iter().enumerate().all(fits)
}

/// Returns whether a block sorts each table of a batch. That takes one launch, but a table with far
/// more ids than the others keeps its block busy while the other multiprocessors wait.
fn is_by_table<I: Index>(tables: &TableBatch, bags: &Bags<'_, Cuda, I>) -> bool {
    let (num_tables, n) = (tables.tables().len(), bags.num_indices());
    let is_small = match bags.offsets.0 {
        OffsetsOf::Length(length) => {
            let ids_of =
                |table| product([tables.features_of(table).len(), bags.batch_size, length]);
            // There may be more slack.
            n <= num_tables * TABLE_TILE && (0..num_tables).all(|table| ids_of(table) <= TABLE_TILE)
        }
        _ => n < MANY_KEYS.min(num_tables * MEAN_TABLE + 1),
    };
    is_small && has_blocks(tables)
}

/// The parts of a sort that follow from the sizes of its arguments.
struct Plan {
    /// The key of positions without a row, which sorts behind all rows.
    end_key: u64,
    /// Bytes of a key.
    key_bytes: usize,
    /// The number of passes, each over one digit of the keys.
    passes: u32,
    /// Bits of a digit.
    digit_bits: u32,
    /// The number of tiles of a pass.
    tiles: usize,
    /// The number of tiles of the numbering of rows, which has one more key.
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

    /// Returns the numbers of words that must be zero before the sort: tickets, histograms, and the
    /// look-back words of the passes and of the numbering of rows.
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

/// Returns the number of keys of a tile.
fn tile(num_keys: usize) -> usize {
    if has_large_tiles(num_keys) { TILES.0 } else { TILES.1 }
}

/// Returns the number of tiles, each with one look-back word, that number the rows among `num_keys`
/// keys. The numbering has one more key.
pub(super) fn segment_tiles(num_keys: usize) -> usize {
    sum([num_keys, 1]).div_ceil(tile(num_keys))
}

impl Cuda {
    /// Launches the kernel that numbers the rows among sorted keys.
    ///
    /// # Safety
    /// The requirements of [`Function::launch`] apply: there must be room for as many rows and bags
    /// as keys, for one more segment, and for two counts. The ticket and the look-back words must
    /// be zero.
    pub(super) unsafe fn number_rows<K>(
        &self,
        parameters: params::IndexSortSegments<K>,
    ) -> Result<()> {
        let num_keys = parameters.num_keys as usize;
        let grid = Grid::new((segment_tiles(num_keys) as u32, 1), THREADS);
        // SAFETY: the function is the instance for `K`; the caller promises the rest.
        unsafe {
            self.inner.kernels.index_sort.segments.of::<K>(num_keys).launch(self, grid, parameters)
        }
    }

    /// Returns the ids of a batch as kernels read them.
    fn sorted_ids<I: Index>(
        &self,
        (tables, bags): (&Tables, &Bags<'_, Self, I>),
        bag_of: PtrMut<u32>,
        sorted: &mut SortedIndices<Self>,
    ) -> Result<params::IndexSortIds<I>> {
        Ok(params::IndexSortIds {
            features: tables.features(self)?,
            tables: tables.tables(self)?,
            indices: bags.indices.on(self)?,
            bag_of,
            bag_lengths: Self::view_mut(&mut sorted.bag_lengths).on(self)?,
            status: self.inner.faults.pointer(),
            bags: self.bags(bags, tables.as_ref(), FaultyOp::IndexSort)?,
            batch_size: bags.batch_size as u32,
            reserved: 0,
        })
    }

    /// Sorts the ids of each table in a block.
    fn sort_tables<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()> {
        let Sort { tables, bags, sorted, workspace } = args;
        let mut parts = Parts::of(&workspace, self)?;
        let [keys, keys_out, key_positions, key_positions_out, bag_of] =
            [(); 5].map(|()| parts.take(bags.num_indices()));
        let (features_by_table, feature_offsets) = tables.features_by_table(self)?;
        let parameters = params::IndexSortTables {
            ids: self.sorted_ids((tables, &bags), bag_of, sorted)?,
            feature_offsets,
            features_by_table,
            counters: self.inner.arrivals.of(Arrivals::INDEX_SORT).cast(),
            keys,
            keys_out,
            key_positions,
            key_positions_out,
            rows: Self::view_mut(&mut sorted.rows).on(self)?,
            segments: Self::view_mut(&mut sorted.segments).on(self)?,
            positions: Self::view_mut(&mut sorted.positions).on(self)?,
            bags: Self::view_mut(&mut sorted.bags).on(self)?,
            counts: Self::view_mut(&mut sorted.counts).on(self)?,
        };
        let blocks = tables.as_ref().tables().len() as u32;
        let grid = Grid { shared: TABLE_SHARED as u32, ..Grid::new((blocks, 1), TABLE_THREADS) };
        // SAFETY: the function is the instance for `I`. The op has been validated: ids, offsets and
        // order have the sizes that bags and ids require. The workspace has the length of
        // `index_sort_workspace_len`, so all its parts lie within it. Workspace and order are
        // exclusive views, and the counters are the backend's own, for no more tables than they
        // have room for. Ids and offsets may hold any values: the kernel checks them before it uses
        // them.
        unsafe { self.inner.kernels.index_sort.tables.of::<I>().launch(self, grid, parameters) }
    }

    /// Sorts ids by keys of `K`, which must be wide enough for all rows.
    fn sort_by<K, I: Index>(&self, args: Sort<'_, Self, I>, plan: &Plan, n: usize) -> Result<()> {
        let Sort { tables, bags, sorted, mut workspace } = args;
        let num_bags = bags.num_bags(tables.as_ref());
        let kernels = &self.inner.kernels.index_sort;
        let cleared = plan.cleared_words();
        let mut parts = Parts::of(&workspace, self)?;
        workspace.first(cleared.iter().sum()).clear(self.raw_stream())?;
        let tickets: PtrMut<u32> = parts.take(2 * cleared[0]);
        let histograms: PtrMut<u32> = parts.take(2 * cleared[1]);
        let (words, segment_words) = (parts.take(cleared[2]), parts.take(cleared[3]));
        let mut keys = [(); 2].map(|()| parts.take::<K>(n));
        let [spare, bag_of] = [(); 2].map(|()| parts.take::<u32>(n));
        let sorted_positions = Self::view_mut(&mut sorted.positions).on(self)?;

        let lanes = n.div_ceil(num_bags.max(1)).next_power_of_two().min(32);
        let rows = params::IndexSortRows {
            ids: self.sorted_ids((tables, &bags), bag_of, sorted)?,
            keys: keys[0].cast(),
            histograms,
            end_key: plan.end_key,
            lanes: lanes as u32,
            passes: plan.passes,
            digit_bits: plan.digit_bits,
            key_bytes: plan.key_bytes as u32,
        };
        let grid = Grid::looping(num_bags * lanes, THREADS, MAX_BLOCKS);
        // SAFETY: the function is the instance for `I`. The op has been validated: ids, offsets and
        // order have the sizes that bags and ids require. The workspace has the length of
        // `index_sort_workspace_len`, so all its parts lie within it. Workspace and order are
        // exclusive views. Ids and offsets may hold any values: the kernel checks them before it
        // uses them.
        unsafe { kernels.rows.of::<I>().launch(self, grid, rows)? };

        for pass in 0..plan.passes {
            // The passes alternate between both buffers of positions, so that the last one writes
            // to the order.
            let (from, to) = match (plan.passes - pass) % 2 {
                1 => (spare, sorted_positions),
                _ => (sorted_positions, spare),
            };
            let parameters = params::IndexSortPass {
                keys: keys[0].as_const(),
                positions: if pass == 0 { Ptr::NULL } else { from.as_const() },
                keys_out: keys[1],
                positions_out: to,
                histograms: histograms.as_const(),
                words,
                tickets,
                num_keys: n as u64,
                pass,
                digit_bits: plan.digit_bits,
            };
            keys.swap(0, 1);
            let grid = Grid::new((plan.tiles as u32, 1), THREADS);
            // SAFETY: as above. Each pass reads keys and positions in one buffer and writes them to
            // another one.
            unsafe { kernels.pass.of::<K>(n).launch(self, grid, parameters)? };
        }

        let segments = params::IndexSortSegments {
            keys: keys[0].as_const(),
            positions: sorted_positions.as_const(),
            bag_of: bag_of.as_const(),
            rows: Self::view_mut(&mut sorted.rows).on(self)?,
            segments: Self::view_mut(&mut sorted.segments).on(self)?,
            bags: Self::view_mut(&mut sorted.bags).on(self)?,
            counts: Self::view_mut(&mut sorted.counts).on(self)?,
            words: segment_words,
            ticket: tickets.add(MAX_PASSES),
            num_keys: n as u64,
            end_key: plan.end_key,
        };
        // SAFETY: as above. Every position is a position of an id, since each pass permutes them.
        // The ticket of the numbering and its look-back words were cleared on this stream.
        unsafe { self.number_rows(segments) }
    }
}

impl IndexSortOps for Cuda {
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()> {
        if is_by_table(args.tables.as_ref(), &args.bags) {
            return self.sort_tables(args);
        }
        // Without bags, no id is in a bag, and there is nothing to sort.
        let has_bags = args.bags.num_bags(args.tables.as_ref()) > 0;
        let n = if has_bags { args.bags.num_indices() } else { 0 };
        let plan = Plan::new(args.tables.as_ref(), n);
        match plan.key_bytes {
            4 => self.sort_by::<u32, I>(args, &plan, n),
            _ => self.sort_by::<u64, I>(args, &plan, n),
        }
    }

    fn index_sort_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize {
        let words = |num_keys: usize| {
            let plan = Plan::new(tables, num_keys);
            // The workspace holds two buffers of keys, one of positions, and the bag of each
            // position.
            let keys = product([num_keys, plan.key_bytes]).div_ceil(8);
            sum(plan.cleared_words().into_iter().chain([
                keys,
                keys,
                product([2, num_keys.div_ceil(2)]),
            ]))
        };
        // A block for each table needs keys and positions, twice, and the bag of each position.
        let ids_by_table = match has_blocks(tables) {
            true => num_indices.min(tables.tables().len() * TABLE_TILE),
            false => 0,
        };
        // A batch with fewer ids may need more words, since its tiles are small.
        words(num_indices)
            .max(words(num_indices.min(MANY_KEYS - 1)))
            .max(product([5, ids_by_table.div_ceil(2)]))
    }
}
