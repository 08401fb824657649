//! Bindings of cuBLASLt, which is loaded at run time: matrix products with an epilogue of bias and
//! ReLU. `gemm.rs` decides which products it computes.
//!
//! A kind of product is planned at its first use: descriptors, and the first algorithm of the
//! heuristic of cuBLASLt that can run, which is the same in every run. Later products of this kind
//! take a look-up and a call. The replay of a graph takes neither.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue,
    cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulHeuristicResult_t as Found, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtReductionScheme_t as Reduction, cublasStatus_t as Status, cudaDataType_t as Type,
};
use cudarc::driver::{CudaContext, sys};
use libloading::Library;

use super::buffer::{Buffer, Owner};
use super::driver::driver_version;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::Activation;

/// The names of the library, best first. A driver runs libraries of its own major version of CUDA
/// and of earlier ones. Those of CUDA 11 are not looked for: no test has run them.
const NAMES: &[&str] = if cfg!(windows) {
    &["cublasLt64_13.dll", "cublasLt64_12.dll"]
} else {
    &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]
};
/// The oldest major version of the library that is used.
const OLDEST_MAJOR: usize = 12;
/// Bytes of the workspace: as many as cuBLAS itself takes on the largest devices.
const WORKSPACE: usize = 32 << 20;
/// Bytes at the start of the workspace for a bias that is rounded to 16 bits.
const BIAS_ROOM: usize = 64 << 10;
/// The alignment of the matrices and of the bias, in bytes.
const ALIGNMENT: usize = 16;
/// The number of algorithms that the heuristic is asked for.
const CANDIDATES: usize = 8;
/// The number of plans from which on all are dropped, for callers in which every batch has another
/// size.
const MAX_PLANS: usize = 1024;

/// Declares the functions that are called, and loads them from the library by their names.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) -> $result:ty;)+) => {
        #[allow(non_snake_case, reason = "the names of cuBLASLt")]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)+
            /// The library, which must stay loaded as long as its functions are used.
            _library: Library,
        }

        impl Functions {
            fn of(library: Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the functions of cuBLASLt have had these types since CUDA 11, with
                    // enumerations as `int`. They stay valid as long as the library, which is kept
                    // beside them.
                    $($name: *unsafe {
                        library.get(concat!(stringify!($name), "\0").as_bytes())
                    }?,)+
                    _library: library,
                })
            }
        }
    };
}

type Handle = *mut c_void;

functions! {
    cublasLtGetVersion() -> usize;
    cublasLtGetStatusName(c_int) -> *const c_char;
    cublasLtCreate(*mut Handle) -> c_int;
    cublasLtDestroy(Handle) -> c_int;
    cublasLtMatmulDescCreate(*mut Handle, c_int, c_int) -> c_int;
    cublasLtMatmulDescSetAttribute(Handle, c_int, *const c_void, usize) -> c_int;
    cublasLtMatmulDescDestroy(Handle) -> c_int;
    cublasLtMatrixLayoutCreate(*mut Handle, c_int, u64, u64, i64) -> c_int;
    cublasLtMatrixLayoutDestroy(Handle) -> c_int;
    cublasLtMatmulPreferenceCreate(*mut Handle) -> c_int;
    cublasLtMatmulPreferenceSetAttribute(Handle, c_int, *const c_void, usize) -> c_int;
    cublasLtMatmulPreferenceDestroy(Handle) -> c_int;
    cublasLtMatmulAlgoGetHeuristic(
        Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Found, *mut c_int
    ) -> c_int;
    cublasLtMatmul(
        Handle, Handle, *const c_void, u64, Handle, u64, Handle, *const c_void, u64, Handle, u64,
        Handle, *const Algorithm, u64, usize, sys::CUstream
    ) -> c_int;
}

/// The libraries, each loaded at first use and never unloaded, or the reason why it could not be
/// loaded.
static LIBRARIES: [OnceLock<Result<Functions, String>>; NAMES.len()] =
    [const { OnceLock::new() }; NAMES.len()];

/// Loads a library.
fn load(name: &str) -> Result<Functions, String> {
    // SAFETY: a library of this name is cuBLASLt, whose initialisers have no requirements.
    let loaded = unsafe { Library::new(name) }.and_then(Functions::of);
    loaded.map_err(|error| error.source().map_or_else(|| error.to_string(), ToString::to_string))
}

/// Returns the functions of the best library that the driver can run.
fn functions() -> Result<&'static Functions> {
    let newest = usize::try_from(driver_version()? / 1000).unwrap_or(0);
    let mut reasons = vec![];
    for (name, library) in NAMES.iter().zip(&LIBRARIES) {
        match library.get_or_init(|| load(name)) {
            Err(reason) => reasons.push(reason.clone()),
            Ok(functions) => match functions.version().0 {
                major if major < OLDEST_MAJOR => {
                    reasons.push(format!("{name} is of CUDA {major}, which is not supported"));
                }
                major if major > newest => reasons.push(format!(
                    "{name} is of CUDA {major}, later than the driver, of CUDA {newest}"
                )),
                _ => return Ok(functions),
            },
        }
    }
    Err(Error::NoCublasLt { reason: reasons.join("; ") })
}

/// Returns the version of the cuBLASLt that can be loaded: major, minor and patch.
///
/// # Errors
/// Returns [`Error::NoCublasLt`] with the reason if it cannot be loaded, or if the driver is too
/// old for it. Propagates errors of [`driver_version`].
pub fn cublaslt_version() -> Result<(usize, usize, usize)> {
    functions().map(Functions::version)
}

impl Functions {
    /// Returns the version of the library: major, minor and patch.
    fn version(&self) -> (usize, usize, usize) {
        // SAFETY: the function has no requirements and returns a number.
        let version = unsafe { (self.cublasLtGetVersion)() };
        (version / 10_000, version / 100 % 100, version % 100)
    }

    fn check(&self, during: &'static str, status: c_int) -> Result<()> {
        if status == Status::CUBLAS_STATUS_SUCCESS as c_int {
            return Ok(());
        }
        // SAFETY: for any status, the function returns null or a text that is never freed.
        let name = unsafe {
            let name = (self.cublasLtGetStatusName)(status);
            if name.is_null() { c"an unknown status" } else { CStr::from_ptr(name) }
        };
        Err(Error::Cuda { during, code: status, message: name.to_string_lossy().into_owned() })
    }

    /// Calls `create` to make an object, which `destroy` will destroy.
    fn make(
        &self,
        destroy: unsafe extern "C" fn(Handle) -> c_int,
        create: impl FnOnce(*mut Handle) -> c_int,
    ) -> Result<Owned> {
        let mut handle = std::ptr::null_mut();
        self.check("prepare cuBLASLt", create(&raw mut handle))?;
        Ok(Owned { handle, destroy })
    }

    fn operation(&self, compute: Compute) -> Result<Owned> {
        // SAFETY: the function writes a handle to `to`, which is valid for that.
        let create = |to| unsafe {
            (self.cublasLtMatmulDescCreate)(to, compute as c_int, Type::CUDA_R_32F as c_int)
        };
        self.make(self.cublasLtMatmulDescDestroy, create)
    }

    fn set<T>(&self, operation: &Owned, attribute: Attribute, value: T) -> Result<()> {
        let value = (&raw const value).cast();
        // SAFETY: the handle belongs to an operation. The function reads `size_of::<T>()` bytes of
        // `value`, and returns an error if the attribute has another size.
        let set = unsafe {
            (self.cublasLtMatmulDescSetAttribute)(
                operation.handle,
                attribute as c_int,
                value,
                size_of::<T>(),
            )
        };
        self.check("describe a product to cuBLASLt", set)
    }

    fn prefer<T>(&self, preference: &Owned, attribute: Preference, value: T) -> Result<()> {
        let value = (&raw const value).cast();
        // SAFETY: as above, with the handle of a preference.
        let set = unsafe {
            (self.cublasLtMatmulPreferenceSetAttribute)(
                preference.handle,
                attribute as c_int,
                value,
                size_of::<T>(),
            )
        };
        self.check("describe a product to cuBLASLt", set)
    }

    fn layout(&self, dtype: DType, (rows, cols): (usize, usize), ld: usize) -> Result<Owned> {
        let (ty, rows, cols, ld) = (type_of(dtype) as c_int, rows as u64, cols as u64, ld as i64);
        // SAFETY: the function writes a handle to `to`, which is valid for that.
        let create = |to| unsafe { (self.cublasLtMatrixLayoutCreate)(to, ty, rows, cols, ld) };
        self.make(self.cublasLtMatrixLayoutDestroy, create)
    }
}

fn type_of(dtype: DType) -> Type {
    match dtype {
        DType::F32 => Type::CUDA_R_32F,
        DType::F16 => Type::CUDA_R_16F,
        DType::BF16 => Type::CUDA_R_16BF,
    }
}

/// An object of cuBLASLt that is destroyed when this value is dropped.
struct Owned {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle was made for this function, and nothing else destroys it. Products
        // that were launched do not need it.
        let _ = unsafe { (self.destroy)(self.handle) };
    }
}

/// A kind of product of column-major matrices, `D = act(op(A) op(B) + bias)` or `D += op(A) op(B)`:
/// all its properties except the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    /// The rows of D, the columns of D, and the terms of each sum.
    pub(crate) sizes: [usize; 3],
    /// True for A and B if the matrix is stored transposed.
    pub(crate) transposed: [bool; 2],
    /// The leading dimensions of A, B and D: elements from one column to the next.
    pub(crate) lds: [usize; 3],
    /// The type of A and B.
    pub(crate) factors: DType,
    /// The type of D, and of the bias.
    pub(crate) output: DType,
    /// True if factors of `f32` may be rounded to tf32.
    pub(crate) tf32: bool,
    /// The activation, if there is a bias. The bias has one value for each row of D.
    pub(crate) epilogue: Option<Activation>,
    /// True if the product is added to the values of D.
    pub(crate) adds: bool,
}

/// The plan for a kind of product: descriptors and an algorithm.
struct Plan {
    operation: Owned,
    layouts: [Owned; 3],
    algorithm: Algorithm,
}

/// A handle of cuBLASLt for the products on one stream, with their plans and workspace.
pub(crate) struct CublasLt {
    functions: &'static Functions,
    /// The plans; `None` for a kind that cuBLASLt does not support.
    plans: Mutex<HashMap<Kind, Option<Plan>>>,
    handle: Owned,
    /// The workspace of all products, which run one after another on the stream.
    workspace: Buffer<u64>,
}

// SAFETY: handles may be used from any thread. Descriptors are changed and used only under the lock
// of the plans.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl std::fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CublasLt").finish_non_exhaustive()
    }
}

impl CublasLt {
    /// Makes a handle for the device of a context, which must be bound.
    ///
    /// # Errors
    /// Returns [`Error::NoCublasLt`] if the library cannot be loaded. Propagates errors of the
    /// library and of the allocation of the workspace.
    pub(crate) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let functions = functions()?;
        // SAFETY: the function writes a handle to `to`, which is valid for that.
        let handle = functions
            .make(functions.cublasLtDestroy, |to| unsafe { (functions.cublasLtCreate)(to) })?;
        let workspace = Buffer::new(context, Owner::ANY, WORKSPACE / size_of::<u64>())?;
        Ok(Self { functions, plans: Mutex::default(), handle, workspace })
    }

    /// Returns whether an address is aligned for a matrix or a bias.
    pub(crate) fn is_aligned(pointer: u64) -> bool {
        pointer.is_multiple_of(ALIGNMENT as u64)
    }

    /// Returns the address of room for a rounded bias of `bytes` bytes, which is free until the
    /// next product; `None` if the bias is too large.
    pub(crate) fn bias_room(&self, bytes: usize) -> Option<u64> {
        (bytes <= BIAS_ROOM).then_some(self.workspace())
    }

    fn workspace(&self) -> u64 {
        self.workspace.slice(0..0).pointer()
    }

    /// Launches a product on a stream. Returns false, without launching it, if cuBLASLt does not
    /// support the kind.
    ///
    /// # Safety
    /// The context must be bound, and `stream` must be the one stream on which all products of this
    /// handle are computed. The pointers must be those of matrices A, B and D with the sizes,
    /// leading dimensions and types of the kind, and `bias` that of its bias if it has one. Each
    /// must be aligned as [`Self::is_aligned`] requires. Nothing else may access D.
    pub(crate) unsafe fn multiply(
        &self,
        stream: sys::CUstream,
        kind: &Kind,
        [a, b, d]: [u64; 3],
        bias: u64,
    ) -> Result<bool> {
        let functions = self.functions;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= MAX_PLANS {
            plans.clear();
        }
        let plan = match plans.entry(*kind) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(fresh) => fresh.insert(self.plan(kind)?),
        };
        let Some(Plan { operation, layouts: [of_a, of_b, of_d], algorithm }) = plan else {
            return Ok(false);
        };
        if kind.epilogue.is_some() {
            functions.set(operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        }
        let (alpha, beta) = (1.0_f32, f32::from(u8::from(kind.adds)));
        let workspace = self.workspace() + BIAS_ROOM as u64;
        // SAFETY: each handle has the kind of object that the parameter requires, and the algorithm
        // was found for them. The scalars are `f32`, as the operation says, and are read before the
        // call returns. Behind the room for a bias, the workspace has as many bytes as are passed.
        // The caller vouches for the rest.
        let status = unsafe {
            (functions.cublasLtMatmul)(
                self.handle.handle,
                operation.handle,
                (&raw const alpha).cast(),
                a,
                of_a.handle,
                b,
                of_b.handle,
                (&raw const beta).cast(),
                d,
                of_d.handle,
                d,
                of_d.handle,
                algorithm,
                workspace,
                WORKSPACE - BIAS_ROOM,
                stream,
            )
        };
        functions.check("multiply by cuBLASLt", status).map(|()| true)
    }

    /// Makes the plan of a kind of product; `None` if cuBLASLt does not support the kind.
    fn plan(&self, kind: &Kind) -> Result<Option<Plan>> {
        let functions = self.functions;
        let [rows, cols, terms] = kind.sizes;
        let shape = |rows, cols, transposed| if transposed { (cols, rows) } else { (rows, cols) };
        let layouts = [
            functions.layout(kind.factors, shape(rows, terms, kind.transposed[0]), kind.lds[0])?,
            functions.layout(kind.factors, shape(terms, cols, kind.transposed[1]), kind.lds[1])?,
            functions.layout(kind.output, (rows, cols), kind.lds[2])?,
        ];
        let compute = if kind.tf32 {
            Compute::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            Compute::CUBLAS_COMPUTE_32F
        };
        let operation = functions.operation(compute)?;
        // `CUBLAS_OP_N` is 0 and `CUBLAS_OP_T` is 1.
        functions.set(
            &operation,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
            i32::from(kind.transposed[0]),
        )?;
        functions.set(
            &operation,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSB,
            i32::from(kind.transposed[1]),
        )?;
        let epilogue = match kind.epilogue {
            None => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            Some(Activation::None) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            Some(Activation::Relu) => Epilogue::CUBLASLT_EPILOGUE_RELU_BIAS,
        };
        functions.set(&operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue as u32)?;
        if kind.epilogue.is_some() {
            // The heuristic assumes that every bias is aligned as this address is.
            let address = self.workspace() + ALIGNMENT as u64;
            functions.set(&operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, address)?;
        }
        let algorithm = self.algorithm(kind, &operation, &layouts)?;
        Ok(algorithm.map(|algorithm| Plan { operation, layouts, algorithm }))
    }

    /// Returns the algorithm that the heuristic ranks first of those that can run; `None` if there
    /// is none.
    fn algorithm(
        &self,
        kind: &Kind,
        operation: &Owned,
        [a, b, d]: &[Owned; 3],
    ) -> Result<Option<Algorithm>> {
        let functions = self.functions;
        // SAFETY: the function writes a handle to `to`, which is valid for that.
        let create = |to| unsafe { (functions.cublasLtMatmulPreferenceCreate)(to) };
        let preference = functions.make(functions.cublasLtMatmulPreferenceDestroy, create)?;
        let room = (WORKSPACE - BIAS_ROOM) as u64;
        functions.prefer(
            &preference,
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            room,
        )?;
        // Split-K partials are added in `f32` and in one order: in the workspace, or in place in an
        // output of `f32`, where counters make the blocks take turns (the documentation of
        // `cublasLtReductionScheme_t`).
        let in_place = match kind.output {
            DType::F32 => Reduction::CUBLASLT_REDUCTION_SCHEME_INPLACE as u32,
            DType::F16 | DType::BF16 => 0,
        };
        let schemes = Reduction::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32 | in_place;
        functions.prefer(
            &preference,
            Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            schemes,
        )?;
        for matrix in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            functions.prefer(&preference, matrix, ALIGNMENT as u32)?;
        }
        let (mut found, mut count) = ([const { MaybeUninit::<Found>::uninit() }; CANDIDATES], 0);
        // SAFETY: each handle has the kind of object that the parameter requires, and there is room
        // for as many results as are requested.
        let status = unsafe {
            (functions.cublasLtMatmulAlgoGetHeuristic)(
                self.handle.handle,
                operation.handle,
                a.handle,
                b.handle,
                d.handle,
                d.handle,
                preference.handle,
                CANDIDATES as c_int,
                found.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        if status == Status::CUBLAS_STATUS_NOT_SUPPORTED as c_int {
            return Ok(None);
        }
        functions.check("find an algorithm of cuBLASLt", status)?;
        let found = found.iter().take(usize::try_from(count).unwrap_or(0)).map(|found| {
            let found = found.as_ptr();
            // SAFETY: the function has written as many results. The status is read as a number,
            // since the value may be unknown to the enumeration.
            unsafe {
                (
                    (&raw const (*found).algo).read(),
                    (&raw const (*found).state).cast::<c_int>().read(),
                )
            }
        });
        let mut can_run = found
            .filter(|(_, state): &(_, c_int)| *state == Status::CUBLAS_STATUS_SUCCESS as c_int);
        Ok(can_run.next().map(|(algorithm, _)| algorithm))
    }
}
