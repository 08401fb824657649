//! Memory of a device.

use super::matrix::Matrix;
use super::tables::TableBatch;
use super::views::{Extent, Memory, View, ViewMut};
use crate::dtype::Scalar;
use crate::error::{Error, Result};
use crate::size::filled;

/// Memory of a device, and the views through which ops see it.
///
/// A buffer is used with the device that allocated it, or with a clone of that device. Other
/// devices may refuse it ([`Error::OtherBackend`]), as CUDA backends do.
pub trait Device: Memory + Clone + Send + Sync {
    /// An owned buffer.
    type Buffer<T: Scalar>: Extent + Send + Sync;
    /// A [`TableBatch`] that the device can read.
    type Tables: AsRef<TableBatch> + Send + Sync;
    /// The addresses of tables in memory of their own, as the device reads them; `()` for memory of
    /// the host. [`SeparateTables`](super::SeparateTables) keep them.
    type TablePlaces: Send + Sync;

    /// Allocates memory for `len` elements, all bits zero.
    ///
    /// # Errors
    /// Returns [`Error::OutOfMemory`], [`Error::NotEnoughMemory`] or an error of the driver.
    fn alloc<T: Scalar>(&self, len: usize) -> Result<Self::Buffer<T>>;
    /// Copies `source` into `target`, which has the same length.
    ///
    /// # Errors
    /// Returns an error if the lengths differ, and propagates errors of the driver.
    fn upload<T: Scalar>(&self, source: &[T], target: ViewMut<'_, Self, T>) -> Result<()>;
    /// Copies `source` into `target`, which has the same length, and waits for the copy.
    ///
    /// # Errors
    /// Returns an error if the lengths differ, and propagates errors of the driver.
    fn download<T: Scalar>(&self, source: View<'_, Self, T>, target: &mut [T]) -> Result<()>;
    /// Copies `source` into `target`, which has the same length, after the ops called before.
    ///
    /// # Errors
    /// Returns an error if the lengths differ, and propagates errors of the driver.
    fn copy<T: Scalar>(
        &self,
        source: View<'_, Self, T>,
        target: ViewMut<'_, Self, T>,
    ) -> Result<()>;
    /// Returns the bytes of memory that are free, or `None` if the device cannot tell. Models that
    /// need more are refused before anything is allocated.
    fn free_memory(&self) -> Option<usize> {
        None
    }
    /// Waits for all ops.
    ///
    /// # Errors
    /// Returns an error that an op found and no call has reported yet, such as
    /// [`Error::IndexOutOfRange`]. Propagates errors of the driver.
    fn synchronize(&self) -> Result<()>;
    /// Copies the description of a batch of tables to the device.
    ///
    /// # Errors
    /// Propagates errors of [`Self::alloc`] and [`Self::upload`].
    fn tables(&self, tables: TableBatch) -> Result<Self::Tables>;
    /// Copies the addresses of tables in memory of their own to the device. The matrices have the
    /// shapes of the tables.
    ///
    /// # Errors
    /// Propagates errors of [`Self::alloc`] and [`Self::upload`].
    fn place_tables<T: Scalar>(
        &self,
        tables: &TableBatch,
        values: &[Matrix<'_, Self, T>],
    ) -> Result<Self::TablePlaces>;
    /// Views a range of a buffer.
    ///
    /// # Panics
    /// Panics if the range is not within the buffer, as indexing a slice does.
    fn slice<T: Scalar>(
        buffer: &Self::Buffer<T>,
        range: std::ops::Range<usize>,
    ) -> View<'_, Self, T>;
    /// Views a range of a buffer for writing.
    ///
    /// # Panics
    /// Panics if the range is not within the buffer, as indexing a slice does.
    fn slice_mut<T: Scalar>(
        buffer: &mut Self::Buffer<T>,
        range: std::ops::Range<usize>,
    ) -> ViewMut<'_, Self, T>;
    /// Views ranges of a buffer for writing, each before the next.
    ///
    /// # Panics
    /// Panics if the ranges are not within the buffer, or one is not before the next.
    fn split_mut<T: Scalar, const N: usize>(
        buffer: &mut Self::Buffer<T>,
        ranges: [std::ops::Range<usize>; N],
    ) -> [ViewMut<'_, Self, T>; N];
    /// Views a whole buffer.
    fn view<T: Scalar>(buffer: &Self::Buffer<T>) -> View<'_, Self, T> {
        Self::slice(buffer, 0..buffer.extent())
    }
    /// Views a whole buffer for writing.
    fn view_mut<T: Scalar>(buffer: &mut Self::Buffer<T>) -> ViewMut<'_, Self, T> {
        let all = 0..buffer.extent();
        Self::slice_mut(buffer, all)
    }
    /// Copies values of the host to a new buffer.
    ///
    /// # Errors
    /// Propagates errors of [`Self::alloc`] and [`Self::upload`].
    fn to_device<T: Scalar>(&self, values: &[T]) -> Result<Self::Buffer<T>> {
        let mut buffer = self.alloc(values.len())?;
        self.upload(values, Self::view_mut(&mut buffer))?;
        Ok(buffer)
    }
    /// Copies a whole buffer to the host.
    ///
    /// # Errors
    /// Returns [`Error::OutOfMemory`], and propagates errors of [`Self::download`].
    fn to_vec<T: Scalar>(&self, buffer: &Self::Buffer<T>) -> Result<Vec<T>> {
        let mut values = filled(buffer.extent(), T::default())?;
        self.download(Self::view(buffer), &mut values)?;
        Ok(values)
    }
    /// Checks that `needed` bytes of memory are free, if the device can tell.
    ///
    /// # Errors
    /// Returns [`Error::NotEnoughMemory`] if fewer are free.
    fn expect_free_memory(&self, needed: usize) -> Result<()> {
        match self.free_memory() {
            Some(free) if free < needed => Err(Error::NotEnoughMemory { needed, free }),
            _ => Ok(()),
        }
    }
}
