//! Applies a model to rows: to a dataset in memory during training, or to streamed text.

use std::ops::Range;
use std::path::Path;

use super::config::Config;
use super::dropout::Dropout;
use super::error::{Result, TrainError, model_error, out_of_memory};
use super::importance::{ColumnImportance, importance};
use super::manifest::Manifest;
use super::metrics::Predictions;
use super::model_dir::ModelDir;
use super::pending_results::PendingResults;
use super::tensor_file::{TensorFile, TensorLayout};
use crate::data::{Batch, Dataset, Encoder, LabelUse, Part, ReadReport, RowStream, Source, Texts};
use crate::nn::{
    BatchView, Dlrm, MemoryPlan, NamedTensor, Prefixed, Staging, TensorSource, sigmoid,
};
use crate::ops::finite_check::Verdict;
use crate::ops::{Backend, Bags, Host, Matrix, View};
use crate::size::{filled, product, with_room};

/// The number of rows that are predicted at a time.
const BATCH_SIZE: usize = 2048;

/// The members of a model with the buffers that batches pass through.
pub(super) struct Scorer<D: Backend> {
    pub(super) members: Vec<Dlrm<D>>,
    device: D,
    staging: Staging<D, u32>,
    pending: PendingResults<D>,
    probabilities: Vec<f32>,
    sum: Vec<f32>,
}

/// Returns the prefix of the names of a member's tensors.
pub(super) fn member_prefix(member: usize) -> String {
    format!("members.{member}.")
}

/// Returns a check that the header of a file has the parameters of all members of a model.
pub(super) fn expect_parameters(
    config: &Config,
    encoder: &Encoder,
) -> impl FnOnce(&TensorLayout) -> crate::Result<()> {
    let (dlrm, members) = (config.model.dlrm(encoder, &config.train), config.train.members);
    move |layout| {
        let parameters = dlrm.parameter_shapes()?;
        (0..members).map(member_prefix).try_for_each(|prefix| {
            parameters.iter().try_for_each(|(name, dtype, shape)| {
                layout.expect(&(prefix.clone() + name), *dtype, shape)
            })
        })
    }
}

impl<D: Backend> Scorer<D> {
    /// Makes the members of the configuration, each initialised from its own seed.
    pub(super) fn new(device: D, config: &Config, encoder: &Encoder) -> Result<Self> {
        let dlrm = config.model.dlrm(encoder, &config.train);
        let plan = MemoryPlan::for_predictions(&dlrm, config.train.members)?;
        plan.check(&device).map_err(TrainError::from).map_err(out_of_memory(&plan))?;
        let member = |member| {
            Ok(Dlrm::new(device.clone(), dlrm.clone(), member_seed(config.train.seed, member))?)
        };
        let members = (0..config.train.members).map(member).collect::<Result<_>>()?;
        let (probabilities, sum) = (Vec::new(), Vec::new());
        let (staging, pending) = (Staging::new(&device)?, PendingResults::new(&device)?);
        Ok(Self { members, device, staging, pending, probabilities, sum })
    }

    /// Calls a function for every member.
    pub(super) fn each(
        &mut self,
        mut work: impl FnMut(&mut Dlrm<D>) -> crate::Result<()>,
    ) -> Result<()> {
        Ok(self.members.iter_mut().try_for_each(&mut work)?)
    }

    /// Returns the tensors of all members, with the prefix of each member.
    pub(super) fn tensors(
        &mut self,
        of: impl Fn(&mut Dlrm<D>) -> crate::Result<Vec<NamedTensor>>,
    ) -> Result<Vec<NamedTensor>> {
        let mut tensors = Vec::new();
        for (k, member) in self.members.iter_mut().enumerate() {
            let named = |tensor: NamedTensor| NamedTensor {
                name: member_prefix(k) + &tensor.name,
                ..tensor
            };
            tensors.extend(of(member)?.into_iter().map(named));
        }
        Ok(tensors)
    }

    /// Loads the tensors of every member from a file.
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

    /// Loads the parameters of a model whose tables may have fewer rows, from the first row on; the
    /// other rows keep their values. Returns the tensors of all members.
    pub(super) fn load_grown(&mut self, known: &TensorFile) -> Result<Vec<NamedTensor>> {
        let mut tensors = self.tensors(|member| member.tensors())?;
        for tensor in &mut tensors {
            let missing = || crate::Error::TensorMissing { name: tensor.name.clone() };
            let (dtype, shape, bytes) = known.tensor(&tensor.name).ok_or_else(missing)?;
            let fits = match (shape.split_first(), tensor.shape.split_first()) {
                (Some((rows, width)), Some((all, of_all))) => rows <= all && width == of_all,
                _ => shape == tensor.shape,
            };
            match tensor.bytes.get_mut(..bytes.len()).filter(|_| fits && dtype == tensor.dtype) {
                Some(first) => first.copy_from_slice(bytes),
                None => {
                    let (name, expected) = (tensor.name.clone(), tensor.shape.clone());
                    let got = shape.to_vec();
                    return Err(crate::Error::TensorShape { name, expected, got }.into());
                }
            }
        }
        for (k, member) in self.members.iter_mut().enumerate() {
            member.load(&Prefixed { source: tensors.as_slice(), prefix: &member_prefix(k) })?;
        }
        Ok(tensors)
    }

    /// Trains a member on a batch for one step; `dropout` removes some ids. This does not wait for
    /// the device: [`Self::collect`] does.
    pub(super) fn learn(
        &mut self,
        member: usize,
        batch: &mut Batch,
        dropout: Option<&Dropout<'_>>,
    ) -> Result<()> {
        let members = self.members.len();
        let model = &mut self.members[member];
        if let Some(dropout) = dropout {
            dropout.apply(batch, model.step() + 1);
        }
        model.train_staged(&mut self.staging, view(batch, model.config().num_dense))?;
        self.pending.note(model, (member, members), &batch.labels)
    }

    /// Waits for the steps since the last call. Returns the loss of each batch, and the verdict of
    /// the member that has found most non-finite steps since training began. Adds to `predictions`
    /// the first member's predictions of the batches, made before it learned from them.
    pub(super) fn collect(&mut self, predictions: &mut Predictions) -> Result<(Vec<f64>, Verdict)> {
        let losses = self.pending.collect(self.members.len(), predictions)?;
        let mut worst = Verdict::default();
        for member in &self.members {
            let verdict = member.verdict()?;
            worst = if verdict.steps > worst.steps { verdict } else { worst };
        }
        Ok((losses, worst))
    }

    /// Returns the probability of each row of a batch: the mean over the members.
    pub(super) fn predict(&mut self, batch: &Batch) -> Result<&[f32]> {
        self.sum.clear();
        self.sum.resize(batch.batch_size, 0.0);
        self.probabilities.resize(batch.batch_size, 0.0);
        let Some(num_dense) = self.members.first().map(|model| model.config().num_dense) else {
            return Ok(&self.sum);
        };
        let staged = self.staging.stage(view(batch, num_dense))?;
        for model in &mut self.members {
            model.predict(staged, &mut self.probabilities)?;
            self.sum.iter_mut().zip(&self.probabilities).for_each(|(sum, p)| *sum += p);
        }
        mean(&mut self.sum, self.members.len());
        Ok(&self.sum)
    }

    /// Predicts all rows. The logits stay on the device until the last batch.
    pub(super) fn score(&mut self, dataset: &Dataset, batch: &mut Batch) -> Result<Predictions> {
        self.score_with(dataset.len(), batch, |rows, batch| {
            let rows: Vec<u32> = rows.map(|row| row as u32).collect();
            dataset.gather(&rows, batch);
        })
    }

    /// Predicts rows that `fill` puts into the batch, as [`Self::score`] does.
    pub(super) fn score_with(
        &mut self,
        rows: usize,
        batch: &mut Batch,
        mut fill: impl FnMut(Range<usize>, &mut Batch),
    ) -> Result<Predictions> {
        let members = self.members.len();
        let mut logits = self.device.alloc::<f32>(product([members, rows]))?;
        let mut labels = with_room(rows)?;
        for start in (0..rows).step_by(BATCH_SIZE) {
            let end = rows.min(start + BATCH_SIZE);
            fill(start..end, batch);
            labels.extend_from_slice(&batch.labels);
            for (k, model) in self.members.iter_mut().enumerate() {
                let staged = match k {
                    0 => self.staging.stage(view(batch, model.config().num_dense))?,
                    _ => self.staging.view(),
                };
                model.logits_on_device(
                    staged,
                    D::slice_mut(&mut logits, k * rows + start..k * rows + end),
                )?;
            }
        }
        self.device.synchronize()?;
        let logits = self.device.to_vec(&logits)?;
        let mut sum = filled(rows, 0.0)?;
        for of_member in logits.chunks(rows.max(1)) {
            sum.iter_mut().zip(of_member).for_each(|(sum, logit)| *sum += sigmoid(*logit));
        }
        mean(&mut sum, members);
        let mut predictions = Predictions::default();
        predictions.extend(&sum, &labels);
        Ok(predictions)
    }
}

fn mean(sum: &mut [f32], members: usize) {
    sum.iter_mut().for_each(|sum| *sum /= members as f32);
}

/// Returns a batch as the engine's view.
fn view(batch: &Batch, num_dense: usize) -> BatchView<'_, Host, u32> {
    let mut bags = Bags::new(batch.batch_size, &batch.indices, &batch.offsets);
    bags.per_sample_weights = Some(&batch.weights).filter(|w| !w.is_empty()).map(View::from);
    BatchView {
        dense: Matrix::contiguous(&batch.dense, batch.batch_size, num_dense),
        bags,
        labels: Some(View::from(&batch.labels)),
    }
}

/// Returns the seed of a member; the first member has the seed of the run.
pub(super) fn member_seed(seed: u64, member: usize) -> u64 {
    seed.wrapping_add((member as u64) << 32)
}

/// Reads a model directory: the manifest, the encoder, and the parameters of all members.
pub(super) fn read_model(path: &Path) -> Result<(Manifest, Encoder, TensorFile)> {
    let (manifest, (encoder, tensors)) = ModelDir::read_with(path, |dir, manifest| {
        let encoder = dir.read_encoder(manifest)?;
        let tensors =
            dir.read_tensors(manifest, "best", expect_parameters(&manifest.config, &encoder))?;
        Ok((encoder, tensors))
    })?;
    tensors.expect_finite().map_err(|reason| model_error(path, format!("damaged: {reason}")))?;
    Ok((manifest, encoder, tensors))
}

/// A batch of rows with their predictions.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// The probability of each row.
    pub probabilities: &'a [f32],
    /// The encoded rows; the labels are NaN if they are missing.
    pub batch: &'a Batch,
    /// The texts of the columns that were asked for.
    pub texts: &'a Texts,
    /// The number of bytes read so far, and the total.
    pub bytes_read: (u64, u64),
}

/// A trained model that reads raw text and predicts.
pub struct TrainedModel<D: Backend> {
    manifest: Manifest,
    encoder: Encoder,
    scorer: Scorer<D>,
}

impl<D: Backend> TrainedModel<D> {
    /// Opens a model directory.
    ///
    /// # Errors
    /// Returns an error if the directory has no model, or a damaged one.
    pub fn open(device: D, path: &Path) -> Result<Self> {
        let (manifest, encoder, tensors) = read_model(path)?;
        let mut scorer = Scorer::new(device, &manifest.config, &encoder)?;
        scorer.load(&tensors, |member, file| member.load(file))?;
        Ok(Self { manifest, encoder, scorer })
    }

    /// Returns the manifest: the configuration and the progress of training.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the encoder that reads raw text.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Returns the networks whose mean probability is the prediction.
    pub fn members(&self) -> &[Dlrm<D>] {
        &self.scorer.members
    }

    /// Predicts all rows in constant memory, batch by batch. `visit` receives the probabilities and
    /// labels (NaN if missing) of a batch of rows, and the number of bytes read so far with the
    /// total. Returns a report on the data.
    ///
    /// # Errors
    /// Returns an error for rows that cannot be read or encoded, and the errors of `visit`.
    pub fn predict<E: From<TrainError>>(
        &mut self,
        sources: impl IntoIterator<Item = Source>,
        labels: LabelUse,
        part: Option<Part>,
        mut visit: impl FnMut(&[f32], &[f32], (u64, u64)) -> Result<(), E>,
    ) -> Result<ReadReport, E> {
        self.predict_with(sources, labels, part, &[], |scored| {
            visit(scored.probabilities, &scored.batch.labels, scored.bytes_read)
        })
    }

    /// Predicts all rows as [`Self::predict`] does. `visit` also receives the encoded rows, and the
    /// texts of these columns, as [`RowStream::with_texts_of`] keeps them.
    ///
    /// # Errors
    /// Returns the errors of [`Self::predict`], and an error for a column that the files lack.
    pub fn predict_with<E: From<TrainError>>(
        &mut self,
        sources: impl IntoIterator<Item = Source>,
        labels: LabelUse,
        part: Option<Part>,
        columns: &[String],
        mut visit: impl FnMut(&Scored<'_>) -> Result<(), E>,
    ) -> Result<ReadReport, E> {
        let mut rows = RowStream::open(&self.encoder, sources, labels, part)
            .map_err(TrainError::from)?
            .with_texts_of(columns);
        let mut batch = Batch::default();
        while rows.next_batch(BATCH_SIZE, &mut batch).map_err(TrainError::from)? {
            visit(&Scored {
                probabilities: self.scorer.predict(&batch)?,
                batch: &batch,
                texts: rows.texts(),
                bytes_read: rows.bytes_read(),
            })?;
        }
        Ok(rows.report())
    }

    /// Measures how much worse the model is on rows in which the values of one column are shuffled
    /// (permutation importance; Breiman, 2001): for each column, the largest rise of the log-loss
    /// first. All features of a column are shuffled together, each time in the same way.
    /// `progress` is called with the number of columns that are done and the total.
    ///
    /// # Errors
    /// Returns the errors of the device.
    pub fn importance(
        &mut self,
        rows: &Dataset,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Vec<ColumnImportance>> {
        let loss = self.manifest.config.train.loss;
        importance(&mut self.scorer, &self.encoder, rows, loss, &mut progress)
    }
}
