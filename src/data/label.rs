//! What is predicted: a column that holds 0 or 1, or a condition on one.

use super::error::{DataError, Place, Result, shortened};
use super::number;

/// A label, as `data.label` says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Label {
    pub(crate) column: String,
    condition: Option<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    comparison: Comparison,
    text: String,
    number: Option<f64>,
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

/// In the order in which they are looked for at a place: the longer ones first.
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
    /// Reads `column` or `column comparison value`; quotes around the value do not matter.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let fault = |reason: &str| DataError::config("label", format!("{text:?}: {reason}"));
        let first = text.char_indices().find_map(|(at, _)| {
            let (sign, comparison) = COMPARISONS.into_iter().find(|(sign, _)| text[at..].starts_with(sign))?;
            Some((&text[..at], comparison, &text[at + sign.len()..]))
        });
        let (column, condition) = match first {
            None => (text, None),
            Some((column, comparison, value)) => {
                let value = unquoted(value.trim());
                let number = number::parse(value);
                if number.is_none() && !matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
                    return Err(fault("only = and != compare with a text; the other comparisons need a number"));
                }
                (column, Some(Condition { comparison, text: value.to_owned(), number }))
            }
        };
        let column = column.trim().to_owned();
        if column.is_empty() {
            return Err(fault("the column is missing: write label = \"clicked\" or label = \"rating >= 4\""));
        }
        Ok(Self { column, condition })
    }

    /// The label of a row whose column holds `value`, which is not empty: 0 or 1.
    pub(crate) fn of(&self, value: &str, place: Place<'_>) -> Result<f32> {
        let Some(Condition { comparison, text, number }) = &self.condition else {
            return match number::parse(value) {
                Some(x) if x == 0.0 || x == 1.0 => Ok(x as f32 + 0.0),
                _ => {
                    let (file, column) = (place.file.to_owned(), self.column.clone());
                    Err(DataError::Label { file, line: place.line, column, value: shortened(value) })
                }
            };
        };
        let holds = match (comparison, number::parse(value), number) {
            (Comparison::Equal, Some(x), Some(y)) => x == *y,
            (Comparison::NotEqual, Some(x), Some(y)) => x != *y,
            (Comparison::Equal, ..) => value == text,
            (Comparison::NotEqual, ..) => value != text,
            (Comparison::AtLeast, Some(x), Some(y)) => x >= *y,
            (Comparison::AtMost, Some(x), Some(y)) => x <= *y,
            (Comparison::Above, Some(x), Some(y)) => x > *y,
            (Comparison::Below, Some(x), Some(y)) => x < *y,
            _ => return Err(place.number(&self.column, value, "no number that the label's condition could compare")),
        };
        Ok(f32::from(u8::from(holds)))
    }
}

fn unquoted(text: &str) -> &str {
    ['"', '\''].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(text)
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
            ("y = 1", "one", 0.0),
            ("a column = x=y", "x=y", 1.0),
        ] {
            assert_eq!(label(rule, value).unwrap(), expected, "{rule} {value}");
        }
        assert_eq!(label("y", "-0").unwrap().to_bits(), 0);
    }

    #[test]
    fn faults() {
        let message = |rule, value| label(rule, value).unwrap_err().to_string();
        assert_eq!(
            message("y", "yes"),
            "f.csv:7: the label \"y\" is \"yes\", not 0 or 1: write a condition, such as label = \"y = yes\" or label = \"y >= 4\""
        );
        assert!(message("y >= 4", "good").starts_with("f.csv:7: column \"y\" holds \"good\", no number"));
        assert!(message("y >= four", "4").contains("data.label: \"y >= four\": only = and != compare with a text"));
        assert!(
            message(" >= 4", "4").contains("the column is missing")
                && message("", "4").contains("the column is missing")
        );
        assert!(message("y", "NaN").contains("not 0 or 1") && message("y", "2").contains("not 0 or 1"));
    }
}
