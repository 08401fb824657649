//! The sum of all op families.

use super::cast::CastOps;
use super::dense_update::DenseUpdateOps;
use super::device::Device;
use super::embedding_bag::EmbeddingBagOps;
use super::finite_check::FiniteCheckOps;
use super::head::HeadOps;
use super::index_sort::IndexSortOps;
use super::interaction::InteractionOps;
use super::linear::LinearOps;
use super::loss::LossOps;
use super::moving_average::MovingAverageOps;
use super::pooled_interaction::PooledInteractionOps;
use super::sparse_update::SparseUpdateOps;
use super::stage::Stage;

/// Declares a trait that stands for the sum of others: every type that implements them all
/// implements it.
macro_rules! trait_sum {
    (
        $(#[$attribute:meta])*
        $visibility:vis trait $name:ident = $first:ident $(+ $other:ident)*;
    ) => {
        $(#[$attribute])*
        $visibility trait $name: $first $(+ $other)* {}

        impl<D: $first $(+ $other)*> $name for D {}
    };
}

trait_sum! {
    /// A device with every op that the engine calls: one trait for each op family. It is
    /// implemented for every type that implements those traits.
    pub trait Backend = Device
        + EmbeddingBagOps
        + IndexSortOps
        + SparseUpdateOps
        + InteractionOps
        + PooledInteractionOps
        + LinearOps
        + LossOps
        + HeadOps
        + DenseUpdateOps
        + CastOps
        + MovingAverageOps
        + FiniteCheckOps
        + Stage;
}
