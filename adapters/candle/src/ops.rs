//! The ops of bagdot on a device of candle, and the interaction.

use std::sync::Mutex;

use bagdot::ops::interaction::{Backward, Features, FeaturesMut, Forward};
use bagdot::ops::{Interaction, Matrix, MatrixMut, Precision};
use bagdot::{Cpu, Element, bf16, f16};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Device, Layout, Shape, Storage, Tensor,
    bail,
};

use crate::device::{TensorBackend, Value};
use crate::{Error, Result};

/// The ops of bagdot on a device of candle. A clone is cheap, and shares threads or stream.
///
/// On the CPU ops run on rayon's global pool, or in the pool that they are called from, such as
/// that of [`Device::with_context`]. On CUDA they are launched on the stream of the device.
#[derive(Clone)]
pub struct Ops {
    pub(crate) device: Device,
    pub(crate) backend: AnyBackend,
    /// The precision of the interaction's products of `f32`.
    pub(crate) precision: Precision,
}

/// A backend of bagdot.
#[derive(Clone)]
pub(crate) enum AnyBackend {
    /// The CPU.
    Cpu(Cpu),
    /// CUDA.
    #[cfg(feature = "cuda")]
    Cuda(bagdot::Cuda),
}

impl Ops {
    /// Opens the ops on a device. On CUDA, loads the kernels: do it once.
    ///
    /// On CUDA, take a device of [`Device::new_cuda_with_stream`]. [`Device::new_cuda`] gives the
    /// per-thread default stream, which is another one in each thread. Ops are refused while the
    /// stream is captured in a graph, which could be replayed after their memory is freed.
    ///
    /// # Errors
    /// Returns an error for Metal, for CUDA without the feature `cuda`, and for the per-thread
    /// default stream. Propagates errors of the thread pool or of the driver.
    pub fn new(device: &Device) -> Result<Self> {
        let backend = match device {
            Device::Cpu => AnyBackend::Cpu(Cpu::on_global_pool()?),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => AnyBackend::Cuda(crate::cuda::open(cuda)?),
            _ => return Err(Error::Device { location: device.location() }),
        };
        Ok(Self { device: device.clone(), backend, precision: Precision::Full })
    }

    /// Chooses the precision of the interaction's products of `f32`. The default is
    /// [`Precision::Full`].
    #[must_use]
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Waits for all ops on CUDA, and reports what they have found: a bad id that a lookup read.
    /// On the CPU the op itself has reported it.
    ///
    /// # Errors
    /// Returns [`bagdot::Error::IndexOutOfRange`] and the like, and errors of the driver.
    pub fn synchronize(&self) -> Result<()> {
        match &self.backend {
            AnyBackend::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            AnyBackend::Cuda(cuda) => Ok(bagdot::ops::Device::synchronize(cuda)?),
        }
    }

    /// Returns the interaction of dense vectors `[batch_size, D]` with pooled vectors
    /// `[batch_size, T * D]`, both of `f32`, `f16` or `bf16`: `[batch_size, width]`, where
    /// [`Interaction::width`] gives the width. Its gradient reaches both.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, types and devices.
    pub fn interaction(
        &self,
        interaction: Interaction,
        dense: &Tensor,
        pooled: &Tensor,
    ) -> Result<Tensor> {
        let (dense, pooled) = (dense.contiguous()?, pooled.contiguous()?);
        let output = self.interact(interaction, &dense, &pooled)?;
        let ops = self.clone();
        let op = Computed::of_two("bagdot.interaction", output, move |dense, pooled, grad| {
            let (dense, pooled) = ops.interact_backward(interaction, dense, pooled, grad)?;
            Ok((Some(dense), Some(pooled)))
        });
        Ok(dense.apply_op2(&pooled, op)?)
    }

    /// Computes an interaction.
    fn interact(
        &self,
        interaction: Interaction,
        dense: &Tensor,
        pooled: &Tensor,
    ) -> Result<(Storage, Shape)> {
        with_backend!(&self.backend, backend => {
            with_element!(dense.dtype(), E => self.interact_on::<_, E>(
                backend, interaction, dense, pooled,
            ))
        })
    }

    fn interact_on<D: TensorBackend, E: Element + Value>(
        &self,
        backend: &D,
        interaction: Interaction,
        dense: &Tensor,
        pooled: &Tensor,
    ) -> Result<(Storage, Shape)> {
        let ((rows, dim), (pooled_rows, columns)) = (dense.dims2()?, pooled.dims2()?);
        let width = interaction_width(interaction, dim, columns);
        let ((x, x_layout), (y, y_layout)) =
            (dense.storage_and_layout(), pooled.storage_and_layout());
        let (x, y) = (backend.input::<E>(&x, x_layout)?, backend.input::<E>(&y, y_layout)?);
        let features = Features::Split {
            dense: Matrix::contiguous(D::view_of(&x), rows, dim),
            sparse: Matrix::contiguous(D::view_of(&y), pooled_rows, columns),
        };
        let (storage, ()) = backend.output::<E, _>(&self.device, rows * width, |output| {
            let output = MatrixMut::contiguous(output, rows, width);
            let op = Forward::new(interaction, dim, features, output);
            Ok(op.precision(self.precision).run(backend)?)
        })?;
        Ok((storage, (rows, width).into()))
    }

    /// Computes the gradients of the dense and of the pooled vectors.
    pub(crate) fn interact_backward(
        &self,
        interaction: Interaction,
        dense: &Tensor,
        pooled: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let grad = grad.contiguous()?;
        with_backend!(&self.backend, backend => {
            with_element!(dense.dtype(), E => self.interact_backward_on::<_, E>(
                backend, interaction, dense, pooled, &grad,
            ))
        })
    }

    fn interact_backward_on<D: TensorBackend, E: Element + Value>(
        &self,
        backend: &D,
        interaction: Interaction,
        dense: &Tensor,
        pooled: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let ((rows, dim), (_, columns)) = (dense.dims2()?, pooled.dims2()?);
        let width = interaction_width(interaction, dim, columns);
        let (x, x_layout) = dense.storage_and_layout();
        let (y, y_layout) = pooled.storage_and_layout();
        let (g, g_layout) = grad.storage_and_layout();
        let (x, y) = (backend.input::<E>(&x, x_layout)?, backend.input::<E>(&y, y_layout)?);
        let g = backend.input::<E>(&g, g_layout)?;
        let features = Features::Split {
            dense: Matrix::contiguous(D::view_of(&x), rows, dim),
            sparse: Matrix::contiguous(D::view_of(&y), rows, columns),
        };
        let grad_output = Matrix::contiguous(D::view_of(&g), rows, width);
        let (of_dense, of_pooled) =
            backend.output::<E, _>(&self.device, rows * dim, |of_dense| {
                let (storage, ()) =
                    backend.output::<E, _>(&self.device, rows * columns, |of_pooled| {
                        let grads = FeaturesMut::Split {
                            dense: MatrixMut::contiguous(of_dense, rows, dim),
                            sparse: MatrixMut::contiguous(of_pooled, rows, columns),
                        };
                        let op = Backward::new(interaction, dim, features, grad_output, grads);
                        Ok(op.precision(self.precision).run(backend)?)
                    })?;
                Ok(storage)
            })?;
        Ok((tensor(of_dense, (rows, dim)), tensor(of_pooled, (rows, columns))))
    }
}

/// Returns the number of columns of an interaction's output.
pub(crate) fn interaction_width(interaction: Interaction, dim: usize, columns: usize) -> usize {
    match interaction {
        Interaction::Cat => dim + columns,
        // The op refuses columns that are no multiple of the dimension.
        Interaction::Dot { .. } => {
            interaction.width(true, columns.checked_div(dim).unwrap_or(0), dim)
        }
    }
}

/// Makes a tensor that belongs to no graph.
pub(crate) fn tensor(storage: Storage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}

/// Evaluates an expression for a backend of any kind.
macro_rules! with_backend {
    ($of:expr, $backend:ident => $body:expr) => {
        match $of {
            $crate::ops::AnyBackend::Cpu($backend) => $body,
            #[cfg(feature = "cuda")]
            $crate::ops::AnyBackend::Cuda($backend) => $body,
        }
    };
}
use with_backend;

/// Evaluates an expression for the type of a tensor's elements.
macro_rules! with_element {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $E = f32;
                $body
            }
            DType::F16 => {
                type $E = f16;
                $body
            }
            DType::BF16 => {
                type $E = bf16;
                $body
            }
            dtype => Err(Error::Type { argument: "dense", dtype }),
        }
    };
}
use with_element;

/// The gradients of two arguments.
type Gradients = (Option<Tensor>, Option<Tensor>);

/// An op of candle whose output has been computed before it is applied, so that one function
/// computes it for all devices. `backward` takes the arguments of the op and the gradient of the
/// output, and returns the gradients of the arguments.
pub(crate) struct Computed<F> {
    name: &'static str,
    output: Mutex<Option<(Storage, Shape)>>,
    backward: F,
}

impl<F: Fn(&Tensor) -> Result<()>> Computed<F> {
    /// Makes an op of one argument, which has no gradient.
    pub(crate) fn of_one(name: &'static str, output: (Storage, Shape), backward: F) -> Self {
        Self { name, output: Mutex::new(Some(output)), backward }
    }
}

impl<F: Fn(&Tensor, &Tensor, &Tensor) -> Result<Gradients>> Computed<F> {
    /// Makes an op of two arguments.
    pub(crate) fn of_two(name: &'static str, output: (Storage, Shape), backward: F) -> Self {
        Self { name, output: Mutex::new(Some(output)), backward }
    }
}

impl<F> Computed<F> {
    fn take(&self) -> Result<(Storage, Shape)> {
        let mut output = self.output.lock().map_err(|_| Error::Poisoned)?;
        output.take().ok_or(Error::Reused)
    }

    fn on_cpu(&self) -> candle_core::Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => bail!("{}: the arguments are on the CPU, but the tables are not", self.name),
        }
    }

    fn on_cuda(&self) -> candle_core::Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => bail!("{}: the arguments are on CUDA, but the tables are not", self.name),
        }
    }
}

impl<F: Fn(&Tensor) -> Result<()>> CustomOp1 for Computed<F> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        (self.backward)(grad)?;
        Ok(None)
    }
}

impl<F: Fn(&Tensor, &Tensor, &Tensor) -> Result<Gradients>> CustomOp2 for Computed<F> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }
    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Gradients> {
        Ok((self.backward)(first, second, grad)?)
    }
}
