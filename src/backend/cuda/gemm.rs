//! Who computes the products of layers: kernels of our own, or cuBLASLt.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::cublaslt::{CublasLt, Kind};
use super::recording::Relaxed;
use super::{Cuda, Slice, SliceMut};
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::ops::cast::Cast;
use crate::ops::{Accum, Activation, Matrix, MatrixMut, Precision};

/// Who computes the products of matrices in layers ([`linear`](crate::ops::linear)).
///
/// cuBLASLt differs from our own kernels in this: in 16 bits the bias is rounded to the type of the layer; factors of tf32 may be cut off where ours are
/// rounded to nearest, which doubles their error; ReLU may make a zero of a NaN; and the bits of its results are those of its version and the device. They
/// are the same in every run.
///
/// Compiled, and tested against a stand-in for cuBLASLt; not yet measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Gemm {
    /// cuBLASLt, if it can be used, for the products that it is faster at; else our own.
    #[default]
    Auto,
    /// Kernels of our own. cuBLASLt is not even looked for.
    Own,
    /// cuBLASLt for every product that it takes: no side may be zero, and matrices and bias begin at multiples of 16 bytes.
    #[cfg_attr(feature = "cli", value(name = "cublaslt"))]
    CublasLt,
}

/// The least side of a product that [`Gemm::Auto`] leaves to cuBLASLt: that of the smallest tile of our kernels on the tensor cores.
///
/// In benches/record/nvidia-h100/2026-11-24.json PyTorch, which has cuBLAS compute, is faster in tf32 and bf16 at every layer whose sides are 415 or
/// more (our kernels reach 0.35 to 0.90 of it, whether or not rows begin at multiples of 16 bytes), while layers of one output or 13 inputs go either way.
/// Between these nothing has been measured, and f16 is taken to be as bf16. Exact products of f32 stay with us for their bits, although there too it is up to 1.4 times as fast.
const LEAST_SIDE: usize = 64;

impl Gemm {
    /// cuBLASLt, if it is to be used and can be. The context must be bound.
    pub(super) fn cublaslt(self, context: &Arc<CudaContext>) -> Result<Option<CublasLt>> {
        match self {
            Self::Own => Ok(None),
            Self::Auto => Ok(CublasLt::new(context).ok()),
            Self::CublasLt => CublasLt::new(context).map(Some),
        }
    }

    /// Whether a product is one for cuBLASLt.
    fn leaves(self, is_exact: bool, sizes: [usize; 3]) -> bool {
        let least = sizes.into_iter().min().unwrap_or(0);
        match self {
            Self::Own => false,
            Self::Auto => !is_exact && least >= LEAST_SIDE,
            Self::CublasLt => least > 0,
        }
    }
}

/// A factor of a product, row-major.
pub(super) struct Factor {
    pointer: u64,
    ld: usize,
    is_transposed: bool,
}

impl Factor {
    pub(super) fn new(pointer: u64, ld: usize) -> Self {
        Self { pointer, ld, is_transposed: false }
    }

    pub(super) fn transposed(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }
}

/// A product of layers, row-major: `output = act(left right + bias)`, or `output += left right`.
pub(super) struct Product<'a> {
    pub(super) left: Factor,
    pub(super) right: Factor,
    /// Terms of each sum.
    pub(super) terms: usize,
    pub(super) precision: Precision,
    /// One value for each column.
    pub(super) bias: Option<(Slice<'a, f32>, Activation)>,
    pub(super) accum: Accum,
}

impl Cuda {
    /// Has cuBLASLt compute a product of factors of `E`, if it is one for it: false if our own kernels are to do so.
    ///
    /// # Safety
    /// The factors must be of `E`, and with `terms` of the shape of the output; a bias must have a value for each of its columns.
    pub(super) unsafe fn multiply<E: Element, O: Element>(
        &self,
        product: Product<'_>,
        output: &MatrixMut<'_, Self, O>,
    ) -> Result<bool> {
        let Product { left, right, terms, precision, bias, accum } = product;
        let is_exact = precision.is_exact::<E>();
        let sizes = [output.cols, output.rows, terms];
        let Some(cublaslt) = self.inner.cublaslt.as_ref().filter(|_| self.inner.gemm.leaves(is_exact, sizes)) else {
            return Ok(false);
        };
        // A row-major matrix is a column-major one transposed, and so is the product of two, the other way round.
        let pointers = [right.pointer, left.pointer, output.data.pointer()];
        let kind = Kind {
            sizes,
            transposed: [right.is_transposed, left.is_transposed],
            lds: [right.ld, left.ld, output.ld],
            factors: E::DTYPE,
            output: O::DTYPE,
            tf32: E::DTYPE == DType::F32 && !is_exact,
            epilogue: bias.map(|(_, activation)| activation),
            adds: accum == Accum::Add,
        };
        let is_rounded = O::DTYPE != DType::F32;
        let place = match bias {
            None => Some(0),
            Some(_) if is_rounded => cublaslt.bias_room(output.cols * size_of::<O>()),
            Some((bias, _)) => Some(bias.pointer()),
        };
        let are_aligned = |place: &u64| pointers.into_iter().chain([*place]).all(CublasLt::is_aligned);
        let Some(place) = place.filter(are_aligned) else { return Ok(false) };
        if let (Some((bias, _)), true) = (bias, is_rounded) {
            // SAFETY: there is as much room, which is nobody else's until the product has been computed.
            let rounded = unsafe { SliceMut::<O>::from_raw(place, output.cols) };
            let (from, to) = (Matrix::packed(bias, 1, output.cols), MatrixMut::packed(rounded, 1, output.cols));
            Cast { factor: 1.0, from, to }.run(self)?;
        }
        self.bind()?;
        // cuBLASLt loads a kernel when it is first used.
        let _relaxed = Relaxed::new()?;
        // SAFETY: the caller vouches for the matrices, by whose sizes the kind has been made; the stream is the backend's.
        unsafe { cublaslt.multiply(self.raw_stream(), &kind, pointers, place) }
    }
}
