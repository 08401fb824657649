//! The encoded rows of all parts, in memory.

use std::path::Path;

use super::columns::Needs;
use super::config::{DataConfig, Split};
use super::coverage::Coverage;
use super::dataset::Dataset;
use super::encoder::Encoder;
use super::error::{DataError, Result};
use super::fit::NO_TRAINING_ROWS;
use super::label_values;
use super::note::Note;
use super::part::Part;
use super::row_encoder::RowEncoder;
use super::rows::Rows;
use super::source::{Source, check_rereadable};

/// The encoded rows of all parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Splits {
    /// The rows that the model learns from.
    pub train: Dataset,
    /// The rows that decide when training stops.
    pub validation: Dataset,
    /// The rows that measure the final model.
    pub test: Dataset,
    /// The notes on the files, which a user should check.
    pub notes: Vec<Note>,
}

impl Splits {
    /// Encodes all rows of the files of `config`. Relative paths start at `folder`.
    ///
    /// `progress` is called from time to time with the number of bytes read so far and the total,
    /// before decompression.
    ///
    /// # Errors
    /// Returns any [`DataError`] of reading; [`DataError::EmptyPart`] if there are no training
    /// rows, or no rows of a part for which the settings ask; [`DataError::OneClass`] if all
    /// training labels are equal; [`DataError::Unknown`] if the share of unknown values is above
    /// `data.max_unknown`.
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
        // A value that is too rare to have a row has been seen in training, so it is not unknown
        // here.
        let training = Coverage { columns: Vec::new(), ..self.train.coverage.clone() };
        let parts = [&training, &self.validation.coverage, &self.test.coverage];
        parts.into_iter().try_for_each(|coverage| coverage.check(config.max_unknown))
    }
}

/// Appends the rows of some files to the parts, in order. They belong to `part` unless the split
/// decides otherwise. Returns the notes on the files.
fn read(
    encoder: &Encoder,
    part: Part,
    sources: Vec<Source>,
    parts: &mut [RowEncoder<'_>; 3],
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Note>> {
    let splitter = encoder.splitter();
    let needs = Needs { label: true, time: true, texts: &[] };
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
