//! The errors of reading and encoding data.

use std::io;

use super::part::Part;
use super::shown::{Shown, percent, shortened};
use super::unknown_share::UnknownShare;

/// The result of every fallible call of this module.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// An error in a data file, in the settings that say how to read it, or in a stored
/// [`Encoder`](super::Encoder).
///
/// `file` is a path as it was given, or the name of a [`Source`](super::Source). Lines count from
/// 1, the header included.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file cannot be opened or read, or its compressed data are cut off or damaged.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The error of the system.
        source: io::Error,
    },
    /// A file holds something other than text.
    #[error("{file}: this is {what}, which cannot be read: {remedy}")]
    NoText {
        /// The file.
        file: String,
        /// The kind of the contents.
        what: &'static str,
        /// The advice on what to do.
        remedy: &'static str,
    },
    /// A pipe, or something else that can be read only once, is named where training must read
    /// several times.
    #[error(
        "{file}: this is no regular file, and training reads its rows several times: write them \
         into a file first"
    )]
    NotRereadable {
        /// The file.
        file: String,
    },
    /// A file has changed since its reading began.
    #[error(
        "{file}: the file has changed while it was read: start again once nothing writes to it"
    )]
    Changed {
        /// The file.
        file: String,
    },
    /// A setting has no meaning, or contradicts another one.
    #[error("data.{field}: {reason}")]
    Config {
        /// The setting, by its path below `[data]`.
        field: String,
        /// The fault of the setting, and the remedy.
        reason: String,
    },
    /// A column is named in the settings, but neither the file nor a side table has it.
    #[error(
        "{file}: there is no column {column:?}{}; the columns are {}",
        did_you_mean(.nearest), list(.columns)
    )]
    UnknownColumn {
        /// The file.
        file: String,
        /// The name of the column in the settings.
        column: String,
        /// The name of the most similar column, if one is similar.
        nearest: Option<String>,
        /// The names of all columns.
        columns: Vec<String>,
    },
    /// A column that is used exists in two places, so that its name is ambiguous.
    #[error("column {column:?} stands both in {first} and in {second}: rename one of them")]
    AmbiguousColumn {
        /// The name.
        column: String,
        /// The first place.
        first: String,
        /// The second place.
        second: String,
    },
    /// A column that is used occurs twice in the header of a file.
    #[error("{file}: the header names column {column:?} twice: rename one of them")]
    DuplicateColumn {
        /// The file.
        file: String,
        /// The name.
        column: String,
    },
    /// A row has more or fewer fields than the header.
    #[error(
        "{file}:{line}: expected {expected} fields, found {found} (is the delimiter right, is a \
         quote missing?)"
    )]
    Ragged {
        /// The file.
        file: String,
        /// The line on which the row begins.
        line: u64,
        /// The number of fields of the header.
        expected: usize,
        /// The number of fields of the row.
        found: usize,
    },
    /// A row has so many more fields than the header that it is not read to its end.
    #[error(
        "{file}:{line}: expected {expected} fields, found far more (is the delimiter right, is a \
         quote missing?)"
    )]
    TooManyFields {
        /// The file.
        file: String,
        /// The line on which the row begins.
        line: u64,
        /// The number of fields of the header.
        expected: usize,
    },
    /// A file has no rows of data.
    #[error("{file}: no data: {reason}")]
    EmptyFile {
        /// The file.
        file: String,
        /// The part that is missing.
        reason: &'static str,
    },
    /// A text in a column that is used is not UTF-8.
    #[error("{file}:{line}: column {column:?} is not valid UTF-8: convert the file to UTF-8")]
    NotUtf8 {
        /// The file.
        file: String,
        /// The line on which the row begins.
        line: u64,
        /// The column.
        column: String,
    },
    /// A text that must be a number is none, or is a number that the column cannot hold.
    #[error("{file}:{line}: column {column:?} holds {value:?}, {reason}")]
    Number {
        /// The file.
        file: String,
        /// The line on which the row begins.
        line: u64,
        /// The column.
        column: String,
        /// The text, shortened if long.
        value: String,
        /// The reason why it is refused, and the remedy.
        reason: &'static str,
    },
    /// A value is missing where there must be one.
    #[error("{file}:{line}: column {column:?} is empty: {reason}")]
    Missing {
        /// The file.
        file: String,
        /// The line on which the row begins.
        line: u64,
        /// The column.
        column: String,
        /// The reason why it is needed, or the remedy.
        reason: &'static str,
    },
    /// The label column holds something other than 0 or 1, and no condition says which values count
    /// as 1.
    #[error(
        "{file}:{line}: the label {column:?} is {value:?}, not 0 or 1: correct it, or write the \
         condition under which a row counts as 1, \
         as label = \"column = text\" or label = \"column >= number\"{}",
        shares(.column, .values)
    )]
    Label {
        /// The file.
        file: String,
        /// The line on which the row begins.
        line: u64,
        /// The column.
        column: String,
        /// The text, shortened if long.
        value: String,
        /// The values of the column with their shares of the rows, the most frequent first; empty
        /// if they have not been counted.
        values: Vec<(String, f64)>,
    },
    /// A key occurs twice in a side table.
    #[error(
        "{file}:{line}: key {key:?} of column {column:?} stands on an earlier line too: keep one \
         of the rows"
    )]
    DuplicateKey {
        /// The side table.
        file: String,
        /// The line of the second row.
        line: u64,
        /// The key column.
        column: String,
        /// The key, shortened if long.
        key: String,
    },
    /// A quote opens a field, and the file ends before another one closes it.
    #[error(
        "{file}:{line}: a quote opens a field and is never closed: the file ends inside the \
         field. Close it, or remove it"
    )]
    UnclosedQuote {
        /// The file.
        file: String,
        /// The line of the quote.
        line: u64,
    },
    /// A field is longer than the settings allow.
    #[error(
        "{file}:{line}: a field of more than {limit} bytes begins here: is a quote never closed, \
         is the delimiter right? \
         If it is meant to be so long, raise data.max_field_bytes"
    )]
    FieldTooLong {
        /// The file.
        file: String,
        /// The line on which the field begins.
        line: u64,
        /// The largest size of a field in bytes.
        limit: usize,
    },
    /// A header has more columns than the limit.
    #[error(
        "{file}:{line}: a header of more than {limit} columns: is the delimiter right, are the \
         line ends missing?"
    )]
    TooManyColumns {
        /// The file.
        file: String,
        /// The line of the header.
        line: u64,
        /// The largest number of columns.
        limit: usize,
    },
    /// A row is longer than the limit.
    #[error(
        "{file}:{line}: a row of more than {limit} bytes: is a quote left open, are the line \
         ends missing?"
    )]
    RowTooLong {
        /// The file.
        file: String,
        /// The line on which the row begins.
        line: u64,
        /// The largest size of a row in bytes.
        limit: u64,
    },
    /// A column has more distinct values than a table can have rows.
    #[error(
        "column {column:?} has too many distinct values: set hash = .. instead of a dictionary"
    )]
    TooManyValues {
        /// The column.
        column: String,
    },
    /// A part of the split that the settings ask for has no rows.
    #[error("no row is in the {part} part: {reason}")]
    EmptyPart {
        /// The part.
        part: Part,
        /// The reason, and what to change.
        reason: &'static str,
    },
    /// All training rows have the same label, so that there is nothing to learn.
    #[error("the label of every training row is {label}: is data.label = {rule:?} what is \
        meant?{}", shares(.column, .values))]
    OneClass {
        /// The label of all rows.
        label: u8,
        /// The value of the setting `data.label`.
        rule: String,
        /// The column.
        column: String,
        /// The values of the column with their shares of the rows, the most frequent first.
        values: Vec<(String, f64)>,
    },
    /// The share of values that training has not seen, or of keys that have no row in a side table,
    /// is above `data.max_unknown`.
    #[error(
        "{share}, which is more than data.max_unknown = {limit}: are the files written as those \
         of training are?"
    )]
    Unknown {
        /// The column or side table, the number of its unknown values, and the first one of them.
        share: UnknownShare,
        /// The largest share that the settings allow.
        limit: f64,
    },
    /// A stored encoder is inconsistent.
    #[error("the stored encoder is damaged: {reason}")]
    Encoder {
        /// The parts that contradict each other.
        reason: String,
    },
}

impl DataError {
    pub(crate) fn config(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn encoder(reason: impl Into<String>) -> Self {
        Self::Encoder { reason: reason.into() }
    }

    /// Makes the error for a label that is neither 0 nor 1.
    pub(crate) fn label(place: Place<'_>, column: &str, value: &str) -> Self {
        let (file, column, value) = (place.file.to_owned(), column.to_owned(), shortened(value));
        Self::Label { file, line: place.line, column, value, values: Vec::new() }
    }

    /// Makes the error for a column that is not among `columns`.
    pub(crate) fn unknown_column<'a>(
        file: &str,
        column: &str,
        columns: impl Iterator<Item = &'a str>,
    ) -> Self {
        let columns: Vec<String> = columns.map(str::to_owned).collect();
        let similarity =
            |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &column.to_lowercase());
        let nearest = columns.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
        let nearest = nearest.filter(|name| similarity(name) > 0.7).cloned();
        Self::UnknownColumn { file: file.to_owned(), column: column.to_owned(), nearest, columns }
    }
}

/// The place of a row, which every error about it names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) file: &'a str,
    pub(crate) line: u64,
}

impl Place<'_> {
    pub(crate) fn not_utf8(self, column: &str) -> DataError {
        DataError::NotUtf8 {
            file: self.file.to_owned(),
            line: self.line,
            column: column.to_owned(),
        }
    }

    pub(crate) fn number(self, column: &str, value: &str, reason: &'static str) -> DataError {
        let (file, column, value) = (self.file.to_owned(), column.to_owned(), shortened(value));
        DataError::Number { file, line: self.line, column, value, reason }
    }

    pub(crate) fn missing(self, column: &str, reason: &'static str) -> DataError {
        DataError::Missing {
            file: self.file.to_owned(),
            line: self.line,
            column: column.to_owned(),
            reason,
        }
    }
}

/// Formats the values of a column and their shares, for a user who must choose among them.
fn shares(column: &str, values: &[(String, f64)]) -> String {
    const SHOWN: usize = 8;
    if values.is_empty() {
        return String::new();
    }
    let value = |(value, share): &(String, f64)| format!("{value:?} ({})", percent(*share));
    let mut text = values.iter().take(SHOWN).map(value).collect::<Vec<_>>().join(", ");
    if values.len() > SHOWN {
        text += &format!(" and {} more", values.len() - SHOWN);
    }
    format!("; {column:?} holds {text}")
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

fn list(columns: &[String]) -> String {
    const SHOWN: usize = 40;
    let mut text = columns
        .iter()
        .take(SHOWN)
        .map(|name| Shown(&shortened(name)).to_string())
        .collect::<Vec<_>>()
        .join(", ");
    if columns.len() > SHOWN {
        text += &format!(" and {} more", columns.len() - SHOWN);
    }
    text
}
