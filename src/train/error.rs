//! What can go wrong between a configuration file and a kept model.

use std::path::{Path, PathBuf};

use crate::data::DataError;
use crate::nn::MemoryPlan;

/// The result of every fallible call of this module.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// An error of training, evaluation or prediction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The configuration file does not say what it must.
    #[error("{}: {message}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong, with line and column where they are known, and what would be right.
        message: String,
    },
    /// A file of a model directory could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A model directory, or a file in it, is not what it must be.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Another run of training writes into the model directory.
    #[error("another training ({holder}) writes into {}: wait for it, or choose another directory with --out", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Who that is, such as `process 1234`.
        holder: String,
    },
    /// The loss or a gradient of a batch is not a number, or infinite. The last checkpoint is
    /// intact.
    #[error(
        "epoch {epoch}, batch {batch}: the loss is {loss}, and it or a gradient is not finite; a lower learning rate or `max_gradient` may help, \
         and `non_finite = \"skip-step\"` goes on without such batches"
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
    /// The device has not as much memory as training or predicting takes.
    #[error("{source}; what takes memory is about\n{plan}")]
    OutOfMemory {
        /// The error of the engine, which tells how much memory was needed.
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

/// Makes an [`TrainError::Io`] of what the system said.
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

/// Adds to an error of the engine that there is no memory left what takes memory.
pub(super) fn out_of_memory(plan: &MemoryPlan) -> impl Fn(TrainError) -> TrainError + '_ {
    |error| match error {
        TrainError::Engine(
            source @ (crate::Error::OutOfMemory { .. } | crate::Error::NotEnoughMemory { .. }),
        ) => TrainError::OutOfMemory { source, plan: plan.clone() },
        other => other,
    }
}
