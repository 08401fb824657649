//! Encodes rows in constant memory.

use super::columns::Needs;
use super::config::Split;
use super::coverage::Coverage;
use super::dataset::Batch;
use super::encoder::Encoder;
use super::error::Result;
use super::note::Note;
use super::part::Part;
use super::row_encoder::RowEncoder;
use super::rows::Rows;
use super::source::Source;
use super::splitter::Splitter;
use super::texts::Texts;

/// The requirement on the labels of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelUse {
    /// A row without a label is an error.
    Required,
    /// The label is ignored: its column may be absent or hold anything, and all labels are NaN.
    Optional,
}

/// A report on the rows that have been read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadReport {
    /// The notes on the files.
    pub notes: Vec<Note>,
    /// The shares of values in the rows that are unknown.
    pub coverage: Coverage,
}

/// The rows of files or readers, encoded batch by batch in constant memory.
pub struct RowStream<'a> {
    encoder: &'a Encoder,
    rows: Rows<'a>,
    splitter: Splitter,
    filter: Option<Part>,
    staged: RowEncoder<'a>,
    text_columns: &'a [String],
    texts: Texts,
}

impl<'a> RowStream<'a> {
    /// Prepares to read `sources` one after the other; each is opened when the previous one ends.
    ///
    /// With a `filter`, only the rows of that part of the split are read. The sources must then be
    /// the training files in the order of the settings, as
    /// [`DataConfig::files`](super::DataConfig::files) returns them, since a split by hash depends
    /// on the row's number. With a split by file nothing is filtered: the files of a part hold only
    /// its rows.
    ///
    /// # Errors
    /// Propagates errors of [`Encoder::check`].
    pub fn open(
        encoder: &'a Encoder,
        sources: impl IntoIterator<Item = Source>,
        label: LabelUse,
        filter: Option<Part>,
    ) -> Result<Self> {
        encoder.check()?;
        let time = filter.is_some() && matches!(encoder.config.split, Split::Time { .. });
        let needs = Needs { label: label == LabelUse::Required, time, texts: &[] };
        let rows =
            Rows::new(&encoder.config, &encoder.side_tables, sources.into_iter().collect(), needs)?;
        Ok(Self {
            encoder,
            rows,
            splitter: encoder.splitter(),
            filter,
            staged: RowEncoder::new(encoder),
            text_columns: &[],
            texts: Texts::default(),
        })
    }

    /// Also keeps the texts of these columns, which [`Self::texts`] returns: any column of the
    /// files, derived ones, and those of side tables that the encoder has.
    pub fn with_texts_of(mut self, columns: &'a [String]) -> Self {
        self.rows.keep_texts(columns);
        Self { text_columns: columns, ..self }
    }

    /// Returns the texts of the columns of [`Self::with_texts_of`] in the rows of the last batch,
    /// as they were read: without blanks around those that are not quoted.
    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    /// Fills `batch` with the next rows, at most `max_rows` of them (0 counts as 1). Returns false
    /// if there are no rows left.
    ///
    /// # Errors
    /// Returns any [`DataError`](super::DataError) of reading; after the last row,
    /// [`DataError::Unknown`](super::DataError::Unknown) if the share of unknown values is above
    /// `data.max_unknown`. The rows that were read for this batch are lost. If reading can
    /// continue, the next call starts after the bad row.
    pub fn next_batch(&mut self, max_rows: usize, batch: &mut Batch) -> Result<bool> {
        self.staged.clear();
        self.texts.clear(self.text_columns.len());
        while self.staged.len() < max_rows.max(1) && self.rows.advance()? {
            let wanted = match self.filter {
                Some(part) => self.rows.part(&self.splitter)?.is_none_or(|row| row == part),
                None => true,
            };
            if wanted {
                self.staged.push(&self.rows.row(), self.rows.label()?)?;
                self.rows.push_texts(&mut self.texts)?;
            }
        }
        self.staged.dataset().gather_all(batch);
        if batch.batch_size == 0 {
            self.coverage().check(self.encoder.config.max_unknown)?;
        }
        Ok(batch.batch_size > 0)
    }

    /// Returns a report on the rows read so far: notes on the files that have been read to their
    /// end, and the shares of unknown values in the rows.
    pub fn report(&self) -> ReadReport {
        ReadReport { notes: self.rows.seen().notes.clone(), coverage: self.coverage() }
    }

    /// Returns the shares of unknown values in the rows read so far: values that training has not
    /// seen, and keys that side tables lack.
    pub fn coverage(&self) -> Coverage {
        self.staged.coverage()
    }

    /// Returns the number of bytes read so far and the total, before decompression. A reader that
    /// is not a file counts as 0 in the total.
    pub fn bytes_read(&self) -> (u64, u64) {
        self.rows.bytes_read()
    }
}
