//! The results of training: one record per epoch, and the outcome.

use serde::{Deserialize, Serialize};

use super::metrics::Metrics;

/// What happened in an epoch: a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    /// The number of the epoch, from 1.
    pub epoch: u32,
    /// Steps of the optimizer so far.
    pub step: u64,
    /// On the training rows, each predicted by the first member just before it learned from it.
    pub train: Metrics,
    /// On the validation rows, after the epoch; nothing without validation rows.
    pub validation: Option<Metrics>,
    /// Whether this is the best epoch so far.
    pub best: bool,
    /// Seconds of training in this epoch.
    pub seconds: f64,
    /// Training rows per second.
    pub samples_per_second: f64,
}

/// What training came to: the object that `bagdot train --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// On the test rows, by the best epoch's model, measured once; nothing without test rows.
    pub test: Option<Metrics>,
    /// On the validation rows, by the same model; nothing without validation rows.
    pub validation: Option<Metrics>,
    /// The epoch whose model was kept.
    pub best_epoch: u32,
    /// Seconds of training, without reading and evaluation.
    pub train_seconds: f64,
    /// Training rows per second.
    pub samples_per_second: f64,
}
