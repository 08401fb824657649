//! [`sparse_update`](crate::ops::sparse_update) on the CPU: rows rise, so that weights and state can be cut between any two of them and
//! handed to threads.

use std::ops::Range;

use super::Cpu;
use super::optimizer::{RandomBits, StateRun, Step};
use super::vector::add_row;
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::ops::optimizer::clamp_gradient;
use crate::ops::sparse_update::{Apply, CHUNK, Merge, PooledGrad, Reduce, SparseGrad, SparseUpdateOps, Update};
use crate::ops::{Optimizer, OptimizerStateMut, Pooling, Rounding, TableBatch, UpdateRule};

/// Columns that are worked on at a time, on the stack.
const BLOCK: usize = 128;
/// Rows of a task: enough to be worth a fork.
const ROWS_PER_TASK: usize = 64;

impl SparseUpdateOps for Cpu {
    fn sparse_update_reduce<I: Index>(&self, args: Reduce<'_, Self, I>) -> Result<()> {
        let Reduce { source, grad, workspace: _ } = args;
        let unique = source.sorted.counts[1] as usize;
        grad.rows[..unique].copy_from_slice(&source.sorted.rows[..unique]);
        grad.counts[0] = unique as u32;
        fill_starts(source.tables, grad, unique);
        let SparseGrad { starts, values, .. } = grad;
        self.install(|| {
            each_values(self, 0..unique, starts, values, &|segment, values| {
                source.sum_segment(segment, 0..values.len(), values);
            });
        });
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
        let gradient = |k: usize, columns: Range<usize>, out: &mut [f32]| {
            out.copy_from_slice(&grad.values[grad.starts[k] as usize..][columns]);
        };
        self.step_rows(&RowStep { tables, rows, rule, step: Step::new(&rule), decay_scale, gradient }, weights, state);
        Ok(())
    }

    fn sparse_update_update<E: Element, I: Index>(&self, args: Update<'_, Self, E, I>) -> Result<()> {
        let Update { source, control, rule, decay_scale, weights, state, workspace: _ } = args;
        if control.is_shut() {
            return Ok(());
        }
        let rule = control.rule(rule);
        let rows = &source.sorted.rows[..source.sorted.counts[1] as usize];
        let gradient = |k: usize, columns: Range<usize>, out: &mut [f32]| source.sum_segment(k, columns, out);
        let tables = source.tables;
        self.step_rows(&RowStep { tables, rows, rule, step: Step::new(&rule), decay_scale, gradient }, weights, state);
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

impl<I: Index> PooledGrad<'_, Cpu, I> {
    /// The gradient of some columns of the row of a segment.
    fn sum_segment(&self, segment: usize, columns: Range<usize>, sum: &mut [f32]) {
        let occurrences = self.sorted.segments[segment] as usize..self.sorted.segments[segment + 1] as usize;
        // Blocks of columns, since the sums of runs lie on the stack.
        for (k, sum) in sum.chunks_mut(BLOCK).enumerate() {
            let columns = columns.start + k * BLOCK..columns.start + k * BLOCK + sum.len();
            self.sum_run(occurrences.clone(), columns, sum);
        }
    }

    /// Sums a run of occurrences: in order if they are a chunk, else of the longest runs that are cut the same way.
    fn sum_run(&self, occurrences: Range<usize>, columns: Range<usize>, sum: &mut [f32]) {
        if occurrences.len() <= CHUNK {
            for occurrence in occurrences.clone() {
                self.add_occurrence(occurrence, columns.clone(), sum, occurrence == occurrences.start);
            }
            return;
        }
        let len = CHUNK.pow((occurrences.len() - 1).ilog(CHUNK));
        let mut run_sum = [0f32; BLOCK];
        let run_sum = &mut run_sum[..sum.len()];
        for start in occurrences.clone().step_by(len) {
            let run = start..(start + len).min(occurrences.end);
            if start == occurrences.start {
                self.sum_run(run, columns.clone(), sum);
            } else {
                self.sum_run(run, columns.clone(), run_sum);
                add_row(sum, run_sum);
            }
        }
    }

    /// Adds what one occurrence contributes to some columns of its row; `replace` for the first one of a chunk.
    #[inline]
    fn add_occurrence(&self, occurrence: usize, columns: Range<usize>, sum: &mut [f32], replace: bool) {
        let (position, bag) = (self.sorted.positions[occurrence] as usize, self.sorted.bags[occurrence] as usize);
        let (feature, sample) = (bag / self.bags.batch_size, bag % self.bags.batch_size);
        let first_column = self.tables.column_offsets()[feature];
        let columns = first_column + columns.start..first_column + columns.end;
        let grad = &self.grad_output.row(sample)[columns.clone()];
        let pooling = self.tables.features()[feature].pooling;
        if pooling == Pooling::Max {
            let within = position - self.bags.offsets[bag].to_row().unwrap_or(0);
            let sources = self.argmax.map_or(&[][..], |argmax| &argmax.row(sample)[columns]);
            for ((sum, g), source) in sum.iter_mut().zip(grad).zip(sources) {
                let g = if *source as usize == within { clamp_gradient(*g, self.max_gradient) } else { 0.0 };
                *sum = if replace { g } else { *sum + g };
            }
            return;
        }
        let weight = self.bags.per_sample_weights.map(|weights| weights[position]);
        let factor = match pooling {
            Pooling::Mean => weight.unwrap_or(1.0) / self.sorted.counted[bag] as f32,
            _ => weight.unwrap_or(1.0),
        };
        match (replace, self.max_gradient) {
            (true, max) => sum.iter_mut().zip(grad).for_each(|(sum, g)| *sum = factor * clamp_gradient(*g, max)),
            (false, None) => sum.iter_mut().zip(grad).for_each(|(sum, g)| *sum += factor * g),
            (false, max) => sum.iter_mut().zip(grad).for_each(|(sum, g)| *sum += factor * clamp_gradient(*g, max)),
        }
    }
}

/// Calls `work(k, values)` for each row of a range and its part of the values.
fn each_values(
    cpu: &Cpu,
    range: Range<usize>,
    starts: &[u64],
    values: &mut [f32],
    work: &(impl Fn(usize, &mut [f32]) + Sync),
) {
    if range.len() > ROWS_PER_TASK {
        let middle = range.start + range.len() / 2;
        let (left, right) = values.split_at_mut((starts[middle] - starts[range.start]) as usize);
        return cpu.join(
            || each_values(cpu, range.start..middle, starts, left, work),
            || each_values(cpu, middle..range.end, starts, right, work),
        );
    }
    let mut rest = values;
    for k in range {
        let (here, after) = rest.split_at_mut((starts[k + 1] - starts[k]) as usize);
        work(k, here);
        rest = after;
    }
}

/// A part of the weights and of the state: that of the rows from `first_row` on.
struct Target<'a, E> {
    weights: &'a mut [E],
    state: RowsState<'a>,
    first_row: usize,
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
        let elements = tables.weight_offset_of_row(row) - tables.weight_offset_of_row(self.first_row);
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
            Self { weights: left, state: state_left, first_row: self.first_row },
            Self { weights: right, state: state_right, first_row: row },
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
    /// `gradient(k, columns, out)`: the gradient of some columns of row `rows[k]`.
    gradient: G,
}

impl Cpu {
    /// One step on each of the rows.
    fn step_rows<E: Element>(
        &self,
        step: &RowStep<'_, impl Fn(usize, Range<usize>, &mut [f32]) + Sync>,
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
            self.install(|| step.run(self, 0..step.rows.len(), Target { weights, state, first_row: 0 }));
        }
    }
}

impl<G: Fn(usize, Range<usize>, &mut [f32]) + Sync> RowStep<'_, G> {
    fn run<E: Element>(&self, cpu: &Cpu, range: Range<usize>, target: Target<'_, E>) {
        if range.len() > ROWS_PER_TASK {
            let middle = range.start + range.len() / 2;
            let (left, right) = target.split_at_row(self.tables, self.rows[middle] as usize);
            return cpu.join(|| self.run(cpu, range.start..middle, left), || self.run(cpu, middle..range.end, right));
        }
        let mut rest = target;
        for k in range {
            let (_, from_row) = rest.split_at_row(self.tables, self.rows[k] as usize);
            rest = self.step_row(k, from_row);
        }
    }

    /// One step on the first row of the target; gives the target back.
    fn step_row<'t, E: Element>(&self, k: usize, mut target: Target<'t, E>) -> Target<'t, E> {
        let linear = self.rows[k] as usize;
        let table = self.tables.table_of_row(linear);
        let row = linear - self.tables.row_offsets()[table];
        let dim = self.tables.tables()[table].embedding_dim;
        let step = self.decay_scale.map_or(self.step, |scale| self.step.with_decay_scaled(scale[linear]));
        let mut random = match self.rule.rounding {
            Rounding::Stochastic { seed } => Some(RandomBits::new(seed, self.rule.step, table, row)),
            Rounding::Nearest => None,
        };
        let mut block = [0f32; BLOCK];
        // The sum over the whole row comes before the first weight changes. The gradient of a row of one block is made only once.
        let row_sum = match &mut target.state {
            RowsState::Rowwise(sums) => {
                let mut squares = 0.0;
                for columns in blocks(dim) {
                    let grad = &mut block[..columns.len()];
                    (self.gradient)(k, columns.clone(), grad);
                    squares = step.add_squares(squares, grad, &target.weights[columns]);
                }
                sums[0] += squares / dim as f32;
                Some(sums[0])
            }
            _ => None,
        };
        for columns in blocks(dim) {
            let grad = &mut block[..columns.len()];
            if row_sum.is_none() || dim > BLOCK {
                (self.gradient)(k, columns.clone(), grad);
            }
            let state = match (&mut target.state, row_sum) {
                (_, Some(sum)) => StateRun::Rowwise(sum),
                (RowsState::Elementwise(sums), _) => StateRun::Elementwise(&mut sums[columns.clone()]),
                (RowsState::Moments(first, second), _) => {
                    StateRun::Moments(&mut first[columns.clone()], &mut second[columns.clone()])
                }
                (RowsState::None | RowsState::Rowwise(_), None) => StateRun::None,
            };
            let weights = &mut target.weights[columns.clone()];
            match &mut random {
                None => step.update(grad, weights, state, |_, value| E::from_f32(value)),
                Some(random) => step.update(grad, weights, state, |column, value| {
                    E::from_f32_stochastic(value, random.at(columns.start + column))
                }),
            }
        }
        target
    }
}

/// The columns of a row, at most [`BLOCK`] at a time.
fn blocks(dim: usize) -> impl Iterator<Item = Range<usize>> {
    (0..dim).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(dim))
}
