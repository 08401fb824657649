//! Descriptors of matrix products, as cuBLASLt keeps them by handle, and the choice of an
//! algorithm.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::code::{Code, Result};
use super::product::Matrix;
use crate::ir::Ty;

/// Values of `cublasStatus_t`.
pub(super) const NOT_INITIALIZED: Code = Code(1);
pub(super) const INVALID_VALUE: Code = Code(7);
pub(super) const EXECUTION_FAILED: Code = Code(13);
pub(super) const NOT_SUPPORTED: Code = Code(15);

/// Values of `cublasComputeType_t`.
const COMPUTE_32F: i32 = 68;
pub(super) const COMPUTE_32F_FAST_TF32: i32 = 77;
/// Values of `cudaDataType_t`.
pub(super) const R_32F: i32 = 0;
const R_16F: i32 = 2;
const R_16BF: i32 = 14;
/// Bits of `cublasLtEpilogue_t`.
pub(super) const RELU: u32 = 2;
pub(super) const BIAS: u32 = 4;
/// A `cublasLtReductionScheme_t`: split-K partials of the type of the computation.
const COMPUTE_TYPE: u32 = 2;

/// The most terms of a sum without split-K. With more, the algorithm asks for a workspace for the
/// partials, if the preference allows one.
const MAX_TERMS: u64 = 256;
/// The number of parts that split-K divides the terms into.
const PARTS: u64 = 2;

/// A `cublasLtMatrixLayout_t`.
#[derive(Clone, Copy, Hash)]
pub(super) struct Layout {
    pub(super) ty: i32,
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) ld: i64,
}

/// A `cublasLtMatmulDesc_t`.
#[derive(Clone, Copy, Hash)]
pub(super) struct Operation {
    pub(super) compute: i32,
    pub(super) transposed: [bool; 2],
    pub(super) epilogue: u32,
    pub(super) bias: u64,
}

/// A `cublasLtMatmulPreference_t`.
#[derive(Clone, Copy)]
pub(super) struct Preference {
    pub(super) workspace: u64,
    pub(super) schemes: u32,
    /// The least alignments of A, B, C and D, in bytes.
    pub(super) alignments: [u32; 4],
}

/// A `cublasLtMatmulAlgo_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Algorithm {
    /// The hash of the product that it is for.
    pub(super) purpose: u64,
    pub(super) workspace: u64,
    /// The alignments of A, B, C and D that the algorithm needs, in bytes.
    pub(super) alignments: [u64; 4],
    pub(super) bias_alignment: u64,
    pub(super) rest: u64,
}

/// A `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
pub(super) struct Found {
    pub(super) algorithm: Algorithm,
    pub(super) workspace: usize,
    pub(super) state: c_int,
    pub(super) waves: f32,
    pub(super) reserved: [c_int; 4],
}

/// The descriptors of cuBLASLt by their handles.
#[derive(Default)]
pub(super) struct CublasLt {
    pub(super) handles: BTreeSet<u64>,
    pub(super) operations: BTreeMap<u64, Operation>,
    pub(super) layouts: BTreeMap<u64, Layout>,
    pub(super) preferences: BTreeMap<u64, Preference>,
    /// The products whose kernels have been loaded.
    pub(super) loaded: BTreeSet<u64>,
}

impl Layout {
    /// Returns the type of the elements, if the emulator has it.
    fn ty(self) -> Result<Ty> {
        match self.ty {
            R_32F => Ok(Ty::F32),
            R_16F => Ok(Ty::F16),
            R_16BF => Ok(Ty::BF16),
            _ => Err(NOT_SUPPORTED),
        }
    }

    /// Returns the rows and columns of the matrix, or of its transpose.
    fn shape(self, transposed: bool) -> (u64, u64) {
        if transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// Returns the matrix at an address.
    pub(super) fn at(self, address: u64) -> Result<Matrix> {
        let ty = self.ty()?;
        Ok(Matrix {
            address,
            ty,
            rows: self.rows as usize,
            cols: self.cols as usize,
            ld: self.ld as usize,
        })
    }
}

/// Returns the largest power of two that divides an address, 256 at most.
pub(super) fn alignment(address: u64) -> u64 {
    1 << address.trailing_zeros().min(8)
}

/// Returns the entry of a table that a handle means.
pub(super) fn of<T: Copy>(table: &BTreeMap<u64, T>, handle: u64) -> Result<T> {
    table.get(&handle).copied().ok_or(INVALID_VALUE)
}

/// Returns the number of terms in the sums of a product, and a hash that stands for the product; an
/// error if cuBLASLt does not have it.
pub(super) fn purpose(operation: Operation, [a, b, c, d]: [Layout; 4]) -> Result<(u64, u64)> {
    let [transposed_a, transposed_b] = operation.transposed;
    let ((rows, terms), (terms_b, cols)) = (a.shape(transposed_a), b.shape(transposed_b));
    let is_product =
        terms == terms_b && d.shape(false) == (rows, cols) && c.shape(false) == (rows, cols);
    let fits =
        |layout: Layout| layout.rows > 0 && layout.cols > 0 && layout.ld >= layout.rows as i64;
    if !is_product || ![a, b, c, d].into_iter().all(fits) {
        return Err(INVALID_VALUE);
    }
    let types = (operation.compute, a.ty, d.ty);
    let is_known = matches!(
        types,
        (COMPUTE_32F, R_16F, R_16F | R_32F) | (COMPUTE_32F, R_16BF, R_16BF | R_32F)
    ) || matches!(types, (COMPUTE_32F | COMPUTE_32F_FAST_TF32, R_32F, R_32F));
    if !is_known
        || a.ty != b.ty
        || c.ty != d.ty
        || ![1, BIAS, RELU, RELU | BIAS].contains(&operation.epilogue)
    {
        return Err(NOT_SUPPORTED);
    }
    let mut hasher = DefaultHasher::new();
    (Operation { bias: 0, ..operation }, a, b, c, d).hash(&mut hasher);
    Ok((terms, hasher.finish()))
}

/// Returns the algorithm for a product: the only one, with or without split-K.
pub(super) fn find(
    operation: Operation,
    layouts: [Layout; 4],
    preference: Preference,
) -> Result<Algorithm> {
    let (terms, purpose) = purpose(operation, layouts)?;
    let parts = 4 * PARTS * layouts[3].rows * layouts[3].cols;
    let in_parts = terms > MAX_TERMS
        && preference.schemes & COMPUTE_TYPE != 0
        && parts <= preference.workspace;
    Ok(Algorithm {
        purpose,
        workspace: if in_parts { parts } else { 0 },
        alignments: preference.alignments.map(u64::from),
        bias_alignment: alignment(operation.bias),
        rest: 0,
    })
}
