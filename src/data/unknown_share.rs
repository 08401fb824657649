//! The number of unknown values of one column or side table.

use std::fmt;

use serde::Serialize;

use super::shown::percent;

/// The smallest excess over the share of unknown values in the training rows that is worth a
/// warning.
const NOTABLE: f64 = 0.05;

/// The number of unknown values of a column, or of keys that a side table lacks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnknownShare {
    /// The name of the column; for a side table, the name of its key column in the rows.
    pub column: String,
    /// The side table, if the values are its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side_table: Option<String>,
    /// The number of values that are not empty; in a multi-valued column, of all values of all
    /// rows.
    pub values: u64,
    /// The number of unknown values: training has seen them less than `min_count` times or not at
    /// all, or the side table has no such key.
    pub unknown: u64,
    /// The first unknown value, shortened if long.
    pub first: Option<String>,
    /// The share of the training rows' own values that are unknown, since they are rarer than
    /// `min_count`.
    pub rare: f64,
}

impl UnknownShare {
    /// Returns the share of the values that are unknown; 0 without values.
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
                "column {column:?}: {unknown} of {values} values ({share}) were not among those \
                 of training"
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
