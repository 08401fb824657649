//! The buffers of the CPU.

use std::fmt::{Debug, Formatter};
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};

use super::huge_pages;
use crate::Cpu;
use crate::dtype::Scalar;
use crate::error::{Error, Result, invalid};
use crate::ops::{Extent, TableValues, TableValuesMut, View, ViewMut};

/// A cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Memory of the CPU: allocated by [`Device::alloc`](crate::ops::Device::alloc), made of a `Vec`,
/// or memory of the caller ([`Buffer::from_raw`]).
///
/// Allocated memory is aligned to cache lines, so that a row touches no more lines than its size
/// needs: the cost of an access to a random row is the number of its lines. Large buffers use huge
/// pages where the system provides them.
pub struct Buffer<T: 'static>(Storage<T>);

/// The memory of a buffer.
enum Storage<T: 'static> {
    /// Allocated memory of this many bytes.
    Lines(Vec<Line>, usize),
    Vec(Vec<T>),
    /// Memory of the caller.
    Foreign(&'static mut [T]),
}

impl<T: Scalar> Buffer<T> {
    /// Allocates `len` elements, all bits zero.
    pub(crate) fn zeroed(len: usize) -> Result<Self> {
        if size_of::<T>() == 0 || align_of::<T>() > align_of::<Line>() {
            return Err(invalid(
                "alloc",
                "T",
                "elements of no size, or with an alignment of more than a cache line",
            ));
        }
        let bytes = len.saturating_mul(size_of::<T>());
        let num_lines = bytes.div_ceil(size_of::<Line>());
        let mut lines = Vec::new();
        lines.try_reserve_exact(num_lines).map_err(|_| Error::OutOfMemory { bytes })?;
        // The advice must come before the first touch of the pages.
        huge_pages::advise(lines.spare_capacity_mut());
        lines.resize(num_lines, Line::zeroed());
        Ok(Self(Storage::Lines(lines, bytes)))
    }

    /// Makes a buffer of memory of the caller, which it does not free.
    ///
    /// # Safety
    /// `pointer` must be aligned for `T` and point to `len` elements. As long as the buffer lives,
    /// nothing else may read, write or free them.
    pub unsafe fn from_raw(pointer: *mut T, len: usize) -> Self {
        // A pointer to no elements may have any value.
        if len == 0 {
            return Self(Storage::Foreign(&mut []));
        }
        // SAFETY: the caller vouches for the memory, as long as the buffer and its borrows live.
        Self(Storage::Foreign(unsafe { std::slice::from_raw_parts_mut(pointer, len) }))
    }
}

/// Takes a `Vec` as it is. Its memory is aligned for `T` alone, so that rows may touch one cache
/// line more than they need.
impl<T: Scalar> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self(Storage::Vec(values))
    }
}

/// Copies the values to memory of the clone's own.
impl<T: Scalar> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Storage::Lines(lines, bytes) => Storage::Lines(lines.clone(), *bytes),
            Storage::Vec(values) => Storage::Vec(values.clone()),
            Storage::Foreign(values) => Storage::Vec(values.to_vec()),
        })
    }
}

impl<T: Scalar> Deref for Buffer<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        match &self.0 {
            Storage::Lines(lines, bytes) => cast_slice(&cast_slice::<Line, u8>(lines)[..*bytes]),
            Storage::Vec(values) => values,
            Storage::Foreign(values) => values,
        }
    }
}

impl<T: Scalar> DerefMut for Buffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Storage::Lines(lines, bytes) => {
                cast_slice_mut(&mut cast_slice_mut::<Line, u8>(lines)[..*bytes])
            }
            Storage::Vec(values) => values,
            Storage::Foreign(values) => values,
        }
    }
}

impl<T: Scalar> Buffer<T> {
    /// Views the whole buffer.
    pub fn view(&self) -> View<'_, Cpu, T> {
        View::from(&self[..])
    }

    /// Views the whole buffer for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_, Cpu, T> {
        ViewMut::from(&mut self[..])
    }
}

impl<'a, T: Scalar> From<&'a Buffer<T>> for View<'a, Cpu, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        buffer.view()
    }
}

impl<'a, T: Scalar> From<&'a mut Buffer<T>> for ViewMut<'a, Cpu, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        buffer.view_mut()
    }
}

impl<'a, T: Scalar> From<&'a Buffer<T>> for TableValues<'a, Cpu, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        Self::Joined(buffer.view())
    }
}

impl<'a, T: Scalar> From<&'a mut Buffer<T>> for TableValuesMut<'a, Cpu, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        Self::Joined(buffer.view_mut())
    }
}

impl<T: Scalar> Extent for Buffer<T> {
    fn extent(&self) -> usize {
        self.len()
    }
}

impl<T: Scalar> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Scalar> Debug for Buffer<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}
