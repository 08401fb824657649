//! The buffers of the CPU.

use std::fmt::{Debug, Formatter};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};

use super::huge_pages;
use crate::Cpu;
use crate::dtype::Scalar;
use crate::error::{Error, Result, invalid};
use crate::ops::{Extent, View, ViewMut};

/// A cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Owned memory of the CPU.
///
/// It is aligned to cache lines, so that a row touches no more lines than its size needs: the cost
/// of an access to a random row is the number of its lines. Large buffers use huge pages where the
/// system provides them.
#[derive(Clone)]
pub struct Buffer<T> {
    lines: Vec<Line>,
    bytes: usize,
    elements: PhantomData<T>,
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
        Ok(Self { lines, bytes, elements: PhantomData })
    }
}

impl<T: Scalar> Deref for Buffer<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        cast_slice(&cast_slice::<Line, u8>(&self.lines)[..self.bytes])
    }
}

impl<T: Scalar> DerefMut for Buffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        cast_slice_mut(&mut cast_slice_mut::<Line, u8>(&mut self.lines)[..self.bytes])
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
