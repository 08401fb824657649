//! The results of training: one record per evaluation, and the outcome.

use serde::{Deserialize, Serialize};

use super::importance::ColumnImportance;
use super::metrics::Metrics;

/// The record of an evaluation: a line of `metrics.jsonl`. There is one at the end of each epoch,
/// and those within epochs that [`TrainConfig::evaluate_every`](super::TrainConfig) asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecord {
    /// The number of the epoch, from 1.
    pub epoch: u32,
    /// The share of the epoch's rows that training had passed; 1 at the end of the epoch.
    #[serde(default = "whole")]
    pub share_of_epoch: f64,
    /// The number of optimizer steps so far.
    pub step: u64,
    /// The metrics of the training rows since the evaluation before, each predicted by the first
    /// member just before it learned from it.
    pub train: Metrics,
    /// The metrics of the validation rows; `None` without validation rows.
    pub validation: Option<Metrics>,
    /// Set if this is the best evaluation so far.
    pub best: bool,
    /// The training time since the evaluation before, in seconds.
    pub seconds: f64,
    /// The number of training rows per second.
    pub samples_per_second: f64,
}

/// Returns the share of an epoch at its end, where earlier versions measured only.
fn whole() -> f64 {
    1.0
}

impl EvaluationRecord {
    /// Returns the number of passes over the training rows so far, such as 2.25 after a quarter of
    /// the third epoch.
    pub fn passes(&self) -> f64 {
        f64::from(self.epoch) - 1.0 + self.share_of_epoch
    }

    /// Returns whether the epoch was over.
    pub fn ends_epoch(&self) -> bool {
        self.share_of_epoch >= 1.0
    }
}

/// The outcome of training: the object that `bagdot train --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The metrics of the test rows by the best model, measured once; `None` without test rows.
    pub test: Option<Metrics>,
    /// The metrics of the validation rows by the same model; `None` without validation rows.
    pub validation: Option<Metrics>,
    /// The number of the epoch whose model was kept.
    pub best_epoch: u32,
    /// The number of optimizer steps after which that model was measured.
    pub best_step: u64,
    /// The training time in seconds, without reading and evaluation.
    pub train_seconds: f64,
    /// The number of training rows per second.
    pub samples_per_second: f64,
    /// The importance of the columns on the test rows, or without test rows on the validation rows;
    /// `None` if it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<Vec<ColumnImportance>>,
}
