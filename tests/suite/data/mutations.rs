//! 10,000 mutations of valid files and settings, drawn from a fixed seed: none panics, hangs, takes
//! more than a gibibyte, or passes with a result that differs from the untouched file's without a
//! word.
//!
//! The expected result of a mutation is known without the reader under test:
//! - another way to write the same rows (quotes, line ends, order of columns, files, compression,
//!   blanks, spellings of numbers) gives the same bits;
//! - bytes that are changed anywhere mean what a second, plain reader of the same grammar finds:
//!   where that finds a field that is never closed, or rows that do not fit the header, there is an
//!   error, else the same bits as its rows written out anew;
//! - a value that can be none (a label or a number that is `NA`, a key that is written otherwise)
//!   is an error with its line, or counted;
//! - settings are the same, or an error in the words of configurations, or others than before.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bagdot::Philox;
use bagdot::data::{DataConfig, Encoder, LabelUse, RowStream, Splits};
use bagdot::train::Config;
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::{gather, read_all, stdin};

const WRITINGS: u64 = 3000;
const BYTES: u64 = 4500;
const VALUES: u64 = 1000;
const SETTINGS: u64 = 1500;

/// Columns of every kind; `note` is not read.
const CONFIG: &str = r#"
[data]
train = "f.csv"
label = "score >= 3"
split = { by = "hash", validation = 0.2, test = 0.2 }

[[data.join]]
path = "shops.csv"
on = "shop"

[[data.derive]]
name = "decade"
from = "year"
bucket = 10

[[data.dense]]
column = "price"
bins = 4

[[data.dense]]
column = "year"
transform = "zscore"
missing = 1990

[[data.dense]]
column = "shop"
count = true

[[data.categorical]]
column = "shop"

[[data.categorical]]
column = "tags"
separator = "|"
min_count = 2

[[data.categorical]]
column = "city"

[[data.categorical]]
column = "decade"
hash = 7

[train]
epochs = 3
"#;
const SIDE: &str = "shop,city\n1,Oslo\n2,\"Rome, Italy\"\n3,Paris\n";
const COLUMNS: [&str; 6] = ["shop", "price", "year", "tags", "note", "score"];
const NUMERIC: [usize; 3] = [1, 2, 5];
const SCORE: usize = 5;

/// The rows, the same for all mutations: texts hold whatever a field may hold.
fn table() -> Vec<Vec<String>> {
    let mut random = Philox::new(20, 1);
    let mut rows = vec![COLUMNS.map(str::to_owned).to_vec()];
    for k in 0..40 {
        let tags: Vec<&str> = (0..random.below(4))
            .map(|_| ["new", "sale", "é", "two words", "a,b"][random.below(5) as usize])
            .collect();
        let year = if k % 7 == 3 { String::new() } else { (1950 + random.below(70)).to_string() };
        let note =
            ["", "fine", "12\" pipe", "two\nlines", "a,b", "\u{1f600}"][random.below(6) as usize];
        rows.push(vec![
            (1 + random.below(4)).to_string(),
            format!("{}.{:02}", random.below(500), random.below(100)),
            year,
            tags.join("|"),
            note.to_owned(),
            (1 + random.below(5)).to_string(),
        ]);
    }
    rows
}

/// The style in which rows are written. It does not change their meaning.
#[derive(Debug, Default)]
struct Style {
    order: Vec<usize>,
    line_end: &'static str,
    /// The share of fields that are quoted without need, in eighths.
    quotes: u64,
    blanks: bool,
    blank_lines: bool,
    spellings: bool,
    no_last_end: bool,
    mark: bool,
}

impl Style {
    fn plain() -> Self {
        Self { order: (0..COLUMNS.len()).collect(), line_end: "\n", ..Self::default() }
    }

    fn draw(random: &mut Philox) -> Self {
        let mut order: Vec<usize> = (0..COLUMNS.len()).collect();
        for k in (1..order.len()).rev() {
            order.swap(k, random.below(k as u64 + 1) as usize);
        }
        let mut coin = || random.below(2) == 1;
        Self {
            order,
            line_end: if coin() { "\n" } else { "\r\n" },
            blanks: coin(),
            blank_lines: coin(),
            spellings: coin(),
            no_last_end: coin(),
            mark: coin(),
            quotes: random.below(9),
        }
    }

    fn write(&self, rows: &[Vec<String>], random: &mut Philox) -> Vec<u8> {
        let mut text = String::from(if self.mark { "\u{feff}" } else { "" });
        for (k, row) in rows.iter().enumerate() {
            let fields: Vec<String> = self
                .order
                .iter()
                .map(|&c| self.field(&row[c], k > 0 && NUMERIC.contains(&c), random))
                .collect();
            text += &fields.join(",");
            if k + 1 < rows.len() || !self.no_last_end {
                text += self.line_end;
            }
            if self.blank_lines && random.below(8) == 0 && k + 1 < rows.len() {
                text += self.line_end;
            }
        }
        text.into_bytes()
    }

    fn field(&self, text: &str, is_number: bool, random: &mut Philox) -> String {
        let mut text = text.to_owned();
        if is_number && self.spellings && !text.is_empty() {
            text = match random.below(5) {
                0 => format!("+{text}"),
                1 => format!("{text}e0"),
                2 => format!("00{text}"),
                3 if text.contains('.') => format!("{text}00"),
                3 => format!("{text}.0"),
                _ => text,
            };
        }
        if random.below(8) < self.quotes
            || text.contains([',', '"', '\n', '\r'])
            || text.starts_with(' ')
        {
            text = format!("\"{}\"", text.replace('"', "\"\""));
        }
        let mut blank =
            || if self.blanks { ["", " ", "\t", "  "][random.below(4) as usize] } else { "" };
        [blank(), text.as_str(), blank()].concat()
    }
}

/// A folder with the side table, where files are encoded again and again.
struct Bench {
    folder: TempDir,
    config: DataConfig,
}

impl Bench {
    fn new() -> Self {
        let folder = super::folder(&[("shops.csv", SIDE.as_bytes())]);
        Self { folder, config: Config::parse(CONFIG).unwrap().data }
    }

    /// The bits of everything that a model would read: the features, and all rows of all parts. The
    /// error does not name the folder.
    fn encode(&self, files: &[Vec<u8>]) -> Result<Vec<String>, String> {
        let mut config = self.config.clone();
        config.train.clear();
        for (k, bytes) in files.iter().enumerate() {
            let name = if k == 0 { "f.csv".to_owned() } else { format!("f{k}.csv") };
            fs::write(self.folder.path().join(&name), bytes).unwrap();
            config.train.push(name.into());
        }
        self.encode_as(&config)
    }

    fn encode_as(&self, config: &DataConfig) -> Result<Vec<String>, String> {
        let path = self.folder.path();
        let encode = || {
            let encoder = Encoder::fit(config, path, &mut |_, _| ())?;
            let splits = Splits::load(config, &encoder, path, &mut |_, _| ())?;
            Ok((encoder, splits))
        };
        let (encoder, splits) = encode().map_err(|error: bagdot::data::DataError| {
            error.to_string().replace(&format!("{}/", path.display()), "")
        })?;
        let mut bits = vec![format!("{:?}", encoder.features())];
        for part in [&splits.train, &splits.validation, &splits.test] {
            let batch = gather(part, &(0..part.len() as u32).collect::<Vec<_>>());
            assert!(batch.dense.iter().all(|x| x.is_finite()));
            let dense: Vec<u32> = batch.dense.iter().map(|x| x.to_bits()).collect();
            bits.push(format!(
                "{dense:?} {:?} {:?} {:?}",
                batch.indices, batch.offsets, batch.labels
            ));
        }
        Ok(bits)
    }
}

/// The rows of a delimited text: a second reader, byte by byte, of the grammar that the program's
/// own says it reads. `None` where a field is never closed.
fn plain_rows(text: &[u8]) -> Option<Vec<Vec<Vec<u8>>>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let (mut rows, mut row, mut at) = (Vec::new(), Vec::new(), 0);
    let mut row_start = 0;
    while at < text.len() {
        let mut field = Vec::new();
        let start = at + text[at..].iter().take_while(|byte| is_blank(byte)).count();
        let is_quoted = text.get(start) == Some(&b'"');
        let mut kept = 0;
        if is_quoted {
            at = start + 1;
            loop {
                match (*text.get(at)?, text.get(at + 1)) {
                    (b'"', Some(b'"')) => (at, field) = (at + 2, [field, vec![b'"']].concat()),
                    (b'"', _) => break,
                    (byte, _) => {
                        field.push(byte);
                        at += 1;
                    }
                }
            }
            at += 1;
            kept = field.len();
        } else {
            at = start;
        }
        let rest = text[at..].iter().take_while(|byte| !matches!(byte, b',' | b'\n')).count();
        let is_last = text.get(at + rest) != Some(&b',');
        let mut behind = &text[at..at + rest];
        if is_last && behind.last() == Some(&b'\r') {
            behind = &behind[..behind.len() - 1];
        }
        field.extend_from_slice(behind);
        while field.len() > kept && field.last().is_some_and(is_blank) {
            field.pop();
        }
        row.push(field);
        at += rest + 1;
        if is_last {
            let line = &text[row_start..(at - 1).min(text.len())];
            if !matches!(line, b"" | b"\r") {
                rows.push(std::mem::take(&mut row));
            }
            row.clear();
            row_start = at;
        } else if at == text.len() {
            // The delimiter is the last byte: an empty field stands behind it.
            row.push(Vec::new());
            rows.push(std::mem::take(&mut row));
        }
    }
    Some(rows)
}

/// Rows written out so that no reader could take them for others.
fn write_plainly(rows: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut text = Vec::new();
    for row in rows {
        for (k, field) in row.iter().enumerate() {
            text.extend_from_slice(if k == 0 { b"\"" } else { b",\"" });
            field.iter().for_each(|&byte| {
                text.extend_from_slice(if byte == b'"' {
                    b"\"\""
                } else {
                    std::slice::from_ref(&byte)
                })
            });
            text.push(b'"');
        }
        text.push(b'\n');
    }
    text
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(vec![], Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// Other ways to write the same rows.
fn writings() {
    let (bench, table) = (Bench::new(), table());
    let expected = bench.encode(&[Style::plain().write(&table, &mut Philox::new(0, 0))]).unwrap();
    for case in 0..WRITINGS {
        let mut random = Philox::new(case, 2);
        let style = Style::draw(&mut random);
        // The rows may lie in several files, each with columns in an order of its own.
        let cut = 1 + random.below(table.len() as u64 - 1) as usize;
        let mut files = vec![style.write(&table, &mut random)];
        if random.below(3) == 0 && cut > 1 {
            let rest = [&table[..1], &table[cut..]].concat();
            files = vec![
                style.write(&table[..cut], &mut random),
                Style::draw(&mut random).write(&rest, &mut random),
            ];
        }
        for file in &mut files {
            match random.below(4) {
                0 => *file = gzip(file),
                // Several members are one stream.
                1 => {
                    let middle = random.below(file.len() as u64) as usize;
                    *file = [gzip(&file[..middle]), gzip(&file[middle..])].concat();
                }
                _ => {}
            }
        }
        assert_eq!(bench.encode(&files), Ok(expected.clone()), "writing {case}: {style:?}");
    }
}

/// Changes one or two places of a text.
fn mutate(bytes: &mut Vec<u8>, random: &mut Philox) {
    const PIECES: [&[u8]; 16] = [
        b"\"",
        b",",
        b"\n",
        b"\r",
        b"\r\n",
        b" ",
        b"\t",
        b"\0",
        b"\xff",
        b"\"\"",
        b"0",
        b"-",
        b"NA",
        b"\xef\xbb\xbf",
        b"1e9",
        b"|",
    ];
    for _ in 0..1 + random.below(2) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        let to = (at + 1 + random.below(6) as usize).min(bytes.len());
        match random.below(7) {
            0 | 1 => {
                let piece = PIECES[random.below(PIECES.len() as u64) as usize];
                bytes.splice(at..at, piece.iter().copied());
            }
            2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            5 if at < bytes.len() => {
                bytes[at] = PIECES[random.below(PIECES.len() as u64) as usize][0]
            }
            _ => drop(bytes.drain(at..to)),
        }
    }
}

/// Bytes that are changed anywhere, in files that are written in any way.
fn bytes() {
    let (bench, table) = (Bench::new(), table());
    let (mut errors, mut others) = (0, 0);
    let untouched = bench.encode(&[Style::plain().write(&table, &mut Philox::new(0, 0))]);
    for case in 0..BYTES {
        let mut random = Philox::new(case, 3);
        let mut text = Style::draw(&mut random).write(&table, &mut random);
        if case % 9 == 0 {
            // A checksum guards what is compressed.
            let mut packed = gzip(&text);
            mutate(&mut packed, &mut random);
            let got = bench.encode(&[packed.clone()]);
            assert!(got.is_err() || got == untouched || packed.len() < 2, "packed {case}: {got:?}");
            continue;
        }
        mutate(&mut text, &mut random);
        let got = bench.encode(&[text.clone()]);
        let shown = String::from_utf8_lossy(&text);
        let Some(rows) = plain_rows(&text) else {
            let error =
                got.expect_err(&format!("case {case}: a field is never closed in\n{shown}"));
            assert!(
                error.contains("never closed")
                    || error.contains(" fields, found ")
                    || error.starts_with("f.csv"),
                "case {case}: {error}"
            );
            errors += 1;
            continue;
        };
        let width = rows.first().map_or(0, Vec::len);
        if let Some(row) = rows.iter().position(|row| row.len() != width) {
            assert!(got.is_err(), "case {case}: row {row} does not fit the header in\n{shown}");
            errors += 1;
            continue;
        }
        let means = bench.encode(&[write_plainly(&rows)]);
        match (&got, &means) {
            (Ok(got), Ok(means)) => {
                assert_eq!(got, means, "case {case}: another result than its rows have in\n{shown}")
            }
            // The lines of what has been written anew are others.
            (Err(_), Err(_)) => {}
            _ => panic!("case {case}: {got:?}, but its rows give {means:?} in\n{shown}"),
        }
        errors += u64::from(got.is_err());
        others += u64::from(got.is_ok() && got != untouched);
    }
    // All three happen, else the mutations would be of no use.
    assert!(
        errors > BYTES / 4 && others > BYTES / 8 && errors + others < BYTES / 9 * 8,
        "{errors} errors, {others} other results"
    );
}

/// Values that mean nothing, or that training has not seen.
fn values() {
    const NOTHING: [&str; 9] = ["NA", "nan", "NaN", "None", "NULL", "?", "-", "inf", "n/a"];
    let (bench, table) = (Bench::new(), table());
    let plain = |rows: &[Vec<String>]| Style::plain().write(rows, &mut Philox::new(0, 0));
    fs::write(bench.folder.path().join("f.csv"), plain(&table)).unwrap();
    let encoder = Encoder::fit(&bench.config, bench.folder.path(), &mut |_, _| ()).unwrap();
    let read = |rows: &[Vec<String>]| {
        let mut stream =
            RowStream::open(&encoder, stdin(plain(rows)), LabelUse::Optional, None).unwrap();
        let batches = read_all(&mut stream, 64).map_err(|error| error.to_string())?;
        assert!(batches[0].labels.iter().all(|label| label.is_nan()));
        Ok::<_, String>((batches[0].dense.clone(), batches[0].indices.clone(), stream.coverage()))
    };
    let untouched = read(&table).unwrap();
    for case in 0..VALUES {
        let mut random = Philox::new(case, 4);
        let mut rows = table.clone();
        let row = 1 + random.below(rows.len() as u64 - 1) as usize;
        if case % 2 == 0 {
            let column = NUMERIC[random.below(3) as usize];
            rows[row][column] = NOTHING[random.below(9) as usize].to_owned();
            let error = bench.encode(&[plain(&rows)]).unwrap_err();
            // Notes with line ends make lines of the file that are no rows.
            let line =
                1 + rows[..row].iter().map(|row| 1 + row[4].matches('\n').count()).sum::<usize>();
            let expected = format!(
                "f.csv:{line}: column {:?} holds {:?}, ",
                COLUMNS[column], rows[row][column]
            );
            assert!(error.starts_with(&expected), "value {case}: {error}");
            assert_eq!(
                read(&rows).is_err(),
                column != SCORE,
                "value {case}: a label is not looked at where rows are predicted"
            );
            if column == SCORE {
                let (got, expected) = (read(&rows).unwrap(), &untouched);
                assert_eq!((got.0, got.1), (expected.0.clone(), expected.1.clone()));
            }
        } else {
            // Keys that are written otherwise: each is counted, in the column, in what counts them,
            // and in the join.
            let changed: Vec<usize> = (1..rows.len()).filter(|_| random.below(3) == 0).collect();
            let first = changed.first().map(|&row| format!("{}.0", rows[row][0]));
            changed.iter().for_each(|&row| rows[row][0] += ".0");
            let (_, _, coverage) = read(&rows).unwrap();
            let joined =
                rows[1..].iter().filter(|row| !matches!(row[0].as_str(), "1" | "2" | "3")).count()
                    as u64;
            let shop = &coverage.columns[0];
            assert_eq!(
                (shop.values, shop.unknown, &shop.first),
                (40, changed.len() as u64, &first),
                "value {case}"
            );
            assert_eq!(
                (coverage.columns[3].unknown, coverage.joins[0].unknown),
                (changed.len() as u64, joined),
                "value {case}"
            );
            assert_eq!(
                shop.is_notable(),
                changed.len() >= 2,
                "value {case}: 2 of 40 values are worth a warning"
            );
        }
    }
}

/// Words of Rust and serde.
const RUST: [&str; 15] = [
    "struct",
    "enum",
    "variant",
    "Option",
    "u8",
    "u32",
    "u64",
    "usize",
    "i64",
    "f32",
    "f64",
    "invalid type",
    "unit",
    "map",
    "sequence",
];

/// Settings whose lines are moved, and whose characters are changed.
fn settings() {
    let bench = Bench::new();
    fs::write(
        bench.folder.path().join("f.csv"),
        Style::plain().write(&table(), &mut Philox::new(0, 0)),
    )
    .unwrap();
    let base = Config::parse(CONFIG).unwrap();
    let expected = bench.encode_as(&base.data);
    let mut errors = 0;
    for case in 0..SETTINGS {
        let mut random = Philox::new(case, 5);
        let mut text = CONFIG.to_owned();
        if case % 3 == 0 {
            // The order of the keys of a table, blanks, comments and the kind of quotes mean
            // nothing.
            let blocks = text.split("\n\n").map(|block| {
                let mut lines: Vec<&str> = block.trim().lines().collect();
                let first = usize::from(lines[0].starts_with('['));
                for k in (first + 1..lines.len()).rev() {
                    lines.swap(k, first + random.below((k - first) as u64 + 1) as usize);
                }
                lines
                    .iter()
                    .map(|line| {
                        [line, " # ", "x = 'é'"][..1 + 2 * random.below(2) as usize].concat()
                    })
                    .collect::<Vec<_>>()
                    .join("\n")
            });
            text = blocks.collect::<Vec<_>>().join(if random.below(2) == 0 {
                "\n"
            } else {
                "\n\n\t\n"
            });
            if random.below(2) == 0 {
                text = text.replace('"', "'");
            }
            assert_eq!(Config::parse(&text).as_ref(), Ok(&base), "settings {case}:\n{text}");
            continue;
        }
        let at = |random: &mut Philox, text: &str| {
            let at = random.below(text.len() as u64) as usize;
            (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
        };
        for _ in 0..1 + random.below(2) {
            let place = at(&mut random, &text);
            let end = text[place..]
                .char_indices()
                .nth(1 + random.below(4) as usize)
                .map_or(text.len(), |(end, _)| place + end);
            match random.below(5) {
                0 => text.insert_str(
                    place,
                    ["[", "]", "\"", "=", "1", "-", "\n", "{", "x", "é", ".", "nan", "true", ","]
                        [random.below(14) as usize],
                ),
                1 => drop(text.drain(place..end)),
                2 => {
                    let again = text[place..end].to_owned();
                    text.insert_str(place, &again);
                }
                3 => {
                    // A line more, or one less.
                    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                    let line = random.below(lines.len() as u64) as usize;
                    if random.below(2) == 0 {
                        drop(lines.remove(line))
                    } else {
                        lines.insert(line, lines[line].clone())
                    }
                    text = lines.join("\n");
                }
                _ => {
                    // A value of another kind.
                    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                    let line = random.below(lines.len() as u64) as usize;
                    let value =
                        ["3", "-1", "'x'", "[1]", "['x']", "{}", "true", "1.5", "nan", "1e400"]
                            [random.below(10) as usize];
                    let changed =
                        lines.iter().enumerate().map(|(k, text)| match text.split_once('=') {
                            Some((key, _)) if k == line => format!("{key}= {value}"),
                            _ => text.clone(),
                        });
                    text = changed.collect::<Vec<_>>().join("\n");
                }
            }
            if text.is_empty() {
                text = "x".into();
            }
        }
        match Config::parse(&text) {
            Ok(config) => {
                // The result may differ from the original one only if the settings do.
                let got = bench.encode_as(&config.data);
                assert!(config.data != base.data || got == expected, "settings {case}:\n{text}");
            }
            Err(message) => {
                errors += 1;
                let padded = format!(
                    " {} ",
                    message.replace(|c: char| !c.is_alphanumeric() && c != '_', " ")
                );
                let word = RUST.iter().find(|word| padded.contains(&format!(" {word} ")));
                assert!(
                    word.is_none() || text.contains(word.unwrap()),
                    "settings {case}: {word:?} in {message}\n{text}"
                );
            }
        }
    }
    assert!(errors > SETTINGS / 4 && errors < SETTINGS / 3 * 2, "{errors}");
}

const CHILD: &str = "BAGDOT_TEST_MUTATIONS";

/// Runs in a process of its own, so that its memory can be told from that of other tests, and its
/// end can be waited for.
#[test]
fn ten_thousand_mutations() {
    assert_eq!(WRITINGS + BYTES + VALUES + SETTINGS, 10_000);
    if std::env::var_os(CHILD).is_some() {
        for part in [writings, bytes, values, settings] {
            part();
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        assert!(peak.is_none_or(|kib| kib < 1 << 20), "{peak:?} KiB of memory");
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["data::mutations::ten_thousand_mutations", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if begun.elapsed() > Duration::from_secs(600) => {
                child.kill().unwrap();
                panic!("a mutation hangs");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(status.success(), "{said}");
}
