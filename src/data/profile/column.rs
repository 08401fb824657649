//! The description of one column.

use std::collections::HashMap;

use super::super::date::{Date, DateOrder};
use super::super::hash::hash64;
use super::super::number::{self, Notation};

/// The texts that often mark a missing value.
pub(crate) const MARKERS: [&str; 16] = [
    "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "null", "None", "none", "\\N",
    "?", "-", ".",
];

const fn notation(decimal: char, thousands: Option<char>) -> Notation {
    Notation { decimal, thousands }
}

/// The notations of numbers that are tried, the most frequent one first.
pub(crate) const NOTATIONS: [Notation; 6] = [
    Notation::PLAIN,
    notation(',', None),
    notation(',', Some('.')),
    notation('.', Some(',')),
    notation(',', Some(' ')),
    notation('.', Some('\'')),
];

/// Returns in which of [`NOTATIONS`] a text is a number.
fn notations(text: &str) -> [bool; NOTATIONS.len()] {
    let is_number = |notation: Notation| {
        notation.plain(text).is_some_and(|text| number::parse(&text).is_some())
    };
    // Most texts are no numbers in any notation.
    let may_stand = |byte: u8| byte.is_ascii_digit() || b"+-.,eE '".contains(&byte);
    if !text.bytes().all(may_stand) {
        return NOTATIONS.map(|_| false);
    }
    if number::parse(text).is_none() {
        return NOTATIONS.map(is_number);
    }
    // The common case: a number without a comma, a blank or an apostrophe.
    let has_point = text.contains('.');
    NOTATIONS.map(|notation| match notation {
        Notation { decimal: '.', .. } => true,
        Notation { thousands: Some('.'), .. } if has_point => is_number(notation),
        _ => !has_point,
    })
}

/// The orders of dates that are tried.
const DATE_ORDERS: [DateOrder; 3] =
    [DateOrder::YearMonthDay, DateOrder::DayMonthYear, DateOrder::MonthDayYear];

/// The largest number of distinct texts of a column that are kept as texts, and their largest size.
const MAX_TEXTS: usize = 2_000;
const MAX_TEXT_BYTES: usize = 256;

/// The description of a column.
pub(crate) struct ColumnProfile {
    pub(crate) name: String,
    pub(crate) rows: u64,
    pub(crate) empty: u64,
    /// The file and the line of the first row in which the column is empty.
    pub(crate) first_empty: Option<(String, u64)>,
    /// The number of fields that are not UTF-8, and the file and the line of the first.
    pub(crate) not_utf8: u64,
    pub(crate) first_not_utf8: Option<(String, u64)>,
    /// The number of fields with each of [`MARKERS`].
    pub(crate) markers: [u64; MARKERS.len()],
    /// The number of fields that are numbers in each of [`NOTATIONS`].
    pub(crate) numbers: [u64; NOTATIONS.len()],
    /// The number of fields of digits alone, and of those among them that begin with a zero.
    pub(crate) integers: u64,
    pub(crate) zero_led: u64,
    /// The number of fields that are dates in each of [`DATE_ORDERS`].
    pub(crate) dates: [u64; DATE_ORDERS.len()],
    /// The number of rows of each distinct text, by its hash, up to a limit.
    counts: HashMap<u64, u32>,
    limit: usize,
    /// The number of rows that were counted when the limit was reached.
    counted: Option<u64>,
    /// The distinct texts, with the numbers of all and of training rows; `None` if there are more
    /// than are kept.
    pub(crate) texts: Option<HashMap<String, [u64; 2]>>,
    /// The first texts, which are examples.
    pub(crate) examples: Vec<String>,
}

impl ColumnProfile {
    pub(super) fn new(name: String, limit: usize) -> Self {
        Self {
            name,
            rows: 0,
            empty: 0,
            first_empty: None,
            not_utf8: 0,
            first_not_utf8: None,
            markers: [0; MARKERS.len()],
            numbers: [0; NOTATIONS.len()],
            integers: 0,
            zero_led: 0,
            dates: [0; DATE_ORDERS.len()],
            counts: HashMap::new(),
            limit,
            counted: None,
            texts: Some(HashMap::new()),
            examples: Vec::new(),
        }
    }

    /// Adds a field. `place` returns its file and line.
    pub(super) fn add(
        &mut self,
        field: &[u8],
        is_training: bool,
        place: impl Fn() -> (String, u64),
    ) {
        self.rows += 1;
        let Ok(text) = std::str::from_utf8(field) else {
            self.not_utf8 += 1;
            self.first_not_utf8.get_or_insert_with(place);
            return;
        };
        let text = text.trim_matches([' ', '\t']);
        if text.is_empty() {
            self.empty += 1;
            self.first_empty.get_or_insert_with(place);
            return;
        }
        self.add_text(text, is_training);
        self.count(text);
    }

    fn add_text(&mut self, text: &str, is_training: bool) {
        const EXAMPLES: usize = 3;
        if self.examples.len() < EXAMPLES && !self.examples.iter().any(|known| known == text) {
            self.examples.push(super::super::shown::shortened(text));
        }
        if let Some(texts) = &mut self.texts {
            let counts = match texts.get_mut(text) {
                Some(counts) => counts,
                None => texts.entry(text.to_owned()).or_default(),
            };
            counts[0] += 1;
            counts[1] += u64::from(is_training);
            if texts.len() > self.limit.min(MAX_TEXTS) || text.len() > MAX_TEXT_BYTES {
                self.texts = None;
            }
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) && number::parse(text).is_some() {
            self.integers += 1;
            self.zero_led += u64::from(text.len() > 1 && text.starts_with('0'));
            self.numbers.iter_mut().for_each(|count| *count += 1);
            return;
        }
        let mut is_number = false;
        for (count, is_one) in self.numbers.iter_mut().zip(notations(text)) {
            *count += u64::from(is_one);
            is_number |= is_one;
        }
        if is_number {
            return;
        }
        if let Some(marker) = MARKERS.iter().position(|marker| *marker == text) {
            self.markers[marker] += 1;
        }
        for (count, order) in self.dates.iter_mut().zip(DATE_ORDERS) {
            *count += u64::from(Date::parse(text, order).is_some());
        }
    }

    fn count(&mut self, text: &str) {
        if self.counted.is_some() {
            return;
        }
        *self.counts.entry(hash64(text.as_bytes())).or_default() += 1;
        if self.counts.len() >= self.limit {
            self.counted = Some(self.filled());
        }
    }

    /// Returns the number of fields that are not empty.
    pub(crate) fn filled(&self) -> u64 {
        self.rows - self.empty - self.not_utf8
    }

    /// Returns the number of distinct texts, and whether there are more than that.
    pub(crate) fn distinct(&self) -> (usize, bool) {
        (self.counts.len(), self.counted.is_some())
    }

    /// Returns the share of distinct texts in the rows that were counted, from 0 to 1.
    pub(crate) fn distinct_share(&self) -> f64 {
        self.counts.len() as f64 / self.counted.unwrap_or(self.filled()).max(1) as f64
    }

    /// Returns the order in which all fields that are not missing are dates; `None` if there is
    /// none. If several are possible, a slash means that the month comes first. `missing` is the
    /// number of fields with markers of missing values.
    pub(crate) fn date_order(&self, missing: u64) -> Option<DateOrder> {
        let filled = self.filled() - missing;
        let is_slashed = self.examples.iter().any(|text| text.contains('/'));
        let preferred = if is_slashed { DateOrder::MonthDayYear } else { DateOrder::DayMonthYear };
        let orders = DATE_ORDERS.into_iter().zip(self.dates);
        let possible = orders.filter(|&(_, count)| count == filled).map(|(order, _)| order);
        possible.min_by_key(|order| *order != preferred)
    }

    /// Returns the number of texts that occur at least so often.
    pub(crate) fn frequent(&self, least: u32) -> usize {
        self.counts.values().filter(|&&count| count >= least).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_to_notations_is_right() {
        for text in [
            "1",
            "-1",
            "+1",
            "1.5",
            "1.500",
            "1.234.567",
            "1,5",
            "1,234",
            "1,234.5",
            "1.234,5",
            "1 234",
            "1'234.5",
            "1e5",
            "1.5e3",
            "1,5e3",
            "-.5",
            "5.",
            "1e39",
            "nan",
            "inf",
            "x",
            "-",
            "12.345",
            "0.001",
            "1234.567",
        ] {
            let one_by_one = NOTATIONS.map(|notation| {
                notation.plain(text).is_some_and(|text| number::parse(&text).is_some())
            });
            assert_eq!(notations(text), one_by_one, "{text}");
        }
    }
}
