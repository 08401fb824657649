//! What can go wrong in an op, a backend or the engine.

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
        /// Which argument, and which of its sizes.
        argument: &'static str,
        /// The size that the other arguments call for.
        expected: usize,
        /// The size that was passed.
        got: usize,
    },
    /// A buffer holds fewer elements than the op will touch.
    #[error("{op}: {argument} holds {got} elements, but {needed} are needed")]
    TooSmall {
        /// The op that was called.
        op: &'static str,
        /// Which argument.
        argument: &'static str,
        /// The number of elements that the op will touch.
        needed: usize,
        /// The number of elements that were passed.
        got: usize,
    },
    /// An argument has a value that the op has no meaning for.
    #[error("{op}: {argument}: {reason}")]
    InvalidArgument {
        /// The op that was called.
        op: &'static str,
        /// Which argument.
        argument: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// Offsets must start at 0, never decrease, and end at the number of indices.
    #[error("offsets[{position}] is {value}, but must be {rule}")]
    InvalidOffsets {
        /// The position in `offsets`.
        position: usize,
        /// The value that stands there.
        value: i64,
        /// The rule that it breaks.
        rule: OffsetRule,
    },
    /// An id names no row of its table. Entries with valid ids have been processed as usual; this
    /// one contributed nothing.
    #[error(
        "index {value} is out of range for table {table} with {num_embeddings} rows \
         (bag {bag}, position {position} of indices; {count} bad in this call)"
    )]
    IndexOutOfRange {
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
        /// How many ids of this call were out of range; the other fields name the first.
        count: usize,
    },
    /// A label is not in [0, 1], or not a number. Samples with valid labels have been processed as
    /// usual; this one contributed nothing.
    #[error("label {value} at position {position} is not in [0, 1] ({count} bad in this call)")]
    LabelOutOfRange {
        /// The position in `labels`.
        position: usize,
        /// The label that was found there.
        value: f32,
        /// The number of labels of this call that were out of range; the other fields describe the
        /// first.
        count: usize,
    },
    /// A tensor that the model has is not in the source.
    #[error("tensor {name} is missing")]
    TensorMissing {
        /// The name of the tensor.
        name: String,
    },
    /// A tensor has another shape than the model's.
    #[error("tensor {name} has the shape {got:?}, not {expected:?}")]
    TensorShape {
        /// The name of the tensor.
        name: String,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The shape that it has.
        got: Vec<usize>,
    },
    /// A tensor has another element type than the one asked for.
    #[error("{tensor} holds {got}, not {expected}")]
    DTypeMismatch {
        /// The name of the tensor.
        tensor: String,
        /// The element type that was asked for.
        expected: DType,
        /// The element type that it has.
        got: DType,
    },
    /// There is no memory left for a buffer.
    #[error("cannot get {} bytes of memory", AtLeast(*.bytes))]
    OutOfMemory {
        /// The size of the buffer; the largest number for that many or more.
        bytes: usize,
    },
    /// More memory is needed than there is. It has not been asked for.
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
    /// The CUDA driver is older than what the kernels need.
    #[error("the CUDA driver supports CUDA {}.{}, but {}.{} is needed: update it, or use the CPU", .found / 1000, .found % 1000 / 10, .required / 1000, .required % 1000 / 10)]
    DriverTooOld {
        /// What is needed: `1000 major + 10 minor`.
        required: i32,
        /// What the driver supports.
        found: i32,
    },
    /// There is no CUDA device with this number.
    #[error("no CUDA device {device}: there are {devices}")]
    NoDevice {
        /// The number that was asked for.
        device: usize,
        /// How many devices there are.
        devices: usize,
    },
    /// This library was built without nvcc, and so without kernels.
    #[error(
        "built without CUDA kernels: run scripts/nvcc.sh (or set NVCC or CUDA_HOME) and build again"
    )]
    KernelsNotBuilt,
    /// None of the compiled kernels runs on this device.
    #[error("no kernels for compute capability {}.{}: 8.0 is the least", .capability.0, .capability.1)]
    NoKernelImage {
        /// The device's compute capability.
        capability: (u32, u32),
    },
    /// cuBLASLt was asked for, and cannot be loaded.
    #[error(
        "no cuBLASLt: {reason} (put it where the loader looks, as LD_LIBRARY_PATH says, or choose own kernels)"
    )]
    NoCublasLt {
        /// What was looked for, and why it cannot be loaded.
        reason: String,
    },
    /// Memory, tables or a recording of one CUDA backend were passed to another one. The contents
    /// of the op's outputs are unspecified.
    #[error(
        "memory of another CUDA backend: use it with the backend that allocated it, or with a clone of that, or copy it \
         by way of the host"
    )]
    OtherBackend,
    /// The CUDA driver, or cuBLASLt, reports an error. Launches do not wait, so it may come from
    /// work that was launched before.
    #[error("CUDA failed to {during}: {message}")]
    Cuda {
        /// What was tried.
        during: &'static str,
        /// The driver's code (`CUresult`), or that of cuBLASLt (`cublasStatus_t`).
        code: i32,
        /// Its name, and the driver's text for it.
        message: String,
    },
    /// A batch was to be sent to the device while ops are recorded there. Nothing has changed, and
    /// the recording goes on.
    #[error(
        "{op}: a batch cannot be sent while ops are recorded: send it before, and record the ops that read it"
    )]
    Recording {
        /// The operation that was called.
        op: &'static str,
    },
    /// The loss or a gradient of a step is infinite or not a number: neither that step nor any
    /// after it has changed anything.
    #[error("step {step}: the loss or a gradient is not finite")]
    NonFinite {
        /// The number of the step, from 1.
        step: u64,
    },
    /// The thread pool of the CPU backend could not be started.
    #[error("cannot start {threads} worker threads: {reason}")]
    ThreadPool {
        /// The number of threads that was asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
}

/// A number of bytes, of which the largest one stands for all that are larger.
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
    /// The first offset is 0.
    FirstIsZero,
    /// No offset is smaller than the one before it, which is named here.
    NotBelow(i64),
    /// The last offset is the number of indices, which is named here.
    LastIs(usize),
    /// A length is not negative.
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

/// `Ok` if the sizes agree, else the error that names the op and the argument.
pub(crate) fn expect_size(
    op: &'static str,
    argument: &'static str,
    got: usize,
    expected: usize,
) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::ShapeMismatch { op, argument, expected, got }) }
}

/// `Ok` if the buffer is large enough, else the error that names the op and the argument.
pub(crate) fn expect_at_least(
    op: &'static str,
    argument: &'static str,
    got: usize,
    needed: usize,
) -> Result<()> {
    if got >= needed { Ok(()) } else { Err(Error::TooSmall { op, argument, needed, got }) }
}

/// The error for an argument whose value has no meaning.
pub(crate) fn invalid(
    op: &'static str,
    argument: &'static str,
    reason: impl Into<String>,
) -> Error {
    Error::InvalidArgument { op, argument, reason: reason.into() }
}
