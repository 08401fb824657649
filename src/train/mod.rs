//! From encoded rows to a kept model: configuration, training loop, metrics, checkpoints, report.
//!
//! Nothing here talks to a terminal: what happens is told to an [`Observer`].
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod dropout;
mod error;
mod memory;
mod metrics;
mod model;
mod optimizer;
mod report;
mod trainer;
mod unseen;

pub use checkpoint::{Manifest, ModelDir, Progress};
pub use config::{Config, InteractionKind, ModelConfig, PrecisionKind, Selection, TrainConfig};
pub use error::{Result, TrainError};
pub use memory::memory_of;
pub use metrics::{Metrics, Predictions};
pub use model::TrainedModel;
pub use optimizer::{GroupConfig, Kind, ScheduleConfig};
pub use report::write_report;
pub use trainer::{EpochRecord, Observer, Outcome, Trainer};
