//! Encoded rows, and batches of them.

use std::path::Path;

use super::Part;
use super::columns::Needs;
use super::config::{DataConfig, Split};
use super::coverage::Coverage;
use super::encoder::Encoder;
use super::error::{DataError, Result};
use super::fit::NO_TRAINING_ROWS;
use super::label_values;
use super::note::Note;
use super::row_encoder::RowEncoder;
use super::rows::Rows;
use super::source::{Source, check_rereadable};
use crate::size::filled;

/// What a model reads. It is meant to be filled again and again: once it is warm, nothing is
/// allocated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The number of rows (B).
    pub batch_size: usize,
    /// The dense features, row-major: `[B, num_dense]`.
    pub dense: Vec<f32>,
    /// The ids of all bags, bag after bag.
    pub indices: Vec<i64>,
    /// The bounds of the bags, key-major: bag `(f, b)` is `indices[offsets[f * B + b] .. offsets[f
    /// * B + b + 1]]`; `[F * B + 1]`.
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

/// The ids of a feature.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Column {
    /// One for each row.
    Single(Vec<u32>),
    /// Those of row `r` are `ids[ends[r - 1]..ends[r]]`.
    Bags { ids: Vec<u32>, ends: Vec<usize> },
}

impl Column {
    /// Appends a row with one id.
    pub(super) fn push(&mut self, id: u32) {
        self.push_with(|| id, |ids| ids.push(id));
    }

    /// Appends a row: its one id, or its bag of ids.
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
    /// No rows yet; for each feature, whether its rows have bags.
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

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The labels, 0 or 1.
    pub fn labels(&self) -> &[f32] {
        &self.labels
    }

    /// Returns the shares of unknown values in the rows: values that training has not seen, and
    /// keys that side tables lack.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Fills `batch` with these rows, in this order. A row may be taken more than once.
    ///
    /// # Panics
    /// If a row is not below [`Self::len`], as indexing a slice does.
    pub fn gather(&self, rows: &[u32], batch: &mut Batch) {
        self.gather_rows(rows.iter().map(|&row| row as usize), batch);
    }

    /// How often each id of a feature occurs, for ids below `num_embeddings`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    ///
    /// # Panics
    /// If there is no such feature, as indexing a slice does.
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

    /// The number of ids of all features and rows.
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

    /// Forgets all rows, but keeps their memory.
    pub(super) fn clear(&mut self) {
        self.dense.clear();
        self.labels.clear();
        self.columns.iter_mut().for_each(Column::clear);
    }
}

/// The encoded rows of all parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Splits {
    /// The model learns from them.
    pub train: Dataset,
    /// They decide when to stop.
    pub validation: Dataset,
    /// They say how good the model is.
    pub test: Dataset,
    /// The notes on the files, which a user should check.
    pub notes: Vec<Note>,
}

impl Splits {
    /// Encodes all rows of the files of `config`, whose relative paths count from `folder`.
    ///
    /// `progress` is called now and then with the bytes that have been read, and all there are,
    /// before decompression.
    ///
    /// # Errors
    /// Any [`DataError`] of reading; [`DataError::EmptyPart`] if there are no training
    /// rows, or none of another part of which the settings ask for some; [`DataError::OneClass`] if
    /// all training labels are the same; [`DataError::Unknown`] if more is not known than the
    /// settings allow.
    pub fn load(
        config: &DataConfig,
        encoder: &Encoder,
        folder: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        encoder.check()?;
        config.validate()?;
        encoder.seen.check()?;
        let mut rows =
            [Part::Train, Part::Validation, Part::Test].map(|_| RowEncoder::new(encoder));
        let parts: &[Part] = match config.split {
            Split::File {} => &[Part::Train, Part::Validation, Part::Test],
            _ => &[Part::Train],
        };
        parts.iter().try_for_each(|&part| check_rereadable(&config.files(part, folder)))?;
        let files: Vec<(Part, Vec<Source>)> = parts
            .iter()
            .map(|&part| (part, config.files(part, folder).into_iter().map(Source::from).collect()))
            .collect();
        let total = files.iter().flat_map(|(_, sources)| sources).map(Source::size).sum();
        let (mut done, mut notes) = (0, Vec::new());
        for (part, sources) in files {
            let read =
                read(encoder, part, sources, &mut rows, &mut |read| progress(done + read, total));
            notes.extend(read.map_err(|error| {
                label_values::add(
                    error,
                    &encoder.config,
                    &encoder.side_tables,
                    &config.files(part, folder),
                )
            })?);
            done += config
                .files(part, folder)
                .into_iter()
                .map(|path| Source::File(path).size())
                .sum::<u64>();
        }
        progress(total, total);
        let [train, validation, test] = rows.map(RowEncoder::into_dataset);
        let splits = Self { train, validation, test, notes };
        splits.check(config, encoder, folder)?;
        Ok(splits)
    }

    fn check(&self, config: &DataConfig, encoder: &Encoder, folder: &Path) -> Result<()> {
        let (validation, test) = match &config.split {
            Split::Hash { validation, test, .. } | Split::Time { validation, test, .. } => {
                (*validation > 0.0, *test > 0.0)
            }
            Split::File {} => (true, !config.test.is_empty()),
        };
        if self.train.is_empty() {
            return Err(DataError::EmptyPart { part: Part::Train, reason: NO_TRAINING_ROWS });
        }
        for (part, dataset, wanted) in
            [(Part::Validation, &self.validation, validation), (Part::Test, &self.test, test)]
        {
            if wanted && dataset.is_empty() {
                let reason =
                    "there are too few rows: give it a larger share in data.split, or a share of 0";
                return Err(DataError::EmptyPart { part, reason });
            }
        }
        let first = self.train.labels[0];
        if self.train.labels.iter().all(|&label| label == first) {
            let (rule, column) =
                (encoder.config.label.clone().unwrap_or_default(), encoder.config.label()?.column);
            let error =
                DataError::OneClass { label: first as u8, rule, column, values: Vec::new() };
            return Err(label_values::add(
                error,
                &encoder.config,
                &encoder.side_tables,
                &config.files(Part::Train, folder),
            ));
        }
        // Values that are too rare for a row are none that training has not seen.
        let training = Coverage { columns: Vec::new(), ..self.train.coverage.clone() };
        let parts = [&training, &self.validation.coverage, &self.test.coverage];
        parts.into_iter().try_for_each(|coverage| coverage.check(config.max_unknown))
    }
}

/// Appends the rows of some files to those of the parts, in their order; they belong to `part`
/// unless the split says otherwise. Gives what is worth a look in the files.
fn read(
    encoder: &Encoder,
    part: Part,
    sources: Vec<Source>,
    parts: &mut [RowEncoder<'_>; 3],
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Note>> {
    let splitter = encoder.splitter();
    let needs = Needs { label: true, time: true };
    let mut rows = Rows::new(&encoder.config, &encoder.side_tables, sources, needs)?;
    let [train, validation, test] = parts;
    while rows.advance()? {
        let encoder = match rows.part(&splitter)?.unwrap_or(part) {
            Part::Train => &mut *train,
            Part::Validation => &mut *validation,
            Part::Test => &mut *test,
        };
        encoder.push(&rows.row(), rows.label()?)?;
        if rows.is_milestone() {
            progress(rows.bytes_read().0);
        }
    }
    Ok(rows.seen().notes.clone())
}
