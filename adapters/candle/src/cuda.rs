//! Tensors on CUDA: candle's memory, on candle's stream.

use bagdot::Cuda;
use bagdot::backend::cuda::Gemm;
use bagdot::backend::cuda::cudarc_0_19::Borrowed;
use bagdot::ops::{View, ViewMut};
use candle_core::cuda_backend::CudaDType;
use candle_core::{CudaDevice, CudaStorage, Device, Layout, Storage};
use cudarc::driver::{CudaSlice, DeviceRepr};

use crate::Result;
use crate::device::{TensorBackend, Value, other_device, range};

/// A type of which candle has elements on CUDA.
pub(crate) trait OnCuda: CudaDType + DeviceRepr {}
impl<T: CudaDType + DeviceRepr> OnCuda for T {}

/// Opens the backend on the stream of a device of candle.
pub(crate) fn open(device: &CudaDevice) -> Result<Cuda> {
    // SAFETY: `Ops::new` passes on what its callers must see to: the per-thread stream is used by
    // one thread, and graphs do not outlive what they name.
    Ok(unsafe { Cuda::on_cudarc_stream(&device.cuda_stream(), Gemm::Auto) }?)
}

/// Elements of a tensor, for reading.
pub(crate) struct Input<'a, T: Value> {
    slice: Borrowed<'a, T, CudaSlice<T>>,
    start: usize,
    end: usize,
}

impl TensorBackend for Cuda {
    type Input<'a, T: Value> = Input<'a, T>;

    fn input<'a, T: Value>(&self, storage: &'a Storage, layout: &Layout) -> Result<Input<'a, T>> {
        let (start, end) = range(layout)?;
        let Storage::Cuda(storage) = storage else {
            return Err(other_device(&storage.device(), &Device::Cpu));
        };
        // SAFETY: `CudaSlice` is cudarc's own. The result is dropped when the op has been
        // launched, and recordings end with their tensors by the terms of `Ops::new`.
        let slice = unsafe { self.borrow(storage.as_cuda_slice::<T>()?) }?;
        Ok(Input { slice, start, end })
    }

    fn view_of<'v, T: Value>(input: &'v Input<'_, T>) -> View<'v, Self, T> {
        let Input { slice, start, end } = input;
        let first = View::from(slice).pointer() + (start * size_of::<T>()) as u64;
        // SAFETY: the elements lie within the slice, which stays borrowed as long as the view.
        unsafe { View::from_raw(first, end - start) }
    }

    fn output<T: Value>(
        &self,
        device: &Device,
        len: usize,
        write: impl FnOnce(ViewMut<'_, Self, T>) -> Result<()>,
    ) -> Result<Storage> {
        let device = device.as_cuda_device()?;
        // SAFETY: `write` writes all elements, in the order of the stream, before anything that is
        // launched later reads them.
        let mut slice = unsafe { device.alloc::<T>(len) }?;
        {
            // SAFETY: as for `input`.
            let mut borrowed = unsafe { self.borrow_mut(&mut slice) }?;
            write((&mut borrowed).into())?;
        }
        Ok(Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device.clone())))
    }
}
