//! The errors of the ops.

use candle_core::{DType, DeviceLocation};

/// An error of an op. It becomes an error of candle by `?`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of bagdot, such as an id that is not in its table, with its fields.
    #[error(transparent)]
    Bagdot(#[from] bagdot::Error),
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A device for which bagdot has no ops.
    #[error(
        "no ops for {location:?}: bagdot has some for the CPU, and with the feature `cuda` for CUDA"
    )]
    Device {
        /// The device.
        location: DeviceLocation,
    },
    /// A tensor whose elements have a type that the op does not take.
    #[error("{argument}: elements of {dtype:?}, which the op does not take")]
    Type {
        /// The argument.
        argument: &'static str,
        /// The type of its elements.
        dtype: DType,
    },
    /// An argument that is wrong in another way.
    #[error("{argument}: {reason}")]
    Argument {
        /// The argument.
        argument: &'static str,
        /// The value, and the one that is needed.
        reason: String,
    },
    /// A thread has panicked while it changed the tables.
    #[error("a thread panicked in an op on these tables, which may have half a step")]
    Poisoned,
    /// The op was applied a second time; the first time took its output.
    #[error("the op was applied twice")]
    Reused,
}

impl Error {
    /// Makes the error of an argument.
    pub(crate) fn argument(argument: &'static str, reason: String) -> Self {
        Self::Argument { argument, reason }
    }
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => Self::wrap(other),
        }
    }
}

/// A result of an op.
pub type Result<T> = std::result::Result<T, Error>;
