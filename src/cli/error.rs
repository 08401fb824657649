//! The errors of commands.

use crate::train::TrainError;

/// The reasons for which a command ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("cannot write {name}: {source}")]
    Output { name: String, source: std::io::Error },
    #[error("{0}")]
    Usage(String),
    /// The rows cannot teach a model anything.
    #[error("{0}")]
    NothingToLearn(String),
    /// The program was asked to end by a signal.
    #[error("{said}")]
    Signal { signal: u8, said: String },
}

impl From<crate::Error> for CliError {
    fn from(error: crate::Error) -> Self {
        Self::Train(error.into())
    }
}

impl From<crate::data::DataError> for CliError {
    fn from(error: crate::data::DataError) -> Self {
        Self::Train(error.into())
    }
}

/// The result of a command.
pub(super) type CliResult = Result<(), CliError>;
