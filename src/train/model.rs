//! A model at work on rows: in memory while training, or streamed from text.

use std::path::Path;

use super::checkpoint::{Manifest, ModelDir};
use super::dropout::Dropout;
use super::error::Result;
use super::metrics::Predictions;
use super::staging::Staging;
use crate::data::{Batch, Dataset, Encoder, LabelUse, Part, RowStream, Source};
use crate::nn::Dlrm;
use crate::ops::Backend;

/// The number of rows that are predicted at a time.
const BATCH_SIZE: usize = 2048;

/// A model with the buffers that batches pass through.
pub(super) struct Scorer<D: Backend> {
    pub(super) model: Dlrm<D>,
    staging: Staging<D>,
    probabilities: Vec<f32>,
    weights: Vec<f32>,
}

impl<D: Backend> Scorer<D> {
    pub(super) fn new(model: Dlrm<D>) -> Result<Self> {
        Ok(Self { staging: Staging::new(model.device())?, model, probabilities: Vec::new(), weights: Vec::new() })
    }

    /// One step of training on a batch, of which `dropout` leaves out some ids; gives the loss, and notes what was predicted before the step.
    pub(super) fn learn(
        &mut self,
        batch: &mut Batch,
        dropout: Option<&Dropout<'_>>,
        seen: &mut Predictions,
    ) -> Result<f64> {
        let device = self.model.device().clone();
        let weights = dropout.map(|dropout| {
            dropout.apply(batch, &mut self.weights, self.model.step() + 1);
            self.weights.as_slice()
        });
        let view = self.staging.upload(&device, batch, self.model.config().num_dense, weights)?;
        self.model.train_step(view)?;
        self.probabilities.resize(batch.batch_size, 0.0);
        self.model.last_probabilities(&mut self.probabilities)?;
        seen.extend(&self.probabilities, &batch.labels);
        Ok(self.model.last_loss()?)
    }

    /// The probability of each row of a batch.
    pub(super) fn predict(&mut self, batch: &Batch) -> Result<&[f32]> {
        let device = self.model.device().clone();
        let view = self.staging.upload(&device, batch, self.model.config().num_dense, None)?;
        self.probabilities.resize(batch.batch_size, 0.0);
        self.model.predict(view, &mut self.probabilities)?;
        Ok(&self.probabilities)
    }

    /// Predictions for all rows.
    pub(super) fn score(&mut self, dataset: &Dataset, batch: &mut Batch) -> Result<Predictions> {
        let mut predictions = Predictions::default();
        let rows: Vec<u32> = (0..dataset.len() as u32).collect();
        for rows in rows.chunks(BATCH_SIZE) {
            dataset.gather(rows, batch);
            predictions.extend(self.predict(batch)?, &batch.labels);
        }
        Ok(predictions)
    }
}

/// A kept model: it reads raw text, and predicts.
pub struct TrainedModel<D: Backend> {
    manifest: Manifest,
    encoder: Encoder,
    scorer: Scorer<D>,
}

impl<D: Backend> TrainedModel<D> {
    /// Opens a model directory.
    ///
    /// # Errors
    /// A directory without a model, or with a damaged one.
    pub fn open(device: D, path: &Path) -> Result<Self> {
        let (dir, manifest) = ModelDir::open(path)?;
        let encoder = dir.read_encoder(&manifest)?;
        let tensors = dir.read_tensors(&manifest, "best")?;
        let train = &manifest.config.train;
        let mut model = Dlrm::new(device, manifest.config.model.dlrm(&encoder, train), train.seed)?;
        model.load(&tensors)?;
        Ok(Self { manifest, encoder, scorer: Scorer::new(model)? })
    }

    /// What the model was trained by, and how that went.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How it reads raw text.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The network.
    pub fn network(&self) -> &Dlrm<D> {
        &self.scorer.model
    }

    /// Predicts row after row, in constant memory. `visit` is given the probabilities and labels (NaN where there are none) of a run of
    /// rows, and how many bytes have been read, of how many.
    ///
    /// # Errors
    /// Rows that cannot be read or encoded; what `visit` returns.
    pub fn predict(
        &mut self,
        sources: impl IntoIterator<Item = Source>,
        labels: LabelUse,
        part: Option<Part>,
        mut visit: impl FnMut(&[f32], &[f32], (u64, u64)) -> Result<()>,
    ) -> Result<()> {
        let mut rows = RowStream::open(&self.encoder, sources, labels, part)?;
        let mut batch = Batch::default();
        while rows.next_batch(BATCH_SIZE, &mut batch)? {
            visit(self.scorer.predict(&batch)?, &batch.labels, rows.bytes_read())?;
        }
        Ok(())
    }
}
