//! Views of memory, which ops take in place of buffers.

use crate::dtype::Scalar;

/// A view or buffer whose number of elements is known.
pub trait Extent {
    /// Returns the number of elements.
    fn extent(&self) -> usize;
}

impl<T> Extent for [T] {
    fn extent(&self) -> usize {
        self.len()
    }
}
impl<T> Extent for &[T] {
    fn extent(&self) -> usize {
        self.len()
    }
}
impl<T> Extent for &mut [T] {
    fn extent(&self) -> usize {
        self.len()
    }
}
impl<T> Extent for Vec<T> {
    fn extent(&self) -> usize {
        self.len()
    }
}

/// Views of one kind of memory.
///
/// A [`Device`](super::Device) also allocates and copies memory; [`Host`] has views alone.
pub trait Views: Sized {
    /// A shared view, as `&[T]` is.
    type Slice<'a, T: Scalar>: Extent + Copy + Send + Sync;
    /// An exclusive view, as `&mut [T]` is.
    type SliceMut<'a, T: Scalar>: Extent + Send;
    /// Reborrows a view for a shorter time. Structs of views are invariant in their lifetime, so
    /// that the compiler does not shorten it.
    fn reborrow<'a, T: Scalar>(slice: &'a Self::Slice<'_, T>) -> Self::Slice<'a, T>;
    /// Reborrows a view for writing for a shorter time.
    fn reborrow_mut<'a, T: Scalar>(slice: &'a mut Self::SliceMut<'_, T>) -> Self::SliceMut<'a, T>;
    /// Borrows a view for writing as one for reading.
    fn as_slice<'a, T: Scalar>(slice: &'a Self::SliceMut<'_, T>) -> Self::Slice<'a, T>;
}

/// A marker for memory of the host, independent of the device that ops run on. Its views are Rust
/// slices.
///
/// [`Staging`](crate::nn::Staging) sends batches of it to a device.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Views for Host {
    type Slice<'a, T: Scalar> = &'a [T];
    type SliceMut<'a, T: Scalar> = &'a mut [T];

    fn reborrow<'a, T: Scalar>(slice: &'a &[T]) -> &'a [T] {
        slice
    }

    fn reborrow_mut<'a, T: Scalar>(slice: &'a mut &mut [T]) -> &'a mut [T] {
        slice
    }

    fn as_slice<'a, T: Scalar>(slice: &'a &mut [T]) -> &'a [T] {
        slice
    }
}
