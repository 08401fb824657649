//! The buffers of a step in the type that the configuration chooses: activations and their
//! gradients, from the lookup to the top MLP, and the weights that layers multiply with.

use super::config::{DlrmConfig, Mlps};
use super::matrix::{BatchMatrix, padded};
use super::mlp::{Mlp, MlpBuffers};
use super::precision::ComputePrecision;
use crate::dtype::{Element, bf16, f16};
use crate::error::Result;
use crate::ops::cast::Cast;
use crate::ops::{Backend, Device, Extent, Matrix, MatrixMut, TableBatch, ViewMut, head};
use crate::size::{product, sum};

/// The buffers of the layers and of what lies between them, in the type that a model computes in.
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

/// Layers in `f32`, which compute with the parameters and the dense features themselves.
pub(super) struct F32Layers<D: Device> {
    buffers: StepBuffers<D, f32>,
}

/// Layers in 16 bits, which compute with rounded copies.
pub(super) struct SixteenBitLayers<D: Device, E: Element> {
    /// The rounded copy of all parameters.
    parameters: D::Buffer<E>,
    /// The rounded copy of the dense features.
    dense: BatchMatrix<D, E>,
    buffers: StepBuffers<D, E>,
}

/// The buffers of a step in the type `E`.
pub(super) struct StepBuffers<D: Device, E: Element> {
    /// The buffers of the bottom MLP.
    pub(super) bottom: MlpBuffers<D, E>,
    /// The buffers of the top MLP without its last layer.
    pub(super) top: MlpBuffers<D, E>,
    pub(super) activations: Activations<D, E>,
    /// The gradients of the activations, `None` until the model is trained.
    pub(super) grads: Option<Activations<D, E>>,
}

/// The operands of the bottom MLP: the weights, the dense features, and the buffers.
type BottomParts<'a, D, E> =
    (&'a <D as Device>::Buffer<E>, Matrix<'a, D, E>, &'a mut StepBuffers<D, E>);

/// The activations between the parts of a model, or their gradients.
pub(super) struct Activations<D: Device, E: Element> {
    /// The output of the bottom MLP.
    pub(super) bottom: BatchMatrix<D, E>,
    /// The pooled vectors of all features.
    pub(super) pooled: BatchMatrix<D, E>,
    /// The output of the interaction, padded as the top MLP reads it.
    pub(super) interacted: BatchMatrix<D, E>,
    /// The output of the top MLP's last layer but one.
    pub(super) top: BatchMatrix<D, E>,
}

/// The bytes that the buffers of the layers take in training.
pub(super) struct LayerBytes {
    /// Bytes of the rounded copy of the parameters.
    pub(super) parameters: usize,
    /// Bytes of activations, hidden ones included, and of copies in another type.
    pub(super) activations: usize,
    /// Bytes of the gradients of these.
    pub(super) grads: usize,
}

/// The workspace of the backward pass, in words of 8 bytes.
pub(super) struct LayerWorkspaces {
    /// The words of the last layer of the top MLP with the loss.
    pub(super) head: usize,
    /// The words of any other layer.
    pub(super) hidden: usize,
}

impl LayerWorkspaces {
    fn of<D: Backend, E: Element>(device: &D, mlps: &Mlps, batch_size: usize) -> Self {
        let inputs = mlps.logit.columns();
        let hidden = mlps.hidden().map(|mlp| mlp.workspace_len::<D, E>(device, batch_size));
        Self {
            head: head::LossAndGrads::<D, E>::workspace_len(device, batch_size, inputs),
            hidden: hidden.into_iter().max().unwrap_or(0),
        }
    }
}

impl<D: Device, E: Element> Activations<D, E> {
    fn new(
        device: &D,
        config: &DlrmConfig,
        tables: &TableBatch,
        batch_size: usize,
    ) -> Result<Self> {
        let [bottom, pooled, interacted, top] = leading_dims(config, tables);
        let width = config.interaction_width();
        Ok(Self {
            bottom: BatchMatrix::new(device, batch_size, bottom)?,
            pooled: BatchMatrix::new(device, batch_size, pooled)?,
            interacted: BatchMatrix::with_ld(device, batch_size, width, interacted)?,
            top: BatchMatrix::new(device, batch_size, top)?,
        })
    }
}

/// Returns the leading dimension of each of the matrices of [`Activations`], in their order.
fn leading_dims(config: &DlrmConfig, tables: &TableBatch) -> [usize; 4] {
    let width = config.interaction_width();
    let hidden = config.top_mlp.split_last().and_then(|(_, hidden)| hidden.last());
    let (interacted, top) = hidden.map_or((width, width), |&outputs| (padded(width), outputs));
    [config.bottom_mlp.last().copied().unwrap_or(0), tables.width(), interacted, top]
}

impl<D: Device, E: Element> StepBuffers<D, E> {
    /// Allocates buffers for `batch_size` samples, with gradients if `train` is set.
    fn new(
        device: &D,
        config: &DlrmConfig,
        mlps: &Mlps,
        tables: &TableBatch,
        batch_size: usize,
        train: bool,
    ) -> Result<Self> {
        let mlp = |mlp: &Mlp| mlp.buffers(device, batch_size, if train { batch_size } else { 0 });
        let activations = || Activations::new(device, config, tables, batch_size);
        Ok(Self {
            bottom: mlp(&mlps.bottom)?,
            top: mlp(&mlps.top)?,
            activations: activations()?,
            grads: if train { Some(activations()?) } else { None },
        })
    }

    fn pack(&mut self, device: &D, mlps: &Mlps, weights: &D::Buffer<E>) -> Result<()>
    where
        D: Backend,
    {
        mlps.bottom.pack(device, &mut self.bottom, weights)?;
        mlps.top.pack(device, &mut self.top, weights)
    }

    /// Views the gradient of the pooled vectors, `None` before training.
    pub(super) fn pooled_grad(&self, rows: usize) -> Option<Matrix<'_, D, E>> {
        self.grads.as_ref().map(|grads| grads.pooled.matrix(rows))
    }

    /// Drops the packed weights, as a caller must before the weights change.
    fn unpack(&mut self) {
        self.bottom.unpack();
        self.top.unpack();
    }
}

impl<D: Backend> Layers<D> {
    /// Allocates buffers for batches of `batch_size` samples, with gradients if `train` is set.
    /// Copies of parameters are zeros until [`Self::refresh`] is called.
    pub(super) fn new(
        device: &D,
        config: &DlrmConfig,
        (mlps, num_parameters): (&Mlps, usize),
        tables: &TableBatch,
        batch_size: usize,
        train: bool,
    ) -> Result<Self> {
        Ok(match config.precision {
            ComputePrecision::F32 | ComputePrecision::Tf32 => {
                let buffers = StepBuffers::new(device, config, mlps, tables, batch_size, train)?;
                Self::F32(F32Layers { buffers })
            }
            ComputePrecision::F16 { .. } => {
                let buffers = StepBuffers::new(device, config, mlps, tables, batch_size, train)?;
                Self::F16(SixteenBitLayers::new(device, mlps, num_parameters, batch_size, buffers)?)
            }
            ComputePrecision::BF16 => {
                let buffers = StepBuffers::new(device, config, mlps, tables, batch_size, train)?;
                Self::BF16(SixteenBitLayers::new(
                    device,
                    mlps,
                    num_parameters,
                    batch_size,
                    buffers,
                )?)
            }
        })
    }

    /// Returns the bytes that [`Self::new`] allocates for training.
    pub(super) fn bytes(
        config: &DlrmConfig,
        (mlps, num_parameters): (&Mlps, usize),
        tables: &TableBatch,
        batch_size: usize,
    ) -> LayerBytes {
        let hidden = mlps.hidden().into_iter().flat_map(Mlp::hidden_layers);
        let hidden = hidden.map(|layer| padded(layer.outputs));
        let columns = sum(hidden.chain(leading_dims(config, tables)));
        let (size, dense) = match config.precision.copy_bytes() {
            0 => (4, 0),
            size => (size, product([batch_size, mlps.bottom.columns(), size])),
        };
        let both = product([batch_size, columns, size]);
        LayerBytes {
            parameters: product([num_parameters, config.precision.copy_bytes()]),
            activations: sum([both, dense]),
            grads: both,
        }
    }

    /// Returns the 8-byte words of workspace that the backward pass needs for a batch of up to
    /// `batch_size` samples.
    pub(super) fn workspace_lens(
        device: &D,
        precision: ComputePrecision,
        mlps: &Mlps,
        batch_size: usize,
    ) -> LayerWorkspaces {
        match precision {
            ComputePrecision::F32 | ComputePrecision::Tf32 => {
                LayerWorkspaces::of::<D, f32>(device, mlps, batch_size)
            }
            ComputePrecision::F16 { .. } => LayerWorkspaces::of::<D, f16>(device, mlps, batch_size),
            ComputePrecision::BF16 => LayerWorkspaces::of::<D, bf16>(device, mlps, batch_size),
        }
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
        mlps: &Mlps,
        parameters: &D::Buffer<f32>,
    ) -> Result<()> {
        with_layers!(self, layers => {
            let (weights, buffers) = layers.split(parameters);
            buffers.pack(device, mlps, weights)
        })
    }
}

impl<D: Backend> F32Layers<D> {
    /// Borrows the weights that the layers multiply with, and the buffers.
    pub(super) fn split<'a>(
        &'a mut self,
        parameters: &'a D::Buffer<f32>,
    ) -> (&'a D::Buffer<f32>, &'a mut StepBuffers<D, f32>) {
        (parameters, &mut self.buffers)
    }

    /// Rounds nothing: the layers read the dense features themselves.
    pub(super) fn round_dense(&mut self, _: &D, _: &Matrix<'_, D, f32>) -> Result<()> {
        Ok(())
    }

    /// Borrows weights and buffers as [`Self::split`] does, and the dense features as the bottom
    /// MLP reads them.
    pub(super) fn split_bottom<'a>(
        &'a mut self,
        parameters: &'a D::Buffer<f32>,
        dense: &Matrix<'a, D, f32>,
    ) -> BottomParts<'a, D, f32> {
        (parameters, *dense, &mut self.buffers)
    }

    /// Returns `None`, because there is no copy of the parameters, and drops the packed weights,
    /// because the parameters are about to change.
    pub(super) fn rounded_mut(&mut self) -> Option<ViewMut<'_, D, f32>> {
        self.buffers.unpack();
        None
    }
}

impl<D: Backend, E: Element> SixteenBitLayers<D, E> {
    fn new(
        device: &D,
        mlps: &Mlps,
        num_parameters: usize,
        batch_size: usize,
        buffers: StepBuffers<D, E>,
    ) -> Result<Self> {
        Ok(Self {
            parameters: device.alloc(num_parameters)?,
            dense: BatchMatrix::new(device, batch_size, mlps.bottom.columns())?,
            buffers,
        })
    }

    /// Does what [`F32Layers::split`] does, with the rounded copy of the parameters.
    pub(super) fn split<'a>(
        &'a mut self,
        _: &'a D::Buffer<f32>,
    ) -> (&'a D::Buffer<E>, &'a mut StepBuffers<D, E>) {
        (&self.parameters, &mut self.buffers)
    }

    /// Rounds the dense features to the type of the layers.
    pub(super) fn round_dense(&mut self, device: &D, from: &Matrix<'_, D, f32>) -> Result<()> {
        Cast { factor: 1.0, from: *from, to: self.dense.matrix_mut(from.rows) }.run(device)
    }

    /// Does what [`F32Layers::split_bottom`] does, with rounded copies.
    pub(super) fn split_bottom<'a>(
        &'a mut self,
        _: &'a D::Buffer<f32>,
        dense: &Matrix<'a, D, f32>,
    ) -> BottomParts<'a, D, E> {
        (&self.parameters, self.dense.matrix(dense.rows), &mut self.buffers)
    }

    /// Returns the copy of the parameters to be overwritten, and drops the packed weights.
    pub(super) fn rounded_mut(&mut self) -> Option<ViewMut<'_, D, E>> {
        self.buffers.unpack();
        Some(D::view_mut(&mut self.parameters))
    }
}
