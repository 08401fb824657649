//! Gradients of table rows, and optimizer steps on the rows that have one.
//!
//! The gradient of a row is the sum over its occurrences in the batch. With `g = clamp(dL/dout[b,
//! columns of f])`, an occurrence `i` in bag `(f, b)` of `n` counted ids contributes `wᵢ g` (sum),
//! `(wᵢ / n) g` (mean), or `g` in the columns whose maximum came from it (max). Duplicates are
//! summed first; then each row takes **one** step of the optimizer
//! ([`Optimizer`](super::Optimizer)).
//!
//! - [`Update`] sums and steps in one op, in place;
//! - [`step`] sorts the ids, sums and steps in one call, and keeps what it needs for that;
//! - [`Reduce`] writes the sums to a [`SparseGrad`], which [`Merge`] adds to another one and
//!   [`Apply`] applies later.
//!
//! [`Reduce`] followed by [`Apply`] gives the same bits as [`Update`].
//!
//! **Numerics.** A row's occurrences are summed by a reduction tree. They are cut into chunks of
//! [`CHUNK`] in the order of their positions, and each chunk is summed in order, starting from its
//! first contribution. The sums of the chunks are cut and summed in the same way, until one is
//! left. No chain of additions is longer than [`CHUNK`], however many occurrences a row has. Sums
//! are in `f32`, whatever the type of `dL/dout`, and product and sum are rounded separately. The
//! order depends on nothing else, so that results are the same for any number of threads.
//!
//! With `C` for [`CHUNK`], a contribution takes part in at most `C - 1` additions on each of
//! `L = ⌈log m / log C⌉` levels, so that the error of a sum of `m` contributions is at most
//! `γₖ Σ|contribution|`, `k = min(m, (C - 1) L) + 2`, which includes the rounding of each factor
//! and product.
//!
//! # Example
//!
//! Two samples have the bags `[0, 2]` and `[2]`. Row 2 occurs in both, and takes one step of SGD
//! with the sum of its two gradients.
//!
//! ```
//! use bagdot::Cpu;
//! use bagdot::ops::index_sort::{Sort, SortedIndices};
//! use bagdot::ops::sparse_update::{PooledGrad, Update};
//! use bagdot::ops::{Bags, Matrix, Optimizer, OptimizerStateMut, UpdateRule};
//! use bagdot::ops::{Pooling, Table, TableBatch};
//!
//! let cpu = Cpu::on_current_thread();
//! let table = Table { num_embeddings: 3, embedding_dim: 2 };
//! let tables = TableBatch::one_feature_each(vec![table], Pooling::Sum)?;
//! let mut weights = [1.0_f32, 1.0, 2.0, 2.0, 3.0, 3.0]; // three rows of two
//! let bags = Bags::new(2, &[0_i64, 2, 2], &[0_i64, 2, 3]);
//! let grad_output = [1.0_f32, 2.0, 3.0, 4.0];
//!
//! let (sort_len, update_len) = (
//!     Sort::<Cpu, i64>::workspace_len(&cpu, &tables, 3),
//!     Update::<Cpu, f32, i64>::workspace_len(&cpu, &tables, 3),
//! );
//! let mut workspace = vec![0_u64; sort_len.max(update_len)];
//! let mut sorted = SortedIndices::new(&cpu, 3, 2)?;
//! Sort::new(&tables, bags, &mut sorted, &mut workspace).run(&cpu)?;
//!
//! let source = PooledGrad::new(&tables, bags, &sorted, Matrix::contiguous(&grad_output, 2, 2));
//! let (rule, state) = (UpdateRule::new(Optimizer::Sgd, 0.5), OptimizerStateMut::None);
//! Update::new(source, rule, &mut weights, state, &mut workspace).run(&cpu)?;
//! // Row 0: [1, 1] - 0.5 [1, 2]; row 2: [3, 3] - 0.5 ([1, 2] + [3, 4]).
//! assert_eq!(weights, [0.5, 0.0, 2.0, 2.0, 1.0, 0.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! [`Reduce`] and [`Apply`] take the same step with the gradient in memory in between; `source`,
//! `rule` and `state` are made as above:
//!
//! ```
//! # use bagdot::Cpu;
//! # use bagdot::ops::index_sort::{Sort, SortedIndices};
//! # use bagdot::ops::{Bags, Matrix, Optimizer, OptimizerStateMut, UpdateRule};
//! # use bagdot::ops::{Pooling, Table, TableBatch};
//! use bagdot::ops::sparse_update::{Apply, PooledGrad, Reduce, SparseGrad};
//! # let cpu = Cpu::on_current_thread();
//! # let table = Table { num_embeddings: 3, embedding_dim: 2 };
//! # let tables = TableBatch::one_feature_each(vec![table], Pooling::Sum)?;
//! # let mut weights = [1.0_f32, 1.0, 2.0, 2.0, 3.0, 3.0];
//! # let bags = Bags::new(2, &[0_i64, 2, 2], &[0_i64, 2, 3]);
//! # let grad_output = [1.0_f32, 2.0, 3.0, 4.0];
//! # let mut workspace = vec![0_u64; Sort::<Cpu, i64>::workspace_len(&cpu, &tables, 3)];
//! # let mut sorted = SortedIndices::new(&cpu, 3, 2)?;
//! # Sort::new(&tables, bags, &mut sorted, &mut workspace).run(&cpu)?;
//! # let source = PooledGrad::new(&tables, bags, &sorted, Matrix::contiguous(&grad_output, 2, 2));
//! # let (rule, state) = (UpdateRule::new(Optimizer::Sgd, 0.5), OptimizerStateMut::None);
//!
//! let mut workspace = vec![0_u64; Reduce::<Cpu, i64>::workspace_len(&cpu, &tables, 3)];
//! let mut grad = SparseGrad::new(&cpu, &tables, 3)?; // at most three rows
//! Reduce::new(source, &mut grad, &mut workspace).run(&cpu)?;
//! assert_eq!(grad.counts()[..], [2]);
//! assert_eq!(grad.rows()[..2], [0, 2]);
//! assert_eq!(grad.values()[..4], [1.0, 2.0, 4.0, 6.0]);
//!
//! Apply::new(&tables, &grad, rule, &mut weights, state).run(&cpu)?;
//! assert_eq!(weights, [0.5, 0.0, 2.0, 2.0, 1.0, 0.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use std::sync::Arc;

use super::bags::Bags;
use super::cast::check_power_of_two;
use super::device::Device;
use super::index_sort::{IndexSortOps, Sort, SortedIndices};
use super::matrix::{Matrix, matrix_name};
use super::optimizer::{
    OptimizerState, StepControl, TableStateMut, UpdateRule, check_max_gradient,
};
use super::table_values::{Per, TableValuesMut};
use super::tables::{Table, TableBatch};
use super::views::{Extent, View, ViewMut};
use crate::dtype::{Element, Index};
use crate::error::{Result, expect_at_least, expect_size, invalid};
use crate::size::{filled, product, sum};

/// The number of occurrences of a row, or of sums of them, that are summed in order.
pub const CHUNK: usize = 64;

/// The backend's side of the op. Call it through the `run` of each op, which validates the
/// arguments.
pub trait SparseUpdateOps: Device {
    /// Runs [`Reduce`] with arguments that are valid.
    fn sparse_update_reduce<I: Index, G: Element>(
        &self,
        args: Reduce<'_, Self, I, G>,
    ) -> Result<()>;
    /// Runs [`Merge`] with arguments that are valid.
    fn sparse_update_merge(&self, args: Merge<'_, Self>) -> Result<()>;
    /// Runs [`Apply`] with arguments that are valid.
    fn sparse_update_apply<E: Element>(&self, args: Apply<'_, Self, E>) -> Result<()>;
    /// Runs [`Update`] with arguments that are valid.
    fn sparse_update_update<E: Element, I: Index, G: Element>(
        &self,
        args: Update<'_, Self, E, I, G>,
    ) -> Result<()>;
    /// Computes [`Update::workspace_len`] and [`Reduce::workspace_len`].
    fn sparse_update_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize;
    /// Computes [`Merge::workspace_len`].
    fn sparse_update_merge_workspace_len(&self, tables: &TableBatch, num_rows: usize) -> usize;
}

/// The source of the gradient of a batch: the order of its ids and the gradient of the pooled
/// output.
#[non_exhaustive]
pub struct PooledGrad<'a, D: Device, I: Index, G: Element = f32> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// The ids, `num_features * batch_size` bags, unchanged since `sorted` was made.
    pub bags: Bags<'a, D, I>,
    /// The order of the ids, the result of a [`Sort`] of `bags`.
    pub sorted: &'a SortedIndices<D>,
    /// The gradient of the pooled output, `[batch_size, width]`; see [`TableBatch::width`].
    pub grad_output: Matrix<'a, D, G>,
    /// The loss scale: `grad_output` is the gradient of this many times the loss. It is divided
    /// out of the sums, which rounds nothing but subnormal numbers, since it is a power of two.
    pub loss_scale: f32,
    /// The sources of the maxima from the forward pass, `[batch_size, width]`. Needed if any
    /// feature is pooled by max.
    pub argmax: Option<Matrix<'a, D, u32>>,
    /// The bound of every element of the gradient, which is clamped to `[-max, max]`; `None` for no
    /// clamp.
    pub max_gradient: Option<f32>,
}

impl<'a, D: Device, I: Index, G: Element> PooledGrad<'a, D, I, G> {
    /// Makes the source of a gradient that is not clamped. Features that are pooled by max need
    /// [`Self::argmax`], too.
    pub fn new(
        tables: &'a D::Tables,
        bags: Bags<'a, D, I>,
        sorted: &'a SortedIndices<D>,
        grad_output: Matrix<'a, D, G>,
    ) -> Self {
        let (loss_scale, argmax, max_gradient) = (1.0, None, None);
        Self { tables, bags, sorted, grad_output, loss_scale, argmax, max_gradient }
    }

    /// Says that `grad_output` is the gradient of `loss_scale` times the loss, a power of two. By
    /// default it is that of the loss.
    pub fn loss_scale(self, loss_scale: f32) -> Self {
        Self { loss_scale, ..self }
    }

    /// Gives the sources of the maxima, `[batch_size, width]`, which the forward pass wrote. By
    /// default there are none, which is an error if a feature is pooled by max.
    pub fn argmax(self, argmax: Matrix<'a, D, u32>) -> Self {
        Self { argmax: Some(argmax), ..self }
    }

    /// Clamps every element of the gradient to `[-max, max]`. By default there is no clamp.
    pub fn max_gradient(self, max_gradient: f32) -> Self {
        Self { max_gradient: Some(max_gradient), ..self }
    }
}

impl<D: Device, I: Index, G: Element> Clone for PooledGrad<'_, D, I, G> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Device, I: Index, G: Element> Copy for PooledGrad<'_, D, I, G> {}

impl<D: Device, I: Index, G: Element> PooledGrad<'_, D, I, G> {
    /// Checks the parts against each other, for an op of this name.
    fn check(&self, op: &'static str) -> Result<()> {
        let tables = self.tables.as_ref();
        self.bags.check(op, tables)?;
        self.sorted.check(op, tables, &self.bags)?;
        self.grad_output.check(
            op,
            matrix_name!("grad_output"),
            self.bags.batch_size,
            tables.width(),
        )?;
        check_power_of_two(op, "loss_scale", self.loss_scale)?;
        check_max_gradient(op, self.max_gradient)?;
        match self.argmax {
            Some(argmax) => {
                argmax.check(op, matrix_name!("argmax"), self.bags.batch_size, tables.width())
            }
            None if tables.has_max() => Err(invalid(
                op,
                "argmax",
                "needed, since a feature is pooled by max: `embedding_bag::Forward::argmax`",
            )),
            None => Ok(()),
        }
    }

    /// Returns the number of bytes that an op reads of the source: the position and the bag of each
    /// id, and the gradient of each bag.
    fn bytes_moved(&self) -> usize {
        let order = product([self.bags.num_indices(), 4 + 4]);
        let grads = product([self.bags.batch_size, self.tables.as_ref().width(), size_of::<G>()]);
        sum([order, grads])
    }
}

/// A sparse gradient, which has values for some rows only.
///
/// Let `u` be the number in `counts`. Row `rows[k]`, `k < u`, has the gradient `values[starts[k] ..
/// starts[k + 1]]`. `rows` increases strictly.
///
/// The buffers are private, and only ops write them, so that other ops can rely on their contents.
/// Ops refuse the gradient for tables other than those that it was made for.
pub struct SparseGrad<D: Device> {
    pub(crate) rows: D::Buffer<u64>,
    pub(crate) starts: D::Buffer<u64>,
    pub(crate) values: D::Buffer<f32>,
    pub(crate) counts: D::Buffer<u32>,
    tables: Arc<[Table]>,
}

impl<D: Device> SparseGrad<D> {
    /// Allocates a gradient for `capacity` rows of these tables. A batch needs at most as many rows
    /// as it has ids, and never more than the tables have.
    ///
    /// # Errors
    /// Propagates errors of [`Device::alloc`].
    pub fn new(device: &D, tables: &TableBatch, capacity: usize) -> Result<Self> {
        let capacity = capacity.min(tables.num_rows());
        let values = device.alloc(product([capacity, tables.max_dim()]))?;
        Self::with_buffers(
            device,
            tables,
            device.alloc(capacity)?,
            device.alloc(sum([capacity, 1]))?,
            values,
            device.alloc(1)?,
        )
    }

    /// Makes a gradient without rows from existing buffers for rows, starts, values and one count,
    /// whatever they hold. Buffers of memory of the caller are made by `Buffer::from_raw` of the
    /// backend.
    ///
    /// # Errors
    /// Returns an error if the buffer for starts or the one for values has room for fewer rows than
    /// the one for rows, or if there is not one count. Propagates errors of [`Device::upload`].
    pub fn with_buffers(
        device: &D,
        tables: &TableBatch,
        rows: D::Buffer<u64>,
        starts: D::Buffer<u64>,
        values: D::Buffer<f32>,
        mut counts: D::Buffer<u32>,
    ) -> Result<Self> {
        const OP: &str = "SparseGrad";
        let capacity = rows.extent();
        expect_at_least(OP, "starts", starts.extent(), sum([capacity, 1]))?;
        expect_at_least(OP, "values", values.extent(), product([capacity, tables.max_dim()]))?;
        expect_size(OP, "counts", counts.extent(), 1)?;
        device.upload(&[0], D::view_mut(&mut counts))?;
        Ok(Self { rows, starts, values, counts, tables: Arc::clone(tables.shared_tables()) })
    }

    /// Returns the largest number of rows that the buffers have room for.
    pub fn capacity(&self) -> usize {
        self.rows.extent()
    }

    /// Returns the linear row numbers, each once: [`Self::capacity`] elements, of which `u` are
    /// set.
    pub fn rows(&self) -> View<'_, D, u64> {
        D::view(&self.rows)
    }

    /// Returns the bounds of each row's values: [`Self::capacity`] elements and one, of which
    /// `u + 1` are set.
    pub fn starts(&self) -> View<'_, D, u64> {
        D::view(&self.starts)
    }

    /// Returns the gradients, row after row: [`Self::capacity`] times [`TableBatch::max_dim`]
    /// elements, of which `starts[u]` are set.
    pub fn values(&self) -> View<'_, D, f32> {
        D::view(&self.values)
    }

    /// Returns `u`, the number of rows, one value.
    pub fn counts(&self) -> View<'_, D, u32> {
        D::view(&self.counts)
    }

    /// Copies the gradient to the host.
    ///
    /// # Errors
    /// Propagates errors of [`Device::download`], and returns
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn to_host(&self, device: &D) -> Result<RowGrads> {
        let mut count = [0];
        device.download(self.counts(), &mut count)?;
        let rows = (count[0] as usize).min(self.capacity());
        let mut grads = RowGrads {
            tables: Arc::clone(&self.tables),
            rows: filled(rows, 0)?,
            starts: filled(rows + 1, 0)?,
            values: Vec::new(),
        };
        device.download(D::slice(&self.rows, 0..rows), &mut grads.rows)?;
        device.download(D::slice(&self.starts, 0..rows + 1), &mut grads.starts)?;
        let values = (grads.starts[rows] as usize).min(self.values.extent());
        grads.values = filled(values, 0.0)?;
        device.download(D::slice(&self.values, 0..values), &mut grads.values)?;
        Ok(grads)
    }

    /// Returns an error for other tables.
    fn check_tables(
        &self,
        op: &'static str,
        argument: &'static str,
        tables: &TableBatch,
    ) -> Result<()> {
        match self.tables == *tables.shared_tables() {
            true => Ok(()),
            false => Err(invalid(op, argument, "made for other tables")),
        }
    }

    /// Returns an error for other tables, or for more rows than the buffers have room for.
    fn check(&self, op: &'static str, tables: &TableBatch, rows: usize) -> Result<()> {
        self.check_tables(op, "grad", tables)?;
        expect_at_least(op, "grad.capacity", self.capacity(), rows.min(tables.num_rows()))
    }
}

/// A sparse gradient on the host, made by [`SparseGrad::to_host`].
#[derive(Clone, Debug, PartialEq)]
pub struct RowGrads {
    tables: Arc<[Table]>,
    rows: Vec<u64>,
    starts: Vec<u64>,
    values: Vec<f32>,
}

/// The gradient of one row of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowGrad<'a> {
    /// The number of the table.
    pub table: usize,
    /// The number of the row in its table.
    pub row: usize,
    /// The gradient, one value for each column of the table.
    pub values: &'a [f32],
}

impl RowGrads {
    /// Iterates over the rows that have a gradient, table after table and in increasing order.
    pub fn iter(&self) -> impl Iterator<Item = RowGrad<'_>> {
        let (mut table, mut first_row) = (0, 0);
        self.rows.iter().zip(self.starts.windows(2)).map(move |(&row, bounds)| {
            while row >= first_row + self.tables[table].num_embeddings as u64 {
                first_row += self.tables[table].num_embeddings as u64;
                table += 1;
            }
            let values = &self.values[bounds[0] as usize..bounds[1] as usize];
            RowGrad { table, row: (row - first_row) as usize, values }
        })
    }

    /// Returns the number of rows that have a gradient.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether no row has a gradient.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The arguments of the reduction, which sums the gradient of each row.
#[non_exhaustive]
pub struct Reduce<'a, D: Device, I: Index, G: Element = f32> {
    /// The source of the gradient.
    pub source: PooledGrad<'a, D, I, G>,
    /// The output, with room for the rows of the batch: a row for each id, or all rows if there are
    /// fewer.
    pub grad: &'a mut SparseGrad<D>,
    /// The workspace: at least [`Self::workspace_len`] words of 8 bytes.
    pub workspace: ViewMut<'a, D, u64>,
}

impl<'a, D: Device, I: Index, G: Element> Reduce<'a, D, I, G> {
    /// Makes the arguments of a reduction. `grad` is the output.
    pub fn new(
        source: PooledGrad<'a, D, I, G>,
        grad: &'a mut SparseGrad<D>,
        workspace: impl Into<ViewMut<'a, D, u64>>,
    ) -> Self {
        Self { source, grad, workspace: workspace.into() }
    }
}

impl<D: SparseUpdateOps, I: Index, G: Element> Reduce<'_, D, I, G> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.sparse_update_reduce(self)
    }

    /// Returns the number of 8-byte words of workspace for a batch of `num_indices` ids.
    pub fn workspace_len(backend: &D, tables: &TableBatch, num_indices: usize) -> usize {
        backend.sparse_update_workspace_len(tables, num_indices)
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "sparse_update.reduce";
        let (tables, num_indices) = (self.source.tables.as_ref(), self.source.bags.num_indices());
        self.source.check(OP)?;
        let needed = Self::workspace_len(backend, tables, num_indices);
        expect_at_least(OP, "workspace", self.workspace.len(), needed)?;
        self.grad.check(OP, tables, num_indices)
    }
}

/// The arguments of the sum of two gradients, `out = a + b`.
#[non_exhaustive]
pub struct Merge<'a, D: Device> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// The first gradient.
    pub a: &'a SparseGrad<D>,
    /// The second gradient.
    pub b: &'a SparseGrad<D>,
    /// The output: the sum, with room for as many rows as `a` and `b` have room for, or for all
    /// rows if there are fewer.
    pub out: &'a mut SparseGrad<D>,
    /// The workspace: at least [`Self::workspace_len`] words of 8 bytes.
    pub workspace: ViewMut<'a, D, u64>,
}

impl<'a, D: Device> Merge<'a, D> {
    /// Makes the arguments of the sum `out = a + b`.
    pub fn new(
        tables: &'a D::Tables,
        a: &'a SparseGrad<D>,
        b: &'a SparseGrad<D>,
        out: &'a mut SparseGrad<D>,
        workspace: impl Into<ViewMut<'a, D, u64>>,
    ) -> Self {
        Self { tables, a, b, out, workspace: workspace.into() }
    }
}

impl<D: SparseUpdateOps> Merge<'_, D> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.sparse_update_merge(self)
    }

    /// Returns the number of 8-byte words of workspace for gradients with room for `num_rows` rows
    /// together.
    pub fn workspace_len(backend: &D, tables: &TableBatch, num_rows: usize) -> usize {
        backend.sparse_update_merge_workspace_len(tables, num_rows)
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "sparse_update.merge";
        let (tables, rows) = (self.tables.as_ref(), self.max_rows());
        if rows > u32::MAX as usize - 1 {
            return Err(invalid(OP, "out", "gradients of more than 2^32 - 2 rows together"));
        }
        expect_at_least(
            OP,
            "workspace",
            self.workspace.len(),
            Self::workspace_len(backend, tables, rows),
        )?;
        self.a.check_tables(OP, "a", tables)?;
        self.b.check_tables(OP, "b", tables)?;
        self.out.check(OP, tables, rows)
    }

    /// Returns the largest number of rows that both can have together.
    fn max_rows(&self) -> usize {
        sum([self.a.capacity(), self.b.capacity()])
    }
}

/// The arguments of one optimizer step on each row that has a gradient.
#[non_exhaustive]
pub struct Apply<'a, D: Device, E: Element> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// The gradient.
    pub grad: &'a SparseGrad<D>,
    /// The update rule.
    pub rule: UpdateRule,
    /// The factors of the weight decay of each row, by linear row number: [`TableBatch::num_rows`]
    /// elements; `None` for factors of 1.
    pub decay_scale: Option<View<'a, D, f32>>,
    /// The weights of all tables: [`TableBatch::num_weights`] elements in one view, or a matrix for
    /// each table.
    pub weights: TableValuesMut<'a, D, E>,
    /// The state of the optimizer for all tables: one `f32` for each row or for each element; see
    /// [`TableStateMut`].
    pub state: TableStateMut<'a, D>,
}

impl<'a, D: Device, E: Element> Apply<'a, D, E> {
    /// Makes the arguments of a step, which updates `weights` and `state` in place. The factors of
    /// the weight decay are 1.
    pub fn new(
        tables: &'a D::Tables,
        grad: &'a SparseGrad<D>,
        rule: UpdateRule,
        weights: impl Into<TableValuesMut<'a, D, E>>,
        state: impl Into<TableStateMut<'a, D>>,
    ) -> Self {
        let (weights, state) = (weights.into(), state.into());
        Self { tables, grad, rule, weights, state, decay_scale: None }
    }

    /// Gives every row a factor of its weight decay, [`TableBatch::num_rows`] elements. By default
    /// every factor is 1.
    pub fn decay_scale(self, decay_scale: impl Into<View<'a, D, f32>>) -> Self {
        Self { decay_scale: Some(decay_scale.into()), ..self }
    }
}

impl<D: SparseUpdateOps, E: Element> Apply<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid rule, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.sparse_update_apply(Self { rule: self.rule.for_rows(), ..self })
    }

    /// Checks the shapes and the rule, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid rule.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "sparse_update.apply";
        self.grad.check_tables(OP, "grad", self.tables.as_ref())?;
        check_decay_scale::<D>(OP, self.tables.as_ref(), &self.decay_scale)?;
        check_target::<D, E>(OP, self.tables.as_ref(), &self.rule, &self.weights, &self.state)
    }
}

/// The arguments of [`Reduce`] and [`Apply`] in one op, without a gradient in memory.
#[non_exhaustive]
pub struct Update<'a, D: Device, E: Element, I: Index, G: Element = f32> {
    /// The source of the gradient.
    pub source: PooledGrad<'a, D, I, G>,
    /// The values and the gate of the step that the op reads from the device, one entry each.
    pub control: StepControl<'a, D>,
    /// The update rule.
    pub rule: UpdateRule,
    /// The factors of the weight decay of each row, by linear row number: [`TableBatch::num_rows`]
    /// elements; `None` for factors of 1.
    pub decay_scale: Option<View<'a, D, f32>>,
    /// The weights of all tables: [`TableBatch::num_weights`] elements in one view, or a matrix for
    /// each table.
    pub weights: TableValuesMut<'a, D, E>,
    /// The state of the optimizer for all tables: one `f32` for each row or for each element; see
    /// [`TableStateMut`].
    pub state: TableStateMut<'a, D>,
    /// The workspace: at least [`Self::workspace_len`] words of 8 bytes.
    pub workspace: ViewMut<'a, D, u64>,
}

impl<'a, D: Device, E: Element, I: Index, G: Element> Update<'a, D, E, I, G> {
    /// Makes the arguments of a step, which updates `weights` and `state` in place. Its values are
    /// those of the rule, its gate is open, and the factors of the weight decay are 1.
    pub fn new(
        source: PooledGrad<'a, D, I, G>,
        rule: UpdateRule,
        weights: impl Into<TableValuesMut<'a, D, E>>,
        state: impl Into<TableStateMut<'a, D>>,
        workspace: impl Into<ViewMut<'a, D, u64>>,
    ) -> Self {
        Self {
            source,
            rule,
            weights: weights.into(),
            state: state.into(),
            workspace: workspace.into(),
            control: StepControl::default(),
            decay_scale: None,
        }
    }

    /// Lets the op read values and gate of the step from the device. By default the values are
    /// those of the rule, and there is no gate.
    pub fn control(self, control: StepControl<'a, D>) -> Self {
        Self { control, ..self }
    }

    /// Gives every row a factor of its weight decay, [`TableBatch::num_rows`] elements. By default
    /// every factor is 1.
    pub fn decay_scale(self, decay_scale: impl Into<View<'a, D, f32>>) -> Self {
        Self { decay_scale: Some(decay_scale.into()), ..self }
    }
}

impl<D: SparseUpdateOps, E: Element, I: Index, G: Element> Update<'_, D, E, I, G> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid rule, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.sparse_update_update(Self { rule: self.rule.for_rows(), ..self })
    }

    /// Returns the number of 8-byte words of workspace for a batch of `num_indices` ids.
    pub fn workspace_len(backend: &D, tables: &TableBatch, num_indices: usize) -> usize {
        backend.sparse_update_workspace_len(tables, num_indices)
    }

    /// Checks the shapes and the rule, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or an invalid rule.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "sparse_update.update";
        self.source.check(OP)?;
        let needed = Self::workspace_len(
            backend,
            self.source.tables.as_ref(),
            self.source.bags.num_indices(),
        );
        expect_at_least(OP, "workspace", self.workspace.len(), needed)?;
        self.control.check(OP)?;
        check_decay_scale::<D>(OP, self.source.tables.as_ref(), &self.decay_scale)?;
        check_target::<D, E>(
            OP,
            self.source.tables.as_ref(),
            &self.rule,
            &self.weights,
            &self.state,
        )
    }

    /// Returns the number of bytes that a step moves if no id occurs twice: the position and the
    /// bag of each id and the gradient of each bag are read once; weights and state of a row are
    /// read and written once for each id that names it. The least traffic is lower: it reads and
    /// writes each distinct row once, whatever the number of its ids. The 12 bytes of a row and its
    /// segment in the order, `argmax` and `decay_scale` are not counted. Assumes that all features
    /// have the same number of ids.
    pub fn bytes_moved(&self) -> usize {
        let rows = self.source.bags.num_indices();
        let elements = self.source.tables.as_ref().elements_of_rows(rows);
        sum([self.source.bytes_moved(), step_bytes::<E>(&self.rule, rows, elements)])
    }

    /// Returns the least number of bytes moved if the ids name `distinct_rows` rows, counted as
    /// [`Self::bytes_moved`] does, but with each of these rows once, and with the 12 bytes of its
    /// number and its segment in the order.
    pub fn least_bytes(&self, distinct_rows: usize) -> usize {
        let elements = self.source.tables.as_ref().elements_of_rows(distinct_rows);
        sum([
            self.source.bytes_moved(),
            product([distinct_rows, 8 + 4]),
            step_bytes::<E>(&self.rule, distinct_rows, elements),
        ])
    }
}

/// The order and the workspace of [`step`]. They grow with the largest batch so far.
pub struct Scratch<D: Device> {
    sorted: SortedIndices<D>,
    workspace: D::Buffer<u64>,
}

impl<D: IndexSortOps + SparseUpdateOps> Scratch<D> {
    /// Makes a scratch without room for any batch.
    ///
    /// # Errors
    /// Propagates errors of [`Device::alloc`].
    pub fn new(device: &D) -> Result<Self> {
        Ok(Self { sorted: SortedIndices::new(device, 0, 0)?, workspace: device.alloc(0)? })
    }

    /// Makes room for a batch, and an eighth more than it needs.
    fn grow<E: Element, I: Index>(
        &mut self,
        device: &D,
        tables: &TableBatch,
        bags: &Bags<'_, D, I>,
    ) -> Result<()> {
        let roomy = |len: usize| sum([len, len / 8]);
        let (ids, num_bags) = (bags.num_indices(), bags.num_bags(tables));
        if !self.sorted.has_room(ids, num_bags) {
            self.sorted = SortedIndices::new(device, roomy(ids), roomy(num_bags))?;
        }
        let words = Sort::<D, I>::workspace_len(device, tables, ids)
            .max(Update::<D, E, I>::workspace_len(device, tables, ids));
        if self.workspace.extent() < words {
            self.workspace = device.alloc(roomy(words))?;
        }
        Ok(())
    }
}

/// Takes a step on each row that a batch looks up: [`Sort`] and [`Update`] in one call.
///
/// `grad_output` is the gradient of the pooled output, `[batch_size, width]` without gaps;
/// `weights` are those of all tables, [`TableBatch::num_weights`] elements. If the rule gives no
/// number, the step is the one after the last that the state has seen. This allocates if the batch
/// is larger than all before it. The ops themselves never allocate, and have the options that this
/// call lacks: max pooling, clamped gradients, gaps, factors of the weight decay.
///
/// # Errors
/// Returns an error for wrong shapes, for tables with max pooling and for an invalid rule, before
/// anything is written. Reports a bad id as [`Sort::run`] does: on the CPU no row is changed then,
/// on CUDA the rows of the valid ids are. Propagates errors of [`Device::alloc`].
#[allow(clippy::too_many_arguments)]
pub fn step<'a, D: IndexSortOps + SparseUpdateOps, E: Element, I: Index>(
    device: &D,
    tables: &D::Tables,
    bags: Bags<'_, D, I>,
    grad_output: impl Into<View<'a, D, f32>>,
    rule: UpdateRule,
    weights: impl Into<TableValuesMut<'a, D, E>>,
    state: &mut OptimizerState<D>,
    scratch: &mut Scratch<D>,
) -> Result<()> {
    const OP: &str = "sparse_update.step";
    let (layout, weights) = (tables.as_ref(), weights.into());
    bags.check(OP, layout)?;
    if layout.has_max() {
        let reason = "a feature is pooled by max: use `Sort`, `PooledGrad::argmax` and `Update`";
        return Err(invalid(OP, "tables", reason));
    }
    scratch.grow::<E, I>(device, layout, &bags)?;
    let Scratch { sorted, workspace } = scratch;
    let number = if rule.step == 0 { state.steps.saturating_add(1) } else { rule.step };
    let grad_output: View<'_, D, f32> = grad_output.into();
    let grad_output = Matrix::contiguous(grad_output, bags.batch_size, layout.width());
    Sort::new(tables, bags, sorted, D::view_mut(workspace)).run(device)?;
    let source = PooledGrad::new(tables, bags, sorted, grad_output);
    let (rule, views) = (rule.at_step(number), state.view_mut());
    Update::new(source, rule, weights, views, D::view_mut(workspace)).run(device)?;
    state.steps = number;
    Ok(())
}

/// Returns the number of bytes that a step reads and writes of weights and state.
fn step_bytes<E: Element>(rule: &UpdateRule, rows: usize, elements: usize) -> usize {
    let state = sum(rule.optimizer.state_len(rows, elements));
    product([2, sum([product([elements, size_of::<E>()]), product([state, 4])])])
}

/// Checks the number of factors of the weight decay.
fn check_decay_scale<D: Device>(
    op: &'static str,
    tables: &TableBatch,
    scale: &Option<View<'_, D, f32>>,
) -> Result<()> {
    scale
        .as_ref()
        .map_or(Ok(()), |scale| expect_size(op, "decay_scale", scale.len(), tables.num_rows()))
}

/// Checks the rule, and the sizes of weights and state.
fn check_target<D: Device, E: Element>(
    op: &'static str,
    tables: &TableBatch,
    rule: &UpdateRule,
    weights: &TableValuesMut<'_, D, E>,
    state: &TableStateMut<'_, D>,
) -> Result<()> {
    rule.check(op)?;
    weights.check(op, "weights", tables, Per::Element)?;
    let per = rule.optimizer.state_per();
    state.check(op, rule.optimizer, |values, name| values.check(op, name, tables, per))
}
