//! A model at work on rows: in memory while training, or streamed from text.

use std::path::Path;

use super::checkpoint::{Manifest, ModelDir, TensorFile};
use super::config::Config;
use super::dropout::Dropout;
use super::error::Result;
use super::metrics::Predictions;
use super::staging::Staging;
use crate::data::{Batch, Dataset, Encoder, LabelUse, Part, RowStream, Source};
use crate::nn::{Dlrm, NamedTensor, Prefixed};
use crate::ops::Backend;

/// The number of rows that are predicted at a time.
const BATCH_SIZE: usize = 2048;

/// The members of a model with the buffers that batches pass through.
pub(super) struct Scorer<D: Backend> {
    pub(super) members: Vec<Dlrm<D>>,
    device: D,
    staging: Staging<D>,
    probabilities: Vec<f32>,
    sum: Vec<f32>,
    weights: Vec<f32>,
}

/// What stands before the names of the tensors of a member.
pub(super) fn member_prefix(member: usize) -> String {
    format!("members.{member}.")
}

impl<D: Backend> Scorer<D> {
    /// As many members as the configuration says, each drawn from a seed of its own.
    pub(super) fn new(device: D, config: &Config, encoder: &Encoder) -> Result<Self> {
        let dlrm = config.model.dlrm(encoder, &config.train);
        let member = |member| Ok(Dlrm::new(device.clone(), dlrm.clone(), member_seed(config.train.seed, member))?);
        let members = (0..config.train.members).map(member).collect::<Result<_>>()?;
        let (probabilities, sum, weights) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { members, staging: Staging::new(&device)?, device, probabilities, sum, weights })
    }

    /// Does something with every member.
    pub(super) fn each(&mut self, mut work: impl FnMut(&mut Dlrm<D>) -> crate::Result<()>) -> Result<()> {
        Ok(self.members.iter_mut().try_for_each(&mut work)?)
    }

    /// Tensors of all members, each with the member's prefix.
    pub(super) fn tensors(
        &mut self,
        of: impl Fn(&mut Dlrm<D>) -> crate::Result<Vec<NamedTensor>>,
    ) -> Result<Vec<NamedTensor>> {
        let mut tensors = Vec::new();
        for (k, member) in self.members.iter_mut().enumerate() {
            let named = |tensor: NamedTensor| NamedTensor { name: member_prefix(k) + &tensor.name, ..tensor };
            tensors.extend(of(member)?.into_iter().map(named));
        }
        Ok(tensors)
    }

    /// Takes over what every member needs from a file.
    pub(super) fn load(
        &mut self,
        file: &TensorFile,
        load: impl Fn(&mut Dlrm<D>, &Prefixed<'_, TensorFile>) -> crate::Result<()>,
    ) -> Result<()> {
        for (k, member) in self.members.iter_mut().enumerate() {
            load(member, &Prefixed { source: file, prefix: &member_prefix(k) })?;
        }
        Ok(())
    }

    /// One step of training of a member on a batch, of which `dropout` leaves out some ids. Gives the loss; `seen` notes what was predicted
    /// before the step.
    pub(super) fn learn(
        &mut self,
        member: usize,
        batch: &mut Batch,
        dropout: Option<&Dropout<'_>>,
        seen: Option<&mut Predictions>,
    ) -> Result<f64> {
        let model = &mut self.members[member];
        let weights = dropout.map(|dropout| {
            dropout.apply(batch, &mut self.weights, model.step() + 1);
            self.weights.as_slice()
        });
        let view = self.staging.upload(&self.device, batch, model.config().num_dense, weights)?;
        model.train_step(view)?;
        if let Some(seen) = seen {
            self.probabilities.resize(batch.batch_size, 0.0);
            model.last_probabilities(&mut self.probabilities)?;
            seen.extend(&self.probabilities, &batch.labels);
        }
        Ok(model.last_loss()?)
    }

    /// The probability of each row of a batch: the mean of the members'.
    pub(super) fn predict(&mut self, batch: &Batch) -> Result<&[f32]> {
        self.sum.clear();
        self.sum.resize(batch.batch_size, 0.0);
        self.probabilities.resize(batch.batch_size, 0.0);
        for model in &mut self.members {
            let view = self.staging.upload(&self.device, batch, model.config().num_dense, None)?;
            model.predict(view, &mut self.probabilities)?;
            self.sum.iter_mut().zip(&self.probabilities).for_each(|(sum, p)| *sum += p);
        }
        let members = self.members.len() as f32;
        self.sum.iter_mut().for_each(|sum| *sum /= members);
        Ok(&self.sum)
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

/// The seed of a member: that of the run for the first.
pub(super) fn member_seed(seed: u64, member: usize) -> u64 {
    seed.wrapping_add((member as u64) << 32)
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
        let mut scorer = Scorer::new(device, &manifest.config, &encoder)?;
        scorer.load(&tensors, |member, file| member.load(file))?;
        Ok(Self { manifest, encoder, scorer })
    }

    /// What the model was trained by, and how that went.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How it reads raw text.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The networks whose mean probability is the prediction.
    pub fn members(&self) -> &[Dlrm<D>] {
        &self.scorer.members
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
