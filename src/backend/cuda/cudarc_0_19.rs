//! Streams and slices of cudarc 0.19 as those of this backend, with the feature `cudarc-0_19`.
//!
//! [`Cuda::on_cudarc_stream`] opens a device on a stream of cudarc. [`Cuda::borrow`] and
//! [`Cuda::borrow_mut`] borrow its slices for ops. A borrowed slice that belongs to another stream
//! is ordered by events: ops wait for the work before them on that stream, which then waits for the
//! ops. To use bagdot's stream and memory in cudarc, pass [`Cuda::stream`] and [`View::pointer`] to
//! its `wrap_borrowed_stream` and `upgrade_device_ptr`.
//!
//! ```no_run
//! use bagdot::backend::cuda::Gemm;
//! use bagdot::ops::embedding_bag::Forward;
//! use bagdot::ops::{Bags, Device, MatrixMut, Pooling, Table, TableBatch};
//! use bagdot::Cuda;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stream = cudarc::driver::CudaContext::new(0)?.default_stream();
//! // SAFETY: the stream is not the per-thread one, and is not captured.
//! let cuda = unsafe { Cuda::on_cudarc_stream(&stream, Gemm::Auto) }?;
//! let table = Table { num_embeddings: 100, embedding_dim: 16 };
//! let tables = cuda.tables(TableBatch::one_feature_each(vec![table], Pooling::Sum)?)?;
//!
//! let (weights, ids) = (stream.clone_htod(&[0.5_f32; 1600])?, stream.clone_htod(&[3_i64, 4])?);
//! let mut pooled = stream.alloc_zeros::<f32>(2 * 16)?;
//! // SAFETY: the slices are cudarc's, all results are dropped below, and nothing is recorded.
//! let (of_weights, of_ids, mut of_pooled) =
//!     unsafe { (cuda.borrow(&weights)?, cuda.borrow(&ids)?, cuda.borrow_mut(&mut pooled)?) };
//! let output = MatrixMut::contiguous(&mut of_pooled, 2, 16);
//! Forward::new(&tables, &of_weights, Bags::of_length(2, &of_ids, 1), output).run(&cuda)?;
//! drop(of_pooled);
//! println!("{:?}", stream.clone_dtoh(&pooled)?);
//! # Ok(())
//! # }
//! ```

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

use super::Cuda;
use super::gemm::Gemm;
use super::runtime::driver::{self, check};
use crate::dtype::Scalar;
use crate::error::{Error, Result};
use crate::ops::{TableValues, TableValuesMut, View, ViewMut};

impl Cuda {
    /// Opens the device of a stream of cudarc, on that stream, which stays alive as long as the
    /// backend. See [`Cuda::on_stream`]; a program with several streams opens the device once, and
    /// calls [`Self::on_another_cudarc_stream`] for the others.
    ///
    /// # Errors
    /// Returns [`Error::OtherBackend`] for a stream of a context that is not the primary one of its
    /// device. Propagates errors of [`Cuda::with_gemm`].
    ///
    /// # Safety
    /// If the stream is captured by way of cudarc, memory and backends that the graph names must
    /// outlive it. The per-thread default stream asks for what [`Cuda::on_stream`] says.
    pub unsafe fn on_cudarc_stream(stream: &Arc<CudaStream>, gemm: Gemm) -> Result<Self> {
        let (context, _bound) = driver::context(stream.context().ordinal())?;
        if stream.context().cu_ctx() != context.cu_ctx() {
            return Err(Error::OtherBackend);
        }
        // SAFETY: the stream belongs to the context. The backend keeps the stream, and the caller
        // vouches for the rest.
        let own = unsafe { context.wrap_borrowed_stream(stream.cu_stream()) };
        Ok(Self::with(&context, own, gemm)?.keeping(stream))
    }

    /// Makes a backend for another stream of cudarc, as [`Cuda::on`] does for any stream.
    ///
    /// # Errors
    /// Returns [`Error::OtherBackend`] for a stream of another device, and propagates errors of the
    /// driver.
    ///
    /// # Safety
    /// As for [`Self::on_cudarc_stream`].
    pub unsafe fn on_another_cudarc_stream(&self, stream: &Arc<CudaStream>) -> Result<Self> {
        self.expect_device_of(stream)?;
        // SAFETY: the stream belongs to the context. The backend keeps it, and the caller vouches
        // for the rest.
        Ok(unsafe { self.on(stream.cu_stream().cast()) }?.keeping(stream))
    }

    /// Borrows a slice of cudarc for reading.
    ///
    /// # Errors
    /// Returns [`Error::OtherBackend`] for a slice on another device, and propagates errors of the
    /// driver.
    ///
    /// # Safety
    /// The slice is one of cudarc's own types. The result is dropped, not forgotten: only then the
    /// slice's stream waits for the ops. Recordings that name it are not replayed after that.
    pub unsafe fn borrow<'a, T: Scalar, S: DevicePtr<T>>(
        &self,
        slice: &'a S,
    ) -> Result<Borrowed<'a, T, S>> {
        let order = Order { ours: self.clone(), theirs: Arc::clone(slice.stream()) };
        self.expect_device_of(&order.theirs)?;
        // The stream of the slice waits for those that write the slice, and ours for that stream.
        let pointer = slice.device_ptr(&order.theirs).0;
        order.follow()?;
        Ok(Borrowed { slice, pointer, len: slice.len(), order, elements: PhantomData })
    }

    /// Borrows a slice of cudarc for writing.
    ///
    /// # Errors
    /// Returns the errors of [`Self::borrow`].
    ///
    /// # Safety
    /// As for [`Self::borrow`].
    pub unsafe fn borrow_mut<'a, T: Scalar, S: DevicePtrMut<T>>(
        &self,
        slice: &'a mut S,
    ) -> Result<BorrowedMut<'a, T, S>> {
        let order = Order { ours: self.clone(), theirs: Arc::clone(slice.stream()) };
        self.expect_device_of(&order.theirs)?;
        // As above, also for those that read the slice.
        let pointer = slice.device_ptr_mut(&order.theirs).0;
        order.follow()?;
        let len = slice.len();
        Ok(BorrowedMut { slice, pointer, len, order, elements: PhantomData })
    }

    fn expect_device_of(&self, stream: &CudaStream) -> Result<()> {
        let is_same = stream.context().cu_ctx() == self.context().cu_ctx();
        if is_same { Ok(()) } else { Err(Error::OtherBackend) }
    }
}

/// The stream of a backend and that of a borrowed slice, whose work is done in turn.
struct Order {
    ours: Cuda,
    theirs: Arc<CudaStream>,
}

impl Order {
    fn is_one_stream(&self) -> bool {
        self.ours.raw_stream() == self.theirs.cu_stream()
    }

    /// Makes our stream wait for all work on theirs.
    fn follow(&self) -> Result<()> {
        if self.is_one_stream() {
            return Ok(());
        }
        let _bound = self.ours.bind()?;
        check("wait for a stream", self.ours.inner.stream.join(&self.theirs))
    }

    /// Makes their stream wait for all work on ours. If the driver refuses that, waits here.
    fn lead(&self) {
        if self.is_one_stream() {
            return;
        }
        if let Ok(_bound) = self.ours.bind()
            && self.theirs.join(&self.ours.inner.stream).is_err()
        {
            let _ = self.ours.wait();
        }
    }
}

/// A slice of cudarc that ops read, made by [`Cuda::borrow`]. A reference to it becomes a view.
/// When it is dropped, the slice's stream waits for the ops that were called with it.
pub struct Borrowed<'a, T: Scalar, S: DevicePtr<T>> {
    slice: &'a S,
    pointer: u64,
    len: usize,
    order: Order,
    elements: PhantomData<T>,
}

/// A slice of cudarc that ops write, made by [`Cuda::borrow_mut`]; see [`Borrowed`].
pub struct BorrowedMut<'a, T: Scalar, S: DevicePtrMut<T>> {
    slice: &'a mut S,
    pointer: u64,
    len: usize,
    order: Order,
    elements: PhantomData<T>,
}

impl<T: Scalar, S: DevicePtr<T>> Drop for Borrowed<'_, T, S> {
    fn drop(&mut self) {
        self.order.lead();
        // The guard notes for cudarc that the slice has been read up to here.
        drop(self.slice.device_ptr(&self.order.theirs));
    }
}

impl<T: Scalar, S: DevicePtrMut<T>> Drop for BorrowedMut<'_, T, S> {
    fn drop(&mut self) {
        self.order.lead();
        // The guard notes for cudarc that the slice has been written up to here.
        drop(self.slice.device_ptr_mut(&self.order.theirs));
    }
}

impl<'a, T: Scalar, S: DevicePtr<T>> From<&'a Borrowed<'_, T, S>> for View<'a, Cuda, T> {
    fn from(borrowed: &'a Borrowed<'_, T, S>) -> Self {
        // The slice is memory of the device of as many elements, and any bits are a value of `T`.
        // It stays borrowed as long as the view, during which an op of the same backend is
        // launched. After that the slice's stream waits for the op, before work on it can write or
        // free the memory.
        Self::at(borrowed.pointer, borrowed.len, borrowed.order.ours.owner())
    }
}

impl<'a, T: Scalar, S: DevicePtrMut<T>> From<&'a mut BorrowedMut<'_, T, S>>
    for ViewMut<'a, Cuda, T>
{
    fn from(borrowed: &'a mut BorrowedMut<'_, T, S>) -> Self {
        // As above, with an exclusive borrow.
        Self::at(borrowed.pointer, borrowed.len, borrowed.order.ours.owner())
    }
}

impl<'a, T: Scalar, S: DevicePtr<T>> From<&'a Borrowed<'_, T, S>> for TableValues<'a, Cuda, T> {
    fn from(borrowed: &'a Borrowed<'_, T, S>) -> Self {
        Self::Joined(borrowed.into())
    }
}

impl<'a, T: Scalar, S: DevicePtrMut<T>> From<&'a mut BorrowedMut<'_, T, S>>
    for TableValuesMut<'a, Cuda, T>
{
    fn from(borrowed: &'a mut BorrowedMut<'_, T, S>) -> Self {
        Self::Joined(borrowed.into())
    }
}
