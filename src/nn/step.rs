//! Steps of training: at once, in pieces, or recorded once and replayed.

use super::branch::Branch;
use super::buffers::{BackwardBuffers, BatchView, Buffers, Capacity};
use super::dlrm::{Dlrm, OP, Training, trainable, unlabelled, untrained};
use super::graphs::GraphKey;
use super::layers::{Layers, with_layers};
use super::optimizer::{Optimizers, PerGroup};
use super::passes::Found;
use super::staging::{self, Staging};
use crate::dtype::Index;
use crate::error::{Result, expect_size, invalid};
use crate::ops::finite_check::{Check, NonFinite, Verdict};
use crate::ops::optimizer::check_max_gradient;
use crate::ops::sparse_update::{PooledGrad, Reduce, SparseGrad};
use crate::ops::{
    Accum, Backend, Device, Host, StepControl, StepValues, UpdateRule, View, dense_update,
};

/// The control of the updates of a group in one step. It is a [`StepControl`] that still lacks the
/// gate: that is a view of the verdict, which the check of the step must be free to write first.
struct Control<'a, D: Device> {
    /// The values on the device that take the place of learning rate and number of the step.
    values: Option<View<'a, D, StepValues>>,
    /// Set if the updates change something only as far as the verdict of the step allows it.
    is_gated: bool,
}

impl<D: Device> Control<'_, D> {
    /// Returns the control with the gate that the verdict holds.
    fn with_verdict<'a>(&'a self, verdict: &'a D::Buffer<u64>) -> StepControl<'a, D> {
        let gate = Verdict::GATE..Verdict::GATE + 1;
        StepControl { values: self.values, gate: self.is_gated.then(|| D::slice(verdict, gate)) }
    }
}

impl<D: Backend> Dlrm<D> {
    /// Takes one step of training: [`Self::loss_and_grad`], then the optimizers. Each table row
    /// that was looked up takes one step with the sum of its gradients. [`Self::on_non_finite`]
    /// says what happens if the loss or a gradient is not finite.
    ///
    /// # Errors
    /// Returns the errors of [`Self::loss_and_grad`], and an error if 2⁶⁴ - 1 steps have been
    /// taken: then neither parameters nor optimizers have changed. Bad ids and labels that the
    /// backend reports later keep all steps from changing anything until they have been reported.
    pub fn train_step<I: Index>(&mut self, batch: BatchView<'_, D, I>) -> Result<()> {
        // Refuses bad settings before anything changes.
        self.rules()?;
        self.step_ops(batch, None)?;
        self.count_step()
    }

    /// Takes one step of training with a batch on the host, which is sent to the device while the
    /// step before is computed. A backend that can record ops, such as in a CUDA graph, records the
    /// first step of a size and replays it from then on, whatever the lengths of the bags. Such a
    /// step allocates nothing, waits for nothing, and sends only the batch and a few numbers.
    ///
    /// # Errors
    /// Returns the errors of [`Self::train_step`]. A batch that does not fit the model, or whose
    /// parts do not fit together, is refused before it is sent.
    pub fn train_staged<I: Index>(
        &mut self,
        staging: &mut Staging<D, I>,
        batch: BatchView<'_, Host, I>,
    ) -> Result<()> {
        let values = self.step_values()?;
        self.check_staged(staging, &batch)?;
        staging.receive(batch, Some(values))?;
        let (batch, values) = (staging.view(), staging.values());
        let (batch_size, num_indices) = (batch.dense.rows, batch.bags.num_indices());
        // Growth allocates and drops all recordings, so it must not happen while ops are recorded.
        self.grow(Capacity { batch_size, num_indices }, true)?;
        let key = GraphKey::new(&batch, &values, &self.parameters);
        if self.graphs.find(&key).is_none() {
            let device = self.device.clone();
            match device.record(|| self.step_ops(batch, Some(values)))? {
                // The backend cannot record, so the step runs here and there is no replay below.
                None => self.step_ops(batch, Some(values))?,
                Some(recording) => self.graphs.push(key, recording),
            }
        }
        if let Some(recording) = self.graphs.find(&key) {
            self.device.replay(recording)?;
            // A replay does not pass through `forward`, which sets this otherwise.
            self.buffers.samples = batch_size;
        }
        self.count_step()
    }

    /// Checks a batch before it is sent. The ops check their arguments when they are called, but a
    /// replay calls none of them.
    fn check_staged<I: Index>(
        &self,
        staging: &Staging<D, I>,
        batch: &BatchView<'_, Host, I>,
    ) -> Result<()> {
        if !staging.is_on(&self.device) {
            return Err(invalid(
                OP,
                "staging",
                "sends batches to another backend: make one of the model's device",
            ));
        }
        staging::check(batch)?;
        if batch.labels.is_none() {
            return Err(unlabelled());
        }
        expect_size(OP, "batch.dense.cols", batch.dense.cols, self.config.num_dense)?;
        batch.bags.check(OP, self.embedding.tables().as_ref())
    }

    /// Says what happens from now on if the loss or a gradient of a step is infinite or not a
    /// number; by default [`NonFinite::Error`].
    pub fn on_non_finite(&mut self, policy: NonFinite) {
        self.graphs.clear();
        self.non_finite = policy;
    }

    /// Returns the count of the steps since [`Self::optimize_with`] whose loss or gradient was not
    /// finite, and the first and the last of them. Waits for the device.
    ///
    /// # Errors
    /// Returns an error if [`Self::optimize_with`] has not been called, and the errors that the
    /// device has found meanwhile.
    pub fn verdict(&self) -> Result<Verdict> {
        let training = self.training.as_ref().ok_or_else(untrained)?;
        let mut words = [0; Verdict::WORDS];
        self.device.download(D::view(&training.verdict), &mut words)?;
        self.device.synchronize()?;
        Ok(Verdict::of(&words))
    }

    /// Reduces the gradient of the table rows that the last [`Self::loss_and_grad`] left, for the
    /// same batch, into `grad`: to keep, to merge with others, and to apply later
    /// ([`Self::apply`]).
    ///
    /// # Errors
    /// Returns an error if [`Self::optimize_with`] has not been called, and the errors of
    /// [`Reduce`].
    pub fn sparse_grad<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        grad: &mut SparseGrad<D>,
    ) -> Result<()> {
        let Buffers { layers, argmax, backward, .. } = &mut self.buffers;
        let (training, backward) = trainable(&mut self.training, backward)?;
        let BackwardBuffers { sorted, workspace, .. } = backward;
        let rows = batch.dense.rows;
        with_layers!(layers, layers => {
            let (_, buffers) = layers.split(&self.parameters);
            let source = PooledGrad {
                tables: self.embedding.tables(),
                bags: batch.bags,
                sorted,
                grad_output: buffers.pooled_grad(rows).ok_or_else(untrained)?,
                loss_scale: self.config.precision.loss_scale(),
                argmax: argmax.as_ref().map(|argmax| argmax.matrix(rows)),
                max_gradient: training.optimizers.tables.max_gradient,
            };
            Reduce { source, grad, workspace: D::view_mut(workspace) }.run(&self.device)
        })
    }

    /// Takes one step of the optimizers with the gradients of the layers that
    /// [`Self::loss_and_grad`] left or accumulated, and with the gradient `grad` of the table rows.
    /// Does not check whether they are finite.
    ///
    /// # Errors
    /// Returns an error if [`Self::optimize_with`] or [`Self::loss_and_grad`] has never been
    /// called, or if 2⁶⁴ - 1 steps have been taken, and the errors of
    /// [`sparse_update::Apply`](crate::ops::sparse_update::Apply) and [`dense_update::Update`].
    pub fn apply(&mut self, grad: &SparseGrad<D>) -> Result<()> {
        let rules = self.rules()?;
        // Without gradients of the layers, the tables must not change either.
        trainable(&mut self.training, &mut self.buffers.backward)?;
        let (_, weights) = self.embedding.split_mut();
        weights.apply(&self.device, grad, rules.tables)?;
        let control = Control { values: None, is_gated: false };
        self.update_layers(&control, &self.device.clone())?;
        self.update_averages(&control)?;
        self.count_step()
    }

    /// Calls all ops of a step. With `values` they read the number of the step and the learning
    /// rates from the device, so that a recording of them fits later steps, too. Without `values`
    /// the host passes those of the step that is due.
    fn step_ops<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        values: Option<PerGroup<View<'_, D, StepValues>>>,
    ) -> Result<()> {
        let values = values.map_or(PerGroup::default(), |values| values.map(Some));
        let control = values.map(|values| Control { values, is_gated: true });
        // The check and the averages take either group's control: they read only the number of the
        // step or the decay, which both groups share.
        self.forward_and_backward(batch, Accum::Replace, Found::Reported)?;
        self.check_finite(&control.tables)?;
        let branch = Branch::new(&self.device)?;
        self.update_layers(&control.layers, branch.device())?;
        self.update_tables(&batch, &control.tables)?;
        branch.join()?;
        self.update_averages(&control.layers)
    }

    /// Checks on the device whether the loss and all gradients are finite, and writes the verdict,
    /// which gates the updates after it. The interaction has checked its own gradients, and has set
    /// [`Verdict::FOUND`] if one is not finite.
    fn check_finite(&mut self, control: &Control<'_, D>) -> Result<()> {
        let Buffers { mean_loss, backward, .. } = &mut self.buffers;
        let (training, _) = trainable(&mut self.training, backward)?;
        let check = Check {
            policy: self.non_finite,
            step: training.next_step()?,
            values: control.values,
            loss: D::view(mean_loss),
            grads: [D::view(&training.grad_parameters), D::slice(&training.grad_parameters, 0..0)],
            verdict: D::view_mut(&mut training.verdict),
        };
        check.run(&self.device)
    }

    /// Reduces the gradient of the table rows and updates the rows with it.
    fn update_tables<I: Index>(
        &mut self,
        batch: &BatchView<'_, D, I>,
        control: &Control<'_, D>,
    ) -> Result<()> {
        let Buffers { layers, argmax, backward, .. } = &mut self.buffers;
        let (training, backward) = trainable(&mut self.training, backward)?;
        let BackwardBuffers { sorted, workspace, .. } = backward;
        let Optimizers { tables: group, schedule, .. } = training.optimizers;
        let (tables, weights) = self.embedding.split_mut();
        let rows = batch.dense.rows;
        let rule = group.rule(training.next_step()?, schedule);
        let control = control.with_verdict(&training.verdict);
        with_layers!(layers, layers => {
            let (_, buffers) = layers.split(&self.parameters);
            let source = PooledGrad {
                tables,
                bags: batch.bags,
                sorted,
                grad_output: buffers.pooled_grad(rows).ok_or_else(untrained)?,
                loss_scale: self.config.precision.loss_scale(),
                argmax: argmax.as_ref().map(|argmax| argmax.matrix(rows)),
                max_gradient: group.max_gradient,
            };
            weights.update(&self.device, source, rule, control, D::view_mut(workspace))
        })
    }

    /// Updates the parameters of the layers with their gradient, and the rounded copy of them that
    /// layers in 16 bits compute with.
    fn update_layers(&mut self, control: &Control<'_, D>, device: &D) -> Result<()> {
        let training = self.training.as_mut().ok_or_else(untrained)?;
        let step = training.next_step()?;
        let Training { optimizers, dense_state, grad_parameters, verdict, .. } = training;
        let Optimizers { dense: group, schedule, .. } = *optimizers;
        let rule = group.rule(step, schedule);
        with_layers!(&mut self.buffers.layers, layers => {
            let update = dense_update::Update {
                control: control.with_verdict(verdict),
                rule,
                loss_scale: self.config.precision.loss_scale(),
                max_gradient: group.max_gradient,
                grad: D::view(grad_parameters),
                parameters: D::view_mut(&mut self.parameters),
                state: dense_state.view_mut(),
                rounded: layers.rounded_mut(),
            };
            update.run(device)
        })
    }

    /// Moves the averages, if there are any, towards the parameters.
    fn update_averages(&mut self, control: &Control<'_, D>) -> Result<()> {
        let Some(averages) = &mut self.averages else { return Ok(()) };
        let training = self.training.as_ref().ok_or_else(untrained)?;
        let (step, control) = (training.next_step()?, control.with_verdict(&training.verdict));
        averages.update(&self.device, step, &self.parameters, &self.embedding, control)
    }

    /// Returns the update rules of the step that is due. Checks both, so that a caller that asks
    /// for them first changes nothing if one of them is invalid.
    fn rules(&self) -> Result<PerGroup<UpdateRule>> {
        let training = self.training.as_ref().ok_or_else(untrained)?;
        let step = training.next_step()?;
        let Optimizers { tables, dense, schedule } = training.optimizers;
        for group in [tables, dense] {
            check_max_gradient(OP, group.max_gradient)?;
            group.rule(step, schedule).check(OP)?;
        }
        Ok(PerGroup { tables, layers: dense }.map(|group| group.rule(step, schedule)))
    }

    /// Returns the values that change from step to step, such as the learning rates, for the step
    /// that is due.
    fn step_values(&self) -> Result<PerGroup<StepValues>> {
        let rules = self.rules()?;
        let step = rules.tables.step;
        let decay = self.averages.as_ref().map_or(0.0, |averages| averages.decay(step));
        Ok(rules.map(|rule| StepValues::new(&rule, decay)))
    }

    /// Counts the step that was due as taken.
    fn count_step(&mut self) -> Result<()> {
        let training = self.training.as_mut().ok_or_else(untrained)?;
        training.step = training.next_step()?;
        Ok(())
    }
}
