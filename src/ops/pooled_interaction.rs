//! Lookup and interaction at once: pooled vectors meet while the cache still holds them.
//!
//! The outputs are those of [`embedding_bag`] and then of [`interaction`] with what it pooled, to
//! the bit.

use super::device::Device;
use super::embedding_bag::{self, EmbeddingBagOps};
use super::interaction::{self, Features, Interaction, InteractionOps};
use super::matrix::{Matrix, MatrixMut};
use super::precision::Precision;
use crate::dtype::{Element, Index};
use crate::error::Result;

/// What a backend provides; call it through [`Forward::run`], which validates.
pub trait PooledInteractionOps: EmbeddingBagOps + InteractionOps {
    /// See [`Forward`]. A backend that knows no better runs one op after the other.
    fn pooled_interaction_forward<E: Element, I: Index>(
        &self,
        args: Forward<'_, Self, E, I>,
    ) -> Result<()> {
        args.run_in_turn(self)
    }
}

/// Ids and dense vectors to the interaction of all features of a sample.
pub struct Forward<'a, D: Device, E: Element, I: Index> {
    /// The lookup.
    pub lookup: embedding_bag::Forward<'a, D, E, I>,
    /// What follows it.
    pub interact: Interact<'a, D>,
}

/// The interaction of dense vectors with what has just been pooled.
pub struct Interact<'a, D: Device> {
    /// Whether the pooled vectors are wanted in the lookup's output, as for a gradient. If not,
    /// what is there afterwards is of no meaning.
    pub keeps_pooled: bool,
    /// How features meet.
    pub interaction: Interaction,
    /// The dimension of a feature (D); of no meaning for [`Interaction::Cat`].
    pub dim: usize,
    /// How products may be computed.
    pub precision: Precision,
    /// `[batch_size, D]`: the dense vectors.
    pub dense: Matrix<'a, D, f32>,
    /// `[batch_size, width]`, see [`Interaction::width`].
    pub output: MatrixMut<'a, D, f32>,
}

impl<D: PooledInteractionOps, E: Element, I: Index> Forward<'_, D, E, I> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Those of [`embedding_bag::Forward::run`] and of [`interaction::Forward::run`]. After a bad
    /// id the output is of no meaning.
    pub fn run(mut self, backend: &D) -> Result<()> {
        self.lookup.validate()?;
        self.as_interaction().validate()?;
        backend.pooled_interaction_forward(self)
    }

    /// One op after the other.
    pub(crate) fn run_in_turn(mut self, backend: &D) -> Result<()> {
        backend.embedding_bag_forward(self.lookup.reborrow())?;
        backend.interaction_forward(self.as_interaction())
    }

    /// The interaction of what has been pooled.
    pub(crate) fn as_interaction(&mut self) -> interaction::Forward<'_, D, f32> {
        let Self { lookup, interact: Interact { interaction, dim, precision, dense, output, .. } } =
            self;
        interaction::Forward {
            interaction: *interaction,
            dim: *dim,
            precision: *precision,
            features: Features::Split {
                dense: dense.reborrow(),
                sparse: lookup.output.as_matrix(),
            },
            output: output.reborrow(),
        }
    }
}
