//! Tests of `report.html`: what a person reads there, and that it needs nothing else.

use std::fs;

use serde_json::Value;

use crate::common::*;

/// Returns the text between two marks.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let rest = text.split_once(start).unwrap_or_else(|| panic!("no {start}")).1;
    rest.split_once(end).unwrap().0
}

#[test]
fn a_report_tells_the_run() {
    let folder = project(2500);
    let folder = folder.path();
    let written = format!("# Who clicks? <script>\n{CONFIG}evaluate_every = {{ steps = 20 }}\n");
    fs::write(folder.join("model.toml"), &written).unwrap();
    // Some rows have a tag of their own, so that training does not know those of the other parts.
    let text = fs::read_to_string(folder.join("clicks.csv")).unwrap();
    let hostile = |(k, line): (usize, &str)| line.replace("t3", &format!("<i>{k}</i> t3")) + "\n";
    let text: String = text.lines().enumerate().map(hostile).collect();
    fs::write(folder.join("clicks.csv"), text).unwrap();
    let arguments = ["train", "model.toml", "--json", "--seed", "11", "--importance"];
    let outcome = succeed(folder, &arguments);
    let outcome: Value = serde_json::from_str(&outcome).unwrap();
    let report = fs::read_to_string(folder.join("runs/model/report.html")).unwrap();

    // One file, without scripts and without references to others.
    for reference in ["<script", "src=", "href=", "@import", "url(", "<link"] {
        assert!(!report.contains(reference), "{reference}");
    }
    let addresses = report.matches("http").count();
    assert_eq!(addresses, report.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    assert!(report.contains("prefers-color-scheme: dark") && report.contains("name=\"viewport\""));
    for tag in ["main", "section", "table", "details", "svg", "div", "pre"] {
        let (opened, closed) = (format!("<{tag}"), format!("</{tag}>"));
        assert_eq!(report.matches(&opened).count(), report.matches(&closed).count(), "{tag}");
    }

    // The figures are those of the outcome, beside those of a constant.
    let figure = |value: &Value| format!("{:.4}", value.as_f64().unwrap());
    let cards = between(&report, "<h2>Result on the test rows</h2>", "<h2>");
    for key in ["auc", "logloss", "ne", "calibration", "accuracy"] {
        assert!(cards.contains(&figure(&outcome["test"][key])), "{key}: {cards}");
    }
    let share = outcome["test"]["positives"].as_f64().unwrap()
        / outcome["test"]["samples"].as_f64().unwrap();
    let entropy = -(share * share.ln() + (1.0 - share) * (1.0 - share).ln());
    assert!(cards.contains(&format!("the base rate: {entropy:.4}")), "{cards}");
    let head = between(&report, "<h1>model</h1>", "<h2>");
    assert!(head.contains("Seed 11; 4 epochs, ") && head.contains(" UTC by bagdot "), "{head}");

    // The curves have the best point, which is that of the outcome.
    let curves = between(&report, "<h2>Training</h2>", "<h2>");
    let best = figure(&outcome["validation"]["logloss"]);
    assert!(
        curves.contains(&format!("best {best}")) && curves.contains("base rate 0."),
        "{curves}"
    );
    let detail = between(&report, "<h2>The test rows in detail</h2>", "<h2>");
    for title in ["ROC", "Precision and recall", "Lift", "Predictions by class", "Calibration"] {
        assert!(detail.contains(&format!("aria-label=\"{title}\"")), "{title}");
    }

    // The table is folded, and has one row that is marked.
    let table = between(&report, "<details>", "</details>");
    let (_, mut lines) = result_of(&folder.join("runs/model"));
    lines.pop();
    assert!(table.contains(&format!("<summary>{} evaluations", lines.len())), "{table}");
    assert_eq!(table.matches("<tr class=\"best\">").count(), 1);
    let marked = between(table, "<tr class=\"best\"><td>", "</tr>");
    assert!(marked.contains(&format!("<td>{}</td>", outcome["best_step"])), "{marked}");

    // Columns in the order of their importance, and the values that training has not seen.
    let importance = between(&report, "<h2>Importance of the columns</h2>", "<h2>");
    let columns = outcome["importance"].as_array().unwrap();
    let names: Vec<&str> = columns.iter().map(|c| c["column"].as_str().unwrap()).collect();
    let places: Vec<usize> =
        names.iter().map(|name| importance.find(&format!(">{name}<")).unwrap()).collect();
    assert!(places.is_sorted() && names[0] == "page", "{names:?}");
    let data = between(&report, "<h2>Data</h2>", "<details>");
    assert!(data.contains("clicks.csv") && data.contains("&lt;i&gt;"), "{data}");

    // The configuration is the text that the user wrote, and the flags.
    let config = between(&report, "<h2>Configuration</h2><pre>", "</pre>");
    let escaped = written.replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    assert_eq!(config, format!("{}\n\n# and on the command line: --seed 11", escaped.trim_end()));
}

#[test]
fn a_report_without_test_rows_tells_of_the_validation() {
    let folder = project(900);
    let folder = folder.path();
    let split = "split = { by = \"hash\", test = 0, validation = 0.2 }\n[model]";
    fs::write(folder.join("model.toml"), CONFIG.replace("[model]", split)).unwrap();
    succeed(folder, &["train", "model.toml", "--quiet", "--importance"]);
    let report = fs::read_to_string(folder.join("runs/model/report.html")).unwrap();
    assert!(report.contains("<h2>Result on the validation rows</h2>"), "{report}");
    assert!(report.contains("Importance") && !report.contains("The test rows in detail"));
    assert_eq!(report.matches("<svg").count(), 2);
}

/// Checks that the report of a model of a file of data shows the configuration that was drafted for
/// it, and no rows.
#[test]
fn a_report_shows_a_drafted_configuration() {
    let folder = project(900);
    let folder = folder.path();
    let arguments = ["train", "clicks.csv", "--label", "clicked", "--epochs", "1", "--out", "m"];
    succeed(folder, &[&arguments[..], &["--quiet"]].concat());
    let report = fs::read_to_string(folder.join("m/report.html")).unwrap();
    let config = between(&report, "<h2>Configuration</h2><pre>", "</pre>");
    assert!(config.contains("label = &quot;clicked&quot;"), "{config}");
    assert!(config.ends_with("# and on the command line: --epochs 1"), "{config}");
    assert!(!config.contains("age,page,tags,clicked"), "{config}");
}
