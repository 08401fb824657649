//! A reader that can peek at its next bytes.

use std::io::{self, BufRead, ErrorKind, Read};

/// The size of the buffer. A much smaller one would slow down decompression.
const BUFFER_BYTES: usize = 1 << 17;

/// A buffered reader whose next bytes can be inspected before they are read.
pub(crate) struct Peekable<R> {
    inner: R,
    buffer: Box<[u8]>,
    /// The range of bytes that are buffered and not yet read is `start..end`.
    start: usize,
    end: usize,
    at_end: bool,
    /// The error of the inner reader, kept for callers that receive it wrapped by a decoder.
    fault: Option<(ErrorKind, String)>,
}

impl<R: Read> Peekable<R> {
    /// Wraps a reader; nothing is read yet.
    pub(crate) fn new(inner: R) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { inner, buffer, start: 0, end: 0, at_end: false, fault: None }
    }

    /// Returns the next `count` bytes, or all that are left if there are fewer. `count` is far
    /// below the size of the buffer.
    pub(crate) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        if self.start + count > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < count && !self.at_end {
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + count)])
    }

    /// Returns whether all bytes have been read, and the end of the inner reader has been reached.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.at_end && self.start == self.end
    }

    /// Takes the error of the inner reader, if there was one.
    pub(crate) fn take_fault(&mut self) -> Option<io::Error> {
        self.fault.take().map(|(kind, message)| io::Error::new(kind, message))
    }

    /// Reads more bytes after the buffered ones.
    fn fill(&mut self) -> io::Result<()> {
        let result = self.inner.read(&mut self.buffer[self.end..]);
        self.end += self.noted(result)?;
        Ok(())
    }

    fn noted(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Ok(count) => {
                self.at_end |= count == 0;
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            Err(error) => {
                self.fault = Some((error.kind(), error.to_string()));
                Err(error)
            }
        }
    }
}

impl<R: Read> BufRead for Peekable<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        self.peek(1)?;
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }
}

impl<R: Read> Read for Peekable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A large destination needs no second buffer.
        if self.start == self.end && buffer.len() >= self.buffer.len() && !self.at_end {
            loop {
                let result = self.inner.read(buffer);
                let count = self.noted(result)?;
                if count > 0 || self.at_end {
                    return Ok(count);
                }
            }
        }
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that returns a few bytes at a time, and is interrupted in between.
    struct Trickle<'a>(&'a [u8], bool);
    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = buffer.len().min(7);
            self.0.read(&mut buffer[..count])
        }
    }

    #[test]
    fn what_was_looked_at_is_read_all_the_same() {
        let text: Vec<u8> = (0..3 * BUFFER_BYTES + 5).map(|k| (k * 31 % 251) as u8).collect();
        for chunk in [1, 1000, BUFFER_BYTES - 3, BUFFER_BYTES, 2 * BUFFER_BYTES] {
            let mut reader = Peekable::new(Trickle(&text, false));
            let (mut read, mut buffer) = (vec![], vec![0; chunk]);
            loop {
                let expected = &text[read.len()..text.len().min(read.len() + 512)];
                assert_eq!(reader.peek(512).unwrap(), expected);
                assert_eq!(reader.peek(3).unwrap(), &expected[..expected.len().min(3)]);
                let count = reader.read(&mut buffer).unwrap();
                read.extend_from_slice(&buffer[..count]);
                if count == 0 {
                    break;
                }
            }
            assert!(read == text && reader.is_exhausted());
        }
    }

    #[test]
    fn errors_are_kept_for_those_who_wrap_them() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(ErrorKind::PermissionDenied, "no"))
            }
        }
        let mut reader = Peekable::new(Broken);
        assert!(reader.read(&mut [0; 4]).is_err());
        let fault = reader.take_fault().unwrap();
        assert!(fault.kind() == ErrorKind::PermissionDenied && fault.to_string() == "no");
        assert!(reader.take_fault().is_none());
    }
}
