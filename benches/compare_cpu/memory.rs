//! The memory of inputs and outputs: bagdot's own, or such as torch allocates.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bagdot::backend::cpu::Buffer;
use bagdot::ops::Device;
use bagdot::{Cpu, Scalar};
use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use serde::Deserialize;

/// An allocator of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Allocator {
    /// The one of bagdot's buffers: aligned to cache lines, in huge pages where the system
    /// provides them on advice.
    #[default]
    Bagdot,
    /// The one of torch's tensors on the CPU (c10/core/impl/alloc_cpu.cpp): `posix_memalign` with
    /// `gAlignment`, 64 bytes, and no advice on huge pages unless `THP_MEM_ALLOC_ENABLE` is set.
    /// The standard library allocates a `Vec` of a type with this alignment by the same call.
    Torch,
}

impl Allocator {
    /// Allocates `len` elements, all bits zero.
    pub(crate) fn alloc<T: Scalar>(self, cpu: &Cpu, len: usize) -> bagdot::Result<Memory<T>> {
        Ok(match self {
            Self::Bagdot => Memory::Bagdot(cpu.alloc(len)?),
            Self::Torch => {
                let bytes = len * size_of::<T>();
                let lines = vec![Line::zeroed(); bytes.div_ceil(size_of::<Line>())];
                Memory::Torch(Lines { lines, bytes, elements: PhantomData })
            }
        })
    }
}

/// Owned memory.
pub(crate) enum Memory<T: 'static> {
    Bagdot(Buffer<T>),
    Torch(Lines<T>),
}

/// A cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Elements in a `Vec` that is aligned to cache lines.
pub(crate) struct Lines<T> {
    lines: Vec<Line>,
    bytes: usize,
    elements: PhantomData<T>,
}

impl<T: Scalar> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Bagdot(buffer) => buffer,
            Self::Torch(Lines { lines, bytes, .. }) => {
                cast_slice(&cast_slice::<Line, u8>(lines)[..*bytes])
            }
        }
    }
}

impl<T: Scalar> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Bagdot(buffer) => buffer,
            Self::Torch(Lines { lines, bytes, .. }) => {
                cast_slice_mut(&mut cast_slice_mut::<Line, u8>(lines)[..*bytes])
            }
        }
    }
}
