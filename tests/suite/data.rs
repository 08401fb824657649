//! Tests of the way from files to batches: the sample data against an independent computation,
//! every kind of bad input, and fuzzing.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use bagdot::data::{
    Batch, DataConfig, DataError, Dataset, Encoder, LabelUse, Part, Result, RowStream, Source,
    Splits,
};
use tempfile::TempDir;

mod columns;
pub mod fuzz;
mod mutations;
pub mod samples;
mod text;
mod values;

fn config(toml: &str) -> DataConfig {
    toml::from_str(toml).unwrap()
}

/// Returns a folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn fit(config: &DataConfig, folder: &Path) -> Result<(Encoder, Splits)> {
    let encoder = Encoder::fit(config, folder, &mut |_, _| ())?;
    let splits = Splits::load(config, &encoder, folder, &mut |_, _| ())?;
    Ok((encoder, splits))
}

/// Fits and loads `text` as a file `f.csv`, and returns the error or `no error`.
fn message(toml: &str, text: &str) -> String {
    let folder = folder(&[("f.csv", text.as_bytes())]);
    match fit(&config(&format!("train = 'f.csv'\n{toml}")), folder.path()) {
        Ok(_) => "no error".into(),
        Err(error) => error.to_string().replace(&format!("{}/", folder.path().display()), ""),
    }
}

fn read_all(stream: &mut RowStream<'_>, max_rows: usize) -> Result<Vec<Batch>> {
    let mut batches = vec![];
    let mut batch = Batch::default();
    while stream.next_batch(max_rows, &mut batch)? {
        batches.push(batch.clone());
    }
    Ok(batches)
}

fn stdin(text: impl Into<Vec<u8>>) -> Vec<Source> {
    vec![Source::Reader {
        name: "standard input".into(),
        reader: Box::new(Cursor::new(text.into())),
    }]
}

fn gather(dataset: &Dataset, rows: &[u32]) -> Batch {
    let mut batch = Batch::default();
    dataset.gather(rows, &mut batch);
    batch
}

/// Returns the ids of bag `(feature, sample)`.
fn bag(batch: &Batch, feature: usize, sample: usize) -> &[u32] {
    let k = feature * batch.batch_size + sample;
    &batch.indices[batch.offsets[k] as usize..batch.offsets[k + 1] as usize]
}

/// Returns whether the default split gives a row to training.
fn is_train(row: usize) -> bool {
    (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60 > 3
}

/// Returns a header of a number `x`, a category `c` and a label `y`, and `count` rows.
fn rows(count: usize, row: impl Fn(usize) -> String) -> String {
    "x,c,y\n".to_owned() + &(0..count).map(|k| row(k) + "\n").collect::<String>()
}

const SIMPLE: &str = "label = 'y'\ndense = [{ column = 'x' }]\ncategorical = [{ column = 'c' }]";

#[test]
fn missing_numbers_are_filled_in() {
    let text = rows(64, |k| {
        format!("{},a,{}", if k % 4 == 1 { String::new() } else { (k % 4).to_string() }, k % 2)
    });
    for (setting, expected) in [
        ("missing = 'mean', transform = 'none'", None),
        ("missing = 'zero'", Some(0.0)),
        ("missing = 'zero', transform = 'zscore'", Some(0.0)),
        ("transform = 'zscore'", Some(0.0)),
        ("missing = 3, transform = 'log1p'", Some(4f32.ln())),
        ("missing = 7.5, transform = 'none'", Some(7.5)),
    ] {
        let folder = folder(&[("f.csv", text.as_bytes())]);
        let toml = format!("train = 'f.csv'\nlabel = 'y'\ndense = [{{ column = 'x', {setting} }}]");
        let (encoder, splits) = fit(&config(&toml), folder.path()).unwrap();
        let train: Vec<usize> = (0..64).filter(|&k| is_train(k)).collect();
        let numbers: Vec<usize> = train.iter().map(|k| k % 4).filter(|&x| x != 1).collect();
        let mean = numbers.iter().sum::<usize>() as f32 / numbers.len() as f32;
        let row = train.iter().position(|k| k % 4 == 1).unwrap();
        let got = gather(&splits.train, &[row as u32]).dense[0];
        assert!((got - expected.unwrap_or(mean)).abs() < 1e-6, "{setting}: {got}");
        assert!(encoder.features().is_empty());
    }
    let setting = "label = 'y'\ndense = [{ column = 'x', missing = 'error' }]";
    assert!(
        message(setting, &text).starts_with("f.csv:3: column \"x\" is empty: set missing = "),
        "{}",
        message(setting, &text)
    );
}

#[test]
fn quantiles_rank_the_training_rows() {
    let text = rows(1600, |k| format!("{},{},{}", k * k, k % 2, k % 2));
    let folder = folder(&[("f.csv", text.as_bytes())]);
    let dense = "dense = [{ column = 'x', transform = 'quantile', bins = 4 }]\n\
        categorical = [{ column = 'c' }, { column = 'c' }]";
    let (encoder, splits) =
        fit(&config(&format!("train = 'f.csv'\nlabel = 'y'\n{dense}")), folder.path()).unwrap();
    let names: Vec<&str> = encoder.features().iter().map(|feature| feature.name.as_str()).collect();
    assert_eq!(names, ["c", "c.2", "x.bins"]);
    let n = splits.train.len();
    let all = gather(&splits.train, &(0..n as u32).collect::<Vec<_>>());
    for row in 0..n {
        let share = row as f32 / (n - 1) as f32;
        assert!((all.dense[row] - share).abs() < 1e-3, "{} {share}", all.dense[row]);
        let bin = bag(&all, 2, row)[0];
        assert!(
            (bin as f32 - 1.0 - (4.0 * share).floor().min(3.0)).abs() < 1e-6,
            "row {row} of {n} is in bin {bin}"
        );
    }
    let mut stream =
        RowStream::open(&encoder, stdin("x,c\n-5,0\n1e9,1\n,z\n"), LabelUse::Optional, None)
            .unwrap();
    let batch = read_all(&mut stream, 2).unwrap();
    assert_eq!(
        (batch.len(), batch[0].dense.as_slice(), batch[1].batch_size),
        (2, [0.0, 1.0].as_slice(), 1)
    );
    assert_eq!(
        (bag(&batch[0], 2, 0), bag(&batch[0], 2, 1), bag(&batch[1], 2, 0)),
        ([1].as_slice(), [4].as_slice(), [0].as_slice())
    );
}

#[test]
fn splits_by_time_and_by_file() {
    let row = |k: usize| format!("{},a,{}", (k * 37) % 100, k % 2);
    let files = folder(&[
        ("f.csv", rows(100, row).as_bytes()),
        ("g.csv", rows(5, row).as_bytes()),
        ("h.csv", rows(3, row).as_bytes()),
        ("i.csv", rows(5, row).as_bytes()),
    ]);
    let by_time = config(
        "train = 'f.csv'\nlabel = 'y'\ndense = [{ column = 'x', transform = 'none' }]\n\
         split = { by = 'time', column = 'x' }",
    );
    let (encoder, splits) = fit(&by_time, files.path()).unwrap();
    let numbers = |dataset: &Dataset| {
        let mut numbers = gather(dataset, &(0..dataset.len() as u32).collect::<Vec<_>>()).dense;
        numbers.sort_by(f32::total_cmp);
        numbers
    };
    let range = |numbers: std::ops::Range<u8>| numbers.map(f32::from).collect::<Vec<_>>();
    assert_eq!(numbers(&splits.train), range(0..80));
    assert_eq!(
        (numbers(&splits.validation), numbers(&splits.test)),
        (range(80..90), range(90..100))
    );
    let sources = || by_time.files(Part::Test, files.path()).into_iter().map(Source::from);
    let mut stream =
        RowStream::open(&encoder, sources(), LabelUse::Required, Some(Part::Test)).unwrap();
    assert_eq!(
        read_all(&mut stream, 100).unwrap()[0],
        gather(&splits.test, &(0..10).collect::<Vec<_>>())
    );
    let error = message(
        "label = 'y'\ndense = [{ column = 'x' }]\nsplit = { by = 'time', column = 'c' }",
        &rows(9, row),
    );
    assert!(
        error.starts_with("f.csv:2: column \"c\" holds \"a\", but a time must be a number"),
        "{error}"
    );

    let by_file = config(
        r#"
        train = "f.csv"
        validation = "g.csv"
        test = ["h.csv", "i.csv"]
        label = "y"
        dense = [{ column = "x" }]
        split = { by = "file" }
        "#,
    );
    let (_, splits) = fit(&by_file, files.path()).unwrap();
    assert_eq!((splits.train.len(), splits.validation.len(), splits.test.len()), (100, 5, 8));
    // Without dense columns, the encoder adds one that is always 1.
    let (encoder, splits) = fit(
        &config("train = 'f.csv'\nlabel = 'y'\ncategorical = [{ column = 'c' }]"),
        files.path(),
    )
    .unwrap();
    assert_eq!((encoder.num_dense(), gather(&splits.train, &[0, 1]).dense), (1, vec![1.0, 1.0]));
}

#[test]
fn bad_files_are_named_by_line() {
    let good = |k: usize| format!("{k},a,{}", k % 2);
    let bad = |line: usize, text: &str| {
        message(SIMPLE, &rows(40, |k| if k + 2 == line { text.to_owned() } else { good(k) }))
    };
    assert_eq!(message(SIMPLE, &rows(40, good)), "no error");
    for (line, text, expected) in [
        (9, "1,a", "f.csv:9: expected 3 fields, found 2"),
        (9, "1,a,1,0", "f.csv:9: expected 3 fields, found 4"),
        (
            5,
            "1,\"a,\nb\",yes",
            "f.csv:5: the label \"y\" is \"yes\", not 0 or 1: correct it, or write the condition",
        ),
        (5, "1,a,", "f.csv:5: column \"y\" is empty: every row needs a label"),
        (6, "NaN,a,1", "f.csv:6: column \"x\" holds \"NaN\", not a finite number"),
        (6, "-inf,a,1", "f.csv:6: column \"x\" holds \"-inf\", not a finite number"),
        (6, "1e300,a,1", "f.csv:6: column \"x\" holds \"1e300\", not a finite number"),
        (40, "1 2,a,1", "f.csv:40: column \"x\" holds \"1 2\", not a finite number"),
    ] {
        let message = bad(line, text);
        assert!(message.starts_with(expected), "{message}");
    }
    assert!(message(SIMPLE, "").starts_with("f.csv: no data: the file is empty"));
    assert!(message(SIMPLE, "x,c,y\n").starts_with("f.csv: no data: there is no row"));
    assert!(
        message(SIMPLE, &rows(40, |k| format!("{k},a,1")))
            .starts_with("the label of every training row is 1")
    );
    assert!(message(SIMPLE, &rows(1, good)).starts_with("no row is in the training part"));
    assert!(message(SIMPLE, &rows(2, good)).starts_with("no row is in the validation part"));
    let log = "label = 'y'\ndense = [{ column = 'x', transform = 'log1p' }]";
    let text = rows(40, |k| format!("{},a,{}", if k == 7 { -2 } else { 1 }, k % 2));
    assert!(message(log, &text).starts_with(
        "f.csv:9: column \"x\" holds \"-2\", of which there is no log1p: use signed_log1p"
    ));

    let mut latin = rows(40, good).into_bytes();
    let at = latin.iter().rposition(|&byte| byte == b'a').unwrap();
    latin[at] = 0xe9;
    let files = folder(&[
        ("f.csv", &latin),
        ("g.csv", &[0x1f, 0x8b, 8, 0, 1, 2, 3]),
        ("h.csv", b"\xef\xbb\xbfx,c,y\r\n1,a,0\r\n"),
    ]);
    let error = |name: &str| {
        fit(&config(&format!("train = '{name}'\n{SIMPLE}")), files.path()).unwrap_err()
    };
    assert!(matches!(error("f.csv"), DataError::NotUtf8 { line: 41, column, .. } if column == "c"));
    assert!(matches!(error("g.csv"), DataError::Io { file, .. } if file.ends_with("g.csv")));
    assert!(
        matches!(error("absent.csv"), DataError::Io { file, .. } if file.ends_with("absent.csv"))
    );
    // A byte order mark is not part of the first name. The only error is that the one row is a test
    // row.
    assert!(matches!(error("h.csv"), DataError::EmptyPart { part: Part::Train, .. }));
}

#[test]
fn columns_must_be_there_once() {
    let text = "age,Category,clicked,age\n1,a,0,2\n";
    let with = |column: &str| {
        message(&format!("label = 'clicked'\ncategorical = [{{ column = '{column}' }}]"), text)
    };
    let expected = "f.csv: there is no column \"category\"; did you mean \"Category\"?; \
        the columns are age, Category, clicked, age";
    assert_eq!(with("category"), expected);
    assert!(with("zzz").starts_with("f.csv: there is no column \"zzz\"; the columns are age"));
    assert!(with("age").starts_with("f.csv: the header names column \"age\" twice"));
    let label = message("label = 'click > 0'\ncategorical = [{ column = 'Category' }]", text);
    assert!(label.contains("no column \"click\"; did you mean \"clicked\"?"), "{label}");
}

#[test]
fn side_tables_have_each_key_once() {
    let text = rows(40, |k| format!("{k},{},{}", k % 3, k % 2));
    let with = |side: &str, on: &str, column: &str| {
        let files = folder(&[("f.csv", text.as_bytes()), ("side.csv", side.as_bytes())]);
        let toml = format!(
            "train = 'f.csv'\nlabel = 'y'\njoin = [{{ path = 'side.csv', on = {on} }}]\n\
             categorical = [{{ column = '{column}' }}]"
        );
        let result = fit(&config(&toml), files.path());
        result
            .map(|(encoder, splits)| {
                (encoder.features()[0].num_embeddings, gather(&splits.train, &[0, 1, 5]))
            })
            .map_err(|error| error.to_string().replace(&format!("{}/", files.path().display()), ""))
    };
    let (size, batch) =
        with("name,id\nzero,0\none,1\n", "{ left = 'c', right = 'id' }", "name").unwrap();
    // The rows are 1, 3 and 8 of the file, with the keys 1, 0 and 2. The side table lacks key 2.
    assert_eq!((size, batch.indices), (3, vec![1, 2, 0]));
    let error = |side, on, column| with(side, on, column).unwrap_err();
    assert!(
        error("c,name\n0,a\n\n1,b\n0,c\n", "'c'", "name")
            .starts_with("side.csv:5: key \"0\" of column \"c\" stands on an earlier line")
    );
    assert!(
        error("c,name\n0,a\n1\n", "'c'", "name")
            .starts_with("side.csv:3: expected 2 fields, found 1")
    );
    assert!(
        error("c,x\n0,a\n", "'c'", "x")
            .starts_with("column \"x\" stands both in side.csv and in f.csv")
    );
    assert!(
        error("id,name\n0,a\n", "'c'", "name").starts_with("side.csv: there is no column \"c\"")
    );
    assert!(
        error("c,name\n0,a\n", "'c'", "nam")
            .contains("did you mean \"name\"?; the columns are x, c, y, c, name")
    );
}

/// Returns a valid encoder with every kind of part.
pub fn rich_encoder() -> Encoder {
    let text = rows(64, |k| format!("{},{} {},{}", k % 9, k % 5, k % 4, k % 2));
    let files = folder(&[("f.csv", text.as_bytes()), ("side.csv", b"x,name\n0,a\n3,b\n")]);
    let toml = r#"
        train = "f.csv"
        label = "y"
        split = { by = "time", column = "x" }
        join = [{ path = "side.csv", on = "x" }]
        derive = [{ name = "d", from = "c", pattern = "^(.)" }]
        dense = [
            { column = "x", transform = "quantile", bins = 3 },
            { column = "d", transform = "zscore", missing = 2 },
            { column = "c", count = true, transform = "log1p" },
        ]
        categorical = [
            { column = "c", separator = " " }, { column = "name" }, { column = "d", hash = 5 },
        ]
    "#;
    fit(&config(toml), files.path()).unwrap().0
}

#[test]
fn damaged_encoders_are_refused() {
    let json = serde_json::to_string(&rich_encoder()).unwrap();
    let check = |from: &str, to: &str| {
        assert!(json.contains(from), "{from} is not in {json}");
        match serde_json::from_str::<Encoder>(&json.replacen(from, to, 1)) {
            Ok(encoder) => encoder.check().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    };
    for (from, to, expected) in [
        (
            "\"num_embeddings\":6",
            "\"num_embeddings\":5",
            "the features are not those of the columns",
        ),
        (
            "{\"hash\":5}",
            "{\"hash\":6}",
            "column \"d\": the encoding is not the one of the settings",
        ),
        (
            "{\"quantile\":{\"quantiles\":[0.0",
            "{\"quantile\":{\"quantiles\":[9.0",
            "column \"x\": the transform does not fit",
        ),
        ("\"std\":", "\"std\":-", "column \"d\": the transform does not fit"),
        ("\"values\":[\"a\",", "\"values\":[", "a side table has not one value for each key"),
        ("\"keys\":[\"0\",\"3\"]", "\"keys\":[\"0\",\"0\"]", "\"0\" stands twice in a dictionary"),
        ("\"column\":\"name\"", "\"column\":\"\"", "name a column"),
        (
            "\"column\":\"name\"",
            "\"column\":\"\",\"columns\":[\"name\"]",
            "its settings have lists of columns",
        ),
    ] {
        let message = check(from, to);
        assert!(message.contains(expected), "{to}: {message}");
    }
}
