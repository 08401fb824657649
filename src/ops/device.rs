//! Memory of a device.

use super::tables::TableBatch;
use super::views::{Extent, Views};
use crate::dtype::Scalar;
use crate::error::{Error, Result};
use crate::size::filled;

/// Memory of a device, and the views through which ops see it.
///
/// A buffer is used with the device that allocated it, or with a clone of that device. Other
/// devices may refuse it ([`Error::OtherBackend`]), as CUDA backends do.
pub trait Device: Views + Clone + Send + Sync {
    /// Owned memory.
    type Buffer<T: Scalar>: Extent + Send + Sync;
    /// A [`TableBatch`] where the device can read it.
    type Tables: AsRef<TableBatch> + Send + Sync;

    /// Memory for `len` elements, all bits zero.
    fn alloc<T: Scalar>(&self, len: usize) -> Result<Self::Buffer<T>>;
    /// Copies `source` into `target`, which is as long.
    ///
    /// # Errors
    /// Lengths that differ; what the backend reports.
    fn upload<T: Scalar>(&self, source: &[T], target: Self::SliceMut<'_, T>) -> Result<()>;
    /// Copies `source` into `target`, which is as long; waits until the values are there.
    ///
    /// # Errors
    /// Lengths that differ; what the backend reports.
    fn download<T: Scalar>(&self, source: Self::Slice<'_, T>, target: &mut [T]) -> Result<()>;
    /// Copies `source` into `target`, which is as long, behind the ops that were called before.
    ///
    /// # Errors
    /// Lengths that differ; what the backend reports.
    fn copy<T: Scalar>(
        &self,
        source: Self::Slice<'_, T>,
        target: Self::SliceMut<'_, T>,
    ) -> Result<()>;
    /// The bytes that the device can still give, as far as it can tell. Models that need more are
    /// refused before anything is asked for.
    fn free_memory(&self) -> Option<usize> {
        None
    }
    /// Waits for all ops and reports what they found, such as an [`Error::IndexOutOfRange`].
    fn synchronize(&self) -> Result<()>;
    /// Puts the description of a batch of tables where ops can read it.
    fn tables(&self, tables: TableBatch) -> Result<Self::Tables>;
    /// Views a range of a buffer.
    ///
    /// # Panics
    /// If the range is not within the buffer, as indexing a slice does.
    fn slice<T: Scalar>(
        buffer: &Self::Buffer<T>,
        range: std::ops::Range<usize>,
    ) -> Self::Slice<'_, T>;
    /// Views a range of a buffer, for writing.
    ///
    /// # Panics
    /// If the range is not within the buffer, as indexing a slice does.
    fn slice_mut<T: Scalar>(
        buffer: &mut Self::Buffer<T>,
        range: std::ops::Range<usize>,
    ) -> Self::SliceMut<'_, T>;
    /// Views two ranges of a buffer, the first before the second, for writing.
    ///
    /// # Panics
    /// If the ranges are not within the buffer, or the first is not before the second.
    fn split_mut<T: Scalar>(
        buffer: &mut Self::Buffer<T>,
        first: std::ops::Range<usize>,
        second: std::ops::Range<usize>,
    ) -> (Self::SliceMut<'_, T>, Self::SliceMut<'_, T>);
    /// Views a whole buffer.
    fn view<T: Scalar>(buffer: &Self::Buffer<T>) -> Self::Slice<'_, T> {
        Self::slice(buffer, 0..buffer.extent())
    }
    /// Views a whole buffer, for writing.
    fn view_mut<T: Scalar>(buffer: &mut Self::Buffer<T>) -> Self::SliceMut<'_, T> {
        let all = 0..buffer.extent();
        Self::slice_mut(buffer, all)
    }
    /// A whole buffer, on the host.
    fn to_vec<T: Scalar>(&self, buffer: &Self::Buffer<T>) -> Result<Vec<T>> {
        let mut values = filled(buffer.extent(), T::default())?;
        self.download(Self::view(buffer), &mut values)?;
        Ok(values)
    }
    /// Checks that the device can still give so many bytes, if it can tell.
    ///
    /// # Errors
    /// [`Error::NotEnoughMemory`].
    fn expect_free_memory(&self, needed: usize) -> Result<()> {
        match self.free_memory() {
            Some(free) if free < needed => Err(Error::NotEnoughMemory { needed, free }),
            _ => Ok(()),
        }
    }
}
