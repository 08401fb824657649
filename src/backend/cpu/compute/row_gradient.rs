//! The gradients of table rows: summed from the occurrences of each in a batch, or summed before.

use std::ops::Range;

use super::vector::{WIDE, clamp, load};
use crate::Cpu;
use crate::dtype::Index;
use crate::ops::Pooling;
use crate::ops::optimizer::clamp_gradient;
use crate::ops::sparse_update::{CHUNK, PooledGrad, SparseGrad};
use crate::simd::{LANES, Lanes, prefetch_row};

/// Occurrences whose gradients are asked for ahead of their use.
const OCCURRENCES_AHEAD: usize = 16;
/// Levels of a tree of sums above that of the chunks: enough for 2^32 occurrences.
const LEVELS: usize = 5;

/// The gradients of the rows of a step.
pub(crate) trait RowGradients: Copy + Sync {
    /// What finds those of a table's rows the faster for knowing that it need find no others.
    fn of_table(self, _table: usize) -> Self {
        self
    }

    /// That of a block of columns of row `k`.
    fn gradient<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        k: usize,
        columns: Range<usize>,
    ) -> [V::F32; N];
}

/// Gradients that have been summed.
#[derive(Clone, Copy)]
pub(crate) struct Sums<'a> {
    starts: &'a [u64],
    values: &'a [f32],
}

impl<'a> Sums<'a> {
    pub(crate) fn new(grad: &'a SparseGrad<Cpu>) -> Self {
        Self { starts: &grad.starts, values: &grad.values }
    }
}

impl RowGradients for Sums<'_> {
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

/// The occurrences of each row in a batch.
#[derive(Clone, Copy)]
pub(crate) struct Occurrences<'a, 's, I: Index> {
    source: &'s PooledGrad<'a, Cpu, I>,
    /// Of the order: where a row's occurrences begin, and the bag of each.
    segments: &'s [u32],
    bags: &'s [u32],
    batch_size: Divisor,
    /// Whether each contribution is the gradient of its bag as it is.
    is_plain: bool,
    /// Of the table at hand, if it is looked up by one feature, and that is plain.
    plain: Option<PlainFeature>,
}

/// A feature each of whose contributions is the gradient of its bag.
#[derive(Clone, Copy)]
struct PlainFeature {
    first_bag: u32,
    first_column: usize,
}

impl<'a, 's, I: Index> Occurrences<'a, 's, I> {
    pub(crate) fn new(source: &'s PooledGrad<'a, Cpu, I>) -> Self {
        let is_plain = source.max_gradient.is_none()
            && source.bags.per_sample_weights.is_none()
            && source.tables.features().iter().all(|feature| feature.pooling == Pooling::Sum);
        let sorted = source.sorted;
        Self {
            source,
            segments: &sorted.segments,
            bags: &sorted.bags[..sorted.counts[0] as usize],
            batch_size: Divisor::new(source.bags.batch_size as u32),
            is_plain,
            plain: None,
        }
    }

    /// The feature of a bag, and its sample.
    #[inline(always)]
    fn place(&self, bag: u32) -> (usize, usize) {
        let (feature, sample) = self.batch_size.divide(bag);
        (feature as usize, sample as usize)
    }

    /// Where the gradient of a bag begins; anywhere for one of another table, as may be asked for
    /// ahead.
    #[inline(always)]
    fn start(&self, bag: u32) -> usize {
        let (sample, first) = match self.plain {
            Some(plain) => (bag.wrapping_sub(plain.first_bag) as usize, plain.first_column),
            None => {
                let (feature, sample) = self.place(bag);
                (sample, self.source.tables.column_offsets()[feature])
            }
        };
        sample * self.source.grad_output.ld + first
    }

    #[inline(always)]
    fn prefetch(&self, occurrence: usize, columns: &Range<usize>) {
        if let Some(&bag) = self.bags.get(occurrence) {
            prefetch_row(
                self.source.grad_output.data,
                self.start(bag) + columns.start,
                columns.len(),
            );
        }
    }

    /// What one occurrence contributes to a block of columns of its row.
    #[inline(always)]
    fn contribution<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        occurrence: usize,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let PooledGrad { tables, bags, sorted, grad_output, argmax, max_gradient } = self.source;
        let bag = self.bags[occurrence] as usize;
        let (feature, sample) = self.place(self.bags[occurrence]);
        let first = tables.column_offsets()[feature];
        let columns = first + columns.start..first + columns.end;
        let grad = &grad_output.row(sample)[columns.clone()];
        if self.is_plain {
            return load::<V, f32, N, WHOLE>(lanes, grad);
        }
        let pooling = tables.features()[feature].pooling;
        if pooling == Pooling::Max {
            // With other offsets than those that were sorted this is no position of the bag.
            let start = bags.offsets[bag].to_row().unwrap_or(0);
            let within = (sorted.positions[occurrence] as usize).wrapping_sub(start);
            let sources = argmax.map_or(&[][..], |argmax| &argmax.row(sample)[columns]);
            let mut kept = [0f32; WIDE * LANES];
            for ((kept, g), source) in kept.iter_mut().zip(grad).zip(sources) {
                *kept = if *source as usize == within {
                    clamp_gradient(*g, *max_gradient)
                } else {
                    0.0
                };
            }
            return load::<V, f32, N, WHOLE>(lanes, &kept[..grad.len()]);
        }
        let mut contribution = load::<V, f32, N, WHOLE>(lanes, grad);
        for g in &mut contribution {
            *g = clamp(lanes, *g, *max_gradient);
        }
        let weight =
            bags.per_sample_weights.map(|weights| weights[sorted.positions[occurrence] as usize]);
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

impl<I: Index> RowGradients for Occurrences<'_, '_, I> {
    fn of_table(self, table: usize) -> Self {
        let plain = match self.source.tables.features_of(table) {
            [feature] if self.is_plain => Some(PlainFeature {
                first_bag: (feature * self.source.bags.batch_size) as u32,
                first_column: self.source.tables.column_offsets()[*feature],
            }),
            _ => None,
        };
        Self { plain, ..self }
    }

    #[inline(always)]
    fn gradient<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        k: usize,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let occurrences = self.segments[k] as usize..self.segments[k + 1] as usize;
        match (self.plain.is_some(), occurrences.len() <= CHUNK) {
            (true, true) => self.sum_plain_chunk::<V, N, WHOLE>(lanes, occurrences, columns),
            (false, true) => self.sum_chunk::<V, N, WHOLE>(lanes, occurrences, columns),
            (_, false) => self.sum_tree::<V, N, WHOLE>(lanes, occurrences, columns),
        }
    }
}

impl<I: Index> Occurrences<'_, '_, I> {
    /// In order, starting from the first contribution.
    #[inline(always)]
    fn sum_chunk<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        occurrences: Range<usize>,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        self.prefetch(occurrences.start + OCCURRENCES_AHEAD, &columns);
        let mut sum = self.contribution::<V, N, WHOLE>(lanes, occurrences.start, columns.clone());
        for occurrence in occurrences.start + 1..occurrences.end {
            self.prefetch(occurrence + OCCURRENCES_AHEAD, &columns);
            add(
                lanes,
                &mut sum,
                self.contribution::<V, N, WHOLE>(lanes, occurrence, columns.clone()),
            );
        }
        sum
    }

    /// The same, of a plain feature.
    #[inline(always)]
    fn sum_plain_chunk<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        occurrences: Range<usize>,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let grad = self.source.grad_output.data;
        let mut sum = [lanes.splat(0.0); N];
        for (k, &bag) in self.bags[occurrences.clone()].iter().enumerate() {
            self.prefetch(occurrences.start + k + OCCURRENCES_AHEAD, &columns);
            let contribution = load::<V, f32, N, WHOLE>(
                lanes,
                &grad[self.start(bag) + columns.start..][..columns.len()],
            );
            match k {
                0 => sum = contribution,
                _ => add(lanes, &mut sum, contribution),
            }
        }
        sum
    }

    /// The sums of chunks, in chunks, and so on.
    #[inline(always)]
    fn sum_tree<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        occurrences: Range<usize>,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        // The sum of what has come to each level since a chunk of it was full, and how much that
        // is.
        let mut levels = [([lanes.splat(0.0); N], 0); LEVELS];
        let Range { start, end } = occurrences;
        for chunk in (start..end).step_by(CHUNK) {
            let chunk = chunk..(chunk + CHUNK).min(end);
            let mut sum = match self.plain.is_some() {
                true => self.sum_plain_chunk::<V, N, WHOLE>(lanes, chunk, columns.clone()),
                false => self.sum_chunk::<V, N, WHOLE>(lanes, chunk, columns.clone()),
            };
            for (level, count) in &mut levels {
                match *count {
                    0 => *level = sum,
                    _ => add(lanes, level, sum),
                }
                *count += 1;
                if *count < CHUNK {
                    break;
                }
                (sum, *count) = (*level, 0);
            }
        }
        // What is left on a level is the last of the next one.
        let mut left = None;
        for (mut level, count) in levels {
            left = match (left, count) {
                (left, 0) => left,
                (None, _) => Some(level),
                (Some(sum), _) => {
                    add(lanes, &mut level, sum);
                    Some(level)
                }
            };
        }
        left.unwrap_or([lanes.splat(0.0); N])
    }
}

#[inline(always)]
fn add<V: Lanes, const N: usize>(lanes: V, sum: &mut [V::F32; N], to_add: [V::F32; N]) {
    for (sum, to_add) in sum.iter_mut().zip(to_add) {
        *sum = lanes.add(*sum, to_add);
    }
}

/// Divides by a number that stays the same, by a multiplication: `⌊n / d⌋ = ⌊n ⌈2⁶⁴ / d⌉ / 2⁶⁴⌋`
/// for 32-bit `n` and `d > 1`.
#[derive(Clone, Copy)]
struct Divisor {
    divisor: u32,
    reciprocal: u64,
}

impl Divisor {
    fn new(divisor: u32) -> Self {
        Self { divisor, reciprocal: (u64::MAX / u64::from(divisor.max(1))).wrapping_add(1) }
    }

    /// Quotient and remainder.
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
