//! Contexts: a device with its threads or its stream, the workspace that it keeps, and memory.

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, PoisonError};

use bagdot::backend::cuda::Gemm;
use bagdot::ops::index_sort::SortedIndices;
use bagdot::ops::{Device, Extent, ViewMut};
use bagdot::{Cpu, Cuda};

use crate::device::{Either, Family, Raw, destroy, handle, make, view, view_mut};
use crate::error::{Error, Result, bagdot_status, guard};
use crate::types::{CStruct, c_structs, conversion, read_or_zero, size, write};

/// The version of the interface: it changes when a function or a struct changes its meaning, and
/// not when one is added. `BAGDOT_ABI_VERSION` is the one that a program was compiled with; it must
/// be the one of bagdot_abi_version().
pub const BAGDOT_ABI_VERSION: u32 = 0;

/// A device with its threads or its stream: opaque.
pub struct bagdot_context(pub(crate) Either<Contexts>);

/// The family of the contents of contexts.
pub(crate) struct Contexts;

impl Family for Contexts {
    type Of<D: Raw> = On<D>;
}

/// A context on a backend.
pub(crate) struct On<D: Raw> {
    pub(crate) device: D,
    /// The workspace for calls that bring none.
    kept: Mutex<Kept<D>>,
    /// The order of the last bagdot_sparse_update_step().
    kept_order: Mutex<KeptOrder<D>>,
}

/// The memory that a context keeps. What it outgrows is retired on devices that record ops: graphs
/// that a caller has captured may hold its addresses.
struct Kept<D: Raw> {
    workspace: D::Buffer<u64>,
    retired: Vec<D::Buffer<u64>>,
}

/// The order that a context keeps, as [`Kept`] keeps the workspace.
struct KeptOrder<D: Raw> {
    order: SortedIndices<D>,
    retired: Vec<SortedIndices<D>>,
}

impl<D: Raw> On<D> {
    pub(crate) fn new(device: D) -> Result<Self> {
        let kept = Mutex::new(Kept { workspace: device.alloc(0)?, retired: Vec::new() });
        let order = SortedIndices::new(&device, 0, 0)?;
        let kept_order = Mutex::new(KeptOrder { order, retired: Vec::new() });
        Ok(Self { device, kept, kept_order })
    }

    /// Runs an op with the workspace of the caller, or with the one that the context keeps if the
    /// pointer is null. That one grows to at least `words`.
    ///
    /// # Safety
    /// The pointer is null or to as many bytes of the device, as [`view_mut`] needs them.
    pub(crate) unsafe fn with_workspace(
        &self,
        op: &str,
        (workspace, bytes): (*mut c_void, u64),
        words: usize,
        run: impl FnOnce(ViewMut<'_, D, u64>) -> Result<()>,
    ) -> Result<()> {
        if !workspace.is_null() {
            let len = size(op, "workspace_size", bytes / 8)?;
            // SAFETY: the caller's promise.
            return run(unsafe { view_mut(op, "workspace", workspace.cast(), len)? });
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.workspace.extent() < words {
            let len = roomy(words, kept.workspace.extent());
            let larger = grown(op, "workspace", self.device.alloc(len))?;
            let smaller = std::mem::replace(&mut kept.workspace, larger);
            if D::RECORDS {
                kept.retired.push(smaller);
            }
        }
        // The lock is held until the op has run or has been launched.
        run(D::view_mut(&mut kept.workspace))
    }

    /// Runs ops with the order that the context keeps. It grows to so many ids and bags.
    pub(crate) fn with_order(
        &self,
        op: &str,
        (ids, bags): (usize, usize),
        run: impl FnOnce(&mut SortedIndices<D>) -> Result<()>,
    ) -> Result<()> {
        let mut kept = self.kept_order.lock().unwrap_or_else(PoisonError::into_inner);
        let (capacity, num_bags) = (kept.order.capacity(), kept.order.bag_lengths().len());
        if capacity < ids || num_bags < bags {
            let (ids, bags) = (roomy(ids, capacity), roomy(bags, num_bags));
            let larger = grown(op, "order", SortedIndices::new(&self.device, ids, bags))?;
            let smaller = std::mem::replace(&mut kept.order, larger);
            if D::RECORDS {
                kept.retired.push(smaller);
            }
        }
        run(&mut kept.order)
    }
}

/// Returns the length of what replaces memory of length `before` that is too small: an eighth more
/// than needed, and at least twice as much, so that all retired memory is no more than the last.
fn roomy(needed: usize, before: usize) -> usize {
    needed.saturating_add(needed / 8).max(before.saturating_mul(2))
}

/// Explains why memory of a context cannot grow while its stream is captured.
fn grown<T>(op: &str, what: &str, larger: bagdot::Result<T>) -> Result<T> {
    larger.map_err(|error| match error {
        bagdot::Error::Recording { .. } => {
            let message = format!(
                "{op}: the context's {what} must grow, which is not possible while the stream is \
                 captured: call the op once before, or pass memory of your own"
            );
            Error::Interface(bagdot_status::RECORDING, message)
        }
        error => error.into(),
    })
}

/// Evaluates an expression on the backend of a context, with `$on` for its content. Stands in an
/// unsafe block: the pointer must be null or a context.
macro_rules! on_device {
    ($op:expr, $context:expr, $on:ident => $body:expr) => {
        match &$crate::device::handle($op, "context", $context)?.0 {
            $crate::device::Either::Cpu($on) => $body,
            $crate::device::Either::Cuda($on) => $body,
        }
    };
}
pub(crate) use on_device;

/// The kind of device of a context.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_device {
    /// The CPU. Pointers of the ops are to memory of the host.
    CPU = 0,
    /// A CUDA device. Pointers of the ops are addresses on the device.
    CUDA = 1,
}

/// The threads of a context on the CPU. Results are the same bits in each case.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_threads {
    /// The thread that calls an op. Many threads may call ops of one context at once.
    CALLING = 0,
    /// A pool of `num_threads` threads of the context's own, or of as many as the machine runs at
    /// once if that is 0.
    OWN = 1,
    /// The global pool of the library, which all such contexts of the process share.
    GLOBAL = 2,
}

/// The library that computes matrix products of layers on CUDA.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_gemm {
    /// cuBLASLt for the products that it computes faster, if it can be loaded.
    AUTO = 0,
    /// Kernels of bagdot for every product.
    OWN = 1,
    /// cuBLASLt for every product that it supports.
    CUBLASLT = 2,
}

conversion! {
    device: bagdot_device -> bagdot_device {
        CPU => bagdot_device::CPU,
        CUDA => bagdot_device::CUDA,
    }
}
conversion! {
    threads: bagdot_threads -> bagdot_threads {
        CALLING => bagdot_threads::CALLING,
        OWN => bagdot_threads::OWN,
        GLOBAL => bagdot_threads::GLOBAL,
    }
}
conversion! {
    gemm: bagdot_gemm -> Gemm {
        AUTO => Gemm::Auto,
        OWN => Gemm::Own,
        CUBLASLT => Gemm::CublasLt,
    }
}

/// The options of a context. All zeros mean the CPU with the calling thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_context_options {
    /// `sizeof(bagdot_context_options)`.
    pub struct_size: u32,
    /// A `bagdot_device`.
    pub device: i32,
    /// A `bagdot_threads`, for the CPU.
    pub threads: i32,
    /// The number of threads of a pool of its own.
    pub num_threads: u32,
    /// The number of the CUDA device.
    pub ordinal: u32,
    /// A `bagdot_gemm`, for CUDA.
    pub gemm: i32,
    /// 1 if `stream` is the stream of the context, for CUDA; 0 for a new stream.
    pub has_stream: u32,
    /// Zero.
    pub reserved: u32,
    /// A `CUstream` of the device's primary context, which outlives this context and everything
    /// made with it; null for the legacy default stream, which cannot be captured.
    pub stream: *mut c_void,
}

c_structs! { bagdot_context_options }

/// Returns the version of the interface of the library.
#[unsafe(no_mangle)]
pub extern "C" fn bagdot_abi_version() -> u32 {
    BAGDOT_ABI_VERSION
}

/// Returns the version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn bagdot_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Makes a context; null options mean the CPU with the calling thread. A CUDA context loads all
/// kernels: a program with several streams makes one, and the others by
/// bagdot_context_on_stream().
///
/// # Safety
/// `options` is null or to a struct whose size is set, and `out` to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_context_create(
    options: *const bagdot_context_options,
    out: *mut *mut bagdot_context,
) -> i32 {
    const OP: &str = "bagdot_context_create";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let options = read_or_zero(OP, options)?;
        make(OP, out, || {
            Ok(bagdot_context(match device(OP, "options.device", options.device)? {
                bagdot_device::CPU => Either::Cpu(On::new(cpu(OP, &options)?)?),
                bagdot_device::CUDA => Either::Cuda(On::new(cuda(OP, &options)?)?),
            }))
        })
    })
}

fn cpu(op: &str, options: &bagdot_context_options) -> Result<Cpu> {
    Ok(match threads(op, "options.threads", options.threads)? {
        bagdot_threads::CALLING => Cpu::on_current_thread(),
        bagdot_threads::OWN => match options.num_threads {
            0 => Cpu::new()?,
            threads => Cpu::with_threads(threads as usize)?,
        },
        bagdot_threads::GLOBAL => Cpu::on_global_pool()?,
    })
}

/// Opens a CUDA device.
///
/// # Safety
/// The stream, if there is one, is as the options demand it.
unsafe fn cuda(op: &str, options: &bagdot_context_options) -> Result<Cuda> {
    let gemm = gemm(op, "options.gemm", options.gemm)?;
    let ordinal = options.ordinal as usize;
    Ok(match options.has_stream {
        0 => Cuda::with_gemm(ordinal, gemm)?,
        // SAFETY: the caller's promise.
        _ => unsafe { Cuda::on_stream(ordinal, options.stream, gemm)? },
    })
}

/// Makes a context for another stream of the same CUDA device, which shares the loaded kernels. It
/// reports the faults of its own ops, and refuses the handles of other contexts.
///
/// # Safety
/// `context` is a context, `stream` a stream as `bagdot_context_options` demands it, and `out` to
/// memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_context_on_stream(
    context: *const bagdot_context,
    stream: *mut c_void,
    out: *mut *mut bagdot_context,
) -> i32 {
    const OP: &str = "bagdot_context_on_stream";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let context = handle(OP, "context", context)?;
        make(OP, out, || match &context.0 {
            Either::Cuda(on) => Ok(bagdot_context(Either::Cuda(On::new(on.device.on(stream)?)?))),
            Either::Cpu(_) => Err(Error::invalid(OP, "context", "the CPU has no streams")),
        })
    })
}

/// Destroys a context; null is nothing. Handles that were made with it stay valid, and are
/// destroyed before or after it.
///
/// # Safety
/// `context` is null or a context that nothing uses any more. On CUDA, all work has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_context_destroy(context: *mut bagdot_context) {
    // SAFETY: the caller's promise.
    unsafe { destroy(context) }
}

/// Waits for all ops of the context, and reports the bad id, offset or label that CUDA kernels
/// have found since the last call. On the CPU, ops are done when they return, and report by
/// themselves.
///
/// # Safety
/// `context` is a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_synchronize(context: *const bagdot_context) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        on_device!("bagdot_synchronize", context, on => Ok(on.device.synchronize()?))
    })
}

/// Reports what CUDA kernels have found so far, as bagdot_synchronize() does, without waiting for
/// ops that have not run yet. The error stays until bagdot_synchronize() clears it.
///
/// # Safety
/// `context` is a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_poll(context: *const bagdot_context) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| match unsafe { &handle("bagdot_poll", "context", context)?.0 } {
        Either::Cpu(_) => Ok(()),
        Either::Cuda(on) => Ok(on.device.poll()?),
    })
}

/// Gets the address on the device of a `uint32_t`, the number of bad ids, offsets and labels that
/// ops of the context have found since the last bagdot_synchronize(). Kernels of the caller may
/// read it on the context's stream. CUDA alone.
///
/// # Safety
/// `context` is a context, and `address` to memory for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_fault_count_address(
    context: *const bagdot_context,
    address: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_fault_count_address";
    // SAFETY: the caller's promise.
    guard(|| match unsafe { &handle(OP, "context", context)?.0 } {
        Either::Cpu(_) => Err(Error::invalid(OP, "context", "the CPU reports from the call")),
        // SAFETY: the caller's promise.
        Either::Cuda(on) => unsafe { write(OP, "address", address, on.device.fault_count()) },
    })
}

/// Gets the stream of a context, a `CUstream`; null on the CPU.
///
/// # Safety
/// `context` is a context, and `stream` to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_context_stream(
    context: *const bagdot_context,
    stream: *mut *mut c_void,
) -> i32 {
    const OP: &str = "bagdot_context_stream";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let found = match &handle(OP, "context", context)?.0 {
            Either::Cpu(_) => std::ptr::null_mut(),
            Either::Cuda(on) => on.device.stream(),
        };
        write(OP, "stream", stream, found)
    })
}

/// Memory of a device that the library has allocated: opaque.
pub struct bagdot_buffer(Either<Buffers>);

/// The family of the contents of buffers.
struct Buffers;

impl Family for Buffers {
    type Of<D: Raw> = D::Buffer<u64>;
}

/// Allocates memory of the context's device, all zeros. On the CPU it begins at a cache line and
/// lies in huge pages where the system has them, which makes lookups in large tables faster. Ops
/// take memory of the caller as well.
///
/// # Safety
/// `context` is a context, and `out` to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_buffer_create(
    context: *const bagdot_context,
    bytes: u64,
    out: *mut *mut bagdot_buffer,
) -> i32 {
    const OP: &str = "bagdot_buffer_create";
    fn alloc<D: Raw>(on: &On<D>, words: usize) -> Result<bagdot_buffer> {
        Ok(bagdot_buffer(D::wrap(on.device.alloc(words)?)))
    }
    guard(|| {
        let words = size(OP, "bytes", bytes.div_ceil(8))?;
        // SAFETY: the caller's promise.
        unsafe { make(OP, out, || on_device!(OP, context, on => alloc(on, words))) }
    })
}

/// Gets the address of a buffer, on its device. Without bytes it may be null.
///
/// # Safety
/// `buffer` is a buffer, and `address` to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_buffer_data(
    buffer: *mut bagdot_buffer,
    address: *mut *mut c_void,
) -> i32 {
    const OP: &str = "bagdot_buffer_data";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let pointer = match &mut crate::device::handle_mut(OP, "buffer", buffer)?.0 {
            Either::Cpu(words) => words.as_mut_ptr().cast(),
            Either::Cuda(words) => words.view_mut().pointer() as *mut c_void,
        };
        write(OP, "address", address, pointer)
    })
}

/// Frees a buffer; null is nothing.
///
/// # Safety
/// `buffer` is null or a buffer that nothing uses any more. On CUDA, all work on it has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_buffer_destroy(buffer: *mut bagdot_buffer) {
    // SAFETY: the caller's promise.
    unsafe { destroy(buffer) }
}

/// Copies bytes from the host to the context's device, after the ops called before, and waits.
///
/// # Safety
/// `context` is a context; `target` is memory of its device and `source` memory of the host of as
/// many bytes, which do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_copy_to_device(
    context: *const bagdot_context,
    target: *mut c_void,
    source: *const c_void,
    bytes: u64,
) -> i32 {
    const OP: &str = "bagdot_copy_to_device";
    /// # Safety
    /// As for the function around this one.
    unsafe fn copy<D: Raw>(
        on: &On<D>,
        target: *mut u8,
        source: *const u8,
        len: usize,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        let (source, target) = unsafe {
            (view::<Cpu, u8>(OP, "source", source, len)?, view_mut(OP, "target", target, len)?)
        };
        Ok(on.device.upload(&source, target)?)
    }
    guard(|| {
        let len = size(OP, "bytes", bytes)?;
        // SAFETY: the caller's promise.
        unsafe { on_device!(OP, context, on => copy(on, target.cast(), source.cast(), len)) }
    })
}

/// Copies bytes from the context's device to the host, after the ops called before, and waits.
///
/// # Safety
/// As for bagdot_copy_to_device(), with `target` on the host and `source` on the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_copy_to_host(
    context: *const bagdot_context,
    target: *mut c_void,
    source: *const c_void,
    bytes: u64,
) -> i32 {
    const OP: &str = "bagdot_copy_to_host";
    /// # Safety
    /// As for the function around this one.
    unsafe fn copy<D: Raw>(
        on: &On<D>,
        target: *mut u8,
        source: *const u8,
        len: usize,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        let (source, mut target) = unsafe {
            (view(OP, "source", source, len)?, view_mut::<Cpu, u8>(OP, "target", target, len)?)
        };
        Ok(on.device.download(source, &mut target)?)
    }
    guard(|| {
        let len = size(OP, "bytes", bytes)?;
        // SAFETY: the caller's promise.
        unsafe { on_device!(OP, context, on => copy(on, target.cast(), source.cast(), len)) }
    })
}
