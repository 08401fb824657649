//! Writes a configuration as text.

use std::collections::HashSet;
use std::fmt::Write;

use super::guess::{Guess, Guesses, Kind};
use super::target::Target;
use crate::data::{DateOrder, DatePart, Layout, Notation, Profile, percent};
use crate::train::Config;

/// The column at which comments begin.
const COMMENT: usize = 66;

/// Returns a text as a string of TOML.
pub(super) fn quoted(text: &str) -> String {
    // JSON escapes the same characters in the same way, but for DEL.
    let json = serde_json::to_string(text).unwrap_or_default();
    json.replace('\u{7f}', "\\u007f")
}

/// Writes the configuration for the files at `paths`.
pub(super) fn write(
    paths: &[String],
    layout: &Layout,
    profile: &Profile,
    target: &Target,
    guesses: &Guesses,
) -> String {
    let mut text = format!(
        "# Written by `bagdot init` from {} rows of {} columns. Train with: bagdot train FILE\n\
         # Each column has one line: to correct a guess, change the line, move it to the other\n\
         # list, or make it a comment. Keys in comments have their defaults, or an example with\n\
         # the default behind it; `bagdot help config KEY` explains a key.\n\n[data]\n",
        profile.rows,
        profile.columns.len()
    );
    if is_criteo(layout, profile) {
        text.push_str(
            "# These seem to be Criteo click logs: `format = \"criteo\"` reads them\n\
             # without label, delimiter, header, dense and categorical.\n",
        );
    }
    let paths: Vec<String> = paths.iter().map(|path| quoted(path)).collect();
    let train = match &paths[..] {
        [path] => path.clone(),
        _ => format!("[{}]", paths.join(", ")),
    };
    let mut set = vec!["train", "label", "dense", "categorical", "join", "criteo"];
    let mut line = |text: &mut String, line: String, comment: &str| {
        set.push(key_of(&line));
        text.push_str(&commented(&line, comment));
    };
    line(&mut text, format!("train = {train}"), "");
    line(&mut text, format!("label = {}", quoted(&target.rule)), &label_comment(target));
    if layout.delimiter != b',' {
        let delimiter = quoted(&char::from(layout.delimiter).to_string());
        line(&mut text, format!("delimiter = {delimiter}"), "");
    }
    if layout.has_no_header {
        let names: Vec<String> = layout.names.iter().map(|name| quoted(name)).collect();
        let comment = "the first line has numbers, so that it is no header: name the columns here";
        line(&mut text, format!("header = [{}]", names.join(", ")), comment);
    }
    if !guesses.missing_values.is_empty() {
        let values: Vec<String> =
            guesses.missing_values.iter().map(|value| quoted(value)).collect();
        line(
            &mut text,
            format!("missing_values = [{}]", values.join(", ")),
            "besides empty fields",
        );
    }
    let Notation { decimal, thousands } = guesses.notation;
    if decimal != '.' {
        line(&mut text, format!("decimal = {}", quoted(&decimal.to_string())), "");
    }
    if let Some(thousands) = thousands {
        line(&mut text, format!("thousands = {}", quoted(&thousands.to_string())), "");
    }
    let derived = derived(profile, guesses);
    if target.needs_all_rows || profile.held_out.contains(&0) {
        let comment = "too few rows to hold some back";
        let split = "split = { by = \"hash\", validation = 0.0, test = 0.0 }";
        line(&mut text, split.into(), comment);
    } else if let Some(column) = time_column(profile, guesses, &derived) {
        let name = quoted(column);
        let split = format!("# split = {{ by = \"time\", column = {name} }}");
        text.push_str(&commented(&split, "the latest rows for validation and test"));
    }
    if !derived.is_empty() {
        line(&mut text, "derive = [".into(), "the parts of dates");
        for part in &derived {
            let (name, from) = (quoted(&part.name), quoted(&part.from));
            let order = match part.order {
                DateOrder::YearMonthDay => "",
                DateOrder::DayMonthYear => ", date_order = \"day-month-year\"",
                DateOrder::MonthDayYear => ", date_order = \"month-day-year\"",
            };
            let _ = writeln!(
                text,
                "    {{ name = {name}, from = {from}, date = \"{}\"{order} }},",
                part.part
            );
        }
        text.push_str("]\n");
    }
    write_columns(&mut text, profile, guesses, &derived);

    let set: Vec<&str> = set.iter().copied().filter(|name| !name.is_empty()).collect();
    let further = Config::default_lines("data", &set).join("\n");
    let _ = writeln!(text, "\n# Further keys of [data]:\n{further}");
    for table in ["data.join", "model", "train", "train.optimizer", "train.tables", "train.dense"] {
        let heading = match table {
            "data.join" => "# [[data.join]]".to_owned(),
            "model" | "train" => format!("[{table}]"),
            _ => format!("# [{table}]"),
        };
        let _ = writeln!(text, "\n{heading}\n{}", Config::default_lines(table, &[]).join("\n"));
    }
    text
}

fn key_of(line: &str) -> &'static str {
    let name = line.split(' ').next().unwrap_or_default();
    let keys = ["delimiter", "header", "missing_values", "decimal", "thousands", "split", "derive"];
    keys.into_iter().find(|key| *key == name).unwrap_or_default()
}

/// Returns a line with a comment behind it.
fn commented(line: &str, comment: &str) -> String {
    match comment {
        "" => format!("{line}\n"),
        comment => format!("{:<COMMENT$}# {comment}\n", format!("{line}  ")),
    }
}

fn label_comment(target: &Target) -> String {
    let share = target.share.map(|share| format!("{} of the rows", percent(share)));
    let remark = target.remark.clone();
    [share, remark].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// A derived column: a part of a date.
struct Derived {
    name: String,
    from: String,
    part: &'static str,
    order: DateOrder,
    is_number: bool,
}

fn derived(profile: &Profile, guesses: &Guesses) -> Vec<Derived> {
    let mut taken: HashSet<String> =
        profile.columns.iter().map(|column| column.name.clone()).collect();
    let mut all = Vec::new();
    for guess in guesses.columns.iter().filter(|guess| guess.left_out.is_none()) {
        let Kind::Date(order, parts) = &guess.kind else { continue };
        let from = &profile.columns[guess.column].name;
        for &(part, part_name) in parts {
            let mut name = format!("{from}.{part_name}");
            while !taken.insert(name.clone()) {
                name.push('_');
            }
            let is_number = matches!(part, DatePart::Seconds | DatePart::Days);
            let (from, part, order) = (from.clone(), part_name, *order);
            all.push(Derived { name, from, part, order, is_number });
        }
    }
    all
}

/// Writes the lists of columns.
fn write_columns(text: &mut String, profile: &Profile, guesses: &Guesses, derived: &[Derived]) {
    for is_dense in [true, false] {
        let belongs = |guess: &&Guess| match guess.kind {
            Kind::Number { .. } => is_dense,
            Kind::Category { .. } | Kind::List { .. } => !is_dense,
            Kind::Date(..) | Kind::Nameless => !is_dense && guess.left_out.is_some(),
        };
        let mut lines: Vec<String> =
            guesses.columns.iter().filter(belongs).map(|guess| line(profile, guess)).collect();
        for part in derived.iter().filter(|part| part.is_number == is_dense) {
            let settings = if is_dense { ", transform = \"zscore\"" } else { "" };
            let entry = format!("    {{ column = {}{settings} }},", quoted(&part.name));
            lines.push(commented(&entry, &format!("of {}", quoted(&part.from))));
        }
        let (name, meaning) = match is_dense {
            true => ("dense", "Numbers."),
            false => ("categorical", "Categories and lists, with an embedding for each value."),
        };
        let _ = write!(text, "\n# {meaning}\n{name} = [\n{}]\n", lines.concat());
    }
}

/// Returns the line of a column.
fn line(profile: &Profile, guess: &Guess) -> String {
    let column = quoted(&profile.columns[guess.column].name);
    let settings = match &guess.kind {
        Kind::Number { transform, bins } => {
            let transform = transform.map(|name| format!(", transform = \"{name}\""));
            let bins = (*bins > 0).then(|| format!(", bins = {bins}"));
            [transform, bins].into_iter().flatten().collect()
        }
        Kind::Category { min_count } => format!(", min_count = {min_count}"),
        Kind::List { separator, min_count } => {
            format!(", separator = {}, min_count = {min_count}", quoted(separator))
        }
        Kind::Date(..) | Kind::Nameless => String::new(),
    };
    let entry = format!("{{ column = {column}{settings} }},");
    match &guess.left_out {
        Some(reason) => commented(&format!("    # {entry}"), &format!("{reason}; {}", guess.note)),
        None => commented(&format!("    {entry}"), &guess.note),
    }
}

/// Returns whether the files have the columns of Criteo click logs: a label, 13 numbers and 26
/// texts of 8 hexadecimal digits.
fn is_criteo(layout: &Layout, profile: &Profile) -> bool {
    let is_hexadecimal =
        |text: &String| text.len() <= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let categories = profile.columns.iter().skip(14);
    layout.delimiter == b'\t'
        && layout.has_no_header
        && profile.columns.len() == 40
        && categories.flat_map(|column| &column.examples).all(is_hexadecimal)
}

/// Returns the first column that seems to hold times as numbers, and has one in each row.
fn time_column<'a>(
    profile: &'a Profile,
    guesses: &Guesses,
    derived: &'a [Derived],
) -> Option<&'a str> {
    let is_time = |guess: &&Guess| {
        let column = &profile.columns[guess.column];
        let lower = column.name.to_lowercase();
        let is_named = ["time", "timestamp", "unixtime", "ts", "epoch"]
            .iter()
            .any(|name| lower == *name || lower.ends_with(&format!("_{name}")));
        is_named && column.empty == 0 && matches!(guess.kind, Kind::Number { .. })
    };
    let is_complete = |part: &&Derived| {
        let mut columns = profile.columns.iter().filter(|column| column.name == part.from);
        part.is_number && columns.all(|column| column.empty == 0)
    };
    let column = guesses.columns.iter().find(is_time);
    column
        .map(|guess| profile.columns[guess.column].name.as_str())
        .or_else(|| derived.iter().find(is_complete).map(|part| part.name.as_str()))
}
