//! Reads the rows of files one after the other, with the columns of the side tables and the derived
//! ones.

use std::borrow::Cow;
use std::io::Read;
use std::mem;
use std::sync::Arc;

use super::columns::{Binding, Needs, Origin};
use super::config::{DataConfig, Format, Split};
use super::criteo::CriteoLines;
use super::delimited::Delimited;
use super::derive::Derived;
use super::error::{DataError, Place, Result};
use super::hash::{LONG, word_of};
use super::join::SideTable;
use super::label::Label;
use super::meter::Meter;
use super::note::Seen;
use super::number::{Notation, Time};
use super::part::Part;
use super::source::{Source, Stamp};
use super::splitter::Splitter;
use super::texts::Texts;

/// An open file in either format.
pub(crate) enum Records {
    Delimited(Box<Delimited>),
    Criteo(Box<CriteoLines>),
}

impl Records {
    pub(crate) fn open(
        config: &DataConfig,
        file: String,
        text: Box<dyn Read + Send>,
        needs: Needs<'_>,
    ) -> Result<Self> {
        Ok(match config.format {
            Format::Delimited => {
                let header = (!config.header.is_empty()).then(|| config.header.clone());
                Self::Delimited(Box::new(Delimited::open(file, text, config.dialect(), header)?))
            }
            Format::Criteo => Self::Criteo(Box::new(CriteoLines::open(file, text, needs.label))),
        })
    }

    pub(crate) fn header(&self) -> &[String] {
        match self {
            Self::Delimited(records) => records.header(),
            Self::Criteo(records) => records.header(),
        }
    }

    fn advance(&mut self) -> Result<bool> {
        match self {
            Self::Delimited(records) => records.advance(),
            Self::Criteo(records) => records.advance(),
        }
    }

    #[inline]
    fn field(&self, k: usize) -> &[u8] {
        match self {
            Self::Delimited(records) => records.field(k),
            Self::Criteo(records) => records.field(k),
        }
    }

    /// Returns each field's [`word_of`] or [`LONG`]; empty if the format does not compute them.
    #[inline]
    fn words(&self) -> &[u64] {
        match self {
            Self::Delimited(_) => &[],
            Self::Criteo(records) => records.words(),
        }
    }

    fn line(&self) -> u64 {
        match self {
            Self::Delimited(records) => records.line(),
            Self::Criteo(records) => records.line(),
        }
    }

    /// Returns the number of fields so far that contain line ends, and the line on which the first
    /// of them begins.
    fn multiline_fields(&self) -> (u64, u64) {
        match self {
            Self::Delimited(records) => records.multiline_fields(),
            Self::Criteo(_) => (0, 0),
        }
    }
}

/// An open file with the places of its columns.
struct OpenFile {
    name: String,
    records: Records,
    binding: Binding,
    has_rows: bool,
    stamp: Option<Stamp>,
}

/// The rows of several files, one at a time. The order of the columns may differ between files.
pub(crate) struct Rows<'a> {
    config: &'a DataConfig,
    tables: &'a [SideTable],
    derived: Vec<Derived>,
    label: Label,
    needs: Needs<'a>,
    sources: std::vec::IntoIter<Source>,
    file: Option<OpenFile>,
    /// For each side table, the row that the current row is joined with; for each derived column,
    /// its text.
    joined: Vec<Option<u32>>,
    derived_texts: Vec<String>,
    next_row: u64,
    meter: Arc<Meter>,
    bytes_total: u64,
    seen: Seen,
}

impl<'a> Rows<'a> {
    /// Prepares to read; nothing is opened yet.
    pub(crate) fn new(
        config: &'a DataConfig,
        tables: &'a [SideTable],
        sources: Vec<Source>,
        needs: Needs<'a>,
    ) -> Result<Self> {
        Ok(Self {
            config,
            tables,
            derived: config
                .derive
                .iter()
                .map(|derive| Derived::new(derive, config.notation()))
                .collect::<Result<_>>()?,
            label: config.label()?,
            needs,
            bytes_total: sources.iter().map(Source::size).sum(),
            sources: sources.into_iter(),
            file: None,
            joined: vec![None; tables.len()],
            derived_texts: vec![String::new(); config.derive.len()],
            next_row: 0,
            meter: Arc::default(),
            seen: Seen::default(),
        })
    }

    /// Advances to the next row; returns false after the last one.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        loop {
            if let Some(file) = &mut self.file
                && file.records.advance()?
            {
                file.has_rows = true;
                self.next_row += 1;
                self.complete()?;
                return Ok(true);
            }
            if let Some(file) = self.file.take() {
                self.end_of_file(file)?;
            }
            let Some(source) = self.sources.next() else { return Ok(false) };
            self.file = Some(self.open(source)?);
        }
    }

    fn open(&self, source: Source) -> Result<OpenFile> {
        let Self { config, tables, needs, .. } = *self;
        let (name, stamp) = (source.name(), source.stamp());
        let text = source.open(&self.meter)?;
        let records = Records::open(config, name.clone(), text, needs)?;
        let binding =
            Binding::new(config, tables, &name, records.header(), &self.label.column, needs)?;
        Ok(OpenFile { name, records, binding, has_rows: false, stamp })
    }

    fn end_of_file(&mut self, file: OpenFile) -> Result<()> {
        let OpenFile { name, records, has_rows, stamp, .. } = file;
        if let Some(stamp) = stamp {
            stamp.check()?;
            self.seen.stamps.push(stamp);
        }
        self.seen.end_of_file(&name, records.multiline_fields(), &self.meter);
        if has_rows {
            Ok(())
        } else {
            Err(DataError::EmptyFile { file: name, reason: "there is no row to read" })
        }
    }

    /// Joins the side tables and derives the columns of a new row.
    fn complete(&mut self) -> Result<()> {
        for k in 0..self.tables.len() {
            let row = self.row();
            let key =
                row.text(row.origin(|binding| binding.keys.get(k)), self.config.join[k].on.left())?;
            // An empty key counts as missing.
            self.joined[k] = if key.is_empty() { None } else { self.tables[k].find(key) };
        }
        for k in 0..self.derived.len() {
            let mut text = mem::take(&mut self.derived_texts[k]);
            let row = self.row();
            let mut from = Cow::Borrowed("");
            for (part, column) in self.config.derive[k].from.iter().enumerate() {
                let origin = row.origin(|binding| {
                    binding.derived_from.get(k).and_then(|origins| origins.get(part))
                });
                let column = row.text(origin, column)?;
                from = if part == 0 {
                    Cow::Borrowed(column)
                } else {
                    Cow::Owned(format!("{from} {column}"))
                };
            }
            self.derived[k].derive(&from, row.place(), &mut text)?;
            self.derived_texts[k] = text;
        }
        Ok(())
    }

    /// Keeps the texts of these columns from the next file on.
    pub(crate) fn keep_texts(&mut self, columns: &'a [String]) {
        self.needs.texts = columns;
    }

    /// Appends the kept texts of the current row.
    pub(crate) fn push_texts(&self, texts: &mut Texts) -> Result<()> {
        let row = self.row();
        self.needs.texts.iter().enumerate().try_for_each(|(k, column)| {
            texts.push(row.text(row.origin(|binding| binding.texts.get(k)), column)?);
            Ok(())
        })
    }

    /// Returns the current row.
    pub(crate) fn row(&self) -> Row<'_> {
        Row {
            file: self.file.as_ref(),
            tables: self.tables,
            joined: &self.joined,
            derived: &self.derived_texts,
            missing_values: &self.config.missing_values,
            notation: self.config.notation(),
        }
    }

    /// Returns the label of the current row; NaN, without looking at the column, if rows need no
    /// label.
    pub(crate) fn label(&self) -> Result<f32> {
        if !self.needs.label {
            return Ok(f32::NAN);
        }
        self.label.of(self.label_text()?, self.row().place())
    }

    /// Returns the text of the label's column.
    pub(crate) fn label_text(&self) -> Result<&str> {
        let row = self.row();
        row.text(row.origin(|binding| binding.label.as_ref()), &self.label.column)
    }

    /// Returns the time of the current row, by which it is split; 0 if it is not needed.
    pub(crate) fn time(&self) -> Result<Time> {
        let Split::Time { column, .. } = &self.config.split else { return Ok(Time::default()) };
        if !self.needs.time {
            return Ok(Time::default());
        }
        let row = self.row();
        let text = row.text(row.origin(|binding| binding.time.as_ref()), column)?;
        const REASON: &str = "but a time must be a number, such as seconds since 1970";
        let time = row.plain_number(text).and_then(|number| Time::parse(&number));
        time.ok_or_else(|| row.place().number(column, text, REASON))
    }

    /// Returns the part of the current row; `None` if its file decides.
    pub(crate) fn part(&self, splitter: &Splitter) -> Result<Option<Part>> {
        Ok(splitter.part(self.next_row.saturating_sub(1), self.time()?))
    }

    /// Returns the number of bytes read so far and the total, before decompression.
    pub(crate) fn bytes_read(&self) -> (u64, u64) {
        (self.meter.bytes(), self.bytes_total)
    }

    /// Returns the notes and stamps of the files that have been read to their end.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Returns whether progress is due to be reported.
    pub(crate) fn is_milestone(&self) -> bool {
        self.next_row.is_multiple_of(4096)
    }
}

/// A row, with all columns that the settings name.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    file: Option<&'a OpenFile>,
    tables: &'a [SideTable],
    joined: &'a [Option<u32>],
    derived: &'a [String],
    missing_values: &'a [String],
    notation: Notation,
}

impl<'a> Row<'a> {
    /// Returns the text of a column; empty if it is missing.
    #[inline]
    pub(crate) fn text(&self, origin: Origin, column: &str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(origin)).map_err(|_| self.place().not_utf8(column))
    }

    /// Returns the text of a number with a decimal point; `None` if it is no number.
    #[inline]
    pub(crate) fn plain_number<'t>(&self, text: &'t str) -> Option<Cow<'t, str>> {
        self.notation.plain(text)
    }

    /// Returns the bytes of a column, which may not be valid UTF-8; none if they mark a missing
    /// value.
    fn bytes(&self, origin: Origin) -> &'a [u8] {
        let bytes = self.bytes_in_file(origin);
        let is_missing = self.missing_values.iter().any(|value| value.as_bytes() == bytes);
        if is_missing { &[] } else { bytes }
    }

    fn bytes_in_file(&self, origin: Origin) -> &'a [u8] {
        let Some(file) = self.file else { return &[] };
        match origin {
            Origin::Field(field) => file.records.field(field),
            Origin::Side { table, column } => {
                self.tables[table].value(self.joined[table], column).as_bytes()
            }
            Origin::Derived(k) => self.derived[k].as_bytes(),
            Origin::Absent => &[],
        }
    }

    /// Returns the [`word_of`] a column; `None` if it has none.
    #[inline]
    fn word(&self, origin: Origin) -> Option<u64> {
        if let Some(file) = self.file
            && let Origin::Field(field) = origin
            && let Some(&word) = file.records.words().get(field)
            && self.missing_values.is_empty()
        {
            return (word != LONG).then_some(word);
        }
        word_of(self.bytes(origin))
    }

    /// Returns the [`word_of`] dense column `k`.
    #[inline]
    pub(crate) fn dense_word(&self, k: usize) -> Option<u64> {
        self.word(self.origin(|binding| binding.dense.get(k)))
    }

    /// Returns the [`word_of`] categorical column `k`.
    #[inline]
    pub(crate) fn categorical_word(&self, k: usize) -> Option<u64> {
        self.word(self.origin(|binding| binding.categorical.get(k)))
    }

    /// Returns the row's key in side table `k` and whether the table has it; `None` if the key is
    /// empty. The text of a known key is left out.
    pub(crate) fn key(&self, k: usize, column: &str) -> Result<Option<(&'a str, bool)>> {
        if self.joined.get(k).is_some_and(Option::is_some) {
            return Ok(Some(("", true)));
        }
        let key = self.text(self.origin(|binding| binding.keys.get(k)), column)?;
        Ok((!key.is_empty()).then_some((key, false)))
    }

    /// Returns the text of dense column `k`, whose name is `column`.
    #[inline]
    pub(crate) fn dense(&self, k: usize, column: &str) -> Result<&'a str> {
        self.text(self.origin(|binding| binding.dense.get(k)), column)
    }

    /// Returns the text of categorical column `k`, whose name is `column`.
    #[inline]
    pub(crate) fn categorical(&self, k: usize, column: &str) -> Result<&'a str> {
        self.text(self.origin(|binding| binding.categorical.get(k)), column)
    }

    #[inline]
    fn origin(&self, pick: impl Fn(&'a Binding) -> Option<&'a Origin>) -> Origin {
        self.file.and_then(|file| pick(&file.binding)).copied().unwrap_or(Origin::Absent)
    }

    /// Returns the file and the line of the row.
    pub(crate) fn place(&self) -> Place<'a> {
        self.file.map_or(Place { file: "", line: 0 }, |file| Place {
            file: &file.name,
            line: file.records.line(),
        })
    }
}
