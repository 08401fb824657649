//! The precision of products of `f32` factors.

#[cfg(feature = "cuda")]
use crate::dtype::{DType, Element};

/// The precision of products of `f32` factors. Factors of 16 bits are never rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Exact products of all 24 bits of each factor.
    #[default]
    Full,
    /// Products of factors that may be rounded to the 11 bits of tf32 where that is faster, as on
    /// the tensor cores of a GPU. Sums are in `f32`.
    Tf32,
}

#[cfg(feature = "cuda")]
impl Precision {
    /// Returns whether products of elements of `E` must be exact products of `f32`, which tensor
    /// cores do not compute.
    pub(crate) fn is_exact<E: Element>(self) -> bool {
        E::DTYPE == DType::F32 && self == Self::Full
    }
}
