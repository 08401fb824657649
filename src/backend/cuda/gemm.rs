//! Who computes the products of layers: kernels of our own, or cuBLASLt.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::runtime::cublaslt::{CublasLt, Kind};
use super::runtime::pointer::Ptr;
use super::runtime::recording::Relaxed;
use super::{Cuda, Slice, SliceMut};
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::ops::cast::Cast;
use crate::ops::{Accum, Activation, Matrix, MatrixMut, Precision};

/// Who computes the products of matrices in layers ([`linear`](crate::ops::linear)).
///
/// cuBLASLt differs from our own kernels in this: in 16 bits the bias is rounded to the type of the
/// layer; factors of tf32 may be cut off where ours are rounded to nearest, which doubles their
/// error; ReLU may make a zero of a NaN; and the bits of its results are those of its version and
/// the device. They are the same in every run.
///
/// Measured with cuBLASLt of CUDA 13.0 on an NVIDIA H200:
/// benches/record/nvidia-h200/2026-11-28.json.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gemm {
    /// cuBLASLt, if it can be used, for the products that it is faster at; else our own.
    #[default]
    Auto,
    /// Kernels of our own. cuBLASLt is not even looked for.
    Own,
    /// cuBLASLt for every product that it takes: no side may be zero, and matrices and bias begin
    /// at multiples of 16 bytes.
    CublasLt,
}

/// The least side of a product that [`Gemm::Auto`] leaves to cuBLASLt: that of the smallest tile of
/// our kernels on the tensor cores.
const MIN_SIDE: usize = 64;
/// Rows of matrices must begin at multiples of so many bytes for cuBLASLt to be faster than our
/// kernels at gradients.
const ROW_ALIGN: usize = 16;

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
    ///
    /// By benches/record/nvidia-h200/2026-11-28.json [`Gemm::Auto`] leaves to it the forward pass
    /// of layers whose sides are 415 or more in tf32 and bf16, where it takes 0.46 to 0.88 of our
    /// time, and of the backward pass what is in bf16 with rows at multiples of 16 bytes: 0.59.
    /// With other rows it takes up to ten times as long there, and in tf32 1.2 times or more.
    /// Layers of one output or 13 inputs go either way; between those and 415 nothing has been
    /// measured, and f16 is taken to be as bf16. Exact products of f32 stay with us for their bits.
    fn prefers_cublaslt<E: Element, O: Element>(
        self,
        product: &Product<'_>,
        output: &MatrixMut<'_, Cuda, O>,
    ) -> bool {
        let least = output.cols.min(output.rows).min(product.terms);
        let is_exact = product.precision.is_exact::<E>();
        let is_aligned = |ld: usize, size: usize| (ld * size).is_multiple_of(ROW_ALIGN);
        let are_aligned = is_aligned(product.left.ld, size_of::<E>())
            && is_aligned(product.right.ld, size_of::<E>())
            && is_aligned(output.ld, size_of::<O>());
        let is_forward = product.bias.is_some();
        match self {
            Self::Own => false,
            Self::Auto => {
                !is_exact
                    && least >= MIN_SIDE
                    && (is_forward || E::DTYPE != DType::F32 && are_aligned)
            }
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
    pub(super) fn new<E>(pointer: Ptr<E>, ld: usize) -> Self {
        Self { pointer: pointer.address(), ld, is_transposed: false }
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
    /// Has cuBLASLt compute a product of factors of `E`, if it is one for it: false if our own
    /// kernels are to do so.
    ///
    /// # Safety
    /// The factors must be of `E`, and with `terms` of the shape of the output; a bias must have a
    /// value for each of its columns.
    pub(super) unsafe fn multiply<E: Element, O: Element>(
        &self,
        product: Product<'_>,
        output: &MatrixMut<'_, Self, O>,
    ) -> Result<bool> {
        let is_left = |_: &&CublasLt| self.inner.gemm.prefers_cublaslt::<E, O>(&product, output);
        let Some(cublaslt) = self.inner.cublaslt.as_ref().filter(is_left) else {
            return Ok(false);
        };
        let Product { left, right, terms, precision, bias, accum } = product;
        // A row-major matrix is a column-major one transposed, and so is the product of two, the
        // other way round.
        let pointers = [right.pointer, left.pointer, output.data.on(self)?.address()];
        let kind = Kind {
            sizes: [output.cols, output.rows, terms],
            transposed: [right.is_transposed, left.is_transposed],
            lds: [right.ld, left.ld, output.ld],
            factors: E::DTYPE,
            output: O::DTYPE,
            tf32: E::DTYPE == DType::F32 && !precision.is_exact::<E>(),
            epilogue: bias.map(|(_, activation)| activation),
            adds: accum == Accum::Add,
        };
        let is_rounded = O::DTYPE != DType::F32;
        let place = match bias {
            None => Some(0),
            Some(_) if is_rounded => cublaslt.bias_room(output.cols * size_of::<O>()),
            Some((bias, _)) => Some(bias.on(self)?.address()),
        };
        let are_aligned =
            |place: &u64| pointers.into_iter().chain([*place]).all(CublasLt::is_aligned);
        let Some(place) = place.filter(are_aligned) else { return Ok(false) };
        if let (Some((bias, _)), true) = (bias, is_rounded) {
            // SAFETY: there is as much room, which is nobody else's until the product has been
            // computed.
            let rounded = unsafe { SliceMut::<O>::from_raw(place, output.cols) };
            let (from, to) = (
                Matrix::contiguous(bias, 1, output.cols),
                MatrixMut::contiguous(rounded, 1, output.cols),
            );
            Cast { factor: 1.0, from, to }.run(self)?;
        }
        self.bind()?;
        // cuBLASLt loads a kernel when it is first used.
        let _relaxed = Relaxed::new()?;
        // SAFETY: the caller vouches for the matrices, by whose sizes the kind has been made; the
        // stream is the backend's.
        unsafe { cublaslt.multiply(self.raw_stream(), &kind, pointers, place) }
    }
}
