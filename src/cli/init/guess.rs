//! Guesses at the kinds of columns.

use std::collections::HashSet;

use super::leak::{self, SUSPICIOUS};
use super::target::Target;
use super::text::quoted;
use crate::data::{
    ColumnProfile, Date, DateOrder, DatePart, MARKERS, NOTATIONS, Notation, Profile, percent,
};

/// The markers that are no other value in any column.
const UNAMBIGUOUS: [&str; 7] = ["N/A", "#N/A", "<NA>", "NaN", "NULL", "\\N", "?"];

/// The guesses at all columns but the label.
pub(super) struct Guesses {
    pub(super) notation: Notation,
    pub(super) missing_values: Vec<&'static str>,
    pub(super) columns: Vec<Guess>,
}

/// A guess at a column.
pub(super) struct Guess {
    /// The number of the column.
    pub(super) column: usize,
    pub(super) kind: Kind,
    /// The reason for leaving the column out.
    pub(super) left_out: Option<String>,
    /// Set if that reason is that the column gives the label away.
    pub(super) is_leak: bool,
    /// The contents of the column.
    pub(super) note: String,
}

/// The kind of a column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Number {
        /// The transform, unless it is the default.
        transform: Option<&'static str>,
        /// The number of bins and of knots; 0 for none.
        pieces: u32,
    },
    Category {
        min_count: u32,
    },
    List {
        separator: &'static str,
        min_count: u32,
    },
    /// A date, with the parts that say something about the rows.
    Date(DateOrder, Vec<(DatePart, &'static str)>),
    /// A column that no line of a configuration can name.
    Nameless,
}

impl Guesses {
    pub(super) fn of(profile: &Profile, target: &Target) -> Self {
        let notation = notation(profile, target.column);
        let markers = markers(profile, &profile.columns[target.column], notation);
        let labels = target.labels(profile);
        let mut names = HashSet::new();
        let repeated = profile.columns.iter().map(|column| column.name.as_str());
        let repeated = repeated.filter(|name| !names.insert(*name)).collect();
        let context = Context { profile, notation, markers: &markers, labels: &labels, repeated };
        let columns = (0..profile.columns.len()).filter(|&k| k != target.column);
        Self {
            notation: NOTATIONS[notation],
            missing_values: markers.iter().map(|&marker| MARKERS[marker]).collect(),
            columns: columns.map(|k| context.guess(k)).collect(),
        }
    }

    /// Returns a warning for each column that gives the label away.
    pub(super) fn warnings(&self, profile: &Profile) -> Vec<String> {
        let leaks = self.columns.iter().filter(|guess| guess.is_leak);
        let warning = |guess: &Guess| {
            let reason = guess.left_out.as_deref().unwrap_or_default();
            format!("{} is left out: {reason}", quoted(&profile.columns[guess.column].name))
        };
        leaks.map(warning).collect()
    }

    /// Explains why no column is left to learn from.
    pub(super) fn nothing(&self, profile: &Profile) -> String {
        const SHOWN: usize = 8;
        let reason = |guess: &Guess| {
            let reason = guess.left_out.as_deref().unwrap_or_default();
            format!("\n  {}: {reason}", quoted(&profile.columns[guess.column].name))
        };
        let mut text = String::from("no column besides the label is left to learn from");
        text.extend(self.columns.iter().take(SHOWN).map(reason));
        if self.columns.len() > SHOWN {
            text += &format!("\n  and {} more", self.columns.len() - SHOWN);
        }
        text
    }

    /// Returns the number of columns of each kind, in words.
    pub(super) fn summary(&self) -> String {
        let mut counts = [0; 5];
        for guess in &self.columns {
            let place = match (&guess.left_out, &guess.kind) {
                (Some(_), _) | (None, Kind::Nameless) => 4,
                (None, Kind::Number { .. }) => 0,
                (None, Kind::Category { .. }) => 1,
                (None, Kind::List { .. }) => 2,
                (None, Kind::Date(..)) => 3,
            };
            counts[place] += 1;
        }
        let names = ["number", "category", "list", "date", "column left out"];
        let plurals = ["numbers", "categories", "lists", "dates", "columns left out"];
        let parts = counts.iter().zip(names.iter().zip(plurals)).filter(|(count, _)| **count > 0);
        parts
            .map(|(&count, (one, many))| format!("{count} {}", if count == 1 { one } else { many }))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Returns the number of the notation in which most columns have numbers alone. `label` is the
/// number of the label's column.
fn notation(profile: &Profile, label: usize) -> usize {
    // The condition of the label was made in the plain notation.
    let is_text = profile.columns[label].numbers[0] < profile.columns[label].filled();
    let is_whole = |row: &Vec<String>| !row[label].contains(['.', ',']);
    let is_free = is_text || profile.sample.iter().all(is_whole);
    let columns = |k: &usize| {
        profile.columns.iter().filter(|column| is_numeric(column, *k, &ALL_MARKERS)).count()
    };
    let possible = if is_free { 0..NOTATIONS.len() } else { 0..1 };
    // If several notations fit equally well, the first one is the most frequent in general.
    possible.rev().max_by_key(columns).unwrap_or(0)
}

const ALL_MARKERS: [usize; MARKERS.len()] = {
    let mut all = [0; MARKERS.len()];
    let mut k = 0;
    while k < all.len() {
        all[k] = k;
        k += 1;
    }
    all
};

/// Returns whether all fields of a column are numbers in a notation, apart from missing ones.
fn is_numeric(column: &ColumnProfile, notation: usize, markers: &[usize]) -> bool {
    let numbers = column.numbers[notation];
    numbers > 0 && numbers + marked(column, markers) == column.filled()
}

/// Returns the number of fields with one of these markers.
fn marked(column: &ColumnProfile, markers: &[usize]) -> u64 {
    markers.iter().map(|&marker| column.markers[marker]).sum()
}

/// Returns the markers of missing values: those in columns of numbers, and unambiguous ones.
fn markers(profile: &Profile, label: &ColumnProfile, notation: usize) -> Vec<usize> {
    let is_needed = |marker: usize| {
        let has = |column: &&ColumnProfile| column.markers[marker] > 0;
        let is_clear = UNAMBIGUOUS.contains(&MARKERS[marker]);
        let in_numbers =
            |column: &ColumnProfile| is_clear || is_numeric(column, notation, &ALL_MARKERS);
        // A missing label is an error.
        label.markers[marker] == 0 && profile.columns.iter().filter(has).any(in_numbers)
    };
    (0..MARKERS.len()).filter(|&marker| is_needed(marker)).collect()
}

struct Context<'a> {
    profile: &'a Profile,
    notation: usize,
    markers: &'a [usize],
    /// The labels of the sample.
    labels: &'a [f32],
    /// The names that several columns have.
    repeated: HashSet<&'a str>,
}

impl Context<'_> {
    fn guess(&self, k: usize) -> Guess {
        let (kind, left_out) = self.kind(k);
        let leak = if left_out.is_none() { self.leak(k, &kind) } else { None };
        let (is_leak, left_out) = (leak.is_some(), left_out.or(leak));
        Guess { column: k, left_out, is_leak, note: self.note(k, &kind), kind }
    }

    /// Returns the kind of a column, and the reason for leaving it out.
    fn kind(&self, k: usize) -> (Kind, Option<String>) {
        let column = &self.profile.columns[k];
        let out = |kind, reason: &str| (kind, Some(reason.to_owned()));
        if column.name.is_empty() {
            return out(Kind::Nameless, "it has no name");
        }
        if self.repeated.contains(column.name.as_str()) {
            return out(Kind::Nameless, "its name stands twice in the header");
        }
        let category = Kind::Category { min_count: self.min_count(column) };
        if column.not_utf8 > 0 {
            return out(category, "it is not UTF-8 everywhere: convert the file");
        }
        let filled = column.filled() - marked(column, self.markers);
        if filled == 0 {
            return out(category, "it is always missing");
        }
        let values: Vec<&str> = self.values(k).flatten().collect();
        let kept = self.markers.iter().filter(|&&marker| column.markers[marker] > 0).count();
        let distinct = column.distinct().0.saturating_sub(kept);
        if distinct == 1 && filled == column.rows {
            return out(category, "it is the same in every row");
        }
        let is_unique = filled >= 10 && column.distinct_share() == 1.0;
        if is_numeric(column, self.notation, self.markers) {
            let is_integer = column.integers == filled;
            if is_integer && is_unique && (is_id(&column.name) || self.is_consecutive(k)) {
                return out(category, "an id: it differs in every row");
            }
            if distinct <= 2 || is_integer && (column.zero_led > 0 || is_id(&column.name)) {
                let reason = is_unique.then(|| "an id: it differs in every row".to_owned());
                return (category, reason);
            }
            return (self.number(k), None);
        }
        if let Some(order) = column.date_order(marked(column, self.markers)) {
            let parts = parts(order, &values);
            let reason = parts.is_empty().then(|| "it is the same date in every row".to_owned());
            return (Kind::Date(order, parts), reason);
        }
        if let Some(separator) = separator(&values) {
            let min_count = if self.profile.rows < 1_000 { 1 } else { 5 };
            return (Kind::List { separator, min_count }, None);
        }
        if filled >= 10 && column.distinct_share() > 0.9 {
            return out(category, "a text that differs in nearly every row");
        }
        (category, None)
    }

    /// Returns the texts of a column in the sample; `None` where they are missing.
    fn values(&self, k: usize) -> impl Iterator<Item = Option<&str>> {
        let is_missing = move |text: &str| {
            text.is_empty() || self.markers.iter().any(|&marker| MARKERS[marker] == text)
        };
        self.profile.sample.iter().map(move |row| {
            let text = row[k].trim_matches([' ', '\t']);
            (!is_missing(text)).then_some(text)
        })
    }

    fn numbers(&self, k: usize) -> Vec<Option<f64>> {
        let notation = NOTATIONS[self.notation];
        let number = |text: &str| notation.plain(text)?.trim().parse().ok();
        self.values(k).map(|text| text.and_then(number)).collect()
    }

    /// Returns whether the numbers of a column count the rows.
    fn is_consecutive(&self, k: usize) -> bool {
        let numbers = self.numbers(k);
        let numbers = || numbers.iter().copied().flatten();
        let range = numbers().fold(f64::MIN, f64::max) - numbers().fold(f64::MAX, f64::min);
        range < self.profile.rows as f64
    }

    fn number(&self, k: usize) -> Kind {
        let numbers: Vec<f64> = self.numbers(k).into_iter().flatten().collect();
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let moment = |power| numbers.iter().map(|x| (x - mean).powi(power)).sum::<f64>() / count;
        let skewness = moment(3) / moment(2).powf(1.5);
        // The default compresses large numbers, which suits long tails.
        let transform = (skewness.abs() < 2.0).then_some("zscore");
        let pieces = match self.profile.rows {
            0..200 => 0,
            200..2_000 => 16,
            _ => 64,
        };
        Kind::Number { transform, pieces }
    }

    /// Returns the number of rows in which a value must occur to have a row of its own.
    fn min_count(&self, column: &ColumnProfile) -> u32 {
        let usual = match self.profile.rows {
            0..200 => 1,
            200..1_000 => 2,
            1_000..10_000 => 5,
            _ => 10,
        };
        // Some of the rows are held back from training.
        let is_frequent = |count: u32| column.frequent(count + count / 2) > 0;
        [usual, usual / 2].into_iter().find(|&count| count > 0 && is_frequent(count)).unwrap_or(1)
    }

    fn leak(&self, k: usize, kind: &Kind) -> Option<String> {
        let numbers = match kind {
            Kind::Number { .. } => Some(self.numbers(k)),
            Kind::Nameless | Kind::Date(..) => return None,
            _ => None,
        };
        let texts: Vec<&str> = self.values(k).map(Option::unwrap_or_default).collect();
        let auc = leak::auc(&texts, numbers.as_deref(), self.labels)?;
        (auc > SUSPICIOUS).then(|| {
            format!("alone it tells the label (AUC {auc:.4}): is it known before the answer is?")
        })
    }

    /// Describes what a column holds.
    fn note(&self, k: usize, kind: &Kind) -> String {
        let column = &self.profile.columns[k];
        let missing = column.empty + marked(column, self.markers);
        let share = match missing {
            0 => String::new(),
            _ => format!(", {} missing", percent(missing as f64 / column.rows as f64)),
        };
        let (distinct, more) = column.distinct();
        let distinct = format!("{}{distinct} distinct", if more { "more than " } else { "" });
        let hint = match kind {
            Kind::Category { .. } if more => "; hash = 100000 in place of min_count saves memory",
            _ => "",
        };
        if let Kind::Number { .. } = kind {
            let numbers = || self.numbers(k).into_iter().flatten();
            let (low, high) =
                (numbers().fold(f64::MAX, f64::min), numbers().fold(f64::MIN, f64::max));
            let is_whole = self.profile.sample.len() as u64 == self.profile.rows;
            let about = if is_whole { "" } else { "about " };
            return format!("{about}{low} to {high}, {distinct}{share}");
        }
        let examples: Vec<String> =
            column.examples.iter().map(|text| quoted(&short(text))).collect();
        let examples = examples.join(", ");
        let colon = if examples.is_empty() { "" } else { ": " };
        format!("{distinct}{share}{colon}{examples}{hint}")
    }
}

/// Returns the beginning of a text, for a comment.
fn short(text: &str) -> String {
    const SHOWN: usize = 24;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text[..end].trim_end_matches('…')),
        None => text.to_owned(),
    }
}

/// Returns whether a name is that of ids or codes, whose size means nothing.
fn is_id(name: &str) -> bool {
    let lower = name.to_lowercase();
    let words = ["id", "uuid", "guid", "key", "index", "idx", "zip", "zipcode", "postcode", "sku"];
    let last = lower.rsplit(['_', '-', ' ', '.']).next().unwrap_or_default();
    let is_camel = name.ends_with("Id") || name.ends_with("ID") && name.len() > 2;
    is_camel || words.contains(&last) || last == "code" || lower.starts_with("unnamed:")
}

/// Returns the text between the values of a column of lists; `None` if the column has single
/// values. Lists repeat the same values in other combinations.
fn separator(values: &[&str]) -> Option<&'static str> {
    let distinct = values.iter().collect::<HashSet<_>>().len();
    // The least share of values with the separator, and the largest share of distinct parts.
    for (separator, least, most) in [("|", 0.05, 0.8), (";", 0.05, 0.5), (",", 0.05, 0.5)] {
        let with = values.iter().filter(|value| value.contains(separator)).count();
        let parts: Vec<&str> =
            values.iter().flat_map(|value| value.split(separator)).map(str::trim).collect();
        let distinct_parts = parts.iter().collect::<HashSet<_>>().len();
        if with as f64 >= least * values.len() as f64
            && with > 0
            && distinct_parts as f64 <= most * parts.len() as f64
            && distinct_parts <= distinct.max(2)
        {
            return Some(separator);
        }
    }
    let words: Vec<&str> = values.iter().flat_map(|value| value.split(' ')).collect();
    let distinct_words = words.iter().collect::<HashSet<_>>().len();
    let is_text = words.len() >= 3 * values.len()
        && distinct as f64 > 0.2 * values.len() as f64
        && distinct_words as f64 <= 0.6 * words.len() as f64;
    (is_text && values.len() >= 10).then_some(" ")
}

/// Returns the parts of dates that differ between the values, with their names in configurations:
/// first the time that has passed, which is a number.
fn parts(order: DateOrder, values: &[&str]) -> Vec<(DatePart, &'static str)> {
    let dates: Vec<Date<'_>> =
        values.iter().filter_map(|value| Date::parse(value, order)).collect();
    let passed = match dates.iter().any(|date| date.has_time) {
        true => (DatePart::Seconds, "seconds"),
        false => (DatePart::Days, "days"),
    };
    let cycles =
        [(DatePart::Month, "month"), (DatePart::Weekday, "weekday"), (DatePart::Hour, "hour")];
    let differs = |(part, _): &(DatePart, &str)| {
        dates.iter().map(|date| date.part(*part)).collect::<HashSet<_>>().len() > 1
    };
    [passed].into_iter().chain(cycles).filter(differs).collect()
}
