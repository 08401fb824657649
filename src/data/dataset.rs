//! Encoded rows, and batches of them.

use std::ops::Range;

use rayon::prelude::*;

use super::coverage::Coverage;
use super::encoder::EncodedFeature;
use crate::size::{filled, product};

/// The number of ids from which on a batch is gathered by all threads of rayon's pool. A batch for
/// a GPU has as many, and one thread would gather it for longer than the GPU computes.
const IDS_AT_ONCE: usize = 1 << 17;

/// The input of a model. A batch is meant to be filled repeatedly: once its buffers have grown,
/// filling it allocates nothing but a few words for each feature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The number of rows (B).
    pub batch_size: usize,
    /// The dense features, row-major: `[B, num_dense]`.
    pub dense: Vec<f32>,
    /// The ids of all bags, bag after bag.
    pub indices: Vec<u32>,
    /// The bounds of the bags in `indices`, key-major: bag `(f, b)` begins at `offsets[f * B + b]`
    /// and ends at `offsets[f * B + b + 1]`; `[F * B + 1]`.
    pub offsets: Vec<i64>,
    /// The factor of each id, as long as `indices`; empty if all are 1.
    pub weights: Vec<f32>,
    /// The labels, 0 or 1; NaN where there is none: `[B]`.
    pub labels: Vec<f32>,
}

/// Encoded rows in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    num_dense: usize,
    /// Row-major.
    pub(super) dense: Vec<f32>,
    pub(super) labels: Vec<f32>,
    pub(super) columns: Vec<Column>,
    pub(super) coverage: Coverage,
}

/// The ids of one feature.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Column {
    /// One id per row.
    Single(Vec<u32>),
    /// A bag of ids per row: row `r` has `ids[ends[r - 1]..ends[r]]`.
    Bags { ids: Vec<u32>, ends: Vec<usize> },
    /// A place between two neighbouring ids per row, which is their bag. The whole part of the
    /// position is the first id, at most `last_first`, and the rest is the factor of the second.
    Positions { positions: Vec<f32>, last_first: u32 },
}

/// Returns the range of the ids of a row.
fn bag(ends: &[usize], row: usize) -> Range<usize> {
    let start = if row == 0 { 0 } else { ends[row - 1] };
    start..ends[row]
}

/// Splits a position into the first of the two ids beside it and the factor of the second. The
/// first id is at most `last_first`.
fn split_position(position: f32, last_first: u32) -> (u32, f32) {
    let id = (position as u32).min(last_first);
    (id, position - id as f32)
}

/// Returns the position whose bag has these two ids with these factors: the exact one that
/// [`split_position`] has split.
pub(crate) fn position_of(ids: &[u32], weights: &[f32]) -> f32 {
    ids[0] as f32 + weights[1]
}

/// Takes the first `len` elements of a slice off.
fn split_off<'a, T>(slice: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (first, rest) = std::mem::take(slice).split_at_mut(len);
    *slice = rest;
    first
}

impl Column {
    /// Appends a row with one id.
    pub(super) fn push(&mut self, id: u32) {
        self.push_with(|| id, |ids| ids.push(id));
    }

    /// Appends a row: the id, or the bag of ids, whichever this column holds.
    #[inline]
    pub(super) fn push_with(&mut self, id: impl FnOnce() -> u32, bag: impl FnOnce(&mut Vec<u32>)) {
        match self {
            Self::Single(ids) => ids.push(id()),
            Self::Bags { ids, ends } => {
                bag(ids);
                ends.push(ids.len());
            }
            // The encoder appends positions itself.
            Self::Positions { .. } => {}
        }
    }

    /// Returns the number of ids of `batch_size` rows, of which `row` returns the numbers.
    fn num_ids_of(&self, batch_size: usize, row: impl Fn(usize) -> usize) -> usize {
        match self {
            Self::Single(_) => batch_size,
            Self::Positions { .. } => product([2, batch_size]),
            Self::Bags { ends, .. } => (0..batch_size).map(|k| bag(ends, row(k)).len()).sum(),
        }
    }

    /// Copies the ids of rows, of which `row` returns the numbers, and the ends of their bags in a
    /// batch where the first of them begins at `first`.
    fn gather(
        &self,
        row: impl Fn(usize) -> usize,
        to: &mut [u32],
        weights: &mut [f32],
        ends_to: &mut [i64],
        first: usize,
    ) {
        if !matches!(self, Self::Positions { .. }) {
            weights.fill(1.0);
        }
        match self {
            Self::Single(ids) => {
                for (k, (to, end)) in to.iter_mut().zip(ends_to).enumerate() {
                    *to = ids[row(k)];
                    *end = (first + k + 1) as i64;
                }
            }
            Self::Bags { ids, ends } => {
                let mut done = 0;
                for (k, end) in ends_to.iter_mut().enumerate() {
                    let of_row = &ids[bag(ends, row(k))];
                    to[done..][..of_row.len()].copy_from_slice(of_row);
                    done += of_row.len();
                    *end = (first + done) as i64;
                }
            }
            Self::Positions { positions, last_first } => {
                let pairs = to.chunks_exact_mut(2).zip(weights.chunks_exact_mut(2));
                for (k, ((to, weights), end)) in pairs.zip(ends_to).enumerate() {
                    let (id, share) = split_position(positions[row(k)], *last_first);
                    to.copy_from_slice(&[id, id + 1]);
                    weights.copy_from_slice(&[1.0 - share, share]);
                    *end = (first + 2 * (k + 1)) as i64;
                }
            }
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Single(ids) => ids.clear(),
            Self::Bags { ids, ends } => {
                ids.clear();
                ends.clear();
            }
            Self::Positions { positions, .. } => positions.clear(),
        }
    }
}

impl Batch {
    /// Takes over the features of some columns from another batch with as many rows: the dense
    /// ones of these numbers, and the sparse ones of these.
    pub(crate) fn replace_features(&mut self, dense: &[usize], sparse: &[usize], other: &Self) {
        let rows = self.batch_size;
        let num_dense = self.dense.len().checked_div(rows).unwrap_or(0);
        for row in 0..rows {
            for k in dense.iter().map(|k| row * num_dense + k) {
                self.dense[k] = other.dense[k];
            }
        }
        if sparse.is_empty() {
            return;
        }
        let mut own = std::mem::take(self);
        let kept = [&mut own.dense, &mut own.labels].map(std::mem::take);
        self.batch_size = rows;
        [self.dense, self.labels] = kept;
        self.offsets.push(0);
        for bag in 0..own.offsets.len().saturating_sub(1) {
            let Self { indices, offsets, weights, .. } =
                if sparse.contains(&(bag / rows)) { other } else { &own };
            let ids = offsets[bag] as usize..offsets[bag + 1] as usize;
            self.indices.extend_from_slice(&indices[ids.clone()]);
            self.weights.extend_from_slice(weights.get(ids).unwrap_or_default());
            self.offsets.push(self.indices.len() as i64);
        }
    }
}

impl Dataset {
    /// Makes an empty dataset of these features.
    pub(super) fn new(num_dense: usize, features: &[EncodedFeature]) -> Self {
        let column = |feature: &EncodedFeature| {
            if feature.interpolated {
                let last_first = feature.num_embeddings.saturating_sub(2) as u32;
                Column::Positions { positions: Vec::new(), last_first }
            } else if feature.multi_valued {
                Column::Bags { ids: Vec::new(), ends: Vec::new() }
            } else {
                Column::Single(Vec::new())
            }
        };
        let columns = features.iter().map(column).collect();
        Self {
            num_dense,
            dense: Vec::new(),
            labels: Vec::new(),
            columns,
            coverage: Coverage::default(),
        }
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the labels, 0 or 1.
    pub fn labels(&self) -> &[f32] {
        &self.labels
    }

    /// Returns the shares of unknown values in the rows: values that training has not seen, and
    /// keys that side tables lack.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Fills `batch` with the given rows, in the given order. A row may be taken more than once.
    ///
    /// # Panics
    /// Panics if a row is not below [`Self::len`], as indexing a slice does.
    pub fn gather(&self, rows: &[u32], batch: &mut Batch) {
        self.gather_rows(rows.len(), |k| rows[k] as usize, batch);
    }

    /// Returns the number of occurrences of each id of a feature, for ids below `num_embeddings`.
    ///
    /// # Errors
    /// Returns [`Error::OutOfMemory`](crate::Error::OutOfMemory) if the counts cannot be allocated.
    ///
    /// # Panics
    /// Panics if there is no such feature, as indexing a slice does.
    pub fn id_counts(&self, feature: usize, num_embeddings: usize) -> crate::Result<Vec<u32>> {
        let mut counts = filled(num_embeddings, 0)?;
        let mut count = |id: u32| {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1;
            }
        };
        match &self.columns[feature] {
            Column::Single(ids) | Column::Bags { ids, .. } => ids.iter().copied().for_each(count),
            Column::Positions { positions, last_first } => {
                for &position in positions {
                    let (id, _) = split_position(position, *last_first);
                    count(id);
                    count(id + 1);
                }
            }
        }
        Ok(counts)
    }

    /// Returns the number of ids of all features and rows.
    pub fn num_ids(&self) -> usize {
        let of_column = |column: &Column| match column {
            Column::Single(ids) | Column::Bags { ids, .. } => ids.len(),
            Column::Positions { positions, .. } => product([2, positions.len()]),
        };
        self.columns.iter().map(of_column).sum()
    }

    /// Appends the rows of a batch, which has the features of this dataset.
    ///
    /// # Panics
    /// Panics if the batch has fewer features, as indexing a slice does.
    pub fn append(&mut self, batch: &Batch) {
        let rows = batch.batch_size;
        self.dense.extend_from_slice(&batch.dense);
        self.labels.extend_from_slice(&batch.labels);
        for (f, column) in self.columns.iter_mut().enumerate() {
            for bounds in batch.offsets[f * rows..=(f + 1) * rows].windows(2) {
                let range = bounds[0] as usize..bounds[1] as usize;
                let bag = &batch.indices[range.clone()];
                match column {
                    Column::Single(ids) => ids.push(bag.first().copied().unwrap_or(0)),
                    Column::Bags { ids, ends } => {
                        ids.extend_from_slice(bag);
                        ends.push(ids.len());
                    }
                    Column::Positions { positions, .. } => {
                        positions.push(position_of(bag, &batch.weights[range]));
                    }
                }
            }
        }
    }

    /// Fills `batch` with all rows.
    pub(super) fn gather_all(&self, batch: &mut Batch) {
        self.gather_rows(self.len(), |k| k, batch);
    }

    /// Fills `batch` with `batch_size` rows, of which `row` returns the numbers.
    fn gather_rows(
        &self,
        batch_size: usize,
        row: impl Fn(usize) -> usize + Copy + Sync,
        batch: &mut Batch,
    ) {
        let Batch { dense, indices, offsets, weights, labels, .. } = batch;
        batch.batch_size = batch_size;
        let lens = self.columns.iter().map(|column| column.num_ids_of(batch_size, row));
        let lens: Vec<usize> = lens.collect();
        let num_ids = lens.iter().sum::<usize>();
        dense.resize(batch_size * self.num_dense, 0.0);
        indices.resize(num_ids, 0);
        offsets.resize(self.columns.len() * batch_size + 1, 0);
        offsets[0] = 0;
        let is_weighted = self.columns.iter().any(|c| matches!(c, Column::Positions { .. }));
        weights.resize(if is_weighted { num_ids } else { 0 }, 1.0);

        let (mut ids, mut ends, mut first) = (&mut indices[..], &mut offsets[1..], 0);
        let mut weights = &mut weights[..];
        let mut bags = Vec::with_capacity(self.columns.len());
        for (column, len) in self.columns.iter().zip(lens) {
            let of_column = split_off(&mut ids, len);
            let weights_of_column = split_off(&mut weights, if is_weighted { len } else { 0 });
            let ends_of_column = split_off(&mut ends, batch_size);
            bags.push((column, of_column, weights_of_column, ends_of_column, first));
            first += len;
        }
        type Bags<'a> = (&'a Column, &'a mut [u32], &'a mut [f32], &'a mut [i64], usize);
        let gather_bags = |(column, ids, weights, ends, first): Bags<'_>| {
            column.gather(row, ids, weights, ends, first);
        };
        let gather_dense = |(k, to): (usize, &mut [f32])| {
            to.copy_from_slice(&self.dense[row(k) * self.num_dense..][..self.num_dense]);
        };
        labels.clear();
        labels.extend((0..batch_size).map(|k| self.labels[row(k)]));
        let num_dense = self.num_dense.max(1);
        if num_ids < IDS_AT_ONCE {
            dense.chunks_exact_mut(num_dense).enumerate().for_each(gather_dense);
            bags.into_iter().for_each(gather_bags);
        } else {
            rayon::join(
                || dense.par_chunks_exact_mut(num_dense).enumerate().for_each(gather_dense),
                || bags.into_par_iter().for_each(gather_bags),
            );
        }
    }

    /// Removes all rows, but keeps their memory.
    pub(super) fn clear(&mut self) {
        self.dense.clear();
        self.labels.clear();
        self.columns.iter_mut().for_each(Column::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Pooling;

    /// A batch so large that all threads gather it has the rows of small ones.
    #[test]
    fn rows_of_a_large_batch_are_those_of_small_ones() {
        let (rows, num_dense) = (IDS_AT_ONCE / 2 + 7, 3);
        let mut data = Dataset::new(num_dense, &features());
        for row in 0..rows as u32 {
            data.dense.extend((0..3).map(|k| (row * 3 + k) as f32));
            data.labels.push((row % 2) as f32);
            data.columns[0].push(row);
            data.columns[1].push_with(|| 0, |ids| ids.extend(row..row + row % 4));
            push_position(&mut data, row);
        }
        let order: Vec<u32> = (0..rows as u32).rev().collect();
        let mut all = Batch::default();
        data.gather(&order, &mut all);
        assert!(all.indices.len() > IDS_AT_ONCE && all.offsets.len() == 3 * rows + 1);
        assert_eq!(all.weights.len(), all.indices.len());
        // The buffers of a larger batch before it change nothing.
        let mut one = all.clone();
        for (k, &row) in order.iter().enumerate() {
            data.gather(&[row], &mut one);
            let bag = |batch: &Batch, bag: usize| {
                let [start, end] = [bag, bag + 1].map(|bag| batch.offsets[bag] as usize);
                batch.indices[start..end].to_vec()
            };
            for feature in 0..3 {
                assert_eq!(bag(&all, feature * rows + k), bag(&one, feature), "row {row}");
            }
            assert_eq!(bag(&one, 1), Vec::from_iter(row..row + row % 4));
            assert_eq!(bag(&one, 0), [row]);
            assert_eq!(bag(&one, 2), [row % 1000, row % 1000 + 1]);
            let [start, end] =
                [2 * rows + k, 2 * rows + k + 1].map(|bag| all.offsets[bag] as usize);
            assert_eq!(all.weights[start..end], [0.75, 0.25]);
            assert_eq!(one.weights[..1], [1.0]);
            assert_eq!(one.weights[one.weights.len() - 2..], [0.75, 0.25]);
            assert_eq!(all.dense[k * num_dense..][..num_dense], one.dense);
            assert_eq!((all.labels[k], one.batch_size), (one.labels[0], 1));
        }
    }

    /// Returns a single id, a bag, and a number between knots.
    fn features() -> [EncodedFeature; 3] {
        [(false, false), (true, false), (false, true)].map(|(multi_valued, interpolated)| {
            EncodedFeature {
                name: String::new(),
                num_embeddings: IDS_AT_ONCE,
                pooling: Pooling::Sum,
                multi_valued,
                interpolated,
            }
        })
    }

    fn push_position(dataset: &mut Dataset, row: u32) {
        if let Column::Positions { positions, .. } = &mut dataset.columns[2] {
            positions.push((row % 1000) as f32 + 0.25);
        }
    }

    /// Returns rows with two dense columns and the [`features`].
    fn rows() -> Dataset {
        let mut dataset = Dataset::new(2, &features());
        for row in 0..5u32 {
            dataset.dense.extend([row as f32, 10.0 + row as f32]);
            dataset.labels.push((row % 2) as f32);
            dataset.columns[0].push(100 + row);
            dataset.columns[1]
                .push_with(|| 0, |ids| ids.extend((0..row % 3).map(|k| 10 * row + k)));
            push_position(&mut dataset, row);
        }
        dataset
    }

    #[test]
    fn appended_batches_are_the_rows() {
        let dataset = rows();
        let (mut batch, mut copy) = (Batch::default(), Dataset::new(2, &features()));
        for part in [&[0, 1][..], &[2, 3, 4]] {
            dataset.gather(part, &mut batch);
            copy.append(&batch);
        }
        assert_eq!(copy, dataset);
    }

    #[test]
    fn features_are_replaced_alone() {
        let dataset = rows();
        let (own, other) = ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3]);
        let (mut batch, mut shuffled) = (Batch::default(), Batch::default());
        dataset.gather(&other, &mut shuffled);
        for (dense, sparse) in
            [(&[][..], &[][..]), (&[1], &[]), (&[], &[0]), (&[0], &[1, 2]), (&[0, 1], &[0, 1])]
        {
            let pick = |is_other: bool, row: usize| if is_other { other[row] } else { own[row] };
            let mut expected = Dataset::new(2, &features());
            for row in 0..5 {
                let value = |k| dataset.dense[2 * pick(dense.contains(&k), row) as usize + k];
                expected.dense.extend([value(0), value(1)]);
                expected.labels.push(dataset.labels[row]);
                expected.columns[0].push(100 + pick(sparse.contains(&0), row));
                let of = pick(sparse.contains(&1), row);
                let bag = |ids: &mut Vec<u32>| ids.extend((0..of % 3).map(|k| 10 * of + k));
                expected.columns[1].push_with(|| 0, bag);
                push_position(&mut expected, pick(sparse.contains(&2), row));
            }
            dataset.gather(&own, &mut batch);
            batch.replace_features(dense, sparse, &shuffled);
            let mut whole = Batch::default();
            expected.gather(&own, &mut whole);
            assert_eq!(batch, whole, "{dense:?} {sparse:?}");
        }
    }
}
