//! Reference versions of the ops: plain loops in `f64` that also bound the error of an `f32`
//! result. They share no code with the backends, but use the types that describe a call
//! (tables, features, rules). The suite checks the backward passes against difference quotients of
//! the forward passes.

mod bags;
mod dense;
mod dlrm;
mod optimizers;
mod rounding;

pub use bags::{
    Occurrences, RowGradients, bag_weight_grad, embedding_bag, row_gradients, sorted_order,
};
pub use dense::{LayerGrads, MeanLoss, dots, dots_backward, linear, linear_backward, mean_loss};
pub use dlrm::{Layer, Model, Pass};
pub use optimizers::{Betas, apply_rows, optimize};
pub use rounding::{philox, round_stochastically};
