//! The functions of cuBLASLt that bagdot calls. The library in emulator/cublaslt makes the loader
//! find them under the name of cuBLASLt.
//!
//! An algorithm may be used for exactly what it was chosen for: the same layouts and operation,
//! pointers with the alignments of its preference, and at least its workspace. Its kernels are
//! loaded when it is first used. The only description of an error is the name of its status.

#![allow(non_snake_case, reason = "the names of cuBLASLt")]

use std::ffi::{c_char, c_int, c_void};

use super::api::api;
use super::code::{Code, Result};
use super::host::{bytes_at, put};
use super::matmul::{
    Algorithm, BIAS, COMPUTE_32F_FAST_TF32, EXECUTION_FAILED, Found, INVALID_VALUE, Layout,
    NOT_INITIALIZED, NOT_SUPPORTED, Operation, Preference, R_32F, RELU, alignment, find, of,
    purpose,
};
use super::product::Product;
use super::state::{Driver, count_call, with};
use super::work::Work;

/// The version that the library claims: 13.0.0.
const VERSION: usize = 130_000;

/// The arguments of cublasLtMatmul.
struct Call {
    handle: u64,
    operation: u64,
    alpha: f32,
    beta: f32,
    /// The addresses of A, B, C and D.
    pointers: [u64; 4],
    /// The handles of the layouts of A, B, C and D.
    layouts: [u64; 4],
    algorithm: Algorithm,
    /// The address and the bytes of the workspace.
    workspace: (u64, usize),
    stream: u64,
}

/// Returns the bytes of a number of the caller.
fn number<const N: usize>(from: *const c_void, size: usize) -> Result<[u8; N]> {
    if size != N {
        return Err(INVALID_VALUE);
    }
    bytes_at(from, N).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(INVALID_VALUE)
}

impl Driver {
    /// Enqueues a product.
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
        let (_, purpose) = purpose(operation, layouts)?;
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
            let fields = Operation { compute, transposed: [false; 2], epilogue: 1, bias: 0 };
            d.cublaslt.operations.insert(fresh, fields);
            put(operation, fresh)
        })
    }
    fn cublasLtMatmulDescSetAttribute(
        operation: u64,
        attribute: c_int,
        value: *const c_void,
        size: usize,
    ) {
        with(|d| {
            let operation = d.cublaslt.operations.get_mut(&operation).ok_or(INVALID_VALUE)?;
            match attribute {
                3 | 4 => {
                    let is_transposed = i32::from_le_bytes(number(value, size)?) == 1;
                    operation.transposed[attribute as usize - 3] = is_transposed;
                }
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
            let fields = Preference { workspace: 0, schemes: 7, alignments: [256; 4] };
            d.cublaslt.preferences.insert(fresh, fields);
            put(preference, fresh)
        })
    }
    fn cublasLtMatmulPreferenceSetAttribute(
        preference: u64,
        attribute: c_int,
        value: *const c_void,
        size: usize,
    ) {
        with(|d| {
            let preference = d.cublaslt.preferences.get_mut(&preference).ok_or(INVALID_VALUE)?;
            match attribute {
                1 => preference.workspace = u64::from_le_bytes(number(value, size)?),
                3 => preference.schemes = u32::from_le_bytes(number(value, size)?),
                5..=8 => {
                    let alignment = u32::from_le_bytes(number(value, size)?);
                    preference.alignments[attribute as usize - 5] = alignment;
                }
                _ => return Err(INVALID_VALUE),
            }
            Ok(())
        })
    }
    fn cublasLtMatmulPreferenceDestroy(preference: u64) {
        with(|d| d.cublaslt.preferences.remove(&preference).map(|_| ()).ok_or(INVALID_VALUE))
    }
    fn cublasLtMatmulAlgoGetHeuristic(
        handle: u64,
        operation: u64,
        a: u64,
        b: u64,
        c: u64,
        d: u64,
        preference: u64,
        most: c_int,
        found: *mut Found,
        count: *mut c_int,
    ) {
        with(|driver| {
            let lt = &driver.cublaslt;
            if !lt.handles.contains(&handle) || most < 1 {
                return Err(INVALID_VALUE);
            }
            let layout = |handle| of(&lt.layouts, handle);
            let layouts = [layout(a)?, layout(b)?, layout(c)?, layout(d)?];
            let operation = of(&lt.operations, operation)?;
            let preference = of(&lt.preferences, preference)?;
            let algorithm = find(operation, layouts, preference)?;
            let workspace = algorithm.workspace as usize;
            let result =
                |state| Found { algorithm, workspace, state, waves: 1.0, reserved: [0; 4] };
            // The result that is ranked first may be of an algorithm that cannot run.
            let failed = c_int::from(most > 1);
            if failed == 1 {
                put(found, result(NOT_SUPPORTED.0))?;
            }
            put(found.wrapping_add(failed as usize), result(0))?;
            put(count, 1 + failed)
        })
    }
    fn cublasLtMatmul(
        handle: u64,
        operation: u64,
        alpha: *const c_void,
        a: u64,
        layout_a: u64,
        b: u64,
        layout_b: u64,
        beta: *const c_void,
        c: u64,
        layout_c: u64,
        d: u64,
        layout_d: u64,
        algorithm: *const c_void,
        workspace: u64,
        room: usize,
        stream: u64,
    ) {
        let scalar = |from| number(from, 4).map(f32::from_le_bytes);
        let words: [u8; 64] = number(algorithm, 64)?;
        let word = |k: usize| {
            let bytes = words[8 * k..8 * k + 8].iter().rev();
            bytes.fold(0, |word, &byte| word << 8 | u64::from(byte))
        };
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
