//! Categories: which row of an embedding table stands for a value.

use serde::{Deserialize, Serialize};

use super::config::{Categorical, Unknown};
use super::dictionary::{Counts, Dictionary, hash64, word_of};
use super::error::{DataError, Result};

/// Which row stands for a value. Row 0 stands for a missing one, and for all that are not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum CategoricalEncoding {
    /// Row `k + 1` for text number `k`.
    Dictionary(Dictionary),
    /// Row `1 + hash64(value) % rows`.
    Hash(u32),
}

impl CategoricalEncoding {
    /// The number of rows of the table.
    pub(crate) fn num_embeddings(&self) -> usize {
        1 + match self {
            Self::Dictionary(dictionary) => dictionary.len(),
            Self::Hash(rows) => *rows as usize,
        }
    }

    /// The row of a column with a single value, which stands in `field`; `None` if it must be asked for as text.
    #[inline]
    pub(crate) fn row_of_field(&self, field: &[u8]) -> Option<u32> {
        let word = word_of(field)?;
        Some(match self {
            _ if field.is_empty() => 0,
            Self::Dictionary(dictionary) => dictionary.get_word(word).map_or(0, |number| number + 1),
            Self::Hash(rows) => hashed(field, *rows),
        })
    }

    /// The row of a column with a single value.
    #[inline]
    pub(crate) fn row(&self, text: &str) -> u32 {
        if text.is_empty() { 0 } else { self.known_row(text).unwrap_or(0) }
    }

    /// Appends the rows of the values of a column with several.
    pub(crate) fn rows(&self, config: &Categorical, text: &str, rows: &mut Vec<u32>) {
        let keep = config.unknown == Some(Unknown::Row);
        rows.extend(values(config, text).filter_map(|value| self.known_row(value).or(keep.then_some(0))));
    }

    #[inline]
    fn known_row(&self, value: &str) -> Option<u32> {
        match self {
            Self::Dictionary(dictionary) => dictionary.get(value).map(|number| number + 1),
            Self::Hash(rows) => Some(hashed(value.as_bytes(), *rows)),
        }
    }

    /// Whether it is what [`CategoricalFit`] could have made for `config`.
    pub(crate) fn check(&self, config: &Categorical) -> Result<(), &'static str> {
        match (self, config.hash) {
            (Self::Hash(rows), Some(expected)) if *rows == expected => Ok(()),
            (Self::Dictionary(_), None) => Ok(()),
            _ => Err("the encoding is not the one of the settings"),
        }
    }
}

/// The row of a hashed value.
#[inline]
fn hashed(value: &[u8], rows: u32) -> u32 {
    // Loops of a known length need no counting.
    let hash = <&[u8; 8]>::try_from(value).map_or_else(|_| hash64(value), |value| hash64(value));
    1 + (hash % u64::from(rows.max(1))) as u32
}

/// The values of a column: several if there is a separator. A missing value is none.
fn values<'a>(config: &'a Categorical, text: &'a str) -> impl Iterator<Item = &'a str> {
    // Without a separator, a search for one that cannot be found keeps the text whole.
    let mut rest = Some(text);
    let separator = config.separator.as_deref();
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some((value, after)) = separator.and_then(|separator| text.split_once(separator)) else {
            return Some(text);
        };
        rest = Some(after);
        Some(value)
    })
    .filter(|value| !value.is_empty())
}

/// Learns about a categorical column from the training rows.
pub(crate) struct CategoricalFit {
    counts: Counts,
}

impl CategoricalFit {
    pub(crate) fn new() -> Self {
        Self { counts: Counts::default() }
    }

    #[inline]
    pub(crate) fn add(&mut self, config: &Categorical, text: &str) -> Result<()> {
        if config.hash.is_none() {
            for value in values(config, text) {
                self.counts.add(value).ok_or_else(|| DataError::TooManyValues { column: config.column.clone() })?;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self, config: &Categorical) -> CategoricalEncoding {
        match config.hash {
            Some(rows) => CategoricalEncoding::Hash(rows),
            None => CategoricalEncoding::Dictionary(self.counts.frequent(config.min_count.unwrap_or(1).into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> Categorical {
        toml::from_str(&format!("column = \"c\"\n{toml}")).unwrap()
    }

    #[test]
    fn bags_keep_duplicates_and_drop_what_is_empty() {
        let config = config("separator = \"||\"\nmin_count = 2");
        assert!(values(&config, "||a||||b||a").eq(["a", "b", "a"]));
        assert_eq!((values(&config, "").count(), values(&config, "||").count()), (0, 0));
        let mut fit = CategoricalFit::new();
        ["b||a||c", "a||b", "b"].iter().for_each(|text| fit.add(&config, text).unwrap());
        let encoding = fit.finish(&config);
        let rows = |unknown: Option<Unknown>| {
            let mut rows = vec![];
            encoding.rows(&Categorical { unknown, ..config.clone() }, "a||c||x||b||a", &mut rows);
            rows
        };
        assert_eq!(encoding.num_embeddings(), 3);
        assert_eq!(rows(None), [2, 1, 2]);
        assert_eq!(rows(Some(Unknown::Drop)), [2, 1, 2]);
        assert_eq!(rows(Some(Unknown::Row)), [2, 0, 0, 1, 2]);
    }

    #[test]
    fn hashed_values_need_no_dictionary() {
        let config = config("hash = 7");
        let mut fit = CategoricalFit::new();
        fit.add(&config, "a").unwrap();
        let encoding = fit.finish(&config);
        assert_eq!((encoding.num_embeddings(), encoding.row("")), (8, 0));
        for text in ["a", "b", "never seen"] {
            assert_eq!(u64::from(encoding.row(text)), 1 + hash64(text.as_bytes()) % 7);
        }
    }
}
