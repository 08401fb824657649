//! Multi-layer perceptrons whose parameters lie in a buffer that they share with the rest of the
//! model.

use std::ops::Range;

use super::layers::{first_columns, first_columns_mut, matrix, matrix_mut};
use super::pieces::Pieces;
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::linear::{self, Activation, LinearOps, Pack};
use crate::ops::{Accum, Device, Matrix, MatrixMut, Precision};
use crate::philox::Philox;
use crate::size::{next_multiple, product, sum};

/// Layers begin at multiples of this many elements: a cache line.
const ALIGN: usize = 16;

/// Values that a model passes on lie in rows of a multiple of this many, 16 bytes in every type:
/// with rows of 479, say, products on tensor cores take five times as long as with rows of 480.
const ROW_ALIGN: usize = 8;

/// The columns of the room for `values` in each row; those behind them are zeros.
pub(super) fn padded(values: usize) -> usize {
    next_multiple(values, ROW_ALIGN)
}

/// Where the input of a multi-layer perceptron comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Rows of exactly as many columns as there are values.
    Exact,
    /// Rows that are [`padded`].
    Padded,
}

/// The shape of a multi-layer perceptron, and where its parameters lie.
#[derive(Clone, Debug)]
pub(super) struct Mlp {
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// The columns of the input as it lies, and of the weight: behind `inputs` both are zeros, as
    /// are the weight's gradient and what optimizers remember of it.
    columns: usize,
    weight: Range<usize>,
    pub(crate) bias: Range<usize>,
    activation: Activation,
}

impl Mlp {
    /// Layers of the sizes `sizes[0] → sizes[1] → …`, with ReLU after each, and `last` after the
    /// last. Their parameters lie from `*end` on, which is moved behind them: to the largest
    /// number, if there is no memory for so many.
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

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Draws the parameters as facebookresearch/dlrm does: `W ~ N(0, 2 / (K + N))`, `b ~ N(0, 1 /
    /// N)`, by variance.
    pub(crate) fn init<D: Device>(
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

    /// The number of columns of the input as it lies, 0 without layers.
    pub(crate) fn columns(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.columns)
    }

    /// The number of columns of the output, 0 without layers.
    pub(crate) fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// Room for the outputs of all layers but the last.
    pub(crate) fn between<D: Device, E: Element>(
        &self,
        device: &D,
        batch_size: usize,
    ) -> Result<Vec<D::Buffer<E>>> {
        let layers = self.layers.split_last().map_or(&[][..], |(_, others)| others);
        layers
            .iter()
            .map(|layer| device.alloc(product([batch_size, padded(layer.outputs)])))
            .collect()
    }

    /// The words of workspace that a backward pass needs for a batch of up to `batch_size` samples.
    pub(crate) fn workspace_len<D: LinearOps, E: Element>(
        &self,
        device: &D,
        batch_size: usize,
    ) -> usize {
        let of_layer = |layer: &Layer| {
            linear::Backward::<D, E>::workspace_len(
                device,
                batch_size,
                layer.outputs,
                layer.columns,
            )
        };
        self.layers.iter().map(of_layer).max().unwrap_or(0)
    }

    /// The weights of all layers, packed one after the other.
    pub(crate) fn pack<D: LinearOps, E: Element>(
        &self,
        device: &D,
        weights: &D::Buffer<E>,
    ) -> Result<D::Buffer<u64>> {
        let mut packed =
            device.alloc(sum(self.layers.iter().map(|layer| layer.packed_len::<D, E>(device))))?;
        let mut end = 0;
        for layer in &self.layers {
            let range = layer.take_packed::<D, E>(device, &mut end);
            Pack { weight: layer.weight(weights), packed: D::slice_mut(&mut packed, range) }
                .run(device)?;
        }
        Ok(packed)
    }

    /// Runs all layers, of which there is one at least.
    pub(crate) fn forward<D: LinearOps, E: Element>(
        &self,
        device: &D,
        pass: ForwardPass<'_, D, E>,
    ) -> Result<()> {
        let ForwardPass { weights, packed, biases, precision, input, between, mut output } = pass;
        let rows = input.rows;
        let mut end = 0;
        for (k, layer) in self.layers.iter().enumerate() {
            let (before, rest) = between.split_at_mut(k);
            let forward = linear::Forward {
                input: layer.input(&input, before.last()),
                weight: layer.weight(weights),
                packed_weight: packed
                    .map(|packed| D::slice(packed, layer.take_packed::<D, E>(device, &mut end))),
                bias: D::slice(biases, layer.bias.clone()),
                activation: layer.activation,
                precision,
                output: layer.output_mut(&mut output, rest.first_mut(), rows),
            };
            forward.run(device)?;
        }
        Ok(())
    }

    /// Runs all layers backwards, of which there is one at least. The gradients of the parameters
    /// go where the parameters lie, in `grad_parameters`.
    pub(crate) fn backward<D: LinearOps, E: Element>(
        &self,
        device: &D,
        pass: BackwardPass<'_, D, E>,
    ) -> Result<()> {
        let BackwardPass {
            weights,
            precision,
            input,
            between,
            output,
            grads,
            grad_parameters,
            accum,
            ..
        } = pass;
        let BackwardPass { mut grad_output, mut grad_input, workspace, .. } = pass;
        let rows = input.rows;
        for (k, layer) in self.layers.iter().enumerate().rev() {
            let (before, rest) = grads.split_at_mut(k);
            let grad_input = match before.last_mut() {
                Some(buffer) => Some(matrix_mut(buffer, rows, layer.columns)),
                None => grad_input.as_mut().map(MatrixMut::reborrow),
            };
            let (grad_weight, grad_bias) =
                D::split_mut(grad_parameters, layer.weight.clone(), layer.bias.clone());
            let backward = linear::Backward {
                input: layer.input(&input, between[..k].last()),
                weight: layer.weight(weights),
                output: between
                    .get(k)
                    .map_or(output.reborrow(), |buffer| first_columns(buffer, rows, layer.outputs)),
                activation: layer.activation,
                precision,
                grad_output: layer.output_mut(&mut grad_output, rest.first_mut(), rows),
                grad_input,
                grad_weight: MatrixMut::contiguous(grad_weight, layer.outputs, layer.columns),
                grad_bias,
                accum,
                workspace: D::view_mut(workspace),
            };
            backward.run(device)?;
        }
        Ok(())
    }
}

impl Layer {
    /// The number of weights and biases, without padding.
    pub(crate) fn num_parameters(&self) -> usize {
        product([self.outputs, sum([self.inputs, 1])])
    }

    /// Where the rows of the weight lie among the parameters.
    pub(crate) fn weight_rows(&self) -> impl Iterator<Item = Range<usize>> {
        let (inputs, starts) = (self.inputs, self.weight.clone().step_by(self.columns.max(1)));
        starts.map(move |start| start..start + inputs)
    }

    fn packed_len<D: LinearOps, E: Element>(&self, device: &D) -> usize {
        Pack::<D, E>::len(device, self.outputs, self.columns)
    }

    /// Where the packed weight lies, from `*end` on, which is moved behind it.
    fn take_packed<D: LinearOps, E: Element>(&self, device: &D, end: &mut usize) -> Range<usize> {
        let start = *end;
        *end += self.packed_len::<D, E>(device);
        start..*end
    }

    fn weight<'a, D: Device, E: Element>(&self, parameters: &'a D::Buffer<E>) -> Matrix<'a, D, E> {
        Matrix::contiguous(D::slice(parameters, self.weight.clone()), self.outputs, self.columns)
    }

    /// The output of the layer before, or the input of the whole.
    fn input<'a, D: Device, E: Element>(
        &self,
        first: &'a Matrix<'_, D, E>,
        before: Option<&'a D::Buffer<E>>,
    ) -> Matrix<'a, D, E> {
        before.map_or(first.reborrow(), |buffer| matrix(buffer, first.rows, self.columns))
    }

    /// Where the output goes: into a buffer, or to the output of the whole.
    fn output_mut<'a, D: Device, E: Element>(
        &self,
        last: &'a mut MatrixMut<'_, D, E>,
        buffer: Option<&'a mut D::Buffer<E>>,
        rows: usize,
    ) -> MatrixMut<'a, D, E> {
        match buffer {
            Some(buffer) => first_columns_mut(buffer, rows, self.outputs),
            None => last.reborrow(),
        }
    }
}

/// What a forward pass reads and writes.
pub(crate) struct ForwardPass<'a, D: Device, E: Element> {
    /// Parameters, of which weights are read.
    pub(crate) weights: &'a D::Buffer<E>,
    /// See [`Mlp::pack`].
    pub(crate) packed: Option<&'a D::Buffer<u64>>,
    /// Parameters, of which biases are read.
    pub(crate) biases: &'a D::Buffer<f32>,
    pub(crate) precision: Precision,
    pub(crate) input: Matrix<'a, D, E>,
    /// See [`Mlp::between`].
    pub(crate) between: &'a mut [D::Buffer<E>],
    pub(crate) output: MatrixMut<'a, D, E>,
}

/// What a backward pass reads and writes.
pub(crate) struct BackwardPass<'a, D: Device, E: Element> {
    /// Parameters, of which weights are read.
    pub(crate) weights: &'a D::Buffer<E>,
    pub(crate) precision: Precision,
    pub(crate) input: Matrix<'a, D, E>,
    pub(crate) between: &'a [D::Buffer<E>],
    pub(crate) output: Matrix<'a, D, E>,
    /// The gradients of the layers' outputs but the last one's: overwritten, as is that one.
    pub(crate) grads: &'a mut [D::Buffer<E>],
    pub(crate) grad_output: MatrixMut<'a, D, E>,
    pub(crate) grad_parameters: &'a mut D::Buffer<f32>,
    /// The gradient of the input, if it is wanted.
    pub(crate) grad_input: Option<MatrixMut<'a, D, E>>,
    pub(crate) accum: Accum,
    /// [`Mlp::workspace_len`] words.
    pub(crate) workspace: &'a mut D::Buffer<u64>,
}
