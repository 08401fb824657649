//! cuBLASLt: the functions that bagdot calls. The library emulator/cublaslt makes them be found
//! under its name.
//!
//! An algorithm is good for what it was asked for: the same layouts and operation, pointers that
//! are aligned as it was told, and as much workspace as it said. Its kernels are loaded when it is
//! first used. The name of a status is all that is told about an error.

#![allow(non_snake_case, reason = "the names of cuBLASLt")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::api;
use super::code::{Code, Result};
use super::host::{bytes_at, put};
use super::product::{Matrix, Product};
use super::state::{Driver, count_call, with};
use super::work::Work;
use crate::ir::Ty;

/// 13.0.0.
const VERSION: usize = 130_000;

/// `cublasStatus_t`.
const NOT_INITIALIZED: Code = Code(1);
const INVALID_VALUE: Code = Code(7);
const EXECUTION_FAILED: Code = Code(13);
const NOT_SUPPORTED: Code = Code(15);

/// `cublasComputeType_t`.
const COMPUTE_32F: i32 = 68;
const COMPUTE_32F_FAST_TF32: i32 = 77;
/// `cudaDataType_t`.
const R_32F: i32 = 0;
const R_16F: i32 = 2;
const R_16BF: i32 = 14;
/// `cublasLtEpilogue_t`, of bits.
const RELU: u32 = 2;
const BIAS: u32 = 4;
/// `cublasLtReductionScheme_t`: sums of parts that are of the type of the computation.
const COMPUTE_TYPE: u32 = 2;

/// Sums of more terms are cut in parts, if there is a workspace for them.
const MAX_TERMS: u64 = 256;
const PARTS: u64 = 2;

#[derive(Clone, Copy, Hash)]
struct Layout {
    ty: i32,
    rows: u64,
    cols: u64,
    ld: i64,
}

#[derive(Clone, Copy, Hash)]
struct Operation {
    compute: i32,
    transposed: [bool; 2],
    epilogue: u32,
    bias: u64,
}

#[derive(Clone, Copy)]
struct Preference {
    workspace: u64,
    schemes: u32,
    /// Of A, B, C and D.
    alignments: [u32; 4],
}

/// `cublasLtMatmulAlgo_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Algorithm {
    /// What it is for, as a hash.
    purpose: u64,
    workspace: u64,
    /// Of A, B, C and D.
    alignments: [u64; 4],
    bias_alignment: u64,
    rest: u64,
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
struct Found {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// What the library knows, by its handles.
#[derive(Default)]
pub(super) struct CublasLt {
    handles: BTreeSet<u64>,
    operations: BTreeMap<u64, Operation>,
    layouts: BTreeMap<u64, Layout>,
    preferences: BTreeMap<u64, Preference>,
    /// Algorithms whose kernels have been loaded.
    loaded: BTreeSet<u64>,
}

impl Layout {
    fn ty(self) -> Result<Ty> {
        match self.ty {
            R_32F => Ok(Ty::F32),
            R_16F => Ok(Ty::F16),
            R_16BF => Ok(Ty::BF16),
            _ => Err(NOT_SUPPORTED),
        }
    }

    fn shape(self, transposed: bool) -> (u64, u64) {
        if transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    fn at(self, address: u64) -> Result<Matrix> {
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

/// The power of two that an address is a multiple of, 256 at most.
fn alignment(address: u64) -> u64 {
    1 << address.trailing_zeros().min(8)
}

fn number<const N: usize>(from: *const c_void, size: usize) -> Result<[u8; N]> {
    if size != N {
        return Err(INVALID_VALUE);
    }
    bytes_at(from, N).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(INVALID_VALUE)
}

/// What of a table is meant by a handle.
fn of<T: Copy>(table: &BTreeMap<u64, T>, handle: u64) -> Result<T> {
    table.get(&handle).copied().ok_or(INVALID_VALUE)
}

impl Driver {
    /// The terms of a product's sums, if cuBLASLt has it, and its purpose.
    fn purpose(&self, operation: Operation, [a, b, c, d]: [Layout; 4]) -> Result<(u64, u64)> {
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

    fn find(
        &self,
        operation: Operation,
        layouts: [Layout; 4],
        preference: Preference,
    ) -> Result<Algorithm> {
        let (terms, purpose) = self.purpose(operation, layouts)?;
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

    /// Puts a product into a stream.
    fn multiply(&mut self, call: &Call) -> Result<()> {
        let lt = &self.cublaslt;
        if !lt.handles.contains(&call.handle) {
            return Err(NOT_INITIALIZED);
        }
        let operation = of(&lt.operations, call.operation)?;
        let mut layouts = [Layout { ty: 0, rows: 0, cols: 0, ld: 0 }; 4];
        for (layout, handle) in layouts.iter_mut().zip(call.layouts) {
            *layout = of(&lt.layouts, handle)?;
        }
        let [a, b, c, d] = layouts;
        let (_, purpose) = self.purpose(operation, layouts)?;
        let algorithm = call.algorithm;
        let is_aligned =
            |(pointer, alignment): (u64, u64)| pointer != 0 && pointer.is_multiple_of(alignment);
        let has_bias = operation.epilogue & BIAS != 0;
        let bias = has_bias.then_some(operation.bias);
        let (workspace, room) = call.workspace;
        let problem = if algorithm.purpose != purpose {
            Some("an algorithm for another one")
        } else if !call.pointers.into_iter().zip(algorithm.alignments).all(is_aligned) {
            Some("matrices that are less aligned than was said")
        } else if bias.is_some_and(|bias| bias == 0 || alignment(bias) < algorithm.bias_alignment) {
            Some("no bias, or one that is less aligned than was said")
        } else if (room as u64) < algorithm.workspace
            || (algorithm.workspace > 0 && alignment(workspace) < 16)
        {
            Some("a workspace that is too small or not aligned")
        } else if call.pointers[2] == call.pointers[3] && (c.ty, c.ld) != (d.ty, d.ld) {
            Some("one place for two layouts")
        } else {
            None
        };
        if let Some(problem) = problem {
            self.say(&format!("cublasLtMatmul: a product with {problem}"));
            return Err(INVALID_VALUE);
        }
        let stream = self.stream(call.stream).map_err(|_| EXECUTION_FAILED)?;
        if self.cublaslt.loaded.insert(purpose) {
            self.refuse_unsafe().map_err(|_| EXECUTION_FAILED)?;
        }
        let [at_a, at_b, at_c, at_d] = call.pointers;
        let product = Product {
            a: a.at(at_a)?,
            b: b.at(at_b)?,
            c: c.at(at_c)?,
            d: d.at(at_d)?,
            transposed: operation.transposed,
            is_tf32: operation.compute == COMPUTE_32F_FAST_TF32,
            alpha: call.alpha,
            beta: call.beta,
            bias,
            relu: operation.epilogue & RELU != 0,
            workspace: (workspace, algorithm.workspace as usize),
        };
        self.enqueue(stream, Work::Product(Box::new(product))).map_err(|_| EXECUTION_FAILED)
    }
}

/// The arguments of cublasLtMatmul.
struct Call {
    handle: u64,
    operation: u64,
    alpha: f32,
    beta: f32,
    /// Of A, B, C and D.
    pointers: [u64; 4],
    layouts: [u64; 4],
    algorithm: Algorithm,
    workspace: (u64, usize),
    stream: u64,
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    count_call("cublasLtGetVersion");
    VERSION
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusName(status: c_int) -> *const c_char {
    let name = match Code(status) {
        NOT_INITIALIZED => c"CUBLAS_STATUS_NOT_INITIALIZED",
        INVALID_VALUE => c"CUBLAS_STATUS_INVALID_VALUE",
        EXECUTION_FAILED => c"CUBLAS_STATUS_EXECUTION_FAILED",
        NOT_SUPPORTED => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"CUBLAS_STATUS_INTERNAL_ERROR",
    };
    name.as_ptr()
}

api! {
    fn cublasLtCreate(handle: *mut u64) {
        with(|d| {
            d.current().map_err(|_| NOT_INITIALIZED)?;
            d.refuse_unsafe().map_err(|_| NOT_INITIALIZED)?;
            let fresh = d.handle();
            d.cublaslt.handles.insert(fresh);
            put(handle, fresh)
        })
    }
    fn cublasLtDestroy(handle: u64) {
        with(|d| if d.cublaslt.handles.remove(&handle) { Ok(()) } else { Err(INVALID_VALUE) })
    }
    fn cublasLtMatmulDescCreate(operation: *mut u64, compute: c_int, scale: c_int) {
        with(|d| {
            if scale != R_32F {
                return Err(NOT_SUPPORTED);
            }
            let fresh = d.handle();
            d.cublaslt.operations.insert(fresh, Operation { compute, transposed: [false; 2], epilogue: 1, bias: 0 });
            put(operation, fresh)
        })
    }
    fn cublasLtMatmulDescSetAttribute(operation: u64, attribute: c_int, value: *const c_void, size: usize) {
        with(|d| {
            let operation = d.cublaslt.operations.get_mut(&operation).ok_or(INVALID_VALUE)?;
            match attribute {
                3 | 4 => operation.transposed[attribute as usize - 3] = i32::from_le_bytes(number(value, size)?) == 1,
                7 => operation.epilogue = u32::from_le_bytes(number(value, size)?),
                8 => operation.bias = u64::from_le_bytes(number(value, size)?),
                _ => return Err(INVALID_VALUE),
            }
            Ok(())
        })
    }
    fn cublasLtMatmulDescDestroy(operation: u64) {
        with(|d| d.cublaslt.operations.remove(&operation).map(|_| ()).ok_or(INVALID_VALUE))
    }
    fn cublasLtMatrixLayoutCreate(layout: *mut u64, ty: c_int, rows: u64, cols: u64, ld: i64) {
        with(|d| {
            let fresh = d.handle();
            d.cublaslt.layouts.insert(fresh, Layout { ty, rows, cols, ld });
            put(layout, fresh)
        })
    }
    fn cublasLtMatrixLayoutDestroy(layout: u64) {
        with(|d| d.cublaslt.layouts.remove(&layout).map(|_| ()).ok_or(INVALID_VALUE))
    }
    fn cublasLtMatmulPreferenceCreate(preference: *mut u64) {
        with(|d| {
            let fresh = d.handle();
            d.cublaslt.preferences.insert(fresh, Preference { workspace: 0, schemes: 7, alignments: [256; 4] });
            put(preference, fresh)
        })
    }
    fn cublasLtMatmulPreferenceSetAttribute(preference: u64, attribute: c_int, value: *const c_void, size: usize) {
        with(|d| {
            let preference = d.cublaslt.preferences.get_mut(&preference).ok_or(INVALID_VALUE)?;
            match attribute {
                1 => preference.workspace = u64::from_le_bytes(number(value, size)?),
                3 => preference.schemes = u32::from_le_bytes(number(value, size)?),
                5..=8 => preference.alignments[attribute as usize - 5] = u32::from_le_bytes(number(value, size)?),
                _ => return Err(INVALID_VALUE),
            }
            Ok(())
        })
    }
    fn cublasLtMatmulPreferenceDestroy(preference: u64) {
        with(|d| d.cublaslt.preferences.remove(&preference).map(|_| ()).ok_or(INVALID_VALUE))
    }
    fn cublasLtMatmulAlgoGetHeuristic(
        handle: u64, operation: u64, a: u64, b: u64, c: u64, d: u64, preference: u64, most: c_int, found: *mut Found, count: *mut c_int,
    ) {
        with(|driver| {
            let lt = &driver.cublaslt;
            if !lt.handles.contains(&handle) || most < 1 {
                return Err(INVALID_VALUE);
            }
            let layout = |handle| of(&lt.layouts, handle);
            let layouts = [layout(a)?, layout(b)?, layout(c)?, layout(d)?];
            let (operation, preference) = (of(&lt.operations, operation)?, of(&lt.preferences, preference)?);
            let algorithm = driver.find(operation, layouts, preference)?;
            let workspace = algorithm.workspace as usize;
            put(found, Found { algorithm, workspace, state: 0, waves: 1.0, reserved: [0; 4] })?;
            put(count, 1)
        })
    }
    fn cublasLtMatmul(
        handle: u64, operation: u64, alpha: *const c_void, a: u64, layout_a: u64, b: u64, layout_b: u64, beta: *const c_void, c: u64,
        layout_c: u64, d: u64, layout_d: u64, algorithm: *const c_void, workspace: u64, room: usize, stream: u64,
    ) {
        let scalar = |from| number(from, 4).map(f32::from_le_bytes);
        let words: [u8; 64] = number(algorithm, 64)?;
        let word = |k: usize| words[8 * k..8 * k + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let algorithm = Algorithm {
            purpose: word(0),
            workspace: word(1),
            alignments: [word(2), word(3), word(4), word(5)],
            bias_alignment: word(6),
            rest: 0,
        };
        let call = Call {
            handle,
            operation,
            alpha: scalar(alpha)?,
            beta: scalar(beta)?,
            pointers: [a, b, c, d],
            layouts: [layout_a, layout_b, layout_c, layout_d],
            algorithm,
            workspace: (workspace, room),
            stream,
        };
        with(|d| d.multiply(&call))
    }
}
