//! The errors of training, evaluation and prediction.

use std::path::{Path, PathBuf};

use crate::data::DataError;
use crate::nn::MemoryPlan;

/// The result of every fallible call of this module.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// An error of training, evaluation or prediction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The configuration file is invalid.
    #[error("{}: {message}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The fault, with line and column where they are known, and the remedy.
        message: String,
    },
    /// A file of a model directory could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The action that failed.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A model directory, or a file in it, is invalid.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The directory or file.
        path: PathBuf,
        /// The fault, and the remedy.
        reason: String,
    },
    /// Another run of training writes into the model directory.
    #[error(
        "another training ({holder}) writes into {}: wait for it, or choose another directory \
         with --out",
        path.display()
    )]
    Busy {
        /// The directory.
        path: PathBuf,
        /// The other run, such as `process 1234`.
        holder: String,
    },
    /// The loss or a gradient of a batch is infinite or not a number. The last checkpoint is
    /// intact.
    #[error(
        "epoch {epoch}, batch {batch}: the loss is {loss}, and it or a gradient is not finite; a \
         lower learning rate or `max_gradient` may help, and \
         `non_finite = \"skip-step\"` goes on without such batches"
    )]
    NonFinite {
        /// The epoch, from 1.
        epoch: u32,
        /// The batch within the epoch, from 1.
        batch: u64,
        /// The loss.
        loss: f64,
    },
    /// Training was asked to stop, and did, after writing a checkpoint.
    #[error("stopped in epoch {epoch}; continue with --resume")]
    Interrupted {
        /// The epoch, from 1.
        epoch: u32,
    },
    /// The device has less memory than training or predicting needs.
    #[error("{source}; what takes memory is about\n{plan}")]
    OutOfMemory {
        /// The error of the engine, which names the amount of memory that was needed.
        source: crate::Error,
        /// The parts of training or predicting that take memory, with their sizes.
        plan: MemoryPlan,
    },
    /// Reading or encoding data failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] crate::Error),
}

/// Makes a [`TrainError::Io`] of an error of the system.
pub(super) fn io_error<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> TrainError + 'a {
    move |source| TrainError::Io { doing, path: path.into(), source }
}

/// Makes a [`TrainError::Model`].
pub(super) fn model_error(path: &Path, reason: impl Into<String>) -> TrainError {
    TrainError::Model { path: path.into(), reason: reason.into() }
}

/// Adds the memory plan to an error of the engine about a lack of memory; returns other errors
/// unchanged.
pub(super) fn out_of_memory(plan: &MemoryPlan) -> impl Fn(TrainError) -> TrainError + '_ {
    |error| match error {
        TrainError::Engine(
            source @ (crate::Error::OutOfMemory { .. } | crate::Error::NotEnoughMemory { .. }),
        ) => TrainError::OutOfMemory { source, plan: plan.clone() },
        other => other,
    }
}
