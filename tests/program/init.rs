//! Tests of `bagdot init`: every configuration that it writes must train as it stands.

use std::fs;
use std::path::Path;

use bagdot::train::Config;

use crate::common::{fail, manifest, run, succeed};

/// Returns rows of a header and `count` rows.
fn rows(header: &str, count: usize, row: impl Fn(usize) -> String) -> String {
    let lines = (0..count).map(|k| row(k) + "\n");
    [format!("{header}\n")].into_iter().chain(lines).collect()
}

/// Returns a label that is 1 in 3 of 10 rows, in no order that a column of the tests has.
fn label(k: usize) -> usize {
    let mixed = (k as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    usize::from((mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40 & 1023 < 300)
}

/// Writes `text` as `data.csv`, drafts a configuration, trains by it for an epoch, and returns it.
fn draft(text: impl AsRef<[u8]>, label: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data.csv"), text).unwrap();
    draft_in(folder.path(), &["data.csv", "--label", label])
}

fn draft_in(folder: &Path, arguments: &[&str]) -> String {
    let config = succeed(folder, &[&["init", "-q"], arguments].concat());
    fs::write(folder.join("model.toml"), &config).unwrap();
    let train = ["train", "model.toml", "-q", "--epochs", "1", "--out", "run"];
    let output = run(folder, &train);
    assert!(output.status.success(), "{}\n{config}", String::from_utf8_lossy(&output.stderr));
    config
}

/// Asserts that a configuration has a line that begins and goes on like this.
fn has(config: &str, line: &str, comment: &str) {
    let found = config.lines().find(|found| found.trim_start().starts_with(line));
    let found = found.unwrap_or_else(|| panic!("{line} is missing:\n{config}"));
    assert!(found.contains(comment), "{found}, but expected {comment}");
}

#[test]
fn kinds_are_guessed() {
    let header = "user_id,row_id,age,price,flag,shop,tags,title,when,zip,empty,same,city,clicked";
    let text = rows(header, 2500, |k| {
        let tags = ["a|b", "b|c|d", "d", "", "a|c"][k % 5];
        let price = if k % 9 == 0 {
            String::new()
        } else {
            format!("{}.5", 10_u64.pow((k * 37 % 8) as u32))
        };
        let words = ["red", "green", "blue", "warm", "soft", "long", "wide"];
        let word = |step: usize| words[(k / step + k * step) % words.len()];
        let title = format!("{} {} {} {} n{}", word(1), word(3), word(5), word(11), k % 50);
        format!(
            "{},{k},{},{price},{},s{},{tags},{title},2024-{:02}-{:02}T{:02}:00:00,{:05},,x,{},{}",
            k * 13 % 77,
            20 + k * 11 % 60,
            k % 2,
            k % 31,
            1 + k % 12,
            1 + k % 28,
            k % 24,
            k * 7 % 40,
            ["New York", "Paris", "San José"][k % 3],
            label(k)
        )
    });
    let config = draft(text, "clicked");
    for (line, comment) in [
        ("label = \"clicked\"", "28.0 % of the rows"),
        ("{ column = \"user_id\", min_count = 5 }", "77 distinct"),
        ("# { column = \"row_id\"", "an id: it differs in every row"),
        (
            "{ column = \"age\", transform = \"zscore\", bins = 64, knots = 64 }",
            "20 to 79, 60 distinct",
        ),
        ("{ column = \"price\", bins = 64, knots = 64 }", "11.1 % missing"),
        ("{ column = \"flag\", min_count", "2 distinct"),
        ("{ column = \"shop\", min_count", "31 distinct"),
        ("{ column = \"tags\", separator = \"|\"", "20.0 % missing"),
        ("{ column = \"title\", separator = \" \"", ""),
        ("{ name = \"when.month\", from = \"when\", date = \"month\" }", ""),
        ("# split = { by = \"time\", column = \"when.seconds\" }", ""),
        ("{ column = \"when.seconds\", transform = \"zscore\" }", "of \"when\""),
        ("{ column = \"when.weekday\" }", "of \"when\""),
        ("{ column = \"when.month\" }", "of \"when\""),
        ("{ column = \"when.hour\" }", "of \"when\""),
        ("{ column = \"zip\", min_count", ""),
        ("# { column = \"empty\"", "always missing"),
        ("# { column = \"same\"", "the same in every row"),
        ("{ column = \"city\", min_count", "\"New York\", \"Paris\", \"San José\""),
        ("# epochs = 15", ""),
    ] {
        has(&config, line, comment);
    }
}

#[test]
fn a_column_that_tells_the_label_is_left_out() {
    let text = rows("x,refund,rank,c,y", 400, |k| {
        let y = label(k);
        let refund = if y == 1 { "paid" } else { "" };
        format!("{},{refund},{},c{},{y}", k * 7 % 50, k % 40 + 40 * y, k % 4)
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data.csv"), &text).unwrap();
    let warned = run(folder.path(), &["init", "data.csv", "--label", "y", "-q"]).stderr;
    let warned = String::from_utf8(warned).unwrap();
    assert!(warned.contains("warning: \"refund\" is left out: alone"), "{warned}");
    let config = draft(text, "y");
    has(&config, "# { column = \"refund\"", "alone it tells the label (AUC 1.0000)");
    has(&config, "# { column = \"rank\"", "alone it tells the label (AUC 1.0000)");
    has(&config, "{ column = \"x\"", "");
    has(&config, "{ column = \"c\"", "");
}

#[test]
fn syntax_is_guessed() {
    let plain = |k: usize| format!("{},c{},{}", k % 50, k % 4, label(k));
    let with_label = |label: &str, text: &[u8], lines: &[&str]| {
        let config = draft(text, label);
        lines.iter().for_each(|line| has(&config, line, ""));
        config
    };
    let mut marked = b"\xef\xbb\xbf".to_vec();
    marked.extend(rows("x,c,y", 300, plain).replace('\n', "\r\n").bytes());
    with_label("y", &marked, &["{ column = \"x\"", "{ column = \"c\""]);
    let german = rows("preis;c;y", 300, |k| {
        format!("{}.{:03},{};c{};{}", 1 + k % 7, k, k % 10, k % 4, label(k))
    });
    let lines =
        ["delimiter = \";\"", "decimal = \",\"", "thousands = \".\"", "{ column = \"preis\""];
    with_label("y", german.as_bytes(), &lines);
    // The label is read in the notation of the other columns, which its point would not survive.
    let ambiguous = rows("a;b;y", 300, |k| format!("{},5;{};1.{:03}", k % 50, k % 4, k % 7));
    let config = with_label("y >= 1.003", ambiguous.as_bytes(), &["{ column = \"a\""]);
    assert!(!config.contains("\ndecimal"), "{config}");
    let comma = rows("x\tc\ty", 300, |k| format!("{},{}\tc{}\t{}", k % 7, k % 10, k % 4, label(k)));
    let config = with_label("y", comma.as_bytes(), &["delimiter = \"\\t\"", "decimal = \",\""]);
    assert!(!config.contains("\nthousands"), "{config}");
    let headless: String = (0..300).map(|k| plain(k) + "\n").collect();
    let years = rows("c,2019,2020", 300, |k| format!("c{},{},{}", k % 4, k % 50, label(k)));
    with_label("2020", years.as_bytes(), &["{ column = \"2019\", transform"]);
    let lines = ["header = [\"c1\", \"c2\", \"c3\"]", "{ column = \"c1\"", "{ column = \"c2\""];
    with_label("c3", headless.as_bytes(), &lines);
    let quoted = rows("x,\"a, \"\"b\"\"\",y", 300, |k| {
        format!("{},\"line\nof, {}\",{}", k % 50, k % 4, label(k))
    });
    with_label("y", quoted.as_bytes(), &["{ column = \"a, \\\"b\\\"\", min_count"]);
    let marked = rows("x,c,n,y", 300, |k| {
        let x = if k % 7 == 0 { "NA".into() } else { (k % 50).to_string() };
        let c = if k % 7 == 1 { "?".into() } else { format!("c{}", k % 4) };
        let n = ["none", "one", "two"][k % 3];
        format!("{x},{c},{n},{}", label(k))
    });
    let lines = ["missing_values = [\"NA\", \"?\"]", "{ column = \"x\", transform"];
    with_label("y", marked.as_bytes(), &lines);
    let names = rows("größe,\"a\\b'\u{7f}\",,x,x,y", 300, |k| {
        format!("{},{},{},1,2,{}", k % 50, k % 9, k % 4, label(k))
    });
    let lines = [
        "{ column = \"größe\"",
        "{ column = \"a\\\\b'\\u007f\"",
        "# { column = \"\" },",
        "# { column = \"x\" },",
    ];
    with_label("y", names.as_bytes(), &lines);
}

#[test]
fn labels_of_all_kinds_become_conditions() {
    for (values, given, expected) in [
        (&["0", "1"][..], "y", "label = \"y\""),
        (&["1", "0", "1.0"], "y", "label = \"y\""),
        (&["no", "yes"], "y", "label = \"y = yes\""),
        (&["TRUE", "FALSE"], "y", "label = \"y = TRUE\""),
        (&["cat", "cat", "dog"], "y", "label = \"y = dog\""),
        (&["1", "2"], "y", "label = \"y = 2\""),
        (&["-1", "1"], "y", "label = \"y = 1\""),
        (&["<=50K", ">50K", "<=50K"], "y", "label = \"y = >50K\""),
        (&["'a'", "'b'", "'a'"], "y", "label = \"y = \\\"'b'\\\"\""),
        (&["yes", "no", "no", "?"], "y", "label = \"y = yes\""),
        (&["1", "n"], "y", "label = \"y = n\""),
        (&["1", "."], "y != .", "label = \"y != .\""),
        (&["5", "5", "x", "z"], "y", "label = \"y = x\""),
        (&["a", "b", "c", "b"], "y", "label = \"y = b\""),
        (&["1", "2", "3", "4", "5"], "y", "label = \"y >= "),
        (&["1", "2", "3", "4", "5"], "y >= 5", "label = \"y >= 5\""),
        (&["a", "b", "c"], "y != a", "label = \"y != a\""),
    ] {
        let text = rows("x,y", 300, |k| {
            format!("{},{}", k * 7 % 50, values[(k + label(k)) % values.len()])
        });
        has(&draft(text, given), expected, "");
    }
    // More numbers than are counted.
    let text = rows("x,y", 3000, |k| format!("{},{}.25", k * 7 % 50, k * 11 % 2999));
    has(&draft(text, "y"), "label = \"y >= ", "about half of the rows");
}

#[test]
fn few_rows_are_all_trained_on() {
    let config = draft("x,c,y\n1,a,0\n2,b,1\n3,a,0\n", "y");
    has(&config, "split = { by = \"hash\", validation = 0.0, test = 0.0 }", "too few rows");
    // The default split would give all rows with label 1 to the test.
    let is_test = |k: usize| (k as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60 < 3;
    let rare = (1..500).filter(|&k| is_test(k)).nth(5).unwrap();
    let text = rows("x,y", 500, |k| format!("{},{}", k % 50, u8::from(k == rare)));
    has(&draft(text, "y"), "split = { by = \"hash\", validation = 0.0, test = 0.0 }", "");
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let init = |text: &str, arguments: &[&str]| {
        fs::write(folder.path().join("data.csv"), text).unwrap();
        fail(folder.path(), &[&["init", "data.csv", "-q"], arguments].concat())
    };
    for (text, label, code, expected) in [
        ("x,y\n1,0\n", "y", 1, "the label \"y\" is the same in all 1 rows, such as \"0\""),
        ("x,y\n1,0\n2,0\n", "y", 1, "there is nothing to learn"),
        ("x,y\n1,3\n2,4\n", "y > 5", 1, "there is nothing to learn"),
        ("x,y\n1,0\n2,\n", "y", 1, "data.csv:3: column \"y\" is empty: every row needs a label"),
        ("x,y\n1,0\n2,1\n", "z", 1, "there is no column \"z\""),
        ("x,y\n", "y", 1, "there is no row to read"),
        ("", "y", 1, "the file is empty"),
        ("x,y\n1,0\n2\n", "y", 1, "data.csv:3: expected 2 fields, found 1"),
        ("y\n1\n0\n", "y", 1, "no column besides the label is left to learn from"),
        ("x,y\n1,0\n1,1\n", "y", 1, "\"x\": it is the same in every row"),
        ("x,y,y\n1,0,1\n2,1,0\n", "y", 1, "data.csv: the header names column \"y\" twice"),
        (",x\n1,0\n2,1\n", "", 2, "the column of the label has no name"),
        ("x,a=b\n1,0\n2,1\n", "a=b", 2, "has a comparison sign"),
        ("x,y\n1,0\n2,NA\n3,1\n", "y", 2, "\"NA\" in 1 rows, which marks a missing value"),
        ("x,y\n1,0\n2,NA\n3,1\n", "y >= 1", 2, "holds \"NA\", which the condition"),
    ] {
        let (found, message) = init(text, &["--label", label]);
        assert!(found == code && message.contains(expected), "{text:?} {found}: {message}");
    }
    let many = rows("x,y", 3000, |k| {
        format!("{},{}", k % 9, if k == 99 { "no".into() } else { k.to_string() })
    });
    let (code, message) = init(&many, &["--label", "y >= 5"]);
    assert!(code == 2 && message.contains("holds texts, which the condition"), "{message}");
    fs::write(folder.path().join("data.csv"), b"x,y\n1,a\n2,\xe9\n").unwrap();
    let (_, message) = fail(folder.path(), &["init", "data.csv", "-q", "--label", "y"]);
    assert!(message.contains("data.csv:3: column \"y\" is not valid UTF-8"), "{message}");
    // The first line has a number, but the one before it is no number, unlike the rows.
    let (_, message) = init(&rows("a,2019", 40, |k| format!("{},{}", k % 2, k % 5)), &[]);
    assert!(message.contains("--label a: "), "{message}");
    let text = rows("id,a,b,rating", 40, |k| format!("{k},{},{},{}", k % 2, k % 3, k % 5));
    let (code, message) = init(&text, &[]);
    assert_eq!(code, 2);
    assert!(message.contains("--label a: \"0\" (50.0 %), \"1\" (50.0 %)\n"), "{message}");
    assert!(message.contains("--label 'b >= 0'"), "{message}");
    let (code, message) = init("a,b\n1,x\n2,y\n3,z\n", &[]);
    assert!(code == 2 && message.contains("no column has two values"), "{message}");
}

#[test]
fn no_file_is_overwritten_and_paths_count_from_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("data/days")).unwrap();
    fs::create_dir(folder.path().join("conf")).unwrap();
    let text = rows("x,c,y", 300, |k| format!("{},c{},{}", k % 50, k % 4, label(k)));
    fs::write(folder.path().join("data/days/a.csv"), &text).unwrap();
    fs::write(folder.path().join("data/days/b.csv"), &text).unwrap();
    let init = ["init", "data/days/*.csv", "--label", "y", "--output", "conf/m.toml"];
    assert_eq!(succeed(folder.path(), &init), "");
    let config = fs::read_to_string(folder.path().join("conf/m.toml")).unwrap();
    has(&config, "train = \"../data/days/*.csv\"", "");
    succeed(folder.path(), &["train", "conf/m.toml", "-q", "--epochs", "1"]);
    let (code, message) = fail(folder.path(), &init);
    assert!(code == 2 && message.contains("is there already"), "{message}");
    fs::write(folder.path().join("conf/m.toml"), "").unwrap();
    succeed(folder.path(), &[&init[..], &["--force"]].concat());
    assert_eq!(fs::read_to_string(folder.path().join("conf/m.toml")).unwrap(), config);
    let onto_data = ["init", "data/days/a.csv", "--label", "y", "-o", "data/days/a.csv", "--force"];
    let (code, message) = fail(folder.path(), &onto_data);
    assert!(code == 2 && message.contains("one of the inputs"), "{message}");
    assert_eq!(fs::read_to_string(folder.path().join("data/days/a.csv")).unwrap(), text);
}

#[test]
fn train_takes_a_file_of_data() {
    let folder = tempfile::tempdir().unwrap();
    let text = rows("x,c,y", 300, |k| format!("{},c{},{}", k % 50, k % 4, label(k)));
    fs::write(folder.path().join("data.csv"), text).unwrap();
    draft_in(folder.path(), &["data.csv", "--label", "y"]);
    let by_config = succeed(folder.path(), &["eval", "run", "-q"]);
    let train = ["train", "data.csv", "--label", "y", "-q", "--epochs", "1"];
    succeed(folder.path(), &train);
    assert_eq!(succeed(folder.path(), &["eval", "runs/data", "-q"]), by_config);
    let config = &manifest(&folder.path().join("runs/data"))["config"]["data"];
    assert_eq!(
        (&config["label"], &config["categorical"][0]["min_count"]),
        (&"y".into(), &2.into())
    );
    fs::create_dir(folder.path().join("days")).unwrap();
    fs::copy(folder.path().join("data.csv"), folder.path().join("days/1.csv")).unwrap();
    for data in ["days", "days/*.csv", "./days/1.csv"] {
        succeed(folder.path(), &["train", data, "--label", "y", "-q", "--epochs", "1"]);
    }
    let runs = fs::read_dir(folder.path().join("runs")).unwrap();
    let mut runs: Vec<_> =
        runs.map(|run| run.unwrap().file_name().into_string().unwrap()).collect();
    runs.sort();
    assert_eq!(runs, ["1", "data", "days", "days~1"]);
    fs::write(folder.path().join("data.csv.gz"), b"\x1f\x8b\x08\xff").unwrap();
    for data in ["data.csv", "data.csv.gz"] {
        let (code, message) = fail(folder.path(), &["train", data]);
        assert!(code == 2 && message.contains("name the column to predict"), "{message}");
    }
    // A configuration may have any name.
    fs::write(folder.path().join("model.txt"), "[data]\ntrain = 3\n").unwrap();
    let (code, message) = fail(folder.path(), &["train", "model.txt"]);
    assert!(code == 1 && message.contains("`data.train` is the number 3"), "{message}");
}

/// Every line that is a comment must be right once it is none.
#[test]
fn lines_in_comments_are_settings() {
    let folder = tempfile::tempdir().unwrap();
    let text = rows("x,c,y", 300, |k| format!("{},c{},{}", k % 50, k % 4, label(k)));
    fs::write(folder.path().join("data.csv"), text).unwrap();
    let config = succeed(folder.path(), &["init", "data.csv", "--label", "y", "-q"]);
    let is_setting = |line: &&str| line.starts_with("# ") && line.contains(" = ");
    let settings: Vec<&str> = config.lines().filter(is_setting).collect();
    assert!(settings.len() > 50, "{config}");
    let mut heading = "";
    for line in config.lines() {
        let bare = line.trim_start_matches("# ");
        if bare.starts_with('[') {
            heading = bare;
        } else if is_setting(&line) && heading != "[[data.join]]" {
            let data = if heading == "[data]" { "" } else { "[data]\n" };
            let file = format!("{data}{heading}\n{bare}\n");
            let read: Result<Config, _> = toml::from_str(&file);
            assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
        }
    }
}

#[test]
fn dates_of_all_orders_are_read() {
    for (date, order) in [
        (
            &(|k: usize| format!("{:02}/{:02}/2024", 1 + k % 12, 1 + k % 28))
                as &dyn Fn(usize) -> String,
            "month-day-year",
        ),
        (
            &|k| format!("{:02}/{:02}/2024 10:{:02}", 1 + k % 28, 1 + k % 12, k % 60),
            "day-month-year",
        ),
        (&|k| format!("{}.{}.2024", 1 + k % 12, 1 + k % 11), "day-month-year"),
    ] {
        let text = rows("d,y", 300, |k| format!("{},{}", date(k), label(k)));
        let config = draft(&text, "y");
        let line = "{ name = \"d.weekday\", from = \"d\", date = \"weekday\", date_order = ";
        has(&config, line, order);
        // A split by the time of the date works, too.
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data.csv"), &text).unwrap();
        let by_time = config.replace("# split = { by = \"time\"", "split = { by = \"time\"");
        assert_ne!(by_time, config);
        fs::write(folder.path().join("m.toml"), by_time).unwrap();
        succeed(folder.path(), &["train", "m.toml", "-q", "--epochs", "1"]);
    }
    let text = rows("d,y", 300, |k| format!("2024-02-{:02},{}", 1 + k % 30, label(k)));
    assert!(!draft(text, "y").contains("date = "), "2024-02-30 is no date");
}

/// Draws files of all kinds of columns: what is written must train, or the file is refused.
#[test]
fn drafts_of_any_file_train_or_are_refused() {
    let mut random = bagdot::Philox::new(11, 0);
    let mut trained = 0;
    for case in 0..40 {
        let rows = [1, 2, 3, 8, 20, 60, 300][random.below(7) as usize];
        let delimiter = [",", ";", "\t", "|"][random.below(4) as usize];
        let kinds: Vec<u64> = (0..1 + random.below(6)).map(|_| random.below(16)).collect();
        let name = |k: usize| ["x", "id", "a b", "größe", "*", "time", "d\"\"q", "date"][k % 8];
        let names = kinds.iter().enumerate().map(|(k, _)| format!("\"{}{k}\"", name(case + k)));
        let mut text = names.chain(["y\n".to_owned()]).collect::<Vec<_>>().join(delimiter);
        let label = [["0", "1"], ["yes", "no"], ["1.5", "3"]][random.below(3) as usize];
        let gaps = random.below(3) * 20;
        for row in 0..rows {
            for kind in &kinds {
                let n = random.below(50);
                let field = match kind {
                    _ if random.below(100) < gaps => ["", "NA", "?", "NULL"][n as usize % 4].into(),
                    0 => n.to_string(),
                    1 => row.to_string(),
                    2 => format!("{:.4}", random.normal()),
                    3 => format!("{},{}", n % 7, n),
                    4 => format!("{}.{:03},5", 1 + n % 9, 7 * n),
                    5 => ["red", "green", "blue"][n as usize % 3].into(),
                    6 => format!("a{}|b{}", n % 3, n % 5),
                    7 => format!("2024-{:02}-{:02}T{:02}:00:00Z", 1 + n % 12, 1 + n % 28, n % 24),
                    8 => format!("{}/{}/2024", 1 + n % 28, 1 + n % 12),
                    9 => "same".into(),
                    10 => String::new(),
                    11 => format!("{:016x}", random.next_u64()),
                    12 => format!("{n:05}"),
                    13 => format!("line\n{}", n % 3),
                    14 => ["1e39", "inf", "7"][n as usize % 3].into(),
                    _ => format!("say \"\"{}\"\"; or {}", n % 4, n % 3),
                };
                text += &format!("\"{field}\"{delimiter}");
            }
            text += &format!("\"{}\"\n", label[usize::from(random.below(3) == 0)]);
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data.csv"), &text).unwrap();
        let output = run(folder.path(), &["init", "data.csv", "--label", "y", "-q"]);
        match output.status.code() {
            Some(0) => {
                draft_in(folder.path(), &["data.csv", "--label", "y"]);
                trained += 1;
            }
            Some(1) => {
                let message = String::from_utf8(output.stderr).unwrap();
                let is_clear = ["nothing to learn", "left to learn from"];
                assert!(is_clear.iter().any(|said| message.contains(said)), "{message}\n{text}");
            }
            code => panic!("{code:?}: {}\n{text}", String::from_utf8_lossy(&output.stderr)),
        }
    }
    assert!(trained > 20, "{trained}");
}
