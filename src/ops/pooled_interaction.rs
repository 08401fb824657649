//! Lookup and interaction in one pass, which reads the pooled vectors while they are in the cache.
//!
//! The outputs are, to the bit, those of [`embedding_bag`] followed by [`interaction`] on the
//! pooled vectors.
//!
//! # Example
//!
//! The sample has the bag `[0, 1]` and the dense vector `[1, 2]`, whose dot product with the pooled
//! vector `[3, 3]` is 9.
//!
//! ```
//! use bagdot::ops::embedding_bag;
//! use bagdot::ops::pooled_interaction::{Forward, Interact};
//! use bagdot::ops::{Bags, Interaction, Matrix, MatrixMut, Pooling, Table, TableBatch};
//!
//! let cpu = bagdot::Cpu::on_current_thread();
//! let table = Table { num_embeddings: 2, embedding_dim: 2 };
//! let tables = TableBatch::one_feature_each(vec![table], Pooling::Sum)?;
//! let (weights, dense) = ([1.0_f32, 0.0, 2.0, 3.0], [1.0_f32, 2.0]);
//! let bags = Bags::new(1, &[0_i64, 1], &[0_i64, 2]);
//! let (mut pooled, mut output) = ([0.0_f32; 2], [0.0_f32; 3]);
//!
//! let pooled_view = MatrixMut::contiguous(&mut pooled, 1, 2);
//! let lookup = embedding_bag::Forward::new(&tables, &weights, bags, pooled_view);
//! let output_view = MatrixMut::contiguous(&mut output, 1, 3);
//! let dense = Matrix::contiguous(&dense, 1, 2);
//! let interact = Interact::new(Interaction::default(), 2, dense, output_view);
//! Forward { lookup, interact: interact.keeps_pooled(true) }.run(&cpu)?;
//! assert_eq!(output, [1.0, 2.0, 9.0]);
//! assert_eq!(pooled, [3.0, 3.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use super::device::Device;
use super::embedding_bag::{self, EmbeddingBagOps};
use super::interaction::{self, Features, Interaction, InteractionOps};
use super::matrix::{Matrix, MatrixMut};
use super::precision::Precision;
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::size::{product, sum};

/// The backend's side of the op. Call it through [`Forward::run`], which validates the arguments.
pub trait PooledInteractionOps: EmbeddingBagOps + InteractionOps {
    /// Runs [`Forward`] with arguments that are valid. By default runs one op after the other.
    fn pooled_interaction_forward<E: Element, I: Index, O: Element>(
        &self,
        args: Forward<'_, Self, E, I, O>,
    ) -> Result<()> {
        args.run_in_turn(self)
    }
}

/// The arguments of the fused op: from ids and dense vectors to the interaction of all features.
/// Tables are of type `E`; pooled vectors, dense vectors and the output are of type `O`.
pub struct Forward<'a, D: Device, E: Element, I: Index, O: Element = f32> {
    /// The lookup. Its output, `[batch_size, width]`, is workspace unless the pooled vectors are
    /// kept; see [`Interact::keeps_pooled`].
    pub lookup: embedding_bag::Forward<'a, D, E, I, O>,
    /// The interaction of its output with the dense vectors.
    pub interact: Interact<'a, D, O>,
}

/// The arguments of the interaction of dense and pooled vectors.
#[non_exhaustive]
pub struct Interact<'a, D: Device, O: Element = f32> {
    /// Set if the op must write the pooled vectors to the lookup's output, as a gradient needs
    /// them. Otherwise the contents of that output are unspecified afterwards.
    pub keeps_pooled: bool,
    /// The kind of interaction.
    pub interaction: Interaction,
    /// The dimension: the number of elements of a feature (D); ignored for [`Interaction::Cat`].
    pub dim: usize,
    /// The precision of products.
    pub precision: Precision,
    /// The dense vectors, `[batch_size, D]`.
    pub dense: Matrix<'a, D, O>,
    /// The output, `[batch_size, width]`; see [`Interaction::width`].
    pub output: MatrixMut<'a, D, O>,
}

impl<'a, D: Device, O: Element> Interact<'a, D, O> {
    /// Makes the arguments of an interaction that keeps no pooled vectors, with products in full
    /// precision. `dim` is the number of elements of a feature; [`Interaction::Cat`] ignores it.
    pub fn new(
        interaction: Interaction,
        dim: usize,
        dense: Matrix<'a, D, O>,
        output: MatrixMut<'a, D, O>,
    ) -> Self {
        Self { interaction, dim, dense, output, precision: Precision::Full, keeps_pooled: false }
    }

    /// Chooses the precision of products of `f32`; the default is [`Precision::Full`].
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Chooses whether the pooled vectors are written to the lookup's output. By default they need
    /// not be.
    pub fn keeps_pooled(self, keeps_pooled: bool) -> Self {
        Self { keeps_pooled, ..self }
    }
}

impl<D: PooledInteractionOps, E: Element, I: Index, O: Element> Forward<'_, D, E, I, O> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Propagates errors of [`embedding_bag::Forward::run`] and of [`interaction::Forward::run`].
    /// After a bad id the contents of the output are unspecified.
    pub fn run(mut self, backend: &D) -> Result<()> {
        self.lookup.validate()?;
        self.as_interaction().validate()?;
        backend.pooled_interaction_forward(self)
    }

    /// Returns the least number of bytes moved if the ids name `distinct_rows` rows: each of them,
    /// the ids and the dense vectors are read once; the output, and the pooled vectors if they are
    /// kept, are written once.
    pub fn least_bytes(&self, distinct_rows: usize) -> usize {
        let Self { lookup, interact: Interact { dense, output, keeps_pooled, .. } } = self;
        let kept = if *keeps_pooled { lookup.output.cols } else { 0 };
        let columns = sum([dense.cols, output.cols, kept]);
        sum([lookup.bytes_read(distinct_rows), product([output.rows, columns, size_of::<O>()])])
    }

    /// Runs one op after the other.
    pub(crate) fn run_in_turn(mut self, backend: &D) -> Result<()> {
        backend.embedding_bag_forward(self.lookup.reborrow())?;
        backend.interaction_forward(self.as_interaction())
    }

    /// Returns the interaction that follows the lookup.
    pub(crate) fn as_interaction(&mut self) -> interaction::Forward<'_, D, O> {
        let Self { lookup, interact: Interact { interaction, dim, precision, dense, output, .. } } =
            self;
        interaction::Forward {
            interaction: *interaction,
            dim: *dim,
            precision: *precision,
            features: Features::Split { dense: *dense, sparse: lookup.output.as_matrix() },
            output: output.reborrow(),
        }
    }
}
