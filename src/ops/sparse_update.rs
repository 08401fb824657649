//! Gradients of table rows, and optimizer steps on the rows that have one.
//!
//! The gradient of a row is the sum over its occurrences in the batch. With `g = clamp(dL/dout[b,
//! columns of f])`, an occurrence `i` in bag `(f, b)` of `n` counted ids contributes `wᵢ g` (sum),
//! `(wᵢ / n) g` (mean), or `g` in the columns whose maximum came from it (max). Duplicates are
//! summed first; then each row takes **one** step of the optimizer
//! ([`Optimizer`](super::Optimizer)).
//!
//! - [`Update`] does both at once, in place;
//! - [`Reduce`] keeps the sums in a [`SparseGrad`], which [`Merge`] adds to another one and
//!   [`Apply`] applies later.
//!
//! [`Reduce`] followed by [`Apply`] gives the same bits as [`Update`].
//!
//! **Numerics.** A row's occurrences, in the order of their positions, are cut into chunks of
//! [`CHUNK`], and each chunk is summed in order, starting from its first contribution. The sums of
//! the chunks are cut and summed in the same way, and the sums of those, until one is left: a tree,
//! so that no run of additions is longer than [`CHUNK`], however hot a row is. Sums are in `f32`,
//! product and sum rounded separately. The order depends on nothing else, so results are the same
//! for any number of threads. A contribution takes part in at most `CHUNK - 1` additions on each of
//! `L = ⌈log m / log CHUNK⌉` levels, so the error of a sum of `m` contributions is at most `γₖ
//! Σ|contribution|`, `k = min(m, (CHUNK - 1) L) + 2`: the rounding of each factor and product
//! included.

use std::sync::Arc;

use super::bags::Bags;
use super::device::Device;
use super::index_sort::SortedIndices;
use super::matrix::{Matrix, matrix_name};
use super::optimizer::{OptimizerStateMut, StepControl, UpdateRule, check_max_gradient};
use super::tables::{Table, TableBatch};
use super::views::Extent;
use crate::dtype::{Element, Index};
use crate::error::{Result, expect_at_least, expect_size, invalid};
use crate::size::{product, sum};

/// The number of occurrences of a row, or of sums of them, that are summed in a run.
pub const CHUNK: usize = 64;

/// What a backend provides; call it through the `run` of each op, which validates.
pub trait SparseUpdateOps: Device {
    /// See [`Reduce`].
    fn sparse_update_reduce<I: Index>(&self, args: Reduce<'_, Self, I>) -> Result<()>;
    /// See [`Merge`].
    fn sparse_update_merge(&self, args: Merge<'_, Self>) -> Result<()>;
    /// See [`Apply`].
    fn sparse_update_apply<E: Element>(&self, args: Apply<'_, Self, E>) -> Result<()>;
    /// See [`Update`].
    fn sparse_update_update<E: Element, I: Index>(
        &self,
        args: Update<'_, Self, E, I>,
    ) -> Result<()>;
    /// See [`Update::workspace_len`] and [`Reduce::workspace_len`].
    fn sparse_update_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize;
    /// See [`Merge::workspace_len`].
    fn sparse_update_merge_workspace_len(&self, tables: &TableBatch, num_rows: usize) -> usize;
}

/// Where the gradient of a batch comes from: the order of its ids, and the gradient of the pooled
/// output.
pub struct PooledGrad<'a, D: Device, I: Index> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// The ids, as they were when `sorted` was made.
    pub bags: Bags<'a, D, I>,
    /// The order of the ids.
    pub sorted: &'a SortedIndices<D>,
    /// `[batch_size, width]`.
    pub grad_output: Matrix<'a, D, f32>,
    /// `[batch_size, width]`, from the forward pass. Needed if any feature is pooled by max.
    pub argmax: Option<Matrix<'a, D, u32>>,
    /// Every element of `grad_output` is clamped to `[-max, max]`.
    pub max_gradient: Option<f32>,
}

impl<D: Device, I: Index> PooledGrad<'_, D, I> {
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
        check_max_gradient(op, self.max_gradient)?;
        match self.argmax {
            Some(argmax) => {
                argmax.check(op, matrix_name!("argmax"), self.bags.batch_size, tables.width())
            }
            None if tables.has_max() => {
                Err(invalid(op, "argmax", "needed, since a feature is pooled by max"))
            }
            None => Ok(()),
        }
    }

    fn bytes_moved(&self) -> usize {
        let order = product([self.bags.num_indices(), 4 + 4]);
        sum([order, product([self.bags.batch_size, self.tables.as_ref().width(), 4])])
    }
}

/// A gradient that has values for some rows only.
///
/// With `u` the number in `counts`: row `rows[k]`, `k < u`, has the gradient
/// `values[starts[k] .. starts[k + 1]]`; `rows` rises strictly.
///
/// The buffers belong to the gradient, and only ops write them, so that others can rely on what
/// they hold. Ops refuse the gradient for tables other than those that it was made for.
pub struct SparseGrad<D: Device> {
    pub(crate) rows: D::Buffer<u64>,
    pub(crate) starts: D::Buffer<u64>,
    pub(crate) values: D::Buffer<f32>,
    pub(crate) counts: D::Buffer<u32>,
    tables: Arc<[Table]>,
}

impl<D: Device> SparseGrad<D> {
    /// Room for the gradients of `capacity` rows of these tables. A batch needs at most as many as
    /// it has ids, and as there are rows.
    ///
    /// # Errors
    /// Those of [`Device::alloc`].
    pub fn new(device: &D, tables: &TableBatch, capacity: usize) -> Result<Self> {
        let capacity = capacity.min(tables.num_rows());
        let values = device.alloc(product([capacity, tables.max_dim()]))?;
        Self::with_buffers(
            device,
            tables,
            device.alloc(capacity)?,
            device.alloc(sum([capacity, 1]))?,
            values,
        )
    }

    /// Makes a gradient from existing buffers for rows, starts and values, whatever they hold.
    ///
    /// # Errors
    /// Fails if the buffer for starts or the one for values has room for fewer rows than the one
    /// for rows, and as [`Device::alloc`] does.
    pub fn with_buffers(
        device: &D,
        tables: &TableBatch,
        rows: D::Buffer<u64>,
        starts: D::Buffer<u64>,
        values: D::Buffer<f32>,
    ) -> Result<Self> {
        const OP: &str = "SparseGrad";
        let capacity = rows.extent();
        expect_at_least(OP, "starts", starts.extent(), sum([capacity, 1]))?;
        expect_at_least(OP, "values", values.extent(), product([capacity, tables.max_dim()]))?;
        Ok(Self {
            rows,
            starts,
            values,
            counts: device.alloc(1)?,
            tables: Arc::clone(tables.shared_tables()),
        })
    }

    /// The largest number of rows that there is room for.
    pub fn capacity(&self) -> usize {
        self.rows.extent()
    }

    /// Linear row numbers, each once.
    pub fn rows(&self) -> D::Slice<'_, u64> {
        D::view(&self.rows)
    }

    /// The bounds of each row's values.
    pub fn starts(&self) -> D::Slice<'_, u64> {
        D::view(&self.starts)
    }

    /// The gradients, row after row.
    pub fn values(&self) -> D::Slice<'_, f32> {
        D::view(&self.values)
    }

    /// The number of rows.
    pub fn counts(&self) -> D::Slice<'_, u32> {
        D::view(&self.counts)
    }

    /// Refuses other tables.
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

    /// Refuses other tables, and more rows than there is room for.
    fn check(&self, op: &'static str, tables: &TableBatch, rows: usize) -> Result<()> {
        self.check_tables(op, "grad", tables)?;
        expect_at_least(op, "grad.capacity", self.capacity(), rows.min(tables.num_rows()))
    }
}

/// Sums the gradient of each row.
pub struct Reduce<'a, D: Device, I: Index> {
    /// Where the gradient comes from.
    pub source: PooledGrad<'a, D, I>,
    /// Where it goes.
    pub grad: &'a mut SparseGrad<D>,
    /// [`Self::workspace_len`] words.
    pub workspace: D::SliceMut<'a, u64>,
}

impl<D: SparseUpdateOps, I: Index> Reduce<'_, D, I> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.sparse_update_reduce(self)
    }

    /// The 8-byte words of workspace for a batch of `num_indices` ids.
    pub fn workspace_len(backend: &D, tables: &TableBatch, num_indices: usize) -> usize {
        backend.sparse_update_workspace_len(tables, num_indices)
    }

    /// Checks shapes; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "sparse_update.reduce";
        let (tables, num_indices) = (self.source.tables.as_ref(), self.source.bags.num_indices());
        self.source.check(OP)?;
        let needed = Self::workspace_len(backend, tables, num_indices);
        expect_at_least(OP, "workspace", self.workspace.extent(), needed)?;
        self.grad.check(OP, tables, num_indices)
    }
}

/// The sum of two gradients: `out = a + b`.
pub struct Merge<'a, D: Device> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// A gradient.
    pub a: &'a SparseGrad<D>,
    /// Another one.
    pub b: &'a SparseGrad<D>,
    /// The sum, with room for the rows of both.
    pub out: &'a mut SparseGrad<D>,
    /// [`Self::workspace_len`] words.
    pub workspace: D::SliceMut<'a, u64>,
}

impl<D: SparseUpdateOps> Merge<'_, D> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.sparse_update_merge(self)
    }

    /// The 8-byte words of workspace for gradients with room for `num_rows` rows together.
    pub fn workspace_len(backend: &D, tables: &TableBatch, num_rows: usize) -> usize {
        backend.sparse_update_merge_workspace_len(tables, num_rows)
    }

    /// Checks shapes; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "sparse_update.merge";
        let (tables, rows) = (self.tables.as_ref(), self.max_rows());
        if rows > u32::MAX as usize - 1 {
            return Err(invalid(OP, "out", "gradients of more than 2^32 - 2 rows together"));
        }
        expect_at_least(
            OP,
            "workspace",
            self.workspace.extent(),
            Self::workspace_len(backend, tables, rows),
        )?;
        self.a.check_tables(OP, "a", tables)?;
        self.b.check_tables(OP, "b", tables)?;
        self.out.check(OP, tables, rows)
    }

    /// The most rows that both can have together.
    fn max_rows(&self) -> usize {
        sum([self.a.capacity(), self.b.capacity()])
    }
}

/// One optimizer step on each row that has a gradient.
pub struct Apply<'a, D: Device, E: Element> {
    /// The tables and features.
    pub tables: &'a D::Tables,
    /// The gradient.
    pub grad: &'a SparseGrad<D>,
    /// The step.
    pub rule: UpdateRule,
    /// If there, the weight decay of a row is multiplied by the entry of its linear row number:
    /// [`TableBatch::num_rows`] of them.
    pub decay_scale: Option<D::Slice<'a, f32>>,
    /// All tables, one after another: [`TableBatch::num_weights`] elements.
    pub weights: D::SliceMut<'a, E>,
    /// What the optimizer remembers, for all tables, one after another.
    pub state: OptimizerStateMut<'a, D>,
}

impl<D: SparseUpdateOps, E: Element> Apply<'_, D, E> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes or a rule without meaning, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.sparse_update_apply(Self { rule: self.rule.for_rows(), ..self })
    }

    /// Checks shapes and rule; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes or a rule without meaning.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "sparse_update.apply";
        self.grad.check_tables(OP, "grad", self.tables.as_ref())?;
        check_decay_scale::<D>(OP, self.tables.as_ref(), &self.decay_scale)?;
        check_target::<D, E>(OP, self.tables.as_ref(), &self.rule, &self.weights, &self.state)
    }
}

/// [`Reduce`] and [`Apply`] in one, without a gradient in between.
pub struct Update<'a, D: Device, E: Element, I: Index> {
    /// Where the gradient comes from.
    pub source: PooledGrad<'a, D, I>,
    /// What is read from the device.
    pub control: StepControl<'a, D>,
    /// The step.
    pub rule: UpdateRule,
    /// If there, the weight decay of a row is multiplied by the entry of its linear row number:
    /// [`TableBatch::num_rows`] of them.
    pub decay_scale: Option<D::Slice<'a, f32>>,
    /// All tables, one after another: [`TableBatch::num_weights`] elements.
    pub weights: D::SliceMut<'a, E>,
    /// What the optimizer remembers, for all tables, one after another.
    pub state: OptimizerStateMut<'a, D>,
    /// [`Self::workspace_len`] words.
    pub workspace: D::SliceMut<'a, u64>,
}

impl<D: SparseUpdateOps, E: Element, I: Index> Update<'_, D, E, I> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes or a rule without meaning, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate(backend)?;
        backend.sparse_update_update(Self { rule: self.rule.for_rows(), ..self })
    }

    /// The 8-byte words of workspace for a batch of `num_indices` ids.
    pub fn workspace_len(backend: &D, tables: &TableBatch, num_indices: usize) -> usize {
        backend.sparse_update_workspace_len(tables, num_indices)
    }

    /// Checks shapes and rule; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes or a rule without meaning.
    pub fn validate(&self, backend: &D) -> Result<()> {
        const OP: &str = "sparse_update.update";
        self.source.check(OP)?;
        let needed = Self::workspace_len(
            backend,
            self.source.tables.as_ref(),
            self.source.bags.num_indices(),
        );
        expect_at_least(OP, "workspace", self.workspace.extent(), needed)?;
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

    /// The least number of bytes if no id occurs twice: gradient and order read, weights and state
    /// read and written.
    pub fn bytes_moved(&self) -> usize {
        let (rows, elements) = (self.source.bags.num_indices(), looked_up(&self.source));
        sum([self.source.bytes_moved(), step_bytes::<E>(&self.rule, rows, elements)])
    }
}

fn looked_up<D: Device, I: Index>(source: &PooledGrad<'_, D, I>) -> usize {
    let tables = source.tables.as_ref();
    product([source.bags.num_indices(), tables.width()])
        .checked_div(tables.features().len())
        .unwrap_or(0)
}

fn step_bytes<E: Element>(rule: &UpdateRule, rows: usize, elements: usize) -> usize {
    let state = sum(rule.optimizer.state_len(rows, elements));
    product([2, sum([product([elements, size_of::<E>()]), product([state, 4])])])
}

fn check_decay_scale<D: Device>(
    op: &'static str,
    tables: &TableBatch,
    scale: &Option<D::Slice<'_, f32>>,
) -> Result<()> {
    scale
        .as_ref()
        .map_or(Ok(()), |scale| expect_size(op, "decay_scale", scale.extent(), tables.num_rows()))
}

fn check_target<D: Device, E: Element>(
    op: &'static str,
    tables: &TableBatch,
    rule: &UpdateRule,
    weights: &D::SliceMut<'_, E>,
    state: &OptimizerStateMut<'_, D>,
) -> Result<()> {
    rule.check(op)?;
    expect_size(op, "weights", weights.extent(), tables.num_weights())?;
    state.check(op, rule.optimizer, tables.num_rows(), tables.num_weights())
}
