//! Views of memory, which ops take in place of buffers.

use std::fmt::{Debug, Formatter};
use std::ops::{Deref, DerefMut};

/// A buffer whose number of elements is known.
pub trait Extent {
    /// Returns the number of elements.
    fn extent(&self) -> usize;
}

/// A kind of memory: that of the host ([`Host`], [`Cpu`](crate::Cpu)) or of a device.
///
/// Memory whose `Address` is `()` is memory that the host reads: views of it are made of Rust
/// slices and become Rust slices again.
pub trait Memory: Sized {
    /// The place of a view that the host cannot read; `()` for memory of the host.
    type Address: Copy + Debug + Send + Sync;
}

/// A marker for memory of the host, independent of the device that ops run on.
///
/// [`Staging`](crate::nn::Staging) sends batches of it to a device.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Memory for Host {
    type Address = ();
}

/// A shared view of memory, as `&[T]` is: an op reads it.
///
/// It is made from a slice, an array, a `Vec` or a buffer: wherever an op takes `impl Into<View>`,
/// `&values` is enough. A view is `Copy`, and the compiler shortens its lifetime where needed, as
/// that of a slice.
pub struct View<'a, M: Memory, T> {
    /// The elements, if the host can read them; empty for memory of a device.
    host: &'a [T],
    address: M::Address,
    len: usize,
}

/// An exclusive view of memory, as `&mut [T]` is: an op writes it.
pub struct ViewMut<'a, M: Memory, T> {
    /// The elements, if the host can write them; empty for memory of a device.
    host: &'a mut [T],
    address: M::Address,
    len: usize,
}

impl<M: Memory, T> Clone for View<'_, M, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Memory, T> Copy for View<'_, M, T> {}

impl<'a, M: Memory, T> View<'a, M, T> {
    /// Makes a view of memory of a device. The caller keeps it borrowed for `'a`.
    pub(crate) fn of_device(address: M::Address, len: usize) -> Self {
        Self { host: &[], address, len }
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn address(&self) -> M::Address {
        self.address
    }
}

impl<'a, M: Memory, T> ViewMut<'a, M, T> {
    /// Makes a view of memory of a device. The caller keeps it exclusively borrowed for `'a`.
    pub(crate) fn of_device(address: M::Address, len: usize) -> Self {
        Self { host: &mut [], address, len }
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn address(&self) -> M::Address {
        self.address
    }

    /// Borrows the view for a shorter time, so that it can be used again afterwards.
    pub fn reborrow(&mut self) -> ViewMut<'_, M, T> {
        ViewMut { host: &mut *self.host, address: self.address, len: self.len }
    }

    /// Borrows the view for reading.
    pub fn as_view(&self) -> View<'_, M, T> {
        View { host: &*self.host, address: self.address, len: self.len }
    }
}

impl<'a, M: Memory<Address = ()>, T> View<'a, M, T> {
    /// Returns the elements.
    #[inline]
    pub fn as_slice(self) -> &'a [T] {
        self.host
    }
}

impl<'a, M: Memory<Address = ()>, T> ViewMut<'a, M, T> {
    /// Returns the elements.
    #[inline]
    pub fn into_slice(self) -> &'a mut [T] {
        self.host
    }
}

impl<M: Memory<Address = ()>, T> Deref for View<'_, M, T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        self.host
    }
}

impl<M: Memory<Address = ()>, T> Deref for ViewMut<'_, M, T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        self.host
    }
}

impl<M: Memory<Address = ()>, T> DerefMut for ViewMut<'_, M, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.host
    }
}

impl<M: Memory, T> Debug for View<'_, M, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({} elements at {:?})", self.len, self.address)
    }
}

impl<M: Memory, T> Debug for ViewMut<'_, M, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "ViewMut({} elements at {:?})", self.len, self.address)
    }
}

impl<'a, M: Memory<Address = ()>, T> From<&'a [T]> for View<'a, M, T> {
    #[inline]
    fn from(host: &'a [T]) -> Self {
        Self { host, address: (), len: host.len() }
    }
}

impl<'a, M: Memory<Address = ()>, T> From<&'a mut [T]> for ViewMut<'a, M, T> {
    #[inline]
    fn from(host: &'a mut [T]) -> Self {
        let len = host.len();
        Self { host, address: (), len }
    }
}

/// Makes views from references to containers of elements on the host.
macro_rules! view_of {
    ($([$($generics:tt)*] $Container:ty;)+) => {$(
        impl<'a, M: Memory<Address = ()>, T, $($generics)*> From<&'a $Container>
            for View<'a, M, T>
        {
            fn from(values: &'a $Container) -> Self {
                Self::from(&values[..])
            }
        }
        impl<'a, M: Memory<Address = ()>, T, $($generics)*> From<&'a mut $Container>
            for ViewMut<'a, M, T>
        {
            fn from(values: &'a mut $Container) -> Self {
                Self::from(&mut values[..])
            }
        }
    )+};
}
view_of! {
    [] Vec<T>;
    [const N: usize] [T; N];
}

impl<'a, M: Memory, T> From<ViewMut<'a, M, T>> for View<'a, M, T> {
    fn from(view: ViewMut<'a, M, T>) -> Self {
        Self { host: view.host, address: view.address, len: view.len }
    }
}
