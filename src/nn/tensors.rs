//! A model's parameters by name, for saving and loading.

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::size::{filled, product, with_room};

/// A tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Its name, such as `bottom_mlp.0.weight` or `tables.3.weight`.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its element type.
    pub dtype: DType,
    /// Its elements, row-major, little-endian.
    pub bytes: Vec<u8>,
}

impl NamedTensor {
    /// A tensor of these elements.
    pub fn new<E: Element>(name: String, shape: Vec<usize>, values: &[E]) -> Self {
        Self { name, shape, dtype: E::DTYPE, bytes: bytemuck::cast_slice(values).to_vec() }
    }

    /// The same, or an error if there is no memory for it.
    pub(super) fn try_new<E: Element>(
        name: String,
        shape: Vec<usize>,
        values: &[E],
    ) -> Result<Self> {
        let mut bytes = with_room(size_of_val(values))?;
        bytes.extend_from_slice(bytemuck::cast_slice(values));
        Ok(Self { name, shape, dtype: E::DTYPE, bytes })
    }

    /// The elements, as `f32`.
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

/// Where a model's parameters come from.
pub trait TensorSource {
    /// Element type, shape and little-endian bytes of the tensor called `name`.
    fn tensor(&self, name: &str) -> Option<(DType, &[usize], &[u8])>;
}

impl TensorSource for [NamedTensor] {
    fn tensor(&self, name: &str) -> Option<(DType, &[usize], &[u8])> {
        let found = self.iter().find(|tensor| tensor.name == name)?;
        Some((found.dtype, &found.shape, &found.bytes))
    }
}

/// The tensors of a source whose names begin with `prefix`, without it.
pub struct Prefixed<'a, S: ?Sized> {
    /// Where the tensors come from.
    pub source: &'a S,
    /// What stands before their names there.
    pub prefix: &'a str,
}

impl<S: TensorSource + ?Sized> TensorSource for Prefixed<'_, S> {
    fn tensor(&self, name: &str) -> Option<(DType, &[usize], &[u8])> {
        self.source.tensor(&format!("{}{name}", self.prefix))
    }
}

/// The elements of a tensor, checked to be what the model needs.
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
