//! The shape of the steps of a training run.

use std::collections::BTreeSet;
use std::path::Path;

use super::config::{Config, TrainConfig};
use super::error::{Result, TrainError};
use crate::data::{Batch, Encoder, Splits};
use crate::nn::{BatchSizes, DlrmConfig, Optimizers, StepWork};

/// A model, its optimizers, and the sizes of a batch: all that decides the work of a step.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The shape of the model.
    pub config: DlrmConfig,
    /// The optimizers of tables and layers.
    pub optimizers: Optimizers,
    /// The sizes of a batch.
    pub batch: BatchSizes,
}

impl Workload {
    /// Reads the data of a configuration. The sizes of the batch are those of the first training
    /// rows. Relative paths start at `folder`.
    ///
    /// # Errors
    /// Returns an error for data that cannot be read or encoded, and for settings without a
    /// meaning.
    pub fn of(config: &Config, folder: &Path) -> Result<Self> {
        let encoder = Encoder::fit(&config.data, folder, &mut |_, _| ())?;
        let train = Splits::load(&config.data, &encoder, folder, &mut |_, _| ())?.train;
        let batch_size = config.train.batch_size.min(train.len());
        let mut batch = Batch::default();
        let rows: Vec<u32> = (0..batch_size as u32).collect();
        train.gather(&rows, &mut batch);
        // Ids count within their table, and each feature has one of its own.
        let bounds = batch.offsets.chunks_exact(batch_size.max(1)).zip(1..);
        let mut distinct = BTreeSet::new();
        for (of_feature, feature) in bounds {
            let start = of_feature[0] as usize;
            let end = batch.offsets[feature * batch_size] as usize;
            distinct.extend(batch.indices[start..end].iter().map(|&id| (feature, id)));
        }
        Ok(Self {
            config: config.model.dlrm(&encoder, &config.train),
            optimizers: optimizers(&config.train)?,
            batch: BatchSizes {
                batch_size,
                num_indices: batch.indices.len(),
                distinct_rows: distinct.len(),
            },
        })
    }

    /// Returns the work of a training step, and that of a prediction.
    ///
    /// # Errors
    /// Returns an error for sizes that do not fit together.
    pub fn work(&self) -> crate::Result<[StepWork; 2]> {
        let step = StepWork::of_training(&self.config, self.optimizers, self.batch)?;
        Ok([step, StepWork::of_prediction(&self.config, self.batch)?])
    }
}

/// Returns the optimizers of a run of any length: the number of its steps affects neither the work
/// of a step nor its memory.
pub(super) fn optimizers(settings: &TrainConfig) -> Result<Optimizers> {
    let message = |message| TrainError::Config { path: Path::new("[train]").into(), message };
    settings.optimizers(1).map_err(message)
}
