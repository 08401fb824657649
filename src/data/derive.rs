//! Columns that are made from other columns.

use regex::{Regex, RegexBuilder};

use super::config;
use super::date::{Date, DateOrder, DatePart};
use super::error::{DataError, Place, Result};
use super::number::{self, Notation};

/// The largest size of a compiled expression, so that a stored encoder cannot exhaust the memory.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Compiles a regular expression; the error says why it is none.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_PATTERN_BYTES)
        .build()
        .map_err(|error| error.to_string())
}

/// A derived column, ready for use.
#[derive(Clone, Debug)]
pub(crate) struct Derived {
    pattern: Regex,
    date: Option<(DatePart, DateOrder)>,
    bucket: Option<f64>,
    from: String,
    notation: Notation,
}

impl Derived {
    /// `notation` is that of the numbers in the data files.
    pub(crate) fn new(config: &config::Derive, notation: Notation) -> Result<Self> {
        let fault = |reason| DataError::config("derive.pattern", reason);
        Ok(Self {
            pattern: compile(&config.pattern).map_err(fault)?,
            date: config.date.map(|part| (part, config.date_order.unwrap_or_default())),
            bucket: config.bucket,
            from: config.from.join(" "),
            notation,
        })
    }

    /// Writes the value for `text` into `value`: empty if the pattern does not match.
    pub(crate) fn derive(&self, text: &str, place: Place<'_>, value: &mut String) -> Result<()> {
        value.clear();
        let Some(groups) = self.pattern.captures(text) else { return Ok(()) };
        let Some(group) = groups.get(1).or_else(|| groups.get(0).filter(|_| groups.len() == 1))
        else {
            return Ok(());
        };
        if group.is_empty() {
            return Ok(());
        }
        if let Some((part, order)) = self.date {
            const REASON: &str = "in which there is no date such as 2024-01-31 or \
                 2024-01-31T12:00:00Z: correct it, or set pattern or date_order";
            let date = Date::parse(group.as_str(), order)
                .ok_or_else(|| place.number(&self.from, text, REASON))?;
            *value = date.part(part);
            if let Some(bucket) = self.bucket {
                *value = number::bucket(value, bucket).unwrap_or_default();
            }
            self.notation.write(value);
            return Ok(());
        }
        let Some(bucket) = self.bucket else {
            value.push_str(group.as_str());
            return Ok(());
        };
        const REASON: &str =
            "in which the pattern finds no number: correct the pattern, or remove bucket";
        let plain = self.notation.plain(group.as_str());
        *value = plain
            .and_then(|number| number::bucket(&number, bucket))
            .ok_or_else(|| place.number(&self.from, text, REASON))?;
        self.notation.write(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(pattern: &str, bucket: Option<f64>, text: &str) -> Result<String> {
        let config = config::Derive {
            name: "d".into(),
            from: vec!["title".into()],
            pattern: pattern.into(),
            date: None,
            date_order: None,
            bucket,
        };
        let mut value = String::from("old");
        Derived::new(&config, Notation::PLAIN)?.derive(
            text,
            Place { file: "f", line: 3 },
            &mut value,
        )?;
        Ok(value)
    }

    #[test]
    fn decades() {
        let year = r"\((\d{4})\)\s*$";
        assert_eq!(derived(year, Some(10.0), "Heat (1995)").unwrap(), "1990");
        assert_eq!(derived(year, None, "Heat (1995) ").unwrap(), "1995");
        assert_eq!(derived(year, Some(10.0), "Heat").unwrap(), "");
        assert_eq!(derived(r"-?\d+", Some(0.5), "-0").unwrap(), "0");
        assert_eq!(derived(r"-?[\d.]+", Some(0.5), "x -1.2").unwrap(), "-1.5");
        let error = derived("(.*)", Some(10.0), "Heat").unwrap_err().to_string();
        assert!(error.starts_with("f:3: column \"title\" holds \"Heat\", in which"), "{error}");
        assert!(
            derived("(a)|b", None, "b").unwrap().is_empty(),
            "a group that takes no part is empty"
        );
        assert!(
            derived("(", None, "").is_err()
                && derived(&"(a{999}){999}".repeat(9), None, "").is_err()
        );
    }
}
