//! Fields between delimiters, quoted as in RFC 4180, with a header.

use std::io::{self, Read};

use csv::{ByteRecord, ReaderBuilder, Terminator};

use super::error::{DataError, Place, Result};

/// The longest row that is read: an open quote must not fill the memory.
const MAX_ROW_BYTES: u64 = 1 << 28;

/// The rows of a delimited file, one at a time.
pub(crate) struct Delimited {
    file: String,
    reader: csv::Reader<Text>,
    record: ByteRecord,
    header: Vec<String>,
}

impl Delimited {
    /// Reads the header.
    pub(crate) fn open(file: String, text: Box<dyn Read + Send>, delimiter: u8) -> Result<Self> {
        // Rows end with `\n` here and a `\r` before it is cut off below: the csv crate's own handling of `\r\n` counts lines wrongly.
        let reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .terminator(Terminator::Any(b'\n'))
            .buffer_capacity(1 << 18)
            .from_reader(Text { inner: text, last: b'\n', done: false, since_row: 0 });
        let mut this = Self { file, reader, record: ByteRecord::new(), header: Vec::new() };
        if !this.read()? {
            return Err(DataError::EmptyFile {
                file: this.file,
                reason: "the file is empty, not even a header is there",
            });
        }
        let names = 0..this.record.len();
        this.header = names.map(|k| String::from_utf8_lossy(this.field(k)).trim().to_owned()).collect();
        Ok(this)
    }

    /// The names of the columns.
    pub(crate) fn header(&self) -> &[String] {
        &self.header
    }

    /// Goes on to the next row; false at the end.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        if !self.read()? {
            return Ok(false);
        }
        let (expected, found) = (self.header.len(), self.record.len());
        if found != expected {
            return Err(DataError::Ragged { file: self.file.clone(), line: self.line(), expected, found });
        }
        Ok(true)
    }

    /// A field of the row; empty if there is none.
    #[inline]
    pub(crate) fn field(&self, k: usize) -> &[u8] {
        let field = self.record.get(k).unwrap_or_default();
        if k + 1 == self.record.len() { field.strip_suffix(b"\r").unwrap_or(field) } else { field }
    }

    /// The line on which the row begins.
    pub(crate) fn line(&self) -> u64 {
        // All rows end with a line end, so that the reader stands at the start of the next line.
        let line_ends = 1 + memchr::memchr_iter(b'\n', self.record.as_slice()).count() as u64;
        self.reader.position().line().saturating_sub(line_ends)
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place { file: &self.file, line: self.line() }
    }

    /// Reads the next line that is not blank.
    fn read(&mut self) -> Result<bool> {
        loop {
            self.reader.get_mut().since_row = 0;
            match self.reader.read_byte_record(&mut self.record) {
                Ok(true) if self.record.len() == 1 && self.record.as_slice() == b"\r" => {}
                Ok(more) => return Ok(more),
                Err(error) => return Err(self.fault(error)),
            }
        }
    }

    fn fault(&self, error: csv::Error) -> DataError {
        let file = self.file.clone();
        if self.reader.get_ref().since_row > MAX_ROW_BYTES {
            return DataError::RowTooLong {
                file,
                line: self.record.position().map_or(0, |p| p.line()),
                limit: MAX_ROW_BYTES,
            };
        }
        let source = match error.into_kind() {
            csv::ErrorKind::Io(source) => source,
            kind => io::Error::other(format!("{kind:?}")),
        };
        DataError::Io { file, source }
    }
}

/// A text that ends with a line end, whether or not the last line has one, and whose rows have a limit.
struct Text {
    inner: Box<dyn Read + Send>,
    last: u8,
    done: bool,
    since_row: u64,
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since_row > MAX_ROW_BYTES {
            return Err(io::Error::other("row too long"));
        }
        let mut count = if self.done { 0 } else { self.inner.read(buffer)? };
        if count == 0 && !buffer.is_empty() && !self.done {
            self.done = true;
            if self.last != b'\n' {
                buffer[0] = b'\n';
                count = 1;
            }
        }
        if count > 0 {
            self.last = buffer[count - 1];
        }
        self.since_row += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<(u64, Vec<String>)>> {
        let mut file = Delimited::open("f".into(), Box::new(io::Cursor::new(text.as_bytes().to_vec())), b',')?;
        let mut rows = vec![(file.line(), file.header().to_vec())];
        while file.advance()? {
            let fields = (0..file.header().len()).map(|k| String::from_utf8_lossy(file.field(k)).into_owned());
            rows.push((file.line(), fields.collect()));
        }
        Ok(rows)
    }

    #[test]
    fn lines_are_counted_from_one() {
        let text = "a,b\n\n1,\"x\ny\"\n\n\n2,\"\"\"\"\n3,";
        let expected = [(1, ["a", "b"]), (3, ["1", "x\ny"]), (7, ["2", "\""]), (8, ["3", ""])];
        for text in
            [text.to_owned(), text.to_owned() + "\n", text.replace('\n', "\r\n"), text.replace('\n', "\r\n") + "\r\n"]
        {
            let rows = rows(&text).unwrap();
            let fields =
                |row: &[&str; 2]| row.map(|field| field.replace('\n', if text.contains('\r') { "\r\n" } else { "\n" }));
            assert!(
                rows.iter().cloned().eq(expected.iter().map(|(line, row)| (*line, fields(row).to_vec()))),
                "{text:?} {rows:?}"
            );
        }
    }

    #[test]
    fn ragged_rows_are_named() {
        let message = |text: &str| rows(text).unwrap_err().to_string();
        assert!(message("a,b\r\n1,2\r\n\r\n3\r\n").starts_with("f:4: expected 2 fields, found 1"));
        assert!(message("a,b\n1,2,3").starts_with("f:2: expected 2 fields, found 3"));
        assert!(
            message("").contains("f: no data: the file is empty") && message("\n\r\n").contains("the file is empty")
        );
    }

    #[test]
    fn an_open_quote_ends_somewhere() {
        let text = io::Cursor::new(b"a,b\n1,2\n\"".to_vec()).chain(io::repeat(b'x'));
        let mut file = Delimited::open("f".into(), Box::new(text), b',').unwrap();
        assert!(file.advance().unwrap());
        let error = file.advance().unwrap_err().to_string();
        assert!(error.starts_with("f:3: a row of more than 268435456 bytes"), "{error}");
    }
}
