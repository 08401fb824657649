//! [`sparse_update`](crate::ops::sparse_update) on the CPU: one pass over the rows, each of which
//! is summed, stepped and written while later ones are on their way from memory. Rows rise, so that
//! weights and state can be cut between any two of them and handed to threads.

use std::ops::Range;

use super::Cpu;
use super::compute::optimizer::{RandomBits, Squares, StateRun, Step};
use super::compute::row_gradient::{Occurrences, RowGradients, Sums};
use super::compute::vector::{Blocks, add_row, for_each_block, load, store};
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::ops::sparse_update::{Apply, Merge, Reduce, SparseGrad, SparseUpdateOps, Update};
use crate::ops::{Optimizer, OptimizerStateMut, Rounding, TableBatch, UpdateRule};
use crate::simd::{LANES, Lanes, Loop, prefetch_row};

/// Columns whose gradients are kept from one pass over a row to the next: those of longer rows are
/// summed once more.
const KEPT: usize = 128;
/// Rows of a task, at least: enough to be worth a fork.
const ROWS_PER_TASK: usize = 64;
/// Tasks for each thread, so that hot rows on one of them do not keep the others waiting.
const TASKS_PER_THREAD: usize = 32;
/// Rows that are asked for ahead of their use.
const ROWS_AHEAD: usize = 32;

impl SparseUpdateOps for Cpu {
    fn sparse_update_reduce<I: Index>(&self, args: Reduce<'_, Self, I>) -> Result<()> {
        let Reduce { source, grad, workspace: _ } = args;
        let unique = source.sorted.counts[1] as usize;
        grad.rows[..unique].copy_from_slice(&source.sorted.rows[..unique]);
        grad.counts[0] = unique as u32;
        fill_starts(source.tables, grad, unique);
        let SparseGrad { starts, values, .. } = grad;
        let gradients = Occurrences::new(&source);
        self.run(|| self.reduce_rows(&gradients, 0..unique, starts, values));
        Ok(())
    }

    fn sparse_update_merge(&self, args: Merge<'_, Self>) -> Result<()> {
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
        Ok(())
    }

    fn sparse_update_apply<E: Element>(&self, args: Apply<'_, Self, E>) -> Result<()> {
        let Apply { tables, grad, rule, decay_scale, weights, state } = args;
        let rows = &grad.rows[..grad.counts[0] as usize];
        let (step, gradients) = (Step::new(&rule), Sums::new(grad));
        self.step_rows(
            &RowStep { tables, rows, rule, step, decay_scale, gradients },
            weights,
            state,
        );
        Ok(())
    }

    fn sparse_update_update<E: Element, I: Index>(
        &self,
        args: Update<'_, Self, E, I>,
    ) -> Result<()> {
        let Update { source, control, rule, decay_scale, weights, state, workspace: _ } = args;
        if control.is_shut() {
            return Ok(());
        }
        let rule = control.rule(rule);
        let rows = &source.sorted.rows[..source.sorted.counts[1] as usize];
        let (step, gradients) = (Step::new(&rule), Occurrences::new(&source));
        self.step_rows(
            &RowStep { tables: source.tables, rows, rule, step, decay_scale, gradients },
            weights,
            state,
        );
        Ok(())
    }

    fn sparse_update_workspace_len(&self, _tables: &TableBatch, _num_indices: usize) -> usize {
        0
    }

    fn sparse_update_merge_workspace_len(&self, _tables: &TableBatch, _num_rows: usize) -> usize {
        0
    }
}

fn fill_starts(tables: &TableBatch, grad: &mut SparseGrad<Cpu>, unique: usize) {
    let mut end = 0;
    for k in 0..unique {
        grad.starts[k] = end;
        end += tables.tables()[tables.table_of_row(grad.rows[k] as usize)].embedding_dim as u64;
    }
    grad.starts[unique] = end;
}

impl Cpu {
    fn rows_of_task(&self, rows: usize) -> usize {
        match self.num_threads() {
            1 => rows,
            threads => (rows / (threads * TASKS_PER_THREAD)).max(ROWS_PER_TASK),
        }
    }

    /// Keeps the gradients of a range of rows.
    fn reduce_rows(
        &self,
        gradients: &impl RowGradients,
        range: Range<usize>,
        starts: &[u64],
        values: &mut [f32],
    ) {
        if range.len() > self.rows_of_task(starts.len()) {
            let middle = range.start + range.len() / 2;
            let (left, right) =
                values.split_at_mut((starts[middle] - starts[range.start]) as usize);
            return self.join(
                || self.reduce_rows(gradients, range.start..middle, starts, left),
                || self.reduce_rows(gradients, middle..range.end, starts, right),
            );
        }
        self.dispatch.run(ReduceRows { gradients, range, starts, values });
    }

    /// One step on each of the rows.
    fn step_rows<E: Element>(
        &self,
        step: &RowStep<'_, impl RowGradients>,
        weights: &mut [E],
        state: OptimizerStateMut<'_, Self>,
    ) {
        let state = match (state, step.rule.optimizer) {
            (OptimizerStateMut::None, _) => RowsState::None,
            (OptimizerStateMut::SumOfSquares(sums), Optimizer::RowwiseAdagrad { .. }) => {
                RowsState::Rowwise(sums)
            }
            (OptimizerStateMut::SumOfSquares(sums), _) => RowsState::Elementwise(sums),
            (OptimizerStateMut::Moments { first, second }, _) => RowsState::Moments(first, second),
        };
        if !step.rows.is_empty() {
            let target = Target { weights, state, first_row: 0, first_weight: 0 };
            self.run(|| step.run_parts(self, 0..step.rows.len(), target));
        }
    }
}

/// Keeps the gradients of a range of rows.
struct ReduceRows<'a, G> {
    gradients: &'a G,
    range: Range<usize>,
    starts: &'a [u64],
    values: &'a mut [f32],
}

impl<G: RowGradients> Loop for ReduceRows<'_, G> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let start = |k: usize| (self.starts[k] - self.starts[self.range.start]) as usize;
        for k in self.range.clone() {
            let values = &mut self.values[start(k)..start(k + 1)];
            for_each_block(
                values.len(),
                &mut KeepBlocks { gradients: self.gradients, lanes, k, values },
            );
        }
    }
}

/// Keeps the gradient of row `k`, block by block.
struct KeepBlocks<'t, V, G> {
    gradients: &'t G,
    lanes: V,
    k: usize,
    values: &'t mut [f32],
}

impl<V: Lanes, G: RowGradients> Blocks for KeepBlocks<'_, V, G> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        let gradient = self.gradients.gradient::<V, N, WHOLE>(self.lanes, self.k, columns.clone());
        store::<V, f32, N, WHOLE>(self.lanes, gradient, &mut self.values[columns]);
    }
}

/// A part of the weights and of the state: that of the rows from `first_row` on.
struct Target<'a, E> {
    weights: &'a mut [E],
    state: RowsState<'a>,
    first_row: usize,
    /// Where `first_row` begins in the buffer of weights.
    first_weight: usize,
}

/// The state of a run of rows.
enum RowsState<'a> {
    None,
    Elementwise(&'a mut [f32]),
    Rowwise(&'a mut [f32]),
    Moments(&'a mut [f32], &'a mut [f32]),
}

impl<'a, E: Element> Target<'a, E> {
    /// Cuts before `row`.
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

/// What is the same for all rows of a step.
struct RowStep<'a, G> {
    tables: &'a TableBatch,
    rows: &'a [u64],
    rule: UpdateRule,
    step: Step,
    /// For each linear row, what its weight decay is multiplied by.
    decay_scale: Option<&'a [f32]>,
    /// Those of `rows`.
    gradients: G,
}

impl<G: RowGradients> RowStep<'_, G> {
    fn run_parts<E: Element>(&self, cpu: &Cpu, range: Range<usize>, target: Target<'_, E>) {
        if range.len() > cpu.rows_of_task(self.rows.len()) {
            let middle = range.start + range.len() / 2;
            let (left, right) = target.split_at_row(self.tables, self.rows[middle] as usize);
            return cpu.join(
                || self.run_parts(cpu, range.start..middle, left),
                || self.run_parts(cpu, middle..range.end, right),
            );
        }
        cpu.dispatch.run(StepPart { of: self, range, target });
    }
}

/// A step on a range of rows, and what is theirs.
struct StepPart<'a, 't, G, E> {
    of: &'t RowStep<'a, G>,
    range: Range<usize>,
    target: Target<'t, E>,
}

impl<G: RowGradients, E: Element> Loop for StepPart<'_, '_, G, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self, lanes: V) {
        let tables = self.of.tables;
        let rows = &self.of.rows[..self.range.end];
        let mut kept = [0f32; KEPT];
        for k in self.range.clone().take(ROWS_AHEAD) {
            let table = TableOf::row(tables, rows[k] as usize);
            self.prefetch(&table, rows[k] as usize);
        }
        let mut first = self.range.start;
        while first < rows.len() {
            let table = TableOf::row(tables, rows[first] as usize);
            let end = first + rows[first..].partition_point(|&row| (row as usize) < table.end_row);
            match table.dim {
                16 => self.step_table::<V, 1>(lanes, first..end, table, &mut kept),
                32 => self.step_table::<V, 2>(lanes, first..end, table, &mut kept),
                64 => self.step_table::<V, 4>(lanes, first..end, table, &mut kept),
                _ => self.step_table::<V, 0>(lanes, first..end, table, &mut kept),
            }
            first = end;
        }
    }
}

/// The table of a row.
struct TableOf {
    table: usize,
    dim: usize,
    first_row: usize,
    end_row: usize,
    first_weight: usize,
}

impl TableOf {
    fn row(tables: &TableBatch, row: usize) -> Self {
        let table = tables.table_of_row(row);
        Self {
            table,
            dim: tables.tables()[table].embedding_dim,
            first_row: tables.row_offsets()[table],
            end_row: tables.row_offsets()[table + 1],
            first_weight: tables.weight_offsets()[table],
        }
    }
}

impl<G: RowGradients, E: Element> StepPart<'_, '_, G, E> {
    /// Where the weights of a row begin in those of the target, which itself may begin within the
    /// table.
    #[inline(always)]
    fn start(&self, table: &TableOf, row: usize) -> usize {
        (table.first_weight + (row - table.first_row) * table.dim)
            .wrapping_sub(self.target.first_weight)
    }

    #[inline(always)]
    fn prefetch(&self, table: &TableOf, row: usize) {
        let (start, dim) = (self.start(table, row), table.dim);
        prefetch_row(self.target.weights, start, dim);
        match &self.target.state {
            RowsState::None => {}
            RowsState::Rowwise(sums) => prefetch_row(sums, row - self.target.first_row, 1),
            RowsState::Elementwise(sums) => prefetch_row(sums, start, dim),
            RowsState::Moments(first, second) => {
                prefetch_row(first, start, dim);
                prefetch_row(second, start, dim);
            }
        }
    }

    /// One step on rows of a table. They are of N vectors, or N is 0.
    #[inline(always)]
    fn step_table<V: Lanes, const N: usize>(
        &mut self,
        lanes: V,
        rows: Range<usize>,
        table: TableOf,
        kept: &mut [f32],
    ) {
        let gradients = self.of.gradients.of_table(table.table);
        let table = TableOf { dim: if N == 0 { table.dim } else { N * LANES }, ..table };
        for k in rows {
            if let Some(&ahead) = self.of.rows[..self.range.end].get(k + ROWS_AHEAD) {
                // In a table of other rows this asks for what is of no use, which does no harm.
                self.prefetch(&table, ahead as usize);
            }
            self.step_row::<V, N>(lanes, k, &table, &gradients, kept);
        }
    }

    /// One step on the row with the number `k`.
    #[inline(always)]
    fn step_row<V: Lanes, const N: usize>(
        &mut self,
        lanes: V,
        k: usize,
        table: &TableOf,
        gradients: &G,
        kept: &mut [f32],
    ) {
        let RowStep { rows, rule, step, decay_scale, .. } = *self.of;
        let row = rows[k] as usize;
        let (start, dim) = (self.start(table, row), table.dim);
        let step = decay_scale.map_or(step, |scale| step.with_decay_scaled(scale[row]));
        let random = match rule.rounding {
            Rounding::Stochastic { seed } => {
                Some(RandomBits::new(seed, rule.step, table.table, row - table.first_row))
            }
            Rounding::Nearest => None,
        };
        let columns = start..start + dim;
        let (state, sum) = match &mut self.target.state {
            RowsState::None => (StateRun::None, None),
            RowsState::Rowwise(sums) => {
                (StateRun::None, Some(&mut sums[row - self.target.first_row]))
            }
            RowsState::Elementwise(sums) => {
                (StateRun::Elementwise(&mut sums[columns.clone()]), None)
            }
            RowsState::Moments(first, second) => {
                (StateRun::Moments(&mut first[columns.clone()], &mut second[columns.clone()]), None)
            }
        };
        let weights = &mut self.target.weights[columns];
        let row = Row { gradients, lanes, k, step, weights, state, random, kept, squares: None };
        match N {
            0 => row.step_blocks(sum),
            _ => row.step_whole::<N>(sum),
        }
    }
}

/// A row that takes a step.
struct Row<'t, V: Lanes, G, E> {
    gradients: &'t G,
    lanes: V,
    /// Its number among those of the step.
    k: usize,
    step: Step,
    weights: &'t mut [E],
    /// Where it is of the whole row, its learning rate, once that is known.
    state: StateRun<'t>,
    random: Option<RandomBits>,
    /// Room for the gradient of a row of no more than [`KEPT`] columns.
    kept: &'t mut [f32],
    /// While they are summed: the sum over the whole row comes before the first weight changes.
    squares: Option<Squares<V>>,
}

impl<V: Lanes, G: RowGradients, E: Element> Row<'_, V, G, E> {
    /// Of a row that registers hold as a whole. `sum` is that of all its squared gradients so far,
    /// if the learning rate depends on it.
    #[inline(always)]
    fn step_whole<const N: usize>(mut self, sum: Option<&mut f32>) {
        let (lanes, columns) = (self.lanes, 0..N * LANES);
        let grad = self.gradients.gradient::<V, N, true>(lanes, self.k, columns.clone());
        if let Some(sum) = sum {
            let mut squares = Squares::default();
            self.step.add_squares::<V, E, N, true>(lanes, &mut squares, grad, self.weights);
            self.set_rate(sum, squares);
        }
        self.update::<N, true>(grad, columns);
    }

    /// The same, block by block.
    #[inline(always)]
    fn step_blocks(mut self, sum: Option<&mut f32>) {
        let dim = self.weights.len();
        if let Some(sum) = sum {
            self.squares = Some(Squares::default());
            for_each_block(dim, &mut self);
            let squares = self.squares.take().unwrap_or_default();
            self.set_rate(sum, squares);
        }
        for_each_block(dim, &mut self);
    }

    #[inline(always)]
    fn set_rate(&mut self, sum: &mut f32, squares: Squares<V>) {
        *sum += squares.total(self.lanes) / self.weights.len() as f32;
        self.state = StateRun::Rowwise(self.step.rate_of_row(*sum));
    }

    #[inline(always)]
    fn update<const N: usize, const WHOLE: bool>(
        &mut self,
        grad: [V::F32; N],
        columns: Range<usize>,
    ) {
        let weights = &mut self.weights[columns.clone()];
        let state = self.state.part(columns.clone());
        let updated = self.step.update::<V, E, N, WHOLE>(self.lanes, grad, weights, state);
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
        let keeps = self.weights.len() <= KEPT;
        let is_kept = keeps && matches!(self.state, StateRun::Rowwise(_));
        let grad = match is_kept {
            true => load::<V, f32, N, WHOLE>(lanes, &self.kept[columns.clone()]),
            false => self.gradients.gradient::<V, N, WHOLE>(lanes, self.k, columns.clone()),
        };
        let Some(squares) = &mut self.squares else {
            return self.update::<N, WHOLE>(grad, columns);
        };
        if keeps {
            store::<V, f32, N, WHOLE>(lanes, grad, &mut self.kept[columns.clone()]);
        }
        self.step.add_squares::<V, E, N, WHOLE>(lanes, squares, grad, &self.weights[columns]);
    }
}
