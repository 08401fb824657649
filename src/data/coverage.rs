//! Counts the values in rows that the encoder does not know: values that training has not seen, and
//! keys that a side table lacks.

use std::fmt;

use serde::Serialize;

use super::dictionary::{EMPTY, text_of_word};
use super::encoder::Encoder;
use super::error::{DataError, Result, percent, shortened};

/// The least excess of a share of unknown values over that of the training rows that is worth a
/// warning.
const NOTABLE: f64 = 0.05;

/// The number of unknown values of a column, or of keys that a side table lacks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnknownShare {
    /// The column; for a side table the column of its key in the rows.
    pub column: String,
    /// The side table, if these are its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side_table: Option<String>,
    /// The number of values that are not empty; of a column with several in a row, all of these.
    pub values: u64,
    /// The number of values that are not known: training has not seen them, or not `min_count`
    /// times, or the side table has no such key.
    pub unknown: u64,
    /// The first one of these, shortened if long.
    pub first: Option<String>,
    /// The share of the training rows' own values that are not known, since they are rarer than
    /// `min_count`.
    pub rare: f64,
}

impl UnknownShare {
    /// The share of the values that are not known; 0 without values.
    pub fn share(&self) -> f64 {
        if self.values == 0 { 0.0 } else { self.unknown as f64 / self.values as f64 }
    }

    /// Returns whether the share is worth a warning: it is at least 0.05 above that of the training
    /// rows, or all values are unknown.
    pub fn is_notable(&self) -> bool {
        self.unknown > 0 && self.share() >= (self.rare + NOTABLE).min(1.0)
    }
}

impl fmt::Display for UnknownShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { column, values, unknown, .. } = self;
        let share = percent(self.share());
        match &self.side_table {
            Some(table) => write!(
                f,
                "join {table}: {unknown} of {values} keys {column:?} ({share}) have no row there"
            )?,
            None => write!(
                f,
                "column {column:?}: {unknown} of {values} values ({share}) were not among those of training"
            )?,
        }
        if self.rare > 0.0 {
            write!(
                f,
                ", or too rare there, as {} of the training rows' own are",
                percent(self.rare)
            )?;
        }
        self.first.as_ref().map_or(Ok(()), |first| write!(f, " (the first one: {first:?})"))
    }
}

/// The shares of unknown values of the columns and side tables. Hashed columns are left out, since
/// they know every value.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// The categorical columns, and the dense ones that count their values.
    pub columns: Vec<UnknownShare>,
    /// The side tables.
    pub joins: Vec<UnknownShare>,
}

impl Coverage {
    /// All shares that are worth a warning.
    pub fn notable(&self) -> impl Iterator<Item = &UnknownShare> {
        self.columns.iter().chain(&self.joins).filter(|share| share.is_notable())
    }

    /// Refuses a share above the limit.
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

    /// Counts values of a column, of which there are the words and the rows of its table. `long` is
    /// the first unknown one that has no word.
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
    pub(super) fn new(encoder: &Encoder) -> Self {
        let tallies = |count| vec![Tally::default(); count];
        let config = &encoder.config;
        Self {
            categorical: tallies(config.categorical.len()),
            dense: tallies(config.dense.len()),
            joins: tallies(config.join.len()),
        }
    }

    pub(super) fn coverage(&self, encoder: &Encoder) -> Coverage {
        let Encoder { config, rare, .. } = encoder;
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
