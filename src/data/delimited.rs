//! Reads delimited text with a header, quoted as in RFC 4180.
//!
//! A field that begins with a quote ends with one. Between them, a quote is written twice; text
//! between the closing quote and the delimiter belongs to the field. Elsewhere a quote is an
//! ordinary character. Unless they are kept, blanks and tabs around a field are removed, except
//! inside quotes. Blanks before an opening quote are skipped, as by `skipinitialspace` in Python
//! and pandas and by `strip.white` in R.

use std::io::{ErrorKind, Read};
use std::ops::Range;

use super::bytes::{equal, is_blank};
use super::error::{DataError, Place, Result};

/// The largest size of a row in bytes.
pub(crate) const MAX_ROW_BYTES: usize = 1 << 28;

/// The largest number of columns of a file.
const MAX_COLUMNS: usize = 100_000;

/// The number of bytes that are read at a time: few enough that they are still in the cache when
/// they are split.
const READ_BYTES: usize = 1 << 17;

/// The syntax of the fields of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    /// Set if blanks and tabs around fields are removed.
    pub(crate) trim: bool,
    pub(crate) max_field_bytes: usize,
}

/// The range of a field's text, counted in bytes from the beginning of its row.
#[derive(Clone, Copy, Debug)]
struct Field {
    start: u32,
    end: u32,
}

/// The state of the quotes in the current field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    /// No opening quote has been found.
    None,
    /// An opening quote has been found.
    Open,
    /// The closing quote has been found, at position `at`.
    Closed { at: usize },
}

/// The scan of the current field. Positions count from the beginning of the row.
#[derive(Clone, Copy, Debug)]
struct Scan {
    /// The position at which the field begins, and the one at which the scan continues.
    start: usize,
    at: usize,
    quote: Quote,
    /// The position and the line of the opening quote, if there is one.
    opened_at: usize,
    opened_line: u64,
    has_pairs: bool,
    has_line_ends: bool,
    /// The number of line ends since the row began.
    line_ends: u64,
}

impl Scan {
    const ROW_START: Self = Self {
        start: 0,
        at: 0,
        quote: Quote::None,
        opened_at: 0,
        opened_line: 0,
        has_pairs: false,
        has_line_ends: false,
        line_ends: 0,
    };
}

/// The rows of a delimited file, one at a time.
pub(crate) struct Delimited {
    file: String,
    text: Box<dyn Read + Send>,
    dialect: Dialect,
    header: Vec<String>,
    buffer: Vec<u8>,
    /// `buffer[row..]` begins with the current row, `buffer[next..]` with the one after it. The
    /// buffer is filled up to `filled`.
    row: usize,
    next: usize,
    filled: usize,
    at_end: bool,
    fields: Vec<Field>,
    /// The number of fields of the row. `fields` holds at most `max_fields` of them.
    count: usize,
    max_fields: usize,
    scan: Scan,
    /// The line on which the row begins, and the line on which the next row begins.
    line: u64,
    next_line: u64,
    /// The line of the first field of the row that is too long.
    too_long: Option<u64>,
    /// The number of fields that contain line ends, and the line on which the first of them begins.
    multiline: (u64, u64),
}

impl Delimited {
    /// Opens a file and reads its header, unless the names of its columns are given.
    pub(crate) fn open(
        file: String,
        text: Box<dyn Read + Send>,
        dialect: Dialect,
        header: Option<Vec<String>>,
    ) -> Result<Self> {
        let mut this = Self {
            file,
            text,
            dialect,
            header: Vec::new(),
            buffer: vec![0; 2 * READ_BYTES],
            row: 0,
            next: 0,
            filled: 0,
            at_end: false,
            fields: Vec::new(),
            count: 0,
            max_fields: MAX_COLUMNS,
            scan: Scan::ROW_START,
            line: 0,
            next_line: 1,
            too_long: None,
            multiline: (0, 0),
        };
        if let Some(header) = header {
            this.max_fields = header.len();
            this.header = header;
            return Ok(this);
        }
        let empty = |file, reason| Err(DataError::EmptyFile { file, reason });
        if !this.read()? {
            return empty(this.file, "the file is empty, not even a header is there");
        }
        if this.count > MAX_COLUMNS {
            return Err(this.too_many_fields());
        }
        let is_one_line = this.at_end && this.next == this.filled;
        if is_one_line
            && this.buffer[this.row..this.next]
                .windows(2)
                .any(|pair| pair[0] == b'\r' && pair[1] != b'\n')
        {
            return empty(
                this.file,
                "its lines end with carriage returns alone: convert them to line feeds",
            );
        }
        let name = |k| String::from_utf8_lossy(this.field(k)).trim().to_owned();
        this.header = (0..this.count).map(name).collect();
        this.max_fields = this.count;
        Ok(this)
    }

    /// Returns the names of the columns.
    pub(crate) fn header(&self) -> &[String] {
        &self.header
    }

    /// Advances to the next row; returns false at the end.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        if !self.read()? {
            return Ok(false);
        }
        let (expected, found) = (self.header.len(), self.count);
        if found != expected {
            return Err(DataError::Ragged {
                file: self.file.clone(),
                line: self.line,
                expected,
                found,
            });
        }
        Ok(true)
    }

    /// Returns a field of the row; empty if the row has no such field.
    #[inline]
    pub(crate) fn field(&self, k: usize) -> &[u8] {
        let row = &self.buffer[self.row..self.next];
        self.fields
            .get(k)
            .and_then(|field| row.get(field.start as usize..field.end as usize))
            .unwrap_or_default()
    }

    /// Returns the line on which the row begins.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place { file: &self.file, line: self.line() }
    }

    /// Returns the number of fields so far that contain line ends, and the line on which the first
    /// of them begins.
    pub(crate) fn multiline_fields(&self) -> (u64, u64) {
        self.multiline
    }

    /// Reads the next line that is not blank; returns false at the end.
    fn read(&mut self) -> Result<bool> {
        self.begin_row();
        loop {
            let Some(end) = self.split() else {
                if !self.refill()? {
                    return Ok(false);
                }
                continue;
            };
            self.next = self.row + end + 1;
            self.next_line = self.line + self.scan.line_ends + 1;
            if let Some(line) = self.too_long {
                return Err(self.field_too_long(line));
            }
            if !matches!(&self.buffer[self.row..self.row + end], b"" | b"\r") {
                return Ok(true);
            }
            self.begin_row();
        }
    }

    fn begin_row(&mut self) {
        self.row = self.next;
        self.line = self.next_line;
        self.scan = Scan::ROW_START;
        self.fields.clear();
        self.count = 0;
        self.too_long = None;
    }

    /// Continues to find the fields of the row. Returns the end of the row if it is in the buffer.
    fn split(&mut self) -> Option<usize> {
        loop {
            if self.scan.quote == Quote::Open {
                self.find_closing_quote()?;
            }
            match self.find_end()? {
                End::Row(at) => return Some(at),
                End::Opens(at) => {
                    let scan = &mut self.scan;
                    (scan.quote, scan.opened_at, scan.at) = (Quote::Open, at, at + 1);
                    scan.opened_line = self.line + scan.line_ends;
                }
                End::Quoted(at) => {
                    let is_last = self.buffer[self.row + at] == b'\n';
                    self.end_quoted(at, is_last);
                    if is_last {
                        return Some(at);
                    }
                }
            }
        }
    }

    /// Finds the ends of fields up to one of these: the end of the row, a quote that opens a field,
    /// the end of a quoted field.
    fn find_end(&mut self) -> Option<End> {
        let Self {
            buffer,
            row,
            filled,
            fields,
            count,
            max_fields,
            scan,
            dialect,
            line,
            too_long,
            ..
        } = self;
        let Dialect { delimiter, trim, max_field_bytes } = *dialect;
        let text = &buffer[*row..*filled];
        let (words, rest) = text[scan.at..].as_chunks::<8>();
        let mut tail = [0; 8];
        tail[..rest.len()].copy_from_slice(rest);
        let (mut place, mut start) = (scan.at, scan.start);
        let is_quoted = scan.quote != Quote::None;
        for &word in words.iter().chain([&tail]) {
            let word = u64::from_le_bytes(word);
            let mut marks = equal(word, delimiter) | equal(word, b'\n') | equal(word, b'"');
            while marks != 0 {
                let at = place + marks.trailing_zeros() as usize / 8;
                marks &= marks - 1;
                let byte = text[at];
                if byte == b'"' {
                    if !is_quoted
                        && (at == start
                            || trim && text[start..at].iter().all(|&byte| is_blank(byte)))
                    {
                        scan.start = start;
                        return Some(End::Opens(at));
                    }
                    continue;
                }
                if is_quoted {
                    return Some(End::Quoted(at));
                }
                let is_last = byte == b'\n';
                if at - start > max_field_bytes {
                    too_long.get_or_insert(*line + scan.line_ends);
                }
                if *count < *max_fields {
                    fields.push(plain_field(text, start..at, is_last, trim));
                }
                *count += 1;
                if is_last {
                    return Some(End::Row(at));
                }
                start = at + 1;
            }
            place += 8;
        }
        (scan.start, scan.at) = (start, text.len());
        None
    }

    /// Finds the quote that closes the current field.
    fn find_closing_quote(&mut self) -> Option<()> {
        let Self { buffer, row, filled, scan, multiline, .. } = self;
        let text = &buffer[*row..*filled];
        while let Some(found) = memchr::memchr2(b'"', b'\n', &text[scan.at..]) {
            let at = scan.at + found;
            if text[at] == b'\n' {
                if !scan.has_line_ends {
                    multiline.0 += 1;
                    multiline.1 = if multiline.0 == 1 { scan.opened_line } else { multiline.1 };
                }
                scan.has_line_ends = true;
                scan.line_ends += 1;
                scan.at = at + 1;
                continue;
            }
            scan.at = at;
            if *text.get(at + 1)? != b'"' {
                (scan.quote, scan.at) = (Quote::Closed { at }, at + 1);
                return Some(());
            }
            scan.has_pairs = true;
            scan.at = at + 2;
        }
        scan.at = text.len();
        None
    }

    /// Ends a quoted field at position `end`.
    fn end_quoted(&mut self, mut end: usize, is_last: bool) {
        let Quote::Closed { at: close } = self.scan.quote else { return };
        let Scan { start, opened_at, opened_line, has_pairs, line_ends, .. } = self.scan;
        self.scan = Scan { start: end + 1, at: end + 1, line_ends, ..Scan::ROW_START };
        if end - start > self.dialect.max_field_bytes {
            self.too_long.get_or_insert(opened_line);
        }
        self.count += 1;
        if self.count > self.max_fields {
            return;
        }
        let text = &mut self.buffer[self.row..self.filled];
        if is_last && text[end - 1] == b'\r' {
            end -= 1;
        }
        let behind = close + 1;
        while self.dialect.trim && end > behind && is_blank(text[end - 1]) {
            end -= 1;
        }
        let start = opened_at + 1;
        let inside =
            start + if has_pairs { unpair_quotes(&mut text[start..close]) } else { close - start };
        text.copy_within(behind..end, inside);
        self.fields.push(Field { start: start as u32, end: (inside + end - behind) as u32 });
    }

    /// Moves the row to the front of the buffer and reads more after it; returns false at the end
    /// of the file.
    fn refill(&mut self) -> Result<bool> {
        self.buffer.copy_within(self.row..self.filled, 0);
        self.filled -= self.row;
        (self.row, self.next) = (0, 0);
        if self.at_end {
            // The text ends with a line end, which must be inside a quoted field.
            let unclosed =
                DataError::UnclosedQuote { file: self.file.clone(), line: self.scan.opened_line };
            return if self.filled > 0 { Err(unclosed) } else { Ok(false) };
        }
        self.check_size()?;
        if self.buffer.len() < self.filled + READ_BYTES {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        let count = loop {
            match self.text.read(&mut self.buffer[self.filled..self.filled + READ_BYTES]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => {
                    break result
                        .map_err(|source| DataError::Io { file: self.file.clone(), source })?;
                }
            }
        };
        self.at_end = count == 0;
        self.filled += count;
        if self.at_end && self.buffer[..self.filled].last().is_some_and(|&last| last != b'\n') {
            self.buffer[self.filled] = b'\n';
            self.filled += 1;
        }
        Ok(true)
    }

    /// Checks that the unfinished row at the front of the buffer is within the limits, since all of
    /// it stays in memory.
    fn check_size(&self) -> Result<()> {
        let Self { filled: length, scan, line, dialect, .. } = *self;
        if self.count > self.max_fields && length > READ_BYTES {
            return Err(self.too_many_fields());
        }
        if length - scan.start > dialect.max_field_bytes {
            let is_open = scan.quote != Quote::None;
            return Err(self.field_too_long(if is_open {
                scan.opened_line
            } else {
                line + scan.line_ends
            }));
        }
        if length > MAX_ROW_BYTES {
            return Err(DataError::RowTooLong {
                file: self.file.clone(),
                line,
                limit: MAX_ROW_BYTES as u64,
            });
        }
        Ok(())
    }

    fn field_too_long(&self, line: u64) -> DataError {
        DataError::FieldTooLong {
            file: self.file.clone(),
            line,
            limit: self.dialect.max_field_bytes,
        }
    }

    fn too_many_fields(&self) -> DataError {
        let (file, line) = (self.file.clone(), self.line);
        match self.header.len() {
            0 => DataError::TooManyColumns { file, line, limit: MAX_COLUMNS },
            expected => DataError::TooManyFields { file, line, expected },
        }
    }
}

/// The result of [`Delimited::find_end`]. Positions count from the beginning of the row.
enum End {
    /// The line end that ends the row, whose last field is unquoted.
    Row(usize),
    /// A quote that opens a field.
    Opens(usize),
    /// The delimiter or line end after a quoted field.
    Quoted(usize),
}

/// Returns an unquoted field.
#[inline(always)]
fn plain_field(text: &[u8], range: Range<usize>, is_last: bool, trim: bool) -> Field {
    let Range { mut start, mut end } = range;
    if is_last && start < end && text[end - 1] == b'\r' {
        end -= 1;
    }
    while trim && start < end && is_blank(text[start]) {
        start += 1;
    }
    while trim && start < end && is_blank(text[end - 1]) {
        end -= 1;
    }
    Field { start: start as u32, end: end as u32 }
}

/// Replaces each pair of quotes by one quote; returns the new length.
fn unpair_quotes(text: &mut [u8]) -> usize {
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        text[to] = text[from];
        from += if text[from] == b'"' { 2 } else { 1 };
        to += 1;
    }
    to
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor};

    use proptest::prelude::*;

    use super::*;

    const PLAIN: Dialect = Dialect { delimiter: b',', trim: true, max_field_bytes: 1 << 20 };

    /// A reader that returns a few bytes at a time.
    struct Trickle(Cursor<Vec<u8>>);
    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(3);
            self.0.read(&mut buffer[..count])
        }
    }

    fn open(text: &[u8], dialect: Dialect) -> Result<Delimited> {
        Delimited::open("f".into(), Box::new(Cursor::new(text.to_vec())), dialect, None)
    }

    fn fields(file: &Delimited) -> Vec<String> {
        (0..file.header().len())
            .map(|k| String::from_utf8_lossy(file.field(k)).into_owned())
            .collect()
    }

    fn rows_of(mut file: Delimited) -> Result<Vec<(u64, Vec<String>)>> {
        let mut rows = vec![(file.line(), file.header().to_vec())];
        while file.advance()? {
            rows.push((file.line(), fields(&file)));
        }
        assert!(!file.advance()?);
        Ok(rows)
    }

    fn rows(text: &str) -> Result<Vec<(u64, Vec<String>)>> {
        let rows = rows_of(open(text.as_bytes(), PLAIN)?);
        let trickle = Box::new(Trickle(Cursor::new(text.as_bytes().to_vec())));
        let trickled = Delimited::open("f".into(), trickle, PLAIN, None).and_then(rows_of);
        assert_eq!(format!("{rows:?}"), format!("{trickled:?}"));
        rows
    }

    fn message(text: &str) -> String {
        rows(text).unwrap_err().to_string()
    }

    #[test]
    fn lines_are_counted_from_one() {
        let text = "a,b\n\n1,\"x\ny\"\n\n\n2,\"\"\"\"\n3,";
        let expected = [(1, ["a", "b"]), (3, ["1", "x\ny"]), (7, ["2", "\""]), (8, ["3", ""])];
        for text in [
            text.to_owned(),
            text.to_owned() + "\n",
            text.replace('\n', "\r\n"),
            text.replace('\n', "\r\n") + "\r\n",
        ] {
            let rows = rows(&text).unwrap();
            let fields = |row: &[&str; 2]| {
                row.map(|field| {
                    field.replace('\n', if text.contains('\r') { "\r\n" } else { "\n" })
                })
            };
            assert!(
                rows.iter()
                    .cloned()
                    .eq(expected.iter().map(|(line, row)| (*line, fields(row).to_vec()))),
                "{text:?} {rows:?}"
            );
        }
    }

    #[test]
    fn ragged_rows_are_named() {
        assert!(message("a,b\r\n1,2\r\n\r\n3\r\n").starts_with("f:4: expected 2 fields, found 1"));
        assert!(message("a,b\n1,2,3").starts_with("f:2: expected 2 fields, found 3"));
        assert!(
            message("").contains("f: no data: the file is empty")
                && message("\n\r\n").contains("the file is empty")
        );
        assert!(
            message("a,b\r1,2\r3,4\r")
                .starts_with("f: no data: its lines end with carriage returns alone")
        );
    }

    #[test]
    fn quotes_must_be_closed() {
        for (text, line) in [
            ("a,b\n1,\"2\n3,4\n5,6\n", 2),
            ("a,b\n1,\"2", 2),
            ("a,b\n1,2\n\"", 3),
            ("a,b\n\"1\n\n\", \t\"2\n\"\"\n", 4),
            ("a,b\n1,\"2\"\"", 2),
            ("a,\"b\n1,2\n", 1),
            ("a,b\r\n\r\n\"1\r\n\"\"2", 3),
        ] {
            assert!(
                message(text)
                    .starts_with(&format!("f:{line}: a quote opens a field and is never closed")),
                "{text:?}"
            );
        }
        // Quotes within a field, and closed quotes at the end.
        assert_eq!(rows("a,b\n1\",2\"\"\n").unwrap()[1].1, ["1\"", "2\"\""]);
        assert_eq!(rows("a,b\n\"1\"\"\",\"\"").unwrap()[1].1, ["1\"", ""]);
    }

    #[test]
    fn line_ends_within_fields_are_counted() {
        let mut file = open(b"a,b\n1,\"x\n\ny\"\n2,z\n\"\n\",\"\n\"\n", PLAIN).unwrap();
        assert_eq!(file.multiline_fields().0, 0);
        while file.advance().unwrap() {}
        assert_eq!(file.multiline_fields(), (3, 2));
    }

    #[test]
    fn blanks_around_fields_are_no_part_of_them() {
        let text =
            " a , \"b c\" \t\n \t1 2\t , \"x, \"\"y\"\" \"  \n\" 3\",\" \" \r\n   ,\"4\" 5 \n";
        let expected = [
            (1, vec!["a", "b c"]),
            (2, vec!["1 2", "x, \"y\" "]),
            (3, vec![" 3", " "]),
            (4, vec!["", "4 5"]),
        ];
        assert!(
            rows(text)
                .unwrap()
                .iter()
                .map(|(n, r)| (*n, r.iter().map(String::as_str).collect()))
                .eq(expected)
        );
        let untrimmed = |text: &str| {
            rows_of(open(text.as_bytes(), Dialect { trim: false, ..PLAIN }).unwrap()).unwrap()
        };
        assert_eq!(
            untrimmed("a, b \n 1 , \"2\"\"\n")[1],
            (2, vec![" 1 ".into(), " \"2\"\"".into()])
        );
        // A blank that delimits is not trimmed, nor are blanks that are not ASCII.
        let blank = Dialect { delimiter: b' ', ..PLAIN };
        assert_eq!(
            rows_of(open(b"a b\n 2\n1\t \n", blank).unwrap()).unwrap()[1..],
            [(2, vec![String::new(), "2".into()]), (3, vec!["1".into(), String::new()])]
        );
        assert_eq!(rows("a,b\n\u{a0}1,2\u{b}\n").unwrap()[1].1, ["\u{a0}1", "2\u{b}"]);
    }

    #[test]
    fn a_row_takes_little_memory_whatever_is_in_it() {
        let read = |start: &str, endless: u8| {
            let text = Cursor::new(start.as_bytes().to_vec()).chain(io::repeat(endless));
            let mut file = match Delimited::open("f".into(), Box::new(text), PLAIN, None) {
                Ok(file) => file,
                Err(error) => return (error.to_string(), 0),
            };
            let error = loop {
                match file.advance() {
                    Ok(more) => assert!(more),
                    Err(error) => break error.to_string(),
                }
            };
            // The error persists.
            assert_eq!(file.advance().unwrap_err().to_string(), error);
            (error, file.buffer.capacity() + file.fields.capacity() * size_of::<Field>())
        };
        for (start, endless, expected) in [
            ("", b',', "f:1: a header of more than 100000 columns"),
            ("\n", b'x', "f:2: a field of more than 1048576 bytes begins here"),
            ("a,b\n1,2\n", b',', "f:3: expected 2 fields, found far more"),
            ("a,b\n1,2\n\"\n\",", b'x', "f:4: a field of more than 1048576 bytes begins here"),
            (
                "a,b\n1,2\n\"",
                b'x',
                "f:3: a field of more than 1048576 bytes begins here: is a quote",
            ),
            (
                "a,b\n1,2\n\"\n\",\"",
                b',',
                "f:4: a field of more than 1048576 bytes begins here: is a quote",
            ),
        ] {
            let (error, memory) = read(start, endless);
            assert!(error.starts_with(expected), "{error}");
            assert!(memory <= 1 << 22, "{start:?}: {memory} bytes");
        }
    }

    #[test]
    fn fields_have_a_limit() {
        let small = Dialect { max_field_bytes: 5, ..PLAIN };
        let read = |text: &str| rows_of(open(text.as_bytes(), small)?);
        assert_eq!(read("a,b\n12345,\"678\"\n").unwrap()[1].1, ["12345", "678"]);
        for (text, line) in
            [("a,b\n1,2\n123456,1\n", 3), ("a,b\n\"\n\",\"6789\"\n", 3), ("abcdef,b\n", 1)]
        {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("f:{line}: a field of more than 5 bytes")),
                "{error}"
            );
        }
        // The rows after it can be read.
        let mut file = open(b"a,b\n123456,1\n7,8\n", small).unwrap();
        assert!(file.advance().is_err() && file.advance().unwrap() && file.field(1) == b"8");
    }

    #[test]
    fn rows_cross_the_end_of_the_buffer() {
        let row = |k: usize| [format!("{k}"), format!("{}\"{}", "x".repeat(k % 300), k)];
        let quoted = |[a, b]: [String; 2]| format!("{a},\"{}\"\n", b.replace('"', "\"\""));
        let text: String = (0..3000).map(|k| quoted(row(k))).collect();
        let rows = rows(&format!("a,b\n{text}")).unwrap();
        assert!(
            rows[1..].iter().map(|(_, row)| row.clone()).eq((0..3000).map(|k| row(k).to_vec()))
        );
    }

    /// Returns the rows of the csv crate, which has no limits, accepts an unclosed quote, and keeps
    /// blanks.
    fn rows_of_csv(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(text);
        reader.byte_records().map(|row| row.unwrap().iter().map(<[u8]>::to_vec).collect()).collect()
    }

    const PIECES: [&str; 8] = [",", "\"", "\n", "\r\n", "a", " b", "cdefghijk", "é"];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn fields_are_those_of_the_csv_crate(
            pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 1..40)
        ) {
            let text = pieces.concat() + "\n";
            // The csv crate treats a carriage return at the end of a row as part of it.
            let expected = rows_of_csv(text.replace('\r', "").as_bytes());
            let untrimmed = Dialect { trim: false, ..PLAIN };
            let Ok(mut file) = open(text.as_bytes(), untrimmed) else { return Ok(()) };
            // A quote that is open at the end extends to the end of the text.
            let mut rows = expected.iter();
            let header = rows.next().unwrap();
            prop_assert_eq!(file.header().len(), header.len());
            loop {
                let row = rows.next();
                match file.advance() {
                    Ok(false) => break prop_assert!(row.is_none()),
                    Ok(true) => {
                        let bytes = |field: String| field.replace('\r', "").into_bytes();
                        let found: Vec<_> = fields(&file).into_iter().map(bytes).collect();
                        prop_assert_eq!(&found, row.unwrap());
                    }
                    Err(DataError::Ragged { found, .. }) => {
                        prop_assert_eq!(found, row.unwrap().len())
                    }
                    Err(DataError::UnclosedQuote { .. }) => {
                        break prop_assert!(rows.next().is_none());
                    }
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
        }
    }
}
