//! [`sparse_update`](crate::ops::sparse_update) on the CPU.
//!
//! A step is one pass over the rows that have a gradient: each row's gradient is summed, its
//! weights and state are updated and stored, while later rows are prefetched. A [`Step`] is cut
//! into tasks for threads, a task is a list of [`Piece`]s of one table each, and a piece is updated
//! [`Row`] after row. Row numbers are linear, which means that they count through all tables. They
//! rise within a step, so that weights and state can be cut between any two rows.

use std::ops::Range;

use super::Cpu;
use super::compute::optimizer::{PreparedRule, RandomBits, Squares, StateRun};
use super::compute::row_gradient::{
    GradSource, OccurrenceGradients, RowGradients, SummedGradients,
};
use super::compute::vector::{Blocks, add_row, for_each_block, load, store};
use super::runtime::erased::{AnyTablesMut, ByElement, with_elements};
use crate::dtype::{Element, Index, Scalar};
use crate::error::Result;
use crate::ops::sparse_update::{Apply, Merge, Reduce, SparseGrad, SparseUpdateOps, Update};
use crate::ops::table_values::Per;
use crate::ops::{
    MatrixMut, Optimizer, Rounding, StepControl, TableBatch, TableStateMut, TableValuesMut,
    UpdateRule, View,
};
use crate::simd::{LANES, Lanes, Loop, prefetch_row};
use crate::size::product;

/// The most columns of a row whose gradient is kept from the first pass of row-wise Adagrad, which
/// sums the squares, to the second one, which updates. The gradient of a longer row is summed
/// again.
const MAX_KEPT_COLUMNS: usize = 128;
/// The fewest rows of a task: enough to be worth a fork.
const MIN_ROWS_PER_TASK: usize = 64;
/// The number of tasks per thread: many, so that hot rows on one thread do not keep the others
/// waiting.
const TASKS_PER_THREAD: usize = 32;
/// The prefetch distance in rows.
const PREFETCH_ROWS: usize = 32;

impl SparseUpdateOps for Cpu {
    fn sparse_update_reduce<I: Index, G: Element>(
        &self,
        args: Reduce<'_, Self, I, G>,
    ) -> Result<()> {
        let Reduce { source, grad, workspace: _ } = args;
        let cpu = &self.for_rows(source.sorted.counts[0] as usize, source.tables);
        reduce(cpu, &GradSource::new(source), grad);
        Ok(())
    }

    fn sparse_update_merge(&self, args: Merge<'_, Self>) -> Result<()> {
        merge(args);
        Ok(())
    }

    fn sparse_update_apply<E: Element>(&self, args: Apply<'_, Self, E>) -> Result<()> {
        let Apply { tables, grad, rule, decay_scale, weights, state } = args;
        let weights = ByElement::of(weights);
        let decay_scale = decay_scale.map(View::as_slice);
        let cpu = &self.for_rows(grad.counts[0] as usize, tables);
        apply(cpu, tables, grad, rule, decay_scale, weights, state);
        Ok(())
    }

    fn sparse_update_update<E: Element, I: Index, G: Element>(
        &self,
        args: Update<'_, Self, E, I, G>,
    ) -> Result<()> {
        let Update { source, control, rule, decay_scale, weights, state, workspace: _ } = args;
        let weights = ByElement::of(weights);
        let decay_scale = decay_scale.map(View::as_slice);
        let cpu = &self.for_rows(source.sorted.counts[0] as usize, source.tables);
        update(cpu, &GradSource::new(source), control, rule, decay_scale, weights, state);
        Ok(())
    }

    fn sparse_update_workspace_len(&self, _tables: &TableBatch, _num_indices: usize) -> usize {
        0
    }

    fn sparse_update_merge_workspace_len(&self, _tables: &TableBatch, _num_rows: usize) -> usize {
        0
    }
}

impl Cpu {
    /// Returns this CPU, with a single thread if the gradients and updates of so many rows, or
    /// occurrences of rows, are not worth more threads.
    fn for_rows(&self, rows: usize, tables: &TableBatch) -> Self {
        self.for_bytes(product([rows, tables.max_dim(), 2 * size_of::<f32>()]))
    }
}

/// Sums the gradient of each row into `grad`.
fn reduce(cpu: &Cpu, source: &GradSource<'_>, grad: &mut SparseGrad<Cpu>) {
    let num_rows = source.sorted.counts[1] as usize;
    grad.rows[..num_rows].copy_from_slice(&source.sorted.rows[..num_rows]);
    grad.counts[0] = num_rows as u32;
    write_starts(source.tables, grad, num_rows);
    let SparseGrad { starts, values, .. } = grad;
    let gradients = OccurrenceGradients::new(source);
    let starts = &starts[..=num_rows];
    cpu.run(|| reduce_rows(cpu, &gradients, 0..num_rows, starts, values));
}

/// Writes the start of each row's values, and the end of the last one.
fn write_starts(tables: &TableBatch, grad: &mut SparseGrad<Cpu>, num_rows: usize) {
    let mut end = 0;
    for k in 0..num_rows {
        grad.starts[k] = end;
        end += tables.tables()[tables.table_of_row(grad.rows[k] as usize)].embedding_dim as u64;
    }
    grad.starts[num_rows] = end;
}

/// Merges two gradients row by row, as sorted lists are merged.
fn merge(args: Merge<'_, Cpu>) {
    let Merge { tables, a, b, out, workspace: _ } = args;
    let (a_len, b_len) = (a.counts[0] as usize, b.counts[0] as usize);
    let (mut i, mut j, mut len, mut end) = (0, 0, 0, 0);
    while i < a_len || j < b_len {
        let row = match (a.rows[..a_len].get(i), b.rows[..b_len].get(j)) {
            (Some(&x), Some(&y)) => x.min(y),
            (Some(&x), None) | (None, Some(&x)) => x,
            (None, None) => break,
        };
        let dim = tables.tables()[tables.table_of_row(row as usize)].embedding_dim;
        let sum = &mut out.values[end..end + dim];
        sum.fill(0.0);
        for (from, k, from_len) in [(a, &mut i, a_len), (b, &mut j, b_len)] {
            if *k < from_len && from.rows[*k] == row {
                add_row(sum, &from.values[from.starts[*k] as usize..][..dim]);
                *k += 1;
            }
        }
        out.rows[len] = row;
        out.starts[len] = end as u64;
        len += 1;
        end += dim;
    }
    out.starts[len] = end as u64;
    out.counts[0] = len as u32;
}

/// Restores the element type of the weights, and takes a step with gradients that have been summed.
fn apply<'a>(
    cpu: &Cpu,
    tables: &'a TableBatch,
    grad: &'a SparseGrad<Cpu>,
    rule: UpdateRule,
    decay_scale: Option<&'a [f32]>,
    weights: AnyTablesMut<'a>,
    state: TableStateMut<'a, Cpu>,
) {
    let rows = &grad.rows[..grad.counts[0] as usize];
    let gradients = SummedGradients::new(grad);
    let step = Step::new(tables, rows, rule, decay_scale, gradients);
    with_elements!(weights => step.run(cpu, weights, state));
}

/// Restores the element type of the weights, and takes a step with gradients that are summed on the
/// fly. A shut gate in `control` skips the step.
fn update<'a>(
    cpu: &Cpu,
    source: &GradSource<'a>,
    control: StepControl<'a, Cpu>,
    rule: UpdateRule,
    decay_scale: Option<&'a [f32]>,
    weights: AnyTablesMut<'a>,
    state: TableStateMut<'a, Cpu>,
) {
    if control.is_shut() {
        return;
    }
    let rule = control.rule(rule);
    let rows = &source.sorted.rows[..source.sorted.counts[1] as usize];
    let gradients = OccurrenceGradients::new(source);
    let step = Step::new(source.tables, rows, rule, decay_scale, gradients);
    with_elements!(weights => step.run(cpu, weights, state));
}

/// Returns the most rows of a task, for `num_rows` rows in all.
fn rows_per_task(cpu: &Cpu, num_rows: usize) -> usize {
    match cpu.num_threads() {
        1 => num_rows,
        threads => (num_rows / (threads * TASKS_PER_THREAD)).max(MIN_ROWS_PER_TASK),
    }
}

/// Sums and stores the gradients of a range of rows, in parallel if it is longer than a task.
fn reduce_rows(
    cpu: &Cpu,
    gradients: &impl RowGradients,
    range: Range<usize>,
    starts: &[u64],
    values: &mut [f32],
) {
    if range.len() > rows_per_task(cpu, starts.len()) {
        let middle = range.start + range.len() / 2;
        let (left, right) = values.split_at_mut((starts[middle] - starts[range.start]) as usize);
        return cpu.join(
            || reduce_rows(cpu, gradients, range.start..middle, starts, left),
            || reduce_rows(cpu, gradients, middle..range.end, starts, right),
        );
    }
    cpu.dispatch.run(ReduceRows { gradients, range, starts, values });
}

/// Sums and stores the gradients of a range of rows.
struct ReduceRows<'a, G> {
    gradients: &'a G,
    range: Range<usize>,
    /// The start of each row's values, and the end of the last one, for all rows.
    starts: &'a [u64],
    /// The values of the range.
    values: &'a mut [f32],
}

impl<G: RowGradients> Loop for ReduceRows<'_, G> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let start = |k: usize| (self.starts[k] - self.starts[self.range.start]) as usize;
        for k in self.range.clone() {
            let values = &mut self.values[start(k)..start(k + 1)];
            for_each_block::<V>(
                values.len(),
                &mut StoreBlocks { gradients: self.gradients, lanes, k, values },
            );
        }
    }
}

/// Stores the gradient of row `k`, block by block.
struct StoreBlocks<'t, V, G> {
    gradients: &'t G,
    lanes: V,
    k: usize,
    values: &'t mut [f32],
}

impl<V: Lanes, G: RowGradients> Blocks for StoreBlocks<'_, V, G> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        let gradient = self.gradients.gradient::<V, N, WHOLE>(self.lanes, self.k, columns.clone());
        store::<V, f32, N, WHOLE>(self.lanes, gradient, &mut self.values[columns]);
    }
}

/// Consecutive rows of a table: weights, or optimizer state.
struct Rows<'a, T> {
    values: &'a mut [T],
    /// The leading dimension.
    ld: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Splits the rows before row `row` of these.
    fn split_at(self, row: usize) -> (Self, Self) {
        let middle = (row * self.ld).min(self.values.len());
        let (left, right) = self.values.split_at_mut(middle);
        (Self { values: left, ..self }, Self { values: right, ..self })
    }

    /// Returns the first `dim` columns of a row.
    #[inline(always)]
    fn row(&mut self, row: usize, dim: usize) -> &mut [T] {
        &mut self.values[row * self.ld..][..dim]
    }

    /// Prefetches the first `dim` columns of a row.
    #[inline(always)]
    fn prefetch(&self, row: usize, dim: usize) {
        prefetch_row(self.values, row * self.ld, dim);
    }
}

/// The weights and the optimizer state of consecutive rows of a table.
struct Storage<'a, E> {
    weights: Rows<'a, E>,
    state: RowsState<'a>,
    /// The number within its table of the first row.
    first_row: usize,
}

/// The optimizer state of consecutive rows of a table.
enum RowsState<'a> {
    None,
    /// One sum of squares for each element.
    Elementwise(Rows<'a, f32>),
    /// One sum of squares for each row.
    Rowwise(Rows<'a, f32>),
    /// The first and the second moment of each element.
    Moments(Rows<'a, f32>, Rows<'a, f32>),
}

impl<'a> RowsState<'a> {
    /// Splits the state before row `row` of these.
    fn split_at(self, row: usize) -> (Self, Self) {
        match self {
            Self::None => (Self::None, Self::None),
            Self::Elementwise(sums) => {
                let (left, right) = sums.split_at(row);
                (Self::Elementwise(left), Self::Elementwise(right))
            }
            Self::Rowwise(sums) => {
                let (left, right) = sums.split_at(row);
                (Self::Rowwise(left), Self::Rowwise(right))
            }
            Self::Moments(first, second) => {
                let (first_left, first_right) = first.split_at(row);
                let (second_left, second_right) = second.split_at(row);
                (Self::Moments(first_left, second_left), Self::Moments(first_right, second_right))
            }
        }
    }
}

impl<'a, E: Element> Storage<'a, E> {
    /// Splits the rows before `row`, a number within the table.
    fn split_at_row(self, row: usize) -> (Self, Self) {
        let middle = row - self.first_row;
        let (left, right) = self.weights.split_at(middle);
        let (state_left, state_right) = self.state.split_at(middle);
        (
            Self { weights: left, state: state_left, ..self },
            Self { weights: right, state: state_right, first_row: row },
        )
    }

    /// Prefetches the weights and the state of a row.
    #[inline(always)]
    fn prefetch(&self, row: usize, dim: usize) {
        let row = row - self.first_row;
        self.weights.prefetch(row, dim);
        match &self.state {
            RowsState::None => {}
            RowsState::Rowwise(sums) => sums.prefetch(row, 1),
            RowsState::Elementwise(sums) => sums.prefetch(row, dim),
            RowsState::Moments(first, second) => {
                first.prefetch(row, dim);
                second.prefetch(row, dim);
            }
        }
    }
}

/// Cuts weights and state into those of each table.
fn storages<'a, E: Element>(
    tables: &TableBatch,
    weights: TableValuesMut<'a, Cpu, E>,
    state: TableStateMut<'a, Cpu>,
    optimizer: Optimizer,
) -> Vec<Storage<'a, E>> {
    let per = optimizer.state_per();
    let mut storages: Vec<_> = rows_of_tables(tables, weights, Per::Element)
        .map(|weights| Storage { weights, state: RowsState::None, first_row: 0 })
        .collect();
    match state {
        TableStateMut::None => {}
        TableStateMut::SumOfSquares(sums) => {
            for (storage, sums) in storages.iter_mut().zip(rows_of_tables(tables, sums, per)) {
                storage.state = match per {
                    Per::Row => RowsState::Rowwise(sums),
                    Per::Element => RowsState::Elementwise(sums),
                };
            }
        }
        TableStateMut::Moments { first, second } => {
            let both = rows_of_tables(tables, first, per).zip(rows_of_tables(tables, second, per));
            for (storage, (first, second)) in storages.iter_mut().zip(both) {
                storage.state = RowsState::Moments(first, second);
            }
        }
    }
    storages
}

/// Cuts values into those of each table.
fn rows_of_tables<'a, T: Scalar>(
    tables: &TableBatch,
    values: TableValuesMut<'a, Cpu, T>,
    per: Per,
) -> impl Iterator<Item = Rows<'a, T>> {
    let (mut joined, mut separate) = match values {
        TableValuesMut::Joined(values) => (values.into_slice(), Vec::new().into_iter()),
        TableValuesMut::Separate(tables) => (&mut [][..], tables.values.into_iter()),
    };
    tables.tables().iter().map(move |table| match separate.next() {
        Some(MatrixMut { data, ld, .. }) => Rows { values: data.into_slice(), ld },
        None => {
            let ld = per.columns(table);
            let (values, rest) =
                std::mem::take(&mut joined).split_at_mut(table.num_embeddings * ld);
            joined = rest;
            Rows { values, ld }
        }
    })
}

/// A step on all rows that have a gradient.
struct Step<'a, G> {
    tables: &'a TableBatch,
    /// The linear rows, in rising order.
    rows: &'a [u64],
    rule: UpdateRule,
    prepared: PreparedRule,
    /// The factor of the weight decay of each linear row of the tables.
    decay_scale: Option<&'a [f32]>,
    /// The gradient of each entry of `rows`.
    gradients: G,
}

impl<'a, G: RowGradients> Step<'a, G> {
    fn new(
        tables: &'a TableBatch,
        rows: &'a [u64],
        rule: UpdateRule,
        decay_scale: Option<&'a [f32]>,
        gradients: G,
    ) -> Self {
        let prepared = PreparedRule::new(&rule);
        Self { tables, rows, rule, prepared, decay_scale, gradients }
    }

    /// Takes the step.
    fn run<E: Element>(
        &self,
        cpu: &Cpu,
        weights: TableValuesMut<'_, Cpu, E>,
        state: TableStateMut<'_, Cpu>,
    ) {
        if !self.rows.is_empty() {
            let storages = storages(self.tables, weights, state, self.rule.optimizer);
            let mut tasks = self.tasks(storages, rows_per_task(cpu, self.rows.len()));
            cpu.for_each_chunk(&mut tasks, 1, |_, tasks| {
                tasks.iter_mut().for_each(|task| self.run_task(cpu, task));
            });
        }
    }

    /// Cuts the rows into tasks of `rows_per_task` rows. A task is a list of pieces, each of one
    /// table.
    fn tasks<'t, E: Element>(
        &self,
        storages: Vec<Storage<'t, E>>,
        rows_per_task: usize,
    ) -> Vec<Vec<Piece<'t, E>>> {
        let mut tasks: Vec<Vec<Piece<'t, E>>> = Vec::new();
        let mut first = 0;
        for (number, mut storage) in storages.into_iter().enumerate() {
            let table = Table {
                number,
                dim: self.tables.tables()[number].embedding_dim,
                first_row: self.tables.row_offsets()[number],
            };
            let end_row = self.tables.row_offsets()[number + 1];
            let end = first + self.rows[first..].partition_point(|&row| (row as usize) < end_row);
            while first < end {
                let end_of_task = (first / rows_per_task + 1) * rows_per_task;
                if first.is_multiple_of(rows_per_task) {
                    tasks.push(Vec::new());
                }
                let rows = first..end.min(end_of_task);
                first = rows.end;
                // The next piece begins at its first row that has a gradient. Behind the table's
                // last piece nothing is left.
                let behind = self.rows.get(first).map_or(end_row, |&row| end_row.min(row as usize));
                let (left, right) = storage.split_at_row(behind - table.first_row);
                if let Some(pieces) = tasks.last_mut() {
                    pieces.push(Piece { rows, table, storage: left });
                }
                storage = right;
            }
        }
        tasks
    }

    /// Updates the rows of a task, table after table.
    fn run_task<E: Element>(&self, cpu: &Cpu, pieces: &mut [Piece<'_, E>]) {
        let mut kept = [0f32; MAX_KEPT_COLUMNS];
        for piece in pieces {
            // `RowsOfTable` prefetches the row `PREFETCH_ROWS` ahead, which never is one of these.
            for k in piece.rows.clone().take(PREFETCH_ROWS) {
                piece.prefetch(self.rows[k] as usize);
            }
            // The usual widths are compile-time constants, so that a row needs no loop over blocks
            // and its gradient stays in registers. These have room for `WIDE` = 4 vectors.
            let dim = piece.table.dim;
            let rows = RowsOfTable { step: self, piece, kept: &mut kept };
            match dim {
                16 => cpu.dispatch.run(WholeRows::<_, _, 1>(rows)),
                32 => cpu.dispatch.run(WholeRows::<_, _, 2>(rows)),
                64 => cpu.dispatch.run(WholeRows::<_, _, 4>(rows)),
                _ => cpu.dispatch.run(RowsInBlocks(rows)),
            }
        }
    }
}

/// A table and its first linear row.
#[derive(Clone, Copy)]
struct Table {
    /// The number of the table.
    number: usize,
    /// The columns of a row.
    dim: usize,
    first_row: usize,
}

/// The rows of a task that belong to one table.
struct Piece<'t, E> {
    /// The range of the step's rows.
    rows: Range<usize>,
    table: Table,
    /// The weights and the state of these rows, at least.
    storage: Storage<'t, E>,
}

impl<E: Element> Piece<'_, E> {
    /// Prefetches the weights and the state of a linear row.
    #[inline(always)]
    fn prefetch(&self, row: usize) {
        self.storage.prefetch(row - self.table.first_row, self.table.dim);
    }
}

/// The loop over the rows of a piece.
struct RowsOfTable<'a, 't, 'r, G, E> {
    step: &'r Step<'a, G>,
    piece: &'r mut Piece<'t, E>,
    kept: &'r mut [f32],
}

impl<G: RowGradients, E: Element> RowsOfTable<'_, '_, '_, G, E> {
    /// Updates the rows. A row has `N` vectors, or any number of columns if `N` is 0.
    #[inline(always)]
    fn update<V: Lanes, const N: usize>(self, lanes: V) {
        let Self { step, piece, kept } = self;
        let gradients = step.gradients.for_table(piece.table.number);
        if N != 0 {
            // `dim` has this value already, but now the compiler knows it.
            piece.table.dim = N * LANES;
        }
        for k in piece.rows.clone() {
            if k + PREFETCH_ROWS < piece.rows.end {
                piece.prefetch(step.rows[k + PREFETCH_ROWS] as usize);
            }
            // Few registers would spill a row of several vectors.
            match V::UNROLLS_ROWS {
                true => step.update_row::<V, E, N>(lanes, k, piece, &gradients, kept),
                false => step.update_row::<V, E, 0>(lanes, k, piece, &gradients, kept),
            }
        }
    }
}

// The two loops over rows are compiled for many types. The compiler makes a code generation unit of
// each module, and compiles them side by side.
mod in_blocks {
    use super::{Element, Lanes, Loop, RowGradients, RowsOfTable};

    /// The loop over rows of any width, block by block.
    pub(super) struct RowsInBlocks<'a, 't, 'r, G, E>(pub(super) RowsOfTable<'a, 't, 'r, G, E>);

    impl<G: RowGradients, E: Element> Loop for RowsInBlocks<'_, '_, '_, G, E> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self, lanes: V) {
            self.0.update::<V, 0>(lanes);
        }
    }
}
mod whole {
    use super::{Element, Lanes, Loop, RowGradients, RowsOfTable};

    /// The loop over rows of `N` vectors.
    pub(super) struct WholeRows<'a, 't, 'r, G, E, const N: usize>(
        pub(super) RowsOfTable<'a, 't, 'r, G, E>,
    );

    impl<G: RowGradients, E: Element, const N: usize> Loop for WholeRows<'_, '_, '_, G, E, N> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self, lanes: V) {
            self.0.update::<V, N>(lanes);
        }
    }
}
use in_blocks::RowsInBlocks;
use whole::WholeRows;

impl<G: RowGradients> Step<'_, G> {
    /// Updates row `k` of the step, which is in `piece`.
    #[inline(always)]
    fn update_row<V: Lanes, E: Element, const N: usize>(
        &self,
        lanes: V,
        k: usize,
        piece: &mut Piece<'_, E>,
        gradients: &G,
        kept: &mut [f32],
    ) {
        let Self { rows, rule, prepared, decay_scale, .. } = *self;
        let Table { number, dim, first_row } = piece.table;
        let linear = rows[k] as usize;
        let (in_table, in_piece) =
            (linear - first_row, linear - first_row - piece.storage.first_row);
        let rule_of_row =
            decay_scale.map_or(prepared, |scale| prepared.with_decay_scaled(scale[linear]));
        let random = match rule.rounding {
            Rounding::Stochastic { seed } => {
                Some(RandomBits::new(seed, rule.step, number, in_table))
            }
            Rounding::Nearest => None,
        };
        let (state, sum) = match &mut piece.storage.state {
            RowsState::None => (StateRun::None, None),
            RowsState::Rowwise(sums) => (StateRun::None, sums.row(in_piece, 1).first_mut()),
            RowsState::Elementwise(sums) => (StateRun::Elementwise(sums.row(in_piece, dim)), None),
            RowsState::Moments(first, second) => {
                (StateRun::Moments(first.row(in_piece, dim), second.row(in_piece, dim)), None)
            }
        };
        let weights = piece.storage.weights.row(in_piece, dim);
        let row = Row {
            gradients,
            lanes,
            k,
            rule: rule_of_row,
            weights,
            state,
            random,
            kept,
            squares: None,
        };
        match N {
            0 => row.update_in_blocks(sum),
            _ => row.update_whole::<N>(sum),
        }
    }
}

/// The update of a row.
struct Row<'t, V: Lanes, G, E> {
    gradients: &'t G,
    lanes: V,
    /// The row's number among those of the step.
    k: usize,
    /// The rule, with the row's weight decay.
    rule: PreparedRule,
    weights: &'t mut [E],
    /// The state of the row's elements, or the learning rate of the whole row once it is known.
    state: StateRun<'t>,
    /// The random bits of stochastic rounding.
    random: Option<RandomBits>,
    /// Space for the gradient of a row of at most [`MAX_KEPT_COLUMNS`] columns.
    kept: &'t mut [f32],
    /// The sum of the squared gradients, during the pass that computes it: the sum over the whole
    /// row must be known before the first weight changes.
    squares: Option<Squares<V>>,
}

impl<V: Lanes, G: RowGradients, E: Element> Row<'_, V, G, E> {
    /// Updates a row that fits the registers as a whole. `sum` is the state of row-wise Adagrad,
    /// the row's sum of squares before this step; other optimizers have none.
    #[inline(always)]
    fn update_whole<const N: usize>(mut self, sum: Option<&mut f32>) {
        let (lanes, columns) = (self.lanes, 0..N * LANES);
        let grad = self.gradients.gradient::<V, N, true>(lanes, self.k, columns.clone());
        if let Some(sum) = sum {
            let mut squares = Squares::default();
            self.rule.add_squares::<V, E, N, true>(lanes, &mut squares, grad, self.weights);
            self.set_rate(sum, squares);
        }
        self.update::<N, true>(grad, columns);
    }

    /// Updates a row block by block. If there is a `sum`, a first pass sums the squares, since the
    /// learning rate of the row depends on all of them. [`Blocks::block`] is the body of both
    /// passes.
    #[inline(always)]
    fn update_in_blocks(mut self, sum: Option<&mut f32>) {
        let dim = self.weights.len();
        if let Some(sum) = sum {
            self.squares = Some(Squares::default());
            for_each_block::<V>(dim, &mut self);
            let squares = self.squares.take().unwrap_or_default();
            self.set_rate(sum, squares);
        }
        for_each_block::<V>(dim, &mut self);
    }

    /// Adds the mean of the squared gradients to the row's sum of squares, which gives the learning
    /// rate.
    #[inline(always)]
    fn set_rate(&mut self, sum: &mut f32, squares: Squares<V>) {
        *sum += squares.total(self.lanes) / self.weights.len() as f32;
        self.state = StateRun::Rowwise(self.rule.rate_of_row(*sum));
    }

    /// Updates a block of columns.
    #[inline(always)]
    fn update<const N: usize, const WHOLE: bool>(
        &mut self,
        grad: [V::F32; N],
        columns: Range<usize>,
    ) {
        let weights = &mut self.weights[columns.clone()];
        let state = self.state.part(columns.clone());
        let updated = self.rule.update::<V, E, N, WHOLE>(self.lanes, grad, weights, state);
        match &mut self.random {
            None => store::<V, E, N, WHOLE>(self.lanes, updated, weights),
            Some(random) => {
                let updated = updated.into_iter().flat_map(|vector| self.lanes.to_array(vector));
                for ((weight, value), column) in weights.iter_mut().zip(updated).zip(columns) {
                    *weight = E::from_f32_stochastic(value, random.at(column));
                }
            }
        }
    }
}

impl<V: Lanes, G: RowGradients, E: Element> Blocks for Row<'_, V, G, E> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        let lanes = self.lanes;
        let fits = self.weights.len() <= MAX_KEPT_COLUMNS;
        // The state is a learning rate only in the second pass of row-wise Adagrad, for which the
        // first one has kept the gradient.
        let is_kept = fits && matches!(self.state, StateRun::Rowwise(_));
        let grad = match is_kept {
            true => load::<V, f32, N, WHOLE>(lanes, &self.kept[columns.clone()]),
            false => self.gradients.gradient::<V, N, WHOLE>(lanes, self.k, columns.clone()),
        };
        // `squares` is there in the pass that sums them, and not in the one that updates.
        let Some(squares) = &mut self.squares else {
            return self.update::<N, WHOLE>(grad, columns);
        };
        if fits {
            store::<V, f32, N, WHOLE>(lanes, grad, &mut self.kept[columns.clone()]);
        }
        self.rule.add_squares::<V, E, N, WHOLE>(lanes, squares, grad, &self.weights[columns]);
    }
}
