//! The parts into which rows are split.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The model learns from it.
    Train,
    /// It decides when to stop, and which settings are best.
    Validation,
    /// It says how good the model is, once.
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
