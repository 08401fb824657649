//! The gradients of table rows, read from a [`SparseGrad`] or summed from the rows' occurrences in
//! a batch.

use std::ops::Range;

use super::vector::{WIDE, clamp, load};
use crate::Cpu;
use crate::backend::cpu::runtime::erased::{AnyMatrix, ByElement, with_elements};
use crate::dtype::{Element, Index};
use crate::ops::index_sort::SortedIndices;
use crate::ops::optimizer::clamp_gradient;
use crate::ops::sparse_update::{CHUNK, PooledGrad, SparseGrad};
use crate::ops::{Matrix, Offsets, Pooling, TableBatch, View};
use crate::simd::{LANES, Lanes, prefetch_row};

/// The prefetch distance in occurrences.
const PREFETCH_OCCURRENCES: usize = 16;
/// The number of levels of the reduction tree above the chunks. They hold fewer than
/// `CHUNK^(LEVELS + 1)` = 2³⁶ occurrences; a batch has fewer than 2³², too many for one level less.
const LEVELS: usize = 5;

/// A source of the gradients of some table rows.
pub(crate) trait RowGradients: Copy + Sync {
    /// Specialises this source for one table, so that per-row code can skip the feature lookup.
    fn for_table(self, _table: usize) -> Self {
        self
    }

    /// Returns columns `columns` of the gradient of row `k`, where `k` counts the rows of this
    /// source. `N` and `WHOLE` are the size of the block, as in
    /// [`Blocks::block`](super::vector::Blocks::block).
    fn gradient<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        k: usize,
        columns: Range<usize>,
    ) -> [V::F32; N];
}

/// Gradients that have been summed before.
#[derive(Clone, Copy)]
pub(crate) struct SummedGradients<'a> {
    /// The start of each row's values.
    starts: &'a [u64],
    values: &'a [f32],
}

impl<'a> SummedGradients<'a> {
    /// Reads the rows of `grad`.
    pub(crate) fn new(grad: &'a SparseGrad<Cpu>) -> Self {
        Self { starts: &grad.starts, values: &grad.values }
    }
}

impl RowGradients for SummedGradients<'_> {
    #[inline(always)]
    fn gradient<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        k: usize,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        load::<V, f32, N, WHOLE>(lanes, &self.values[self.starts[k] as usize..][columns])
    }
}

/// A [`PooledGrad`] whose types are erased: no loop reads ids, and the type of the gradient is told
/// apart where it is read, because these loops are compiled for all types of weights already.
pub(crate) struct GradSource<'a> {
    pub(crate) tables: &'a TableBatch,
    pub(crate) sorted: &'a SortedIndices<Cpu>,
    batch_size: usize,
    offsets: Offsets<'a, Cpu>,
    num_indices: usize,
    per_sample_weights: Option<&'a [f32]>,
    grad_output: AnyMatrix<'a>,
    /// The leading dimension of `grad_output`.
    grad_output_ld: usize,
    /// The reciprocal of the loss scale, by which sums are multiplied; `None` for 1.
    factor: Option<f32>,
    argmax: Option<Matrix<'a, Cpu, u32>>,
    /// The bound of every element of `grad_output`.
    max_gradient: Option<f32>,
}

impl<'a> GradSource<'a> {
    /// Erases the types of `source`.
    #[inline]
    pub(crate) fn new<I: Index, G: Element>(source: PooledGrad<'a, Cpu, I, G>) -> Self {
        let PooledGrad { tables, bags, sorted, grad_output, loss_scale, argmax, max_gradient } =
            source;
        Self {
            tables,
            sorted,
            batch_size: bags.batch_size,
            offsets: bags.offsets,
            num_indices: bags.num_indices(),
            per_sample_weights: bags.per_sample_weights.map(View::as_slice),
            grad_output_ld: grad_output.ld,
            grad_output: ByElement::of(grad_output),
            factor: (loss_scale != 1.0).then_some(1.0 / loss_scale),
            argmax,
            max_gradient: max_gradient.map(|max| max * loss_scale),
        }
    }

    /// Returns the position of a bag's first id, 0 for an offset that is no position.
    #[inline(always)]
    fn bag_start(&self, bag: usize) -> usize {
        self.offsets.at(bag, self.num_indices)
    }
}

/// Gradients that are summed from the occurrences of each row in a batch. The contribution of an
/// occurrence is the gradient of its bag, clamped and weighted as the pooling asks.
#[derive(Clone, Copy)]
pub(crate) struct OccurrenceGradients<'a, 's> {
    source: &'s GradSource<'a>,
    /// From [`SortedIndices`](crate::ops::index_sort::SortedIndices): the start of each row's
    /// occurrences.
    segments: &'s [u32],
    /// From the same: the bag of each occurrence.
    bags: &'s [u32],
    /// The number of samples. Bag `feature * batch_size + sample` belongs to a feature and a
    /// sample, which a division gives back.
    batch_size: Divisor,
    /// Set if each contribution is the gradient of its bag as it is.
    is_plain: bool,
    /// The feature that looks up the current table, if it is the only one and plain.
    plain_feature: Option<PlainFeature>,
}

/// A feature each of whose contributions is the gradient of its bag as it is. Its first bag and its
/// first column of `grad_output` give the place of a gradient without a division per occurrence.
#[derive(Clone, Copy)]
struct PlainFeature {
    first_bag: u32,
    first_column: usize,
}

impl<'a, 's> OccurrenceGradients<'a, 's> {
    /// Sums the gradients of the rows of `source`.
    pub(crate) fn new(source: &'s GradSource<'a>) -> Self {
        let is_plain = source.max_gradient.is_none()
            && source.per_sample_weights.is_none()
            && source.tables.features().iter().all(|feature| feature.pooling == Pooling::Sum);
        let sorted = source.sorted;
        let num_occurrences = sorted.counts[0] as usize;
        Self {
            source,
            segments: &sorted.segments,
            bags: &sorted.bags[..num_occurrences],
            batch_size: Divisor::new(source.batch_size as u32),
            is_plain,
            plain_feature: None,
        }
    }

    /// Returns the feature and the sample of a bag.
    #[inline(always)]
    fn feature_and_sample(&self, bag: u32) -> (usize, usize) {
        let (feature, sample) = self.batch_size.divide(bag);
        (feature as usize, sample as usize)
    }

    /// Returns the start of a bag's gradient in `grad_output`. A bag of another table than the
    /// current one, which a prefetch may pass, gives any number.
    #[inline(always)]
    fn gradient_start(&self, bag: u32) -> usize {
        let (sample, first) = match self.plain_feature {
            Some(plain) => (bag.wrapping_sub(plain.first_bag) as usize, plain.first_column),
            None => {
                let (feature, sample) = self.feature_and_sample(bag);
                (sample, self.source.tables.column_offsets()[feature])
            }
        };
        sample * self.source.grad_output_ld + first
    }

    /// Prefetches some columns of the gradient of an occurrence's bag. The occurrence may be one of
    /// a later row, which is summed soon.
    #[inline(always)]
    fn prefetch(&self, occurrence: usize, columns: &Range<usize>) {
        if let Some(&bag) = self.bags.get(occurrence) {
            let start = self.gradient_start(bag) + columns.start;
            let grad = &self.source.grad_output;
            with_elements!(grad => prefetch_row(&grad.data, start, columns.len()));
        }
    }

    /// Returns the contribution of an occurrence to a block of columns of its row.
    #[inline(always)]
    fn contribution<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        occurrence: usize,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let grad = &self.source.grad_output;
        with_elements!(grad => {
            self.contribution_of::<V, _, N, WHOLE>(lanes, grad, occurrence, columns)
        })
    }

    /// Does [`Self::contribution`] with the gradient in its type.
    #[inline(always)]
    fn contribution_of<V: Lanes, E: Element, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        grad_output: &Matrix<'_, Cpu, E>,
        occurrence: usize,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let GradSource { tables, sorted, argmax, max_gradient, .. } = self.source;
        let bag = self.bags[occurrence] as usize;
        let (feature, sample) = self.feature_and_sample(self.bags[occurrence]);
        let first_column = tables.column_offsets()[feature];
        let output_columns = first_column + columns.start..first_column + columns.end;
        let grad = &grad_output.row(sample)[output_columns.clone()];
        if self.is_plain {
            return load::<V, E, N, WHOLE>(lanes, grad);
        }
        let pooling = tables.features()[feature].pooling;
        if pooling == Pooling::Max {
            // `argmax` holds, for each column, the position within the bag that the maximum came
            // from: the gradient goes to that occurrence alone. If these offsets are not those that
            // were sorted, the position may lie outside of the bag, and the subtraction may wrap.
            let start = self.source.bag_start(bag);
            let within = (sorted.positions[occurrence] as usize).wrapping_sub(start);
            let sources = argmax.map_or(&[][..], |argmax| &argmax.row(sample)[output_columns]);
            let mut routed = [0f32; WIDE * LANES];
            for ((routed, g), source) in routed.iter_mut().zip(grad).zip(sources) {
                *routed = if *source as usize == within {
                    clamp_gradient(g.to_f32(), *max_gradient)
                } else {
                    0.0
                };
            }
            return load::<V, f32, N, WHOLE>(lanes, &routed[..grad.len()]);
        }
        let mut contribution = load::<V, E, N, WHOLE>(lanes, grad);
        for g in &mut contribution {
            *g = clamp(lanes, *g, *max_gradient);
        }
        let weights = self.source.per_sample_weights;
        let weight = weights.map(|weights| weights[sorted.positions[occurrence] as usize]);
        let factor = match pooling {
            Pooling::Mean => Some(weight.unwrap_or(1.0) / sorted.bag_lengths[bag] as f32),
            _ => weight,
        };
        if let Some(factor) = factor {
            for g in &mut contribution {
                *g = lanes.mul(lanes.splat(factor), *g);
            }
        }
        contribution
    }
}

impl RowGradients for OccurrenceGradients<'_, '_> {
    fn for_table(self, table: usize) -> Self {
        let plain_feature = match self.source.tables.features_of(table) {
            [feature] if self.is_plain => Some(PlainFeature {
                first_bag: (feature * self.source.batch_size) as u32,
                first_column: self.source.tables.column_offsets()[*feature],
            }),
            _ => None,
        };
        Self { plain_feature, ..self }
    }

    #[inline(always)]
    fn gradient<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        k: usize,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let mut sum = self.sum::<V, N, WHOLE>(lanes, k, columns);
        if let Some(factor) = self.source.factor {
            sum.iter_mut().for_each(|sum| *sum = lanes.mul(*sum, lanes.splat(factor)));
        }
        sum
    }
}

impl OccurrenceGradients<'_, '_> {
    /// Returns the sum over the occurrences of row `k`.
    #[inline(always)]
    fn sum<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        k: usize,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let (start, end) = (self.segments[k] as usize, self.segments[k + 1] as usize);
        let mut chunk = start..(start + CHUNK).min(end);
        if self.plain_feature.is_some() && chunk.end == end {
            return self.sum_plain_chunk::<V, N, WHOLE>(lanes, chunk, columns);
        }
        let mut tree = None;
        // Other rows of one chunk and rows of many share a loop, so that the code that sums a
        // chunk, which is compiled for many types and widths, exists once.
        loop {
            let sum = match self.plain_feature.is_some() {
                true => self.sum_plain_chunk::<V, N, WHOLE>(lanes, chunk.clone(), columns.clone()),
                false => self.sum_chunk::<V, N, WHOLE>(lanes, chunk.clone(), columns.clone()),
            };
            if end - start <= CHUNK {
                return sum;
            }
            let tree = tree.get_or_insert_with(|| Tree::<V, N>::new(lanes));
            tree.push(lanes, sum);
            if chunk.end == end {
                return tree.total(lanes);
            }
            chunk = chunk.end..(chunk.end + CHUNK).min(end);
        }
    }

    /// Sums the contributions of some occurrences in order, starting from the first one.
    #[inline(always)]
    fn sum_chunk<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        occurrences: Range<usize>,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let mut sum = [lanes.splat(0.0); N];
        for (term, occurrence) in occurrences.enumerate() {
            self.prefetch(occurrence + PREFETCH_OCCURRENCES, &columns);
            let contribution = self.contribution::<V, N, WHOLE>(lanes, occurrence, columns.clone());
            // The first term is copied: added to 0, a `-0.0` would become `0.0`.
            match term {
                0 => sum = contribution,
                _ => add(lanes, &mut sum, contribution),
            }
        }
        sum
    }

    /// Sums as [`Self::sum_chunk`] does, for a plain feature. The loop has neither the division nor
    /// the branches of [`Self::contribution`].
    #[inline(always)]
    fn sum_plain_chunk<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        occurrences: Range<usize>,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let grad = &self.source.grad_output;
        with_elements!(grad => {
            self.sum_plain_chunk_of::<V, _, N, WHOLE>(lanes, &grad.data, occurrences, columns)
        })
    }

    /// Does [`Self::sum_plain_chunk`] with the gradient in its type.
    #[inline(always)]
    fn sum_plain_chunk_of<V: Lanes, E: Element, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        grad: &[E],
        occurrences: Range<usize>,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let mut sum = [lanes.splat(0.0); N];
        for (term, &bag) in self.bags[occurrences.clone()].iter().enumerate() {
            if let Some(&later) = self.bags.get(occurrences.start + term + PREFETCH_OCCURRENCES) {
                prefetch_row(grad, self.gradient_start(later) + columns.start, columns.len());
            }
            let contribution = load::<V, E, N, WHOLE>(
                lanes,
                &grad[self.gradient_start(bag) + columns.start..][..columns.len()],
            );
            // The first term is copied: added to 0, a `-0.0` would become `0.0`.
            match term {
                0 => sum = contribution,
                _ => add(lanes, &mut sum, contribution),
            }
        }
        sum
    }
}

/// A reduction tree: the sums of chunks are summed in chunks, and so on. The levels work as the
/// digits of a counter to the base [`CHUNK`]: a full one is carried into the next one, so that the
/// tree needs no memory for the sums of all chunks.
struct Tree<V: Lanes, const N: usize> {
    /// For each level: the sum of its unfinished chunk, and the number of terms in it.
    levels: [([V::F32; N], usize); LEVELS],
}

impl<V: Lanes, const N: usize> Tree<V, N> {
    #[inline(always)]
    fn new(lanes: V) -> Self {
        Self { levels: [([lanes.splat(0.0); N], 0); LEVELS] }
    }

    /// Adds the sum of the next chunk.
    #[inline(always)]
    fn push(&mut self, lanes: V, sum_of_chunk: [V::F32; N]) {
        let mut carry = sum_of_chunk;
        for (sum, count) in &mut self.levels {
            match *count {
                0 => *sum = carry,
                _ => add(lanes, sum, carry),
            }
            *count += 1;
            if *count < CHUNK {
                break;
            }
            (carry, *count) = (*sum, 0);
        }
    }

    /// Returns the sum of all chunks.
    #[inline(always)]
    fn total(&self, lanes: V) -> [V::F32; N] {
        // An unfinished chunk is the last term of the next level.
        let mut total = None;
        for (mut sum, count) in self.levels {
            total = match (total, count) {
                (total, 0) => total,
                (None, _) => Some(sum),
                (Some(last_term), _) => {
                    add(lanes, &mut sum, last_term);
                    Some(sum)
                }
            };
        }
        total.unwrap_or([lanes.splat(0.0); N])
    }
}

/// Adds a block of columns to another one.
#[inline(always)]
fn add<V: Lanes, const N: usize>(lanes: V, sum: &mut [V::F32; N], to_add: [V::F32; N]) {
    for (sum, to_add) in sum.iter_mut().zip(to_add) {
        *sum = lanes.add(*sum, to_add);
    }
}

/// A divisor with its reciprocal, so that a division costs a multiplication:
/// `⌊n / d⌋ = ⌊n ⌈2⁶⁴ / d⌉ / 2⁶⁴⌋` for 32-bit `n` and `d > 1`, because the rounding adds less than
/// `n / 2⁶⁴ < 1 / d` to the quotient.
#[derive(Clone, Copy)]
struct Divisor {
    divisor: u32,
    reciprocal: u64,
}

impl Divisor {
    /// Computes the reciprocal. [`Self::divide`] does not read that of 0 or 1.
    fn new(divisor: u32) -> Self {
        Self { divisor, reciprocal: (u64::MAX / u64::from(divisor.max(1))).wrapping_add(1) }
    }

    /// Returns the quotient and the remainder.
    #[inline(always)]
    fn divide(&self, number: u32) -> (u32, u32) {
        if self.divisor <= 1 {
            return (number, 0);
        }
        let quotient = ((u128::from(self.reciprocal) * u128::from(number)) >> 64) as u32;
        (quotient, number - quotient * self.divisor)
    }
}

#[cfg(test)]
mod tests {
    use super::Divisor;

    #[test]
    fn divides() {
        for divisor in
            [1, 2, 3, 7, 64, 2047, 2048, 65_537, (1 << 31) - 1, 1 << 31, u32::MAX - 1, u32::MAX]
        {
            for number in
                [0, 1, divisor - 1, divisor, divisor.wrapping_mul(12_345), u32::MAX - 1, u32::MAX]
            {
                let got = Divisor::new(divisor).divide(number);
                assert_eq!(got, (number / divisor, number % divisor), "{number} / {divisor}");
            }
        }
    }
}
