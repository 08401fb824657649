//! The result codes of the driver API.

use std::ffi::CStr;

use crate::device::LaunchError;
use crate::fault::FaultKind;

/// A `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub(super) i32);

macro_rules! codes {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl Code {
            $(pub(super) const $name: Code = Code($value);)*
        }

        /// Returns the name and the text of a code.
        pub(super) fn describe(code: i32) -> Option<(&'static CStr, &'static CStr)> {
            const fn c(text: &'static str) -> &'static CStr {
                match CStr::from_bytes_with_nul(text.as_bytes()) {
                    Ok(text) => text,
                    Err(_) => c"",
                }
            }
            match code {
                $($value => Some((
                    const { c(concat!("CUDA_", stringify!($name), "\0")) },
                    const { c(concat!($text, "\0")) },
                )),)*
                _ => None,
            }
        }
    };
}

codes! {
    SUCCESS = 0, "no error";
    ERROR_INVALID_VALUE = 1, "invalid argument";
    ERROR_OUT_OF_MEMORY = 2, "out of memory";
    ERROR_NOT_INITIALIZED = 3, "initialization error";
    ERROR_NO_DEVICE = 100, "no CUDA-capable device is detected";
    ERROR_INVALID_DEVICE = 101, "invalid device ordinal";
    ERROR_INVALID_IMAGE = 200, "device kernel image is invalid";
    ERROR_INVALID_CONTEXT = 201, "invalid device context";
    ERROR_NO_BINARY_FOR_GPU = 209, "no kernel image is available for execution on the device";
    ERROR_INVALID_PTX = 218, "a PTX JIT compilation failed";
    ERROR_UNSUPPORTED_PTX_VERSION = 222,
        "the provided PTX was compiled with an unsupported toolchain.";
    ERROR_FILE_NOT_FOUND = 301, "file not found";
    ERROR_INVALID_HANDLE = 400, "invalid resource handle";
    ERROR_ILLEGAL_STATE = 401, "the operation cannot be performed in the present state";
    ERROR_NOT_FOUND = 500, "named symbol not found";
    ERROR_NOT_READY = 600, "device not ready";
    ERROR_ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered";
    ERROR_LAUNCH_OUT_OF_RESOURCES = 701, "too many resources requested for launch";
    ERROR_LAUNCH_TIMEOUT = 702, "the launch timed out and was terminated";
    ERROR_ILLEGAL_INSTRUCTION = 715, "an illegal instruction was encountered";
    ERROR_MISALIGNED_ADDRESS = 716, "misaligned address";
    ERROR_LAUNCH_FAILED = 719, "unspecified launch failure";
    ERROR_NOT_SUPPORTED = 801, "operation not supported";
    ERROR_STREAM_CAPTURE_UNSUPPORTED = 900, "operation not permitted when stream is capturing";
    ERROR_STREAM_CAPTURE_INVALIDATED = 901,
        "operation failed due to a previous error during capture";
    ERROR_STREAM_CAPTURE_MERGE = 902,
        "operation would result in a merge of separate capture sequences";
    ERROR_STREAM_CAPTURE_UNMATCHED = 903, "capture was not ended in the same stream as it began";
    ERROR_STREAM_CAPTURE_UNJOINED = 904, "capturing stream has unjoined work";
    ERROR_STREAM_CAPTURE_ISOLATION = 905, "dependency created on uncaptured work in another stream";
    ERROR_STREAM_CAPTURE_IMPLICIT = 906,
        "operation would make the legacy stream depend on a capturing blocking stream";
    ERROR_CAPTURED_EVENT = 907,
        "operation not permitted on an event last recorded in a capturing stream";
    ERROR_STREAM_CAPTURE_WRONG_THREAD = 908,
        "attempt to terminate a thread-local capture sequence from another thread";
}

impl Code {
    /// Returns the result that a C function has returned as a code.
    pub(super) fn of(answer: i32) -> Result<()> {
        if answer == 0 { Ok(()) } else { Err(Self(answer)) }
    }
}

impl From<&LaunchError> for Code {
    /// Returns the code with which a driver reports such a launch.
    fn from(error: &LaunchError) -> Self {
        let faults = match error {
            LaunchError::Faults(faults) => faults,
            LaunchError::Grid { resources: true, .. } => {
                return Self::ERROR_LAUNCH_OUT_OF_RESOURCES;
            }
            LaunchError::UnknownKernel(_) => return Self::ERROR_INVALID_HANDLE,
            _ => return Self::ERROR_INVALID_VALUE,
        };
        let code = |kind| match kind {
            FaultKind::OutOfBounds | FaultKind::UseAfterFree => Some(Self::ERROR_ILLEGAL_ADDRESS),
            FaultKind::Misaligned => Some(Self::ERROR_MISALIGNED_ADDRESS),
            FaultKind::StepLimit => Some(Self::ERROR_LAUNCH_TIMEOUT),
            FaultKind::UnknownOpcode => Some(Self::ERROR_ILLEGAL_INSTRUCTION),
            _ => None,
        };
        faults.iter().find_map(|fault| code(fault.kind)).unwrap_or(Self::ERROR_LAUNCH_FAILED)
    }
}

pub(super) type Result<T> = std::result::Result<T, Code>;

/// Returns the code of a result, as the C functions return it.
pub(super) fn answer(result: Result<()>) -> i32 {
    match result {
        Ok(()) => Code::SUCCESS.0,
        Err(code) => code.0,
    }
}
