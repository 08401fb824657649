//! Typed addresses on the device.

use std::fmt;
use std::marker::PhantomData;

/// The address of elements that a kernel reads: `const T*`. Views give it only to work of their own
/// backend.
#[repr(transparent)]
pub(crate) struct Ptr<T> {
    address: u64,
    elements: PhantomData<*const T>,
}

/// The address of elements that a kernel writes: `T*`.
#[repr(transparent)]
pub(crate) struct PtrMut<T> {
    address: u64,
    elements: PhantomData<*mut T>,
}

macro_rules! pointer {
    ($Pointer:ident) => {
        impl<T> Clone for $Pointer<T> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T> Copy for $Pointer<T> {}

        impl<T> fmt::Debug for $Pointer<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.address)
            }
        }

        impl<T> $Pointer<T> {
            /// The null address.
            pub(crate) const NULL: Self = Self::at(0);

            /// Makes a pointer to an address, which must belong to the backend that uses it. Only
            /// views and workspaces call this.
            pub(super) const fn at(address: u64) -> Self {
                Self { address, elements: PhantomData }
            }

            /// Returns the address as a number.
            pub(crate) fn address(self) -> u64 {
                self.address
            }

            /// Returns the address of the element `count` elements behind this one.
            pub(crate) fn add(self, count: usize) -> Self {
                Self::at(self.address + (count * size_of::<T>()) as u64)
            }

            /// Returns the same address for elements of another type.
            pub(crate) fn cast<U>(self) -> $Pointer<U> {
                $Pointer::at(self.address)
            }
        }
    };
}
pointer!(Ptr);
pointer!(PtrMut);

impl<T> Ptr<T> {
    /// Returns whether the address is a multiple of `bytes`.
    pub(crate) fn is_aligned_to(self, bytes: usize) -> bool {
        self.address.is_multiple_of(bytes as u64)
    }
}

impl<T> PtrMut<T> {
    /// Returns the same address for reading.
    pub(crate) fn as_const(self) -> Ptr<T> {
        Ptr::at(self.address)
    }
}
