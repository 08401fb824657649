//! The errors of ops, backends and the engine.

use crate::dtype::DType;

/// The result of every fallible call of the library's core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an op, a backend or the engine. Nothing has been written when `validate` reports
/// one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer or dimension does not have the size that the other arguments call for.
    #[error("{op}: {argument} is {got}, but must be {expected}")]
    ShapeMismatch {
        /// The op that was called.
        op: &'static str,
        /// The argument, and which of its sizes.
        argument: &'static str,
        /// The size that the other arguments call for.
        expected: usize,
        /// The size that was passed.
        got: usize,
    },
    /// A buffer holds fewer elements than the op accesses.
    #[error("{op}: {argument} holds {got} elements, but {needed} are needed")]
    TooSmall {
        /// The op that was called.
        op: &'static str,
        /// The argument.
        argument: &'static str,
        /// The number of elements that the op accesses.
        needed: usize,
        /// The number of elements that were passed.
        got: usize,
    },
    /// An argument has a value that is not valid for the op.
    #[error("{op}: {argument}: {reason}")]
    InvalidArgument {
        /// The op that was called.
        op: &'static str,
        /// The argument.
        argument: &'static str,
        /// The mistake, and the values that are valid.
        reason: String,
    },
    /// The offsets break a rule: they must start at 0, never decrease, and end at the number of
    /// indices.
    #[error("{op}: offsets[{position}] is {value}, but must be {rule}")]
    InvalidOffsets {
        /// The op that was called, or the type that took the offsets.
        op: &'static str,
        /// The position in `offsets`.
        position: usize,
        /// The value at that position.
        value: i64,
        /// The rule that it breaks.
        rule: OffsetRule,
    },
    /// An id is not a row of its table. Entries with valid ids have been processed as usual, and
    /// this one contributed nothing.
    #[error(
        "{op}: index {value} is out of range for table {table} with {num_embeddings} rows \
         (bag {bag}, position {position} of indices; {count} bad in this call)"
    )]
    IndexOutOfRange {
        /// The op that was called.
        op: &'static str,
        /// The table that was looked up.
        table: usize,
        /// The bag, key-major: `feature * batch_size + sample`.
        bag: usize,
        /// The position in `indices`.
        position: usize,
        /// The id that was found there.
        value: i64,
        /// The number of rows of the table.
        num_embeddings: usize,
        /// The number of ids of this call that were out of range; the other fields describe the
        /// first.
        count: usize,
    },
    /// A label is NaN or not in [0, 1]. Samples with valid labels have been processed as usual, and
    /// this one contributed nothing.
    #[error(
        "{op}: label {value} at position {position} is not in [0, 1] ({count} bad in this call)"
    )]
    LabelOutOfRange {
        /// The op that was called.
        op: &'static str,
        /// The position in `labels`.
        position: usize,
        /// The label that was found there.
        value: f32,
        /// The number of labels of this call that were out of range; the other fields describe the
        /// first.
        count: usize,
    },
    /// A tensor of the model is not in the source.
    #[error("tensor {name} is missing")]
    TensorMissing {
        /// The name of the tensor.
        name: String,
    },
    /// A tensor has another shape than that of the model.
    #[error("tensor {name} has the shape {got:?}, not {expected:?}")]
    TensorShape {
        /// The name of the tensor.
        name: String,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The shape that it has.
        got: Vec<usize>,
    },
    /// A tensor has another element type than the requested one.
    #[error("{tensor} holds {got}, not {expected}")]
    DTypeMismatch {
        /// The name of the tensor.
        tensor: String,
        /// The requested element type.
        expected: DType,
        /// The element type that it has.
        got: DType,
    },
    /// An allocation failed for lack of memory.
    #[error("cannot get {} bytes of memory", AtLeast(*.bytes))]
    OutOfMemory {
        /// The size of the buffer in bytes; the largest number stands for that many or more.
        bytes: usize,
    },
    /// An allocation needs more memory than is free, and has not been tried.
    #[error("{} bytes of memory are needed, but {free} are free", AtLeast(*.needed))]
    NotEnoughMemory {
        /// The memory that is needed, in bytes; the largest number stands for that many or more.
        needed: usize,
        /// The memory that the device can still provide, in bytes.
        free: usize,
    },
    /// There is no CUDA driver on this machine.
    #[error("no CUDA driver (libcuda) on this machine: install one, or use the CPU")]
    NoDriver,
    /// The CUDA driver lacks functions that are called.
    #[error(
        "the CUDA driver supports CUDA {}.{}, but {}.{} is needed: update it, or use the CPU",
        .found / 1000,
        .found % 1000 / 10,
        .required / 1000,
        .required % 1000 / 10
    )]
    DriverTooOld {
        /// The version of CUDA that is needed: `1000 major + 10 minor`.
        required: i32,
        /// The version of CUDA that the driver supports, in the same encoding.
        found: i32,
    },
    /// There is no CUDA device with this number.
    #[error("no CUDA device {device}: there are {devices}")]
    NoDevice {
        /// The requested number.
        device: usize,
        /// The number of devices.
        devices: usize,
    },
    /// The library was built without nvcc, and therefore without kernels.
    #[error(
        "built without CUDA kernels: run scripts/nvcc.sh (or set NVCC or CUDA_HOME) and build again"
    )]
    KernelsNotBuilt,
    /// None of the compiled kernels runs on this device.
    #[error(
        "GPUs of compute capability {}.{} are not supported: 8.0 is the least; use the CPU",
        .capability.0,
        .capability.1
    )]
    NoKernelImage {
        /// The device's compute capability: major and minor.
        capability: (u32, u32),
    },
    /// cuBLASLt was requested, but cannot be loaded.
    #[error(
        "no cuBLASLt: {reason} \
         (put it where the loader looks, as LD_LIBRARY_PATH says, or choose own kernels)"
    )]
    NoCublasLt {
        /// The names that were tried, and why loading failed.
        reason: String,
    },
    /// An op got memory, tables or a recording of another CUDA backend. The contents of its outputs
    /// are unspecified.
    #[error(
        "memory of another CUDA backend: use it with the backend that allocated it, \
         or with a clone of that, or copy it by way of the host"
    )]
    OtherBackend,
    /// The CUDA driver or cuBLASLt reports an error. Launches are asynchronous, so that it may come
    /// from earlier work.
    #[error("CUDA failed to {during}: {message}")]
    Cuda {
        /// The operation that failed.
        during: &'static str,
        /// The code of the driver (`CUresult`) or of cuBLASLt (`cublasStatus_t`).
        code: i32,
        /// The name of the code, and its description.
        message: String,
    },
    /// A call waits for the device, allocates, or sends a batch while ops are recorded on its
    /// stream.
    /// Nothing has changed, and the recording continues.
    #[error(
        "{op}: refused while ops are recorded on the stream, since it waits or allocates: \
         call it before or after"
    )]
    Recording {
        /// The operation that was called.
        op: &'static str,
    },
    /// The loss or a gradient of a step is infinite or NaN. Neither that step nor any later one has
    /// changed anything.
    #[error("step {step}: the loss or a gradient is not finite")]
    NonFinite {
        /// The number of the step, from 1.
        step: u64,
    },
    /// The thread pool of the CPU backend could not be started.
    #[error("cannot start {threads} worker threads: {reason}")]
    ThreadPool {
        /// The requested number of threads.
        threads: usize,
        /// The reason that the system gives.
        reason: String,
    },
}

/// A number of bytes for an error message: the largest number stands for all larger ones.
pub(crate) struct AtLeast(pub(crate) usize);

impl std::fmt::Display for AtLeast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            usize::MAX => f.pad("2^64 or more"),
            bytes => bytes.fmt(f),
        }
    }
}

/// The rule that an entry of `offsets` breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetRule {
    /// The first offset must be 0.
    FirstIsZero,
    /// An offset must not be smaller than the previous one, which is given here.
    NotBelow(i64),
    /// The last offset must be the number of indices, which is given here.
    LastIs(usize),
    /// A length must not be negative.
    NotNegative,
}

impl std::fmt::Display for OffsetRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FirstIsZero => f.write_str("0 (the first bag starts at the first index)"),
            Self::NotBelow(previous) => write!(f, "at least {previous}, the offset before it"),
            Self::LastIs(indices) => write!(f, "{indices}, the number of indices"),
            Self::NotNegative => f.write_str("a length of 0 or more"),
        }
    }
}

/// Checks that the sizes are equal. The error names the op and the argument.
pub(crate) fn expect_size(
    op: &'static str,
    argument: &'static str,
    got: usize,
    expected: usize,
) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::ShapeMismatch { op, argument, expected, got }) }
}

/// Checks that the buffer is large enough. The error names the op and the argument.
pub(crate) fn expect_at_least(
    op: &'static str,
    argument: &'static str,
    got: usize,
    needed: usize,
) -> Result<()> {
    if got >= needed { Ok(()) } else { Err(Error::TooSmall { op, argument, needed, got }) }
}

/// Makes the error for an argument whose value is not valid.
pub(crate) fn invalid(
    op: &'static str,
    argument: &'static str,
    reason: impl Into<String>,
) -> Error {
    Error::InvalidArgument { op, argument, reason: reason.into() }
}
