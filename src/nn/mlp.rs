//! Multi-layer perceptrons whose parameters lie in a buffer that they share with the rest of the model.

use std::ops::Range;

use crate::error::Result;
use crate::ops::linear::{self, Activation, LinearOps};
use crate::ops::{Accum, Device, Matrix, MatrixMut, Precision};
use crate::philox::Philox;

/// Layers begin at multiples of this many elements: a cache line.
const ALIGN: usize = 16;

/// The shape of a multi-layer perceptron, and where its parameters lie.
#[derive(Clone, Debug)]
pub struct Mlp {
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Range<usize>,
    activation: Activation,
}

/// A buffer for the output of each layer.
pub(crate) type Activations<D> = Vec<<D as Device>::Buffer<f32>>;

impl Mlp {
    /// Layers of the sizes `sizes[0] → sizes[1] → …`, with ReLU after each, and `last` after the last. Their parameters lie from
    /// `*end` on, which is moved behind them.
    pub fn new(sizes: &[usize], last: Activation, end: &mut usize) -> Self {
        let mut take = |len: usize| {
            let start = *end;
            *end += len.next_multiple_of(ALIGN);
            start..start + len
        };
        let num_layers = sizes.len().saturating_sub(1);
        let layers = sizes.windows(2).enumerate().map(|(k, pair)| Layer {
            inputs: pair[0],
            outputs: pair[1],
            weight: take(pair[0] * pair[1]),
            bias: take(pair[1]),
            activation: if k + 1 == num_layers { last } else { Activation::Relu },
        });
        Self { layers: layers.collect() }
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Draws the parameters as facebookresearch/dlrm does: `W ~ N(0, 2 / (K + N))`, `b ~ N(0, 1 / N)`, by variance.
    pub(crate) fn init(&self, parameters: &mut [f32], random: &mut Philox) {
        for layer in &self.layers {
            let (k, n) = (layer.inputs as f64, layer.outputs as f64);
            let (weight_std, bias_std) = ((2.0 / (k + n)).sqrt(), (1.0 / n).sqrt());
            parameters[layer.weight.clone()].iter_mut().for_each(|w| *w = (random.normal() * weight_std) as f32);
            parameters[layer.bias.clone()].iter_mut().for_each(|b| *b = (random.normal() * bias_std) as f32);
        }
    }

    /// Room for the outputs of all layers.
    pub(crate) fn activations<D: Device>(&self, device: &D, batch_size: usize) -> Result<Activations<D>> {
        self.layers.iter().map(|layer| device.alloc(batch_size * layer.outputs)).collect()
    }

    /// The output of the last layer; the input if there is none.
    pub(crate) fn output<'a, D: Device>(
        &self,
        input: &'a Matrix<'_, D, f32>,
        activations: &'a Activations<D>,
    ) -> Matrix<'a, D, f32> {
        match (self.layers.last(), activations.last()) {
            (Some(layer), Some(buffer)) => {
                Matrix::packed(D::slice(buffer, 0..input.rows * layer.outputs), input.rows, layer.outputs)
            }
            _ => input.reborrow(),
        }
    }

    /// The words of workspace that a backward pass needs for a batch of up to `batch_size` samples.
    pub(crate) fn workspace_len<D: LinearOps>(&self, device: &D, batch_size: usize) -> usize {
        let of_layer =
            |layer: &Layer| linear::Backward::<D, f32>::workspace_len(device, batch_size, layer.outputs, layer.inputs);
        self.layers.iter().map(of_layer).max().unwrap_or(0)
    }

    /// Runs all layers.
    pub(crate) fn forward<D: LinearOps>(
        &self,
        device: &D,
        parameters: &D::Buffer<f32>,
        input: &Matrix<'_, D, f32>,
        activations: &mut Activations<D>,
    ) -> Result<()> {
        let rows = input.rows;
        for (k, layer) in self.layers.iter().enumerate() {
            let (before, rest) = activations.split_at_mut(k);
            let forward = linear::Forward {
                input: layer.input(input, before.last()),
                weight: Matrix::packed(D::slice(parameters, layer.weight.clone()), layer.outputs, layer.inputs),
                bias: D::slice(parameters, layer.bias.clone()),
                activation: layer.activation,
                precision: Precision::Full,
                output: MatrixMut::packed(D::slice_mut(&mut rest[0], 0..rows * layer.outputs), rows, layer.outputs),
            };
            forward.run(device)?;
        }
        Ok(())
    }

    /// Runs all layers backwards. The last of `grads` holds the gradient of the output; all of them are overwritten. The gradients of the
    /// parameters go where the parameters lie, in `grad_parameters`.
    pub(crate) fn backward<D: LinearOps>(&self, device: &D, pass: BackwardPass<'_, D>) -> Result<()> {
        let BackwardPass { parameters, input, activations, grads, grad_parameters, mut grad_input, accum, workspace } =
            pass;
        let rows = input.rows;
        for (k, layer) in self.layers.iter().enumerate().rev() {
            let (before, rest) = grads.split_at_mut(k);
            let grad_input = match before.last_mut() {
                Some(buffer) => {
                    Some(MatrixMut::packed(D::slice_mut(buffer, 0..rows * layer.inputs), rows, layer.inputs))
                }
                None => grad_input.as_mut().map(MatrixMut::reborrow),
            };
            let (grad_weight, grad_bias) = D::split_mut(grad_parameters, layer.weight.clone(), layer.bias.clone());
            let backward = linear::Backward {
                input: layer.input(&input, activations[..k].last()),
                weight: Matrix::packed(D::slice(parameters, layer.weight.clone()), layer.outputs, layer.inputs),
                output: Matrix::packed(D::slice(&activations[k], 0..rows * layer.outputs), rows, layer.outputs),
                activation: layer.activation,
                precision: Precision::Full,
                grad_output: MatrixMut::packed(
                    D::slice_mut(&mut rest[0], 0..rows * layer.outputs),
                    rows,
                    layer.outputs,
                ),
                grad_input,
                grad_weight: MatrixMut::packed(grad_weight, layer.outputs, layer.inputs),
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
    /// The output of the layer before, or the input of the whole.
    fn input<'a, D: Device>(
        &self,
        first: &'a Matrix<'_, D, f32>,
        before: Option<&'a D::Buffer<f32>>,
    ) -> Matrix<'a, D, f32> {
        match before {
            Some(buffer) => Matrix::packed(D::slice(buffer, 0..first.rows * self.inputs), first.rows, self.inputs),
            None => first.reborrow(),
        }
    }
}

/// What a backward pass reads and writes.
pub(crate) struct BackwardPass<'a, D: Device> {
    pub(crate) parameters: &'a D::Buffer<f32>,
    pub(crate) input: Matrix<'a, D, f32>,
    pub(crate) activations: &'a Activations<D>,
    pub(crate) grads: &'a mut Activations<D>,
    pub(crate) grad_parameters: &'a mut D::Buffer<f32>,
    /// The gradient of the input, if it is wanted.
    pub(crate) grad_input: Option<MatrixMut<'a, D, f32>>,
    pub(crate) accum: Accum,
    /// [`Mlp::workspace_len`] words.
    pub(crate) workspace: &'a mut D::Buffer<u64>,
}
