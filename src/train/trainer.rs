//! The training loop.

use std::path::Path;
use std::time::Instant;

use super::config::{Config, Selection, TrainConfig};
use super::dropout::Dropout;
use super::error::{Result, TrainError, io_error, model_error, out_of_memory};
use super::importance::importance;
use super::manifest::Manifest;
use super::memory::plan_memory;
use super::metrics::{Metrics, Predictions};
use super::model::{Scorer, expect_parameters, member_seed, read_model};
use super::model_dir::{METRICS, RunDir};
use super::pending_results::PendingResults;
use super::record::{EvaluationRecord, Outcome};
use super::report::{Report, ReportOptions};
use super::tensor_file::TensorFile;
use crate::data::{Batch, Dataset, Encoder, Note, Splits};
use crate::nn::{Dlrm, MemoryPlan};
use crate::ops::Backend;
use crate::ops::finite_check::NonFinite;
use crate::philox::Philox;
use crate::size::{sum, with_room};

/// Receives the events of training, and may ask to stop. All methods do nothing unless implemented.
pub trait Observer {
    /// Reports that `done` of `total` bytes of a file have been read.
    fn reading(&mut self, what: &str, done: u64, total: u64) {
        let _ = (what, done, total);
    }
    /// Reports a note on the data.
    fn note(&mut self, note: &Note) {
        let _ = note;
    }
    /// Reports that data and model are ready.
    fn ready(&mut self, splits: &Splits, encoder: &Encoder, num_parameters: usize) {
        let _ = (splits, encoder, num_parameters);
    }
    /// Reports that `done` of `total` batches of an epoch are done, and the loss of the last of
    /// them. Several batches are reported at once, some time after their steps.
    fn batch(&mut self, epoch: u32, done: u64, total: u64, loss: f64) {
        let _ = (epoch, done, total, loss);
    }
    /// Reports `count` skipped batches, whose loss or gradients were not finite, up to batch
    /// `last`.
    fn skipped(&mut self, epoch: u32, last: u64, count: u64) {
        let _ = (epoch, last, count);
    }
    /// Reports that the first model of this run has replaced the model in the directory. The
    /// replaced model is now in `kept`.
    fn replaced(&mut self, kept: &Path) {
        let _ = kept;
    }
    /// Reports that the model was measured, at the end of an epoch or within one.
    fn evaluation(&mut self, record: &EvaluationRecord) {
        let _ = record;
    }
    /// Reports that the importance of `done` of `total` columns is known.
    fn importance(&mut self, done: u64, total: u64) {
        let _ = (done, total);
    }
    /// Returns whether to write a checkpoint and stop. It is called after every batch.
    fn stop_requested(&self) -> bool {
        false
    }
}

/// The random stream of the order of the rows before the first epoch; lower streams initialise the
/// tables and layers.
const ORDER_STREAM: u64 = 1 << 33;

/// A training run.
pub struct Trainer<D: Backend> {
    dir: RunDir,
    manifest: Manifest,
    splits: Splits,
    encoder: Encoder,
    scorer: Scorer<D>,
    batch: Batch,
    /// The predictions of the training rows since the last evaluation.
    predictions: Predictions,
    /// The number of batches skipped since the run began or was resumed.
    skipped: u64,
    /// The memory that training needs.
    memory: MemoryPlan,
    report: ReportOptions,
}

impl<D: Backend> Trainer<D> {
    /// Reads the data and builds the model. Relative paths of the configuration start at `folder`.
    ///
    /// # Errors
    /// Returns an error for data that cannot be read or encoded, a model that does not fit them, or
    /// a directory that cannot be written.
    pub fn new(
        device: D,
        config: Config,
        folder: &Path,
        dir: RunDir,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let encoder = Encoder::fit(&config.data, folder, &mut |done, total| {
            observer.reading("statistics", done, total)
        })?;
        Self::start(device, config, folder, dir, (encoder, None), observer)
    }

    /// Goes on from the model in the directory `from` with the rows of `config`, as a run of its
    /// own. The parameters are those of that model. Values that it does not know get new rows, with
    /// initial values as in a new model; see [`Encoder::grow`]. Optimizers, averages and schedule
    /// begin anew.
    ///
    /// # Errors
    /// Returns the errors of [`Self::new`], and [`TrainError::Model`] if the model there is damaged
    /// or has other sizes than `config` says.
    pub fn continue_from(
        device: D,
        config: Config,
        folder: &Path,
        dir: RunDir,
        from: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let (known, encoder, tensors) = read_model(from)?;
        let differs = match (known.config.model == config.model, known.config.train.members) {
            (false, _) => Some("[model] of the configuration is not that of this model".to_owned()),
            (true, members) if members != config.train.members => Some(format!(
                "it has {members} members, but `train.members` is {}",
                config.train.members
            )),
            _ => None,
        };
        if let Some(reason) = differs {
            return Err(model_error(from, format!("training cannot go on from it: {reason}")));
        }
        let encoder = encoder.grow(&config.data, folder, &mut |done, total| {
            observer.reading("statistics", done, total)
        })?;
        Self::start(device, config, folder, dir, (encoder, Some(tensors)), observer)
    }

    /// Builds the model of a new run, whose parameters may be known, and makes it take effect.
    fn start(
        device: D,
        config: Config,
        folder: &Path,
        dir: RunDir,
        (encoder, known): (Encoder, Option<TensorFile>),
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let folder = std::path::absolute(folder).map_err(io_error("resolve", folder))?;
        let mut manifest = Manifest::new(config, folder);
        let mut trainer = Self::build(device, dir, manifest.clone(), encoder, observer)?;
        manifest.progress.rows = trainer.rows();
        trainer.dir.write_encoder(&mut manifest, &trainer.encoder)?;
        trainer.manifest = manifest;
        if let Some(known) = known {
            // They are the model until there is a better one, and `--resume` begins with them.
            let tensors = trainer.scorer.load_grown(&known)?;
            trainer.dir.write_tensors(&mut trainer.manifest, "best", &tensors)?;
            trainer.start_averages()?;
        }
        trainer.commit(observer)?;
        Ok(trainer)
    }

    /// Resumes a run from its last checkpoint. The result is the same as without the interruption.
    ///
    /// # Errors
    /// Returns the errors of [`Self::new`], and an error if the data are not those of the run.
    pub fn resume(
        device: D,
        dir: RunDir,
        manifest: Manifest,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let encoder = dir.dir().read_encoder(&manifest)?;
        let state = match manifest.files.contains_key("state") {
            true => Some(dir.dir().read_tensors(
                &manifest,
                "state",
                expect_parameters(&manifest.config, &encoder),
            )?),
            false => None,
        };
        let mut trainer = Self::build(device, dir, manifest, encoder, observer)?;
        if trainer.rows() != trainer.manifest.progress.rows {
            let [now, then] = [trainer.rows(), trainer.manifest.progress.rows];
            let reason = format!(
                "the data have changed: {now:?} rows of training, validation and test, but \
                 {then:?} before"
            );
            return Err(model_error(trainer.dir.dir().path(), reason));
        }
        let (rows, batch_size) =
            (trainer.splits.train.len() as u64, trainer.manifest.config.train.batch_size);
        let position = trainer.manifest.progress.check_position(
            rows.div_ceil(batch_size as u64),
            batch_size,
            rows,
        );
        position.map_err(|reason| model_error(trainer.dir.dir().path(), reason))?;
        if let Some(state) = state {
            let step = trainer.manifest.progress.step;
            trainer.scorer.load(&state, |member, file| {
                member.load(file)?;
                member.load_optimizers(file, step)?;
                member.load_averages(file)
            })?;
            trainer.predictions = Predictions::import(&state);
        } else if trainer.manifest.progress.step == 0 {
            trainer.start_from_imported()?;
        }
        Ok(trainer)
    }

    fn build(
        device: D,
        dir: RunDir,
        manifest: Manifest,
        encoder: Encoder,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let Config { data, train, .. } = &manifest.config;
        let splits = Splits::load(data, &encoder, &manifest.folder, &mut |done, total| {
            observer.reading("rows", done, total)
        })?;
        encoder.notes().iter().chain(&splits.notes).for_each(|note| observer.note(note));
        let steps_per_epoch = splits.train.len().div_ceil(train.batch_size) as u64;
        let optimizers = train
            .optimizers(steps_per_epoch)
            .map_err(|reason| model_error(dir.dir().path(), reason))?;
        let memory = plan_memory(&device, &manifest.config, &encoder, &splits.train)?;
        let averaging = manifest.config.averaging();
        let scorer = || -> Result<Scorer<D>> {
            memory.check(&device)?;
            let even_decay = || even_decay(&splits.train, &encoder, steps_per_epoch);
            let decay_scale = train.even_decay.then(even_decay).transpose()?;
            let mut scorer = Scorer::new(device, &manifest.config, &encoder)?;
            scorer.each(|member| {
                member.on_non_finite(train.non_finite);
                member.optimize_with(optimizers)?;
                decay_scale.as_ref().map_or(Ok(()), |scale| member.scale_table_decay(scale))?;
                if averaging > 0.0 { member.average_with(averaging) } else { Ok(()) }
            })?;
            Ok(scorer)
        };
        let scorer = scorer().map_err(out_of_memory(&memory))?;
        observer.ready(&splits, &encoder, scorer.members.iter().map(Dlrm::num_parameters).sum());
        let (batch, predictions) = (Batch::default(), Predictions::default());
        let (skipped, report) = (0, ReportOptions::default());
        Ok(Self {
            dir,
            scorer,
            manifest,
            splits,
            encoder,
            batch,
            predictions,
            skipped,
            memory,
            report,
        })
    }

    /// Returns the manifest: the configuration and the progress of training.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Sets what the report of the run shows.
    pub fn report_with(self, report: ReportOptions) -> Self {
        Self { report, ..self }
    }

    /// Starts from the parameters of a model that was imported or that training went on from: there
    /// is a model before the first step. Does nothing if there is none.
    fn start_from_imported(&mut self) -> Result<()> {
        if !self.manifest.files.contains_key("best") {
            return Ok(());
        }
        let expected = expect_parameters(&self.manifest.config, &self.encoder);
        let imported = self.dir.dir().read_tensors(&self.manifest, "best", expected)?;
        self.scorer.load(&imported, |member, file| member.load(file))?;
        self.start_averages()
    }

    /// Makes the averages, if there are any, begin at the parameters.
    fn start_averages(&mut self) -> Result<()> {
        let averaging = self.manifest.config.averaging();
        match averaging > 0.0 {
            true => self.scorer.each(|member| member.average_with(averaging)),
            false => Ok(()),
        }
    }

    fn rows(&self) -> [u64; 3] {
        [&self.splits.train, &self.splits.validation, &self.splits.test]
            .map(|part| part.len() as u64)
    }

    /// Trains to the end, and measures the best model on the test rows.
    ///
    /// # Errors
    /// Returns [`TrainError::NonFinite`], [`TrainError::Interrupted`], or the error that prevents a
    /// checkpoint from being written.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        self.write_metrics(None)?;
        let memory = self.memory.clone();
        while !self.is_over() {
            self.epoch(observer).map_err(out_of_memory(&memory))?;
        }
        self.finish(observer).map_err(out_of_memory(&memory))
    }

    fn is_over(&self) -> bool {
        let (train, progress) = (&self.manifest.config.train, &self.manifest.progress);
        let waited = progress.history.iter().rev().take_while(|record| !record.best).count();
        let out_of_patience = train.patience > 0
            && !self.splits.validation.is_empty()
            && waited >= train.patience as usize;
        progress.epochs_done >= train.epochs || out_of_patience
    }

    /// Returns whether the model must be measured now, within an epoch.
    fn is_evaluation_due(&self) -> bool {
        let (train, progress) = (&self.manifest.config.train, &self.manifest.progress);
        // Without a new prediction since then, all batches were skipped, and nothing was learned.
        progress.batches_done > 0
            && !self.predictions.is_empty()
            && train
                .evaluate_every
                .is_some_and(|every| every.is_due(progress.batches_done, train.batch_size))
    }

    fn epoch(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let epoch = self.manifest.progress.epochs_done + 1;
        let TrainConfig { batch_size, seed, evaluate_every, checkpoint_seconds: every, .. } =
            self.manifest.config.train;
        let rate = self.manifest.config.bag_dropout();
        let num_rows = self.splits.train.len();
        let order = |member| {
            let mut order = with_room(num_rows)?;
            order.extend(0..num_rows as u32);
            Philox::new(member_seed(seed, member), ORDER_STREAM + u64::from(epoch))
                .shuffle(&mut order);
            Ok(order)
        };
        let orders =
            (0..self.scorer.members.len()).map(order).collect::<Result<Vec<Vec<u32>>>>()?;
        let total = num_rows.div_ceil(batch_size) as u64;
        let (mut checkpoint, mut pending) = (Instant::now(), 0);
        while self.manifest.progress.batches_done < total {
            // After a checkpoint at this place, the evaluation is still due.
            if self.is_evaluation_due() {
                self.evaluate(epoch, observer)?;
                if self.is_over() {
                    return Ok(());
                }
            }
            let done = self.manifest.progress.batches_done + 1;
            let started = Instant::now();
            let start = (done as usize - 1) * batch_size;
            let rows = start..num_rows.min(start + batch_size);
            for (member, order) in orders.iter().enumerate() {
                self.splits.train.gather(&order[rows.clone()], &mut self.batch);
                let dropout = Dropout {
                    features: self.encoder.features(),
                    rate,
                    seed: member_seed(seed, member),
                };
                let dropout = (rate > 0.0).then_some(&dropout);
                self.scorer.learn(member, &mut self.batch, dropout)?;
            }
            let progress = &mut self.manifest.progress;
            progress.batches_done = done;
            progress.step += 1;
            progress.samples += rows.len() as u64;
            let stop = observer.stop_requested();
            let is_due = every > 0 && checkpoint.elapsed().as_secs() >= every;
            pending += 1;
            if stop
                || is_due
                || done == total
                || evaluate_every.is_some_and(|every| every.is_due(done, batch_size))
                || pending == PendingResults::<D>::BATCHES
            {
                pending = 0;
                self.collect((epoch, done, total), observer)?;
            }
            self.manifest.progress.train_seconds += started.elapsed().as_secs_f64();
            if stop || is_due {
                self.checkpoint(observer)?;
                checkpoint = Instant::now();
            }
            if stop {
                return Err(TrainError::Interrupted { epoch });
            }
        }
        self.end_epoch(epoch, observer)
    }

    /// Waits for the batches since the last call, and reports their results.
    fn collect(
        &mut self,
        (epoch, done, total): (u32, u64, u64),
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (losses, verdict) = self.scorer.collect(&mut self.predictions)?;
        let before = done - losses.len() as u64;
        // Every batch is a step of each member.
        let before_epoch = self.manifest.progress.step - done;
        if verdict.steps > self.skipped {
            if self.manifest.config.train.non_finite == NonFinite::Error {
                let batch = verdict.first - before_epoch;
                let loss = losses.get((batch - before) as usize - 1).copied().unwrap_or(f64::NAN);
                return Err(TrainError::NonFinite { epoch, batch, loss });
            }
            observer.skipped(epoch, verdict.last - before_epoch, verdict.steps - self.skipped);
            self.skipped = verdict.steps;
        }
        for (batch, loss) in (before + 1..).zip(losses) {
            observer.batch(epoch, batch, total, loss);
        }
        Ok(())
    }

    /// Measures the model at the end of an epoch, and writes a checkpoint.
    fn end_epoch(&mut self, epoch: u32, observer: &mut dyn Observer) -> Result<()> {
        let progress = &self.manifest.progress;
        if !self.predictions.is_empty() {
            self.evaluate(epoch, observer)?;
        } else if progress.history.last().is_none_or(|record| record.epoch < epoch) {
            let all_skipped = !self.splits.train.is_empty();
            let reason =
                if all_skipped { "the loss of no batch is finite" } else { "no training rows" };
            return Err(model_error(self.dir.dir().path(), reason));
        }
        self.manifest.progress.epochs_done = epoch;
        self.manifest.progress.batches_done = 0;
        self.checkpoint(observer)?;
        self.write_metrics(None)
    }

    /// Measures the model, and keeps it if it is the best one so far. Within an epoch, a checkpoint
    /// makes that take effect.
    fn evaluate(&mut self, epoch: u32, observer: &mut dyn Observer) -> Result<()> {
        let TrainConfig { loss, select, .. } = self.manifest.config.train;
        let Some(train) = std::mem::take(&mut self.predictions).metrics_of(loss) else {
            return Ok(());
        };
        self.scorer.each(Dlrm::swap_averages)?;
        let validation =
            self.scorer.score(&self.splits.validation, &mut self.batch)?.metrics_of(loss);
        let progress = &self.manifest.progress;
        let seconds =
            progress.history.iter().fold(progress.train_seconds, |rest, r| rest - r.seconds);
        let last = progress.history.last().map_or(0, |record| record.step);
        let samples = progress.samples - self.samples_until(last);
        let best = match (&validation, progress.best().and_then(|r| r.validation.as_ref())) {
            (Some(now), Some(before)) => is_better(select, now, before),
            _ => true,
        };
        let rows = self.splits.train.len() as u64;
        let record = EvaluationRecord {
            epoch,
            share_of_epoch: (progress.samples - u64::from(epoch - 1) * rows) as f64 / rows as f64,
            step: progress.step,
            train,
            validation,
            best,
            seconds,
            samples_per_second: rate(samples, seconds),
        };
        observer.evaluation(&record);
        let is_within = !record.ends_epoch();
        self.manifest.progress.history.push(record);
        if best {
            self.manifest.progress.best_epoch = epoch;
            let tensors = self.scorer.tensors(|member| member.tensors())?;
            self.dir.write_tensors(&mut self.manifest, "best", &tensors)?;
        }
        self.scorer.each(Dlrm::swap_averages)?;
        if is_within {
            if best {
                self.checkpoint(observer)?;
            }
            self.write_metrics(None)?;
        }
        Ok(())
    }

    /// Returns the number of samples in the first steps of the run.
    fn samples_until(&self, step: u64) -> u64 {
        let (rows, batch_size) =
            (self.splits.train.len() as u64, self.manifest.config.train.batch_size as u64);
        let steps = rows.div_ceil(batch_size).max(1);
        step / steps * rows + (step % steps * batch_size).min(rows)
    }

    fn finish(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let expected = expect_parameters(&self.manifest.config, &self.encoder);
        let best = self.dir.dir().read_tensors(&self.manifest, "best", expected)?;
        self.scorer.load(&best, |member, file| member.load(file))?;
        let test = self.scorer.score(&self.splits.test, &mut self.batch)?;
        let loss = self.manifest.config.train.loss;
        let rows = if test.is_empty() { &self.splits.validation } else { &self.splits.test };
        let measure = || {
            let progress = &mut |done, total| observer.importance(done, total);
            importance(&mut self.scorer, &self.encoder, rows, loss, progress)
        };
        let importance = self.report.importance.then(measure).transpose()?;
        let progress = &self.manifest.progress;
        let of_best = progress.best();
        let outcome = Outcome {
            test: test.metrics_of(loss),
            validation: of_best.and_then(|record| record.validation),
            best_epoch: progress.best_epoch,
            best_step: of_best.map_or(0, |record| record.step),
            train_seconds: progress.train_seconds,
            samples_per_second: rate(progress.samples, progress.train_seconds),
            importance,
        };
        let report = Report {
            manifest: &self.manifest,
            outcome: &outcome,
            splits: &self.splits,
            test: &test,
            config_text: self.report.config_text.as_deref(),
        };
        report.write(&self.dir)?;
        self.write_metrics(Some(&outcome))?;
        if !self.manifest.progress.finished {
            self.manifest.progress.finished = true;
            // The state of the optimizers is no longer needed.
            self.manifest.files.remove("state");
            self.commit(observer)?;
        }
        Ok(outcome)
    }

    /// Writes the state that `--resume` needs, and makes all written files take effect.
    fn checkpoint(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let mut tensors = self.scorer.tensors(|member| {
            let mut tensors = member.tensors()?;
            tensors.extend(member.optimizer_tensors()?);
            tensors.extend(member.average_tensors()?);
            Ok(tensors)
        })?;
        tensors.extend(self.predictions.export());
        self.dir.write_tensors(&mut self.manifest, "state", &tensors)?;
        self.commit(observer)
    }

    /// Makes the written files take effect.
    fn commit(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if let Some(kept) = self.dir.commit(&self.manifest)? {
            observer.replaced(&kept);
        }
        Ok(())
    }

    /// Writes `metrics.jsonl`: a line for each evaluation, and one for the outcome of training.
    fn write_metrics(&self, outcome: Option<&Outcome>) -> Result<()> {
        let records = self.manifest.progress.history.iter().map(serde_json::to_string);
        let lines = records.chain(outcome.map(serde_json::to_string));
        let text: String = lines.map(|line| line.unwrap_or_default() + "\n").collect();
        self.dir.write_derived(METRICS, &text)
    }
}

/// Returns the factor of the weight decay for each row of each table; see
/// [`TrainConfig::even_decay`].
fn even_decay(train: &Dataset, encoder: &Encoder, steps_per_epoch: u64) -> Result<Vec<f32>> {
    let scale = |count: u32| {
        let occurrences_per_step = f64::from(count.max(1)) / steps_per_epoch.max(1) as f64;
        (1.0 / -(-occurrences_per_step).exp_m1()) as f32
    };
    let mut scales =
        with_room(sum(encoder.features().iter().map(|feature| feature.num_embeddings)))?;
    for (f, feature) in encoder.features().iter().enumerate() {
        scales.extend(train.id_counts(f, feature.num_embeddings)?.into_iter().map(scale));
    }
    Ok(scales)
}

fn rate(samples: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { samples as f64 / seconds } else { 0.0 }
}

fn is_better(select: Selection, now: &Metrics, before: &Metrics) -> bool {
    match select {
        Selection::Loss => now.minimised() < before.minimised(),
        Selection::Logloss => now.logloss < before.logloss,
        Selection::Auc => now.auc > before.auc,
    }
}
