//! Trains a model on encoded rows: configuration, training loop, metrics, checkpoints, report.
//!
//! Nothing here writes to a terminal: an [`Observer`] receives the events.
#![forbid(unsafe_code)]

mod chart;
mod config;
mod dropout;
mod error;
mod files;
mod groups;
mod importance;
mod interchange;
mod keys;
mod manifest;
mod memory;
mod metrics;
mod model;
mod model_dir;
mod optimizer;
mod pending_results;
mod protobuf;
mod published;
mod record;
mod report;
mod tensor_file;
mod tensorboard;
mod trainer;
mod validate;
mod workload;

pub use config::{
    Config, EvaluateEvery, InteractionKind, ModelConfig, PrecisionKind, Selection, TrainConfig,
};
pub use error::{Result, TrainError};
#[cfg(feature = "cli")]
pub(crate) use files::parent_of;
pub use groups::{GroupAuc, Groups, Segment};
pub use importance::ColumnImportance;
pub use interchange::{Dialect, EncodedRows, Import, Onnx, OnnxWeights, Parameters, StoredModel};
pub use manifest::{FileEntry, Manifest, Progress};
pub use memory::memory_of;
pub use metrics::{Metrics, Predictions};
pub use model::{Scored, TrainedModel};
pub use model_dir::{ModelDir, RunDir};
pub use optimizer::{GroupConfig, Kind, ScheduleConfig};
pub use published::PublishedModel;
pub use record::{EvaluationRecord, Outcome};
pub use report::ReportOptions;
pub use tensorboard::EventFile;
pub use trainer::{Observer, Trainer};
pub use workload::Workload;
