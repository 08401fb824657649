//! Finds the delimiter of a file, and whether its first line has names.

use std::io::{Cursor, Read};

use super::super::delimited::{Delimited, Dialect};
use super::super::error::{DataError, Result};
use super::super::number;
use super::MARKERS;

/// The number of bytes in which the syntax of a file is looked for.
const HEAD_BYTES: u64 = 1 << 20;

/// The delimiters that are tried, the most frequent one first.
const DELIMITERS: [u8; 5] = *b",;\t|:";

/// The syntax of files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) delimiter: u8,
    /// The names of the columns, or `c1`, `c2` and so on if the files have none.
    pub(crate) names: Vec<String>,
    pub(crate) has_no_header: bool,
}

impl Layout {
    pub(super) fn dialect(&self) -> Dialect {
        Dialect { delimiter: self.delimiter, ..PLAIN }
    }
}

const PLAIN: Dialect = Dialect { delimiter: b',', trim: true, max_field_bytes: 1 << 20 };

/// The first rows of a file.
pub(super) struct Head {
    text: Vec<u8>,
    is_whole: bool,
}

/// A reading of the head with one delimiter.
struct Trial {
    delimiter: u8,
    header: Vec<String>,
    /// The number of rows that have as many fields as the first line, and whether all have.
    rows: usize,
    is_even: bool,
    /// For each column, whether all fields below the first line are numbers.
    are_numbers: Vec<bool>,
}

/// Returns whether a text is a number, with a point or a comma.
fn is_number(text: &str) -> bool {
    number::parse(&text.replace(',', ".")).is_some()
}

impl Head {
    pub(super) fn read(text: Box<dyn Read + Send>, file: &str) -> Result<Self> {
        let mut head = Vec::new();
        text.take(HEAD_BYTES + 1)
            .read_to_end(&mut head)
            .map_err(|source| DataError::Io { file: file.to_owned(), source })?;
        let is_whole = head.len() as u64 <= HEAD_BYTES;
        if !is_whole {
            let end =
                head.iter().rposition(|&byte| byte == b'\n').map_or(head.len(), |end| end + 1);
            head.truncate(end);
        }
        Ok(Self { text: head, is_whole })
    }

    pub(super) fn layout(
        &self,
        file: &str,
        delimiter: Option<u8>,
        has_header: Option<bool>,
        known_name: Option<&str>,
    ) -> Result<Layout> {
        let trial = match delimiter {
            Some(delimiter) => self.try_delimiter(file, delimiter)?,
            None => {
                let mut best = self.try_delimiter(file, DELIMITERS[0])?;
                for delimiter in DELIMITERS.into_iter().skip(1) {
                    if let Ok(trial) = self.try_delimiter(file, delimiter)
                        && trial.is_better_than(&best)
                    {
                        best = trial;
                    }
                }
                best
            }
        };
        let has_header = has_header.unwrap_or_else(|| {
            trial.header.iter().any(|name| known_name == Some(name))
                || trial.names_numbers()
                || !trial.header.iter().any(|name| is_number(name))
        });
        let names = match has_header {
            true => trial.header,
            false => (1..=trial.header.len()).map(|k| format!("c{k}")).collect(),
        };
        Ok(Layout { delimiter: trial.delimiter, names, has_no_header: !has_header })
    }

    fn try_delimiter(&self, file: &str, delimiter: u8) -> Result<Trial> {
        let text = Box::new(Cursor::new(self.text.clone()));
        let dialect = Dialect { delimiter, ..PLAIN };
        let mut records = Delimited::open(file.to_owned(), text, dialect, None)?;
        let (mut rows, mut are_numbers) = (0, vec![true; records.header().len()]);
        let end = loop {
            match records.advance() {
                Ok(true) => {
                    rows += 1;
                    for (k, are_numbers) in are_numbers.iter_mut().enumerate() {
                        *are_numbers &= std::str::from_utf8(records.field(k)).is_ok_and(is_number);
                    }
                }
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // The head may end inside a quoted field.
        let is_even = match end {
            Ok(()) => true,
            Err(DataError::UnclosedQuote { .. }) => !self.is_whole,
            Err(_) => false,
        };
        let header = records.header().to_vec();
        Ok(Trial { delimiter, header, rows, is_even, are_numbers })
    }
}

impl Trial {
    /// Returns whether a field of the first line is a text above numbers alone.
    fn names_numbers(&self) -> bool {
        let mut columns = self.header.iter().zip(&self.are_numbers);
        let is_name = |name: &str| !name.is_empty() && !is_number(name) && !MARKERS.contains(&name);
        self.rows > 0 && columns.any(|(name, &are_numbers)| are_numbers && is_name(name))
    }

    fn is_better_than(&self, other: &Self) -> bool {
        let rank = |trial: &Self| (trial.is_even, trial.header.len());
        // A character inside of texts splits hardly all lines alike.
        self.header.len() > 1
            && match (self.is_even, other.is_even) {
                (false, false) => self.rows > other.rows,
                _ => rank(self) > rank(other),
            }
    }
}
