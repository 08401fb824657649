//! The tests of the crate. They are one program, so that generic code is compiled once and the
//! kernel images are included once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Helpers that modules share are `pub`.
#![allow(unreachable_pub)]

mod common;
mod replay;

#[cfg(feature = "cuda")]
mod backends_cuda;
mod bad_labels;
mod bags;
mod cast;
#[cfg(feature = "cuda")]
mod cublaslt_cuda;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "train")]
mod data;
mod dense_update;
mod dlrm;
#[cfg(feature = "train")]
mod dlrm_clothing;
mod dlrm_readme;
mod embedder;
#[cfg(feature = "cuda")]
mod embedder_cuda;
mod embedding_bag;
mod engine_arguments;
#[cfg(feature = "cuda")]
mod engine_cuda;
mod finite_check;
#[cfg(feature = "train")]
mod fuzz;
mod golden;
mod head;
mod hostile_arguments;
mod index_sort;
mod interaction;
#[cfg(feature = "cuda")]
mod interaction_cuda;
#[cfg(feature = "cuda")]
mod kernel_resources;
mod linear;
#[cfg(feature = "cuda")]
mod linear_cuda;
mod loss;
mod mixed_precision;
mod moving_average;
#[cfg(feature = "cuda")]
mod older_drivers_cuda;
mod pooled_interaction;
#[cfg(feature = "cuda")]
mod pooled_interaction_cuda;
mod properties;
#[cfg(feature = "cuda")]
mod readme;
mod reference_gradients;
mod separate_tables;
mod sizes;
mod slack;
mod sparse_update;
#[cfg(feature = "cuda")]
mod sparse_update_cuda;
mod sparse_update_errors;
mod sparse_update_step;
mod staging;
#[cfg(feature = "cuda")]
mod step_cuda;
mod stochastic_rounding;
#[cfg(feature = "cuda")]
mod traffic_cuda;
#[cfg(all(feature = "cuda", feature = "train"))]
mod train_cuda;
