//! The choice between own kernels and cuBLASLt for the matrix products of layers.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::cublaslt::{CublasLt, Kind};
use super::runtime::pointer::Ptr;
use super::runtime::recording::Relaxed;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::ops::cast::Cast;
use crate::ops::{Accum, Activation, Matrix, MatrixMut, Precision, View, ViewMut};

/// The library that computes the matrix products of layers ([`linear`](crate::ops::linear)).
///
/// The results of cuBLASLt differ from those of own kernels:
///
/// - With 16-bit types, the bias is rounded to the type of the layer.
/// - Factors of tf32 may be truncated, while own kernels round them to nearest. Truncation doubles
///   their error.
/// - ReLU may turn a NaN into zero.
/// - The bits of results depend on the version of cuBLASLt and on the device. They are the same in
///   every run.
///
/// Measured with cuBLASLt of CUDA 13.0 on an NVIDIA H200:
/// benches/record/nvidia-h200/2026-11-28.json.
///
/// ```no_run
/// use bagdot::Cuda;
/// use bagdot::backend::cuda::Gemm;
///
/// let cuda = Cuda::with_gemm(0, Gemm::Own)?;
/// # Ok::<(), bagdot::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gemm {
    /// cuBLASLt for the products that it computes faster, if it can be loaded; own kernels
    /// otherwise.
    #[default]
    Auto,
    /// Own kernels for every product. cuBLASLt is not loaded.
    Own,
    /// cuBLASLt for every product that it supports: no side may be zero, and matrices and bias must
    /// begin at multiples of 16 bytes. Own kernels compute the others.
    CublasLt,
}

/// The least side of a product that [`Gemm::Auto`] leaves to cuBLASLt: the side of the smallest
/// tile of own kernels on the tensor cores.
const MIN_SIDE: usize = 64;
/// The alignment of rows, in bytes, from which on cuBLASLt computes gradients faster than own
/// kernels.
const ROW_ALIGN: usize = 16;

impl Gemm {
    /// Loads cuBLASLt, or returns `None` if it is not wanted, or with [`Gemm::Auto`] cannot be
    /// loaded. The context must be bound.
    pub(super) fn cublaslt(self, context: &Arc<CudaContext>) -> Result<Option<CublasLt>> {
        match self {
            Self::Own => Ok(None),
            Self::Auto => Ok(CublasLt::new(context).ok()),
            Self::CublasLt => CublasLt::new(context).map(Some),
        }
    }

    /// Returns whether this choice prefers cuBLASLt for a product.
    ///
    /// The rule of [`Gemm::Auto`] follows benches/record/nvidia-h200/2026-11-28.json:
    ///
    /// - Forward, in tf32 and bf16, layers whose sides are 415 or more: cuBLASLt takes 0.46 to 0.88
    ///   of the time of own kernels, and is preferred.
    /// - Backward, in bf16, rows at multiples of 16 bytes: cuBLASLt takes 0.59 of the time, and is
    ///   preferred. With other rows it takes up to ten times as long.
    /// - Backward, in tf32: cuBLASLt takes 1.2 times as long or more.
    /// - Layers of one output or 13 inputs: either may be faster. Sides between 13 and 415 have not
    ///   been measured; `MIN_SIDE` lies between.
    /// - f16 is assumed to behave as bf16 does.
    /// - Exact products of f32 stay with own kernels, so that their bits do not depend on cuBLASLt.
    fn prefers_cublaslt<E: Element, O: Element>(
        self,
        product: &Product<'_, O>,
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

/// A row-major factor of a product.
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

/// A product of row-major matrices in a layer: `output = act(left right + bias)`, or
/// `output += left right`.
pub(super) struct Product<'a, O> {
    pub(super) left: Factor,
    pub(super) right: Factor,
    /// The number of terms of each sum.
    pub(super) terms: usize,
    pub(super) precision: Precision,
    /// The bias, one value for each column of the output, and the activation.
    pub(super) bias: Option<(View<'a, Cuda, f32>, Activation)>,
    /// The bias rounded to the type of the output, if there is such a copy.
    pub(super) rounded_bias: Option<View<'a, Cuda, O>>,
    pub(super) accum: Accum,
}

impl Cuda {
    /// Computes a product of factors of `E` by cuBLASLt. Returns false, without computing it, if
    /// the product is left to own kernels.
    ///
    /// # Safety
    /// The factors must have elements of `E` and, with `terms`, fit the shape of the output. A
    /// bias, rounded or not, must have a value for each column of the output.
    pub(super) unsafe fn multiply<E: Element, O: Element>(
        &self,
        product: Product<'_, O>,
        output: &MatrixMut<'_, Self, O>,
    ) -> Result<bool> {
        if !self.inner.kernels.gemm.prefers_cublaslt::<E, O>(&product, output) {
            return Ok(false);
        }
        let Some(cublaslt) = self.cublaslt()? else { return Ok(false) };
        let Product { left, right, terms, precision, bias, rounded_bias, accum } = product;
        // cuBLASLt multiplies column-major matrices. A row-major matrix is a transposed
        // column-major one, so the operands and the sizes of the output are exchanged.
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
        let rounded_bias = View::on_or_null(&rounded_bias, self)?.address();
        let is_there = rounded_bias != 0 && CublasLt::is_aligned(rounded_bias);
        let place = match bias {
            None => Some(0),
            Some(_) if is_rounded && is_there => Some(rounded_bias),
            Some(_) if is_rounded => cublaslt.bias_room(output.cols * size_of::<O>()),
            Some((bias, _)) => Some(bias.on(self)?.address()),
        };
        let are_aligned =
            |place: &u64| pointers.into_iter().chain([*place]).all(CublasLt::is_aligned);
        let Some(place) = place.filter(are_aligned) else { return Ok(false) };
        if let (Some((bias, _)), true) = (bias, is_rounded && !is_there) {
            // SAFETY: `bias_room` returns room for as many bytes, which nothing else uses until the
            // product has been computed.
            let rounded = unsafe { ViewMut::<Cuda, O>::from_raw(place, output.cols) };
            let (from, to) = (
                Matrix::contiguous(bias, 1, output.cols),
                MatrixMut::contiguous(rounded, 1, output.cols),
            );
            Cast { factor: 1.0, from, to }.run(self)?;
        }
        let _bound = self.bind()?;
        // cuBLASLt loads a kernel when it first uses it, which graph capture would forbid.
        let _relaxed = Relaxed::new()?;
        // SAFETY: the context is bound, and the stream is the backend's. The caller vouches for the
        // matrices, whose sizes are those of the kind; the output is an exclusive view, and the
        // alignment of all pointers has been checked.
        unsafe { cublaslt.multiply(self.raw_stream(), &kind, pointers, place) }
    }
}
