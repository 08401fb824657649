//! Named tensors, in which parameters are saved and loaded.

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::size::{filled, product, with_room};

/// A tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The name, such as `bottom_mlp.0.weight` or `tables.3.weight`.
    pub name: String,
    /// The size of each dimension.
    pub shape: Vec<usize>,
    /// The element type.
    pub dtype: DType,
    /// The elements, row-major, little-endian.
    pub bytes: Vec<u8>,
}

impl NamedTensor {
    /// Makes a tensor of the elements `values`, row-major.
    pub fn new<E: Element>(name: String, shape: Vec<usize>, values: &[E]) -> Self {
        Self { name, shape, dtype: E::DTYPE, bytes: bytemuck::cast_slice(values).to_vec() }
    }

    /// Makes a tensor as [`Self::new`] does, or returns an error if there is no memory for it.
    pub(super) fn try_new<E: Element>(
        name: String,
        shape: Vec<usize>,
        values: &[E],
    ) -> Result<Self> {
        let mut bytes = with_room(size_of_val(values))?;
        bytes.extend_from_slice(bytemuck::cast_slice(values));
        Ok(Self { name, shape, dtype: E::DTYPE, bytes })
    }

    /// Returns the elements as `f32`, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => bytemuck::pod_collect_to_vec(&self.bytes),
            DType::F16 => to_f32::<crate::f16>(&self.bytes),
            DType::BF16 => to_f32::<crate::bf16>(&self.bytes),
        }
    }
}

fn to_f32<E: Element>(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec::<u8, E>(bytes).into_iter().map(E::to_f32).collect()
}

/// A source of tensors by name, from which a model is loaded.
pub trait TensorSource {
    /// Returns element type, shape and little-endian bytes of the tensor called `name`, if there is
    /// one.
    fn tensor(&self, name: &str) -> Option<(DType, &[usize], &[u8])>;
}

impl TensorSource for [NamedTensor] {
    fn tensor(&self, name: &str) -> Option<(DType, &[usize], &[u8])> {
        let found = self.iter().find(|tensor| tensor.name == name)?;
        Some((found.dtype, &found.shape, &found.bytes))
    }
}

/// The tensors of a source whose names begin with `prefix`, under their names without it.
pub struct Prefixed<'a, S: ?Sized> {
    /// The source of the tensors.
    pub source: &'a S,
    /// The prefix of their names in the source.
    pub prefix: &'a str,
}

impl<S: TensorSource + ?Sized> TensorSource for Prefixed<'_, S> {
    fn tensor(&self, name: &str) -> Option<(DType, &[usize], &[u8])> {
        self.source.tensor(&format!("{}{name}", self.prefix))
    }
}

/// Returns the elements of the tensor called `name`, or an error if it is missing or has another
/// element type or shape.
pub(crate) fn read<E: Element>(
    source: &(impl TensorSource + ?Sized),
    name: &str,
    shape: &[usize],
) -> Result<Vec<E>> {
    let (dtype, got, bytes) =
        source.tensor(name).ok_or_else(|| Error::TensorMissing { name: name.into() })?;
    if dtype != E::DTYPE {
        return Err(Error::DTypeMismatch { tensor: name.into(), expected: E::DTYPE, got: dtype });
    }
    let elements = shape.iter().copied().fold(1, usize::saturating_mul);
    if got != shape || bytes.len() != product([elements, size_of::<E>()]) {
        return Err(Error::TensorShape {
            name: name.into(),
            expected: shape.to_vec(),
            got: got.to_vec(),
        });
    }
    let mut values = filled(elements, E::default())?;
    bytemuck::cast_slice_mut(&mut values).copy_from_slice(bytes);
    Ok(values)
}
