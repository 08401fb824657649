//! The precision of products of `f32` factors.

#[cfg(feature = "cuda")]
use crate::dtype::{DType, Element};

/// How products of `f32` factors may be computed. Factors of 16 bits are always taken as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Exact products, of all 24 bits of each factor.
    #[default]
    Full,
    /// Factors may first be rounded to the 11 bits of tf32 where that is faster, as it is on the
    /// tensor cores of a GPU; sums are of `f32` all the same.
    Tf32,
}

#[cfg(feature = "cuda")]
impl Precision {
    /// Whether products of elements of `E` are to be computed as exact ones of `f32`, and not on
    /// tensor cores.
    pub(crate) fn is_exact<E: Element>(self) -> bool {
        E::DTYPE == DType::F32 && self == Self::Full
    }
}
