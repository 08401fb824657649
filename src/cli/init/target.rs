//! The label of a draft.

use std::path::PathBuf;

use super::super::error::CliError;
use super::text::quoted;
use crate::data::{
    ColumnProfile, DataError, Label, MARKERS, Place, Profile, parse_number, percent,
};

/// The label: its column, and the setting that makes 0 or 1 of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// The number of the column.
    pub(super) column: usize,
    /// The value of `data.label`.
    pub(super) rule: String,
    /// The share of the rows that count as 1, if it is known.
    pub(super) share: Option<f64>,
    /// The reason for the condition, if it is a guess.
    pub(super) remark: Option<String>,
    /// Set if the training rows of the default split would all have the same label.
    pub(super) needs_all_rows: bool,
}

/// The texts that count as 1 if the other text does not.
const POSITIVE: [&str; 16] = [
    "1", "yes", "y", "true", "t", "positive", "pos", "click", "clicked", "success", "good", "on",
    "like", "buy", "churned", "spam",
];

/// The values of a column, with the numbers of all and of training rows.
type Values<'a> = Vec<(&'a String, &'a [u64; 2])>;

/// Returns the name of the column in a label that a user gives: a column, or a condition.
pub(super) fn column_of(label: &str) -> String {
    Label::parse(label).map_or_else(|_| label.trim().to_owned(), |label| label.column)
}

impl Target {
    /// Finds the label that a user names: a column, or a condition.
    pub(super) fn find(
        label: &str,
        profile: &Profile,
        files: &[PathBuf],
    ) -> Result<Self, CliError> {
        let names = || profile.columns.iter().map(|column| column.name.as_str());
        let first_file = || files.first().map_or(String::new(), |file| file.display().to_string());
        let by_name = profile.columns.iter().position(|column| column.name == label.trim());
        let (k, condition) = match by_name {
            Some(k) => (k, None),
            None => {
                let parsed = Label::parse(label)?;
                let k = profile.columns.iter().position(|column| column.name == parsed.column);
                let unknown = || DataError::unknown_column(&first_file(), &parsed.column, names());
                (k.ok_or_else(unknown)?, Some(label.trim().to_owned()))
            }
        };
        let column = &profile.columns[k];
        if names().filter(|name| *name == column.name).count() > 1 {
            let (file, column) = (first_file(), column.name.clone());
            return Err(DataError::DuplicateColumn { file, column }.into());
        }
        if let Some((file, line)) = &column.first_empty {
            let reason = "every row needs a label: fill it in, or remove the row";
            let (file, column) = (file.clone(), column.name.clone());
            return Err(DataError::Missing { file, line: *line, column, reason }.into());
        }
        if let Some((file, line)) = &column.first_not_utf8 {
            let (file, column) = (file.clone(), column.name.clone());
            return Err(DataError::NotUtf8 { file, line: *line, column }.into());
        }
        let target = match condition {
            Some(rule) => Self { rule, ..Self::of(k) },
            None => Self::guess(k, column)?,
        };
        target.checked(column, profile)
    }

    fn of(column: usize) -> Self {
        Self { column, rule: String::new(), share: None, remark: None, needs_all_rows: false }
    }

    /// Chooses the rows that count as 1 by the values of a column.
    fn guess(k: usize, column: &ColumnProfile) -> Result<Self, CliError> {
        let name = &column.name;
        if name.is_empty() {
            let reason = "the column of the label has no name: give it one";
            return Err(CliError::Usage(reason.into()));
        }
        if name.contains(['<', '>', '=']) {
            return Err(CliError::Usage(format!(
                "the name of column {} has a comparison sign, so that it cannot be the label: \
                 rename it",
                quoted(name)
            )));
        }
        let is_numeric = column.numbers[0] == column.filled();
        match sorted_values(column) {
            Some(values) if is_numeric => Self::of_numbers(k, column, &values),
            Some(values) => Self::of_texts(k, column, &values),
            None if is_numeric => {
                let remark = "a guess: the column has many numbers; about half of the rows count \
                              as 1";
                Ok(Self { remark: Some(remark.into()), ..Self::of(k) })
            }
            None => Err(CliError::Usage(format!(
                "column {} has many texts, such as {}: write the condition under which a row \
                 counts as 1, as in --label '{name} = {}'",
                quoted(name),
                column.examples.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "),
                column.examples.first().map_or("", String::as_str)
            ))),
        }
    }

    fn of_numbers(k: usize, column: &ColumnProfile, values: &Values<'_>) -> Result<Self, CliError> {
        let name = &column.name;
        let number = |(text, counts): &(&String, &[u64; 2])| Some((text.parse().ok()?, counts[0]));
        let mut numbers: Vec<(f64, u64)> = values.iter().filter_map(number).collect();
        numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut distinct: Vec<f64> = numbers.iter().map(|&(number, _)| number).collect();
        distinct.dedup();
        let (rule, remark) = match distinct[..] {
            [] | [_] => return Err(constant(column)),
            [0.0, 1.0] => (name.clone(), None),
            [_, high] => (format!("{name} = {high}"), None),
            _ => {
                let remark = format!(
                    "a guess: the column has {} numbers; about half of the rows count as 1",
                    distinct.len()
                );
                let threshold = threshold(&numbers, column.filled() as f64);
                (format!("{name} >= {threshold}"), Some(remark))
            }
        };
        Ok(Self { rule, remark, ..Self::of(k) })
    }

    fn of_texts(k: usize, column: &ColumnProfile, values: &Values<'_>) -> Result<Self, CliError> {
        let name = &column.name;
        let is_marker = |text: &str| MARKERS.contains(&text);
        let (marked, others): (Vec<_>, Vec<_>) =
            values.iter().partition(|(text, _)| is_marker(text));
        let are_numbers = others.iter().all(|(text, _)| parse_number(text).is_some());
        if let Some((text, counts)) = marked.first()
            && (others.len() < 2 || are_numbers)
        {
            return Err(CliError::Usage(format!(
                "the label {} is {} in {} rows, which marks a missing value: remove these rows, or \
                 write a condition, as in --label '{name} != {text}'",
                quoted(name),
                quoted(text),
                counts[0]
            )));
        }
        // Only a text can be compared with both numbers and texts.
        let texts = || others.iter().map(|(text, _)| *text);
        let comparable = || texts().filter(|text| are_numbers || parse_number(text).is_none());
        let is_positive = |text: &&String| POSITIVE.contains(&text.to_lowercase().as_str());
        let (value, remark) = match others.len() {
            0 | 1 => return Err(constant(column)),
            // If there are two values, the rarer one is that of interest.
            2 => {
                let positive = comparable().find(is_positive);
                let is_clear = texts().filter(is_positive).count() == 1;
                (positive.filter(|_| is_clear).or(comparable().next_back()), None)
            }
            count => {
                let remark =
                    format!("a guess: the column has {count} values, of which one must be chosen");
                (comparable().next(), Some(remark))
            }
        };
        let rule = format!("{name} = {}", condition_value(value.map_or("", String::as_str)));
        Ok(Self { rule, remark, ..Self::of(k) })
    }

    /// Completes the rule, and checks that it tells rows apart.
    fn checked(mut self, column: &ColumnProfile, profile: &Profile) -> Result<Self, CliError> {
        if self.rule.is_empty() {
            let numbers = profile.sample.iter().filter_map(|row| row[self.column].parse().ok());
            let mut numbers: Vec<(f64, u64)> = numbers.map(|x: f64| (x, 1)).collect();
            numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
            let threshold = threshold(&numbers, numbers.len() as f64);
            self.rule = format!("{} >= {threshold}", column.name);
        }
        let label = Label::parse(&self.rule)?.trimmed();
        let Some(values) = sorted_values(column) else {
            // A condition that takes no text needs numbers alone.
            if label.of("x", NOWHERE).is_err() && column.numbers[0] < column.filled() {
                return Err(self.mismatch(column, "texts"));
            }
            return Ok(self);
        };
        let (mut all, mut training) = ([0, 0], [0, 0]);
        for (text, counts) in values {
            let value = label.of(text, NOWHERE);
            let class =
                usize::from(value.map_err(|_| self.mismatch(column, &quoted(text)))? == 1.0);
            all[class] += counts[0];
            training[class] += counts[1];
        }
        if all.contains(&0) {
            return Err(constant(column));
        }
        self.share = Some(all[1] as f64 / (all[0] + all[1]) as f64);
        self.needs_all_rows = training.contains(&0);
        Ok(self)
    }

    fn mismatch(&self, column: &ColumnProfile, what: &str) -> CliError {
        CliError::Usage(format!(
            "the label {} holds {what}, which the condition {} cannot tell: correct the rows, or \
             write another condition",
            quoted(&column.name),
            quoted(&self.rule)
        ))
    }

    /// Returns the labels of the sample, NaN where there is none.
    pub(super) fn labels(&self, profile: &Profile) -> Vec<f32> {
        let label = Label::parse(&self.rule).map(Label::trimmed);
        let of = |row: &Vec<String>| label.as_ref().ok()?.of(&row[self.column], NOWHERE).ok();
        profile.sample.iter().map(|row| of(row).unwrap_or(f32::NAN)).collect()
    }
}

/// The place of a value that stands in no row.
const NOWHERE: Place<'static> = Place { file: "", line: 0 };

/// Returns the number at which the rows are divided into halves that are as equal as possible.
/// `numbers` are sorted, each with its number of rows.
fn threshold(numbers: &[(f64, u64)], total: f64) -> f64 {
    let (mut below, mut best) = (0, (f64::INFINITY, 0.0));
    for &(number, count) in numbers {
        let distance = (below as f64 / total - 0.5).abs();
        if below > 0 && distance < best.0 {
            best = (distance, number);
        }
        below += count;
    }
    best.1
}

/// Returns a text as the value of a condition, in quotes where it would be read in another way.
fn condition_value(text: &str) -> String {
    let is_quoted = text.starts_with(['"', '\'']);
    if is_quoted || text.trim() != text { format!("\"{text}\"") } else { text.to_owned() }
}

fn constant(column: &ColumnProfile) -> CliError {
    let value = column.examples.first().map_or("", String::as_str);
    CliError::NothingToLearn(format!(
        "the label {} is the same in all {} rows, such as {}: there is nothing to learn",
        quoted(&column.name),
        column.rows,
        quoted(value)
    ))
}

/// Returns the values of a column, the most frequent first.
fn sorted_values(column: &ColumnProfile) -> Option<Values<'_>> {
    let mut values: Vec<_> = column.texts.as_ref()?.iter().collect();
    values.sort_by(|a, b| b.1[0].cmp(&a.1[0]).then_with(|| a.0.cmp(b.0)));
    Some(values)
}

/// Lists the columns that may be the label, for a user who has named none.
pub(super) fn candidates(profile: &Profile) -> String {
    let mut lines = Vec::new();
    for column in &profile.columns {
        let Some(values) = sorted_values(column).filter(|values| values.len() == 2) else {
            continue;
        };
        if column.filled() < column.rows || column.name.is_empty() {
            continue;
        }
        let value = |(text, counts): &(&String, &[u64; 2])| {
            format!("{} ({})", quoted(text), percent(counts[0] as f64 / column.rows as f64))
        };
        let values: Vec<String> = values.iter().map(value).collect();
        lines.push(format!("  --label {}: {}", shell(&column.name), values.join(", ")));
    }
    let numbers = profile.columns.iter().filter(|column| {
        column.numbers[0] == column.rows && column.distinct().0 > 2 && !column.name.is_empty()
    });
    // The label is most often among the columns with few values.
    let condition = numbers.min_by_key(|column| column.distinct().0).map(|column| {
        let number = column.examples.first().map_or("1", String::as_str);
        shell(&format!("{} >= {number}", column.name))
    });
    let condition = condition.unwrap_or_else(|| "'column = text'".into());
    let found = match lines.is_empty() {
        true => "no column has two values".to_owned(),
        false => format!("these columns have two values:\n{}", lines.join("\n")),
    };
    format!(
        "name the label, which the model predicts, with --label COLUMN; {found}\nor write a \
         condition on another column, as in --label {condition}"
    )
}

/// Returns a text as a word of a shell.
fn shell(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}
