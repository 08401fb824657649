//! Counts the values in rows that the encoder does not know: values that training has not seen, and
//! keys that a side table lacks.

use serde::Serialize;

use super::config::DataConfig;
use super::error::{DataError, Result};
use super::hash::{EMPTY, text_of_word};
use super::shown::shortened;
use super::unknown_share::UnknownShare;

/// The shares of unknown values of the columns and side tables. Hashed columns are left out, since
/// every value has a row there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// The shares of the categorical columns, and of the dense ones that count their values.
    pub columns: Vec<UnknownShare>,
    /// The shares of the side tables.
    pub joins: Vec<UnknownShare>,
}

impl Coverage {
    /// Returns the shares that are worth a warning.
    pub fn notable(&self) -> impl Iterator<Item = &UnknownShare> {
        self.columns.iter().chain(&self.joins).filter(|share| share.is_notable())
    }

    /// Fails if a share is above the limit.
    pub(super) fn check(&self, limit: Option<f64>) -> Result<()> {
        let shares = self.columns.iter().chain(&self.joins);
        match limit.and_then(|limit| {
            Some((limit, shares.into_iter().find(|share| share.share() > limit)?))
        }) {
            Some((limit, share)) => Err(DataError::Unknown { share: share.clone(), limit }),
            None => Ok(()),
        }
    }
}

/// A count of values, and of the unknown ones among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    values: u64,
    unknown: u64,
    first: Option<String>,
}

impl Tally {
    /// Counts a value.
    #[inline]
    pub(super) fn add(&mut self, text: &str, is_known: bool) {
        self.values += 1;
        if !is_known {
            self.unknown += 1;
            self.first.get_or_insert_with(|| shortened(text));
        }
    }

    /// Counts the values of a column, given as words with the rows of its table. `long` is the
    /// first unknown text that has no word.
    pub(super) fn add_words(&mut self, words: &[u64], rows: &[u32], long: Option<String>) {
        let is_unknown = |(&word, &row): (&u64, &u32)| (row == 0) & (word != EMPTY);
        let unknown = words.iter().zip(rows).map(|pair| u64::from(is_unknown(pair))).sum::<u64>();
        self.values += words.iter().map(|&word| u64::from(word != EMPTY)).sum::<u64>();
        self.unknown += unknown;
        if unknown > 0 && self.first.is_none() {
            let first = words.iter().zip(rows).find(|&pair| is_unknown(pair));
            self.first = first.and_then(|(&word, _)| text_of_word(word).or(long));
        }
    }

    /// Returns whether no unknown value has been kept as an example yet.
    #[inline]
    pub(super) fn has_no_example(&self) -> bool {
        self.first.is_none()
    }

    fn share(self, column: &str, side_table: Option<String>, rare: f64) -> UnknownShare {
        let Self { values, unknown, first } = self;
        UnknownShare { column: column.to_owned(), side_table, values, unknown, first, rare }
    }
}

/// The counts of all columns and side tables of an encoder.
#[derive(Clone, Debug)]
pub(super) struct Tallies {
    pub(super) categorical: Vec<Tally>,
    pub(super) dense: Vec<Tally>,
    pub(super) joins: Vec<Tally>,
}

impl Tallies {
    pub(super) fn new(config: &DataConfig) -> Self {
        let tallies = |count| vec![Tally::default(); count];
        Self {
            categorical: tallies(config.categorical.len()),
            dense: tallies(config.dense.len()),
            joins: tallies(config.join.len()),
        }
    }

    /// Returns the shares of unknown values. `rare` gives the share of rare values of each
    /// categorical column in the training rows; missing entries count as 0.
    pub(super) fn coverage(&self, config: &DataConfig, rare: &[f64]) -> Coverage {
        let rare = rare.iter().copied().chain(std::iter::repeat(0.0));
        let categorical = config.categorical.iter().zip(&self.categorical).zip(rare);
        let categorical = categorical.filter(|((config, _), _)| config.hash.is_none());
        let categorical = categorical
            .map(|((config, tally), rare)| tally.clone().share(&config.column, None, rare));
        let counted = config.dense.iter().zip(&self.dense).filter(|(config, _)| config.count);
        let counted = counted.map(|(config, tally)| tally.clone().share(&config.column, None, 0.0));
        let joins = config.join.iter().zip(&self.joins).map(|(join, tally)| {
            tally.clone().share(join.on.left(), Some(join.path.display().to_string()), 0.0)
        });
        Coverage { columns: categorical.chain(counted).collect(), joins: joins.collect() }
    }
}
