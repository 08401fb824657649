//! The bags of ids of a batch.

use std::ops::Range;

use super::device::Device;
use super::tables::{Table, TableBatch};
use super::views::{Memory, View};
use crate::dtype::Index;
use crate::error::{Error, OffsetRule, Result, expect_size, invalid};
use crate::jagged::{Jagged, check_offsets_of};
use crate::size::{product, sum};

/// The number of bags whose bounds are read at once.
const BAGS_AT_ONCE: usize = 64;
/// The largest number of ids or bags of a call.
const MAX_BAGS: usize = u32::MAX as usize - 1;
/// The largest number of rows of a table that ids of `u32` look up. Ops read such an id as the
/// `i32` of the same bits, which is a row of every table up to this size.
const MAX_ROWS_OF_U32: usize = 1 << 31;

/// The ids of a batch on a device, or on the [`Host`](super::Host). [`Jagged`] describes the
/// layout.
///
/// Ids and offsets are `i32`, `i64` or `u32`, each of its own type. Lengths in place of offsets
/// make a [`Jagged`], which converts to bags.
///
/// Ops check the contents when they read them: wrong offsets are an error, a bad id is skipped and
/// reported.
///
/// ```
/// use bagdot::Cpu;
/// use bagdot::ops::Bags;
/// // Two features, two samples, key-major: the bags [7, 9] and [], [7] and [3].
/// let (ids, offsets) = (vec![7_u32, 9, 7, 3], [0_i64, 2, 2, 3, 4]);
/// let bags: Bags<'_, Cpu, u32> = Bags::new(2, &ids, &offsets);
/// assert_eq!((bags.batch_size, bags.num_indices()), (2, 4));
/// ```
#[non_exhaustive]
pub struct Bags<'a, M: Memory, I: Index> {
    /// The number of samples.
    pub batch_size: usize,
    /// All ids, `[num_indices]`: bag after bag, and feature after feature.
    pub indices: View<'a, M, I>,
    /// The bounds of the `num_features * batch_size` bags, as positions in `indices`.
    pub offsets: Offsets<'a, M>,
    /// The factor of every id, `[num_indices]`; `None` for factors of 1.
    pub per_sample_weights: Option<View<'a, M, f32>>,
    /// True if `indices` and `per_sample_weights` may have slack: elements after the last bag,
    /// which are not read. Slack gives batches with different numbers of ids the same sizes, which
    /// the ops of a recorded step need.
    pub has_slack: bool,
    /// True for ids of `u32` that have become the `i32` of the same bits.
    pub(crate) has_unsigned_ids: bool,
}

/// The bounds of bags: bag `k` holds the ids at `offset k .. offset k + 1`.
///
/// There is one offset more than bags if they are made from CSR offsets, one for each bag if they
/// are made from starts, and none in memory for bags of equal length. Offsets may have another type
/// than ids.
pub struct Offsets<'a, M: Memory>(pub(crate) OffsetsOf<'a, M>);

/// The kinds of offsets.
pub(crate) enum OffsetsOf<'a, M: Memory> {
    /// Offsets of `i32`.
    I32(View<'a, M, i32>, End),
    /// Offsets of `i64`.
    I64(View<'a, M, i64>, End),
    /// Offsets of `u32`.
    U32(View<'a, M, u32>, End),
    /// Bags of equal length: offset `k` is `k` times this.
    Length(usize),
}

/// The end of the last bag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// There is an offset for it.
    Given,
    /// It is the number of ids.
    Implied,
}

impl<M: Memory, I: Index> Clone for Bags<'_, M, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Memory, I: Index> Copy for Bags<'_, M, I> {}

impl<M: Memory> Clone for Offsets<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Memory> Copy for Offsets<'_, M> {}

impl<M: Memory> Clone for OffsetsOf<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Memory> Copy for OffsetsOf<'_, M> {}

/// Evaluates an expression for the values of offsets of any type, with `$length` for those of bags
/// of equal length.
macro_rules! with_offsets {
    (
        $offsets:expr,
        ($values:ident, $end:ident) => $body:expr,
        $length:ident => $of_length:expr
    ) => {
        match $offsets.0 {
            $crate::ops::bags::OffsetsOf::I32($values, $end) => $body,
            $crate::ops::bags::OffsetsOf::I64($values, $end) => $body,
            $crate::ops::bags::OffsetsOf::U32($values, $end) => $body,
            $crate::ops::bags::OffsetsOf::Length($length) => $of_length,
        }
    };
}
pub(crate) use with_offsets;

impl<'a, M: Memory> Offsets<'a, M> {
    /// Returns the offsets if they are in memory as `i64`.
    pub fn as_i64(&self) -> Option<View<'a, M, i64>> {
        match self.0 {
            OffsetsOf::I64(values, _) => Some(values),
            _ => None,
        }
    }

    /// Returns the number of offsets in memory; 0 for bags of equal length.
    pub(crate) fn len(&self) -> usize {
        with_offsets!(self, (values, _end) => values.len(), _length => 0)
    }

    /// Returns the number of bags of `num_indices` ids; `None` if it is not known.
    pub(crate) fn num_bags(&self, num_indices: usize) -> Option<usize> {
        with_offsets!(self, (values, end) => match end {
            End::Given => values.len().checked_sub(1),
            End::Implied => Some(values.len()),
        }, length => num_indices.checked_div(length))
    }

    /// Checks the number of offsets against the features, for an op of this name.
    fn check<I: Index>(
        &self,
        op: &'static str,
        bags: &Bags<'_, M, I>,
        features: usize,
    ) -> Result<()> {
        let (samples, ids) = (bags.batch_size, bags.num_indices());
        let num_bags = product([features, samples]);
        with_offsets!(self, (values, end) => {
            let (wanted, rule) = match end {
                End::Given => (num_bags + 1, "one more than bags"),
                End::Implied => (num_bags, "one for each bag"),
            };
            if values.len() != wanted {
                let reason = format!(
                    "{} of them, but {features} features x {samples} samples need {wanted} \
                     offsets, {rule}",
                    values.len()
                );
                return Err(invalid(op, "bags.offsets", reason));
            }
        }, length => {
            let wanted = product([num_bags, length]);
            if ids < wanted || (ids > wanted && !bags.has_slack) {
                let reason = format!(
                    "{ids} of them, but {features} features x {samples} samples of {length} ids \
                     each need {wanted}"
                );
                return Err(invalid(op, "bags.indices", reason));
            }
        });
        Ok(())
    }
}

impl<'a, M: Memory<Address = ()>> Offsets<'a, M> {
    /// Returns the offset with this number. `num_indices` is the number of ids.
    #[inline(always)]
    pub(crate) fn value(&self, number: usize, num_indices: usize) -> i64 {
        with_offsets!(self, (values, _end) => {
            values.get(number).map_or(num_indices as i64, |offset| offset.to_i64())
        }, length => (number * length) as i64)
    }

    /// Returns the same as a position, 0 for a negative offset.
    #[inline(always)]
    pub(crate) fn at(&self, number: usize, num_indices: usize) -> usize {
        usize::try_from(self.value(number, num_indices)).unwrap_or(0)
    }

    /// Returns whether every bag has one id, and the first one is at position 0.
    pub(crate) fn are_of_one_id(&self) -> bool {
        with_offsets!(self, (values, end) => {
            let mut numbered = values.iter().zip(0..);
            // Without an offset for it, the last bag may have more ids.
            end == End::Given && numbered.all(|(offset, k)| offset.to_i64() == k)
        }, length => length == 1)
    }

    /// Iterates over the positions of the ids of some bags.
    #[inline(always)]
    pub(crate) fn each_bag(self, bags: Range<usize>, num_indices: usize) -> EachBag<'a, M> {
        EachBag { offsets: self, bags, num_indices, place: 0, bounds: [0; BAGS_AT_ONCE + 1] }
    }

    /// Writes the offsets from number `first` on, as positions. It stays a function of its own: the
    /// loops that call it are compiled many times.
    #[inline(never)]
    fn read(&self, first: usize, num_indices: usize, positions: &mut [usize]) {
        with_offsets!(self, (values, _end) => {
            let there = values.get(first..).unwrap_or(&[]);
            let len = positions.len().min(there.len());
            let (read, implied) = positions.split_at_mut(len);
            for (position, offset) in read.iter_mut().zip(there) {
                *position = offset.to_i64().max(0) as usize;
            }
            implied.fill(num_indices);
        }, length => {
            for (position, number) in positions.iter_mut().zip(first..) {
                *position = number * length;
            }
        });
    }

    /// Returns the end of the last of `num_bags` bags; `None` if it is negative.
    pub(crate) fn end(&self, num_bags: usize, num_indices: usize) -> Option<usize> {
        usize::try_from(self.value(num_bags, num_indices)).ok()
    }

    /// Checks that the offsets start at 0, never decrease and end at `num_indices`.
    /// The error names `op`.
    pub(crate) fn check_values(&self, op: &'static str, num_indices: usize) -> Result<()> {
        with_offsets!(self, (values, end) => match end {
            End::Given => check_offsets_of(op, &values, num_indices),
            End::Implied => {
                let Some(&last) = values.last() else {
                    return match num_indices {
                        0 => Ok(()),
                        _ => Err(invalid(op, "bags.offsets", "none, but there are ids")),
                    };
                };
                let last_start = last.to_row().unwrap_or(0);
                check_offsets_of(op, &values, last_start)?;
                if last_start > num_indices {
                    let rule = OffsetRule::NotBelow(last.to_i64());
                    let (position, value) = (values.len(), num_indices as i64);
                    return Err(Error::InvalidOffsets { op, position, value, rule });
                }
                Ok(())
            }
        }, _length => Ok(()))
    }
}

/// An iterator over the positions of the ids of successive bags. It reads the bounds of some bags
/// at once, so that it branches on the type of the offsets once for all of them.
pub(crate) struct EachBag<'a, M: Memory> {
    offsets: Offsets<'a, M>,
    /// The bags to come.
    bags: Range<usize>,
    num_indices: usize,
    /// The place of the next bag in `bounds`.
    place: usize,
    bounds: [usize; BAGS_AT_ONCE + 1],
}

impl<M: Memory<Address = ()>> Iterator for EachBag<'_, M> {
    type Item = Range<usize>;

    #[inline(always)]
    fn next(&mut self) -> Option<Range<usize>> {
        let bag = self.bags.next()?;
        if self.place == 0 {
            let bounds = &mut self.bounds[..=BAGS_AT_ONCE.min(self.bags.len() + 1)];
            self.offsets.read(bag, self.num_indices, bounds);
        }
        let positions = self.bounds[self.place]..self.bounds[self.place + 1];
        self.place = (self.place + 1) % BAGS_AT_ONCE;
        Some(positions)
    }
}

impl<'a, M: Memory, O: Index> From<View<'a, M, O>> for Offsets<'a, M> {
    fn from(values: View<'a, M, O>) -> Self {
        O::offsets(values)
    }
}

impl<'a, M: Memory<Address = ()>, O: Index> From<&'a [O]> for Offsets<'a, M> {
    fn from(values: &'a [O]) -> Self {
        O::offsets(View::from(values))
    }
}

impl<M: Memory> std::fmt::Debug for Offsets<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        with_offsets!(
            self,
            (values, end) => write!(f, "Offsets({values:?}, last {end:?})"),
            length => write!(f, "Offsets(bags of {length})")
        )
    }
}

/// Views the bags of a checked batch in memory of the host, without a copy.
impl<'a, M: Memory<Address = ()>, I: Index> From<&'a Jagged<I>> for Bags<'a, M, I> {
    fn from(bags: &'a Jagged<I>) -> Self {
        let mut view = Self::new(bags.batch_size(), bags.indices(), bags.offsets());
        view.per_sample_weights = bags.per_sample_weights().map(View::from);
        view
    }
}

impl<'a, M: Memory, I: Index> Bags<'a, M, I> {
    /// Makes bags of `batch_size` samples from their ids, bag after bag and feature after feature,
    /// and their CSR offsets, `[num_features * batch_size + 1]`: the first is 0 and the last the
    /// number of ids. There are no per-sample weights and no slack.
    pub fn new<O: Index>(
        batch_size: usize,
        indices: impl Into<View<'a, M, I>>,
        offsets: impl Into<View<'a, M, O>>,
    ) -> Self {
        Self::with_offsets(batch_size, indices.into(), Offsets::from(offsets.into()))
    }

    /// Makes bags of ids and the first position of each bag, `[num_features * batch_size]`, as
    /// `torch.nn.EmbeddingBag` takes them. The last bag ends with the ids. Positions count through
    /// the ids of all features: where there is one call for each feature, add the number of ids of
    /// those before. The rest is as in [`Self::new`].
    pub fn from_starts<O: Index>(
        batch_size: usize,
        indices: impl Into<View<'a, M, I>>,
        starts: impl Into<View<'a, M, O>>,
    ) -> Self {
        let offsets = match Offsets::from(starts.into()).0 {
            OffsetsOf::I32(starts, _) => OffsetsOf::I32(starts, End::Implied),
            OffsetsOf::I64(starts, _) => OffsetsOf::I64(starts, End::Implied),
            OffsetsOf::U32(starts, _) => OffsetsOf::U32(starts, End::Implied),
            OffsetsOf::Length(length) => OffsetsOf::Length(length),
        };
        Self::with_offsets(batch_size, indices.into(), Offsets(offsets))
    }

    /// Makes bags of `length` ids each from ids `[num_features, batch_size, length]`, of which
    /// `torch.nn.EmbeddingBag` takes those of one feature as a matrix. Nothing is read from memory
    /// but the ids. A matrix of samples by features must be transposed. The rest is as in
    /// [`Self::new`].
    pub fn of_length(batch_size: usize, indices: impl Into<View<'a, M, I>>, length: usize) -> Self {
        Self::with_offsets(batch_size, indices.into(), Offsets(OffsetsOf::Length(length)))
    }

    fn with_offsets(batch_size: usize, indices: View<'a, M, I>, offsets: Offsets<'a, M>) -> Self {
        Self {
            batch_size,
            indices,
            offsets,
            per_sample_weights: None,
            has_slack: false,
            has_unsigned_ids: I::MAX == u64::from(u32::MAX),
        }
    }

    /// Gives every id a factor, `[num_indices]`. By default every factor is 1.
    pub fn weighted(self, per_sample_weights: impl Into<View<'a, M, f32>>) -> Self {
        Self { per_sample_weights: Some(per_sample_weights.into()), ..self }
    }

    /// Says that there may be slack after the last bag; see [`Self::has_slack`]. By default ids
    /// there are an error.
    pub fn with_slack(self) -> Self {
        Self { has_slack: true, ..self }
    }

    /// Returns the number of ids, slack included.
    pub fn num_indices(&self) -> usize {
        self.indices.len()
    }

    /// Returns the number of bags of all features.
    pub(crate) fn num_bags(&self, tables: &TableBatch) -> usize {
        product([tables.features().len(), self.batch_size])
    }

    /// Returns the number of bytes of ids, offsets and factors.
    pub(crate) fn bytes(&self) -> usize {
        let offsets = with_offsets!(
            self.offsets,
            (values, _end) => size_of_elements(&values),
            _length => 0
        );
        let weights = self.per_sample_weights.as_ref().map_or(0, size_of_elements);
        sum([size_of_elements(&self.indices), offsets, weights])
    }

    /// Checks the sizes against the tables, for an op of this name.
    pub(crate) fn check(&self, op: &'static str, tables: &TableBatch) -> Result<()> {
        if self.num_indices() > MAX_BAGS || self.num_bags(tables) > MAX_BAGS {
            return Err(invalid(op, "bags", "more than 2^32 - 2 ids or bags: split the batch"));
        }
        self.offsets.check(op, self, tables.features().len())?;
        let has_more_rows = |table: &Table| table.num_embeddings > MAX_ROWS_OF_U32;
        if self.has_unsigned_ids && tables.tables().iter().any(has_more_rows) {
            let reason = "of u32, but a table has more than 2^31 rows: ids of i64 name them all";
            return Err(invalid(op, "bags.indices", reason));
        }
        if let Some(weights) = self.per_sample_weights {
            expect_size(op, "bags.per_sample_weights", weights.len(), self.num_indices())?;
            if tables.has_max() {
                return Err(invalid(op, "bags.per_sample_weights", "max pooling takes no weights"));
            }
        }
        Ok(())
    }
}

/// The ids of a batch in buffers of a device, made by [`Jagged::to_device`].
pub struct OwnedBags<D: Device, I: Index> {
    batch_size: usize,
    indices: D::Buffer<I>,
    offsets: D::Buffer<I>,
    per_sample_weights: Option<D::Buffer<f32>>,
}

impl<D: Device, I: Index> OwnedBags<D, I> {
    /// Views the batch as the ops take it.
    pub fn view(&self) -> Bags<'_, D, I> {
        let bags = Bags::new(self.batch_size, D::view(&self.indices), D::view(&self.offsets));
        Bags { per_sample_weights: self.per_sample_weights.as_ref().map(D::view), ..bags }
    }
}

impl<I: Index> Jagged<I> {
    /// Copies the batch to a device.
    ///
    /// # Errors
    /// Propagates errors of [`Device::to_device`].
    pub fn to_device<D: Device>(&self, device: &D) -> Result<OwnedBags<D, I>> {
        let weights = self.per_sample_weights();
        Ok(OwnedBags {
            batch_size: self.batch_size(),
            indices: device.to_device(self.indices())?,
            offsets: device.to_device(self.offsets())?,
            per_sample_weights: weights.map(|weights| device.to_device(weights)).transpose()?,
        })
    }
}

/// Returns the number of bytes of a view.
fn size_of_elements<M: Memory, T>(view: &View<'_, M, T>) -> usize {
    product([view.len(), size_of::<T>()])
}
