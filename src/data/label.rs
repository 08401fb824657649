//! The label that a model predicts: a column that holds 0 or 1, or a condition on a column.

use std::cmp::Ordering;

use super::bytes::trimmed;
use super::error::{DataError, Place, Result};
use super::number::{self, Notation};

/// A parsed `data.label`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Label {
    pub(crate) column: String,
    /// Set if blanks and tabs around texts are ignored, on both sides of a condition.
    trim: bool,
    /// The notation of numbers in the column. Numbers in the condition have a decimal point.
    notation: Notation,
    condition: Option<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    comparison: Comparison,
    text: String,
    is_number: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    AtMost,
    Above,
    Below,
    Equal,
    NotEqual,
}

/// The comparison signs, in the order of their search at a position: the longer ones first.
const COMPARISONS: [(&str, Comparison); 7] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    ("!=", Comparison::NotEqual),
    ("==", Comparison::Equal),
    (">", Comparison::Above),
    ("<", Comparison::Below),
    ("=", Comparison::Equal),
];

impl Label {
    /// Parses `column` or `column comparison value`; quotes around the value are ignored.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let fault = |reason: &str| DataError::config("label", format!("{text:?}: {reason}"));
        let first = text.char_indices().find_map(|(at, _)| {
            let (sign, comparison) =
                COMPARISONS.into_iter().find(|(sign, _)| text[at..].starts_with(sign))?;
            Some((&text[..at], comparison, &text[at + sign.len()..]))
        });
        let (column, condition) = match first {
            None => (text, None),
            Some((column, comparison, value)) => {
                let value = unquoted(value.trim());
                let is_number = number::parse(value).is_some();
                if !is_number && !matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
                    return Err(fault(
                        "only = and != compare with a text; the other comparisons need a number",
                    ));
                }
                (column, Some(Condition { comparison, text: value.to_owned(), is_number }))
            }
        };
        let column = column.trim().to_owned();
        if column.is_empty() {
            return Err(fault(
                "the column is missing: write label = \"clicked\" or label = \"rating >= 4\"",
            ));
        }
        Ok(Self { column, trim: false, notation: Notation::PLAIN, condition })
    }

    /// Returns this label with `trim` set.
    pub(crate) fn trimmed(self) -> Self {
        Self { trim: true, ..self }
    }

    /// Returns this label for a column whose numbers are written in `notation`.
    pub(crate) fn reading(self, notation: Notation) -> Self {
        Self { notation, ..self }
    }

    /// Returns the label of a row whose column holds `value`: 0 or 1.
    pub(crate) fn of(&self, value: &str, place: Place<'_>) -> Result<f32> {
        if value.trim_ascii().is_empty() {
            return Err(place
                .missing(&self.column, "every row needs a label: fill it in, or remove the row"));
        }
        let plain = self.notation.plain(value);
        let number = plain.as_deref().unwrap_or("no number");
        let Some(Condition { comparison, text, is_number }) = &self.condition else {
            return match number::parse(number) {
                Some(x) if x == 0.0 || x == 1.0 => Ok(x as f32 + 0.0),
                _ => Err(DataError::label(place, &self.column, value)),
            };
        };
        let order = match number::compare(number, text) {
            _ if !is_number => None,
            None => return Err(place.number(&self.column, value, NO_NUMBER)),
            order => order,
        };
        let (value, text) =
            if self.trim { (trimmed(value), trimmed(text)) } else { (value, text.as_str()) };
        let holds = match comparison {
            Comparison::Equal => order.map_or(value == text, Ordering::is_eq),
            Comparison::NotEqual => order.map_or(value != text, Ordering::is_ne),
            Comparison::AtLeast => order.is_some_and(Ordering::is_ge),
            Comparison::AtMost => order.is_some_and(Ordering::is_le),
            Comparison::Above => order.is_some_and(Ordering::is_gt),
            Comparison::Below => order.is_some_and(Ordering::is_lt),
        };
        Ok(f32::from(u8::from(holds)))
    }
}

/// The reason for refusing a text that is no number in a numeric condition: a missing value must
/// not count as either class.
const NO_NUMBER: &str =
    "but the condition of data.label compares numbers: correct it, or remove the row";

fn unquoted(text: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(rule: &str, value: &str) -> Result<f32> {
        Label::parse(rule)?.of(value, Place { file: "f.csv", line: 7 })
    }

    #[test]
    fn conditions() {
        for (rule, value, expected) in [
            ("y", "1", 1.0),
            ("y", "0.0", 0.0),
            ("rating >= 4", "4.0", 1.0),
            ("rating>=4", "3.5", 0.0),
            ("rating > 4", "4", 0.0),
            ("rating < -1.5", "-2", 1.0),
            ("rating <= 4", "4", 1.0),
            ("y = yes", "yes", 1.0),
            ("y = \"yes\"", "no", 0.0),
            ("y == 'yes'", "yes", 1.0),
            ("y != no", "no", 0.0),
            ("y = 1", "1.0", 1.0),
            ("y != 1", "1.0", 0.0),
            ("y = 1", "01", 1.0),
            ("y = abc", "NA", 0.0),
            ("a column = x=y", "x=y", 1.0),
        ] {
            assert_eq!(label(rule, value).unwrap(), expected, "{rule} {value}");
        }
        assert_eq!(label("y", "-0").unwrap().to_bits(), 0);
    }

    #[test]
    fn blanks_around_texts_count_on_neither_side_or_on_both() {
        let holds = |trim, rule: &str, value: &str| {
            let label = Label::parse(rule).unwrap();
            let label = if trim { label.trimmed() } else { label };
            label.of(value, Place { file: "f.csv", line: 7 }).unwrap() == 1.0
        };
        for (rule, value) in
            [("y = ' >50K'", ">50K"), ("y = >50K", " >50K\t"), ("y = ' >50K'", " >50K ")]
        {
            assert!(holds(true, rule, value) && !holds(false, rule, value), "{rule} {value:?}");
        }
        assert!(holds(false, "y = ' >50K'", " >50K") && !holds(true, "y != ' >50K'", ">50K"));
    }

    #[test]
    fn integers_beyond_two_to_the_53_are_compared_exactly() {
        let (less, equal, more) = ("9007199254740992", "9007199254740993", "9007199254740994");
        for (comparison, expected) in [
            ("=", [0.0, 1.0, 0.0]),
            ("!=", [1.0, 0.0, 1.0]),
            (">=", [0.0, 1.0, 1.0]),
            ("<=", [1.0, 1.0, 0.0]),
            (">", [0.0, 0.0, 1.0]),
            ("<", [1.0, 0.0, 0.0]),
        ] {
            let rule = format!("user {comparison} {equal}");
            assert_eq!(
                [less, equal, more].map(|value| label(&rule, value).unwrap()),
                expected,
                "{rule}"
            );
        }
        assert_eq!(label("t = 1700000000123456789", "1700000000123456788").unwrap(), 0.0);
        assert_eq!(label("u = 18446744073709551615", "18446744073709551615.0").unwrap(), 1.0);
    }

    #[test]
    fn what_is_no_number_is_of_neither_class() {
        for (rule, value) in ["y = 1", "y != 1", "y >= 1", "y = '1'"].into_iter().flat_map(|rule| {
            ["nan", "NaN", "None", "NULL", "NA", "?", "-", "one", "inf", "1e39"]
                .map(|value| (rule, value))
        }) {
            let message = label(rule, value).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!(
                    "f.csv:7: column \"y\" holds {value:?}, but the condition"
                )),
                "{message}"
            );
        }
        for blank in ["", " "] {
            let message = label("y != 1", blank).unwrap_err().to_string();
            assert!(
                message.starts_with("f.csv:7: column \"y\" is empty: every row needs a label"),
                "{message}"
            );
        }
    }

    #[test]
    fn faults() {
        let message = |rule, value| label(rule, value).unwrap_err().to_string();
        let message_of_text = message("y", "yes");
        assert!(
            message_of_text.starts_with("f.csv:7: the label \"y\" is \"yes\", not 0 or 1: "),
            "{message_of_text}"
        );
        assert!(
            message("y >= four", "4")
                .contains("data.label: \"y >= four\": only = and != compare with a text")
        );
        assert!(
            message(" >= 4", "4").contains("the column is missing")
                && message("", "4").contains("the column is missing")
        );
        assert!(
            message("y", "NaN").contains("not 0 or 1") && message("y", "2").contains("not 0 or 1")
        );
    }
}
