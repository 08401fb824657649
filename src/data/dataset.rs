//! Encoded rows, and batches of them.

use super::coverage::Coverage;
use crate::size::filled;

/// The input of a model. A batch is meant to be filled repeatedly: once its buffers have grown,
/// filling it allocates nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The number of rows (B).
    pub batch_size: usize,
    /// The dense features, row-major: `[B, num_dense]`.
    pub dense: Vec<f32>,
    /// The ids of all bags, bag after bag.
    pub indices: Vec<i64>,
    /// The bounds of the bags in `indices`, key-major: bag `(f, b)` begins at `offsets[f * B + b]`
    /// and ends at `offsets[f * B + b + 1]`; `[F * B + 1]`.
    pub offsets: Vec<i64>,
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
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Single(ids) => ids.clear(),
            Self::Bags { ids, ends } => {
                ids.clear();
                ends.clear();
            }
        }
    }
}

impl Dataset {
    /// Makes an empty dataset; `has_bags` tells for each feature whether its rows have bags.
    pub(super) fn new(num_dense: usize, has_bags: impl Iterator<Item = bool>) -> Self {
        let column = |bags| match bags {
            true => Column::Bags { ids: Vec::new(), ends: Vec::new() },
            false => Column::Single(Vec::new()),
        };
        let columns = has_bags.map(column).collect();
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
        self.gather_rows(rows.iter().map(|&row| row as usize), batch);
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
        let (Column::Single(ids) | Column::Bags { ids, .. }) = &self.columns[feature];
        for &id in ids {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        Ok(counts)
    }

    /// Returns the number of ids of all features and rows.
    pub fn num_ids(&self) -> usize {
        self.columns.iter().map(|(Column::Single(ids) | Column::Bags { ids, .. })| ids.len()).sum()
    }

    /// Fills `batch` with all rows.
    pub(super) fn gather_all(&self, batch: &mut Batch) {
        self.gather_rows(0..self.len(), batch);
    }

    fn gather_rows(&self, rows: impl ExactSizeIterator<Item = usize> + Clone, batch: &mut Batch) {
        let Batch { batch_size, dense, indices, offsets, labels } = batch;
        *batch_size = rows.len();
        dense.clear();
        indices.clear();
        offsets.clear();
        labels.clear();
        for row in rows.clone() {
            dense.extend_from_slice(&self.dense[row * self.num_dense..(row + 1) * self.num_dense]);
            labels.push(self.labels[row]);
        }
        offsets.push(0);
        for column in &self.columns {
            match column {
                Column::Single(ids) => {
                    let first = indices.len() as i64 + 1;
                    indices.extend(rows.clone().map(|row| i64::from(ids[row])));
                    offsets.extend(first..first + *batch_size as i64);
                }
                Column::Bags { ids, ends } => {
                    for row in rows.clone() {
                        let start = if row == 0 { 0 } else { ends[row - 1] };
                        indices.extend(ids[start..ends[row]].iter().map(|&id| i64::from(id)));
                        offsets.push(indices.len() as i64);
                    }
                }
            }
        }
    }

    /// Removes all rows, but keeps their memory.
    pub(super) fn clear(&mut self) {
        self.dense.clear();
        self.labels.clear();
        self.columns.iter_mut().for_each(Column::clear);
    }
}
