//! The deep-learning recommendation model of Naumov et al. (2019): a bottom MLP for the dense
//! features, embedding bags for the sparse ones, their interaction, and a top MLP that ends in one
//! logit.

use super::average::Averages;
use super::buffers::{BackwardBuffers, BatchView, Buffers, Seams};
use super::config::{DlrmConfig, Mlps};
use super::embedding::EmbeddingBagCollection;
use super::layers::{Backward, Forward, Stack, matrix, matrix_mut};
use super::memory::MemoryPlan;
use super::mlp::{BackwardPass, ForwardPass};
use super::optimizer::{OptimizerState, Optimizers};
use super::pieces::Pieces;
use super::step::Place;
use crate::dtype::Index;
use crate::error::{Error, Result, expect_at_least, expect_size, invalid};
use crate::ops::finite_check::{NonFinite, Verdict};
use crate::ops::index_sort::Sort;
use crate::ops::interaction::{self, Features, FeaturesMut};
use crate::ops::loss;
use crate::ops::matrix::matrix_name;
use crate::ops::pooled_interaction::Interact;
use crate::ops::{Accum, Backend, Extent, Matrix, MatrixMut, Precision};
use crate::philox::Philox;

pub(super) const OP: &str = "Dlrm";

/// A model on a backend.
///
/// Buffers for activations and gradients are made for the largest batch so far: a step with a batch
/// no larger allocates nothing.
pub struct Dlrm<D: Backend> {
    pub(super) device: D,
    pub(super) config: DlrmConfig,
    pub(super) mlps: Mlps,
    pub(super) embedding: EmbeddingBagCollection<D>,
    /// The parameters of both MLPs.
    pub(super) parameters: D::Buffer<f32>,
    pub(super) training: Option<Training<D>>,
    pub(super) averages: Option<Averages<D>>,
    pub(super) non_finite: NonFinite,
    /// Recorded steps: made before the buffers that they are about are replaced, they go before
    /// them, too.
    pub(super) recordings: Vec<(Place, D::Recording)>,
    pub(super) buffers: Buffers<D>,
}

/// What only training needs.
pub(super) struct Training<D: Backend> {
    pub(super) optimizers: Optimizers,
    pub(super) dense_state: OptimizerState<D>,
    /// Steps taken so far.
    pub(super) step: u64,
    pub(super) grad_parameters: D::Buffer<f32>,
    /// See [`Verdict`].
    pub(super) verdict: D::Buffer<u64>,
}

impl<D: Backend> Training<D> {
    /// The number of the step that is due, from 1.
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
    /// A model with parameters drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for sizes that do not fit
    /// together; [`Error::NotEnoughMemory`](crate::Error::NotEnoughMemory), before anything is
    /// asked for or drawn, for more parameters than there is memory for; those of
    /// [`Device::alloc`](crate::ops::Device::alloc).
    pub fn new(device: D, config: DlrmConfig, seed: u64) -> Result<Self> {
        let tables = config.check()?;
        let (mlps, len) = config.mlps();
        MemoryPlan::of_parameters(&config, (&tables, len), 1).check(&device)?;
        // Streams below this one belong to the tables.
        let mut random = Philox::new(seed, 1 << 32);
        let mut parameters = device.alloc(len)?;
        let mut pieces = Pieces::of(&device, &mut parameters)?;
        [&mlps.bottom, &mlps.top, &mlps.logit]
            .into_iter()
            .try_for_each(|mlp| mlp.init(&mut pieces, &mut random))?;
        pieces.finish()?;
        let embedding = EmbeddingBagCollection::new(
            &device,
            tables,
            config.table_dtype,
            config.table_init,
            seed,
        )?;
        let mut buffers = Buffers::new(&device, &config, (&mlps, len), &embedding, (0, 0), false)?;
        buffers.layers.refresh(&device, &parameters)?;
        let (training, averages, non_finite, recordings) =
            (None, None, NonFinite::default(), Vec::new());
        Ok(Self {
            device,
            config,
            mlps,
            embedding,
            parameters,
            training,
            averages,
            non_finite,
            recordings,
            buffers,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &DlrmConfig {
        &self.config
    }

    /// The backend that the model lives on.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The embedding tables.
    pub fn embedding(&self) -> &EmbeddingBagCollection<D> {
        &self.embedding
    }

    /// The number of parameters of tables and layers.
    pub fn num_parameters(&self) -> usize {
        let layers = self.mlps.layers().map(|(_, _, layer)| layer.num_parameters());
        self.embedding.tables().as_ref().num_weights() + layers.sum::<usize>()
    }

    /// Prepares for training from step 1, with nothing remembered by the optimizers.
    ///
    /// # Errors
    /// Fails if a setting has no meaning, such as a rate that is not a number, and as
    /// [`Device::alloc`](crate::ops::Device::alloc) does.
    pub fn optimize_with(&mut self, optimizers: Optimizers) -> Result<()> {
        optimizers.check(OP)?;
        self.recordings.clear();
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

    /// Multiplies the weight decay of each table row from now on by the entry of its linear row
    /// number (rows counted through all tables).
    ///
    /// # Errors
    /// Fails if there is not one entry for each row, or if an entry is no finite number of 0 or
    /// more, and as [`Device::alloc`](crate::ops::Device::alloc) does.
    pub fn scale_table_decay(&mut self, scale: &[f32]) -> Result<()> {
        self.recordings.clear();
        self.embedding.scale_decay(&self.device, scale)
    }

    /// Keeps a moving average of all parameters from now on: after each step,
    /// `average += (1 - decay) (parameter - average)`. The decay begins lower, as
    /// `(1 + t) / (5 + t)` at step `t`. Costs a pass over all parameters in each step, and their
    /// memory once more.
    ///
    /// # Errors
    /// Fails if the tables are not of single precision or the decay is outside [0, 1], and as
    /// [`Device::alloc`](crate::ops::Device::alloc) does.
    pub fn average_with(&mut self, decay: f32) -> Result<()> {
        if !(0.0..=1.0).contains(&decay) {
            return Err(invalid(OP, "decay", format!("{decay}, but must be in [0, 1]")));
        }
        self.recordings.clear();
        self.averages =
            Some(Averages::new(&self.device, decay, &self.parameters, &self.embedding)?);
        Ok(())
    }

    /// Exchanges the parameters with their averages, if there are any: to predict with the averages
    /// or to save them. Exchange them back before the next step.
    ///
    /// # Errors
    /// None, once [`Self::average_with`] has succeeded, but those of the device.
    pub fn swap_averages(&mut self) -> Result<()> {
        match &mut self.averages {
            Some(averages) => averages.swap(&mut self.parameters, &mut self.embedding)?,
            None => return Ok(()),
        }
        self.buffers.layers.refresh(&self.device, &self.parameters)
    }

    /// The number of steps taken since [`Self::optimize_with`].
    pub fn step(&self) -> u64 {
        self.training.as_ref().map_or(0, |training| training.step)
    }

    /// Runs forward and backward. The mean loss is left for [`Self::last_loss`], the gradients of
    /// the layers for [`Self::layer_grads`] and for a step, those of the table rows for
    /// [`Self::sparse_grad`]. `accum` says whether the layers' gradients are added to what is
    /// there.
    ///
    /// # Errors
    /// Fails if the batch does not fit the model, or if it has bad ids
    /// ([`Error::IndexOutOfRange`](crate::Error::IndexOutOfRange)) or labels
    /// ([`Error::LabelOutOfRange`](crate::Error::LabelOutOfRange)).
    pub fn loss_and_grad<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        accum: Accum,
    ) -> Result<()> {
        let rows = batch.dense.rows;
        let labels = batch.labels.ok_or_else(unlabelled)?;
        self.forward(batch, true)?;
        let Self { device, config, mlps, parameters, buffers, .. } = self;
        let Buffers { layers, values, mean_loss, backward, .. } = buffers;
        let (training, BackwardBuffers { grads, sorted, workspace }) =
            trainable(&mut self.training, backward)?;
        let grad_parameters = &mut training.grad_parameters;
        let tables = self.embedding.tables();
        let [dim, pooled_width, interacted, top_width, _] =
            Seams::<D>::columns(config, tables.as_ref());
        let width = config.interaction_width();
        let loss = loss::Forward {
            loss: config.loss,
            threshold: config.loss_threshold,
            loss_scale: config.precision.loss_scale(),
            logits: D::slice(&values.logits, 0..rows),
            labels: D::reborrow(&labels),
            mean: D::view_mut(mean_loss),
            grad_logits: Some(D::slice_mut(&mut grads.logits, 0..rows)),
            workspace: D::view_mut(workspace),
        };
        loss.run(device)?;
        let pass = BackwardPass {
            weights: parameters,
            precision: Precision::Full,
            input: matrix(&values.top, rows, top_width),
            between: &[],
            output: matrix(&values.logits, rows, 1),
            grads: &mut [],
            grad_output: matrix_mut(&mut grads.logits, rows, 1),
            grad_parameters,
            grad_input: Some(matrix_mut(&mut grads.top, rows, top_width)),
            accum,
            workspace,
        };
        mlps.logit.backward(device, pass)?;
        let pass = Backward {
            parameters,
            input: matrix(&values.interacted, rows, interacted),
            output: matrix(&values.top, rows, top_width),
            grad_output: &mut grads.top,
            grad_input: Some(matrix_mut(&mut grads.interacted, rows, interacted)),
            grad_parameters,
            accum,
            workspace,
        };
        layers.backward(device, (Stack::Top, &mlps.top), pass)?;
        let interaction = interaction::Backward {
            interaction: config.interaction,
            dim,
            precision: config.precision.of_products(),
            features: Features::Split {
                dense: matrix(&values.bottom, rows, dim),
                sparse: matrix(&values.pooled, rows, pooled_width),
            },
            grad_output: Matrix { cols: width, ..matrix(&grads.interacted, rows, interacted) },
            grad_features: FeaturesMut::Split {
                dense: matrix_mut(&mut grads.bottom, rows, dim),
                sparse: matrix_mut(&mut grads.pooled, rows, pooled_width),
            },
        };
        interaction.run(device)?;
        let pass = Backward {
            parameters,
            input: batch.dense.reborrow(),
            output: matrix(&values.bottom, rows, dim),
            grad_output: &mut grads.bottom,
            grad_input: None,
            grad_parameters,
            accum,
            workspace,
        };
        layers.backward(device, (Stack::Bottom, &mlps.bottom), pass)?;
        let workspace = D::view_mut(workspace);
        Sort { tables, bags: batch.bags.reborrow(), sorted, workspace }.run(device)
    }

    /// The mean loss of the last step's batch, before the step. Waits for the device.
    ///
    /// # Errors
    /// What the device found meanwhile; under [`NonFinite::Error`] a step whose loss or gradient
    /// was not finite.
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

    /// Copies the mean loss of the last step's batch, one value, without waiting for it.
    ///
    /// # Errors
    /// A wrong length.
    pub fn copy_last_loss(&self, target: D::SliceMut<'_, f64>) -> Result<()> {
        self.device.copy(D::view(&self.buffers.mean_loss), target)
    }

    /// Copies the logits that the last samples were given, as many as there is room for, without
    /// waiting for them.
    ///
    /// # Errors
    /// Room for more samples than the last batch had.
    pub fn copy_last_logits(&self, target: D::SliceMut<'_, f32>) -> Result<()> {
        self.device.copy(self.last_logits(target.extent())?, target)
    }

    /// The logits of the first `len` samples of the last batch.
    fn last_logits(&self, len: usize) -> Result<D::Slice<'_, f32>> {
        expect_at_least(OP, "the last batch", self.buffers.samples, len)?;
        Ok(D::slice(&self.buffers.values.logits, 0..len))
    }

    /// Computes the probabilities that the samples of the last step were given before it, as many
    /// as there is room for. Waits for the device.
    ///
    /// # Errors
    /// Fails if there is room for more samples than the last batch had, and with any error that the
    /// device has found meanwhile.
    pub fn last_probabilities(&self, probabilities: &mut [f32]) -> Result<()> {
        self.device.download(self.last_logits(probabilities.len())?, probabilities)?;
        self.device.synchronize()?;
        probabilities.iter_mut().for_each(|p| *p = sigmoid(*p));
        Ok(())
    }

    /// The logit of each sample.
    ///
    /// # Errors
    /// A batch that does not fit the model; bad ids
    /// ([`Error::IndexOutOfRange`](crate::Error::IndexOutOfRange)).
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

    /// The probability of each sample.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn predict<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        probabilities: &mut [f32],
    ) -> Result<()> {
        self.logits(batch, probabilities)?;
        probabilities.iter_mut().for_each(|p| *p = sigmoid(*p));
        Ok(())
    }

    /// As [`Self::logits`], without waiting for them: they stay on the device, where bad ids may be
    /// noted, too.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn logits_on_device<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        logits_out: D::SliceMut<'_, f32>,
    ) -> Result<()> {
        expect_size(OP, "logits", logits_out.extent(), batch.dense.rows)?;
        self.forward(batch, false)?;
        self.copy_last_logits(logits_out)
    }

    fn forward<I: Index>(&mut self, batch: BatchView<'_, D, I>, train: bool) -> Result<()> {
        let (rows, ids) = (batch.dense.rows, batch.bags.num_indices());
        expect_size(OP, "batch.bags.batch_size", batch.bags.batch_size, rows)?;
        // Before there is room made for what only claims to be there.
        batch.dense.check(OP, matrix_name!("batch.dense"), rows, self.config.num_dense)?;
        batch.bags.check(OP, self.embedding.tables().as_ref())?;
        self.grow(rows, ids, train)?;
        let Self { device, config, mlps, embedding, parameters, buffers, .. } = self;
        let Buffers { layers, values, samples, argmax, .. } = buffers;
        *samples = 0;
        if !train {
            layers.pack(device, mlps.hidden(), parameters)?;
        }
        let tables = embedding.tables().as_ref();
        let [dim, pooled_width, interacted, top_width, _] = Seams::<D>::columns(config, tables);
        let width = config.interaction_width();
        let output = matrix_mut(&mut values.bottom, rows, dim);
        let pass = Forward { parameters, input: batch.dense.reborrow(), output };
        layers.forward(device, (Stack::Bottom, &mlps.bottom), pass)?;
        let pooled = matrix_mut(&mut values.pooled, rows, pooled_width);
        let argmax = argmax.as_mut().map(|argmax| matrix_mut(argmax, rows, pooled_width));
        let interact = Interact {
            keeps_pooled: train,
            interaction: config.interaction,
            dim,
            precision: config.precision.of_products(),
            dense: matrix(&values.bottom, rows, dim),
            output: MatrixMut {
                cols: width,
                ..matrix_mut(&mut values.interacted, rows, interacted)
            },
        };
        embedding.forward_and_interact(device, batch.bags.reborrow(), pooled, argmax, interact)?;
        let input = matrix(&values.interacted, rows, interacted);
        let pass =
            Forward { parameters, input, output: matrix_mut(&mut values.top, rows, top_width) };
        layers.forward(device, (Stack::Top, &mlps.top), pass)?;
        let pass = ForwardPass {
            weights: parameters,
            packed: None,
            biases: parameters,
            precision: Precision::Full,
            input: matrix(&values.top, rows, top_width),
            between: &mut [],
            output: matrix_mut(&mut values.logits, rows, 1),
        };
        mlps.logit.forward(device, pass)?;
        *samples = rows;
        Ok(())
    }

    /// Makes room for a batch that is larger than all before.
    pub(super) fn grow(
        &mut self,
        batch_size: usize,
        num_indices: usize,
        train: bool,
    ) -> Result<()> {
        let known = &self.buffers;
        let train = train || known.backward.is_some();
        if batch_size > known.batch_size
            || num_indices > known.num_indices
            || (train && known.backward.is_none())
        {
            let sizes = (batch_size.max(known.batch_size), num_indices.max(known.num_indices));
            let layers = (&self.mlps, self.parameters.extent());
            self.recordings.clear();
            self.buffers =
                Buffers::new(&self.device, &self.config, layers, &self.embedding, sizes, train)?;
            self.buffers.layers.refresh(&self.device, &self.parameters)?;
        }
        Ok(())
    }
}

pub(crate) fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

pub(super) fn unlabelled() -> crate::Error {
    invalid(OP, "batch.labels", "training needs them")
}

pub(super) fn untrained() -> crate::Error {
    invalid(OP, "optimizers", "none: call `optimize_with` before training")
}

pub(super) fn trainable<'a, D: Backend>(
    training: &'a mut Option<Training<D>>,
    backward: &'a mut Option<BackwardBuffers<D>>,
) -> Result<(&'a mut Training<D>, &'a mut BackwardBuffers<D>)> {
    training.as_mut().zip(backward.as_mut()).ok_or_else(untrained)
}
