//! Reads the Criteo click logs: a label, 13 integers and 26 categories between tabs, without header
//! or quotes.

use std::io::Read;

use super::bytes::equal;
use super::error::{DataError, Result};
use super::hash::{EMPTY, LONG, word_of_bytes};

/// The name of the label's column.
pub(crate) const LABEL: &str = "label";
const INTEGERS: usize = 13;
const CATEGORIES: usize = 26;
const FIELDS: usize = 1 + INTEGERS + CATEGORIES;

/// The size of the buffer. Rows have about 230 bytes; one that does not fit is refused.
const BUFFER_BYTES: usize = 1 << 20;

/// The offset of the first row in the buffer, so that eight bytes precede the end of each field.
const MARGIN: usize = 8;

/// The number of bytes that are read at a time: few enough that they are still in the cache when
/// they are split.
const READ_BYTES: usize = 1 << 17;

/// Returns `I1` to `I13`.
pub(crate) fn integer_columns() -> impl Iterator<Item = String> {
    (1..=INTEGERS).map(|k| format!("I{k}"))
}

/// Returns `C1` to `C26`.
pub(crate) fn category_columns() -> impl Iterator<Item = String> {
    (1..=CATEGORIES).map(|k| format!("C{k}"))
}

/// The ends of a row's fields, counted from its beginning.
struct Fields {
    ends: [u32; FIELDS],
    count: usize,
}

impl Fields {
    #[inline]
    fn push(&mut self, end: usize) {
        // Fields beyond the last one are only counted, for the error that names their number.
        if let Some(slot) = self.ends.get_mut(self.count) {
            *slot = end as u32;
        }
        self.count += 1;
    }
}

/// Marks the bytes of a word that are tabs or line feeds, by their highest bits. Fields are so
/// short that a search for each separator would take longer.
#[inline]
fn separators(word: u64) -> u64 {
    equal(word, b'\t') | equal(word, b'\n')
}

/// The rows of a Criteo file, one at a time, read in a single pass.
pub(crate) struct CriteoLines {
    file: String,
    text: Box<dyn Read + Send>,
    label_required: bool,
    header: Vec<String>,
    buffer: Box<[u8]>,
    /// `buffer[row..]` begins with the current row, `buffer[next..]` with the one after it. The
    /// buffer is filled up to `filled`.
    row: usize,
    next: usize,
    filled: usize,
    fields: Fields,
    words: [u64; FIELDS],
    line: u64,
}

impl CriteoLines {
    /// Opens a file. Rows without a label have 39 fields, which is an error if the label is
    /// required.
    pub(crate) fn open(file: String, text: Box<dyn Read + Send>, label_required: bool) -> Self {
        let header = std::iter::once(LABEL.to_owned())
            .chain(integer_columns())
            .chain(category_columns())
            .collect();
        let buffer = vec![0; MARGIN + BUFFER_BYTES].into_boxed_slice();
        let fields = Fields { ends: [0; FIELDS], count: 0 };
        Self {
            file,
            text,
            label_required,
            header,
            buffer,
            row: MARGIN,
            next: MARGIN,
            filled: MARGIN,
            fields,
            words: [EMPTY; FIELDS],
            line: 0,
        }
    }

    /// Returns the names of the columns.
    pub(crate) fn header(&self) -> &[String] {
        &self.header
    }

    /// Returns the line of the current row.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Advances to the next row that is not blank; returns false at the end.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        loop {
            if !self.split_line()? {
                return Ok(false);
            }
            let found = self.fields.count;
            if found == FIELDS || (found == FIELDS - 1 && !self.label_required) {
                self.find_words();
                return Ok(true);
            }
            if found > 1 || self.fields.ends[0] > 0 {
                return Err(DataError::Ragged {
                    file: self.file.clone(),
                    line: self.line,
                    expected: FIELDS,
                    found,
                });
            }
        }
    }

    /// Returns a field of the row, by its position in the header; empty if the row has no such
    /// field.
    #[inline]
    pub(crate) fn field(&self, k: usize) -> &[u8] {
        // Without a label, all fields are one position to the left.
        let Some(k) =
            k.checked_sub(FIELDS.saturating_sub(self.fields.count)).filter(|&k| k < FIELDS)
        else {
            return &[];
        };
        let start = if k == 0 { 0 } else { self.fields.ends[k - 1] as usize + 1 };
        &self.buffer[self.row + start..self.row + self.fields.ends[k] as usize]
    }

    /// Returns each field's word ([`word_of`](super::hash::word_of)), or [`LONG`] if it has none.
    #[inline]
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    fn find_words(&mut self) {
        let Self { buffer, row, fields, words, .. } = self;
        // Without a label, all fields are one position to the left.
        let missing = FIELDS.saturating_sub(fields.count);
        words[..missing].fill(EMPTY);
        let mut start = *row;
        for (word, &end) in words[missing..].iter_mut().zip(&fields.ends) {
            let end = *row + end as usize;
            // The eight bytes before `end` hold the text at their end. `MARGIN` ensures that they
            // exist.
            let bytes = buffer[end - MARGIN..end].try_into().map_or(0, u64::from_le_bytes);
            let length = end - start;
            let bytes = bytes.checked_shr(64u32.wrapping_sub(8 * length as u32)).unwrap_or(0);
            *word = word_of_bytes(bytes, length).filter(|_| length <= 8).unwrap_or(LONG);
            start = end + 1;
        }
    }

    /// Finds the ends of the fields of the next line; returns false at the end of the file.
    fn split_line(&mut self) -> Result<bool> {
        self.row = self.next;
        self.fields.count = 0;
        let mut scanned = self.row;
        loop {
            if let Some(end) = self.split_until_feed(scanned) {
                self.end_line(end);
                self.next = end + 1;
                return Ok(true);
            }
            let behind = self.filled - self.row;
            let more = self.refill()?;
            scanned = self.row + behind;
            if !more {
                let unfinished = self.row < self.filled;
                if unfinished {
                    self.end_line(self.filled);
                }
                self.next = self.filled;
                return Ok(unfinished);
            }
        }
    }

    /// Finds the ends of the fields from `scanned` on. Returns the end of the line if it is in the
    /// buffer.
    fn split_until_feed(&mut self, scanned: usize) -> Option<usize> {
        let Self { buffer, row, filled, fields, .. } = self;
        let (words, rest) = buffer[scanned..*filled].as_chunks::<8>();
        let mut tail = [0; 8];
        tail[..rest.len()].copy_from_slice(rest);
        let mut start = scanned;
        for &word in words.iter().chain([&tail]) {
            let word = u64::from_le_bytes(word);
            let mut ends = separators(word);
            while ends != 0 {
                let within = ends.trailing_zeros() as usize / 8;
                if (word >> (8 * within)) as u8 == b'\n' {
                    return Some(start + within);
                }
                fields.push(start + within - *row);
                ends &= ends - 1;
            }
            start += 8;
        }
        None
    }

    fn end_line(&mut self, end: usize) {
        let text = &self.buffer[self.row..end];
        self.fields.push(text.strip_suffix(b"\r").unwrap_or(text).len());
        self.line += 1;
    }

    /// Moves the row to the front of the buffer and reads more after it; returns false at the end
    /// of the file.
    fn refill(&mut self) -> Result<bool> {
        self.buffer.copy_within(self.row..self.filled, MARGIN);
        self.filled -= self.row - MARGIN;
        self.row = MARGIN;
        if self.filled == self.buffer.len() {
            let (file, line) = (self.file.clone(), self.line + 1);
            return Err(DataError::RowTooLong { file, line, limit: BUFFER_BYTES as u64 });
        }
        loop {
            let end = self.buffer.len().min(self.filled + READ_BYTES);
            match self.text.read(&mut self.buffer[self.filled..end]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(DataError::Io { file: self.file.clone(), source }),
                Ok(count) => {
                    self.filled += count;
                    return Ok(count > 0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor};

    use super::super::hash::word_of;
    use super::*;

    /// A reader that returns a few bytes at a time.
    struct Trickle(Cursor<Vec<u8>>);
    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(7);
            self.0.read(&mut buffer[..count])
        }
    }

    fn line(k: usize) -> String {
        let integers = (0..13)
            .map(|i| if (k + i).is_multiple_of(4) { String::new() } else { format!("{}", k * i) });
        let categories = (0..26).map(|i| {
            if (k + i).is_multiple_of(5) { String::new() } else { format!("{:08x}", k + i) }
        });
        std::iter::once(format!("{}", k % 2))
            .chain(integers)
            .chain(categories)
            .collect::<Vec<_>>()
            .join("\t")
    }

    #[test]
    fn separators_are_tabs_and_feeds_alone() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                for around in [0, b'\t', b'\n', 0x7f, 0x80, 0xff] {
                    let mut bytes = [around; 8];
                    bytes[place] = byte;
                    let expected =
                        bytes.map(|byte| if matches!(byte, b'\t' | b'\n') { 0x80 } else { 0 });
                    assert_eq!(
                        separators(u64::from_le_bytes(bytes)).to_le_bytes(),
                        expected,
                        "{bytes:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_are_split_wherever_reads_end() {
        let lines: Vec<String> = (0..50).map(line).collect();
        for end in ["\n", "\r\n"] {
            let text = (lines.join(end) + end + end).into_bytes();
            let unfinished = lines.join(end).into_bytes();
            for text in [text, unfinished] {
                let readers: [Box<dyn Read + Send>; 2] =
                    [Box::new(Cursor::new(text.clone())), Box::new(Trickle(Cursor::new(text)))];
                for reader in readers {
                    let mut rows = CriteoLines::open("f".into(), reader, true);
                    for (k, line) in lines.iter().enumerate() {
                        assert!(rows.advance().unwrap());
                        assert_eq!(rows.line(), k as u64 + 1);
                        let fields =
                            (0..FIELDS).map(|k| std::str::from_utf8(rows.field(k)).unwrap());
                        assert!(fields.eq(line.split('\t')), "line {k}");
                        let words = (0..FIELDS).map(|k| word_of(rows.field(k)).unwrap_or(LONG));
                        assert!(words.eq(rows.words().iter().copied()), "line {k}");
                        assert!(rows.field(FIELDS).is_empty());
                    }
                    assert!(!rows.advance().unwrap() && !rows.advance().unwrap());
                }
            }
        }
    }

    #[test]
    fn rows_cross_the_end_of_the_buffer() {
        let lines: Vec<String> = (0..3 * BUFFER_BYTES / 200).map(line).collect();
        let mut rows = CriteoLines::open(
            "f".into(),
            Box::new(Cursor::new(lines.join("\n").into_bytes())),
            true,
        );
        for line in &lines {
            assert!(
                rows.advance().unwrap()
                    && rows.field(39) == line.rsplit('\t').next().unwrap().as_bytes()
            );
        }
        assert!(!rows.advance().unwrap());
    }

    #[test]
    fn rows_may_lack_their_label() {
        let text = line(3)[2..].to_owned();
        let open = |required| {
            CriteoLines::open(
                "f".into(),
                Box::new(Cursor::new(text.clone().into_bytes())),
                required,
            )
        };
        let mut rows = open(false);
        assert!(rows.advance().unwrap());
        assert_eq!((rows.field(0), rows.field(39)), (b"".as_slice(), b"0000001c".as_slice()));
        let error = open(true).advance().unwrap_err().to_string();
        assert!(error.starts_with("f:1: expected 40 fields, found 39"), "{error}");
    }

    #[test]
    fn endless_rows_are_errors() {
        for byte in [b'x', b'\t'] {
            let mut rows = CriteoLines::open("f".into(), Box::new(io::repeat(byte)), true);
            assert!(
                rows.advance()
                    .unwrap_err()
                    .to_string()
                    .starts_with("f:1: a row of more than 1048576 bytes")
            );
        }
    }
}
