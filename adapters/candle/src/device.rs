//! Memory of candle's tensors, as ops of bagdot read and write it.

use std::ops::Range;

use bagdot::ops::{Backend, View, ViewMut};
use bagdot::{Cpu, Scalar};
use candle_core::{Device, Layout, Storage, WithDType};

use crate::{Error, Result};

#[cfg(not(feature = "cuda"))]
pub(crate) trait OnCuda {}
#[cfg(not(feature = "cuda"))]
impl<T> OnCuda for T {}
#[cfg(feature = "cuda")]
pub(crate) use crate::cuda::OnCuda;

/// A type of elements that tensors and ops share.
pub(crate) trait Value: Scalar + WithDType + OnCuda {}
impl<T: Scalar + WithDType + OnCuda> Value for T {}

/// A backend of bagdot that works on tensors of a device of candle.
pub(crate) trait TensorBackend: Backend {
    /// The elements of a tensor, borrowed for the time of an op.
    type Input<'a, T: Value>;

    /// Borrows the elements of a contiguous tensor.
    fn input<'a, T: Value>(
        &self,
        storage: &'a Storage,
        layout: &Layout,
    ) -> Result<Self::Input<'a, T>>;

    /// Views borrowed elements.
    fn view_of<'v, T: Value>(input: &'v Self::Input<'_, T>) -> View<'v, Self, T>;

    /// Makes the storage of a tensor of `len` elements, which `write` writes. Returns the result of
    /// `write` as well: the storage of another output, for instance.
    fn output<T: Value, R>(
        &self,
        device: &Device,
        len: usize,
        write: impl FnOnce(ViewMut<'_, Self, T>) -> Result<R>,
    ) -> Result<(Storage, R)>;
}

/// Returns the range of a contiguous layout in a storage of `len` elements.
pub(crate) fn range(layout: &Layout, len: usize) -> Result<Range<usize>> {
    let op = "bagdot-candle";
    let contiguous = layout.contiguous_offsets();
    let (start, end) = contiguous.ok_or(candle_core::Error::RequiresContiguous { op })?;
    if end > len {
        let reason = format!("it ends at element {end}, but its storage has {len}");
        return Err(Error::argument("tensor", reason));
    }
    Ok(start..end)
}

impl TensorBackend for Cpu {
    type Input<'a, T: Value> = &'a [T];

    fn input<'a, T: Value>(&self, storage: &'a Storage, layout: &Layout) -> Result<&'a [T]> {
        match storage {
            Storage::Cpu(storage) => {
                let values = storage.as_slice::<T>()?;
                Ok(&values[range(layout, values.len())?])
            }
            other => Err(other_device(&Device::Cpu, &other.device())),
        }
    }

    fn view_of<'v, T: Value>(input: &'v &[T]) -> View<'v, Self, T> {
        (*input).into()
    }

    fn output<T: Value, R>(
        &self,
        _device: &Device,
        len: usize,
        write: impl FnOnce(ViewMut<'_, Self, T>) -> Result<R>,
    ) -> Result<(Storage, R)> {
        let mut values = vec![T::default(); len];
        let result = write((&mut values).into())?;
        Ok((Storage::Cpu(T::to_cpu_storage_owned(values)), result))
    }
}

/// Returns the error for a tensor on another device than the ops.
pub(crate) fn other_device(ours: &Device, theirs: &Device) -> Error {
    candle_core::Error::DeviceMismatchBinaryOp {
        lhs: ours.location(),
        rhs: theirs.location(),
        op: "bagdot-candle",
    }
    .into()
}
