//! The bags of ids of a batch.

use super::tables::TableBatch;
use super::views::{Extent, Views};
use crate::dtype::Index;
use crate::error::{Result, expect_size, invalid};
use crate::jagged::Jagged;
use crate::size::product;

/// The largest number of ids or bags of a call.
const MAX_BAGS: usize = u32::MAX as usize - 1;

/// The ids of a batch on a device: see [`Jagged`](crate::Jagged) for the layout.
///
/// The contents are checked where they are read: wrong offsets are an error, a bad id is skipped
/// and reported.
pub struct Bags<'a, V: Views, I: Index> {
    /// The number of samples.
    pub batch_size: usize,
    /// All ids, bag after bag.
    pub indices: V::Slice<'a, I>,
    /// Whether there may be room behind the last bag in `indices` and `per_sample_weights`, which
    /// then is not read: so that batches with more or fewer ids can be of the same sizes, as the
    /// ops of a recorded step are.
    pub has_slack: bool,
    /// The bounds of the bags, one more than there are bags.
    pub offsets: V::Slice<'a, I>,
    /// A factor for every id.
    pub per_sample_weights: Option<V::Slice<'a, f32>>,
}

impl<V: Views, I: Index> Clone for Bags<'_, V, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<V: Views, I: Index> Copy for Bags<'_, V, I> {}

/// Where views are Rust slices, as on the CPU, the bags of a checked batch are used where they lie.
impl<'a, V, I: Index> From<&'a Jagged<I>> for Bags<'a, V, I>
where
    V: Views<Slice<'a, I> = &'a [I]> + Views<Slice<'a, f32> = &'a [f32]>,
{
    fn from(bags: &'a Jagged<I>) -> Self {
        Self {
            batch_size: bags.batch_size(),
            indices: bags.indices(),
            has_slack: false,
            offsets: bags.offsets(),
            per_sample_weights: bags.per_sample_weights(),
        }
    }
}

impl<V: Views, I: Index> Bags<'_, V, I> {
    /// The same bags, borrowed for a shorter time.
    pub fn reborrow(&self) -> Bags<'_, V, I> {
        Bags {
            batch_size: self.batch_size,
            indices: V::reborrow(&self.indices),
            has_slack: self.has_slack,
            offsets: V::reborrow(&self.offsets),
            per_sample_weights: self.per_sample_weights.as_ref().map(V::reborrow),
        }
    }

    /// The number of ids, slack included.
    pub fn num_indices(&self) -> usize {
        self.indices.extent()
    }

    /// The number of bags of all features.
    pub(crate) fn num_bags(&self, tables: &TableBatch) -> usize {
        product([tables.features().len(), self.batch_size])
    }

    pub(crate) fn check(&self, op: &'static str, tables: &TableBatch) -> Result<()> {
        let bags = self.num_bags(tables);
        if self.num_indices() > MAX_BAGS || bags > MAX_BAGS {
            return Err(invalid(op, "bags", "more than 2^32 - 2 ids or bags: split the batch"));
        }
        expect_size(op, "bags.offsets", self.offsets.extent(), bags + 1)?;
        if let Some(weights) = self.per_sample_weights {
            expect_size(op, "bags.per_sample_weights", weights.extent(), self.num_indices())?;
            if tables.has_max() {
                return Err(invalid(op, "bags.per_sample_weights", "max pooling takes no weights"));
            }
        }
        Ok(())
    }
}
