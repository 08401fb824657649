//! The ops once more, as plain loops in `f64` that know how far an `f32` result may be off. They
//! share no code with `src/`; only the plain descriptions of a call (tables, features, rules) are
//! the crate's.
//!
//! `tests/suite/reference_gradients.rs` checks the backward passes against difference quotients of
//! the forward passes.

mod bags;
mod dense;
mod dlrm;
mod optimizers;
mod rounding;

pub use bags::{RowGradients, bag_weight_grad, embedding_bag, row_gradients, sorted_order};
pub use dense::{dots, dots_backward, linear, linear_backward, mean_loss};
pub use dlrm::{Layer, Model};
pub use optimizers::{Betas, apply_rows, optimize};
pub use rounding::round_stochastically;
