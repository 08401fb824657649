//! The engine: a model put together from layers, tables and optimizers, and its training.

mod average;
mod branch;
mod buffers;
mod config;
mod dlrm;
mod embedding;
mod graphs;
mod layers;
mod matrix;
mod memory;
mod mlp;
mod optimizer;
mod parameters;
mod passes;
mod pieces;
mod precision;
mod roofline;
mod staging;
mod step;
mod tensors;
mod work;

pub use buffers::BatchView;
pub use config::DlrmConfig;
pub use dlrm::Dlrm;
#[cfg(feature = "train")]
pub(crate) use dlrm::sigmoid;
pub use embedding::{EmbeddingBagCollection, TableInit};
pub use memory::{MemoryNeeds, MemoryPlan};
pub use optimizer::{GroupOptimizer, Optimizers, Schedule};
pub use precision::ComputePrecision;
pub use roofline::{GPUS, Gpu};
pub use staging::Staging;
pub use tensors::{NamedTensor, Prefixed, TensorSource};
pub use work::{BatchSizes, StepWork, Unit, Work};
