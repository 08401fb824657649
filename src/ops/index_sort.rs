//! Brings the ids of a batch into the order of the rows that they name, so that each row's
//! occurrences lie side by side.
//!
//! Ids become linear row numbers (rows counted through all tables) and are sorted stably with their
//! positions; padding and bad ids are left out. One sort serves every op that needs the order, and
//! can be made ahead of time, since it depends on the ids alone.

use std::sync::Arc;

use super::bags::Bags;
use super::device::Device;
use super::tables::{Feature, Table, TableBatch};
use super::views::Extent;
use crate::dtype::Index;
use crate::error::{Error, Result, expect_at_least, invalid};
use crate::size::{product, sum};

const OP: &str = "index_sort";
const ORDER: &str = "SortedIndices";

/// What a backend provides; call it through [`Sort::run`], which validates.
pub trait IndexSortOps: Device {
    /// See [`Sort`].
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()>;
    /// See [`Sort::workspace_len`].
    fn index_sort_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize;
}

/// The occurrences of each row of a batch: the result of a [`Sort`].
///
/// With `n` and `u` the two numbers of `counts`: row `rows[k]`, `k < u`, occurs at
/// `positions[segments[k] .. segments[k + 1]]`, in rising order, in the bags `bags[segments[k] ..
/// segments[k + 1]]`; `rows` rises strictly, and `segments[u] = n`.
///
/// The buffers belong to the order, and only a [`Sort`] writes them, so that ops can rely on their
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
    /// Room for the order of `capacity` ids in `num_bags` bags.
    ///
    /// # Errors
    /// Those of [`Device::alloc`].
    pub fn new(device: &D, capacity: usize, num_bags: usize) -> Result<Self> {
        Self::with_buffers(
            device,
            device.alloc(capacity)?,
            device.alloc(sum([capacity, 1]))?,
            [device.alloc(capacity)?, device.alloc(capacity)?, device.alloc(num_bags)?],
        )
    }

    /// Makes an order of existing buffers, whatever they hold: for rows, for segments, and for
    /// positions, bags and counted ids.
    ///
    /// # Errors
    /// Returns an error if a buffer for segments, positions or bags has room for fewer ids than the
    /// one for rows, and the errors of [`Device::alloc`].
    pub fn with_buffers(
        device: &D,
        rows: D::Buffer<u64>,
        segments: D::Buffer<u32>,
        [positions, bags, bag_lengths]: [D::Buffer<u32>; 3],
    ) -> Result<Self> {
        let capacity = rows.extent();
        expect_at_least(ORDER, "segments", segments.extent(), sum([capacity, 1]))?;
        expect_at_least(ORDER, "positions", positions.extent(), capacity)?;
        expect_at_least(ORDER, "bags", bags.extent(), capacity)?;
        Ok(Self {
            rows,
            segments,
            positions,
            bags,
            bag_lengths,
            counts: device.alloc(2)?,
            of: None,
        })
    }

    /// The largest number of ids that there is room for.
    pub fn capacity(&self) -> usize {
        self.rows.extent()
    }

    /// Linear row numbers, each once. Capacity: the number of ids.
    pub fn rows(&self) -> D::Slice<'_, u64> {
        D::view(&self.rows)
    }

    /// The bounds of each row's occurrences. Capacity: the number of ids, and one.
    pub fn segments(&self) -> D::Slice<'_, u32> {
        D::view(&self.segments)
    }

    /// Positions in `indices`, ordered by row.
    pub fn positions(&self) -> D::Slice<'_, u32> {
        D::view(&self.positions)
    }

    /// The bag of each of these positions, key-major.
    pub fn bags(&self) -> D::Slice<'_, u32> {
        D::view(&self.bags)
    }

    /// The number of counted ids of each bag, without padding and bad ids. The capacity is the
    /// number of bags.
    pub fn bag_lengths(&self) -> D::Slice<'_, u32> {
        D::view(&self.bag_lengths)
    }

    /// The number of counted ids of all bags, and the number of rows.
    pub fn counts(&self) -> D::Slice<'_, u32> {
        D::view(&self.counts)
    }

    /// Refuses bags that this is not the order of.
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
                "the order of {num_indices} ids of {batch_size} samples, but the batch has {} of {}: run `index_sort` on it first",
                wanted.num_indices, wanted.batch_size
            ),
        };
        Err(invalid(op, "sorted", reason))
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
    /// Wrong shapes, before anything is written; [`Error::IndexOutOfRange`], here or at the next
    /// [`Device::synchronize`], with the order of all valid ids made. On the CPU also more ids of a
    /// table than 64 bits can count beside its rows: 2^32 for 2^32 rows, say.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        let Self { tables, bags, sorted, mut workspace } = self;
        let of = Sorted::new(tables.as_ref(), &bags);
        sorted.of = None;
        let workspace = D::reborrow_mut(&mut workspace);
        let result = backend.index_sort(Sort {
            tables,
            bags: bags.reborrow(),
            sorted: &mut *sorted,
            workspace,
        });
        if matches!(result, Ok(()) | Err(Error::IndexOutOfRange { .. })) {
            sorted.of = Some(of);
        }
        result
    }

    /// Checks shapes; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        self.bags.check(OP, self.tables.as_ref())?;
        let n = self.bags.num_indices();
        expect_at_least(OP, "sorted.capacity", self.sorted.capacity(), n)?;
        expect_at_least(
            OP,
            "sorted.bag_lengths",
            self.sorted.bag_lengths.extent(),
            self.bags.offsets.extent() - 1,
        )?;
        let needed = Self::workspace_len(backend, self.tables.as_ref(), n);
        expect_at_least(OP, "workspace", self.workspace.extent(), needed)
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
}
