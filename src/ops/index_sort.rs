//! Brings the ids of a batch into the order of the rows that they name, so that each row's occurrences lie side by side.
//!
//! Ids become linear row numbers (rows counted through all tables) and are sorted stably with their positions; padding and bad ids are left
//! out. One sort serves every op that needs the order, and can be made ahead of time, since it depends on the ids alone.

use super::{Bags, Device, TableBatch};
use crate::dtype::Index;
use crate::error::{Result, expect_at_least, expect_size};
use crate::size::{product, sum};

/// What a backend provides; call it through [`Sort::run`], which validates.
pub trait IndexSortOps: Device {
    /// See [`Sort`].
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()>;
    /// See [`Sort::workspace_len`].
    fn index_sort_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize;
}

/// The occurrences of each row of a batch: the result of a [`Sort`].
///
/// With `n` and `u` the two numbers of `counts`: row `rows[k]`, `k < u`, occurs at `positions[segments[k] .. segments[k + 1]]`, in rising
/// order, in the bags `bags[segments[k] .. segments[k + 1]]`; `rows` rises strictly, and `segments[u] = n`.
pub struct SortedIndices<D: Device> {
    /// Linear row numbers, each once. Capacity: the number of ids.
    pub rows: D::Buffer<u64>,
    /// The bounds of each row's occurrences. Capacity: the number of ids, and one.
    pub segments: D::Buffer<u32>,
    /// Positions in `indices`, ordered by row.
    pub positions: D::Buffer<u32>,
    /// The bag of each of these positions, key-major.
    pub bags: D::Buffer<u32>,
    /// The number of counted ids of each bag: without padding and bad ids. Capacity: the number of bags.
    pub counted: D::Buffer<u32>,
    /// The number of counted ids of all bags, and the number of rows.
    pub counts: D::Buffer<u32>,
    capacity: usize,
}

impl<D: Device> SortedIndices<D> {
    /// Room for the order of `capacity` ids in `num_bags` bags.
    ///
    /// # Errors
    /// Those of [`Device::alloc`].
    pub fn new(device: &D, capacity: usize, num_bags: usize) -> Result<Self> {
        Ok(Self {
            rows: device.alloc(capacity)?,
            segments: device.alloc(sum([capacity, 1]))?,
            positions: device.alloc(capacity)?,
            bags: device.alloc(capacity)?,
            counted: device.alloc(num_bags)?,
            counts: device.alloc(2)?,
            capacity,
        })
    }

    /// The largest number of ids that there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Sorts the ids of a batch.
pub struct Sort<'a, D: Device, I: Index> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// The ids.
    pub bags: Bags<'a, D, I>,
    /// The order, with room for as many ids.
    pub sorted: &'a mut SortedIndices<D>,
    /// [`Self::workspace_len`] words.
    pub workspace: D::SliceMut<'a, u64>,
}

impl<D: IndexSortOps, I: Index> Sort<'_, D, I> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, before anything is written; [`Error::IndexOutOfRange`](crate::Error::IndexOutOfRange), here or at the next
    /// [`Device::synchronize`], with the order of all valid ids made. On the CPU also more ids of a table than 64 bits can count beside its rows: 2^32 for
    /// 2^32 rows, say.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.index_sort(self)
    }

    /// Checks shapes; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        use super::Extent;
        const OP: &str = "index_sort";
        self.bags.check(OP, self.tables.as_ref())?;
        let n = self.bags.num_indices();
        expect_at_least(OP, "sorted.capacity", self.sorted.capacity, n)?;
        expect_size(OP, "sorted.counts", self.sorted.counts.extent(), 2)?;
        let buffers = [
            ("sorted.rows", self.sorted.rows.extent(), n),
            ("sorted.segments", self.sorted.segments.extent(), n + 1),
            ("sorted.positions", self.sorted.positions.extent(), n),
            ("sorted.bags", self.sorted.bags.extent(), n),
            ("sorted.counted", self.sorted.counted.extent(), self.bags.offsets.extent() - 1),
            ("workspace", self.workspace.extent(), Self::workspace_len(backend, self.tables.as_ref(), n)),
        ];
        buffers.into_iter().try_for_each(|(name, extent, needed)| expect_at_least(OP, name, extent, needed))
    }

    /// The 8-byte words of workspace for a batch of `num_indices` ids.
    pub fn workspace_len(backend: &D, tables: &TableBatch, num_indices: usize) -> usize {
        backend.index_sort_workspace_len(tables, num_indices)
    }

    /// The least number of bytes: ids and offsets read, the order written.
    pub fn bytes_moved(&self) -> usize {
        let (ids, bags) = (self.bags.num_indices(), self.bags.num_bags(self.tables.as_ref()));
        sum([product([sum([ids, bags, 1]), size_of::<I>()]), product([ids, 8 + 4 + 4 + 4])])
    }

    /// None: the sort is integer work.
    pub fn flops(&self) -> usize {
        0
    }
}
