//! Tests of `predict --columns`, and of what `eval` measures: files, groups, segments, importance.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::*;

/// A project whose rows also have a user, a name that CSV must quote, and a number that decides
/// nothing.
fn people(rows: usize) -> tempfile::TempDir {
    let folder = project(rows);
    let text = fs::read_to_string(folder.path().join("clicks.csv")).unwrap();
    let mut random = bagdot::Philox::new(9, 0);
    let names = ["Ann", "\"x,y\"", "\"O'Neil, \"\"Bo\"\"\"", "\"two\nlines\"", "\" blank \"", ""];
    let mut lines = text.lines();
    let head = lines.next().unwrap();
    // A line of the first file has no line end inside.
    let rows: String = lines
        .map(|line| {
            let (user, name) = (random.below(30), names[random.below(6) as usize]);
            format!("u{user},{name},{line},7\n")
        })
        .collect();
    fs::write(folder.path().join("clicks.csv"), format!("user,name,{head},same\n{rows}")).unwrap();
    let config = CONFIG.replace(
        "dense = [{",
        "derive = [{ name = \"decade\", from = \"age\", bucket = 10 }]\n\
         dense = [{ column = \"same\" }, {",
    );
    let config =
        config.replace("{ column = \"page\" },", "{ column = \"page\" }, { column = \"decade\" },");
    fs::write(folder.path().join("model.toml"), config).unwrap();
    succeed(folder.path(), &["train", "model.toml", "--quiet", "--epochs", "2", "--out", "m"]);
    folder
}

/// Returns the rows of `predict --columns` as texts, without the header.
fn predicted(folder: &Path, columns: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let text = succeed(folder, &["predict", "m", "clicks.csv", "--quiet", "--columns", columns]);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let row = |record: csv::StringRecord| record.iter().map(str::to_owned).collect();
    (head, reader.records().map(|record| row(record.unwrap())).collect())
}

fn eval(folder: &Path, arguments: &[&str]) -> Value {
    let text = succeed(folder, &[&["eval", "m", "--json", "--quiet"], arguments].concat());
    serde_json::from_str(&text).unwrap()
}

#[test]
fn predictions_come_with_columns_of_the_rows() {
    let folder = people(700);
    let folder = folder.path();
    let (head, rows) = predicted(folder, "user,name,decade,clicked");
    assert_eq!(head, ["user", "name", "decade", "clicked", "probability"]);
    let plain = succeed(folder, &["predict", "m", "clicks.csv", "--quiet"]);
    assert!(rows.iter().map(|row| row[4].as_str()).eq(plain.lines()));
    let mut input = csv::Reader::from_path(folder.join("clicks.csv")).unwrap();
    let input: Vec<csv::StringRecord> = input.records().map(Result::unwrap).collect();
    assert_eq!(input.len(), rows.len());
    for (row, record) in rows.iter().zip(&input) {
        let age: u32 = record[2].parse().unwrap();
        let decade = (age / 10 * 10).to_string();
        assert_eq!(row[..4], [&record[0], &record[1], &decade, &record[5]], "{record:?}");
    }
    let (code, said) = fail(folder, &["predict", "m", "clicks.csv", "--columns", "usr"]);
    assert!(code == 1 && said.contains("no column \"usr\"") && said.contains("user"), "{said}");
}

#[test]
fn eval_takes_files_as_predict_does() {
    let folder = people(600);
    let folder = folder.path();
    let earlier = eval(folder, &["--data", "clicks.csv"]);
    assert_eq!(eval(folder, &["clicks.csv"]), earlier);
    assert_eq!(eval(folder, &["clicks.csv", "clicks.csv"])["samples"], 1200);
    for arguments in [["clicks.csv", "--split", "all"], ["clicks.csv", "--data", "clicks.csv"]] {
        assert_eq!(fail(folder, &[&["eval", "m"], &arguments[..]].concat()).0, 2);
    }
}

#[test]
fn groups_and_segments_are_those_of_the_predictions() {
    let folder = people(900);
    let folder = folder.path();
    let found = eval(folder, &["clicks.csv", "--group-by", "user", "--by", "page", "--by", "user"]);
    let rows = predicted(folder, "user,page,clicked").1;
    let mut users: HashMap<&str, Vec<(f64, bool)>> = HashMap::new();
    for row in &rows {
        users.entry(&row[0]).or_default().push((row[3].parse().unwrap(), row[2] == "1"));
    }
    let (mut sum, mut count) = (0.0, 0.0);
    for rows in users.values() {
        let of = |label| rows.iter().filter(move |row| row.1 == label).map(|row| row.0);
        let pairs = (of(true).count() * of(false).count()) as f64;
        let won = |p: f64| {
            of(false)
                .map(|q| f64::from(u8::from(p > q)) + f64::from(u8::from(p == q)) / 2.0)
                .sum::<f64>()
        };
        if pairs > 0.0 {
            sum += of(true).map(won).sum::<f64>() / pairs * rows.len() as f64;
            count += rows.len() as f64;
        }
    }
    let groups = &found["groups"][0];
    // Both are sums of some thirty terms below 1, in another order.
    assert!((groups["auc"].as_f64().unwrap() - sum / count).abs() < 1e-13, "{groups}");
    assert_eq!(
        (&groups["groups"], &groups["rows_with_both"]),
        (&30.into(), &(count as u64).into())
    );
    let pages = found["segments"][0]["values"].as_array().unwrap();
    assert_eq!(pages.len(), 5);
    for page in pages {
        let of_page: Vec<&Vec<String>> =
            rows.iter().filter(|row| row[1] == page["value"]).collect();
        let positives = of_page.iter().filter(|row| row[2] == "1").count();
        assert_eq!(page["samples"], of_page.len());
        assert_eq!(page["base_rate"].as_f64(), Some(positives as f64 / of_page.len() as f64));
    }
    // Ten of the thirty users share a segment.
    let segments = found["segments"][1]["values"].as_array().unwrap();
    let last = segments.last().unwrap();
    assert_eq!((segments.len(), &last["value"], &last["values"]), (21, &Value::Null, &10.into()));
    let all: u64 = segments.iter().map(|segment| segment["samples"].as_u64().unwrap()).sum();
    assert_eq!(all, 900);
    let text = succeed(folder, &["eval", "m", "clicks.csv", "--group-by", "user", "--by", "name"]);
    assert!(text.contains("auc within user: 0.") && text.contains("\n(empty) "), "{text}");
}

#[test]
fn importance_tells_what_the_model_uses() {
    let folder = people(3000);
    let folder = folder.path();
    let found = eval(folder, &["clicks.csv", "--importance"]);
    let columns = found["importance"].as_array().unwrap();
    let of = |name: &str| columns.iter().find(|column| column["column"] == name).unwrap();
    let rise = |column: &Value| column["logloss_rise"].as_f64().unwrap();
    let mut names: Vec<&str> = columns.iter().map(|c| c["column"].as_str().unwrap()).collect();
    assert!(columns.is_sorted_by(|a, b| rise(a) >= rise(b)), "{columns:?}");
    assert_eq!(names[0], "page", "{columns:?}");
    assert!(of("page")["auc_drop"].as_f64().unwrap() > 0.05, "{columns:?}");
    // A shuffle changes nothing where all values are equal.
    assert_eq!((rise(of("same")), of("same")["auc_drop"].as_f64()), (0.0, Some(0.0)));
    names.sort_unstable();
    assert_eq!(names, ["age", "decade", "page", "same", "tags"]);
    assert_eq!(eval(folder, &["clicks.csv", "--importance"]), found);
    let text = succeed(folder, &["eval", "m", "clicks.csv", "--importance"]);
    let second = text.lines().nth(2).unwrap();
    assert!(second.starts_with("page "), "{text}");
}
