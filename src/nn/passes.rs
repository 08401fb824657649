//! The forward and the backward pass of a model, one method for each part.

use super::branch::Branch;
use super::buffers::{BackwardBuffers, BatchView, Buffers, Capacity};
use super::dlrm::{Dlrm, OP, trainable, unlabelled, untrained};
use super::layers::{Layers, StepBuffers, with_layers};
use super::mlp::{Backward, Forward};
use crate::dtype::Index;
use crate::error::{Error, Result, expect_size};
use crate::ops::finite_check::Verdict;
use crate::ops::index_sort::Sort;
use crate::ops::interaction::{self, Features, FeaturesMut};
use crate::ops::matrix::matrix_name;
use crate::ops::pooled_interaction::Interact;
use crate::ops::{Accum, Backend, Bags, Matrix, View, head};

/// The treatment of a gradient of the interaction's inputs that is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The verdict learns of them; the check of the step must follow.
    Reported,
    /// Nobody learns of them.
    Ignored,
}

impl<D: Backend> Dlrm<D> {
    /// Runs the forward and the backward pass, and sorts the ids for the update of the tables.
    ///
    /// The mean loss is left for [`Self::last_loss`], the gradients of the layers for
    /// [`Self::layer_grads`] and for a step, the gradient of the table rows for
    /// [`Self::sparse_grad`]. `accum` says whether the gradients of the layers overwrite what is
    /// there or are added to it.
    ///
    /// # Errors
    /// Returns an error if [`Self::optimize_with`] has not been called, if the batch has no labels
    /// or does not fit the model, or if it has bad ids
    /// ([`Error::IndexOutOfRange`](crate::Error::IndexOutOfRange)) or labels
    /// ([`Error::LabelOutOfRange`](crate::Error::LabelOutOfRange)).
    pub fn loss_and_grad<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        accum: Accum,
    ) -> Result<()> {
        self.forward_and_backward(batch, accum, Found::Ignored)
    }

    /// Runs both passes as [`Self::loss_and_grad`] does. `found` is the treatment of gradients that
    /// are not finite.
    pub(super) fn forward_and_backward<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        accum: Accum,
        found: Found,
    ) -> Result<()> {
        let rows = batch.dense.rows;
        let labels = batch.labels.ok_or_else(unlabelled)?;
        self.forward(batch, true)?;
        // The sort needs only ids. It comes after the lookup, which is the first to find bad ones.
        let branch = Branch::new(&self.device)?;
        self.sort_indices(&batch.bags, branch.device())?;
        self.head(rows, labels, accum)?;
        self.top_backward(rows, accum, branch.device())?;
        self.interaction_backward(rows, found)?;
        self.bottom_backward(&batch.dense, accum, branch.device())?;
        branch.join()
    }

    /// Runs the forward pass, which leaves the logits in the buffers. `train` says whether a
    /// backward pass follows, which begins with the logits.
    pub(super) fn forward<I: Index>(
        &mut self,
        batch: BatchView<'_, D, I>,
        train: bool,
    ) -> Result<()> {
        let rows = batch.dense.rows;
        expect_size(OP, "batch.bags.batch_size", batch.bags.batch_size, rows)?;
        // These checks come before `grow`, so that a batch that only claims to be large does not
        // allocate memory.
        batch.dense.check(OP, matrix_name!("batch.dense"), rows, self.config.num_dense)?;
        batch.bags.check(OP, self.embedding.tables().as_ref())?;
        self.grow(Capacity { batch_size: rows, num_indices: batch.bags.num_indices() }, train)?;
        // Nobody may read the logits until all of them have been computed.
        self.buffers.samples = 0;
        // In training the weights change after each batch, and packing them would not pay off.
        if !train {
            self.buffers.layers.pack(&self.device, &self.mlps, &self.parameters)?;
        }
        self.bottom_forward(&batch.dense)?;
        self.lookup_and_interact(&batch.bags, train)?;
        self.top_forward(rows)?;
        if train { Ok(()) } else { self.logit_forward(rows) }
    }

    /// Runs the bottom MLP on the dense features.
    fn bottom_forward(&mut self, dense: &Matrix<'_, D, f32>) -> Result<()> {
        let Self { device, config, mlps, parameters, buffers, .. } = self;
        with_layers!(&mut buffers.layers, layers => {
            layers.round_dense(device, dense)?;
            let (weights, input, buffers) = layers.split_bottom(parameters, dense);
            let pass = Forward {
                weights,
                biases: parameters,
                precision: config.precision.product_precision(),
                input,
                output: buffers.activations.bottom.matrix_mut(dense.rows),
            };
            mlps.bottom.forward(device, &mut buffers.bottom, pass)
        })
    }

    /// Pools the vectors of the ids, and lets them and the output of the bottom MLP interact.
    fn lookup_and_interact<I: Index>(&mut self, bags: &Bags<'_, D, I>, train: bool) -> Result<()> {
        let Self { device, config, embedding, parameters, buffers, .. } = self;
        let Buffers { layers, argmax, .. } = buffers;
        let rows = bags.batch_size;
        let argmax = argmax.as_mut().map(|argmax| argmax.matrix_mut(rows));
        with_layers!(layers, layers => {
            let (_, StepBuffers { activations, .. }) = layers.split(parameters);
            let dense = activations.bottom.matrix(rows);
            let interact = Interact {
                keeps_pooled: train,
                interaction: config.interaction,
                dim: dense.cols,
                precision: config.precision.product_precision(),
                dense,
                output: activations.interacted.matrix_mut(rows),
            };
            let pooled = activations.pooled.matrix_mut(rows);
            embedding.forward_and_interact(device, *bags, pooled, argmax, interact)
        })
    }

    /// Runs the top MLP without its last layer.
    fn top_forward(&mut self, rows: usize) -> Result<()> {
        let Self { device, config, mlps, parameters, buffers, .. } = self;
        with_layers!(&mut buffers.layers, layers => {
            let (weights, StepBuffers { activations, top, .. }) = layers.split(parameters);
            let pass = Forward {
                weights,
                biases: parameters,
                precision: config.precision.product_precision(),
                // The padding, which is zeros, aligns the rows for the matrix product.
                input: activations.interacted.padded_matrix(rows),
                output: activations.top.matrix_mut(rows),
            };
            mlps.top.forward(device, top, pass)
        })
    }

    /// Runs the last layer of the top MLP, in `f32` whatever the other layers compute in, so that
    /// no logit is rounded to 16 bits.
    fn logit_forward(&mut self, rows: usize) -> Result<()> {
        let Self { device, mlps, parameters, buffers, .. } = self;
        let Buffers { layers, logits, samples, .. } = buffers;
        let layer = mlps.head()?;
        with_layers!(layers, layers => {
            let (_, StepBuffers { activations, .. }) = layers.split(parameters);
            let op = head::Forward {
                input: activations.top.matrix(rows),
                weight: D::slice(parameters, layer.weight.clone()),
                bias: D::slice(parameters, layer.bias.clone()),
                logits: logits.matrix_mut(rows).data,
            };
            op.run(device)?;
        });
        *samples = rows;
        Ok(())
    }

    /// Runs the last layer of the top MLP as [`Self::logit_forward`] does, and computes the mean
    /// loss and, times the loss scale, the gradients of this layer and of the affine map before it.
    fn head(&mut self, rows: usize, labels: View<'_, D, f32>, accum: Accum) -> Result<()> {
        let Self { device, config, mlps, parameters, training, buffers, .. } = self;
        let Buffers { layers, logits, samples, mean_loss, backward, .. } = buffers;
        let (training, BackwardBuffers { grad_logits, workspace, .. }) =
            trainable(training, backward)?;
        let layer = mlps.head()?;
        let before = mlps.top.layers().last();
        let bias_before = before.map_or(0..0, |before| before.bias.clone());
        let ranges = [bias_before, layer.weight.clone(), layer.bias.clone()];
        let [bias_before, weight, bias] = D::split_mut(&mut training.grad_parameters, ranges);
        with_layers!(layers, layers => {
            let (_, StepBuffers { activations, grads, .. }) = layers.split(parameters);
            let grads = grads.as_mut().ok_or_else(untrained)?;
            let op = head::LossAndGrads {
                forward: head::Forward {
                    input: activations.top.matrix(rows),
                    weight: D::slice(parameters, layer.weight.clone()),
                    bias: D::slice(parameters, layer.bias.clone()),
                    logits: logits.matrix_mut(rows).data,
                },
                loss: config.loss,
                threshold: config.loss_threshold,
                loss_scale: config.precision.loss_scale(),
                labels,
                mean: D::view_mut(mean_loss),
                grads: head::Grads {
                    logits: grad_logits.matrix_mut(rows).data,
                    input: grads.top.matrix_mut(rows),
                    weight,
                    bias,
                    bias_before: before.map(|_| bias_before),
                },
                accum,
                workspace: D::view_mut(workspace),
            };
            let result = op.run(device);
            // A bad label spoils no logit.
            if matches!(result, Ok(()) | Err(Error::LabelOutOfRange { .. })) {
                *samples = rows;
            }
            result
        })
    }

    /// Computes the gradients of the top MLP without its last layer.
    fn top_backward(&mut self, rows: usize, accum: Accum, branch: &D) -> Result<()> {
        let Self { device, config, mlps, parameters, training, buffers, .. } = self;
        let Buffers { layers, backward, .. } = buffers;
        let (training, backward) = trainable(training, backward)?;
        let BackwardBuffers { workspace, branch_workspace, .. } = backward;
        with_layers!(layers, layers => {
            let (weights, StepBuffers { activations, grads, top, .. }) = layers.split(parameters);
            let grads = grads.as_mut().ok_or_else(untrained)?;
            let pass = Backward {
                weights,
                precision: config.precision.product_precision(),
                input: activations.interacted.padded_matrix(rows),
                output: activations.top.matrix(rows),
                grad_output: grads.top.matrix_mut(rows),
                is_affine: true,
                grad_input: Some(grads.interacted.padded_matrix_mut(rows)),
                grad_parameters: &mut training.grad_parameters,
                accum,
                workspace,
                branch: (branch, branch_workspace),
            };
            mlps.top.backward(device, top, pass)
        })
    }

    /// Computes the gradients of the bottom MLP's output and of the pooled vectors.
    fn interaction_backward(&mut self, rows: usize, found: Found) -> Result<()> {
        let Self { device, config, parameters, training, buffers, .. } = self;
        let (training, _) = trainable(training, &mut buffers.backward)?;
        let word = Verdict::FOUND..Verdict::FOUND + 1;
        with_layers!(&mut buffers.layers, layers => {
            let (_, StepBuffers { activations, grads, .. }) = layers.split(parameters);
            let grads = grads.as_mut().ok_or_else(untrained)?;
            let dense = activations.bottom.matrix(rows);
            let op = interaction::Backward {
                interaction: config.interaction,
                dim: dense.cols,
                precision: config.precision.product_precision(),
                features: Features::Split { dense, sparse: activations.pooled.matrix(rows) },
                grad_output: grads.interacted.matrix(rows),
                grad_features: FeaturesMut::Split {
                    dense: grads.bottom.matrix_mut(rows),
                    sparse: grads.pooled.matrix_mut(rows),
                },
                non_finite: (found == Found::Reported)
                    .then(|| D::slice_mut(&mut training.verdict, word)),
            };
            op.run(device)
        })
    }

    /// Computes the gradients of the bottom MLP, but not that of the dense features.
    fn bottom_backward(
        &mut self,
        dense: &Matrix<'_, D, f32>,
        accum: Accum,
        branch: &D,
    ) -> Result<()> {
        let Self { device, config, mlps, parameters, training, buffers, .. } = self;
        let Buffers { layers, backward, .. } = buffers;
        let (training, backward) = trainable(training, backward)?;
        let BackwardBuffers { workspace, branch_workspace, .. } = backward;
        with_layers!(layers, layers => {
            let (weights, input, buffers) = layers.split_bottom(parameters, dense);
            let StepBuffers { activations, grads, bottom, .. } = buffers;
            let grads = grads.as_mut().ok_or_else(untrained)?;
            let pass = Backward {
                weights,
                precision: config.precision.product_precision(),
                input,
                output: activations.bottom.matrix(dense.rows),
                grad_output: grads.bottom.matrix_mut(dense.rows),
                is_affine: false,
                grad_input: None,
                grad_parameters: &mut training.grad_parameters,
                accum,
                workspace,
                branch: (branch, branch_workspace),
            };
            mlps.bottom.backward(device, bottom, pass)
        })
    }

    /// Sorts the ids by table row, so that the update finds all occurrences of a row side by side.
    fn sort_indices<I: Index>(&mut self, bags: &Bags<'_, D, I>, device: &D) -> Result<()> {
        let (_, backward) = trainable(&mut self.training, &mut self.buffers.backward)?;
        let BackwardBuffers { sorted, branch_workspace, .. } = backward;
        let tables = self.embedding.tables();
        Sort { tables, bags: *bags, sorted, workspace: D::view_mut(branch_workspace) }.run(device)
    }
}
