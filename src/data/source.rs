//! Opens text: files or any reader, compressed or not.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::container::{HEAD_BYTES, Packing, refuse};
use super::error::{DataError, Result};
use super::meter::{Counted, Meter};
use super::peek::Peekable;
use super::shown::Shown;
use super::unpack::Unpacked;

/// A file, or any other reader. Compression with gzip or zstd is recognised by the contents.
pub enum Source {
    /// The path of a file.
    File(PathBuf),
    /// A reader such as the standard input.
    Reader {
        /// The name in errors.
        name: String,
        /// The reader.
        reader: Box<dyn BufRead + Send>,
    },
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name()).finish()
    }
}

impl Source {
    /// Returns the name that errors show: the path, or the reader's name, with characters escaped
    /// that could control a terminal.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => name_of(path),
            Self::Reader { name, .. } => Shown(name).to_string(),
        }
    }

    /// Returns the size of a file in bytes, before decompression; 0 if it is not known.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File(path) => path.metadata().map_or(0, |metadata| metadata.len()),
            Self::Reader { .. } => 0,
        }
    }

    /// Returns the current state of the file, or `None` if the source is no regular file.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::File(path) => Stamp::of(path),
            Self::Reader { .. } => None,
        }
    }

    /// Opens the text, decompressed and without a byte order mark. The meter counts the bytes that
    /// are read.
    pub(crate) fn open(self, meter: &Arc<Meter>) -> Result<Box<dyn Read + Send>> {
        let file = self.name();
        let fault = |source| DataError::Io { file: file.clone(), source };
        let inner: Box<dyn Read + Send> = match self {
            Self::File(path) => Box::new(open_file(&path).map_err(fault)?),
            Self::Reader { reader, .. } => Box::new(reader),
        };
        let mut raw = Peekable::new(Counted::new(inner, meter.clone()));
        let mut text: Peekable<Box<dyn Read + Send>> =
            match Packing::of(raw.peek(HEAD_BYTES).map_err(fault)?) {
                Some(packing) => {
                    Peekable::new(Box::new(Unpacked::new(raw, packing, meter.clone())))
                }
                None => Peekable::new(Box::new(raw)),
            };
        let head = text.peek(HEAD_BYTES).map_err(fault)?;
        refuse(&file, head)?;
        if head.starts_with(b"\xef\xbb\xbf") {
            text.consume(3);
        }
        Ok(Box::new(text))
    }
}

/// Returns the name of a file that errors show.
pub(crate) fn name_of(path: &Path) -> String {
    Shown(&path.display().to_string()).to_string()
}

fn open_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "this is a directory: name a file",
        ));
    }
    Ok(file)
}

/// Checks that these files can be read repeatedly, as training does; a pipe can be read only once.
pub(crate) fn check_rereadable<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    for path in paths {
        // A file that cannot be found is reported when it is opened.
        let is_stream = |metadata: Metadata| !metadata.is_file() && !metadata.is_dir();
        if path.metadata().is_ok_and(is_stream) {
            return Err(DataError::NotRereadable { file: name_of(path) });
        }
    }
    Ok(())
}

/// The state of a file at some time: its length and the time of its last change.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    path: PathBuf,
    state: (u64, Option<SystemTime>),
}

impl Stamp {
    /// Returns the current state of a file, or `None` if it is no regular file.
    fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok().filter(Metadata::is_file)?;
        Some(Self { path: path.to_owned(), state: (metadata.len(), metadata.modified().ok()) })
    }

    /// Checks that the file has not changed.
    pub(crate) fn check(&self) -> Result<()> {
        match Self::of(&self.path) {
            Some(now) if now.state != self.state => {
                Err(DataError::Changed { file: name_of(&self.path) })
            }
            _ => Ok(()),
        }
    }
}
