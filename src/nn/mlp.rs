//! Multi-layer perceptrons whose parameters lie in one buffer with the rest of the model's.

use std::ops::Range;

use super::matrix::{BatchMatrix, padded};
use super::pieces::Pieces;
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::cast::{Cast, CastOps};
use crate::ops::linear::{self, Activation, LinearOps, Pack};
use crate::ops::{Accum, Device, Matrix, MatrixMut, Precision};
use crate::philox::Philox;
use crate::size::{next_multiple, product, sum};

/// The parameters of a layer begin at a multiple of this many elements of the buffer: one cache
/// line. A bias therefore has room behind it for the [`padded`] columns of the layer's output.
const ALIGN: usize = 16;

/// The layout of the input of a multi-layer perceptron.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Rows without padding.
    Exact,
    /// Rows that are [`padded`].
    Padded,
}

/// The shape of a multi-layer perceptron, and the positions of its parameters in the buffer.
#[derive(Clone, Debug)]
pub(super) struct Mlp {
    layers: Vec<Layer>,
}

/// A fully connected layer of an [`Mlp`].
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// The number of inputs (K).
    pub(super) inputs: usize,
    /// The number of outputs (N).
    pub(super) outputs: usize,
    /// The leading dimension of input and weight, at least `inputs`. The columns from `inputs` on
    /// are zeros in both, and in the weight's gradient and optimizer state.
    columns: usize,
    /// The range of the weight, `[outputs, columns]`, among the parameters.
    pub(super) weight: Range<usize>,
    /// The range of the bias, `[outputs]`, among the parameters.
    pub(super) bias: Range<usize>,
    activation: Activation,
}

/// The buffers that passes through one MLP share and that nobody else reads.
pub(super) struct MlpBuffers<D: Device, E: Element> {
    /// The packed weights of all layers, one after the other; `None` since the weights changed.
    packed: Option<D::Buffer<u64>>,
    /// The hidden activations: the output of each layer but the last, in [`padded`] rows.
    hidden: Vec<BatchMatrix<D, E>>,
    /// The gradients of `hidden`.
    hidden_grads: Vec<BatchMatrix<D, E>>,
}

/// The arguments of a forward pass through an MLP.
pub(super) struct Forward<'a, D: Device, E: Element> {
    /// The buffer of parameters from which the weights are read.
    pub(super) weights: &'a D::Buffer<E>,
    /// The buffer of parameters from which the biases are read.
    pub(super) biases: &'a D::Buffer<f32>,
    /// The precision of products of `f32`.
    pub(super) precision: Precision,
    /// The input, `[rows, Mlp::columns]`.
    pub(super) input: Matrix<'a, D, E>,
    /// The output, `[rows, Mlp::outputs]`.
    pub(super) output: MatrixMut<'a, D, E>,
}

/// The arguments of a backward pass through an MLP, after its forward pass for the same batch.
pub(super) struct Backward<'a, D: Device, E: Element> {
    /// The buffer of parameters from which the weights are read.
    pub(super) weights: &'a D::Buffer<E>,
    /// The precision of products of `f32`.
    pub(super) precision: Precision,
    /// The input, `[rows, Mlp::columns]`.
    pub(super) input: Matrix<'a, D, E>,
    /// The output that the forward pass left, `[rows, Mlp::outputs]`.
    pub(super) output: Matrix<'a, D, E>,
    /// The gradient of the output, `[rows, Mlp::outputs]`. The pass overwrites it.
    pub(super) grad_output: MatrixMut<'a, D, E>,
    /// True if `grad_output` is the gradient of the last layer's affine map, and that of its bias
    /// is among `grad_parameters` already.
    pub(super) is_affine: bool,
    /// The gradient of the input, `[rows, Mlp::columns]`, if it is wanted.
    pub(super) grad_input: Option<MatrixMut<'a, D, E>>,
    /// The buffer of the gradients of the parameters, at the positions of the parameters.
    pub(super) grad_parameters: &'a mut D::Buffer<f32>,
    /// The effect on `grad_parameters`: overwritten or added to.
    pub(super) accum: Accum,
    /// The workspace, [`Mlp::workspace_len`] words.
    pub(super) workspace: &'a mut D::Buffer<u64>,
    /// The branch that computes the gradients of the weights, and its workspace of as many words.
    pub(super) branch: (&'a D, &'a mut D::Buffer<u64>),
}

impl Mlp {
    /// Describes layers of the sizes `sizes[0] → sizes[1] → …`, with ReLU after each layer but the
    /// last and the activation `last` after that one. Takes the positions of their parameters from
    /// `*end` on and moves `*end` behind them; it saturates at the largest number.
    pub(super) fn new(sizes: &[usize], input: Input, last: Activation, end: &mut usize) -> Self {
        let mut take = |len: usize| {
            let start = *end;
            *end = sum([start, next_multiple(len, ALIGN)]);
            start..sum([start, len])
        };
        let num_layers = sizes.len().saturating_sub(1);
        let layers = sizes.windows(2).enumerate().map(|(k, pair)| {
            let columns = if k == 0 && input == Input::Exact { pair[0] } else { padded(pair[0]) };
            Layer {
                inputs: pair[0],
                outputs: pair[1],
                columns,
                weight: take(product([columns, pair[1]])),
                bias: take(pair[1]),
                activation: if k + 1 == num_layers { last } else { Activation::Relu },
            }
        });
        Self { layers: layers.collect() }
    }

    /// Returns the layers, first to last.
    pub(super) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Draws the parameters as facebookresearch/dlrm does: `W ~ N(0, 2 / (K + N))`, `b ~ N(0, 1 /
    /// N)`, where the second number is the variance.
    pub(super) fn init<D: Device>(
        &self,
        parameters: &mut Pieces<'_, D, f32>,
        random: &mut Philox,
    ) -> Result<()> {
        for layer in &self.layers {
            let (k, n) = (layer.inputs as f64, layer.outputs as f64);
            let (weight_std, bias_std) = ((2.0 / (k + n)).sqrt(), (1.0 / n).sqrt());
            for row in layer.weight_rows() {
                parameters.fill(row, || (random.normal() * weight_std) as f32)?;
            }
            parameters.fill(layer.bias.clone(), || (random.normal() * bias_std) as f32)?;
        }
        Ok(())
    }

    /// Returns the number of columns of the input, padding included; 0 without layers.
    pub(super) fn columns(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.columns)
    }

    /// Returns the layers whose outputs are hidden activations: all but the last.
    pub(super) fn hidden_layers(&self) -> &[Layer] {
        self.layers.split_last().map_or(&[], |(_, others)| others)
    }

    /// Allocates hidden activations for `batch_size` samples, and gradients of these for
    /// `grad_batch_size` samples.
    pub(super) fn buffers<D: Device, E: Element>(
        &self,
        device: &D,
        batch_size: usize,
        grad_batch_size: usize,
    ) -> Result<MlpBuffers<D, E>> {
        let alloc = |samples: usize| {
            let of_layer = |Layer { outputs, .. }: &Layer| {
                BatchMatrix::with_ld(device, samples, *outputs, padded(*outputs))
            };
            self.hidden_layers().iter().map(of_layer).collect::<Result<Vec<_>>>()
        };
        let (hidden, hidden_grads) = (alloc(batch_size)?, alloc(grad_batch_size)?);
        Ok(MlpBuffers { packed: None, hidden, hidden_grads })
    }

    /// Returns the 8-byte words of workspace that a backward pass needs for a batch of up to
    /// `batch_size` samples.
    pub(super) fn workspace_len<D: LinearOps, E: Element>(
        &self,
        device: &D,
        batch_size: usize,
    ) -> usize {
        let of_layer = |Layer { outputs, columns, .. }: &Layer| {
            linear::Backward::<D, E>::workspace_len(device, batch_size, *outputs, *columns)
        };
        self.layers.iter().map(of_layer).max().unwrap_or(0)
    }

    /// Packs the weights of all layers into `buffers`, unless they are packed already.
    pub(super) fn pack<D: LinearOps, E: Element>(
        &self,
        device: &D,
        buffers: &mut MlpBuffers<D, E>,
        weights: &D::Buffer<E>,
    ) -> Result<()> {
        if buffers.packed.is_some() {
            return Ok(());
        }
        let mut packed =
            device.alloc(sum(self.layers.iter().map(|layer| layer.packed_len::<D, E>(device))))?;
        let mut end = 0;
        for layer in &self.layers {
            let range = layer.take_packed::<D, E>(device, &mut end);
            Pack { weight: layer.weight(weights), packed: D::slice_mut(&mut packed, range) }
                .run(device)?;
        }
        buffers.packed = Some(packed);
        Ok(())
    }

    /// Runs all layers. Without layers the output is a copy of the input.
    pub(super) fn forward<D: LinearOps + CastOps, E: Element>(
        &self,
        device: &D,
        buffers: &mut MlpBuffers<D, E>,
        mut pass: Forward<'_, D, E>,
    ) -> Result<()> {
        if self.layers.is_empty() {
            return Cast { factor: 1.0, from: pass.input, to: pass.output }.run(device);
        }
        let MlpBuffers { packed, hidden, .. } = buffers;
        let rows = pass.input.rows;
        let mut end = 0;
        for (k, layer) in self.layers.iter().enumerate() {
            let (before, from_here) = hidden.split_at_mut(k);
            let forward = linear::Forward {
                input: input(before, &pass.input),
                weight: layer.weight(pass.weights),
                packed_weight: packed
                    .as_ref()
                    .map(|packed| D::slice(packed, layer.take_packed::<D, E>(device, &mut end))),
                bias: D::slice(pass.biases, layer.bias.clone()),
                // `weights` holds all parameters in the type of the layer, so also the biases.
                rounded_bias: Some(D::slice(pass.weights, layer.bias.clone())),
                activation: layer.activation,
                precision: pass.precision,
                output: output_mut(from_here, &mut pass.output, rows),
            };
            forward.run(device)?;
        }
        Ok(())
    }

    /// Runs all layers backwards. Without layers the gradient of the input is that of the output.
    pub(super) fn backward<D: LinearOps + CastOps, E: Element>(
        &self,
        device: &D,
        buffers: &mut MlpBuffers<D, E>,
        mut pass: Backward<'_, D, E>,
    ) -> Result<()> {
        if let (true, Some(to)) = (self.layers.is_empty(), &mut pass.grad_input) {
            let from = pass.grad_output.as_matrix();
            return Cast { factor: 1.0, from, to: to.reborrow() }.run(device);
        }
        let MlpBuffers { hidden, hidden_grads, .. } = buffers;
        let rows = pass.input.rows;
        if let (false, Some(last)) = (pass.is_affine, self.layers.last()) {
            let of_last = linear::ActivationGrad {
                output: pass.output,
                activation: last.activation,
                grad_output: pass.grad_output.reborrow(),
                grad_bias: D::slice_mut(pass.grad_parameters, last.bias.clone()),
                accum: pass.accum,
                workspace: D::view_mut(pass.workspace),
            };
            of_last.run(device)?;
        }
        // The gradient of a hidden activation comes as that of the affine map before it, with that
        // of the bias.
        for (k, layer) in self.layers.iter().enumerate().rev() {
            let (before, from_here) = hidden_grads.split_at_mut(k);
            let grad_input = match before.last_mut() {
                Some(grad) => Some(grad.padded_matrix_mut(rows)),
                None => pass.grad_input.as_mut().map(MatrixMut::reborrow),
            };
            let (grad_bias_before, grad_weight) = match k.checked_sub(1) {
                Some(before) => {
                    let bias = self.layers[before].padded_bias(layer.columns);
                    let [bias, weight] =
                        D::split_mut(pass.grad_parameters, [bias, layer.weight.clone()]);
                    (Some(bias), weight)
                }
                None => (None, D::slice_mut(pass.grad_parameters, layer.weight.clone())),
            };
            let backward = linear::Backward {
                input: input(&hidden[..k], &pass.input),
                weight: layer.weight(pass.weights),
                output: hidden.get(k).map_or(pass.output, |output| output.matrix(rows)),
                activation: Activation::None,
                precision: pass.precision,
                grad_output: output_mut(from_here, &mut pass.grad_output, rows),
                grad_input,
                grad_weight: MatrixMut::contiguous(grad_weight, layer.outputs, layer.columns),
                grad_bias: None,
                grad_bias_before,
                accum: pass.accum,
                workspace: D::view_mut(pass.workspace),
                branch: Some((pass.branch.0, D::view_mut(pass.branch.1))),
            };
            backward.run(device)?;
        }
        Ok(())
    }
}

impl<D: Device, E: Element> MlpBuffers<D, E> {
    /// Drops the packed weights, as a caller must before the weights change.
    pub(super) fn unpack(&mut self) {
        self.packed = None;
    }
}

impl Layer {
    /// Returns the number of weights and biases, without padding.
    pub(super) fn num_parameters(&self) -> usize {
        product([self.outputs, sum([self.inputs, 1])])
    }

    /// Returns the ranges of the rows of the weight among the parameters, without padding.
    pub(super) fn weight_rows(&self) -> impl Iterator<Item = Range<usize>> {
        let (inputs, starts) = (self.inputs, self.weight.clone().step_by(self.columns.max(1)));
        starts.map(move |start| start..start + inputs)
    }

    /// Returns the range of the bias among the parameters, and of as much room behind it as the
    /// padding of the layer's output takes in `columns` columns: see `ALIGN`.
    fn padded_bias(&self, columns: usize) -> Range<usize> {
        self.bias.start..self.bias.start + columns
    }

    fn packed_len<D: LinearOps, E: Element>(&self, device: &D) -> usize {
        Pack::<D, E>::len(device, self.outputs, self.columns)
    }

    /// Returns the range of the packed weight, which begins at `*end`, and moves `*end` behind it.
    fn take_packed<D: LinearOps, E: Element>(&self, device: &D, end: &mut usize) -> Range<usize> {
        let start = *end;
        *end += self.packed_len::<D, E>(device);
        start..*end
    }

    /// Views the weight, `[outputs, columns]`.
    fn weight<'a, D: Device, E: Element>(&self, parameters: &'a D::Buffer<E>) -> Matrix<'a, D, E> {
        Matrix::contiguous(D::slice(parameters, self.weight.clone()), self.outputs, self.columns)
    }
}

/// Views the input of a layer: the last of the hidden activations `before` it, or the input of the
/// whole MLP for the first layer.
fn input<'a, D: Device, E: Element>(
    before: &'a [BatchMatrix<D, E>],
    first: &Matrix<'a, D, E>,
) -> Matrix<'a, D, E> {
    before.last().map_or(*first, |hidden| hidden.padded_matrix(first.rows))
}

/// Views the output of a layer, for writing: the first of the hidden activations `from_here` on, or
/// the output of the whole MLP for the last layer.
fn output_mut<'a, D: Device, E: Element>(
    from_here: &'a mut [BatchMatrix<D, E>],
    last: &'a mut MatrixMut<'_, D, E>,
    rows: usize,
) -> MatrixMut<'a, D, E> {
    match from_here.first_mut() {
        Some(hidden) => hidden.matrix_mut(rows),
        None => last.reborrow(),
    }
}
