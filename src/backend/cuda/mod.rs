//! The CUDA backend: each op is one or more kernel launches on one stream of one device.
//!
//! A [`Cuda`] loads every kernel when it is made. An op then only launches: it does not allocate,
//! synchronise or look up kernels by name. The ops of one backend run in the order in which they
//! were called. Kernels note bad ids, offsets and labels on the device, and the next
//! [`Device::synchronize`] reports them. The context stays usable after such an error.
//!
//! Memory belongs to the backend that allocated it and to the clones of that backend, because only
//! their stream orders the accesses to it. Other backends, even on the same device, refuse its
//! views, tables and recordings with [`Error::OtherBackend`](crate::Error::OtherBackend). Copy the
//! data by way of the host instead.
//!
//! Embedders wrap device memory of their own with [`View::from_raw`] and [`ViewMut::from_raw`],
//! which any backend of its device accepts, and pass a stream of their own to [`Cuda::on_stream`]:
//!
//! ```no_run
//! use bagdot::Cuda;
//! use bagdot::backend::cuda::Gemm;
//! use bagdot::ops::{Device, View};
//!
//! /// Copies `len` floats from the caller's memory on device 0 to the host.
//! ///
//! /// # Safety
//! /// The caller keeps the promises of `Cuda::on_stream` and `View::from_raw`.
//! unsafe fn to_host(
//!     stream: *mut std::ffi::c_void,
//!     pointer: u64,
//!     len: usize,
//! ) -> bagdot::Result<Vec<f32>> {
//!     // SAFETY: the caller vouches for the stream and for the memory.
//!     let (cuda, source) =
//!         unsafe { (Cuda::on_stream(0, stream, Gemm::Auto)?, View::from_raw(pointer, len)) };
//!     let mut values = vec![0.0; len];
//!     cuda.download::<f32>(source, &mut values)?;
//!     Ok(values)
//! }
//! ```

mod cast;
#[cfg(feature = "cudarc-0_19")]
pub mod cudarc_0_19;
mod dense_update;
mod embedding_bag;
mod finite_check;
mod gemm;
mod head;
mod index_sort;
mod interaction;
mod linear;
mod loss;
mod moving_average;
mod optimizer;
mod pooled_interaction;
mod runtime;
mod sparse_update;

use std::ffi::c_void;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaStream, result, sys};

pub use gemm::Gemm;
pub use runtime::buffer::{Address, Buffer};
pub use runtime::cublaslt::cublaslt_version;
pub use runtime::driver::{DeviceInfo, devices, driver_version};
pub use runtime::images::{ImageInfo, image_for, images};
#[doc(hidden)]
pub use runtime::launch::KernelInfo;
pub use runtime::recording::Recording;
pub use runtime::tables::{TablePlaces, Tables};
pub use runtime::transfer::Transfer;

use crate::dtype::Scalar;
use crate::error::{Result, expect_size};
use crate::ops::{Device, Matrix, TableBatch, View, ViewMut};
use runtime::arrivals::Arrivals;
use runtime::buffer::Owner;
use runtime::cublaslt::CublasLt;
use runtime::driver::{self, Bound, Quiet, check};
use runtime::fault::FaultLog;
use runtime::params;
use runtime::recording::Relaxed;

/// Returns the declared kernels and the layouts of their parameters, for tests.
#[doc(hidden)]
pub fn kernels() -> &'static [KernelInfo] {
    params::KERNELS
}

/// A CUDA device, a stream for its ops, and the kernels loaded for it. Clones share all three.
///
/// ```no_run
/// use bagdot::Cuda;
/// use bagdot::ops::Device;
///
/// let cuda = Cuda::new(0)?;
/// let buffer = cuda.alloc::<f32>(1024)?;
/// cuda.synchronize()?;
/// assert_eq!(cuda.to_vec(&buffer)?, vec![0.0; 1024]);
/// # Ok::<(), bagdot::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cuda {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    owner: Owner,
    stream: Quiet<Arc<CudaStream>>,
    /// The stream of the copies of batches to the device.
    copy_stream: Quiet<Arc<CudaStream>>,
    faults: Arc<FaultLog>,
    /// The backend for branches of a step: on a stream of its own, with the same memory and the
    /// same faults.
    branch: OnceLock<Cuda>,
    arrivals: Arrivals,
    kernels: Arc<Kernels>,
    /// cuBLASLt with a workspace for this stream, once it is known whether it can be loaded.
    cublaslt: OnceLock<Option<CublasLt>>,
    /// The stream of cudarc behind `stream`, which the backend keeps alive.
    #[cfg(feature = "cudarc-0_19")]
    kept: OnceLock<Quiet<Arc<CudaStream>>>,
}

/// The kernels of a device, and the choice between them and cuBLASLt, which backends on several
/// streams share.
#[derive(Debug)]
struct Kernels {
    gemm: Gemm,
    cast: cast::Kernels,
    dense_update: dense_update::Kernels,
    embedding_bag: embedding_bag::Kernels,
    finite_check: finite_check::Kernels,
    head: head::Kernels,
    index_sort: index_sort::Kernels,
    interaction: interaction::Kernels,
    linear: linear::Kernels,
    loss: loss::Kernels,
    moving_average: moving_average::Kernels,
    pooled_interaction: pooled_interaction::Kernels,
    sparse_update: sparse_update::Kernels,
}

impl Kernels {
    fn load(context: &Arc<CudaContext>, gemm: Gemm) -> Result<Self> {
        Ok(Self {
            gemm,
            cast: cast::Kernels::load(context)?,
            dense_update: dense_update::Kernels::load(context)?,
            embedding_bag: embedding_bag::Kernels::load(context)?,
            finite_check: finite_check::Kernels::load(context)?,
            head: head::Kernels::load(context)?,
            index_sort: index_sort::Kernels::load(context)?,
            interaction: interaction::Kernels::load(context)?,
            linear: linear::Kernels::load(context)?,
            loss: loss::Kernels::load(context)?,
            moving_average: moving_average::Kernels::load(context)?,
            pooled_interaction: pooled_interaction::Kernels::load(context)?,
            sparse_update: sparse_update::Kernels::load(context)?,
        })
    }
}

impl Cuda {
    /// Opens the device with this number, on a new stream, with [`Gemm::Auto`].
    ///
    /// # Errors
    /// Propagates errors of [`Self::with_gemm`].
    pub fn new(device: usize) -> Result<Self> {
        Self::with_gemm(device, Gemm::Auto)
    }

    /// Opens the device with this number, on a new stream. `gemm` chooses the matrix products of
    /// layers. If cuBLASLt is used, allocates 32 MiB of device memory as its workspace, and as much
    /// again when a recorded step first has a branch that calls it.
    ///
    /// # Errors
    /// Returns [`Error::NoDriver`](crate::Error::NoDriver),
    /// [`Error::DriverTooOld`](crate::Error::DriverTooOld) or
    /// [`Error::NoDevice`](crate::Error::NoDevice). Returns
    /// [`Error::KernelsNotBuilt`](crate::Error::KernelsNotBuilt) or
    /// [`Error::NoKernelImage`](crate::Error::NoKernelImage) if there are no kernels for the
    /// device. With [`Gemm::CublasLt`], returns [`Error::NoCublasLt`](crate::Error::NoCublasLt) if
    /// cuBLASLt cannot be loaded. Propagates errors of the driver.
    pub fn with_gemm(device: usize, gemm: Gemm) -> Result<Self> {
        let (context, _bound) = driver::context(device)?;
        let stream = check("create a stream", context.new_stream())?;
        Self::with(&context, stream, gemm)
    }

    /// Opens the device with this number, on a stream of the caller: a `CUstream`, or null for the
    /// legacy default stream, which cannot be captured. Pass memory that this backend did not
    /// allocate as views of raw pointers, even if it belongs to another backend on the same stream.
    /// A program with several streams opens the device once, and calls [`Self::on`] for the others.
    ///
    /// # Errors
    /// Propagates errors of [`Self::with_gemm`].
    ///
    /// # Safety
    /// `stream` must be a stream of the device's primary context, and must outlive this backend,
    /// its clones, and all of their buffers. The caller orders work on other streams with the work
    /// on this one, and replays graphs that were captured on it one after another, since kernels
    /// share counters of the backend.
    ///
    /// The handle of the per-thread default stream (`CU_STREAM_PER_THREAD`, 0x2) names another
    /// stream in each thread. A backend on it, with all its buffers, must be used and dropped by
    /// the thread that made it.
    pub unsafe fn on_stream(device: usize, stream: *mut c_void, gemm: Gemm) -> Result<Self> {
        let (context, _bound) = driver::context(device)?;
        // SAFETY: the caller promises that the stream belongs to the context and outlives the
        // backend.
        let stream = unsafe { context.wrap_borrowed_stream(stream.cast()) };
        Self::with(&context, stream, gemm)
    }

    /// Makes a backend for another stream of the same device, which shares the loaded kernels with
    /// this one. It takes some 40 kilobytes of device memory, and 32 MiB as soon as cuBLASLt
    /// computes a product on it. Like any other backend, it has memory of its own and reports the
    /// faults of its own ops.
    ///
    /// # Errors
    /// Propagates errors of the driver.
    ///
    /// # Safety
    /// As for [`Self::on_stream`].
    pub unsafe fn on(&self, stream: *mut c_void) -> Result<Self> {
        let _bound = self.bind()?;
        // SAFETY: the caller promises that the stream belongs to the context and outlives the
        // backend.
        let stream = unsafe { self.context().wrap_borrowed_stream(stream.cast()) };
        Self::with_kernels(self.context(), stream, Arc::clone(&self.inner.kernels))
    }

    /// Makes a backend for a new stream of the same device, as [`Self::on`] does for one of the
    /// caller. The new stream waits for no other one.
    ///
    /// # Errors
    /// Propagates errors of the driver.
    pub fn on_new_stream(&self) -> Result<Self> {
        let _bound = self.bind()?;
        let stream = check("create a stream", self.context().new_stream())?;
        Self::with_kernels(self.context(), stream, Arc::clone(&self.inner.kernels))
    }

    fn with(context: &Arc<CudaContext>, stream: Arc<CudaStream>, gemm: Gemm) -> Result<Self> {
        let kernels = Kernels::load(context, gemm)?;
        let cuda = Self::with_kernels(context, stream, Arc::new(kernels))?;
        cuda.cublaslt()?;
        Ok(cuda)
    }

    fn with_kernels(
        context: &Arc<CudaContext>,
        stream: Arc<CudaStream>,
        kernels: Arc<Kernels>,
    ) -> Result<Self> {
        // A trainer may meet a new stream while it captures that one.
        let _relaxed = Relaxed::new()?;
        let copy_stream = check("create a stream", context.new_stream())?;
        let (faults, arrivals) = (FaultLog::new(context)?, Arrivals::new(context, &copy_stream)?);
        let owner = Owner::new();
        Ok(Self::with_parts(owner, [stream, copy_stream], kernels, Arc::new(faults), arrivals))
    }

    /// Returns the backend for branches, which is made when it is first needed, even if ops are
    /// being recorded. The context must be bound.
    fn branch(&self) -> Result<&Self> {
        if let Some(branch) = self.inner.branch.get() {
            return Ok(branch);
        }
        let _relaxed = Relaxed::new()?;
        let stream = check("create a stream", self.context().new_stream())?;
        let Inner { owner, copy_stream, kernels, faults, arrivals, .. } = &*self.inner;
        let (kernels, faults) = (Arc::clone(kernels), Arc::clone(faults));
        let streams = [stream, Arc::clone(copy_stream)];
        let branch = Self::with_parts(*owner, streams, kernels, faults, arrivals.of_branch());
        Ok(self.inner.branch.get_or_init(|| branch))
    }

    /// Orders the ops that are called from here on after those of another backend.
    fn follow(&self, other: &Self) -> Result<()> {
        if Arc::ptr_eq(&self.inner, &other.inner) {
            return Ok(());
        }
        let _bound = self.bind()?;
        check("wait for a stream", self.inner.stream.join(&other.inner.stream))
    }

    fn with_parts(
        owner: Owner,
        [stream, copy_stream]: [Arc<CudaStream>; 2],
        kernels: Arc<Kernels>,
        faults: Arc<FaultLog>,
        arrivals: Arrivals,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                owner,
                stream: Quiet::new(stream),
                copy_stream: Quiet::new(copy_stream),
                faults,
                branch: OnceLock::new(),
                arrivals,
                kernels,
                cublaslt: OnceLock::new(),
                #[cfg(feature = "cudarc-0_19")]
                kept: OnceLock::new(),
            }),
        }
    }

    /// Keeps the stream of cudarc, which this backend was just made for, as long as its own.
    #[cfg(feature = "cudarc-0_19")]
    fn keeping(self, stream: &Arc<CudaStream>) -> Self {
        self.inner.kept.get_or_init(|| Quiet::new(Arc::clone(stream)));
        self
    }

    /// Returns cuBLASLt, or `None` if it is not wanted or cannot be loaded. Prepares it at the
    /// first call, even if ops are being recorded.
    fn cublaslt(&self) -> Result<Option<&CublasLt>> {
        if let Some(cublaslt) = self.inner.cublaslt.get() {
            return Ok(cublaslt.as_ref());
        }
        let _bound = self.bind()?;
        let _relaxed = Relaxed::new()?;
        let cublaslt = self.inner.kernels.gemm.cublaslt(self.context())?;
        // If two threads prepare it at once, the first one wins.
        Ok(self.inner.cublaslt.get_or_init(|| cublaslt).as_ref())
    }

    /// Returns an error that an op has found so far, as [`Device::synchronize`] does, but does not
    /// wait for ops that have not run yet. Call it now and then where nothing else waits, between
    /// the steps of another trainer, say. It takes a copy of a few kilobytes on a stream of its
    /// own. The error stays known until `synchronize` reports and clears it.
    ///
    /// # Errors
    /// Returns the error that `synchronize` would return for the ops that have run, and propagates
    /// errors of the driver.
    pub fn poll(&self) -> Result<()> {
        let _bound = self.bind()?;
        let _relaxed = Relaxed::new()?;
        self.inner.faults.poll()
    }

    /// Returns the address on the device of a `uint32_t`, the number of bad ids, offsets and labels
    /// that ops of this backend have found since the last [`Device::synchronize`]. Kernels of the
    /// caller may read it on this backend's stream, to skip a step for example.
    pub fn fault_count(&self) -> u64 {
        self.inner.faults.count_pointer()
    }

    /// Returns the stream on which ops are launched: a `CUstream`.
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

    /// Makes the device's context current in the calling thread as long as the guard lives.
    fn bind(&self) -> Result<Bound> {
        driver::bind(self.context())
    }

    /// Returns an error that names `op` if ops are recorded on this backend's stream.
    fn refuse_recording(&self, op: &'static str) -> Result<()> {
        driver::refuse_recording(self.raw_stream(), op)
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as this backend.
        check("wait for the stream", unsafe { result::stream::synchronize(self.raw_stream()) })
    }
}

impl Device for Cuda {
    type Buffer<T: Scalar> = Buffer<T>;
    type Tables = Tables;
    type TablePlaces = TablePlaces;

    fn alloc<T: Scalar>(&self, len: usize) -> Result<Buffer<T>> {
        let _bound = self.bind()?;
        if len > 0 {
            self.refuse_recording("alloc")?;
        }
        let mut buffer = Buffer::new(self.context(), self.owner(), len)?;
        buffer.clear(self.raw_stream())?;
        Ok(buffer)
    }

    fn upload<T: Scalar>(&self, source: &[T], target: ViewMut<'_, Cuda, T>) -> Result<()> {
        expect_size("upload", "target", target.len(), source.len())?;
        let pointer = target.on(self)?.address();
        if source.is_empty() {
            return Ok(());
        }
        let _bound = self.bind()?;
        self.refuse_recording("upload")?;
        // SAFETY: by its type, the target is memory for as many elements that nothing else uses.
        // The source outlives the copy, for which this function waits below.
        let copy = unsafe { result::memcpy_htod_async(pointer, source, self.raw_stream()) };
        check("copy to the device", copy)?;
        self.wait()
    }

    fn download<T: Scalar>(&self, source: View<'_, Cuda, T>, target: &mut [T]) -> Result<()> {
        expect_size("download", "target", target.len(), source.len())?;
        let pointer = source.on(self)?.address();
        if target.is_empty() {
            return Ok(());
        }
        let _bound = self.bind()?;
        self.refuse_recording("download")?;
        // SAFETY: by its type, the source is memory of as many elements, and only work that was
        // launched on this stream before may write it; the copy runs after that work. Any bits are
        // a value of `T`. The target stays borrowed until the copy has completed, for which this
        // function waits.
        let copy = unsafe { result::memcpy_dtoh_async(target, pointer, self.raw_stream()) };
        check("copy from the device", copy)?;
        self.wait()
    }

    fn copy<T: Scalar>(
        &self,
        source: View<'_, Cuda, T>,
        target: ViewMut<'_, Cuda, T>,
    ) -> Result<()> {
        expect_size("copy", "target", target.len(), source.len())?;
        let (from, to) = (source.on(self)?.address(), target.on(self)?.address());
        if source.is_empty() {
            return Ok(());
        }
        let _bound = self.bind()?;
        let bytes = source.len() * size_of::<T>();
        // SAFETY: by their types, both are memory of as many bytes, and nothing else uses the
        // target. The copy runs after all work that was launched on this stream before.
        let copy = unsafe { result::memcpy_dtod_async(to, from, bytes, self.raw_stream()) };
        check("copy on the device", copy)
    }

    fn free_memory(&self) -> Option<usize> {
        let _bound = self.bind().ok()?;
        result::mem_get_info().ok().map(|(free, _)| free)
    }

    fn synchronize(&self) -> Result<()> {
        let _bound = self.bind()?;
        self.refuse_recording("synchronize")?;
        self.wait()?;
        self.inner.faults.take()
    }

    fn tables(&self, tables: TableBatch) -> Result<Tables> {
        Tables::new(self, tables)
    }

    fn place_tables<T: Scalar>(
        &self,
        tables: &TableBatch,
        values: &[Matrix<'_, Self, T>],
    ) -> Result<TablePlaces> {
        TablePlaces::separate(self, tables, values)
    }

    fn slice<T: Scalar>(buffer: &Buffer<T>, range: Range<usize>) -> View<'_, Cuda, T> {
        buffer.slice(range)
    }

    fn slice_mut<T: Scalar>(buffer: &mut Buffer<T>, range: Range<usize>) -> ViewMut<'_, Cuda, T> {
        buffer.slice_mut(range)
    }

    fn split_mut<T: Scalar, const N: usize>(
        buffer: &mut Buffer<T>,
        ranges: [Range<usize>; N],
    ) -> [ViewMut<'_, Cuda, T>; N] {
        buffer.split_mut(ranges)
    }
}
