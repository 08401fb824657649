//! The hidden layers of a model, which compute in the type that the configuration chooses, between
//! matrices of `f32`.

use super::matrix::{BatchMatrix, padded};
use super::mlp::{Backward, Forward, Mlp, MlpBuffers};
use super::precision::ComputePrecision;
use crate::dtype::{Element, bf16, f16};
use crate::error::Result;
use crate::ops::cast::Cast;
use crate::ops::{Backend, Device, Extent, Matrix, MatrixMut, Precision, ViewMut};
use crate::size::{product, sum};

/// Names one of the two MLPs.
#[derive(Clone, Copy)]
pub(super) enum MlpId {
    Bottom,
    Top,
}

/// The buffers of the layers of both MLPs, in the type that the layers compute in.
pub(super) enum Layers<D: Device> {
    F32(F32Layers<D>),
    F16(SixteenBitLayers<D, f16>),
    BF16(SixteenBitLayers<D, bf16>),
}

/// Runs `$body` with `$layers` bound to the layers, whatever type they compute in.
macro_rules! with_layers {
    ($all:expr, $layers:ident => $body:expr) => {
        match $all {
            Layers::F32($layers) => $body,
            Layers::F16($layers) => $body,
            Layers::BF16($layers) => $body,
        }
    };
}
pub(super) use with_layers;

/// Layers in `f32`, which compute with the parameters themselves.
pub(super) struct F32Layers<D: Device> {
    /// The buffers of each MLP, by [`MlpId`].
    mlps: [MlpBuffers<D, f32>; 2],
}

/// Layers in 16 bits, which compute with a rounded copy of the parameters.
pub(super) struct SixteenBitLayers<D: Device, E: Element> {
    /// The rounded copy of all parameters.
    parameters: D::Buffer<E>,
    loss_scale: f32,
    /// The buffers of each MLP, by [`MlpId`].
    mlps: [SixteenBitMlp<D, E>; 2],
}

/// The buffers of one MLP that computes in 16 bits.
struct SixteenBitMlp<D: Device, E: Element> {
    buffers: MlpBuffers<D, E>,
    ends: Ends<D, E>,
    /// The gradients of `ends`. That of the bottom MLP's input has no columns: nobody wants the
    /// gradient of the dense features.
    grads: Ends<D, E>,
}

/// The input and the output of an MLP in 16 bits, or their gradients.
struct Ends<D: Device, E: Element> {
    input: BatchMatrix<D, E>,
    output: BatchMatrix<D, E>,
}

/// The bytes that the buffers of the layers take in training.
pub(super) struct LayerBytes {
    /// Bytes of the rounded copy of the parameters.
    pub(super) parameters: usize,
    /// Bytes of hidden activations, and of 16-bit inputs and outputs.
    pub(super) activations: usize,
    /// Bytes of the gradients of these.
    pub(super) grads: usize,
}

impl<D: Backend> Layers<D> {
    /// Allocates buffers for batches of `batch_size` samples, with gradients if `train` is set.
    /// Copies of parameters are zeros until [`Self::refresh`] is called.
    pub(super) fn new(
        device: &D,
        precision: ComputePrecision,
        mlps: [&Mlp; 2],
        num_parameters: usize,
        batch_size: usize,
        train: bool,
    ) -> Result<Self> {
        let sizes = [batch_size, if train { batch_size } else { 0 }];
        Ok(match precision {
            ComputePrecision::F32 | ComputePrecision::Tf32 => {
                Self::F32(F32Layers::new(device, mlps, sizes)?)
            }
            ComputePrecision::F16 { loss_scale } => {
                Self::F16(SixteenBitLayers::new(device, loss_scale, mlps, num_parameters, sizes)?)
            }
            ComputePrecision::BF16 => {
                Self::BF16(SixteenBitLayers::new(device, 1.0, mlps, num_parameters, sizes)?)
            }
        })
    }

    /// Returns the bytes that [`Self::new`] allocates for training.
    pub(super) fn bytes(
        precision: ComputePrecision,
        mlps: [&Mlp; 2],
        num_parameters: usize,
        batch_size: usize,
    ) -> LayerBytes {
        let hidden = |mlp: &Mlp| sum(mlp.hidden_layers().iter().map(|layer| padded(layer.outputs)));
        let of_both = |of: &dyn Fn(&Mlp) -> usize| sum(mlps.into_iter().map(of));
        let parameters = product([num_parameters, precision.copy_bytes()]);
        match precision {
            ComputePrecision::F32 | ComputePrecision::Tf32 => {
                let activations = product([batch_size, of_both(&hidden), 4]);
                LayerBytes { parameters, activations, grads: activations }
            }
            ComputePrecision::F16 { .. } | ComputePrecision::BF16 => {
                let inputs = mlps.map(Mlp::columns);
                let outputs = of_both(&|mlp| sum([hidden(mlp), mlp.outputs()]));
                let bytes = |inputs| product([batch_size, sum([outputs, inputs]), 2]);
                // Nobody wants the gradient of the dense features.
                let (activations, grads) = (bytes(sum(inputs)), bytes(inputs[1]));
                LayerBytes { parameters, activations, grads }
            }
        }
    }

    /// Returns the 8-byte words of workspace that [`Self::backward`] needs for a batch of up to
    /// `batch_size` samples.
    pub(super) fn workspace_len(
        device: &D,
        precision: ComputePrecision,
        mlps: [&Mlp; 2],
        batch_size: usize,
    ) -> usize {
        let of_mlp = |mlp: &Mlp| match precision {
            ComputePrecision::F32 | ComputePrecision::Tf32 => {
                mlp.workspace_len::<D, f32>(device, batch_size)
            }
            ComputePrecision::F16 { .. } => mlp.workspace_len::<D, f16>(device, batch_size),
            ComputePrecision::BF16 => mlp.workspace_len::<D, bf16>(device, batch_size),
        };
        mlps.into_iter().map(of_mlp).max().unwrap_or(0)
    }

    /// Makes the copies of the parameters again. Callers do this after the parameters have changed
    /// otherwise than by `dense_update`, which rounds them itself.
    pub(super) fn refresh(&mut self, device: &D, parameters: &D::Buffer<f32>) -> Result<()> {
        with_layers!(self, layers => match layers.rounded_mut() {
            Some(rounded) => {
                let len = parameters.extent();
                let from = Matrix::contiguous(D::view(parameters), 1, len);
                let to = MatrixMut::contiguous(rounded, 1, len);
                Cast { factor: 1.0, from, to }.run(device)
            }
            None => Ok(()),
        })
    }

    /// Packs the weights, unless they are still packed. This pays off for predictions, which find
    /// the weights unchanged the next time.
    pub(super) fn pack(
        &mut self,
        device: &D,
        mlps: [&Mlp; 2],
        parameters: &D::Buffer<f32>,
    ) -> Result<()> {
        match self {
            Self::F32(layers) => layers.pack(device, mlps, parameters),
            Self::F16(layers) => layers.pack(device, mlps),
            Self::BF16(layers) => layers.pack(device, mlps),
        }
    }

    /// Runs all layers of an MLP. Without layers the output is a copy of the input.
    pub(super) fn forward(
        &mut self,
        device: &D,
        (id, mlp): (MlpId, &Mlp),
        pass: Forward<'_, D, f32>,
    ) -> Result<()> {
        if mlp.layers().is_empty() {
            return Cast { factor: 1.0, from: pass.input, to: pass.output }.run(device);
        }
        with_layers!(self, layers => layers.forward(device, (id, mlp), pass))
    }

    /// Runs all layers of an MLP backwards. The gradient of the top MLP's output comes multiplied
    /// by the loss scale, the other gradients of inputs and outputs are not scaled. Without layers
    /// the gradient of the input is that of the output divided by the loss scale.
    pub(super) fn backward(
        &mut self,
        device: &D,
        (id, mlp): (MlpId, &Mlp),
        mut pass: Backward<'_, D, f32>,
    ) -> Result<()> {
        if !mlp.layers().is_empty() {
            return with_layers!(self, layers => layers.backward(device, (id, mlp), pass));
        }
        let Some(to) = &mut pass.grad_input else { return Ok(()) };
        let factor = 1.0 / with_layers!(self, layers => layers.loss_scale());
        Cast { factor, from: pass.grad_output.as_matrix(), to: to.reborrow() }.run(device)
    }
}

impl<D: Backend> F32Layers<D> {
    fn new(
        device: &D,
        [bottom, top]: [&Mlp; 2],
        [batch_size, grad_batch_size]: [usize; 2],
    ) -> Result<Self> {
        let buffers = |mlp: &Mlp| mlp.buffers(device, batch_size, grad_batch_size);
        Ok(Self { mlps: [buffers(bottom)?, buffers(top)?] })
    }

    fn loss_scale(&self) -> f32 {
        1.0
    }

    /// Returns `None`, because there is no copy of the parameters, and drops the packed weights,
    /// because the parameters are about to change.
    pub(super) fn rounded_mut(&mut self) -> Option<ViewMut<'_, D, f32>> {
        self.mlps.iter_mut().for_each(MlpBuffers::unpack);
        None
    }

    fn pack(&mut self, device: &D, mlps: [&Mlp; 2], parameters: &D::Buffer<f32>) -> Result<()> {
        mlps.into_iter()
            .zip(&mut self.mlps)
            .try_for_each(|(mlp, buffers)| mlp.pack(device, buffers, parameters))
    }

    fn forward(
        &mut self,
        device: &D,
        (id, mlp): (MlpId, &Mlp),
        pass: Forward<'_, D, f32>,
    ) -> Result<()> {
        mlp.forward(device, &mut self.mlps[id as usize], pass)
    }

    fn backward(
        &mut self,
        device: &D,
        (id, mlp): (MlpId, &Mlp),
        pass: Backward<'_, D, f32>,
    ) -> Result<()> {
        mlp.backward(device, &mut self.mlps[id as usize], pass)
    }
}

impl<D: Backend, E: Element> SixteenBitLayers<D, E> {
    fn new(
        device: &D,
        loss_scale: f32,
        [bottom, top]: [&Mlp; 2],
        num_parameters: usize,
        sizes: [usize; 2],
    ) -> Result<Self> {
        let mlps = [
            SixteenBitMlp::new(device, bottom, sizes, 0)?,
            SixteenBitMlp::new(device, top, sizes, top.columns())?,
        ];
        Ok(Self { parameters: device.alloc(num_parameters)?, loss_scale, mlps })
    }

    fn loss_scale(&self) -> f32 {
        self.loss_scale
    }

    /// Returns the copy of the parameters to be overwritten, and drops the packed weights.
    pub(super) fn rounded_mut(&mut self) -> Option<ViewMut<'_, D, E>> {
        self.mlps.iter_mut().for_each(|mlp| mlp.buffers.unpack());
        Some(D::view_mut(&mut self.parameters))
    }

    fn pack(&mut self, device: &D, mlps: [&Mlp; 2]) -> Result<()> {
        let Self { parameters, mlps: own, .. } = self;
        mlps.into_iter()
            .zip(own)
            .try_for_each(|(mlp, own)| mlp.pack(device, &mut own.buffers, parameters))
    }

    fn forward(
        &mut self,
        device: &D,
        (id, mlp): (MlpId, &Mlp),
        mut pass: Forward<'_, D, f32>,
    ) -> Result<()> {
        let SixteenBitMlp { buffers, ends: Ends { input, output }, .. } =
            &mut self.mlps[id as usize];
        let rows = pass.input.rows;
        Cast { factor: 1.0, from: pass.input, to: input.matrix_mut(rows) }.run(device)?;
        let rounded = Forward {
            weights: &self.parameters,
            biases: pass.biases,
            precision: Precision::Full,
            input: input.matrix(rows),
            output: output.matrix_mut(rows),
        };
        mlp.forward(device, buffers, rounded)?;
        Cast { factor: 1.0, from: output.matrix(rows), to: pass.output.reborrow() }.run(device)
    }

    fn backward(
        &mut self,
        device: &D,
        (id, mlp): (MlpId, &Mlp),
        mut pass: Backward<'_, D, f32>,
    ) -> Result<()> {
        let SixteenBitMlp { buffers, ends, grads } = &mut self.mlps[id as usize];
        let rows = pass.input.rows;
        // The gradient from the loss is scaled already, the one from the interaction is not.
        let factor = match id {
            MlpId::Bottom => self.loss_scale,
            MlpId::Top => 1.0,
        };
        let from = pass.grad_output.as_matrix();
        Cast { factor, from, to: grads.output.matrix_mut(rows) }.run(device)?;
        let rounded = Backward {
            weights: &self.parameters,
            precision: Precision::Full,
            input: ends.input.matrix(rows),
            output: ends.output.matrix(rows),
            grad_output: grads.output.matrix_mut(rows),
            grad_input: pass.grad_input.as_ref().map(|_| grads.input.matrix_mut(rows)),
            grad_parameters: pass.grad_parameters,
            accum: pass.accum,
            workspace: pass.workspace,
            branch: pass.branch,
        };
        mlp.backward(device, buffers, rounded)?;
        let Some(to) = &mut pass.grad_input else { return Ok(()) };
        let factor = 1.0 / self.loss_scale;
        Cast { factor, from: grads.input.matrix(rows), to: to.reborrow() }.run(device)
    }
}

impl<D: Backend, E: Element> SixteenBitMlp<D, E> {
    /// Allocates buffers for a batch of `batch_size` samples, and gradients for one of
    /// `grad_batch_size`, where that of the input has `grad_columns` columns.
    fn new(
        device: &D,
        mlp: &Mlp,
        [batch_size, grad_batch_size]: [usize; 2],
        grad_columns: usize,
    ) -> Result<Self> {
        let ends = |samples, columns| -> Result<Ends<D, E>> {
            Ok(Ends {
                input: BatchMatrix::new(device, samples, columns)?,
                output: BatchMatrix::new(device, samples, mlp.outputs())?,
            })
        };
        Ok(Self {
            buffers: mlp.buffers(device, batch_size, grad_batch_size)?,
            ends: ends(batch_size, mlp.columns())?,
            grads: ends(grad_batch_size, grad_columns)?,
        })
    }
}
