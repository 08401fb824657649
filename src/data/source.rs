//! Where text comes from: files or any reader, compressed or not.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::error::{DataError, Result};

/// The size of the buffer before the decompressor.
const BUFFER_BYTES: usize = 1 << 17;

/// A file, or anything else that can be read. What is compressed with gzip is recognised by its contents.
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A reader such as the standard input.
    Reader {
        /// What errors call it.
        name: String,
        /// What is read.
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
    /// What errors call it: the path, or the reader's name.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Reader { name, .. } => name.clone(),
        }
    }

    /// The number of bytes of a file, before decompression; 0 where it is not known.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File(path) => path.metadata().map_or(0, |metadata| metadata.len()),
            Self::Reader { .. } => 0,
        }
    }

    /// Its text, decompressed and without a byte order mark. The bytes that are read are added to `bytes_read`.
    pub(crate) fn open(self, bytes_read: &Arc<AtomicU64>) -> Result<Box<dyn Read + Send>> {
        let file = self.name();
        let fault = |source| DataError::Io { file: file.clone(), source };
        let inner: Box<dyn Read + Send> = match self {
            Self::File(path) => Box::new(File::open(path).map_err(fault)?),
            Self::Reader { reader, .. } => Box::new(reader),
        };
        let mut raw = Counted { inner, bytes_read: bytes_read.clone() };
        let start = read_up_to::<2>(&mut raw).map_err(fault)?;
        let is_gzip = start == [0x1f, 0x8b];
        let raw = Cursor::new(start).chain(raw);
        let mut text: Box<dyn Read + Send> = match is_gzip {
            true => Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, raw))),
            false => Box::new(raw),
        };
        let mut start = read_up_to::<3>(&mut text).map_err(fault)?;
        if start == [0xef, 0xbb, 0xbf] {
            start.clear();
        }
        Ok(Box::new(Cursor::new(start).chain(text)))
    }
}

/// The first `N` bytes, or all if there are fewer.
fn read_up_to<const N: usize>(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(N);
    reader.take(N as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A reader that adds up what is read through it.
struct Counted<R> {
    inner: R,
    bytes_read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
