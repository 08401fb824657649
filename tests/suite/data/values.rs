//! Tests that values mean what they should, and that nothing unusual is accepted silently: numbers
//! of any size, invalid labels, values that training has not seen, files and columns that must not
//! be used twice.

use std::fs;
use std::io::Write;
use std::path::Path;

use bagdot::data::{
    Coverage, DataConfig, DataError, Encoder, LabelUse, Part, RowStream, Source, Splits,
};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::samples::criteo_line;
use super::{config, fit, folder, gather, message, read_all, rows, stdin};

/// The setting of a split that gives all rows to training.
const ALL: &str = "split = { by = 'hash', validation = 0, test = 0 }";

fn error_of(config: &DataConfig, folder: &Path) -> String {
    let error = fit(config, folder).map(|_| ()).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.display()), "")
}

/// Returns the coverage that a stream of `text` reports.
fn coverage(encoder: &Encoder, text: &str) -> Coverage {
    let mut stream = RowStream::open(encoder, stdin(text), LabelUse::Optional, None).unwrap();
    read_all(&mut stream, 7).unwrap();
    stream.coverage()
}

/// Returns for each column and side table the numbers of values and of unknown ones, and the first
/// unknown value.
fn numbers(coverage: &Coverage) -> Vec<(&str, u64, u64, Option<&str>)> {
    let shares = coverage.columns.iter().chain(&coverage.joins);
    shares
        .map(|share| (share.column.as_str(), share.values, share.unknown, share.first.as_deref()))
        .collect()
}

#[test]
fn large_integers_are_told_apart_in_labels_and_times() {
    // The label's column holds numbers of 16 digits, which differ in a bit that f64 lacks. So do
    // the times.
    const START: u64 = 9_007_199_254_740_992;
    let text = "user,item,t\n".to_owned()
        + &(0..64)
            .map(|k| {
                format!("{},i{k},{}\n", START + k % 2, 1_700_000_000_000_000_000 + k * 37 % 64)
            })
            .collect::<String>();
    let mut gz = GzEncoder::new(vec![], Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    let files = folder(&[("f.csv", text.as_bytes()), ("f.gz", &gz.finish().unwrap())]);
    for file in ["f.csv", "f.gz"] {
        let settings = config(&format!(
            "train = '{file}'\nlabel = 'user = {}'\nsplit = {{ by = 'time', column = 't' }}\n\
             categorical = [{{ column = 'item' }}]",
            START + 1
        ));
        let (encoder, splits) = fit(&settings, files.path()).unwrap();
        let positives = [&splits.train, &splits.validation, &splits.test]
            .map(|part| part.labels().iter().sum::<f32>());
        assert_eq!(positives.iter().sum::<f32>(), 32.0);
        // f64 resolves times of this size to 256 nanoseconds, so that all rows would be test rows.
        assert_eq!([splits.train.len(), splits.validation.len(), splits.test.len()], [51, 7, 6]);
        let stored: Encoder =
            serde_json::from_str(&serde_json::to_string(&encoder).unwrap()).unwrap();
        assert_eq!(stored, encoder);
        let sources = settings.files(Part::Test, files.path()).into_iter().map(Source::from);
        let mut stream =
            RowStream::open(&stored, sources, LabelUse::Required, Some(Part::Test)).unwrap();
        assert_eq!(read_all(&mut stream, 64).unwrap()[0].labels, splits.test.labels());
    }
    // The label may also come from a side table or from a derived column.
    let side = "item,who\n".to_owned()
        + &(0..64).map(|k| format!("i{k},{}\n", START + k % 2)).collect::<String>();
    fs::write(files.path().join("side.csv"), side).unwrap();
    for settings in [
        format!("label = 'who = {}'\njoin = [{{ path = 'side.csv', on = 'item' }}]", START + 1),
        format!("label = 'd != {START}'\nderive = [{{ name = 'd', from = 'user', bucket = 1 }}]"),
    ] {
        let settings = config(&format!(
            "train = 'f.csv'\n{ALL}\n{settings}\ncategorical = [{{ column = 't' }}]"
        ));
        assert_eq!(
            fit(&settings, files.path()).unwrap().1.train.labels().iter().sum::<f32>(),
            32.0
        );
    }
}

#[test]
fn encoders_with_times_in_f64_are_read() {
    let text = rows(40, |k| format!("{k},a,{}", k % 2));
    let files = folder(&[("f.csv", text.as_bytes())]);
    let settings = config(
        "train = 'f.csv'\nlabel = 'y'\nsplit = { by = 'time', column = 'x' }\n\
         categorical = [{ column = 'c' }]",
    );
    let (encoder, _) = fit(&settings, files.path()).unwrap();
    let json = serde_json::to_string(&encoder).unwrap();
    let old = json
        .replace("\"3.6e1\"", "36.0")
        .replace("\"3.2e1\"", "32.0")
        .replace(",\"rare\":[0.0]", "");
    assert!(old.contains("36.0") && old.contains("32.0") && !old.contains("rare"), "{old}");
    let old: Encoder = serde_json::from_str(&old).unwrap();
    let read = |encoder: &Encoder| {
        let sources = settings.files(Part::Train, files.path()).into_iter().map(Source::from);
        read_all(
            &mut RowStream::open(encoder, sources, LabelUse::Required, Some(Part::Validation))
                .unwrap(),
            99,
        )
        .unwrap()
    };
    assert_eq!(read(&old), read(&encoder));
    assert_eq!(read(&old)[0].batch_size, 4);
}

#[test]
fn labels_of_conditions_must_be_numbers() {
    let with = |cell: &str| {
        rows(40, |k| {
            format!("1,c{},{}", k % 3, if k == 7 { cell.into() } else { (k % 2).to_string() })
        })
    };
    for cell in ["nan", "None", "NULL", "NA", "?", "-", "one"] {
        for rule in ["y = 1", "y != 1", "y >= 1"] {
            let settings = format!("label = '{rule}'\ncategorical = [{{ column = 'c' }}]");
            let message = message(&settings, &with(cell));
            assert!(
                message.starts_with(&format!(
                    "f.csv:9: column \"y\" holds \"{cell}\", but the condition"
                )),
                "{message}"
            );
        }
    }
    // Evaluation gives this error for other rows, too. Prediction does not read labels.
    let files =
        folder(&[("f.csv", with("1").as_bytes()), ("side.csv", b"c,z\nc0,0\nc1,NA\nc2,1\n")]);
    for settings in [
        "label = 'y = 1'\ncategorical = [{ column = 'c' }]",
        "label = 'y'\ncategorical = [{ column = 'c' }]",
        "label = 'd != 1'\nderive = [{ name = 'd', from = 'y', pattern = '(.)' }]\n\
         categorical = [{ column = 'c' }]",
    ] {
        let (encoder, _) =
            fit(&config(&format!("train = 'f.csv'\n{settings}")), files.path()).unwrap();
        for cell in ["?", "NA", "", "2", "\u{fe}"] {
            let text = format!("x,c,y\n1,c1,1\n1,c2,{cell}\n");
            let mut stream =
                RowStream::open(&encoder, stdin(text.clone()), LabelUse::Optional, None).unwrap();
            let batch = read_all(&mut stream, 9).unwrap().remove(0);
            assert!(
                batch.batch_size == 2 && batch.labels.iter().all(|label| label.is_nan()),
                "{cell} {settings}"
            );
            if cell != "2" {
                let mut stream =
                    RowStream::open(&encoder, stdin(text), LabelUse::Required, None).unwrap();
                let error = read_all(&mut stream, 9).unwrap_err().to_string();
                assert!(error.starts_with("standard input:3: "), "{error}");
            }
        }
        // For predictions the label's column may even occur twice, or hold bytes that are not text.
        let bytes = [b"c,y,y\nc1,".as_slice(), &[0xff], b",1\n"].concat();
        if !settings.contains("derive") {
            let mut stream =
                RowStream::open(&encoder, stdin(bytes), LabelUse::Optional, None).unwrap();
            assert_eq!(read_all(&mut stream, 9).unwrap()[0].batch_size, 1);
        }
    }
    // The inputs of a label may be missing as well: the value of a derived column, the row of a
    // side table, and its key.
    let joined =
        "label = 'd = 10'\njoin = [{ path = 'side.csv', on = { left = 'k', right = 'c' } }]
        derive = [{ name = 'd', from = 'z', bucket = 10 }]\ncategorical = [{ column = 'c' }]";
    let text = "c,k\n".to_owned()
        + &(0..40).map(|k| format!("a{},k{}\n", k % 3, k % 2)).collect::<String>();
    let files = folder(&[("f.csv", text.as_bytes()), ("side.csv", b"c,z\nk0,3\nk1,12\nk2,NA\n")]);
    let (encoder, splits) =
        fit(&config(&format!("train = 'f.csv'\n{ALL}\n{joined}")), files.path()).unwrap();
    assert_eq!(splits.train.labels().iter().sum::<f32>(), 20.0);
    for text in ["c\na1\n", "c,k\na1,k2\n", "k,c\nk9,a1\n"] {
        let mut stream = RowStream::open(&encoder, stdin(text), LabelUse::Optional, None).unwrap();
        let batch = read_all(&mut stream, 9).unwrap().remove(0);
        assert_eq!((batch.indices, batch.labels[0].is_nan()), (vec![2], true), "{text}");
        let mut stream = RowStream::open(&encoder, stdin(text), LabelUse::Required, None).unwrap();
        assert!(read_all(&mut stream, 9).is_err(), "{text}");
    }
    let lines: Vec<String> = (0..64).map(criteo_line).collect();
    let mut bad = lines.clone();
    bad[9].replace_range(..1, "NA");
    let files = folder(&[("day", lines.join("\n").as_bytes()), ("bad", bad.join("\n").as_bytes())]);
    let (encoder, _) = fit(&config("format = 'criteo'\ntrain = 'day'"), files.path()).unwrap();
    let mut stream =
        RowStream::open(&encoder, stdin(bad.join("\n")), LabelUse::Optional, None).unwrap();
    assert!(read_all(&mut stream, 99).unwrap()[0].labels.iter().all(|label| label.is_nan()));
    let error =
        error_of(&config("format = 'criteo'\ntrain = 'bad'\nlabel = 'label != 1'"), files.path());
    assert!(error.starts_with("bad:10: column \"label\" holds \"NA\""), "{error}");
}

#[test]
fn errors_about_labels_show_the_values_there_are() {
    let incomes = |k: usize| if k.is_multiple_of(4) { " >50K" } else { " <=50K" };
    let text = rows(64, |k| format!("{k},{},{}", incomes(k), k % 2));
    let with =
        |label: &str| message(&format!("label = '{label}'\ndense = [{{ column = 'x' }}]"), &text);
    let message = with("c");
    assert!(message.starts_with("f.csv:2: the label \"c\" is "), "{message}");
    assert!(
        message.contains("<=50K\" (75.0 %), ") && message.contains(">50K\" (25.0 %)"),
        "{message}"
    );
    // The condition has a typing error: it holds for no row.
    let message = with("c = >50");
    assert!(
        message.starts_with(
            "the label of every training row is 0: is data.label = \"c = >50\" what is meant?"
        ),
        "{message}"
    );
    assert!(
        message.contains("<=50K\" (75.0 %), ") && message.contains(">50K\" (25.0 %)"),
        "{message}"
    );
    let message = with("y < 3");
    assert!(message.ends_with("\"y\" holds \"0\" (50.0 %), \"1\" (50.0 %)"), "{message}");
    // If there are many values, the message shows some and counts the rest, and it suggests no
    // condition.
    let many = rows(64, |k| format!("{k},a,{}", k % 30 + 2));
    let message = super::message("label = 'y'\ndense = [{ column = 'x' }]", &many);
    assert!(message.contains("\"2\" (4.7 %), ") && message.ends_with(" and 22 more"), "{message}");
    assert!(!message.contains("label = \"y = 2\""), "{message}");
    // The message shows the values of the part that has the invalid label.
    let files = folder(&[
        ("f.csv", rows(9, |k| format!("1,a,{}", k % 2)).as_bytes()),
        ("g.csv", b"x,c,y\n1,a,yes\n"),
    ]);
    let settings = "train = 'f.csv'\nvalidation = 'g.csv'\nsplit = { by = 'file' }\n\
        label = 'y'\ncategorical = [{ column = 'c' }]";
    let message = error_of(&config(settings), files.path());
    assert!(
        message.starts_with("g.csv:2: the label \"y\"")
            && message.ends_with("holds \"yes\" (100 %)"),
        "{message}"
    );
}

#[test]
fn values_that_training_has_not_seen_are_counted() {
    let text = "shop,tags,h,n\n".to_owned()
        + &(0..40).map(|k| format!("{},t{} u,h{k},{k}\n", k % 2, k % 3)).collect::<String>();
    let text =
        text.replace("n\n", "n,y\n").lines().enumerate().fold(String::new(), |all, (k, line)| {
            all + line + &if k == 0 { "\n".into() } else { format!(",{}\n", k % 2) }
        });
    let files = folder(&[("f.csv", text.as_bytes()), ("s.csv", b"shop,g\n0,g0\n1,g1\n")]);
    let settings = format!(
        "train = 'f.csv'\nlabel = 'y'\n{ALL}\njoin = [{{ path = 's.csv', on = 'shop' }}]\n\
         dense = [{{ column = 'n', count = true }}]\n\
         categorical = [{{ column = 'shop' }}, {{ column = 'tags', separator = ' ' }}, \
         {{ column = 'h', hash = 9 }}, {{ column = 'g' }}]"
    );
    let (encoder, splits) = fit(&config(&settings), files.path()).unwrap();
    let known = splits.train.coverage();
    assert_eq!(
        numbers(known).iter().map(|share| (share.1, share.2)).collect::<Vec<_>>(),
        [(40, 0), (80, 0), (40, 0), (40, 0), (40, 0)]
    );
    assert_eq!(known.notable().count(), 0);
    // The rows hold a value in another spelling, empty values, a list, a new number, and a long
    // value, which is looked up before the short one. A hash knows all values.
    let text = "shop,tags,h,n\n0,u,x,1\n,t1,y,2\n1,,z,999\n\
        a very long name,u v t0 w,x,3\n1.0,t9,x,\n1,t2,h1,4\n";
    let seen = coverage(&encoder, text);
    let expected = [
        ("shop", 5, 2, Some("a very long name")),
        ("tags", 8, 3, Some("v")),
        ("g", 3, 0, None),
        ("n", 5, 1, Some("999")),
        ("shop", 5, 2, Some("a very long name")),
    ];
    assert_eq!(numbers(&seen), expected);
    let said: Vec<String> = seen.notable().map(ToString::to_string).collect();
    assert_eq!(
        said[0],
        "column \"shop\": 2 of 5 values (40.0 %) were not among those of training \
         (the first one: \"a very long name\")"
    );
    assert_eq!(
        said[3],
        "join s.csv: 2 of 5 keys \"shop\" (40.0 %) have no row there \
         (the first one: \"a very long name\")"
    );
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(json["joins"][0]["side_table"], "s.csv");
    assert_eq!(
        (&json["columns"][0]["unknown"], &json["columns"][0]["first"]),
        (&2.into(), &"a very long name".into())
    );
    // The counts do not depend on the number of rows in a batch.
    let many = "shop,tags,h,n\n".to_owned()
        + &(0..1000).map(|k| format!("{},t1,a,1\n", k % 4)).collect::<String>();
    assert_eq!(numbers(&coverage(&encoder, &many))[0], ("shop", 1000, 500, Some("2")));

    // All values and keys have another spelling than in training.
    let all = coverage(&encoder, &many.replace(",t1,a,1\n", ".0,t1,a,1\n"));
    assert_eq!(
        (numbers(&all)[0], numbers(&all)[4]),
        (("shop", 1000, 1000, Some("0.0")), ("shop", 1000, 1000, Some("0.0")))
    );
    assert!(all.columns[0].to_string().contains("1000 of 1000 values (100 %)"));
}

#[test]
fn rare_values_give_no_warning() {
    // Of the 64 values, 16 occur only once and have no row of their own.
    let value = |k: usize| if k.is_multiple_of(4) { format!("rare{k}") } else { "often".into() };
    let text = rows(64, |k| format!("{k},{},{}", value(k), k % 2));
    let files = folder(&[("f.csv", text.as_bytes())]);
    let settings = format!(
        "train = 'f.csv'\nlabel = 'y'\n{ALL}\ncategorical = [{{ column = 'c', min_count = 2 }}]"
    );
    let (encoder, splits) = fit(&config(&settings), files.path()).unwrap();
    let share = &splits.train.coverage().columns[0];
    assert_eq!((share.unknown, share.rare, share.is_notable()), (16, 0.25, false));
    let new = |unknown: usize| {
        let text = "c\n".to_owned()
            + &(0..100).map(|k| if k < unknown { "new\n" } else { "often\n" }).collect::<String>();
        coverage(&encoder, &text).columns.remove(0)
    };
    assert!(!new(29).is_notable() && new(30).is_notable());
    assert!(new(30).to_string().ends_with(
        "or too rare there, as 25.0 % of the training rows' own are (the first one: \"new\")"
    ));
    // If a setting leaves no value of a column, training reports it.
    let none = settings.replace("min_count = 2", "min_count = 4000000000");
    let (_, splits) = fit(&config(&none), files.path()).unwrap();
    assert_eq!(
        splits.train.coverage().notable().map(|share| share.unknown).collect::<Vec<_>>(),
        [64]
    );
}

#[test]
fn more_unknown_values_than_the_settings_allow_are_an_error() {
    let text = rows(64, |k| format!("{k},{},{}", k % 3, k % 2));
    let files = folder(&[("f.csv", text.as_bytes()), ("s.csv", b"c,g\n0.0,a\n1.0,b\n")]);
    let settings = format!(
        "train = 'f.csv'\nlabel = 'y'\n{ALL}\nmax_unknown = 0.5\ncategorical = [{{ column = 'c' }}]"
    );
    let (encoder, _) = fit(&config(&settings), files.path()).unwrap();
    let read = |text: &str| {
        let mut stream = RowStream::open(&encoder, stdin(text), LabelUse::Optional, None).unwrap();
        read_all(&mut stream, 2).map(|batches| batches.len()).map_err(|error| error.to_string())
    };
    assert_eq!(read("c\n0\n7\n"), Ok(1), "half of them are not more than half");
    let error = read("c\n0\n1.0\n2.0\n").unwrap_err();
    assert_eq!(
        error,
        "column \"c\": 2 of 3 values (66.7 %) were not among those of training \
         (the first one: \"1.0\"), which is more than \
         data.max_unknown = 0.5: are the files written as those of training are?"
    );
    // In training the limit applies to side tables, and to validation and test rows.
    let joined = format!("{settings}\n[[join]]\npath = 's.csv'\non = 'c'\n[[dense]]\ncolumn = 'g'")
        .replace("categorical", "#");
    let error = error_of(&config(&joined.replace("[[dense]]", "[[categorical]]")), files.path());
    assert!(
        error.starts_with(
            "join s.csv: 64 of 64 keys \"c\" (100 %) have no row there (the first one: \"0\"), \
             which"
        ),
        "{error}"
    );
    let late = rows(64, |k| format!("{k},{},{}", k / 60, k % 2));
    let by_time = settings.replace(ALL, "split = { by = 'time', column = 'x' }");
    fs::write(files.path().join("f.csv"), late).unwrap();
    assert!(matches!(
        fit(&config(&by_time), files.path()),
        Err(DataError::Unknown { share, limit: 0.5 }) if share.values == 6 && share.unknown == 4
    ));
}

#[test]
fn a_file_is_named_once() {
    let text = rows(40, |k| format!("{k},a,{}", k % 2));
    let files = folder(&[("f.csv", text.as_bytes()), ("g.csv", text.as_bytes())]);
    let path = files.path();
    fs::create_dir(path.join("sub")).unwrap();
    fs::hard_link(path.join("f.csv"), path.join("hard.csv")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("f.csv", path.join("soft.csv")).unwrap();
    let absolute = path.join("f.csv").display().to_string();
    let with = |settings: &str| {
        let settings =
            config(&format!("{settings}\nlabel = 'y'\ncategorical = [{{ column = 'c' }}]"));
        fit(&settings, path)
            .map(|(_, splits)| splits.train.len())
            .map_err(|error| error.to_string())
    };
    let mut others = vec!["f.csv", "./f.csv", "sub/../f.csv", "hard.csv", &absolute];
    if cfg!(unix) {
        others.push("soft.csv");
    }
    for other in others {
        let error = with(&format!("train = ['f.csv', '{other}']")).unwrap_err();
        assert!(
            error.starts_with("data.train: ")
                && error.contains("is the same file as f.csv of data.train"),
            "{error}"
        );
        for (validation, test, key) in [(other, "g.csv", "validation"), ("g.csv", other, "test")] {
            let by_file = "split = { by = 'file' }";
            let error = with(&format!(
                "train = 'f.csv'\nvalidation = '{validation}'\ntest = '{test}'\n{by_file}"
            ))
            .unwrap_err();
            assert!(
                error.starts_with(&format!(
                    "data.{key}: {other} is the same file as f.csv of data.train"
                )),
                "{error}"
            );
        }
    }
    assert_eq!(
        with(&format!("train = ['f.csv', 'g.csv']\n{ALL}")),
        Ok(80),
        "two files may have the same rows"
    );
}

#[test]
fn the_label_cannot_become_a_feature() {
    let text = rows(40, |k| format!("{k},c{},{}", k % 3, k % 2));
    let files = folder(&[("f.csv", text.as_bytes()), ("s.csv", b"y,c,g\n0,c0,a\n1,c1,b\n")]);
    let with =
        |settings: &str| error_of(&config(&format!("train = 'f.csv'\n{settings}")), files.path());
    let leak = with(
        "label = 'y'\ncategorical = [{ column = 'leak' }]\n\
         derive = [{ name = 'leak', from = 'y' }]\ndense = [{ column = 'x' }]",
    );
    assert!(
        leak.starts_with(
            "data.categorical[0].column: column \"leak\" is derived from the label \"y\""
        ),
        "{leak}"
    );
    let key = with(
        "label = 'y >= 1'\njoin = [{ path = 's.csv', on = 'y' }]\ncategorical = [{ column = 'g' }]",
    );
    assert!(key.starts_with("data.join[0].on: column \"y\" is the label"), "{key}");
    // If a side table has a column of the label's name, the name is ambiguous.
    let side = with(
        "label = 'y'\njoin = [{ path = 's.csv', on = 'c' }]\ncategorical = [{ column = 'g' }]",
    );
    assert!(side.starts_with("column \"y\" stands both in s.csv and in f.csv"), "{side}");
}

#[test]
fn numbers_are_scaled_unless_the_settings_say_otherwise() {
    let text = rows(64, |k| format!("{},a,{}", 1_700_000_000 + k * 3600, k % 2));
    let files = folder(&[("f.csv", text.as_bytes())]);
    let with = |transform: &str| {
        let settings = format!(
            "train = 'f.csv'\nlabel = 'y'\n{ALL}\ndense = [{{ column = 'x' {transform} }}]"
        );
        let (encoder, splits) = fit(&config(&settings), files.path()).unwrap();
        (encoder, gather(&splits.train, &(0..64).collect::<Vec<_>>()).dense)
    };
    let (encoder, numbers) = with("");
    assert_eq!(numbers, with(", transform = ['signed_log1p', 'zscore']").1);
    assert!(
        numbers.iter().all(|x| x.abs() < 2.0),
        "times are scaled to the range of other numbers: {numbers:?}"
    );
    let (raw, numbers) = with(", transform = 'none'");
    assert_eq!(numbers[3], (1_700_000_000.0 + 3.0 * 3600.0) as f32);
    // A stored encoder names the transforms of its columns. An empty list comes from an earlier
    // version, where it meant `none`.
    let json = serde_json::to_string(&encoder).unwrap();
    assert!(json.contains("\"transform\":[\"signed_log1p\",\"zscore\"]"), "{json}");
    let old = serde_json::to_string(&raw)
        .unwrap()
        .replace("\"transform\":[\"none\"]", "\"transform\":[]");
    let old: Encoder = serde_json::from_str(&old).unwrap();
    let mut stream = RowStream::open(&old, stdin(text), LabelUse::Optional, None).unwrap();
    assert_eq!(read_all(&mut stream, 64).unwrap()[0].dense, numbers);
}

#[test]
fn criteo_rows_are_counted_too() {
    let lines: Vec<String> = (0..400).map(criteo_line).collect();
    let files = folder(&[("day", lines.join("\n").as_bytes())]);
    let settings =
        config(&format!("format = 'criteo'\ntrain = 'day'\n{ALL}\ncriteo = {{ min_count = 1 }}"));
    let encoder = Encoder::fit(&settings, files.path(), &mut |_, _| ()).unwrap();
    let splits = Splits::load(&settings, &encoder, files.path(), &mut |_, _| ()).unwrap();
    let known = splits.train.coverage();
    assert_eq!(
        (known.columns.len(), known.columns.iter().map(|share| share.unknown).sum::<u64>()),
        (26, 0)
    );
    let mut fields: Vec<&str> = lines[3].split('\t').collect();
    (fields[14], fields[15], fields[39]) = ("ffffffff", "", "longer than eight");
    let seen = coverage(&encoder, &fields.join("\t"));
    assert_eq!(seen.columns[0].first.as_deref(), Some("ffffffff"));
    assert_eq!(
        (seen.columns[1].values, seen.columns[25].first.as_deref()),
        (0, Some("longer than eight"))
    );
    assert_eq!(seen.columns.iter().map(|share| share.unknown).sum::<u64>(), 2);
}
