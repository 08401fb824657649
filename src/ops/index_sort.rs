//! A sort of the ids of a batch by row, which makes each row's occurrences contiguous.
//!
//! Ids become linear row numbers (rows counted through all tables) and are sorted stably with their
//! positions. Padding and bad ids are left out. One sort serves every op that needs the order, and
//! may run ahead of time, since it depends on the ids alone.
//!
//! # Example
//!
//! Two samples with the bags `[3, 1]` and `[3]`: row 1 occurs at position 1, row 3 at positions 0
//! and 2.
//!
//! ```
//! use bagdot::Cpu;
//! use bagdot::ops::index_sort::{Sort, SortedIndices};
//! use bagdot::ops::{Bags, Pooling, Table, TableBatch};
//!
//! let cpu = Cpu::on_current_thread();
//! let table = Table { num_embeddings: 4, embedding_dim: 2 };
//! let tables = TableBatch::one_feature_each(vec![table], Pooling::Sum)?;
//! let bags = Bags::new(2, &[3_i64, 1, 3], &[0_i64, 2, 3]);
//!
//! let mut sorted = SortedIndices::new(&cpu, 3, 2)?; // three ids in two bags
//! let mut workspace = vec![0_u64; Sort::<Cpu, i64>::workspace_len(&cpu, &tables, 3)];
//! Sort::new(&tables, bags, &mut sorted, &mut workspace).run(&cpu)?;
//!
//! assert_eq!(sorted.counts()[..], [3, 2]); // three occurrences of two rows
//! assert_eq!(sorted.rows()[..2], [1, 3]);
//! assert_eq!(sorted.segments()[..3], [0, 1, 3]);
//! assert_eq!(sorted.positions()[..3], [1, 0, 2]);
//! assert_eq!(sorted.bags()[..3], [0, 0, 1]);
//! assert_eq!(sorted.bag_lengths()[..2], [2, 1]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use std::sync::Arc;

use super::bags::Bags;
use super::device::Device;
use super::tables::{Feature, Table, TableBatch};
use super::views::{Extent, View, ViewMut};
use crate::dtype::Index;
use crate::error::{Error, Result, expect_at_least, expect_size, invalid};
use crate::size::{product, sum};

/// The name of the op in errors.
pub(crate) const OP: &str = "index_sort";
const ORDER: &str = "SortedIndices";

/// The backend's side of the op. Call it through [`Sort::run`], which validates the arguments.
pub trait IndexSortOps: Device {
    /// Runs [`Sort`] with arguments that are valid.
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()>;
    /// Computes [`Sort::workspace_len`].
    fn index_sort_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize;
}

/// The occurrences of each row of a batch: the result of a [`Sort`].
///
/// Let `n` and `u` be the two numbers of `counts`. Row `rows[k]`, `k < u`, occurs at
/// `positions[segments[k] .. segments[k + 1]]`, in increasing order, in the bags `bags[segments[k]
/// .. segments[k + 1]]`. `rows` increases strictly, and `segments[u] = n`.
///
/// The buffers are private, and only a [`Sort`] writes them, so that ops can rely on their
/// contents. The order records the tables, features and sizes of its batch, and ops refuse it for a
/// batch with others.
pub struct SortedIndices<D: Device> {
    pub(crate) rows: D::Buffer<u64>,
    pub(crate) segments: D::Buffer<u32>,
    pub(crate) positions: D::Buffer<u32>,
    pub(crate) bags: D::Buffer<u32>,
    pub(crate) bag_lengths: D::Buffer<u32>,
    pub(crate) counts: D::Buffer<u32>,
    /// The batch that was sorted; `None` before the first sort, and after one that failed to make
    /// an order.
    of: Option<Sorted>,
}

/// The properties of a sorted batch that the host knows.
#[derive(Clone, Debug, PartialEq)]
struct Sorted {
    tables: Arc<[Table]>,
    features: Arc<[Feature]>,
    batch_size: usize,
    num_indices: usize,
}

impl Sorted {
    fn new<D: Device, I: Index>(tables: &TableBatch, bags: &Bags<'_, D, I>) -> Self {
        Self {
            tables: Arc::clone(tables.shared_tables()),
            features: Arc::clone(tables.shared_features()),
            batch_size: bags.batch_size,
            num_indices: bags.num_indices(),
        }
    }
}

impl<D: Device> SortedIndices<D> {
    /// Allocates an order for at most `capacity` ids in at most `num_bags` bags, those of all
    /// features together.
    ///
    /// # Errors
    /// Propagates errors of [`Device::alloc`].
    pub fn new(device: &D, capacity: usize, num_bags: usize) -> Result<Self> {
        Self::with_buffers(
            device,
            device.alloc(capacity)?,
            device.alloc(sum([capacity, 1]))?,
            [device.alloc(capacity)?, device.alloc(capacity)?, device.alloc(num_bags)?],
            device.alloc(2)?,
        )
    }

    /// Makes an order from existing buffers, whatever they hold: `rows`, `segments`, the three for
    /// positions, bags and bag lengths, and two `counts`. Buffers of memory of the caller are made
    /// by `Buffer::from_raw` of the backend.
    ///
    /// # Errors
    /// Returns an error if a buffer for segments, positions or bags has room for fewer ids than the
    /// one for rows, or if there are not two counts. Propagates errors of [`Device::upload`].
    pub fn with_buffers(
        device: &D,
        rows: D::Buffer<u64>,
        segments: D::Buffer<u32>,
        [positions, bags, bag_lengths]: [D::Buffer<u32>; 3],
        mut counts: D::Buffer<u32>,
    ) -> Result<Self> {
        let capacity = rows.extent();
        expect_at_least(ORDER, "segments", segments.extent(), sum([capacity, 1]))?;
        expect_at_least(ORDER, "positions", positions.extent(), capacity)?;
        expect_at_least(ORDER, "bags", bags.extent(), capacity)?;
        expect_size(ORDER, "counts", counts.extent(), 2)?;
        device.upload(&[0, 0], D::view_mut(&mut counts))?;
        Ok(Self { rows, segments, positions, bags, bag_lengths, counts, of: None })
    }

    /// Returns the largest number of ids that the buffers have room for.
    pub fn capacity(&self) -> usize {
        self.rows.extent()
    }

    /// Returns whether the buffers have room for so many ids in so many bags.
    pub(crate) fn has_room(&self, num_indices: usize, num_bags: usize) -> bool {
        self.capacity() >= num_indices && self.bag_lengths.extent() >= num_bags
    }

    /// Returns the linear row numbers, each once: [`Self::capacity`] elements, of which `u` are
    /// set.
    pub fn rows(&self) -> View<'_, D, u64> {
        D::view(&self.rows)
    }

    /// Returns the bounds of each row's occurrences: [`Self::capacity`] elements and one, of which
    /// `u + 1` are set.
    pub fn segments(&self) -> View<'_, D, u32> {
        D::view(&self.segments)
    }

    /// Returns positions in `indices`, ordered by row: [`Self::capacity`] elements, of which `n`
    /// are set.
    pub fn positions(&self) -> View<'_, D, u32> {
        D::view(&self.positions)
    }

    /// Returns the bag of each of these positions, key-major: [`Self::capacity`] elements, of which
    /// `n` are set.
    pub fn bags(&self) -> View<'_, D, u32> {
        D::view(&self.bags)
    }

    /// Returns the length of each bag, one element for each bag: the number of its ids without
    /// padding and bad ids.
    pub fn bag_lengths(&self) -> View<'_, D, u32> {
        D::view(&self.bag_lengths)
    }

    /// Returns two numbers: `n`, that of the ids without padding and bad ids, and `u`, that of the
    /// rows.
    pub fn counts(&self) -> View<'_, D, u32> {
        D::view(&self.counts)
    }

    /// Returns an error if this is not the order of these bags.
    pub(crate) fn check<I: Index>(
        &self,
        op: &'static str,
        tables: &TableBatch,
        bags: &Bags<'_, D, I>,
    ) -> Result<()> {
        let wanted = Sorted::new(tables, bags);
        let reason = match &self.of {
            Some(of) if *of == wanted => return Ok(()),
            None => "nothing has been sorted: run `index_sort` on this batch first".to_owned(),
            Some(of) if of.tables != wanted.tables || of.features != wanted.features => {
                "the order of ids of other tables or features: run `index_sort` on this batch first"
                    .to_owned()
            }
            Some(Sorted { num_indices, batch_size, .. }) => format!(
                "the order of {num_indices} ids of {batch_size} samples, but the batch has {} of \
                 {}: run `index_sort` on it first",
                wanted.num_indices, wanted.batch_size
            ),
        };
        Err(invalid(op, "sorted", reason))
    }
}

/// The arguments of a sort of the ids of a batch.
#[non_exhaustive]
pub struct Sort<'a, D: Device, I: Index> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// The ids: `num_features * batch_size` bags.
    pub bags: Bags<'a, D, I>,
    /// The output: an order with room for at least as many ids and bags.
    pub sorted: &'a mut SortedIndices<D>,
    /// The workspace: at least [`Self::workspace_len`] words of 8 bytes.
    pub workspace: ViewMut<'a, D, u64>,
}

impl<'a, D: Device, I: Index> Sort<'a, D, I> {
    /// Makes the arguments of a sort. `sorted` is the output; see [`SortedIndices::new`].
    pub fn new(
        tables: &'a D::Tables,
        bags: Bags<'a, D, I>,
        sorted: &'a mut SortedIndices<D>,
        workspace: impl Into<ViewMut<'a, D, u64>>,
    ) -> Self {
        Self { tables, bags, sorted, workspace: workspace.into() }
    }
}

impl<D: IndexSortOps, I: Index> Sort<'_, D, I> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written. Reports
    /// [`Error::IndexOutOfRange`] here or at the next [`Device::synchronize`]; the order of all
    /// valid ids is then complete. On the CPU, returns an error if a row number and the
    /// position of an id among those of its table take more than 64 bits together: at most 2^32 ids
    /// of a table with 2^32 rows, for example.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        let Self { tables, bags, sorted, workspace } = self;
        let of = Sorted::new(tables.as_ref(), &bags);
        sorted.of = None;
        let result = backend.index_sort(Sort { tables, bags, sorted: &mut *sorted, workspace });
        if matches!(result, Ok(()) | Err(Error::IndexOutOfRange { .. })) {
            sorted.of = Some(of);
        }
        result
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        self.bags.check(OP, self.tables.as_ref())?;
        let n = self.bags.num_indices();
        expect_at_least(OP, "sorted.capacity", self.sorted.capacity(), n)?;
        expect_at_least(
            OP,
            "sorted.bag_lengths",
            self.sorted.bag_lengths.extent(),
            self.bags.num_bags(self.tables.as_ref()),
        )?;
        let needed = Self::workspace_len(backend, self.tables.as_ref(), n);
        expect_at_least(OP, "workspace", self.workspace.len(), needed)
    }

    /// Returns the number of 8-byte words of workspace for a batch of `num_indices` ids.
    pub fn workspace_len(backend: &D, tables: &TableBatch, num_indices: usize) -> usize {
        backend.index_sort_workspace_len(tables, num_indices)
    }

    /// Returns the least number of bytes moved: ids and offsets are read, the order is written.
    pub fn bytes_moved(&self) -> usize {
        sum([self.bags.bytes(), product([self.bags.num_indices(), 8 + 4 + 4 + 4])])
    }
}
