//! Views of memory: what ops take in place of a buffer.

use crate::dtype::Scalar;

/// The number of elements that a view or buffer holds.
pub trait Extent {
    /// The number of elements.
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
/// A [`Device`](super::Device) has memory and copies besides; [`Host`] has views alone.
pub trait Views: Sized {
    /// A shared view.
    type Slice<'a, T: Scalar>: Extent + Copy + Send + Sync;
    /// An exclusive view.
    type SliceMut<'a, T: Scalar>: Extent + Send;
    /// The same view, borrowed for a shorter time. Structs over views are invariant in their
    /// lifetime; this gets around it.
    fn reborrow<'a, T: Scalar>(slice: &'a Self::Slice<'_, T>) -> Self::Slice<'a, T>;
    /// As [`Self::reborrow`], for writing.
    fn reborrow_mut<'a, T: Scalar>(slice: &'a mut Self::SliceMut<'_, T>) -> Self::SliceMut<'a, T>;
    /// What is being written, for reading.
    fn as_slice<'a, T: Scalar>(slice: &'a Self::SliceMut<'_, T>) -> Self::Slice<'a, T>;
}

/// Memory of the host, whatever device ops run on: its views are Rust slices.
///
/// [`Staging`](crate::nn::Staging) takes batches of it.
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
