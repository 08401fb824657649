//! Steps of training: at once, in pieces, or recorded once and replayed.

use super::buffers::{BackwardBuffers, BatchView, Buffers, Seams};
use super::dlrm::{Dlrm, OP, Training, trainable, unlabelled, untrained};
use super::layers::{Layers, matrix, with_layers};
use super::optimizer::Optimizers;
use super::staging::{self, Staging};
use crate::dtype::Index;
use crate::error::{Result, expect_size, invalid};
use crate::ops::finite_check::{Check, NonFinite, Verdict};
use crate::ops::index_sort::SortedIndices;
use crate::ops::optimizer::check_max_gradient;
use crate::ops::sparse_update::{PooledGrad, Reduce, SparseGrad};
use crate::ops::{
    Accum, Backend, Device, Extent, Host, StepControl, StepValues, UpdateRule, Views, dense_update,
};

/// Recordings that a model keeps: the last batch of an epoch has another size than the others, and
/// batches arrive in two places.
const MAX_RECORDINGS: usize = 8;

/// What a recorded step is about: where its batch and the parameters lie, the number of samples,
/// and the room for ids.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Place {
    addresses: [u64; 7],
    sizes: [usize; 2],
}

/// Values of a step, for tables and layers.
type Values<'a, D> = [<D as Views>::Slice<'a, StepValues>; 2];

impl<D: Backend> Dlrm<D> {
    /// One step of training: [`Self::loss_and_grad`], then the optimizers. Each row that was looked
    /// up takes one step with the sum of its gradients. What happens if the loss or a gradient is
    /// not finite, [`Self::on_non_finite`] says.
    ///
    /// # Errors
    /// The errors of [`Self::loss_and_grad`], and one if 2⁶⁴ - 1 steps have been taken: then
    /// neither parameters nor optimizers have changed. Bad ids and labels that the backend reports
    /// later keep all steps from changing anything until they have been reported.
    pub fn train_step<I: Index>(&mut self, batch: BatchView<'_, D, I>) -> Result<()> {
        self.rules()?;
        self.step_ops(batch, None)?;
        self.count_step()
    }

    /// The same for a batch on the host, which is sent to the device while the step before is
    /// computed. A backend that can record ops does so with the first step of a size, and replays
    /// that from then on, whatever the lengths of the bags: then a step allocates nothing, waits
    /// for nothing, and sends nothing but the batch and a few numbers.
    ///
    /// # Errors
    /// The errors of [`Self::train_step`]. A batch that does not fit the model, or whose parts do
    /// not fit together, is refused before it is sent.
    pub fn train_staged(
        &mut self,
        staging: &mut Staging<D>,
        batch: BatchView<'_, Host, i64>,
    ) -> Result<()> {
        let values = self.step_values()?;
        self.check_staged(staging, &batch)?;
        staging.receive(batch, Some(&values))?;
        let (batch, values) = (staging.view(), staging.values());
        self.grow(batch.dense.rows, batch.bags.num_indices(), true)?;
        let place = self.place(&batch, &values);
        if !self.recordings.iter().any(|(known, _)| *known == place) {
            let device = self.device.clone();
            match device.record(|| self.step_ops(batch, Some(values)))? {
                None => self.step_ops(batch, Some(values))?,
                Some(recording) => {
                    if self.recordings.len() == MAX_RECORDINGS {
                        self.recordings.remove(0);
                    }
                    self.recordings.push((place, recording));
                }
            }
        }
        if let Some((_, recording)) = self.recordings.iter().find(|(known, _)| *known == place) {
            self.device.replay(recording)?;
            self.buffers.samples = batch.dense.rows;
        }
        self.count_step()
    }

    fn check_staged(&self, staging: &Staging<D>, batch: &BatchView<'_, Host, i64>) -> Result<()> {
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

    /// What happens from now on if the loss or a gradient of a step is infinite or not a number; by
    /// default [`NonFinite::Error`].
    pub fn on_non_finite(&mut self, policy: NonFinite) {
        self.recordings.clear();
        self.non_finite = policy;
    }

    /// The steps since [`Self::optimize_with`] whose loss or gradient was not finite. Waits for the
    /// device.
    ///
    /// # Errors
    /// What the device found meanwhile; training must have been prepared.
    pub fn verdict(&self) -> Result<Verdict> {
        let training = self.training.as_ref().ok_or_else(untrained)?;
        let mut words = [0; Verdict::WORDS];
        self.device.download(D::view(&training.verdict), &mut words)?;
        self.device.synchronize()?;
        Ok(Verdict::of(&words))
    }

    /// The gradient of the table rows that the last [`Self::loss_and_grad`] left, for the same
    /// batch: to keep, to merge with others, and to apply later ([`Self::apply`]).
    ///
    /// # Errors
    /// Those of [`Reduce`].
    pub fn sparse_grad<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        grad: &mut SparseGrad<D>,
    ) -> Result<()> {
        let (training, backward) = trainable(&mut self.training, &mut self.buffers.backward)?;
        let (tables, argmax) = (self.embedding.tables(), self.buffers.argmax.as_ref());
        let max_gradient = training.optimizers.tables.max_gradient;
        let source = pooled_grad(
            tables,
            &batch,
            max_gradient,
            &backward.sorted,
            &backward.grads.pooled,
            argmax,
        );
        let workspace = D::view_mut(&mut backward.workspace);
        Reduce { source, grad, workspace }.run(&self.device)
    }

    /// One step of the optimizers with the gradients of the layers that [`Self::loss_and_grad`]
    /// left or accumulated, and this gradient of the table rows, whatever they are: whether they
    /// are finite is not looked at.
    ///
    /// # Errors
    /// Those of the ops.
    pub fn apply(&mut self, grad: &SparseGrad<D>) -> Result<()> {
        let [rule, _] = self.rules()?;
        let (training, _) = trainable(&mut self.training, &mut self.buffers.backward)?;
        self.embedding.split_mut().1.apply(&self.device, grad, rule)?;
        let loss_scale = self.config.precision.loss_scale();
        let layers = &mut self.buffers.layers;
        dense_step(
            &self.device,
            (training, loss_scale),
            &mut self.parameters,
            layers,
            None,
            false,
        )?;
        if let Some(averages) = &mut self.averages {
            averages.update(
                &self.device,
                rule.step,
                &self.parameters,
                &self.embedding,
                StepControl::default(),
            )?;
        }
        self.count_step()
    }

    /// All ops of a step. Without `values` learning rates and numbers are those of the step that is
    /// due.
    fn step_ops<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        values: Option<Values<'_, D>>,
    ) -> Result<()> {
        self.loss_and_grad(batch, Accum::Replace)?;
        let Self {
            device,
            config,
            embedding,
            buffers,
            parameters,
            training,
            averages,
            non_finite,
            ..
        } = self;
        let Buffers { layers, argmax, backward, mean_loss, .. } = buffers;
        let (training, backward) = trainable(training, backward)?;
        let BackwardBuffers { grads: Seams { pooled, .. }, sorted, workspace } = backward;
        let step = training.next_step()?;
        let check = Check {
            policy: *non_finite,
            step,
            values: of::<D>(&values, 0),
            loss: D::view(mean_loss),
            grads: [
                D::view(&training.grad_parameters),
                D::slice(pooled, 0..batch.dense.rows * embedding.tables().as_ref().width()),
            ],
            verdict: D::view_mut(&mut training.verdict),
        };
        check.run(device)?;
        let rule = training.optimizers.tables.rule(step, training.optimizers.schedule);
        let (tables, rows) = embedding.split_mut();
        let max_gradient = training.optimizers.tables.max_gradient;
        let source = pooled_grad(tables, &batch, max_gradient, sorted, pooled, argmax.as_ref());
        let control =
            StepControl { values: of::<D>(&values, 0), gate: Some(gate::<D>(&training.verdict)) };
        rows.update(device, source, rule, control, D::view_mut(workspace))?;
        let loss_scale = config.precision.loss_scale();
        dense_step(device, (training, loss_scale), parameters, layers, of::<D>(&values, 1), true)?;
        if let Some(averages) = averages {
            let control = StepControl {
                values: of::<D>(&values, 1),
                gate: Some(gate::<D>(&training.verdict)),
            };
            averages.update(device, step, parameters, embedding, control)?;
        }
        Ok(())
    }

    /// Returns the update rules of the next step, for tables and layers. Checks both before either
    /// changes anything.
    fn rules(&self) -> Result<[UpdateRule; 2]> {
        let training = self.training.as_ref().ok_or_else(untrained)?;
        let (step, Optimizers { tables, dense, schedule }) =
            (training.next_step()?, training.optimizers);
        for group in [tables, dense] {
            check_max_gradient(OP, group.max_gradient)?;
            group.rule(step, schedule).check(OP)?;
        }
        Ok([tables, dense].map(|group| group.rule(step, schedule)))
    }

    /// What the step that is due does not share with the others.
    fn step_values(&self) -> Result<[StepValues; 2]> {
        let rules = self.rules()?;
        let decay = self.averages.as_ref().map_or(0.0, |averages| averages.decay(rules[0].step));
        Ok(rules.map(|rule| StepValues::new(&rule, decay)))
    }

    fn place(&self, batch: &BatchView<'_, D, i64>, values: &Values<'_, D>) -> Place {
        let BatchView { dense, bags, labels } = batch;
        let addresses = [
            D::address(&dense.data),
            D::address(&bags.indices),
            D::address(&bags.offsets),
            bags.per_sample_weights.as_ref().map_or(0, D::address),
            labels.as_ref().map_or(0, D::address),
            D::address(&values[0]),
            // Parameters and averages may have been exchanged.
            D::address(&D::view(&self.parameters)),
        ];
        Place { addresses, sizes: [dense.rows, bags.indices.extent()] }
    }

    fn count_step(&mut self) -> Result<()> {
        let training = self.training.as_mut().ok_or_else(untrained)?;
        training.step = training.next_step()?;
        Ok(())
    }
}

fn of<'a, D: Device>(
    values: &'a Option<Values<'_, D>>,
    group: usize,
) -> Option<D::Slice<'a, StepValues>> {
    values.as_ref().map(|values| D::reborrow(&values[group]))
}

/// Where a verdict says whether the step may be taken.
fn gate<D: Device>(verdict: &D::Buffer<u64>) -> D::Slice<'_, u64> {
    D::slice(verdict, Verdict::GATE..Verdict::GATE + 1)
}

/// Where the gradient of the table rows comes from.
fn pooled_grad<'a, D: Backend, I: Index>(
    tables: &'a D::Tables,
    batch: &'a BatchView<'_, D, I>,
    max_gradient: Option<f32>,
    sorted: &'a SortedIndices<D>,
    pooled: &'a D::Buffer<f32>,
    argmax: Option<&'a D::Buffer<u32>>,
) -> PooledGrad<'a, D, I> {
    let rows = batch.dense.rows;
    PooledGrad {
        tables,
        bags: batch.bags.reborrow(),
        sorted,
        grad_output: matrix(pooled, rows, tables.as_ref().width()),
        argmax: argmax.map(|argmax| matrix(argmax, rows, tables.as_ref().width())),
        max_gradient,
    }
}

/// The optimizer's step on the layers, if it `is_gated` only as far as the verdict allows it.
fn dense_step<'a, D: Backend>(
    device: &D,
    (training, loss_scale): (&'a mut Training<D>, f32),
    parameters: &'a mut D::Buffer<f32>,
    layers: &'a mut Layers<D>,
    values: Option<D::Slice<'a, StepValues>>,
    is_gated: bool,
) -> Result<()> {
    let step = training.next_step()?;
    let Training { optimizers, dense_state, grad_parameters, verdict, .. } = training;
    let group = optimizers.dense;
    let rule = group.rule(step, optimizers.schedule);
    with_layers!(layers, layers => {
        let update = dense_update::Update {
            control: StepControl { values, gate: is_gated.then(|| gate::<D>(verdict)) },
            rule,
            loss_scale,
            max_gradient: group.max_gradient,
            grad: D::view(grad_parameters),
            parameters: D::view_mut(parameters),
            state: dense_state.view_mut(rule.optimizer.for_dense()),
            rounded: layers.rounded(),
        };
        update.run(device)
    })
}
