//! Permutation importance (Breiman, 2001): how much worse a model is on rows in which the values of
//! one column are shuffled.

use serde::{Deserialize, Serialize};

use super::error::Result;
use super::metrics::Metrics;
use super::model::Scorer;
use crate::data::{Batch, Dataset, Encoder};
use crate::ops::{Backend, Loss};
use crate::philox::Philox;

/// The seed of the shuffles, so that the figures are the same each time.
const SEED: u64 = 1;

/// The importance of a column for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnImportance {
    /// The name of the column. A derived column, or one of a side table, has its own.
    pub column: String,
    /// The AUC of the rows as they are, less that with the column shuffled. `None` if all labels
    /// are of one class.
    pub auc_drop: Option<f64>,
    /// The log-loss with the column shuffled, less that of the rows as they are.
    pub logloss_rise: f64,
}

/// Measures the importance of each column, the largest rise of the log-loss first. All features of
/// a column are shuffled together. `progress` is called with the number of columns that are done
/// and the total.
pub(super) fn importance<D: Backend>(
    scorer: &mut Scorer<D>,
    encoder: &Encoder,
    rows: &Dataset,
    loss: Loss,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<ColumnImportance>> {
    let (mut batch, mut shuffled) = (Batch::default(), Batch::default());
    let Some(whole) = scorer.score(rows, &mut batch)?.metrics_of(loss) else {
        return Ok(Vec::new());
    };
    let columns = encoder.features_by_column();
    let mut found = Vec::with_capacity(columns.len());
    for (k, (column, dense, sparse)) in columns.iter().enumerate() {
        progress(k as u64, columns.len() as u64);
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        Philox::new(SEED, k as u64).shuffle(&mut order);
        let predictions = scorer.score_with(rows.len(), &mut batch, |range, batch| {
            let own: Vec<u32> = range.clone().map(|row| row as u32).collect();
            rows.gather(&own, batch);
            rows.gather(&order[range], &mut shuffled);
            batch.replace_features(dense, sparse, &shuffled);
        })?;
        let without = predictions.metrics_of(loss).unwrap_or(whole);
        found.push(of_column(column, &whole, &without));
    }
    progress(columns.len() as u64, columns.len() as u64);
    found.sort_by(|a, b| b.logloss_rise.total_cmp(&a.logloss_rise));
    Ok(found)
}

fn of_column(column: &str, whole: &Metrics, without: &Metrics) -> ColumnImportance {
    ColumnImportance {
        column: column.to_owned(),
        auc_drop: whole.auc.zip(without.auc).map(|(whole, without)| whole - without),
        logloss_rise: without.logloss - whole.logloss,
    }
}
