//! The layers of a model but for the last one, at work in the type that they compute in, between
//! matrices of `f32`.

use super::mlp::{BackwardPass, ForwardPass, Mlp, padded};
use super::precision::ComputePrecision;
use crate::dtype::{Element, Scalar, bf16, f16};
use crate::error::Result;
use crate::ops::cast::Cast;
use crate::ops::{Accum, Backend, Device, Extent, Matrix, MatrixMut, Precision};
use crate::size::{product, sum};

/// One of the MLPs.
#[derive(Clone, Copy)]
pub(super) enum Stack {
    Bottom,
    Top,
}

/// What the layers of both MLPs read and write between their ends, and the copies of the parameters
/// that they compute with.
pub(super) enum Layers<D: Device> {
    F32(Full<D>),
    F16(Half<D, f16>),
    BF16(Half<D, bf16>),
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

/// Layers in `f32`: they compute with the parameters themselves.
pub(super) struct Full<D: Device> {
    precision: Precision,
    packed: Packed<D>,
    /// For each MLP the outputs of its layers but the last, and their gradients.
    stacks: [[Between<D, f32>; 2]; 2],
}

/// Layers in 16 bits.
pub(super) struct Half<D: Device, E: Element> {
    /// All parameters, rounded.
    parameters: D::Buffer<E>,
    packed: Packed<D>,
    loss_scale: f32,
    /// For each MLP its values, and their gradients.
    stacks: [[Values<D, E>; 2]; 2],
}

/// The weights of each MLP as [`Mlp::pack`] gives them; none since they changed.
type Packed<D> = Option<[<D as Device>::Buffer<u64>; 2]>;

/// A buffer for the output of each layer but the last.
type Between<D, E> = Vec<<D as Device>::Buffer<E>>;

/// Everything that layers in 16 bits read and write.
struct Values<D: Device, E: Element> {
    input: D::Buffer<E>,
    between: Between<D, E>,
    output: D::Buffer<E>,
}

/// What an MLP reads and writes outside, going forwards.
pub(super) struct Forward<'a, D: Device> {
    pub(super) parameters: &'a D::Buffer<f32>,
    pub(super) input: Matrix<'a, D, f32>,
    pub(super) output: MatrixMut<'a, D, f32>,
}

/// The same going backwards.
pub(super) struct Backward<'a, D: Device> {
    pub(super) parameters: &'a D::Buffer<f32>,
    pub(super) input: Matrix<'a, D, f32>,
    pub(super) output: Matrix<'a, D, f32>,
    /// Overwritten.
    pub(super) grad_output: &'a mut D::Buffer<f32>,
    /// If it is wanted.
    pub(super) grad_input: Option<MatrixMut<'a, D, f32>>,
    pub(super) grad_parameters: &'a mut D::Buffer<f32>,
    pub(super) accum: Accum,
    pub(super) workspace: &'a mut D::Buffer<u64>,
}

/// The bytes that layers take.
pub(super) struct LayerBytes {
    /// Of the copy of the parameters.
    pub(super) parameters: usize,
    pub(super) values: usize,
    pub(super) grads: usize,
}

impl<D: Backend> Layers<D> {
    /// Room for batches of `batch_size` samples. Copies of parameters are to be made by
    /// [`Self::refresh`].
    pub(super) fn new(
        device: &D,
        precision: ComputePrecision,
        mlps: [&Mlp; 2],
        num_parameters: usize,
        batch_size: usize,
        train: bool,
    ) -> Result<Self> {
        let grads_for = if train { batch_size } else { 0 };
        Ok(match precision {
            ComputePrecision::F32 | ComputePrecision::Tf32 => {
                let [bottom, top] = mlps.map(|mlp| {
                    Ok([mlp.between(device, batch_size)?, mlp.between(device, grads_for)?])
                });
                Self::F32(Full {
                    precision: precision.of_products(),
                    packed: None,
                    stacks: [bottom?, top?],
                })
            }
            ComputePrecision::F16 { loss_scale } => Self::F16(Half::new(
                device,
                loss_scale,
                mlps,
                num_parameters,
                [batch_size, grads_for],
            )?),
            ComputePrecision::BF16 => {
                Self::BF16(Half::new(device, 1.0, mlps, num_parameters, [batch_size, grads_for])?)
            }
        })
    }

    /// The bytes of all buffers for training.
    pub(super) fn bytes(
        precision: ComputePrecision,
        mlps: [&Mlp; 2],
        num_parameters: usize,
        batch_size: usize,
    ) -> LayerBytes {
        let between =
            |mlp: &Mlp| sum(mlp.layers().iter().rev().skip(1).map(|layer| padded(layer.outputs)));
        let all = |of: &dyn Fn(&Mlp) -> usize| sum(mlps.into_iter().map(of));
        let parameters = product([num_parameters, precision.bytes_of_copy()]);
        match precision {
            ComputePrecision::F32 | ComputePrecision::Tf32 => {
                let values = product([batch_size, all(&between), 4]);
                LayerBytes { parameters, values, grads: values }
            }
            ComputePrecision::F16 { .. } | ComputePrecision::BF16 => {
                let inputs = mlps.map(Mlp::columns);
                let values = all(&|mlp| sum([between(mlp), mlp.outputs()]));
                let bytes = |inputs| product([batch_size, sum([values, inputs]), 2]);
                // Nobody wants the gradient of the dense features.
                let (values, grads) = (bytes(sum(inputs)), bytes(inputs[1]));
                LayerBytes { parameters, values, grads }
            }
        }
    }

    /// The words of workspace that going backwards needs.
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

    /// Copies the parameters anew, after they have changed otherwise than by a step of the
    /// optimizer.
    pub(super) fn refresh(&mut self, device: &D, parameters: &D::Buffer<f32>) -> Result<()> {
        with_layers!(self, layers => match layers.rounded() {
            Some(rounded) => {
                let len = parameters.extent();
                let (from, to) = (Matrix::contiguous(D::view(parameters), 1, len), MatrixMut::contiguous(rounded, 1, len));
                Cast { factor: 1.0, from, to }.run(device)
            }
            None => Ok(()),
        })
    }

    /// Packs the weights, unless they have been since they last changed: worth it for predictions,
    /// which find them unchanged the next time.
    pub(super) fn pack(
        &mut self,
        device: &D,
        mlps: [&Mlp; 2],
        parameters: &D::Buffer<f32>,
    ) -> Result<()> {
        match self {
            Self::F32(layers) => pack(&mut layers.packed, device, mlps, parameters),
            Self::F16(layers) => pack(&mut layers.packed, device, mlps, &layers.parameters),
            Self::BF16(layers) => pack(&mut layers.packed, device, mlps, &layers.parameters),
        }
    }

    pub(super) fn forward(
        &mut self,
        device: &D,
        (stack, mlp): (Stack, &Mlp),
        pass: Forward<'_, D>,
    ) -> Result<()> {
        if mlp.layers().is_empty() {
            return Cast { factor: 1.0, from: pass.input, to: pass.output }.run(device);
        }
        with_layers!(self, layers => layers.forward(device, (stack, mlp), pass))
    }

    pub(super) fn backward(
        &mut self,
        device: &D,
        (stack, mlp): (Stack, &Mlp),
        pass: Backward<'_, D>,
    ) -> Result<()> {
        match pass {
            // Without layers the gradient goes through, but for its scale.
            Backward { input, grad_output, grad_input: Some(to), .. }
                if mlp.layers().is_empty() =>
            {
                let factor = 1.0 / with_layers!(self, layers => layers.loss_scale());
                Cast { factor, from: matrix(grad_output, input.rows, input.cols), to }.run(device)
            }
            pass => with_layers!(self, layers => layers.backward(device, (stack, mlp), pass)),
        }
    }
}

impl<D: Backend> Full<D> {
    fn loss_scale(&self) -> f32 {
        1.0
    }

    /// None: there is no copy. The parameters are about to change.
    pub(super) fn rounded(&mut self) -> Option<D::SliceMut<'_, f32>> {
        self.packed = None;
        None
    }

    fn forward(
        &mut self,
        device: &D,
        (stack, mlp): (Stack, &Mlp),
        pass: Forward<'_, D>,
    ) -> Result<()> {
        let Forward { parameters, input, mut output } = pass;
        let [between, _] = &mut self.stacks[stack as usize];
        let pass = ForwardPass {
            weights: parameters,
            packed: self.packed.as_ref().map(|packed| &packed[stack as usize]),
            biases: parameters,
            precision: self.precision,
            input: input.reborrow(),
            between,
            output: output.reborrow(),
        };
        mlp.forward(device, pass)
    }

    fn backward(
        &mut self,
        device: &D,
        (stack, mlp): (Stack, &Mlp),
        pass: Backward<'_, D>,
    ) -> Result<()> {
        let Backward {
            parameters,
            input,
            output,
            grad_output,
            mut grad_input,
            grad_parameters,
            accum,
            workspace,
        } = pass;
        let [between, grads] = &mut self.stacks[stack as usize];
        let pass = BackwardPass {
            weights: parameters,
            precision: self.precision,
            input: input.reborrow(),
            between,
            output: output.reborrow(),
            grads,
            grad_output: matrix_mut(grad_output, input.rows, mlp.outputs()),
            grad_parameters,
            grad_input: grad_input.as_mut().map(MatrixMut::reborrow),
            accum,
            workspace,
        };
        mlp.backward(device, pass)
    }
}

impl<D: Backend, E: Element> Half<D, E> {
    fn new(
        device: &D,
        loss_scale: f32,
        mlps: [&Mlp; 2],
        num_parameters: usize,
        [values, grads]: [usize; 2],
    ) -> Result<Self> {
        let room = |mlp: &Mlp, samples: usize, inputs: usize| -> Result<Values<D, E>> {
            Ok(Values {
                input: device.alloc(product([samples, inputs]))?,
                between: mlp.between(device, samples)?,
                output: device.alloc(product([samples, mlp.outputs()]))?,
            })
        };
        let [bottom, top] = mlps;
        let stacks = [
            // Nobody wants the gradient of the dense features.
            [room(bottom, values, bottom.columns())?, room(bottom, grads, 0)?],
            [room(top, values, top.columns())?, room(top, grads, top.columns())?],
        ];
        Ok(Self { parameters: device.alloc(num_parameters)?, packed: None, loss_scale, stacks })
    }

    fn loss_scale(&self) -> f32 {
        self.loss_scale
    }

    /// The copy of the parameters, which is about to change.
    pub(super) fn rounded(&mut self) -> Option<D::SliceMut<'_, E>> {
        self.packed = None;
        Some(D::view_mut(&mut self.parameters))
    }

    fn forward(
        &mut self,
        device: &D,
        (stack, mlp): (Stack, &Mlp),
        pass: Forward<'_, D>,
    ) -> Result<()> {
        let Forward { parameters: biases, input: from, output: mut to } = pass;
        let [Values { input, between, output }, _] = &mut self.stacks[stack as usize];
        let rows = from.rows;
        Cast { factor: 1.0, from: from.reborrow(), to: matrix_mut(input, rows, mlp.columns()) }
            .run(device)?;
        let pass = ForwardPass {
            weights: &self.parameters,
            packed: self.packed.as_ref().map(|packed| &packed[stack as usize]),
            biases,
            precision: Precision::Full,
            input: matrix(input, rows, mlp.columns()),
            between,
            output: matrix_mut(output, rows, mlp.outputs()),
        };
        mlp.forward(device, pass)?;
        Cast { factor: 1.0, from: matrix(output, rows, mlp.outputs()), to: to.reborrow() }
            .run(device)
    }

    fn backward(
        &mut self,
        device: &D,
        (stack, mlp): (Stack, &Mlp),
        pass: Backward<'_, D>,
    ) -> Result<()> {
        let Backward {
            input: Matrix { rows, .. },
            grad_output,
            grad_input,
            grad_parameters,
            accum,
            workspace,
            ..
        } = pass;
        let [Values { input, between, output }, grads] = &mut self.stacks[stack as usize];
        let (columns, outputs) = (mlp.columns(), mlp.outputs());
        // What comes down from the loss is scaled already, what comes through the interaction is
        // not.
        let factor = match stack {
            Stack::Bottom => self.loss_scale,
            Stack::Top => 1.0,
        };
        let from = matrix(grad_output, rows, outputs);
        Cast { factor, from, to: matrix_mut(&mut grads.output, rows, outputs) }.run(device)?;
        let pass = BackwardPass {
            weights: &self.parameters,
            precision: Precision::Full,
            input: matrix(input, rows, columns),
            between,
            output: matrix(output, rows, outputs),
            grads: &mut grads.between,
            grad_output: matrix_mut(&mut grads.output, rows, outputs),
            grad_parameters,
            grad_input: grad_input.as_ref().map(|_| matrix_mut(&mut grads.input, rows, columns)),
            accum,
            workspace,
        };
        mlp.backward(device, pass)?;
        match grad_input {
            Some(mut to) => {
                let from = matrix(&grads.input, rows, columns);
                Cast { factor: 1.0 / self.loss_scale, from, to: to.reborrow() }.run(device)
            }
            None => Ok(()),
        }
    }
}

fn pack<D: Backend, E: Element>(
    packed: &mut Packed<D>,
    device: &D,
    mlps: [&Mlp; 2],
    weights: &D::Buffer<E>,
) -> Result<()> {
    if packed.is_none() {
        let [bottom, top] = mlps.map(|mlp| mlp.pack(device, weights));
        *packed = Some([bottom?, top?]);
    }
    Ok(())
}

/// The first rows of a matrix without gaps.
pub(super) fn matrix<D: Device, T: Scalar>(
    buffer: &D::Buffer<T>,
    rows: usize,
    cols: usize,
) -> Matrix<'_, D, T> {
    Matrix::contiguous(D::slice(buffer, 0..rows * cols), rows, cols)
}

/// The same, for writing.
pub(super) fn matrix_mut<D: Device, T: Scalar>(
    buffer: &mut D::Buffer<T>,
    rows: usize,
    cols: usize,
) -> MatrixMut<'_, D, T> {
    MatrixMut::contiguous(D::slice_mut(buffer, 0..rows * cols), rows, cols)
}

/// The first columns of the first rows of a matrix with room for more, which are zeros.
pub(super) fn first_columns<D: Device, T: Scalar>(
    buffer: &D::Buffer<T>,
    rows: usize,
    cols: usize,
) -> Matrix<'_, D, T> {
    Matrix { cols, ..matrix(buffer, rows, padded(cols)) }
}

/// The same, for writing.
pub(super) fn first_columns_mut<D: Device, T: Scalar>(
    buffer: &mut D::Buffer<T>,
    rows: usize,
    cols: usize,
) -> MatrixMut<'_, D, T> {
    MatrixMut { cols, ..matrix_mut(buffer, rows, padded(cols)) }
}
