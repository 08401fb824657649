//! Status codes, and what the last failed call of a thread has to say.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::types::{CStruct, c_structs, write_struct};

/// The status of a call: 0 or the kind of its error. Numbers keep their meaning in all versions,
/// and new ones may come.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_status {
    /// The call has done what it was asked for.
    OK = 0,
    /// A buffer or dimension does not have the size that the other arguments call for.
    SHAPE_MISMATCH = 1,
    /// A buffer holds fewer elements than the op accesses.
    TOO_SMALL = 2,
    /// An argument has a value that is not valid for the op.
    INVALID_ARGUMENT = 3,
    /// The offsets of bags do not start at 0, decrease, or do not end at the number of ids.
    INVALID_OFFSETS = 4,
    /// An id is not a row of its table; bagdot_last_bad_id() has its fields. All valid ids have
    /// been processed, and this one contributed nothing.
    INDEX_OUT_OF_RANGE = 5,
    /// A label is NaN or not in [0, 1].
    LABEL_OUT_OF_RANGE = 6,
    /// A tensor is missing.
    TENSOR_MISSING = 7,
    /// A tensor has another shape.
    TENSOR_SHAPE = 8,
    /// A matrix has another element type than the op takes there.
    DTYPE_MISMATCH = 9,
    /// An allocation failed.
    OUT_OF_MEMORY = 10,
    /// An allocation needs more memory than is free, and has not been tried.
    NOT_ENOUGH_MEMORY = 11,
    /// There is no CUDA driver on this machine.
    NO_DRIVER = 12,
    /// The CUDA driver is too old: it lacks functions that are called.
    DRIVER_TOO_OLD = 13,
    /// There is no CUDA device with this number.
    NO_DEVICE = 14,
    /// The library was built without CUDA kernels.
    KERNELS_NOT_BUILT = 15,
    /// None of the kernels runs on this device.
    NO_KERNEL_IMAGE = 16,
    /// cuBLASLt was requested, but cannot be loaded.
    NO_CUBLASLT = 17,
    /// A handle belongs to another context.
    OTHER_BACKEND = 18,
    /// The CUDA driver or cuBLASLt reports an error.
    CUDA = 19,
    /// The call waits for the device or allocates, and the stream is being captured.
    RECORDING = 20,
    /// The loss or a gradient of a step is infinite or NaN.
    NON_FINITE = 21,
    /// Worker threads could not be started.
    THREAD_POOL = 22,
    /// A pointer is null that must not be.
    NULL_POINTER = 100,
    /// A pointer is not aligned for its elements.
    MISALIGNED = 101,
    /// The `struct_size` of a struct is not valid, or the struct has fields that this version of
    /// the library does not know.
    STRUCT_SIZE = 102,
    /// A mistake in the library, which has been caught. The contents of outputs are unspecified.
    PANIC = 103,
    /// An error of a kind that this version of the C interface does not know.
    OTHER = 104,
}

/// The result of a call inside the library.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// An error of a call.
#[derive(Debug)]
pub(crate) enum Error {
    /// An error of an op, a backend or memory.
    Core(bagdot::Error),
    /// Another error: its status and its message.
    Interface(bagdot_status, String),
}

impl From<bagdot::Error> for Error {
    fn from(error: bagdot::Error) -> Self {
        Self::Core(error)
    }
}

impl Error {
    /// Makes the error for an argument whose value is not valid.
    pub(crate) fn invalid(op: &str, argument: &str, reason: impl std::fmt::Display) -> Self {
        Self::Interface(bagdot_status::INVALID_ARGUMENT, format!("{op}: {argument}: {reason}"))
    }

    pub(crate) fn null(op: &str, argument: &str) -> Self {
        Self::Interface(bagdot_status::NULL_POINTER, format!("{op}: {argument} is null"))
    }

    /// Returns the status of the error.
    fn status(&self) -> bagdot_status {
        use bagdot::Error as Core;
        use bagdot_status as Status;
        match self {
            Self::Interface(status, _) => *status,
            Self::Core(error) => match error {
                Core::ShapeMismatch { .. } => Status::SHAPE_MISMATCH,
                Core::TooSmall { .. } => Status::TOO_SMALL,
                Core::InvalidArgument { .. } => Status::INVALID_ARGUMENT,
                Core::InvalidOffsets { .. } => Status::INVALID_OFFSETS,
                Core::IndexOutOfRange { .. } => Status::INDEX_OUT_OF_RANGE,
                Core::LabelOutOfRange { .. } => Status::LABEL_OUT_OF_RANGE,
                Core::TensorMissing { .. } => Status::TENSOR_MISSING,
                Core::TensorShape { .. } => Status::TENSOR_SHAPE,
                Core::DTypeMismatch { .. } => Status::DTYPE_MISMATCH,
                Core::OutOfMemory { .. } => Status::OUT_OF_MEMORY,
                Core::NotEnoughMemory { .. } => Status::NOT_ENOUGH_MEMORY,
                Core::NoDriver => Status::NO_DRIVER,
                Core::DriverTooOld { .. } => Status::DRIVER_TOO_OLD,
                Core::NoDevice { .. } => Status::NO_DEVICE,
                Core::KernelsNotBuilt => Status::KERNELS_NOT_BUILT,
                Core::NoKernelImage { .. } => Status::NO_KERNEL_IMAGE,
                Core::NoCublasLt { .. } => Status::NO_CUBLASLT,
                Core::OtherBackend => Status::OTHER_BACKEND,
                Core::Cuda { .. } => Status::CUDA,
                Core::Recording { .. } => Status::RECORDING,
                Core::NonFinite { .. } => Status::NON_FINITE,
                Core::ThreadPool { .. } => Status::THREAD_POOL,
                _ => Status::OTHER,
            },
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Core(error) => error.fmt(f),
            Self::Interface(_, message) => f.write_str(message),
        }
    }
}

/// The fields of a bad id, filled by bagdot_last_bad_id().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_bad_id {
    /// `sizeof(bagdot_bad_id)`, set by the caller.
    pub struct_size: u32,
    /// The table that was looked up.
    pub table: u32,
    /// The bag, key-major: `feature * batch_size + sample`.
    pub bag: u64,
    /// The position in the ids.
    pub position: u64,
    /// The id that was found there.
    pub value: i64,
    /// The number of rows of the table.
    pub rows: u64,
    /// The number of bad ids of the call; the other fields describe the one with the lowest
    /// position.
    pub count: u64,
    /// The name of the op, a string of the library that stays valid until the next failed call of
    /// the thread.
    pub op: *const c_char,
}

c_structs! { bagdot_bad_id }

/// The last failed call of a thread.
#[derive(Default)]
struct Last {
    message: CString,
    /// The op of the bad id.
    op: CString,
    bad_id: Option<bagdot_bad_id>,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
}

/// Makes a C string of a text. A text of this library contains no NUL; texts that may, such as the
/// payload of a panic, lose what follows it.
fn c_string(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

/// Notes an error as the last one of this thread.
fn note(error: &Error) -> bagdot_status {
    let mut last = Last { message: c_string(&error.to_string()), ..Last::default() };
    if let Error::Core(bagdot::Error::IndexOutOfRange {
        op,
        table,
        bag,
        position,
        value,
        num_embeddings,
        count,
    }) = *error
    {
        last.op = c_string(op);
        last.bad_id = Some(bagdot_bad_id {
            struct_size: size_of::<bagdot_bad_id>() as u32,
            table: table as u32,
            bag: bag as u64,
            position: position as u64,
            value,
            rows: num_embeddings as u64,
            count: count as u64,
            op: last.op.as_ptr(),
        });
    }
    // A thread that is ending has no last error.
    let _ = LAST.try_with(|slot| slot.replace(last));
    error.status()
}

/// Runs the body of a function of the C interface. Notes its error, and turns a panic into
/// [`bagdot_status::PANIC`].
pub(crate) fn guard(body: impl FnOnce() -> Result<()>) -> i32 {
    // The caller is told that outputs are unspecified, and locks that a panic has poisoned are
    // taken nevertheless: their contents are replaced as a whole.
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let reason = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("unknown");
        let message = format!("a mistake in bagdot, please report it: {reason}");
        Err(Error::Interface(bagdot_status::PANIC, message))
    });
    match result {
        Ok(()) => bagdot_status::OK as i32,
        Err(error) => note(&error) as i32,
    }
}

/// Returns the message of the last call of this thread that failed, an empty string if none has.
/// The string belongs to the library and stays valid until the next failed call of the thread.
#[unsafe(no_mangle)]
pub extern "C" fn bagdot_last_error_message() -> *const c_char {
    LAST.try_with(|last| last.borrow().message.as_ptr()).unwrap_or(c"".as_ptr())
}

/// Gets the fields of the bad id that the last failed call of this thread has reported with
/// `BAGDOT_STATUS_INDEX_OUT_OF_RANGE`. After another error, returns
/// `BAGDOT_STATUS_INVALID_ARGUMENT` and leaves message and fields as they are.
///
/// # Safety
/// `bad_id` points to a `bagdot_bad_id` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_last_bad_id(bad_id: *mut bagdot_bad_id) -> i32 {
    let found = LAST.try_with(|last| last.borrow().bad_id).ok().flatten();
    let Some(found) = found else { return bagdot_status::INVALID_ARGUMENT as i32 };
    // SAFETY: the caller passes a struct whose size is set.
    guard(|| unsafe { write_struct("bagdot_last_bad_id", bad_id, found) })
}

/// Returns the name of a status, such as "INDEX_OUT_OF_RANGE"; "unknown" for other numbers.
#[unsafe(no_mangle)]
pub extern "C" fn bagdot_status_name(status: i32) -> *const c_char {
    macro_rules! names {
        ($($name:ident)*) => {
            match status {
                $(code if code == bagdot_status::$name as i32 => {
                    concat!(stringify!($name), "\0").as_ptr().cast()
                })*
                _ => c"unknown".as_ptr(),
            }
        };
    }
    names!(
        OK SHAPE_MISMATCH TOO_SMALL INVALID_ARGUMENT INVALID_OFFSETS INDEX_OUT_OF_RANGE
        LABEL_OUT_OF_RANGE TENSOR_MISSING TENSOR_SHAPE DTYPE_MISMATCH OUT_OF_MEMORY
        NOT_ENOUGH_MEMORY NO_DRIVER DRIVER_TOO_OLD NO_DEVICE KERNELS_NOT_BUILT NO_KERNEL_IMAGE
        NO_CUBLASLT OTHER_BACKEND CUDA RECORDING NON_FINITE THREAD_POOL NULL_POINTER MISALIGNED
        STRUCT_SIZE PANIC OTHER
    )
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn message() -> String {
        // SAFETY: the message is a C string, which stays until the next failed call of this thread.
        unsafe { CStr::from_ptr(bagdot_last_error_message()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(message(), "");
        assert_eq!(guard(|| panic!("row {}", 7)), bagdot_status::PANIC as i32);
        assert_eq!(message(), "a mistake in bagdot, please report it: row 7");
        // A success changes nothing, and another thread has errors of its own.
        assert_eq!(guard(|| Ok(())), 0);
        assert!(message().ends_with("row 7"));
        assert_eq!(std::thread::spawn(message).join().unwrap(), "");
    }

    #[test]
    fn a_bad_id_has_fields_until_the_next_error() {
        let error = bagdot::Error::IndexOutOfRange {
            op: "index_sort",
            table: 2,
            bag: 3,
            position: 5,
            value: -7,
            num_embeddings: 11,
            count: 13,
        };
        let found = || {
            let mut found = std::mem::MaybeUninit::<bagdot_bad_id>::zeroed();
            // SAFETY: the struct has its size, and any bits are a value of it.
            unsafe {
                (*found.as_mut_ptr()).struct_size = size_of::<bagdot_bad_id>() as u32;
                (bagdot_last_bad_id(found.as_mut_ptr()), found.assume_init())
            }
        };
        assert_eq!(guard(|| Err(error.into())), 5);
        let (status, bad) = found();
        assert_eq!(status, 0);
        assert_eq!((bad.table, bad.bag, bad.position, bad.value), (2, 3, 5, -7));
        assert_eq!((bad.rows, bad.count), (11, 13));
        // SAFETY: the name is a C string until the next error.
        assert_eq!(unsafe { CStr::from_ptr(bad.op) }, c"index_sort");
        assert_eq!(guard(|| Err(Error::null("op", "argument"))), 100);
        assert_eq!(found().0, bagdot_status::INVALID_ARGUMENT as i32);
        assert_eq!(message(), "op: argument is null");
    }
}
