//! The parts into which rows are split.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The purpose of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The model learns from the row.
    Train,
    /// The row decides when training stops, and which settings are best.
    Validation,
    /// The row measures the final model, once.
    Test,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "training",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}
