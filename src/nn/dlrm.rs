//! The deep-learning recommendation model of Naumov et al. (2019): a bottom MLP for the dense
//! features, embedding bags for the sparse ones, their interaction, and a top MLP that ends in one
//! logit.

use super::average::Averages;
use super::buffers::{BackwardBuffers, BatchView, Buffers, Capacity};
use super::config::{DlrmConfig, Mlps};
use super::embedding::EmbeddingBagCollection;
use super::graphs::Graphs;
use super::memory::MemoryPlan;
use super::optimizer::Optimizers;
use super::pieces::Pieces;
use crate::dtype::Index;
use crate::error::{Error, Result, expect_at_least, expect_size, invalid};
use crate::ops::finite_check::{NonFinite, Verdict};
use crate::ops::{Backend, Extent, OptimizerState, View, ViewMut};
use crate::philox::Philox;

/// The name of the model in errors.
pub(super) const OP: &str = "Dlrm";

/// A model on a backend.
///
/// The buffers of activations and gradients grow with the largest batch so far: a step with a batch
/// that is no larger allocates nothing.
pub struct Dlrm<D: Backend> {
    pub(super) device: D,
    pub(super) config: DlrmConfig,
    pub(super) mlps: Mlps,
    pub(super) embedding: EmbeddingBagCollection<D>,
    /// The parameters of both MLPs.
    pub(super) parameters: D::Buffer<f32>,
    /// The state that only training needs, `None` until [`Self::optimize_with`] is called.
    pub(super) training: Option<Training<D>>,
    /// The averages of the parameters, `None` until [`Self::average_with`] is called.
    pub(super) averages: Option<Averages<D>>,
    pub(super) non_finite: NonFinite,
    /// The recorded steps. This field is declared before `buffers`, and so dropped first, because
    /// the recordings hold the addresses of these buffers.
    pub(super) graphs: Graphs<D>,
    pub(super) buffers: Buffers<D>,
}

/// The state that only training needs.
pub(super) struct Training<D: Backend> {
    pub(super) optimizers: Optimizers,
    pub(super) dense_state: OptimizerState<D>,
    /// The number of steps taken so far.
    pub(super) step: u64,
    /// The gradients of the parameters of both MLPs, times the loss scale.
    pub(super) grad_parameters: D::Buffer<f32>,
    /// The words of a [`Verdict`].
    pub(super) verdict: D::Buffer<u64>,
}

impl<D: Backend> Training<D> {
    /// Returns the number of the step that is due, from 1.
    pub(super) fn next_step(&self) -> Result<u64> {
        let error = || {
            invalid(
                OP,
                "step",
                format!("{} steps have been taken: there is no number for one more", self.step),
            )
        };
        self.step.checked_add(1).ok_or_else(error)
    }
}

impl<D: Backend> Dlrm<D> {
    /// Makes a model with parameters drawn from `seed`.
    ///
    /// # Errors
    /// Returns [`Error::InvalidArgument`] for sizes that do not fit together, and
    /// [`Error::NotEnoughMemory`], before anything is allocated or drawn, if the device has not
    /// enough memory for the parameters. Propagates errors of
    /// [`Device::alloc`](crate::ops::Device::alloc).
    pub fn new(device: D, config: DlrmConfig, seed: u64) -> Result<Self> {
        let tables = config.check()?;
        let (mlps, len) = config.mlps();
        MemoryPlan::of_parameters(&config, (&tables, len), 1).check(&device)?;
        let parameters = draw_layers(&device, &mlps, len, seed)?;
        let DlrmConfig { table_dtype, table_init, .. } = config;
        let embedding =
            EmbeddingBagCollection::new(&device, tables, table_dtype, table_init, seed)?;
        let capacity = Capacity { batch_size: 0, num_indices: 0 };
        let mut buffers =
            Buffers::new(&device, &config, (&mlps, len), &embedding, capacity, false)?;
        buffers.layers.refresh(&device, &parameters)?;
        Ok(Self {
            device,
            config,
            mlps,
            embedding,
            parameters,
            training: None,
            averages: None,
            non_finite: NonFinite::default(),
            graphs: Graphs::default(),
            buffers,
        })
    }

    /// Returns the shape of the model.
    pub fn config(&self) -> &DlrmConfig {
        &self.config
    }

    /// Returns the backend that the model lives on.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Returns the number of parameters of tables and layers.
    pub fn num_parameters(&self) -> usize {
        let layers = self.mlps.layers().map(|(_, _, layer)| layer.num_parameters());
        self.embedding.tables().as_ref().num_weights() + layers.sum::<usize>()
    }

    /// Prepares for training from step 1, with zeros as the state of the optimizers.
    ///
    /// # Errors
    /// Returns an error if a setting has no meaning, such as a learning rate that is not a number.
    /// Propagates errors of [`Device::alloc`](crate::ops::Device::alloc).
    pub fn optimize_with(&mut self, optimizers: Optimizers) -> Result<()> {
        optimizers.check(OP)?;
        self.graphs.clear();
        let len = self.parameters.extent();
        let dense = optimizers.dense.optimizer.for_dense();
        self.embedding.reset_state(&self.device, optimizers.tables.optimizer)?;
        self.training = Some(Training {
            optimizers,
            dense_state: OptimizerState::new(&self.device, dense, len, len)?,
            step: 0,
            grad_parameters: self.device.alloc(len)?,
            verdict: self.device.alloc(Verdict::WORDS)?,
        });
        Ok(())
    }

    /// Multiplies the weight decay of each table row from now on by an entry of `scale`, which has
    /// one entry for each linear row number: rows are counted through all tables.
    ///
    /// # Errors
    /// Returns an error if `scale` has not one entry for each row, or if an entry is not a finite
    /// number of 0 or more. Propagates errors of [`Device::alloc`](crate::ops::Device::alloc).
    pub fn scale_table_decay(&mut self, scale: &[f32]) -> Result<()> {
        self.graphs.clear();
        self.embedding.scale_decay(&self.device, scale)
    }

    /// Keeps a moving average of all parameters from now on: after each step,
    /// `average += (1 - decay) (parameter - average)`. The decay of step `t` is
    /// `(1 + t) / (5 + t)` while that is less than `decay`. The average costs a pass over all
    /// parameters in each step, and their memory once more.
    ///
    /// # Errors
    /// Returns an error if the tables are not of `f32` or if `decay` is outside [0, 1]. Propagates
    /// errors of [`Device::alloc`](crate::ops::Device::alloc).
    pub fn average_with(&mut self, decay: f32) -> Result<()> {
        if !(0.0..=1.0).contains(&decay) {
            return Err(invalid(OP, "decay", format!("{decay}, but must be in [0, 1]")));
        }
        self.graphs.clear();
        self.averages =
            Some(Averages::new(&self.device, decay, &self.parameters, &self.embedding)?);
        Ok(())
    }

    /// Exchanges the parameters with their averages, if there are any: to predict with the averages
    /// or to save them. Exchange them back before the next step.
    ///
    /// # Errors
    /// Returns errors of the device only, once [`Self::average_with`] has succeeded.
    pub fn swap_averages(&mut self) -> Result<()> {
        match &mut self.averages {
            Some(averages) => averages.swap(&mut self.parameters, &mut self.embedding)?,
            None => return Ok(()),
        }
        self.buffers.layers.refresh(&self.device, &self.parameters)
    }

    /// Returns the number of steps taken since [`Self::optimize_with`].
    pub fn step(&self) -> u64 {
        self.training.as_ref().map_or(0, |training| training.step)
    }

    /// Returns the mean loss of the last step's batch, before the step. Waits for the device.
    ///
    /// # Errors
    /// Returns the errors that the device has found meanwhile, and under [`NonFinite::Error`] an
    /// [`Error::NonFinite`] if the loss or a gradient of a step was not finite.
    pub fn last_loss(&self) -> Result<f64> {
        let mut loss = [0f64];
        self.device.download(D::view(&self.buffers.mean_loss), &mut loss)?;
        self.device.synchronize()?;
        if self.training.is_some() && self.non_finite == NonFinite::Error {
            let Verdict { steps, first, .. } = self.verdict()?;
            if steps > 0 {
                return Err(Error::NonFinite { step: first });
            }
        }
        Ok(loss[0])
    }

    /// Copies the mean loss of the last step's batch into `target`, which has one element, without
    /// waiting for it.
    ///
    /// # Errors
    /// Returns an error if `target` has another length.
    pub fn copy_last_loss(&self, target: ViewMut<'_, D, f64>) -> Result<()> {
        self.device.copy(D::view(&self.buffers.mean_loss), target)
    }

    /// Copies the logits of the first samples of the last batch into `target`, as many as it has
    /// elements, without waiting for them.
    ///
    /// # Errors
    /// Returns an error if `target` has more elements than the last batch had samples.
    pub fn copy_last_logits(&self, target: ViewMut<'_, D, f32>) -> Result<()> {
        self.device.copy(self.last_logits(target.len())?, target)
    }

    /// Views the logits of the first `len` samples of the last batch.
    fn last_logits(&self, len: usize) -> Result<View<'_, D, f32>> {
        expect_at_least(OP, "the last batch", self.buffers.samples, len)?;
        Ok(self.buffers.logits.matrix(len).data)
    }

    /// Computes the probabilities of the first samples of the last step's batch, as they were
    /// before that step: as many as `probabilities` has elements. Waits for the device.
    ///
    /// # Errors
    /// Returns an error if `probabilities` has more elements than the last batch had samples, and
    /// the errors that the device has found meanwhile.
    pub fn last_probabilities(&self, probabilities: &mut [f32]) -> Result<()> {
        self.device.download(self.last_logits(probabilities.len())?, probabilities)?;
        self.device.synchronize()?;
        probabilities.iter_mut().for_each(|p| *p = sigmoid(*p));
        Ok(())
    }

    /// Computes the logit of each sample into `logits_out`, `[batch_size]`. Waits for the device.
    ///
    /// # Errors
    /// Returns an error if the batch does not fit the model or if it has bad ids
    /// ([`Error::IndexOutOfRange`]).
    pub fn logits<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        logits_out: &mut [f32],
    ) -> Result<()> {
        expect_size(OP, "logits", logits_out.len(), batch.dense.rows)?;
        self.forward(batch, false)?;
        self.device.download(self.last_logits(logits_out.len())?, logits_out)?;
        self.device.synchronize()
    }

    /// Computes the probability of each sample into `probabilities`, `[batch_size]`. Waits for the
    /// device.
    ///
    /// # Errors
    /// Returns the errors of [`Self::logits`].
    pub fn predict<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        probabilities: &mut [f32],
    ) -> Result<()> {
        self.logits(batch, probabilities)?;
        probabilities.iter_mut().for_each(|p| *p = sigmoid(*p));
        Ok(())
    }

    /// Computes the logit of each sample into `logits_out`, `[batch_size]`, on the device, without
    /// waiting for it. Bad ids may be reported by a later call that waits.
    ///
    /// # Errors
    /// Returns the errors of [`Self::logits`].
    pub fn logits_on_device<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        logits_out: ViewMut<'_, D, f32>,
    ) -> Result<()> {
        expect_size(OP, "logits", logits_out.len(), batch.dense.rows)?;
        self.forward(batch, false)?;
        self.copy_last_logits(logits_out)
    }

    /// Allocates larger buffers if a batch of the size `batch` needs them, or those of the backward
    /// pass if `train` is set and there are none. Drops all recorded steps in that case.
    pub(super) fn grow(&mut self, batch: Capacity, train: bool) -> Result<()> {
        let Buffers { capacity, backward, .. } = &self.buffers;
        let train = train || backward.is_some();
        if capacity.covers(batch) && train == backward.is_some() {
            return Ok(());
        }
        let (capacity, layers) = (capacity.max(batch), (&self.mlps, self.parameters.extent()));
        self.graphs.clear();
        self.buffers =
            Buffers::new(&self.device, &self.config, layers, &self.embedding, capacity, train)?;
        self.buffers.layers.refresh(&self.device, &self.parameters)
    }
}

/// Draws the parameters of all layers from `seed`, in a buffer of `len` elements.
fn draw_layers<D: Backend>(
    device: &D,
    mlps: &Mlps,
    len: usize,
    seed: u64,
) -> Result<D::Buffer<f32>> {
    // The streams below this one belong to the tables.
    let mut random = Philox::new(seed, 1 << 32);
    let mut parameters = device.alloc(len)?;
    let mut pieces = Pieces::of(device, &mut parameters)?;
    for mlp in [&mlps.bottom, &mlps.top, &mlps.logit] {
        mlp.init(&mut pieces, &mut random)?;
    }
    pieces.finish()?;
    Ok(parameters)
}

/// Returns the probability that belongs to a logit.
pub(crate) fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

/// Returns the error for a batch without labels in training.
pub(super) fn unlabelled() -> Error {
    invalid(OP, "batch.labels", "training needs them")
}

/// Returns the error for training without [`Dlrm::optimize_with`].
pub(super) fn untrained() -> Error {
    invalid(OP, "optimizers", "none: call `optimize_with` before training")
}

/// Returns what only training needs, or the error if it has not been prepared.
pub(super) fn trainable<'a, D: Backend>(
    training: &'a mut Option<Training<D>>,
    backward: &'a mut Option<BackwardBuffers<D>>,
) -> Result<(&'a mut Training<D>, &'a mut BackwardBuffers<D>)> {
    training.as_mut().zip(backward.as_mut()).ok_or_else(untrained)
}
