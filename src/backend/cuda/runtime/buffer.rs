//! Memory of a device and views of it.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::{CudaContext, result, sys};

use super::super::Cuda;
use super::driver::{Quiet, check};
use super::pointer::{Ptr, PtrMut};
use super::recording;
use crate::dtype::Scalar;
use crate::error::{Error, Result};
use crate::ops::{Extent, Memory, TableValues, TableValuesMut, View, ViewMut};

/// The number of the backend that memory belongs to. Only the stream of that backend orders the
/// accesses to the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl Owner {
    /// The owner of memory that any backend may use: memory passed to `from_raw`, whose caller
    /// guarantees that this is sound, and memory that no other backend can reach.
    pub(crate) const ANY: Self = Self(0);

    /// Returns an owner that no other backend has.
    pub(crate) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn allows(self, cuda: &Cuda) -> Result<()> {
        if self == Self::ANY || self == cuda.owner() { Ok(()) } else { Err(Error::OtherBackend) }
    }
}

/// Owned memory of a device, of `len` elements, made by
/// [`Device::alloc`](crate::ops::Device::alloc). Only the backend that allocated it and its clones
/// accept it; other backends refuse it with [`Error::OtherBackend`]. If graphs have been recorded
/// before the buffer is dropped, its memory is freed when the last of them is dropped.
#[derive(Debug)]
pub struct Buffer<T> {
    pointer: sys::CUdeviceptr,
    len: usize,
    owner: Owner,
    context: Quiet<Arc<CudaContext>>,
    /// Set if the memory is the caller's.
    is_foreign: bool,
    elements: PhantomData<T>,
}

impl<T: Scalar> Buffer<T> {
    /// Allocates memory for `len` elements without initialising it. The context must be bound.
    ///
    /// # Errors
    /// Returns [`Error::OutOfMemory`], and propagates other errors of the driver.
    pub(crate) fn new(context: &Arc<CudaContext>, owner: Owner, len: usize) -> Result<Self> {
        let too_large = Error::OutOfMemory { bytes: usize::MAX };
        let bytes = len.checked_mul(size_of::<T>()).ok_or(too_large)?;
        let pointer = match bytes {
            0 => 0,
            // SAFETY: the size is not zero, and `drop` frees the memory once.
            _ => match unsafe { result::malloc_sync(bytes) } {
                Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    return Err(Error::OutOfMemory { bytes });
                }
                allocated => check("allocate", allocated)?,
            },
        };
        let context = Quiet::new(Arc::clone(context));
        Ok(Self { pointer, len, owner, context, is_foreign: false, elements: PhantomData })
    }

    /// Makes a buffer of memory of the caller for work of `cuda`, which does not free it.
    ///
    /// # Safety
    /// `pointer` must be the address of `len` elements in the memory of the backend's device,
    /// aligned for `T` and holding values of `T`. As long as the buffer lives, and until all work
    /// that was given views of it has run, including the replays of recordings of that work,
    /// nothing else may read, write or free them.
    pub unsafe fn from_raw(cuda: &Cuda, pointer: u64, len: usize) -> Self {
        let (owner, context) = (cuda.owner(), Quiet::new(Arc::clone(cuda.context())));
        Self { pointer, len, owner, context, is_foreign: true, elements: PhantomData }
    }

    /// Sets all bits to zero, in the order of the stream.
    pub(crate) fn clear(&mut self, stream: sys::CUstream) -> Result<()> {
        self.slice_mut(0..self.len).clear(stream)
    }

    /// Views the whole buffer.
    pub fn view(&self) -> View<'_, Cuda, T> {
        self.slice(0..self.len)
    }

    /// Views the whole buffer for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_, Cuda, T> {
        self.slice_mut(0..self.len)
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> View<'_, Cuda, T> {
        let (pointer, len) = self.part(range);
        View::at(pointer, len, self.owner)
    }

    pub(crate) fn slice_mut(&mut self, range: Range<usize>) -> ViewMut<'_, Cuda, T> {
        let (pointer, len) = self.part(range);
        ViewMut::at(pointer, len, self.owner)
    }

    /// Returns views of ranges. Panics unless each is before the next.
    pub(crate) fn split_mut<const N: usize>(
        &mut self,
        ranges: [Range<usize>; N],
    ) -> [ViewMut<'_, Cuda, T>; N] {
        let are_in_order = ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
        assert!(are_in_order, "{ranges:?} are not one before the next");
        ranges.map(|range| {
            let (pointer, len) = self.part(range);
            ViewMut::at(pointer, len, self.owner)
        })
    }

    /// Returns the address and the length of a range. Panics if the range is not within the buffer,
    /// as slicing does.
    fn part(&self, range: Range<usize>) -> (sys::CUdeviceptr, usize) {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} is not within the {} elements",
            self.len
        );
        (self.pointer + (range.start * size_of::<T>()) as u64, range.len())
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.pointer != 0 && !self.is_foreign {
            // SAFETY: the pointer comes from `malloc_sync`, nothing else frees it, and all views of
            // the buffer have ended.
            unsafe { recording::free(&self.context, self.pointer) };
        }
    }
}

impl<'a, T: Scalar> From<&'a Buffer<T>> for View<'a, Cuda, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        buffer.view()
    }
}

impl<'a, T: Scalar> From<&'a mut Buffer<T>> for ViewMut<'a, Cuda, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        buffer.view_mut()
    }
}

impl<'a, T: Scalar> From<&'a Buffer<T>> for TableValues<'a, Cuda, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        Self::Joined(buffer.view())
    }
}

impl<'a, T: Scalar> From<&'a mut Buffer<T>> for TableValuesMut<'a, Cuda, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        Self::Joined(buffer.view_mut())
    }
}

impl<T> Extent for Buffer<T> {
    fn extent(&self) -> usize {
        self.len
    }
}

/// The place of a view in the memory of a device.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pointer: sys::CUdeviceptr,
    owner: Owner,
}

impl Memory for Cuda {
    type Address = Address;
}

/// Implements what shared and exclusive views have in common. `$Pointer` is the type of pointer
/// that kernels take for the view.
macro_rules! accessors {
    ($View:ident, $Pointer:ident) => {
        impl<T> $View<'_, Cuda, T> {
            /// Makes a view of a range of the memory that a buffer holds.
            pub(crate) fn at(pointer: sys::CUdeviceptr, len: usize, owner: Owner) -> Self {
                Self::of_device(Address { pointer, owner }, len)
            }

            /// Returns the address on the device.
            pub fn pointer(&self) -> u64 {
                self.address().pointer
            }

            /// Returns the address for work of `cuda`, or [`Error::OtherBackend`] if the memory
            /// belongs to another backend.
            pub(crate) fn on(&self, cuda: &Cuda) -> Result<$Pointer<T>> {
                self.address().owner.allows(cuda).map(|()| $Pointer::at(self.pointer()))
            }

            /// Returns the address of a view as [`Self::on`] does, or null if there is no view.
            pub(crate) fn on_or_null(view: &Option<Self>, cuda: &Cuda) -> Result<$Pointer<T>> {
                view.as_ref().map_or(Ok($Pointer::NULL), |view| view.on(cuda))
            }
        }
    };
}

accessors!(View, Ptr);
accessors!(ViewMut, PtrMut);

impl<T> View<'_, Cuda, T> {
    /// Makes a view of memory of the caller. Any backend accepts it.
    ///
    /// # Safety
    /// `pointer` must be the address of `len` elements in the memory of the backend's device,
    /// aligned for `T` and holding values of `T`. Nothing may write or free them before all work
    /// that was given this view has run, including the replays of recordings of that work.
    pub unsafe fn from_raw(pointer: u64, len: usize) -> Self {
        Self::at(pointer, len, Owner::ANY)
    }
}

impl<T> ViewMut<'_, Cuda, T> {
    /// Makes an exclusive view of memory of the caller. Any backend accepts it.
    ///
    /// # Safety
    /// `pointer` must be the address of `len` elements in the memory of the backend's device,
    /// aligned for `T`. Nothing else may read, write or free them before all work that was given
    /// this view has run, including the replays of recordings of that work.
    pub unsafe fn from_raw(pointer: u64, len: usize) -> Self {
        Self::at(pointer, len, Owner::ANY)
    }

    /// Returns a view of the first `len` elements. Panics if there are fewer, as slicing does.
    pub(crate) fn first(&mut self, len: usize) -> ViewMut<'_, Cuda, T> {
        assert!(len <= self.len(), "{len} elements are not within the {}", self.len());
        ViewMut::of_device(self.address(), len)
    }

    /// Sets all bits to zero, in the order of the stream.
    pub(crate) fn clear(&mut self, stream: sys::CUstream) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        // SAFETY: the memory has this length and is borrowed exclusively, and freeing it waits for
        // the device.
        check("clear", unsafe {
            result::memset_d8_async(self.pointer(), 0, self.len() * size_of::<T>(), stream)
        })
    }
}

/// An allocator of the parts of a workspace, one after another, each at a multiple of 8 bytes.
pub(crate) struct Parts(u64);

impl Parts {
    pub(crate) fn of(workspace: &ViewMut<'_, Cuda, u64>, cuda: &Cuda) -> Result<Self> {
        workspace.on(cuda).map(|workspace| Self(workspace.address()))
    }

    /// Returns the address of the next `len` elements. Does not check that the workspace has room
    /// for them.
    pub(crate) fn take<T>(&mut self, len: usize) -> PtrMut<T> {
        let part = PtrMut::at(self.0);
        self.0 += (len * size_of::<T>()).next_multiple_of(8) as u64;
        part
    }
}
