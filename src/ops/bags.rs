//! The bags of ids of a batch.

use super::tables::TableBatch;
use super::views::{Extent, Views};
use crate::dtype::Index;
use crate::error::{Result, expect_size, invalid};
use crate::jagged::Jagged;
use crate::size::product;

/// The largest number of ids or bags of a call.
const MAX_BAGS: usize = u32::MAX as usize - 1;

/// The ids of a batch on a device, or on the [`Host`](super::Host). [`Jagged`] describes the
/// layout.
///
/// Ops check the contents when they read them: wrong offsets are an error, a bad id is skipped and
/// reported.
pub struct Bags<'a, V: Views, I: Index> {
    /// The number of samples.
    pub batch_size: usize,
    /// All ids, bag after bag.
    pub indices: V::Slice<'a, I>,
    /// True if `indices` and `per_sample_weights` may have slack: elements after the last bag,
    /// which are not read. Slack gives batches with different numbers of ids the same sizes, which
    /// the ops of a recorded step need.
    pub has_slack: bool,
    /// The CSR offsets of the bags: one more than there are bags.
    pub offsets: V::Slice<'a, I>,
    /// The factor of every id; `None` for factors of 1.
    pub per_sample_weights: Option<V::Slice<'a, f32>>,
}

impl<V: Views, I: Index> Clone for Bags<'_, V, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<V: Views, I: Index> Copy for Bags<'_, V, I> {}

/// Views the bags of a checked batch without a copy. This needs views that are Rust slices, as
/// those of [`Cpu`](crate::Cpu) and [`Host`](super::Host) are.
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
    /// Reborrows the bags for a shorter time.
    pub fn reborrow(&self) -> Bags<'_, V, I> {
        Bags {
            batch_size: self.batch_size,
            indices: V::reborrow(&self.indices),
            has_slack: self.has_slack,
            offsets: V::reborrow(&self.offsets),
            per_sample_weights: self.per_sample_weights.as_ref().map(V::reborrow),
        }
    }

    /// Returns the number of ids, slack included.
    pub fn num_indices(&self) -> usize {
        self.indices.extent()
    }

    /// Returns the number of bags of all features.
    pub(crate) fn num_bags(&self, tables: &TableBatch) -> usize {
        product([tables.features().len(), self.batch_size])
    }

    /// Checks the sizes against the tables, for an op of this name.
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
