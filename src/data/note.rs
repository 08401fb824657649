//! Notes on files: observations that are not errors, but that a user should check.

use std::fmt;

use super::error::Result;
use super::meter::Meter;
use super::source::Stamp;

/// A note on a file that could be read, but that its owner should check. Its `Display` explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Quoted fields contain line ends. They may be intended, or a quote is missing and rows have
    /// been read as one text.
    LineEnds {
        /// The file.
        file: String,
        /// The number of such fields.
        fields: u64,
        /// The line on which the first of them begins.
        line: u64,
    },
    /// Other data follow the compressed data. They are not read.
    Junk {
        /// The file.
        file: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineEnds { file, fields: 1, line } => {
                write!(
                    f,
                    "{file}:{line}: a quoted field has line ends inside: if it should not, a \
                     quote is missing"
                )
            }
            Self::LineEnds { file, fields, line } => write!(
                f,
                "{file}: {fields} quoted fields have line ends inside, the first on line {line}: \
                 if they should not, a \
                 quote is missing"
            ),
            Self::Junk { file } => {
                write!(
                    f,
                    "{file}: something else stands behind the compressed data, and is not read: \
                     is the file whole?"
                )
            }
        }
    }
}

/// The observations of passes over files, apart from the rows. All values compare equal, so that
/// types with such a field are compared by their other fields alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) notes: Vec<Note>,
    /// The states of the files when they were opened.
    pub(crate) stamps: Vec<Stamp>,
}

impl Seen {
    /// Adds the notes on a file that has been read to its end. `(fields, line)` are the number of
    /// fields that contain line ends, and the line on which the first of them begins; `meter` tells
    /// whether other data follow compressed ones.
    pub(crate) fn end_of_file(&mut self, file: &str, (fields, line): (u64, u64), meter: &Meter) {
        if fields > 0 {
            self.notes.push(Note::LineEnds { file: file.to_owned(), fields, line });
        }
        if meter.take_junk() {
            self.notes.push(Note::Junk { file: file.to_owned() });
        }
    }

    /// Checks that the files have not changed.
    pub(crate) fn check(&self) -> Result<()> {
        self.stamps.iter().try_for_each(Stamp::check)
    }
}

impl PartialEq for Seen {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
