//! [`sparse_update`](crate::ops::sparse_update) on the CPU.
//!
//! A step is one pass over the rows that have a gradient: each row's gradient is summed, its
//! weights and state are updated and stored, while later rows are prefetched. A [`Step`] is cut
//! into [`Task`]s for threads, a task handles [`Table`] after table, and a table [`Row`] after row.
//! Row numbers are linear, which means that they count through all tables. They rise within a step,
//! so that weights and state can be cut between any two rows.

use std::ops::Range;

use super::Cpu;
use super::compute::optimizer::{PreparedRule, RandomBits, Squares, StateRun};
use super::compute::row_gradient::{
    GradSource, OccurrenceGradients, RowGradients, SummedGradients,
};
use super::compute::vector::{Blocks, add_row, for_each_block, load, store};
use super::runtime::erased::{ByElement, ElementsMut, with_elements};
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::ops::sparse_update::{Apply, Merge, Reduce, SparseGrad, SparseUpdateOps, Update};
use crate::ops::{
    Optimizer, OptimizerStateMut, Rounding, StepControl, TableBatch, UpdateRule, View,
};
use crate::simd::{LANES, Lanes, Loop, prefetch_row};

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
    fn sparse_update_reduce<I: Index>(&self, args: Reduce<'_, Self, I>) -> Result<()> {
        let Reduce { source, grad, workspace: _ } = args;
        reduce(self, &GradSource::new(source), grad);
        Ok(())
    }

    fn sparse_update_merge(&self, args: Merge<'_, Self>) -> Result<()> {
        merge(args);
        Ok(())
    }

    fn sparse_update_apply<E: Element>(&self, args: Apply<'_, Self, E>) -> Result<()> {
        let Apply { tables, grad, rule, decay_scale, weights, state } = args;
        let weights = ByElement::of(weights.into_slice());
        let decay_scale = decay_scale.map(View::as_slice);
        apply(self, tables, grad, rule, decay_scale, weights, state);
        Ok(())
    }

    fn sparse_update_update<E: Element, I: Index>(
        &self,
        args: Update<'_, Self, E, I>,
    ) -> Result<()> {
        let Update { source, control, rule, decay_scale, weights, state, workspace: _ } = args;
        let weights = ByElement::of(weights.into_slice());
        let decay_scale = decay_scale.map(View::as_slice);
        update(self, &GradSource::new(source), control, rule, decay_scale, weights, state);
        Ok(())
    }

    fn sparse_update_workspace_len(&self, _tables: &TableBatch, _num_indices: usize) -> usize {
        0
    }

    fn sparse_update_merge_workspace_len(&self, _tables: &TableBatch, _num_rows: usize) -> usize {
        0
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
    weights: ElementsMut<'a>,
    state: OptimizerStateMut<'a, Cpu>,
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
    weights: ElementsMut<'a>,
    state: OptimizerStateMut<'a, Cpu>,
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

/// The weights and the optimizer state of a range of linear rows.
struct Storage<'a, E> {
    weights: &'a mut [E],
    state: RowsState<'a>,
    /// The first row of the range.
    first_row: usize,
    /// The start of `first_row` in the buffer of all weights.
    first_weight: usize,
}

/// The optimizer state of a range of rows.
enum RowsState<'a> {
    None,
    /// One sum of squares for each element.
    Elementwise(&'a mut [f32]),
    /// One sum of squares for each row.
    Rowwise(&'a mut [f32]),
    /// The first and the second moment of each element.
    Moments(&'a mut [f32], &'a mut [f32]),
}

impl<'a, E: Element> Storage<'a, E> {
    /// Splits the range before `row`.
    fn split_at_row(self, tables: &TableBatch, row: usize) -> (Self, Self) {
        let first_weight = tables.weight_offset_of_row(row);
        let elements = first_weight - self.first_weight;
        let (left, right) = self.weights.split_at_mut(elements);
        let (state_left, state_right) = match self.state {
            RowsState::None => (RowsState::None, RowsState::None),
            RowsState::Elementwise(sums) => {
                let (left, right) = sums.split_at_mut(elements);
                (RowsState::Elementwise(left), RowsState::Elementwise(right))
            }
            RowsState::Rowwise(sums) => {
                let (left, right) = sums.split_at_mut(row - self.first_row);
                (RowsState::Rowwise(left), RowsState::Rowwise(right))
            }
            RowsState::Moments(first, second) => {
                let (first_left, first_right) = first.split_at_mut(elements);
                let (second_left, second_right) = second.split_at_mut(elements);
                (
                    RowsState::Moments(first_left, second_left),
                    RowsState::Moments(first_right, second_right),
                )
            }
        };
        (
            Self { weights: left, state: state_left, ..self },
            Self { weights: right, state: state_right, first_row: row, first_weight },
        )
    }
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
    fn run<E: Element>(&self, cpu: &Cpu, weights: &mut [E], state: OptimizerStateMut<'_, Cpu>) {
        let state = match (state, self.rule.optimizer) {
            (OptimizerStateMut::None, _) => RowsState::None,
            (OptimizerStateMut::SumOfSquares(sums), Optimizer::RowwiseAdagrad { .. }) => {
                RowsState::Rowwise(sums.into_slice())
            }
            (OptimizerStateMut::SumOfSquares(sums), _) => RowsState::Elementwise(sums.into_slice()),
            (OptimizerStateMut::Moments { first, second }, _) => {
                RowsState::Moments(first.into_slice(), second.into_slice())
            }
        };
        if !self.rows.is_empty() {
            let storage = Storage { weights, state, first_row: 0, first_weight: 0 };
            cpu.run(|| self.run_tasks(cpu, 0..self.rows.len(), storage));
        }
    }

    /// Updates the rows of a range, in parallel if it is longer than a task.
    fn run_tasks<E: Element>(&self, cpu: &Cpu, range: Range<usize>, storage: Storage<'_, E>) {
        if range.len() > rows_per_task(cpu, self.rows.len()) {
            let middle = range.start + range.len() / 2;
            let (left, right) = storage.split_at_row(self.tables, self.rows[middle] as usize);
            return cpu.join(
                || self.run_tasks(cpu, range.start..middle, left),
                || self.run_tasks(cpu, middle..range.end, right),
            );
        }
        Task { step: self, range, storage }.run(cpu);
    }
}

/// The part of a step that one thread takes.
struct Task<'a, 't, G, E> {
    step: &'t Step<'a, G>,
    /// The range of the step's rows.
    range: Range<usize>,
    /// The weights and the state of these rows, at least.
    storage: Storage<'t, E>,
}

impl<G: RowGradients, E: Element> Task<'_, '_, G, E> {
    /// Updates the rows of the task, table after table.
    fn run(mut self, cpu: &Cpu) {
        let tables = self.step.tables;
        let rows = &self.step.rows[..self.range.end];
        let mut kept = [0f32; MAX_KEPT_COLUMNS];
        // `RowsOfTable` prefetches the row `PREFETCH_ROWS` ahead, which never is one of these.
        for k in self.range.clone().take(PREFETCH_ROWS) {
            let table = Table::of_row(tables, rows[k] as usize);
            self.prefetch(&table, rows[k] as usize);
        }
        let mut first = self.range.start;
        while first < rows.len() {
            let table = Table::of_row(tables, rows[first] as usize);
            let end = first + rows[first..].partition_point(|&row| (row as usize) < table.end_row);
            // The usual widths are compile-time constants, so that a row needs no loop over blocks
            // and its gradient stays in registers. These have room for `WIDE` = 4 vectors.
            let dim = table.dim;
            let rows = RowsOfTable { task: &mut self, rows: first..end, table, kept: &mut kept };
            match dim {
                16 => cpu.dispatch.run(WholeRows::<_, _, 1>(rows)),
                32 => cpu.dispatch.run(WholeRows::<_, _, 2>(rows)),
                64 => cpu.dispatch.run(WholeRows::<_, _, 4>(rows)),
                _ => cpu.dispatch.run(RowsInBlocks(rows)),
            }
            first = end;
        }
    }
}

/// A table, as a range of linear rows and of weights.
struct Table {
    /// The number of the table.
    number: usize,
    /// The columns of a row.
    dim: usize,
    first_row: usize,
    end_row: usize,
    /// The start of the table in the buffer of all weights.
    first_weight: usize,
}

impl Table {
    /// Returns the table of a linear row.
    fn of_row(tables: &TableBatch, row: usize) -> Self {
        let number = tables.table_of_row(row);
        Self {
            number,
            dim: tables.tables()[number].embedding_dim,
            first_row: tables.row_offsets()[number],
            end_row: tables.row_offsets()[number + 1],
            first_weight: tables.weight_offsets()[number],
        }
    }
}

impl<G: RowGradients, E: Element> Task<'_, '_, G, E> {
    /// Returns the start of a row in the task's weights, which may begin within the table. A row of
    /// another table, which a prefetch may pass, gives any number.
    #[inline(always)]
    fn start(&self, table: &Table, row: usize) -> usize {
        (table.first_weight + (row - table.first_row) * table.dim)
            .wrapping_sub(self.storage.first_weight)
    }

    /// Prefetches the weights and the state of a row.
    #[inline(always)]
    fn prefetch(&self, table: &Table, row: usize) {
        let (start, dim) = (self.start(table, row), table.dim);
        prefetch_row(self.storage.weights, start, dim);
        match &self.storage.state {
            RowsState::None => {}
            RowsState::Rowwise(sums) => prefetch_row(sums, row - self.storage.first_row, 1),
            RowsState::Elementwise(sums) => prefetch_row(sums, start, dim),
            RowsState::Moments(first, second) => {
                prefetch_row(first, start, dim);
                prefetch_row(second, start, dim);
            }
        }
    }
}

/// The rows of a task that belong to one table.
struct RowsOfTable<'a, 't, 'r, G, E> {
    task: &'r mut Task<'a, 't, G, E>,
    rows: Range<usize>,
    table: Table,
    kept: &'r mut [f32],
}

impl<G: RowGradients, E: Element> RowsOfTable<'_, '_, '_, G, E> {
    /// Updates the rows. A row has `N` vectors, or any number of columns if `N` is 0.
    #[inline(always)]
    fn update<V: Lanes, const N: usize>(self, lanes: V) {
        let Self { task, rows, table, kept } = self;
        let gradients = task.step.gradients.for_table(table.number);
        // If `N` is not 0, `dim` has this value already, but now the compiler knows it.
        let table = Table { dim: if N == 0 { table.dim } else { N * LANES }, ..table };
        for k in rows {
            if let Some(&later) = task.step.rows[..task.range.end].get(k + PREFETCH_ROWS) {
                // A row of the next table is taken for one of this table: the prefetch is wasted,
                // but harmless.
                task.prefetch(&table, later as usize);
            }
            // Few registers would spill a row of several vectors.
            match V::UNROLLS_ROWS {
                true => task.update_row::<V, N>(lanes, k, &table, &gradients, kept),
                false => task.update_row::<V, 0>(lanes, k, &table, &gradients, kept),
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

impl<G: RowGradients, E: Element> Task<'_, '_, G, E> {
    /// Updates row `k` of the step.
    #[inline(always)]
    fn update_row<V: Lanes, const N: usize>(
        &mut self,
        lanes: V,
        k: usize,
        table: &Table,
        gradients: &G,
        kept: &mut [f32],
    ) {
        let Step { rows, rule, prepared, decay_scale, .. } = *self.step;
        let row = rows[k] as usize;
        let (start, dim) = (self.start(table, row), table.dim);
        let rule_of_row =
            decay_scale.map_or(prepared, |scale| prepared.with_decay_scaled(scale[row]));
        let random = match rule.rounding {
            Rounding::Stochastic { seed } => {
                Some(RandomBits::new(seed, rule.step, table.number, row - table.first_row))
            }
            Rounding::Nearest => None,
        };
        let columns = start..start + dim;
        let (state, sum) = match &mut self.storage.state {
            RowsState::None => (StateRun::None, None),
            RowsState::Rowwise(sums) => {
                (StateRun::None, Some(&mut sums[row - self.storage.first_row]))
            }
            RowsState::Elementwise(sums) => {
                (StateRun::Elementwise(&mut sums[columns.clone()]), None)
            }
            RowsState::Moments(first, second) => {
                (StateRun::Moments(&mut first[columns.clone()], &mut second[columns.clone()]), None)
            }
        };
        let weights = &mut self.storage.weights[columns];
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
