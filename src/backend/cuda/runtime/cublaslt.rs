//! cuBLASLt, where it can be loaded: products of matrices with bias and ReLU. Which products are
//! computed by it, `gemm.rs` decides.
//!
//! A kind of product is planned when it is first asked for: descriptors, and the algorithm that
//! cuBLASLt's heuristic names, which is the same in every run. From then on it is a look-up and a
//! call; in a graph that has been recorded it is neither.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue,
    cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulHeuristicResult_t as Found, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtReductionScheme_t as Reduction, cublasStatus_t as Status, cudaDataType_t as Type,
};
use cudarc::driver::{CudaContext, sys};
use libloading::Library;

use super::buffer::{Buffer, Owner};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::Activation;

/// What the library is called, from the best on: the driver is one for CUDA 13 or later, and runs
/// what is made for CUDA 12 as well.
const NAMES: &[&str] = if cfg!(windows) {
    &["cublasLt64_13.dll", "cublasLt64_12.dll"]
} else {
    &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]
};
/// Bytes of workspace: what cuBLAS itself takes on the largest devices.
const WORKSPACE: usize = 32 << 20;
/// The first of them are for a bias that has to be rounded.
const BIAS_ROOM: usize = 64 << 10;
/// What the matrices and the bias must be aligned to.
const ALIGNMENT: usize = 16;
/// Plans are forgotten when there are so many, as when every batch has another size.
const MAX_PLANS: usize = 1024;

/// Declares the functions that are called, and how they are found.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) -> $result:ty;)+) => {
        #[allow(non_snake_case, reason = "the names of cuBLASLt")]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)+
            /// Whose they are.
            _library: Library,
        }

        impl Functions {
            fn of(library: Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the functions of cuBLASLt have had these types since CUDA 11, with
                    // enumerations as `int`. They stay as long as the library.
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

/// The library, loaded when it is first asked for and never unloaded; or why there is none.
static LIBRARY: LazyLock<Result<Functions, String>> = LazyLock::new(|| {
    let mut reasons = vec![];
    for name in NAMES {
        // SAFETY: what goes by this name is cuBLASLt, whose initialisers ask for nothing.
        match unsafe { Library::new(*name) }.and_then(Functions::of) {
            Ok(functions) => return Ok(functions),
            Err(error) => {
                reasons.push(error.source().map_or_else(|| error.to_string(), ToString::to_string))
            }
        }
    }
    Err(reasons.join("; "))
});

fn functions() -> Result<&'static Functions> {
    LIBRARY.as_ref().map_err(|reason| Error::NoCublasLt { reason: reason.clone() })
}

/// The version of the cuBLASLt that is there: major, minor, patch.
///
/// # Errors
/// [`Error::NoCublasLt`] says what was looked for.
pub fn cublaslt_version() -> Result<(usize, usize, usize)> {
    // SAFETY: returns a number.
    let version = unsafe { (functions()?.cublasLtGetVersion)() };
    Ok((version / 10_000, version / 100 % 100, version % 100))
}

impl Functions {
    fn check(&self, during: &'static str, status: c_int) -> Result<()> {
        if status == Status::CUBLAS_STATUS_SUCCESS as c_int {
            return Ok(());
        }
        // SAFETY: whatever the status, the answer is null or a text that stays.
        let name = unsafe {
            let name = (self.cublasLtGetStatusName)(status);
            if name.is_null() { c"an unknown status" } else { CStr::from_ptr(name) }
        };
        Err(Error::Cuda { during, code: status, message: name.to_string_lossy().into_owned() })
    }

    /// Makes what `create` makes, to be destroyed by `destroy`.
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
        // SAFETY: writes a handle.
        let create = |to| unsafe {
            (self.cublasLtMatmulDescCreate)(to, compute as c_int, Type::CUDA_R_32F as c_int)
        };
        self.make(self.cublasLtMatmulDescDestroy, create)
    }

    fn set<T>(&self, operation: &Owned, attribute: Attribute, value: T) -> Result<()> {
        let value = (&raw const value).cast();
        // SAFETY: the handle is that of an operation; as many bytes are read as there are, and if
        // the attribute has another size it is an error.
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
        // SAFETY: as above, of a preference.
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
        // SAFETY: writes a handle.
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

/// Something of cuBLASLt's.
struct Owned {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle was made for this function, and is destroyed nowhere else. What was
        // launched does not need it.
        let _ = unsafe { (self.destroy)(self.handle) };
    }
}

/// A kind of product, `D = act(op(A) op(B) + bias)` or `D += op(A) op(B)`, of column-major
/// matrices: all but where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    /// Rows and columns of D, and terms of each of its sums.
    pub(crate) sizes: [usize; 3],
    /// Whether A and B are stored transposed.
    pub(crate) transposed: [bool; 2],
    /// The distances between the beginnings of columns, of A, B and D.
    pub(crate) lds: [usize; 3],
    /// The type of A and B.
    pub(crate) factors: DType,
    /// The type of D, and of the bias.
    pub(crate) output: DType,
    /// Whether factors of `f32` may be rounded to tf32.
    pub(crate) tf32: bool,
    /// What is applied to the sums, if there is a bias: one value for each row of D.
    pub(crate) epilogue: Option<Activation>,
    /// Whether the sums are added to what is there.
    pub(crate) adds: bool,
}

/// How a kind of product is computed.
struct Plan {
    operation: Owned,
    layouts: [Owned; 3],
    algorithm: Algorithm,
}

/// cuBLASLt for one stream.
pub(crate) struct CublasLt {
    functions: &'static Functions,
    /// Those that it does not have are remembered too.
    plans: Mutex<HashMap<Kind, Option<Plan>>>,
    handle: Owned,
    /// Of all products, which run one after another.
    workspace: Buffer<u64>,
}

// SAFETY: handles may be used from any thread; descriptors are changed and used under the lock of
// the plans.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl std::fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CublasLt").finish_non_exhaustive()
    }
}

impl CublasLt {
    /// For the device of a context, which must be bound.
    pub(crate) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let functions = functions()?;
        // SAFETY: writes a handle.
        let handle = functions
            .make(functions.cublasLtDestroy, |to| unsafe { (functions.cublasLtCreate)(to) })?;
        let workspace = Buffer::new(context, Owner::ANY, WORKSPACE / size_of::<u64>())?;
        Ok(Self { functions, plans: Mutex::default(), handle, workspace })
    }

    /// Whether an address will do for a matrix or a bias.
    pub(crate) fn is_aligned(pointer: u64) -> bool {
        pointer.is_multiple_of(ALIGNMENT as u64)
    }

    /// Room for a bias of so many bytes until the next product, if there is as much.
    pub(crate) fn bias_room(&self, bytes: usize) -> Option<u64> {
        (bytes <= BIAS_ROOM).then_some(self.workspace())
    }

    fn workspace(&self) -> u64 {
        self.workspace.slice(0..0).pointer()
    }

    /// Puts a product into a stream; false if cuBLASLt does not have this kind.
    ///
    /// # Safety
    /// The context must be bound and the stream be the one of this device on which all products are
    /// computed. Matrices A, B and D of the kind's sizes, distances and types must lie at the
    /// pointers, and a bias if it has one, each aligned as [`Self::is_aligned`] says; D must be
    /// nobody else's.
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
        // SAFETY: the handles are of what they are passed for, and the algorithm was found for
        // them; the scalars are `f32`, as the operation says, and read at once. Behind the room of
        // the bias there are as many bytes as were promised; for the rest the caller vouches.
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

    /// The plan of a kind of product, if cuBLASLt has it.
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
        // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
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
            // The heuristic takes any bias to be aligned as this address is.
            let address = self.workspace() + ALIGNMENT as u64;
            functions.set(&operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, address)?;
        }
        let algorithm = self.algorithm(&operation, &layouts)?;
        Ok(algorithm.map(|algorithm| Plan { operation, layouts, algorithm }))
    }

    /// The algorithm that the heuristic puts first.
    fn algorithm(&self, operation: &Owned, [a, b, d]: &[Owned; 3]) -> Result<Option<Algorithm>> {
        let functions = self.functions;
        // SAFETY: writes a handle.
        let create = |to| unsafe { (functions.cublasLtMatmulPreferenceCreate)(to) };
        let preference = functions.make(functions.cublasLtMatmulPreferenceDestroy, create)?;
        let room = (WORKSPACE - BIAS_ROOM) as u64;
        functions.prefer(
            &preference,
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            room,
        )?;
        // Sums that are cut in parts are added in `f32`, and never by atomic additions.
        let schemes = Reduction::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
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
        let (mut found, mut count) = (MaybeUninit::<Found>::uninit(), 0);
        // SAFETY: the handles are of what they are passed for; there is room for the one result
        // that is asked for.
        let status = unsafe {
            (functions.cublasLtMatmulAlgoGetHeuristic)(
                self.handle.handle,
                operation.handle,
                a.handle,
                b.handle,
                d.handle,
                d.handle,
                preference.handle,
                1,
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        if status == Status::CUBLAS_STATUS_NOT_SUPPORTED as c_int || count == 0 && status == 0 {
            return Ok(None);
        }
        functions.check("find an algorithm of cuBLASLt", status)?;
        // SAFETY: there is a result. Its status may be one that is not known here, and so is read
        // as a number.
        let (algorithm, state) = unsafe {
            let found = found.as_ptr();
            ((&raw const (*found).algo).read(), (&raw const (*found).state).cast::<c_int>().read())
        };
        functions.check("find an algorithm of cuBLASLt", state).map(|()| Some(algorithm))
    }
}
