//! Pooled lookup of bags of ids in a batch of tables.
//!
//! Let `idᵢ` be the ids of bag `(f, b)` without padding, `n` their number, `W` the table of feature
//! `f`, and `wᵢ` the per-sample weights (1 if there are none). The pooled vector `out[b, columns of
//! f]` is
//!
//! - sum: `Σ wᵢ W[idᵢ]`; mean: `(Σ wᵢ W[idᵢ]) / n`; max: `maxᵢ W[idᵢ]` column by column, where
//!   the first of equal values is the source;
//! - zeros if `n = 0`.
//!
//! The semantics are those of `torch.nn.EmbeddingBag`, for many tables in one call and with the
//! layout of TorchRec's `KeyedJaggedTensor`. A weighted mean, which PyTorch does not have, divides
//! by the count.
//!
//! **Numerics.** Tables and pooled vectors may be stored in 16 bits, each in a type of its own.
//! Sums are in `f32` and in the order of the ids, and product and sum are rounded separately, so
//! that results do not depend on the thread count. The error of a sum of `n` products is at most
//! `γₙ₊₁ Σ|wᵢ W[idᵢ]|`, `γₖ = ku/(1-ku)`, `u = 2⁻²⁴`; a result in 16 bits is rounded once more, to
//! nearest, when it is stored.
//!
//! # Example
//!
//! Two samples have the bags `[0, 2]` and `[1]`. The example computes their pooled vectors and the
//! gradient of the per-sample weights.
//!
//! ```
//! use bagdot::ops::embedding_bag::{Forward, WeightGrad};
//! use bagdot::ops::{Bags, Matrix, MatrixMut, Pooling, Table, TableBatch};
//!
//! let cpu = bagdot::Cpu::on_current_thread();
//! let table = Table { num_embeddings: 3, embedding_dim: 2 };
//! let tables = TableBatch::one_feature_each(vec![table], Pooling::Sum)?;
//! let weights = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let (ids, offsets, factors) = ([0_i64, 2, 1], [0_i64, 2, 3], [1.0_f32, 0.5, 2.0]);
//! let bags = Bags::new(2, &ids, &offsets).weighted(&factors);
//!
//! let mut output = [0.0_f32; 4];
//! Forward::new(&tables, &weights, bags, MatrixMut::contiguous(&mut output, 2, 2)).run(&cpu)?;
//! // 1 [1, 2] + 0.5 [5, 6], and 2 [3, 4].
//! assert_eq!(output, [3.5, 5.0, 6.0, 8.0]);
//!
//! let (grad_output, mut grad_weights) = ([1.0_f32, 0.0, 1.0, 1.0], [0.0_f32; 3]);
//! let grad_output = Matrix::contiguous(&grad_output, 2, 2);
//! WeightGrad::new(&tables, &weights, bags, grad_output, &mut grad_weights).run(&cpu)?;
//! // <[1, 2], [1, 0]>, <[5, 6], [1, 0]> and <[3, 4], [1, 1]>.
//! assert_eq!(grad_weights, [1.0, 5.0, 7.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use super::bags::Bags;
use super::device::Device;
use super::matrix::{Matrix, MatrixMut, matrix_name};
use super::table_values::{Per, TableValues};
use super::tables::TableBatch;
use super::views::ViewMut;
use crate::dtype::{Element, Index};
use crate::error::{Result, expect_size, invalid};
use crate::size::{product, sum};

/// The name of [`Forward`] in errors.
pub(crate) const FORWARD: &str = "embedding_bag.forward";
/// The name of [`WeightGrad`] in errors.
pub(crate) const WEIGHT_GRAD: &str = "embedding_bag.weight_grad";

/// The entry of `argmax` for a column without a source, because its bag is empty.
pub const NO_SOURCE: u32 = u32::MAX;

/// The backend's side of the op. Call it through [`Forward::run`] and [`WeightGrad::run`], which
/// validate the arguments.
pub trait EmbeddingBagOps: Device {
    /// Runs [`Forward`] with arguments that are valid.
    fn embedding_bag_forward<E: Element, I: Index, O: Element>(
        &self,
        args: Forward<'_, Self, E, I, O>,
    ) -> Result<()>;
    /// Runs [`WeightGrad`] with arguments that are valid.
    fn embedding_bag_weight_grad<E: Element, I: Index, G: Element>(
        &self,
        args: WeightGrad<'_, Self, E, I, G>,
    ) -> Result<()>;
}

/// The arguments of the lookup, which computes the pooled vectors of all bags: rows of type `E` are
/// pooled into vectors of type `O`.
#[non_exhaustive]
pub struct Forward<'a, D: Device, E: Element, I: Index, O: Element = f32> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// The weights of all tables: [`TableBatch::num_weights`] elements in one view, or a matrix for
    /// each table.
    pub weights: TableValues<'a, D, E>,
    /// The ids: `num_features * batch_size` bags.
    pub bags: Bags<'a, D, I>,
    /// The pooled vectors, `[batch_size, width]`; see [`TableBatch::width`].
    pub output: MatrixMut<'a, D, O>,
    /// The output `[batch_size, width]` that only a gradient needs: in columns of max features the
    /// position within the bag that the value came from, or [`NO_SOURCE`]. Other columns are not
    /// written.
    pub argmax: Option<MatrixMut<'a, D, u32>>,
}

impl<'a, D: Device, E: Element, I: Index, O: Element> Forward<'a, D, E, I, O> {
    /// Makes the arguments of a lookup without `argmax`. The shapes are those of the fields.
    pub fn new(
        tables: &'a D::Tables,
        weights: impl Into<TableValues<'a, D, E>>,
        bags: Bags<'a, D, I>,
        output: MatrixMut<'a, D, O>,
    ) -> Self {
        Self { tables, weights: weights.into(), bags, output, argmax: None }
    }

    /// Asks for the sources of the maxima, `[batch_size, width]`. By default they are not written.
    pub fn argmax(self, argmax: MatrixMut<'a, D, u32>) -> Self {
        Self { argmax: Some(argmax), ..self }
    }
}

impl<D: EmbeddingBagOps, E: Element, I: Index, O: Element> Forward<'_, D, E, I, O> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written. Reports
    /// [`Error::IndexOutOfRange`](crate::Error::IndexOutOfRange) here or at the next
    /// [`Device::synchronize`]; all valid entries are then pooled as if the bad ones were padding.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.embedding_bag_forward(self)
    }

    /// Borrows the arguments for a shorter time.
    pub(crate) fn reborrow(&mut self) -> Forward<'_, D, E, I, O> {
        let Self { tables, weights, bags, output, argmax } = self;
        let (weights, output) = (weights.clone(), output.reborrow());
        let argmax = argmax.as_mut().map(MatrixMut::reborrow);
        Forward { tables, weights, bags: *bags, output, argmax }
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = FORWARD;
        let tables = self.tables.as_ref();
        self.weights.check(OP, "weights", tables, Per::Element)?;
        self.bags.check(OP, tables)?;
        self.output.check(OP, matrix_name!("output"), self.bags.batch_size, tables.width())?;
        match &self.argmax {
            Some(argmax) => {
                argmax.check(OP, matrix_name!("argmax"), self.bags.batch_size, tables.width())
            }
            None => Ok(()),
        }
    }

    /// Returns the number of bytes that a lookup without a cache moves: a row is read once for each
    /// id that names it, as FBGEMM's benchmarks count; ids, offsets and per-sample weights are read
    /// once, and the output is written once. The least traffic is lower: it reads each distinct row
    /// once, whatever the number of its ids. `argmax` is not counted. Assumes that all features
    /// have the same number of ids.
    pub fn bytes_moved(&self) -> usize {
        self.least_bytes(self.bags.num_indices())
    }

    /// Returns the least number of bytes moved if the ids name `distinct_rows` rows, counted as
    /// [`Self::bytes_moved`] does, but with each of these rows once.
    pub fn least_bytes(&self, distinct_rows: usize) -> usize {
        let output = product([self.bags.batch_size, self.tables.as_ref().width(), size_of::<O>()]);
        sum([self.bytes_read(distinct_rows), output])
    }

    /// Returns the bytes of the rows, each read once, and of the ids with all that belongs to them.
    pub(crate) fn bytes_read(&self, distinct_rows: usize) -> usize {
        lookup_bytes::<E, I, D>(self.tables.as_ref(), &self.bags, distinct_rows)
    }
}

/// The arguments of the gradient of the per-sample weights, from the rows before any update:
/// `dL/dwᵢ = <W[idᵢ], dL/dout>`, divided by `n` for a mean.
#[non_exhaustive]
pub struct WeightGrad<'a, D: Device, E: Element, I: Index, G: Element = f32> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// The weights of all tables: [`TableBatch::num_weights`] elements in one view, or a matrix for
    /// each table.
    pub weights: TableValues<'a, D, E>,
    /// The ids: `num_features * batch_size` bags. The values of their weights are not read.
    pub bags: Bags<'a, D, I>,
    /// The gradient of the output of [`Forward`], `[batch_size, width]`.
    pub grad_output: Matrix<'a, D, G>,
    /// The output, `[num_indices]`: one value for every id, zero for padding and for bad ids.
    pub grad_weights: ViewMut<'a, D, f32>,
}

impl<'a, D: Device, E: Element, I: Index, G: Element> WeightGrad<'a, D, E, I, G> {
    /// Makes the arguments of the gradient. `weights` and `bags` are those of the forward pass, and
    /// `grad_weights` is the output.
    pub fn new(
        tables: &'a D::Tables,
        weights: impl Into<TableValues<'a, D, E>>,
        bags: Bags<'a, D, I>,
        grad_output: Matrix<'a, D, G>,
        grad_weights: impl Into<ViewMut<'a, D, f32>>,
    ) -> Self {
        Self {
            tables,
            weights: weights.into(),
            bags,
            grad_output,
            grad_weights: grad_weights.into(),
        }
    }
}

impl<D: EmbeddingBagOps, E: Element, I: Index, G: Element> WeightGrad<'_, D, E, I, G> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Propagates the errors of [`Forward::run`], and returns one for features that are pooled by
    /// max, which have no per-sample weights.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.embedding_bag_weight_grad(self)
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = WEIGHT_GRAD;
        let tables = self.tables.as_ref();
        self.weights.check(OP, "weights", tables, Per::Element)?;
        self.bags.check(OP, tables)?;
        if tables.has_max() {
            return Err(invalid(OP, "tables", "max pooling has no per-sample weights"));
        }
        self.grad_output.check(
            OP,
            matrix_name!("grad_output"),
            self.bags.batch_size,
            tables.width(),
        )?;
        expect_size(OP, "grad_weights", self.grad_weights.len(), self.bags.num_indices())
    }

    /// Returns the number of bytes that the op moves without a cache, counted as
    /// [`Forward::bytes_moved`] does: rows, ids and the gradients of both sides.
    pub fn bytes_moved(&self) -> usize {
        let tables = self.tables.as_ref();
        sum([
            lookup_bytes::<E, I, D>(tables, &self.bags, self.bags.num_indices()),
            product([self.bags.batch_size, tables.width(), size_of::<G>()]),
            product([self.grad_weights.len(), 4]),
        ])
    }
}

/// Returns the number of bytes that a lookup reads if it reads `rows` rows.
fn lookup_bytes<E: Element, I: Index, D: Device>(
    tables: &TableBatch,
    bags: &Bags<'_, D, I>,
    rows: usize,
) -> usize {
    sum([product([tables.elements_of_rows(rows), size_of::<E>()]), bags.bytes()])
}
