//! Counts the bytes that are read from a source.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The number of bytes read from a file so far, and whether unread data follow the compressed ones.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    bytes: AtomicU64,
    junk: AtomicBool,
}

impl Meter {
    /// Returns the number of bytes that have been read, before decompression.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes that unread data follow the compressed ones.
    pub(crate) fn note_junk(&self) {
        self.junk.store(true, Ordering::Relaxed);
    }

    /// Returns whether [`Self::note_junk`] has been called since the last call of this function.
    pub(crate) fn take_junk(&self) -> bool {
        self.junk.swap(false, Ordering::Relaxed)
    }
}

/// A reader that counts the bytes that are read through it.
pub(crate) struct Counted<R> {
    inner: R,
    meter: Arc<Meter>,
}

impl<R> Counted<R> {
    /// Wraps `inner`; `meter` counts the bytes that are read through it.
    pub(crate) fn new(inner: R, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.meter.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
