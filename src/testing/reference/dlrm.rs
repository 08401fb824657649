//! Reference for a whole model, composed of the reference ops: its gradients and its training.

use crate::DType;
use crate::ops::{Activation, Interaction, Loss, Optimizer, UpdateRule};

use super::{
    Betas, RowGradients, apply_rows, dots, dots_backward, embedding_bag, linear, linear_backward,
    mean_loss, optimize, row_gradients,
};
use crate::testing::cases::BagCase;
use crate::testing::tolerance::{Approx, Stored, U, exact};

/// A fully connected layer with the state of its optimizer.
#[derive(Clone)]
pub struct Layer {
    /// The number of inputs (K).
    pub inputs: usize,
    /// The number of outputs (N).
    pub outputs: usize,
    /// The weight, `[N, K]`.
    pub weight: Vec<Approx>,
    /// The bias, `[N]`.
    pub bias: Vec<Approx>,
    /// The first and second state of the weight, then those of the bias.
    state: [Vec<Approx>; 4],
}

impl Layer {
    /// Makes a layer with these parameters, before the first step.
    pub fn new(inputs: usize, outputs: usize, weight: &[f32], bias: &[f32]) -> Self {
        assert_eq!((weight.len(), bias.len()), (inputs * outputs, outputs));
        let zeros = |len| vec![Approx::ZERO; len];
        let state = [zeros(weight.len()), zeros(weight.len()), zeros(outputs), zeros(outputs)];
        Self { inputs, outputs, weight: exact(weight), bias: exact(bias), state }
    }
}

/// A DLRM with its parameters and the state of its optimizers.
#[derive(Clone)]
pub struct Model {
    /// The layers of the bottom MLP.
    pub bottom: Vec<Layer>,
    /// The layers of the top MLP.
    pub top: Vec<Layer>,
    /// The weights of all tables, one after another.
    pub tables: Vec<Approx>,
    /// The state of the optimizer of the tables.
    pub table_state: [Vec<Approx>; 2],
    /// The kind of interaction.
    pub interaction: Interaction,
    /// The loss function.
    pub loss: Loss,
    /// The threshold of the loss.
    pub threshold: f32,
}

/// The results of one forward and backward pass over a batch.
pub struct Pass {
    /// The mean loss of the batch.
    pub mean_loss: Approx,
    /// The logits, `[batch_size]`.
    pub logits: Vec<Approx>,
    /// The gradients of weight and bias of each layer, bottom layers first.
    pub layers: Vec<[Vec<Approx>; 2]>,
    /// The gradients of table rows.
    pub rows: RowGradients,
}

impl Model {
    /// Does what [`Self::pass_in`] does, with all layers in `f32`.
    pub fn pass(&self, dense: &[f32], bags: &BagCase, labels: &[f32]) -> Pass {
        self.pass_in::<f32>(1.0, dense, bags, labels)
    }

    /// Runs forward and backward. All but the last layer compute in `E`. `bags` has one feature for
    /// each table, pooled by sum, in the dimension of the bottom MLP's output.
    ///
    /// In 16 bits the pooled vectors, and what layers and interaction read and write, are rounded
    /// to `E`, gradients after a multiplication by `loss_scale`. Matrix products on tensor cores
    /// and of pairs of `bf16` lose more than sums of `f32`: for at most 10 terms, less than 2⁻¹⁹ of
    /// their magnitudes. This function adds that much to the error of each factor.
    pub fn pass_in<E: Stored>(
        &self,
        loss_scale: f64,
        dense: &[f32],
        bags: &BagCase,
        labels: &[f32],
    ) -> Pass {
        let is_f32 = E::DTYPE == DType::F32;
        let off = |x: Approx| Approx { error: x.error + x.value.abs() / 524_288.0, ..x };
        let stored = |values: Vec<Approx>, scale: f64| -> Vec<Approx> {
            if is_f32 {
                values
            } else {
                values.into_iter().map(|x| off(x.stored_as::<E>(scale))).collect()
            }
        };
        let (batch_size, dim) = (bags.batch_size, self.bottom[self.bottom.len() - 1].outputs);
        // The last layer of the top MLP, which has no ReLU, computes in f32.
        let weight_of = |layer: &Layer, in_f32: bool| match in_f32 {
            true => layer.weight.clone(),
            false => stored(layer.weight.clone(), 1.0),
        };
        let forward = |layers: &[Layer], input: Vec<Approx>, last_relu: bool| {
            let mut values = vec![stored(input, 1.0)];
            for (k, layer) in layers.iter().enumerate() {
                let shape = (batch_size, layer.outputs, layer.inputs);
                let relu = last_relu || k + 1 < layers.len();
                let output = linear(&values[k], &weight_of(layer, !relu), &layer.bias, shape, relu);
                values.push(if relu { stored(output, 1.0) } else { output });
            }
            values
        };
        let bottom = forward(&self.bottom, exact(dense), true);
        let (pooled, sources) = embedding_bag(bags, &self.tables);
        let pooled = stored(pooled, 1.0);
        let width = bags.width();
        let features: Vec<Vec<Approx>> = (0..batch_size)
            .map(|b| {
                [&bottom[self.bottom.len()][b * dim..][..dim], &pooled[b * width..][..width]]
                    .concat()
            })
            .collect();
        let joined =
            features.iter().flat_map(|sample| dots(self.interaction, sample, dim, true)).collect();
        let top = forward(&self.top, joined, false);
        let logits = top[self.top.len()].clone();
        let labels: Vec<f64> = labels.iter().map(|&y| f64::from(y)).collect();
        let loss = mean_loss(self.loss, self.threshold, &logits, &labels);

        // PyTorch computes the loss from the probability in f32. It rounds p, p - y, and p (1 - p),
        // which it divides out again: eight roundings at most.
        let weight = match self.loss {
            Loss::WeightedBce { negative, positive } => f64::from(negative.max(positive)),
            _ => 1.0,
        };
        let noise = 8.0 * U * weight / batch_size.max(1) as f64;
        let grad = loss.grad.iter().map(|g| Approx { error: g.error + noise, ..*g }).collect();
        let backward =
            |layers: &[Layer], values: &[Vec<Approx>], mut grad: Vec<Approx>, last_relu: bool| {
                let mut grads = vec![];
                if last_relu {
                    grad = stored(grad, loss_scale);
                }
                for (k, layer) in layers.iter().enumerate().rev() {
                    let shape = (batch_size, layer.outputs, layer.inputs);
                    let relu = last_relu || k + 1 < layers.len();
                    let activation = if relu { Activation::Relu } else { Activation::None };
                    let weight = weight_of(layer, !relu);
                    let inputs = [&values[k][..], &weight, &values[k + 1], &grad];
                    let got = linear_backward(inputs, shape, activation, None);
                    grads.push([got.weight, got.bias]);
                    grad = stored(got.input, loss_scale);
                }
                grads.reverse();
                (grads, grad)
            };
        let (top_grads, grad) = backward(&self.top, &top, grad, false);
        let columns = grad.len().checked_div(batch_size).unwrap_or(0);
        let of_features: Vec<Vec<Approx>> = (features.iter().enumerate())
            .map(|(b, sample)| {
                dots_backward(self.interaction, sample, dim, true, &grad[b * columns..][..columns])
            })
            .collect();
        let of_dense: Vec<Approx> = of_features.iter().flat_map(|g| &g[..dim]).copied().collect();
        let of_pooled = of_features.iter().flat_map(|g| &g[dim..]).copied().collect();
        let of_pooled = stored(of_pooled, loss_scale);
        let (mut layers, _) = backward(&self.bottom, &bottom, of_dense, true);
        layers.extend(top_grads);
        let rows = row_gradients(bags, &of_pooled, &sources, None);
        Pass { mean_loss: loss.mean, logits, layers, rows }
    }

    /// Takes one step of training. Errors carry over to later steps. For the layers, row-wise
    /// Adagrad is Adagrad.
    pub fn train_step(
        &mut self,
        rule: &UpdateRule,
        dense: &[f32],
        bags: &BagCase,
        labels: &[f32],
    ) -> Pass {
        let pass = self.pass(dense, bags, labels);
        let optimizer = match rule.optimizer {
            Optimizer::RowwiseAdagrad { eps } => Optimizer::Adagrad { eps },
            other => other,
        };
        let for_layers = UpdateRule { optimizer, ..*rule };
        for (layer, [weight, bias]) in self.bottom.iter_mut().chain(&mut self.top).zip(&pass.layers)
        {
            let [w_first, w_second, b_first, b_second] = &mut layer.state;
            optimize(&for_layers, Betas::Exact, weight, &mut layer.weight, w_first, w_second);
            optimize(&for_layers, Betas::Exact, bias, &mut layer.bias, b_first, b_second);
        }
        let [first, second] = &mut self.table_state;
        apply_rows(bags, (rule, Betas::Exact), &pass.rows, &mut self.tables, first, second);
        pass
    }

    /// Sets all errors to 0. Over many steps the bounds grow too large to be useful.
    pub fn forget_errors(&mut self) {
        for layer in self.bottom.iter_mut().chain(&mut self.top) {
            let values = layer.state.iter_mut().chain([&mut layer.weight, &mut layer.bias]);
            values.flatten().for_each(|x| x.error = 0.0);
        }
        let values = self.table_state.iter_mut().chain([&mut self.tables]);
        values.flatten().for_each(|x| x.error = 0.0);
    }
}
