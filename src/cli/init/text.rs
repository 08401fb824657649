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

/// The lines of a configuration.
struct Lines {
    text: String,
    /// The keys of `[data]` that are set.
    set: Vec<&'static str>,
}

impl Lines {
    /// Sets a key of `[data]`.
    fn set(&mut self, name: &'static str, value: &str, comment: &str) {
        self.set.push(name);
        self.text.push_str(&commented(&format!("{name} = {value}"), comment));
    }
}

/// Writes the configuration for the files at `paths`.
pub(super) fn write(
    paths: &[String],
    layout: &Layout,
    profile: &Profile,
    target: &Target,
    guesses: &Guesses,
) -> String {
    let text = format!(
        "# Written by `bagdot init` from {} rows of {} columns. Train with: bagdot train FILE\n\
         # Each column has one line: to correct a guess, change the line, move it to the other\n\
         # list, or make it a comment. Keys in comments have their defaults, or an example with\n\
         # the default behind it; `bagdot help config KEY` explains a key.\n\n[data]\n",
        profile.rows,
        profile.columns.len()
    );
    // Side tables and Criteo logs are no guesses.
    let mut lines = Lines { text, set: vec!["join", "criteo"] };
    if is_criteo(layout, profile) {
        lines.text.push_str(
            "# These seem to be Criteo click logs: `format = \"criteo\"` reads them\n\
             # without label, delimiter, header, dense and categorical.\n",
        );
    }
    let train = match paths {
        [path] => quoted(path),
        _ => list(paths),
    };
    lines.set("train", &train, "");
    lines.set("label", &quoted(&target.rule), &label_comment(target));
    write_syntax(&mut lines, layout, guesses);
    let derived = derived(profile, guesses);
    if target.needs_all_rows || profile.held_out.contains(&0) {
        let split = "{ by = \"hash\", validation = 0.0, test = 0.0 }";
        lines.set("split", split, "too few rows to hold some back");
    } else if let Some(column) = time_column(profile, guesses, &derived) {
        let split = format!("# split = {{ by = \"time\", column = {} }}", quoted(column));
        lines.text.push_str(&commented(&split, "the latest rows for validation and test"));
    }
    if !derived.is_empty() {
        lines.set("derive", "[", "the parts of dates");
        derived.iter().for_each(|part| lines.text.push_str(&part.line()));
        lines.text.push_str("]\n");
    }
    write_columns(&mut lines, profile, guesses, &derived);

    let Lines { mut text, set } = lines;
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

/// Writes the keys that say how the files are written.
fn write_syntax(lines: &mut Lines, layout: &Layout, guesses: &Guesses) {
    let character = |c: char| quoted(&c.to_string());
    if layout.delimiter != b',' {
        lines.set("delimiter", &character(layout.delimiter.into()), "");
    }
    if layout.has_no_header {
        let comment = "the first line has numbers, so that it is no header: name the columns here";
        lines.set("header", &list(&layout.names), comment);
    }
    if !guesses.missing_values.is_empty() {
        lines.set("missing_values", &list(&guesses.missing_values), "besides empty fields");
    }
    let Notation { decimal, thousands } = guesses.notation;
    if decimal != '.' {
        lines.set("decimal", &character(decimal), "");
    }
    if let Some(thousands) = thousands {
        lines.set("thousands", &character(thousands), "");
    }
}

/// Returns a list of texts as TOML.
fn list<T: AsRef<str>>(texts: &[T]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
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

impl Derived {
    fn line(&self) -> String {
        let order = match self.order {
            DateOrder::YearMonthDay => "",
            DateOrder::DayMonthYear => ", date_order = \"day-month-year\"",
            DateOrder::MonthDayYear => ", date_order = \"month-day-year\"",
        };
        let (name, from, part) = (quoted(&self.name), quoted(&self.from), self.part);
        format!("    {{ name = {name}, from = {from}, date = \"{part}\"{order} }},\n")
    }
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
fn write_columns(lines: &mut Lines, profile: &Profile, guesses: &Guesses, derived: &[Derived]) {
    for is_dense in [true, false] {
        let belongs = |guess: &&Guess| match guess.kind {
            Kind::Number { .. } => is_dense,
            Kind::Category { .. } | Kind::List { .. } => !is_dense,
            Kind::Date(..) | Kind::Nameless => !is_dense && guess.left_out.is_some(),
        };
        let mut entries: Vec<String> =
            guesses.columns.iter().filter(belongs).map(|guess| line(profile, guess)).collect();
        for part in derived.iter().filter(|part| part.is_number == is_dense) {
            let settings = if is_dense { ", transform = \"zscore\"" } else { "" };
            let entry = format!("    {{ column = {}{settings} }},", quoted(&part.name));
            entries.push(commented(&entry, &format!("of {}", quoted(&part.from))));
        }
        let (name, meaning) = match is_dense {
            true => ("dense", "Numbers."),
            false => ("categorical", "Categories and lists, with an embedding for each value."),
        };
        let _ = write!(lines.text, "\n# {meaning}\n{name} = [\n{}]\n", entries.concat());
        lines.set.push(name);
    }
}

/// Returns the line of a column.
fn line(profile: &Profile, guess: &Guess) -> String {
    let column = quoted(&profile.columns[guess.column].name);
    let settings = match &guess.kind {
        Kind::Number { transform, pieces } => {
            let transform = transform.map(|name| format!(", transform = \"{name}\""));
            let pieces = (*pieces > 0).then(|| format!(", bins = {pieces}, knots = {pieces}"));
            [transform, pieces].into_iter().flatten().collect()
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
