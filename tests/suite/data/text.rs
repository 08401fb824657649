//! Tests of real-world text: blanks, quotes, compressed files, files that are not text, and files
//! that change while they are read.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use bagdot::data::Note;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

const JOINED: &str = r#"
    train = "f"
    label = "y = >50K"
    join = [{ path = "side", on = { left = "shop", right = "id" } }]
    derive = [{ name = "part", from = ["c", "town"], pattern = "^(. .)" }]
    dense = [{ column = "x" }]
    categorical = [
        { column = "c" }, { column = "tags", separator = ";" }, { column = "town" },
        { column = "part" }, { column = "c", hash = 100 },
    ]
"#;

/// Returns 64 rows and their side table, with `blank` around all fields.
fn spaced(blank: &str) -> (String, String) {
    let line = |fields: &[&str]| fields.join(&format!("{blank},{blank}")) + "\n";
    let mut text = line(&["x", "c", "tags", "shop", "y"]);
    for k in 0..64 {
        let (x, shop) = (k.to_string(), format!("s{}", k % 5));
        let tags = format!("t{}{blank};{blank}a long tag{}", k % 3, k % 2);
        text += &line(&[
            &x,
            ["red", "a long colour"][k % 2],
            &tags,
            &shop,
            [">50K", "<=50K"][k / 2 % 2],
        ]);
    }
    let side =
        (0..4).map(|k| line(&[&format!("s{k}"), ["Rome", "Paris", "Oslo", "A town, far away"][k]]));
    let side = side.map(|row| row.replace("A town, far away", "\"A town, far away\""));
    (text, line(&["id", "town"]) + &side.collect::<String>())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(vec![], Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn fitted(toml: &str, file: &[u8], side: &[u8]) -> Result<(Encoder, Splits)> {
    let files = folder(&[("f", file), ("side", side)]);
    fit(&config(toml), files.path())
}

#[test]
fn blanks_around_texts_change_nothing() {
    let (text, side) = spaced("");
    let (encoder, splits) = fitted(JOINED, text.as_bytes(), side.as_bytes()).unwrap();
    assert_eq!(encoder.features()[1].num_embeddings, 6);
    for blank in [" ", "  ", "\t", " \t "] {
        let (text, side) = spaced(blank);
        let (with_blanks, same) = fitted(JOINED, text.as_bytes(), side.as_bytes()).unwrap();
        assert!(with_blanks == encoder && same == splits, "{blank:?}");
        let stream = |text: &str| {
            let mut stream =
                RowStream::open(&encoder, stdin(text), LabelUse::Required, None).unwrap();
            read_all(&mut stream, 1000).unwrap()
        };
        assert_eq!(stream(&text), stream(&spaced("").0));
    }
    // Without trimming, names and numbers keep their meaning, and texts do not.
    let untrimmed = |on: &str| {
        let (text, side) = spaced(" ");
        let side = side.replace("\"A town, far away\"", "Bath");
        fitted(&format!("trim = {on}\n{JOINED}"), text.as_bytes(), side.as_bytes())
    };
    assert!(matches!(untrimmed("false"), Err(DataError::OneClass { label: 0, .. })));
    assert!(untrimmed("true").unwrap().0.features() == encoder.features());
}

#[test]
fn what_is_inside_quotes_stays() {
    let text = rows(64, |k| format!("1, \" {}\"  , {}", k % 2, k % 2));
    let toml = "train = 'f'\nlabel = 'y'\ncategorical = [{ column = 'd' }]\n\
        derive = [{ name = 'd', from = 'c', pattern = '^( )' }]";
    let (encoder, splits) = fitted(toml, text.as_bytes(), b"").unwrap();
    assert_eq!(
        (encoder.features()[0].num_embeddings, gather(&splits.train, &[0, 1]).indices),
        (2, vec![1, 1])
    );
}

#[test]
fn compressed_files_are_the_same_wherever_they_are_named() {
    let (text, side) = spaced(" ");
    let (text, side) = (text.as_bytes(), side.as_bytes());
    let (encoder, splits) = fitted(JOINED, text, side).unwrap();
    let padded = |bytes: &[u8]| [bytes, &[0; 10_240]].concat();
    for pack in [gzip, zstd, |bytes: &[u8]| [gzip(&bytes[..50]), gzip(&bytes[50..])].concat()] {
        for (file, table) in [(pack(text), pack(side)), (padded(&pack(text)), padded(&pack(side)))]
        {
            let (same, rows) = fitted(JOINED, &file, &table).unwrap();
            assert!(
                same == encoder
                    && rows == splits
                    && rows.notes.is_empty()
                    && same.notes().is_empty()
            );
            let mut stream =
                RowStream::open(&encoder, stdin(file), LabelUse::Required, None).unwrap();
            assert_eq!(read_all(&mut stream, 1000).unwrap()[0].batch_size, 64);
            assert!(stream.report().notes.is_empty());
        }
        // Junk behind the data gives a note for each file.
        let junk = |bytes: &[u8]| [pack(bytes), b"more".to_vec()].concat();
        let (same, rows) = fitted(JOINED, &junk(text), &junk(side)).unwrap();
        assert!(same == encoder && rows.train == splits.train);
        assert!(matches!(&rows.notes[..], [Note::Junk { file }] if file.ends_with("/f")));
        assert!(matches!(same.notes(), [Note::Junk { file }] if file.ends_with("/side")));
        let mut stream =
            RowStream::open(&encoder, stdin(junk(text)), LabelUse::Required, None).unwrap();
        read_all(&mut stream, 1000).unwrap();
        assert_eq!(stream.report().notes, [Note::Junk { file: "standard input".into() }]);
        assert!(
            stream.report().notes[0]
                .to_string()
                .starts_with("standard input: something else stands behind")
        );
        // A truncated file is an error.
        let cut = |bytes: &[u8]| {
            let packed = pack(bytes);
            packed[..packed.len() - 9].to_vec()
        };
        for (file, side, name) in
            [(cut(text), pack(side), "/f: the "), (pack(text), cut(side), "/side: the ")]
        {
            let error = fitted(JOINED, &file, &side).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains(" data are cut off: the file is not whole"),
                "{error}"
            );
        }
        let mut stream =
            RowStream::open(&encoder, stdin(cut(text)), LabelUse::Required, None).unwrap();
        let error = read_all(&mut stream, 1000).unwrap_err().to_string();
        assert!(error.starts_with("standard input: the ") && error.contains("cut off"), "{error}");
    }
}

#[test]
fn open_quotes_are_errors_wherever_they_are() {
    let open = |text: &str, line: usize| {
        text.lines().enumerate().fold(String::new(), |all, (k, row)| {
            all + &if k + 1 == line { row.replacen(',', ",\"", 1) } else { row.to_owned() } + "\n"
        })
    };
    let (text, side) = spaced("");
    let side = side.replace("\"A town, far away\"", "Bath");
    let encoder = fitted(JOINED, text.as_bytes(), side.as_bytes()).unwrap().0;
    for pack in [|bytes: &[u8]| bytes.to_vec(), gzip, zstd] {
        for line in [1, 2, 22, 65] {
            let bad = pack(open(&text, line).as_bytes());
            let expected = format!("f:{line}: a quote opens a field and is never closed");
            let error = fitted(JOINED, &bad, side.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(&expected), "{error}");
            let mut stream =
                RowStream::open(&encoder, stdin(bad), LabelUse::Optional, None).unwrap();
            let error = read_all(&mut stream, 10).unwrap_err().to_string();
            assert!(error.contains(&format!("standard input:{line}: a quote opens")), "{error}");
        }
        let error = fitted(JOINED, &pack(text.as_bytes()), &pack(open(&side, 3).as_bytes()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("side:3: a quote opens a field"), "{error}");
    }
    // Line ends in quotes give one note for each file.
    let lines = text.replacen(",red,", ",\"red\n\",", 2);
    let (encoder, splits) =
        fitted(JOINED, lines.as_bytes(), side.replace("Paris", "\"Par\nis\"").as_bytes()).unwrap();
    assert!(
        matches!(splits.notes[..], [Note::LineEnds { fields: 2, line: 2, .. }]),
        "{:?}",
        splits.notes
    );
    assert!(
        matches!(encoder.notes(), [Note::LineEnds { fields: 1, line: 3, .. }]),
        "{:?}",
        encoder.notes()
    );
    assert!(
        splits.notes[0]
            .to_string()
            .contains("2 quoted fields have line ends inside, the first on line 2")
    );
}

#[test]
fn files_that_are_no_text_are_named() {
    let utf16: Vec<u8> = spaced("").0.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (text, side) = spaced("");
    for (bytes, name) in [
        (b"PK\x03\x04\x14\0\x06\0t.csv".to_vec(), "a zip archive"),
        (b"PAR1\x15\x04\x15\x10".to_vec(), "a Parquet file"),
        (b"BZh91AY&SY\x01\x02".to_vec(), "compressed with bzip2"),
        (b"\xfd7zXZ\0\0\x04".to_vec(), "compressed with xz"),
        ([b"\xff\xfe".to_vec(), utf16.clone()].concat(), "text in UTF-16"),
        (utf16, "text in UTF-16"),
    ] {
        for (file, side) in [(&bytes[..], side.as_bytes()), (text.as_bytes(), &bytes)] {
            let error = fitted(JOINED, file, side).unwrap_err();
            assert!(matches!(&error, DataError::NoText { what, .. } if *what == name), "{error}");
        }
        let criteo =
            fitted("format = 'criteo'\ntrain = 'f'", &gzip(&bytes), b"").unwrap_err().to_string();
        assert!(criteo.contains(&format!("/f: this is {name}, which cannot be read")), "{criteo}");
    }
}

#[test]
fn control_characters_of_files_are_escaped() {
    let bad = "x\u{1b}[31m,c\u{9b}1m\u{202e},y\u{7}\n1,\"a\u{1b}\r\n\",b\u{1b}]0;t\u{7}\n";
    let on = |toml: &str| message(toml, bad);
    let key = "label = \"y\\u0007\"\ncategorical = [{ column = \"c\\u009B1m\\u202E\" }]";
    let escaped = "x\\u{1b}[31m, c\\u{9b}1m\\u{202e}, y\\u{7}";
    let columns = on(SIMPLE);
    assert!(columns.contains(escaped), "{columns}");
    let label = on(key);
    assert!(label.contains("the label \"y\\u{7}\" is \"b\\u{1b}]0;t\\u{7}\""), "{label}");
    for message in [columns, label] {
        assert!(!message.contains(|c: char| c.is_control() || c == '\u{202e}'), "{message:?}");
    }
    assert_eq!(Source::from(PathBuf::from("a\u{1b}b\nc")).name(), "a\\u{1b}b\\nc");
}

#[test]
fn files_that_change_meanwhile_are_noticed() {
    let text = rows(5000, |k| format!("{k},a,{}", k % 2));
    for toml in [SIMPLE.to_owned(), format!("{SIMPLE}\nsplit = {{ by = 'time', column = 'x' }}")] {
        let config = config(&format!("train = 'f'\n{toml}"));
        let files = folder(&[("f", text.as_bytes())]);
        let append = || {
            let file = fs::OpenOptions::new().append(true).open(files.path().join("f")).unwrap();
            (&file).write_all(b"1,a,1\n").unwrap();
        };
        let mut grow = |_: u64, _: u64| append();
        let is_noticed =
            |error: DataError| matches!(error, DataError::Changed { file } if file.ends_with("/f"));
        // The file changes while the encoder fits, then between fitting and loading, then while the
        // rows are loaded.
        assert!(is_noticed(Encoder::fit(&config, files.path(), &mut grow).unwrap_err()));
        let encoder = Encoder::fit(&config, files.path(), &mut |_, _| ()).unwrap();
        append();
        assert!(is_noticed(
            Splits::load(&config, &encoder, files.path(), &mut |_, _| ()).unwrap_err()
        ));
        let encoder = Encoder::fit(&config, files.path(), &mut |_, _| ()).unwrap();
        assert!(is_noticed(Splits::load(&config, &encoder, files.path(), &mut grow).unwrap_err()));
        // A file with another time of modification has changed. A stored encoder does not hold the
        // state of the files.
        let encoder = Encoder::fit(&config, files.path(), &mut |_, _| ()).unwrap();
        let file = fs::File::options().write(true).open(files.path().join("f")).unwrap();
        file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9))
            .unwrap();
        assert!(is_noticed(
            Splits::load(&config, &encoder, files.path(), &mut |_, _| ()).unwrap_err()
        ));
        let stored: Encoder =
            serde_json::from_str(&serde_json::to_string(&encoder).unwrap()).unwrap();
        assert!(
            stored == encoder
                && Splits::load(&config, &stored, files.path(), &mut |_, _| ()).is_ok()
        );
    }
}

#[test]
#[cfg(unix)]
fn pipes_and_directories_are_no_training_data() {
    let text = rows(64, |k| format!("{k},a,{}", k % 2));
    let files = folder(&[("f", text.as_bytes()), ("g", text.as_bytes())]);
    fs::create_dir(files.path().join("d")).unwrap();
    assert!(Command::new("mkfifo").arg(files.path().join("p")).status().unwrap().success());
    let error = |toml: &str| {
        let error = fit(&config(&format!("{toml}\n{SIMPLE}")), files.path()).unwrap_err();
        error.to_string().replace(&format!("{}/", files.path().display()), "")
    };
    let pipe = "p: this is no regular file, and training reads its rows several times";
    assert!(error("train = 'p'").starts_with(pipe));
    assert!(error("train = ['f', 'p']").starts_with(pipe));
    assert!(
        error("train = 'f'\nvalidation = 'g'\ntest = 'p'\nsplit = { by = 'file' }")
            .starts_with(pipe)
    );
    assert!(
        error("train = 'f'\njoin = [{ path = 'p', on = 'c' }, { path = 'p', on = 'x' }]")
            .starts_with(pipe)
    );
    assert!(error("train = '/dev/zero'").starts_with("/dev/zero: this is no regular file"));
    assert_eq!(error("train = 'd'"), "d: this is a directory: name a file");
    assert_eq!(
        error("train = 'f'\njoin = [{ path = 'd', on = 'c' }]"),
        "d: this is a directory: name a file"
    );
}

#[test]
fn long_fields_need_a_setting() {
    let long = "x".repeat(3 << 20);
    let text = rows(64, |k| format!("{k},{},{}", if k == 7 { &long } else { "a" }, k % 2));
    let error = message(SIMPLE, &text);
    assert!(
        error.starts_with("f.csv:9: a field of more than 1048576 bytes begins here"),
        "{error}"
    );
    assert!(error.contains("raise data.max_field_bytes"), "{error}");
    assert_eq!(message(&format!("max_field_bytes = 4000000\n{SIMPLE}"), &text), "no error");
    assert!(
        message(&format!("max_field_bytes = 1\n{SIMPLE}"), "x,c,y\n1,bb,1\n")
            .starts_with("f.csv:2: a field of more than 1 bytes")
    );
}
