//! [`sparse_update`](crate::ops::sparse_update) on the CPU: one pass over the rows, each of which is summed, stepped and written while later ones are
//! on their way from memory. Rows rise, so that weights and state can be cut between any two of them and handed to threads.

use std::ops::Range;

use super::Cpu;
use super::optimizer::{RandomBits, StateRun, Step};
use super::row_gradient::{Occurrences, RowGradients, Sums};
use super::vector::add_row;
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::ops::sparse_update::{Apply, Merge, Reduce, SparseGrad, SparseUpdateOps, Update};
use crate::ops::{Optimizer, OptimizerStateMut, Rounding, TableBatch, UpdateRule};
use crate::simd::{Lanes, Loop, prefetch_row};

/// Columns that are worked on at a time, on the stack.
const BLOCK: usize = 128;
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
        self.install(|| self.reduce_rows(&gradients, 0..unique, starts, values));
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
        self.step_rows(&RowStep { tables, rows, rule, step, decay_scale, gradients }, weights, state);
        Ok(())
    }

    fn sparse_update_update<E: Element, I: Index>(&self, args: Update<'_, Self, E, I>) -> Result<()> {
        let Update { source, control, rule, decay_scale, weights, state, workspace: _ } = args;
        if control.is_shut() {
            return Ok(());
        }
        let rule = control.rule(rule);
        let rows = &source.sorted.rows[..source.sorted.counts[1] as usize];
        let (step, gradients) = (Step::new(&rule), Occurrences::new(&source));
        self.step_rows(&RowStep { tables: source.tables, rows, rule, step, decay_scale, gradients }, weights, state);
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
    fn reduce_rows(&self, gradients: &impl RowGradients, range: Range<usize>, starts: &[u64], values: &mut [f32]) {
        if range.len() > self.rows_of_task(starts.len()) {
            let middle = range.start + range.len() / 2;
            let (left, right) = values.split_at_mut((starts[middle] - starts[range.start]) as usize);
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
            (OptimizerStateMut::SumOfSquares(sums), Optimizer::RowwiseAdagrad { .. }) => RowsState::Rowwise(sums),
            (OptimizerStateMut::SumOfSquares(sums), _) => RowsState::Elementwise(sums),
            (OptimizerStateMut::Moments { first, second }, _) => RowsState::Moments(first, second),
        };
        if !step.rows.is_empty() {
            let target = Target { weights, state, first_row: 0, first_weight: 0 };
            self.install(|| step.run_parts(self, 0..step.rows.len(), target));
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
            self.gradients.gradient(lanes, k, 0..values.len(), values);
        }
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
                (RowsState::Moments(first_left, second_left), RowsState::Moments(first_right, second_right))
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
        for k in self.range.clone().take(ROWS_AHEAD) {
            let table = TableOf::row(tables, rows[k] as usize);
            self.prefetch(&table, rows[k] as usize);
        }
        let mut k = self.range.start;
        while k < rows.len() {
            let table = TableOf::row(tables, rows[k] as usize);
            while k < rows.len() && (rows[k] as usize) < table.end_row {
                if let Some(&ahead) = rows.get(k + ROWS_AHEAD) {
                    // In a table of other rows this asks for what is of no use, which does no harm.
                    self.prefetch(&table, ahead as usize);
                }
                self.step_row(lanes, k, &table, rows[k] as usize);
                k += 1;
            }
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
    /// Where the weights of a row begin in those of the target, which itself may begin within the table.
    #[inline(always)]
    fn start(&self, table: &TableOf, row: usize) -> usize {
        (table.first_weight + (row - table.first_row) * table.dim).wrapping_sub(self.target.first_weight)
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

    /// One step on `row`, the one with the number `k`.
    #[inline(always)]
    fn step_row<V: Lanes>(&mut self, lanes: V, k: usize, table: &TableOf, row: usize) {
        let RowStep { rule, step, decay_scale, gradients, .. } = self.of;
        let (start, dim) = (self.start(table, row), table.dim);
        let step = decay_scale.map_or(*step, |scale| step.with_decay_scaled(scale[row]));
        let mut random = match rule.rounding {
            Rounding::Stochastic { seed } => Some(RandomBits::new(seed, rule.step, table.table, row - table.first_row)),
            Rounding::Nearest => None,
        };
        let weights = &mut self.target.weights[start..start + dim];
        let mut block = [0f32; BLOCK];
        // The sum over the whole row comes before the first weight changes. The gradient of a row of one block is made only once.
        let rate = match &mut self.target.state {
            RowsState::Rowwise(sums) => {
                let mut squares = 0.0;
                for columns in blocks(dim) {
                    let grad = &mut block[..columns.len()];
                    gradients.gradient(lanes, k, columns.clone(), grad);
                    squares = step.sum_of_squares(lanes, squares, grad, &weights[columns]);
                }
                let sum = &mut sums[row - self.target.first_row];
                *sum += squares / dim as f32;
                Some(step.rate_of_row(*sum))
            }
            _ => None,
        };
        for columns in blocks(dim) {
            let grad = &mut block[..columns.len()];
            if rate.is_none() || dim > BLOCK {
                gradients.gradient(lanes, k, columns.clone(), grad);
            }
            let of_state = start + columns.start..start + columns.end;
            let state = match (&mut self.target.state, rate) {
                (_, Some(rate)) => StateRun::Rowwise(rate),
                (RowsState::Elementwise(sums), _) => StateRun::Elementwise(&mut sums[of_state]),
                (RowsState::Moments(first, second), _) => {
                    StateRun::Moments(&mut first[of_state.clone()], &mut second[of_state])
                }
                (RowsState::None | RowsState::Rowwise(_), None) => StateRun::None,
            };
            let random = random.as_mut().map(|random| random.from(columns.start));
            step.update(lanes, grad, &mut weights[columns], state, random);
        }
    }
}

/// The columns of a row, at most [`BLOCK`] at a time.
#[inline(always)]
fn blocks(dim: usize) -> impl Iterator<Item = Range<usize>> {
    (0..dim).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(dim))
}
