//! Tests of 10,000 mutations of valid files and settings, drawn from fixed seeds: none panics,
//! hangs, or allocates more than a gibibyte, and none silently gives another result than the
//! original.
//!
//! The expected result of a mutation is known without the reader under test:
//! - Another way to write the same rows (quotes, line ends, order of columns, files, compression,
//!   blanks, spellings of numbers) gives the same bits.
//! - A second, plain reader of the same grammar gives the meaning of changed bytes. If it finds a
//!   field that is never closed, or rows that do not fit the header, there must be an error, and
//!   else the same bits as for its rows written anew.
//! - A value without a meaning (a label or a number that is `NA`, a key in another spelling) is an
//!   error with its line, or counted.
//! - Changed settings mean the same, or are an error in the words of configurations, or differ when
//!   they are parsed.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bagdot::Philox;
use bagdot::data::{DataConfig, Encoder, LabelUse, RowStream, Splits};
use bagdot::train::Config;
use flate2::Compression;
use flate2::write::GzEncoder;
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use tempfile::TempDir;

use super::{gather, read_all, stdin};

const WRITINGS: u64 = 3000;
const BYTES: u64 = 4500;
const VALUES: u64 = 1000;
const SETTINGS: u64 = 1500;

/// The configuration, with columns of every kind. The column `note` is not read.
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
knots = 3

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

/// Returns one of the choices.
fn pick<T: Copy>(choices: &[T], random: &mut Philox) -> T {
    *choices.choose(random).unwrap()
}

/// Returns the rows, the same for all mutations. Their texts have all that a field may hold.
fn table() -> Vec<Vec<String>> {
    let mut random = Philox::new(20, 1);
    let mut rows = vec![COLUMNS.map(str::to_owned).to_vec()];
    for k in 0..40 {
        let tags: Vec<&str> = (0..random.random_range(0..4))
            .map(|_| pick(&["new", "sale", "é", "two words", "a,b"], &mut random))
            .collect();
        let year = match k % 7 {
            3 => String::new(),
            _ => random.random_range(1950..2020).to_string(),
        };
        let notes = ["", "fine", "12\" pipe", "two\nlines", "a,b", "\u{1f600}"];
        rows.push(vec![
            random.random_range(1..=4).to_string(),
            format!("{}.{:02}", random.random_range(0..500), random.random_range(0..100)),
            year,
            tags.join("|"),
            pick(&notes, &mut random).to_owned(),
            random.random_range(1..=5).to_string(),
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
    quotes: u32,
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
        order.shuffle(random);
        let mut coin = || random.random::<bool>();
        Self {
            order,
            line_end: if coin() { "\n" } else { "\r\n" },
            blanks: coin(),
            blank_lines: coin(),
            spellings: coin(),
            no_last_end: coin(),
            mark: coin(),
            quotes: random.random_range(0..=8),
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
            if self.blank_lines && random.random_ratio(1, 8) && k + 1 < rows.len() {
                text += self.line_end;
            }
        }
        text.into_bytes()
    }

    fn field(&self, text: &str, is_number: bool, random: &mut Philox) -> String {
        let mut text = text.to_owned();
        if is_number && self.spellings && !text.is_empty() {
            text = match random.random_range(0..5) {
                0 => format!("+{text}"),
                1 => format!("{text}e0"),
                2 => format!("00{text}"),
                3 if text.contains('.') => format!("{text}00"),
                3 => format!("{text}.0"),
                _ => text,
            };
        }
        if random.random_ratio(self.quotes, 8)
            || text.contains([',', '"', '\n', '\r'])
            || text.starts_with(' ')
        {
            text = format!("\"{}\"", text.replace('"', "\"\""));
        }
        let mut blank = || if self.blanks { pick(&["", " ", "\t", "  "], random) } else { "" };
        [blank(), text.as_str(), blank()].concat()
    }
}

/// A folder with the side table, in which files are encoded.
struct Bench {
    folder: TempDir,
    config: DataConfig,
}

impl Bench {
    fn new() -> Self {
        let folder = super::folder(&[("shops.csv", SIDE.as_bytes())]);
        Self { folder, config: Config::parse(CONFIG).unwrap().data }
    }

    /// Returns the bits of all that a model would read: the features, and all rows of all parts. An
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

/// Returns the rows of a delimited text, or none if a field is never closed. This is a second
/// reader of the documented grammar, byte by byte.
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
            // The delimiter is the last byte: an empty field follows it.
            row.push(Vec::new());
            rows.push(std::mem::take(&mut row));
        }
    }
    Some(rows)
}

/// Writes rows with all fields quoted, so that no reader can misread them.
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

/// Checks other ways to write the same rows.
fn writings() {
    let (bench, table) = (Bench::new(), table());
    let expected = bench.encode(&[Style::plain().write(&table, &mut Philox::new(0, 0))]).unwrap();
    for case in 0..WRITINGS {
        let mut random = Philox::new(case, 2);
        let style = Style::draw(&mut random);
        // The rows may be in several files, each with its own order of columns.
        let cut = random.random_range(1..table.len());
        let mut files = vec![style.write(&table, &mut random)];
        if random.random_ratio(1, 3) && cut > 1 {
            let rest = [&table[..1], &table[cut..]].concat();
            files = vec![
                style.write(&table[..cut], &mut random),
                Style::draw(&mut random).write(&rest, &mut random),
            ];
        }
        for file in &mut files {
            match random.random_range(0..4) {
                0 => *file = gzip(file),
                // Several gzip members are one stream.
                1 => {
                    let middle = random.random_range(0..file.len());
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
    for _ in 0..random.random_range(1..=2) {
        let at = random.random_range(0..=bytes.len());
        let to = (at + random.random_range(1..=6)).min(bytes.len());
        match random.random_range(0..7) {
            0 | 1 => drop(bytes.splice(at..at, pick(&PIECES, random).iter().copied())),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            5 if at < bytes.len() => bytes[at] = pick(&PIECES, random)[0],
            _ => drop(bytes.drain(at..to)),
        }
    }
}

/// Checks changes of bytes anywhere, in files that are written in any style.
fn bytes() {
    let (bench, table) = (Bench::new(), table());
    let (mut errors, mut others) = (0, 0);
    let untouched = bench.encode(&[Style::plain().write(&table, &mut Philox::new(0, 0))]);
    for case in 0..BYTES {
        let mut random = Philox::new(case, 3);
        let mut text = Style::draw(&mut random).write(&table, &mut random);
        if case % 9 == 0 {
            // A checksum guards compressed data.
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
                assert_eq!(
                    got, means,
                    "case {case}: the result is not that of its rows in\n{shown}"
                )
            }
            // The two errors may name different lines.
            (Err(_), Err(_)) => {}
            _ => panic!("case {case}: {got:?}, but its rows give {means:?} in\n{shown}"),
        }
        errors += u64::from(got.is_err());
        others += u64::from(got.is_ok() && got != untouched);
    }
    // Errors, other results and unchanged results must all occur often.
    assert!(
        errors > BYTES / 4 && others > BYTES / 8 && errors + others < BYTES / 9 * 8,
        "{errors} errors, {others} other results"
    );
}

/// Checks values without a meaning, and values that training has not seen.
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
        let row = random.random_range(1..rows.len());
        if case % 2 == 0 {
            let column = pick(&NUMERIC, &mut random);
            rows[row][column] = pick(&NOTHING, &mut random).to_owned();
            let error = bench.encode(&[plain(&rows)]).unwrap_err();
            // A note with a line end takes two lines of the file.
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
                "value {case}: predictions do not read labels"
            );
            if column == SCORE {
                let (got, expected) = (read(&rows).unwrap(), &untouched);
                assert_eq!((got.0, got.1), (expected.0.clone(), expected.1.clone()));
            }
        } else {
            // Keys in another spelling: the column, the count of its values, and the join each
            // count them as unknown.
            let changed: Vec<usize> =
                (1..rows.len()).filter(|_| random.random_ratio(1, 3)).collect();
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

/// Words of Rust and serde, which a message must not contain.
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

/// Checks settings whose lines are moved or whose characters are changed.
fn settings() {
    const TOKENS: [&str; 14] =
        ["[", "]", "\"", "=", "1", "-", "\n", "{", "x", "é", ".", "nan", "true", ","];
    const KINDS: [&str; 10] =
        ["3", "-1", "'x'", "[1]", "['x']", "{}", "true", "1.5", "nan", "1e400"];
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
            // The order of the keys of a table, blanks, comments and the kind of quotes have no
            // meaning.
            let blocks = text.split("\n\n").map(|block| {
                let mut lines: Vec<&str> = block.trim().lines().collect();
                let first = usize::from(lines[0].starts_with('['));
                lines[first..].shuffle(&mut random);
                let comment = |line| [line, pick(&["", " # x = 'é'"], &mut random)].concat();
                lines.into_iter().map(comment).collect::<Vec<_>>().join("\n")
            });
            let blocks: Vec<String> = blocks.collect();
            text = blocks.join(pick(&["\n", "\n\n\t\n"], &mut random));
            if random.random() {
                text = text.replace('"', "'");
            }
            assert_eq!(Config::parse(&text).as_ref(), Ok(&base), "settings {case}:\n{text}");
            continue;
        }
        let at = |random: &mut Philox, text: &str| {
            let at = random.random_range(0..text.len());
            (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
        };
        for _ in 0..random.random_range(1..=2) {
            let place = at(&mut random, &text);
            let end = text[place..]
                .char_indices()
                .nth(random.random_range(1..=4))
                .map_or(text.len(), |(end, _)| place + end);
            match random.random_range(0..5) {
                0 => text.insert_str(place, pick(&TOKENS, &mut random)),
                1 => drop(text.drain(place..end)),
                2 => {
                    let again = text[place..end].to_owned();
                    text.insert_str(place, &again);
                }
                3 => {
                    // Removes or repeats a line.
                    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                    let line = random.random_range(0..lines.len());
                    if random.random() {
                        drop(lines.remove(line))
                    } else {
                        lines.insert(line, lines[line].clone())
                    }
                    text = lines.join("\n");
                }
                _ => {
                    // Replaces a value by one of another kind.
                    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                    let line = random.random_range(0..lines.len());
                    let value = pick(&KINDS, &mut random);
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

/// Runs the mutations in a process of their own, so that its memory can be measured and a hang can
/// be detected.
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
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() > Duration::from_secs(600) => {
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
