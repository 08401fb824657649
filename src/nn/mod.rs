//! The engine: layers, tables and optimizers put together into a model that can be trained.

mod average;
mod buffers;
mod config;
mod dlrm;
mod embedding;
mod layers;
mod memory;
mod mlp;
mod optimizer;
mod parameters;
mod pieces;
mod precision;
mod staging;
mod step;
mod tensors;

pub use buffers::BatchView;
pub use config::DlrmConfig;
pub use dlrm::Dlrm;
#[cfg(feature = "serde")]
pub(crate) use dlrm::sigmoid;
pub use embedding::{EmbeddingBagCollection, TableInit};
pub use memory::{MemoryNeeds, MemoryPlan};
pub use optimizer::{GroupOptimizer, OptimizerState, Optimizers, Schedule};
pub use precision::ComputePrecision;
pub use staging::Staging;
pub use tensors::{NamedTensor, Prefixed, TensorSource};
