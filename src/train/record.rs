//! The results of training: one record per epoch, and the outcome.

use serde::{Deserialize, Serialize};

use super::metrics::Metrics;

/// The record of an epoch: a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    /// The number of the epoch, from 1.
    pub epoch: u32,
    /// The number of optimizer steps so far.
    pub step: u64,
    /// The metrics of the training rows, each predicted by the first member just before it learned
    /// from it.
    pub train: Metrics,
    /// The metrics of the validation rows after the epoch; `None` without validation rows.
    pub validation: Option<Metrics>,
    /// Set if this is the best epoch so far.
    pub best: bool,
    /// The training time of this epoch in seconds.
    pub seconds: f64,
    /// The number of training rows per second.
    pub samples_per_second: f64,
}

/// The outcome of training: the object that `bagdot train --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The metrics of the test rows by the best epoch's model, measured once; `None` without test
    /// rows.
    pub test: Option<Metrics>,
    /// The metrics of the validation rows by the same model; `None` without validation rows.
    pub validation: Option<Metrics>,
    /// The number of the epoch whose model was kept.
    pub best_epoch: u32,
    /// The training time in seconds, without reading and evaluation.
    pub train_seconds: f64,
    /// The number of training rows per second.
    pub samples_per_second: f64,
}
