//! The CUDA backend: ops as launches on one stream of one device.
//!
//! A [`Cuda`] resolves every kernel when it is made; an op then is a launch and nothing else: no
//! allocation, no synchronisation, no look-up by name. Ops on one backend run in the order in which
//! they were called. What they find wrong with ids and offsets is noted on the device, and reported
//! by the next [`Device::synchronize`]; the context stays usable.
//!
//! Memory belongs to the backend that allocated it, and to its clones, because only their stream
//! orders the accesses to it. Views of it, tables and recordings that are passed to another
//! backend, of the same device or of another one, are refused with
//! [`Error::OtherBackend`](crate::Error::OtherBackend), and must be copied by way of the host.
//!
//! Embedders pass device memory of their own as [`Slice::from_raw`] and [`SliceMut::from_raw`] to
//! any backend of its device, and a stream of their own to [`Cuda::on_stream`].

mod cast;
mod dense_update;
mod embedding_bag;
mod finite_check;
mod gemm;
mod index_sort;
mod interaction;
mod linear;
mod loss;
mod moving_average;
mod optimizer;
mod runtime;
mod sparse_update;

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, result, sys};

pub use gemm::Gemm;
pub use runtime::buffer::{Buffer, Slice, SliceMut};
pub use runtime::cublaslt::cublaslt_version;
pub use runtime::driver::{DeviceInfo, devices, driver_version};
pub use runtime::images::{ImageInfo, images};
#[doc(hidden)]
pub use runtime::launch::KernelInfo;
pub use runtime::recording::Recording;
pub use runtime::tables::Tables;
pub use runtime::transfer::Transfer;

use crate::dtype::Scalar;
use crate::error::{Result, expect_size};
use crate::ops::{Device, TableBatch, Views};
use runtime::buffer::Owner;
use runtime::cublaslt::CublasLt;
use runtime::driver::{self, check};
use runtime::fault::FaultLog;
use runtime::params;

/// The kernels as their declarations have them, for tests.
#[doc(hidden)]
pub fn kernels() -> &'static [KernelInfo] {
    params::KERNELS
}

/// A CUDA device with a stream, and the kernels compiled for it.
#[derive(Clone, Debug)]
pub struct Cuda {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    owner: Owner,
    stream: Arc<CudaStream>,
    /// What batches travel on.
    copy_stream: Arc<CudaStream>,
    faults: FaultLog,
    gemm: Gemm,
    cublaslt: Option<CublasLt>,
    cast: cast::Kernels,
    dense_update: dense_update::Kernels,
    embedding_bag: embedding_bag::Kernels,
    finite_check: finite_check::Kernels,
    index_sort: index_sort::Kernels,
    interaction: interaction::Kernels,
    linear: linear::Kernels,
    loss: loss::Kernels,
    moving_average: moving_average::Kernels,
    sparse_update: sparse_update::Kernels,
}

impl Cuda {
    /// The device with this number, on a stream of its own, with [`Gemm::Auto`].
    ///
    /// # Errors
    /// No driver, one that is too old, no such device, no kernels for it, or whatever the driver
    /// reports.
    pub fn new(device: usize) -> Result<Self> {
        Self::with_gemm(device, Gemm::Auto)
    }

    /// The same, with a choice of who computes the products of layers. For cuBLASLt, where it can
    /// be used, 32 MiB are allocated.
    ///
    /// # Errors
    /// As [`Self::new`]; for [`Gemm::CublasLt`] that it cannot be loaded.
    pub fn with_gemm(device: usize, gemm: Gemm) -> Result<Self> {
        let context = driver::context(device)?;
        let stream = check("create a stream", context.new_stream())?;
        Self::with(&context, stream, gemm)
    }

    /// The device with this number, on a stream of the caller's (a `CUstream`; null for the legacy
    /// default stream, which cannot be captured). Memory that this backend did not allocate is
    /// passed as views of raw pointers, even if it belongs to another backend on the same stream.
    ///
    /// # Errors
    /// As [`Self::with_gemm`].
    ///
    /// # Safety
    /// `stream` must be a stream of the device's primary context, and must outlive this backend,
    /// its clones, and all of their buffers. The caller orders what is done on other streams with
    /// what is done on this one.
    pub unsafe fn on_stream(device: usize, stream: *mut c_void, gemm: Gemm) -> Result<Self> {
        let context = driver::context(device)?;
        // SAFETY: what is asked of the stream is what the caller promises.
        let stream = unsafe { context.wrap_borrowed_stream(stream.cast()) };
        Self::with(&context, stream, gemm)
    }

    fn with(context: &Arc<CudaContext>, stream: Arc<CudaStream>, gemm: Gemm) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner {
                owner: Owner::new(),
                copy_stream: check("create a stream", context.new_stream())?,
                faults: FaultLog::new(context)?,
                gemm,
                cublaslt: gemm.cublaslt(context)?,
                cast: cast::Kernels::load(context)?,
                dense_update: dense_update::Kernels::load(context)?,
                embedding_bag: embedding_bag::Kernels::load(context)?,
                finite_check: finite_check::Kernels::load(context)?,
                index_sort: index_sort::Kernels::load(context)?,
                interaction: interaction::Kernels::load(context)?,
                linear: linear::Kernels::load(context)?,
                loss: loss::Kernels::load(context)?,
                moving_average: moving_average::Kernels::load(context)?,
                sparse_update: sparse_update::Kernels::load(context)?,
                stream,
            }),
        })
    }

    /// The stream that ops are launched on: a `CUstream`.
    pub fn stream(&self) -> *mut c_void {
        self.raw_stream().cast()
    }

    fn owner(&self) -> Owner {
        self.inner.owner
    }

    fn raw_stream(&self) -> sys::CUstream {
        self.inner.stream.cu_stream()
    }

    fn copy_stream(&self) -> sys::CUstream {
        self.inner.copy_stream.cu_stream()
    }

    fn context(&self) -> &Arc<CudaContext> {
        self.inner.stream.context()
    }

    /// Makes the device's context the one of the calling thread, as every call of the driver needs
    /// it.
    fn bind(&self) -> Result<()> {
        check("bind the context", self.context().bind_to_thread())
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as this backend.
        check("wait for the stream", unsafe { result::stream::synchronize(self.raw_stream()) })
    }
}

impl Views for Cuda {
    type Slice<'a, T: Scalar> = Slice<'a, T>;
    type SliceMut<'a, T: Scalar> = SliceMut<'a, T>;

    fn reborrow<'a, T: Scalar>(slice: &'a Slice<'_, T>) -> Slice<'a, T> {
        *slice
    }

    fn reborrow_mut<'a, T: Scalar>(slice: &'a mut SliceMut<'_, T>) -> SliceMut<'a, T> {
        slice.reborrow()
    }

    fn as_slice<'a, T: Scalar>(slice: &'a SliceMut<'_, T>) -> Slice<'a, T> {
        slice.as_slice()
    }
}

impl Device for Cuda {
    type Buffer<T: Scalar> = Buffer<T>;
    type Tables = Tables;

    fn alloc<T: Scalar>(&self, len: usize) -> Result<Buffer<T>> {
        self.bind()?;
        let mut buffer = Buffer::new(self.context(), self.owner(), len)?;
        buffer.clear(self.raw_stream())?;
        Ok(buffer)
    }

    fn upload<T: Scalar>(&self, source: &[T], target: SliceMut<'_, T>) -> Result<()> {
        expect_size("upload", "target", target.len(), source.len())?;
        let pointer = target.on(self)?.address();
        if source.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the target is memory of as many elements that nobody else uses, by its type. The
        // source outlives the copy, which is waited for below.
        let copy = unsafe { result::memcpy_htod_async(pointer, source, self.raw_stream()) };
        check("copy to the device", copy)?;
        self.wait()
    }

    fn download<T: Scalar>(&self, source: Slice<'_, T>, target: &mut [T]) -> Result<()> {
        expect_size("download", "target", target.len(), source.len())?;
        let pointer = source.on(self)?.address();
        if target.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the source is memory of as many elements that nobody writes meanwhile, by its
        // type, but for work that was launched on this stream before, behind which the copy waits.
        // Any bits are a value of `T`. The target is borrowed until the copy has been waited for.
        let copy = unsafe { result::memcpy_dtoh_async(target, pointer, self.raw_stream()) };
        check("copy from the device", copy)?;
        self.wait()
    }

    fn copy<T: Scalar>(&self, source: Slice<'_, T>, target: SliceMut<'_, T>) -> Result<()> {
        expect_size("copy", "target", target.len(), source.len())?;
        let (from, to) = (source.on(self)?.address(), target.on(self)?.address());
        if source.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let bytes = source.len() * size_of::<T>();
        // SAFETY: both are memory of as many bytes, and the target is nobody else's, by their
        // types; work that was launched on this stream before is done by then.
        let copy = unsafe { result::memcpy_dtod_async(to, from, bytes, self.raw_stream()) };
        check("copy on the device", copy)
    }

    fn free_memory(&self) -> Option<usize> {
        self.bind().ok()?;
        result::mem_get_info().ok().map(|(free, _)| free)
    }

    fn synchronize(&self) -> Result<()> {
        self.bind()?;
        self.wait()?;
        self.inner.faults.take()
    }

    fn tables(&self, tables: TableBatch) -> Result<Tables> {
        Tables::new(self, tables)
    }

    fn slice<T: Scalar>(buffer: &Buffer<T>, range: Range<usize>) -> Slice<'_, T> {
        buffer.slice(range)
    }

    fn slice_mut<T: Scalar>(buffer: &mut Buffer<T>, range: Range<usize>) -> SliceMut<'_, T> {
        buffer.slice_mut(range)
    }

    fn split_mut<T: Scalar>(
        buffer: &mut Buffer<T>,
        first: Range<usize>,
        second: Range<usize>,
    ) -> (SliceMut<'_, T>, SliceMut<'_, T>) {
        buffer.split_mut(first, second)
    }
}
