//! Tensors on CUDA: candle's memory, on candle's stream.

use std::ops::Range;

use bagdot::Cuda;
use bagdot::backend::cuda::Gemm;
use bagdot::backend::cuda::cudarc_0_19::Borrowed;
use bagdot::ops::{View, ViewMut};
use candle_core::cuda_backend::CudaDType;
use candle_core::{CudaDevice, CudaStorage, Device, Layout, Storage};
use cudarc::driver::sys::CUstreamCaptureStatus;
use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};

use crate::device::{TensorBackend, Value, other_device, range};
use crate::{Error, Result};

/// A type of which candle has elements on CUDA.
pub(crate) trait OnCuda: CudaDType + DeviceRepr + ValidAsZeroBits {}
impl<T: CudaDType + DeviceRepr + ValidAsZeroBits> OnCuda for T {}

/// The handle of the per-thread default stream, `CU_STREAM_PER_THREAD`.
const PER_THREAD: usize = 2;

/// Opens the backend on the stream of a device of candle.
pub(crate) fn open(device: &CudaDevice) -> Result<Cuda> {
    let stream = device.cuda_stream();
    check_stream(&stream)?;
    // SAFETY: the stream is not the per-thread one, and no op is captured: `check_stream`.
    Ok(unsafe { Cuda::on_cudarc_stream(&stream, Gemm::Auto) }?)
}

/// Returns an error for the per-thread default stream, which is another one in each thread, and for
/// a stream that is captured in a graph, which could be replayed when the memory of its tensors has
/// been freed.
fn check_stream(stream: &CudaStream) -> Result<()> {
    if stream.cu_stream().addr() == PER_THREAD {
        let reason = "it has the per-thread default stream: use `Device::new_cuda_with_stream`";
        return Err(Error::argument("device", reason.to_string()));
    }
    match stream.capture_status().map_err(candle_core::Error::wrap)? {
        CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
        _ => Err(bagdot::Error::Recording { op: "bagdot-candle" }.into()),
    }
}

/// Elements of a tensor, for reading.
pub(crate) struct Input<'a, T: Value> {
    slice: Borrowed<'a, T, CudaSlice<T>>,
    /// The elements of the tensor; they lie within the slice.
    range: Range<usize>,
}

impl TensorBackend for Cuda {
    type Input<'a, T: Value> = Input<'a, T>;

    fn input<'a, T: Value>(&self, storage: &'a Storage, layout: &Layout) -> Result<Input<'a, T>> {
        let Storage::Cuda(storage) = storage else {
            return Err(other_device(&storage.device(), &Device::Cpu));
        };
        let slice = storage.as_cuda_slice::<T>()?;
        check_stream(slice.stream())?;
        let range = range(layout, slice.len())?;
        // SAFETY: `CudaSlice` is cudarc's own. The result is dropped when the op has been
        // launched, and nothing is recorded.
        let slice = unsafe { self.borrow(slice) }?;
        Ok(Input { slice, range })
    }

    fn view_of<'v, T: Value>(input: &'v Input<'_, T>) -> View<'v, Self, T> {
        let Input { slice, range } = input;
        let first = View::from(slice).pointer() + (range.start * size_of::<T>()) as u64;
        // SAFETY: the elements lie within the slice, which stays borrowed as long as the view.
        unsafe { View::from_raw(first, range.len()) }
    }

    fn output<T: Value, R>(
        &self,
        device: &Device,
        len: usize,
        write: impl FnOnce(ViewMut<'_, Self, T>) -> Result<R>,
    ) -> Result<(Storage, R)> {
        let device = device.as_cuda_device()?;
        check_stream(&device.cuda_stream())?;
        let mut slice = device.alloc_zeros::<T>(len)?;
        let result = {
            // SAFETY: as for `input`.
            let mut borrowed = unsafe { self.borrow_mut(&mut slice) }?;
            write((&mut borrowed).into())?
        };
        let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
        Ok((Storage::Cuda(storage), result))
    }
}
