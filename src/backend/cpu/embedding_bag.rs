//! [`embedding_bag`](crate::ops::embedding_bag) on the CPU: samples are split over threads; within a task, features go first, so that
//! lookups of one table lie close together in time.

use std::ops::Range;

use super::Cpu;
use super::fault::{FaultLog, Lookup, Place};
use super::vector::{add_row, add_scaled_row, dot_row};
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::jagged::check_offsets;
use crate::ops::embedding_bag::{EmbeddingBagOps, Forward, NO_SOURCE, WeightGrad};
use crate::ops::{Bags, Pooling, TableBatch};

impl EmbeddingBagOps for Cpu {
    fn embedding_bag_forward<E: Element, I: Index>(&self, args: Forward<'_, Self, E, I>) -> Result<()> {
        let Forward { tables, weights, bags, output, argmax } = args;
        let bags = bags.without_spare();
        check_offsets(bags.offsets, bags.indices.len())?;
        let gather = Gather { tables, weights, bags, faults: FaultLog::default() };
        let (rows, ld) = (output.rows, output.ld);
        match argmax {
            None => self.for_each_rows(output.data, rows, ld, |first, part| gather.pool(first, part, ld, None)),
            Some(argmax) => {
                let sources = (argmax.data, argmax.ld);
                self.for_each_rows_of_both((output.data, ld), sources, rows, |first, output, sources| {
                    gather.pool(first, output, ld, Some((sources, argmax.ld)));
                });
            }
        }
        gather.faults.into_result(tables)
    }

    fn embedding_bag_weight_grad<E: Element, I: Index>(&self, args: WeightGrad<'_, Self, E, I>) -> Result<()> {
        let WeightGrad { tables, weights, bags, grad_output, grad_weights } = args;
        let bags = bags.without_spare();
        check_offsets(bags.offsets, bags.indices.len())?;
        let gather = Gather { tables, weights, bags, faults: FaultLog::default() };
        grad_weights.fill(0.0);
        let num_bags = bags.offsets.len() - 1;
        self.install(|| {
            gather.weight_grads(self, 0..num_bags, grad_weights, &|bag, columns: Range<usize>| {
                &grad_output.row(bag % bags.batch_size)[columns]
            });
        });
        gather.faults.into_result(tables)
    }
}

/// A batch of lookups.
struct Gather<'a, E: Element, I: Index> {
    tables: &'a TableBatch,
    weights: &'a [E],
    bags: Bags<'a, Cpu, I>,
    faults: FaultLog,
}

/// Below this many ids a split costs more than it brings.
const MIN_IDS_PER_TASK: usize = 4096;

impl<'a, E: Element, I: Index> Gather<'a, E, I> {
    /// Pools the samples from `first` on into `output`, whose rows are `ld` apart, and notes where maxima came from.
    fn pool(&self, first: usize, output: &mut [f32], ld: usize, mut argmax: Option<(&mut [u32], usize)>) {
        if self.tables.width() == 0 {
            return;
        }
        for (f, feature) in self.tables.features().iter().enumerate() {
            let columns = self.columns(f);
            for (k, row) in output.chunks_mut(ld).enumerate() {
                let bag = f * self.bags.batch_size + first + k;
                let pooled = &mut row[columns.clone()];
                match feature.pooling {
                    Pooling::Sum => _ = self.sum(f, bag, pooled),
                    Pooling::Mean => {
                        let counted = self.sum(f, bag, pooled);
                        if counted > 1 {
                            pooled.iter_mut().for_each(|x| *x /= counted as f32);
                        }
                    }
                    Pooling::Max => {
                        let source = argmax.as_mut().map(|(data, ld)| &mut data[k * *ld..][columns.clone()]);
                        self.max(f, bag, pooled, source);
                    }
                }
            }
        }
    }

    fn columns(&self, feature: usize) -> Range<usize> {
        self.tables.column_offsets()[feature]..self.tables.column_offsets()[feature + 1]
    }

    /// The rows of a bag, each with its position in `indices`.
    #[inline(always)]
    fn rows(&self, feature: usize, bag: usize) -> impl Iterator<Item = (usize, &'a [E])> {
        let spec = &self.tables.features()[feature];
        let (table, dim) = (spec.table, self.tables.table_of(feature).embedding_dim);
        let place = Place { feature, spec, num_embeddings: self.tables.table_of(feature).num_embeddings, bag };
        let base = self.tables.weight_offsets()[table];
        let weights = self.weights;
        self.positions(bag).filter_map(move |position| {
            match self.faults.lookup(self.bags.indices[position], place, position) {
                Lookup::Row(row) => Some((position, &weights[base + row * dim..][..dim])),
                Lookup::Skip => None,
            }
        })
    }

    fn positions(&self, bag: usize) -> Range<usize> {
        // Offsets have been checked: they lie within the indices.
        let bound = |k: usize| self.bags.offsets[k].to_row().unwrap_or(0);
        bound(bag)..bound(bag + 1)
    }

    /// The weighted sum of a bag; gives the number of counted ids.
    fn sum(&self, feature: usize, bag: usize, pooled: &mut [f32]) -> usize {
        pooled.fill(0.0);
        let mut counted = 0;
        for (position, row) in self.rows(feature, bag) {
            match self.bags.per_sample_weights {
                Some(weights) => add_scaled_row(pooled, weights[position], row),
                None => add_row(pooled, row),
            }
            counted += 1;
        }
        counted
    }

    /// The maxima of a bag, and where they came from. A NaN counts as larger than everything.
    fn max(&self, feature: usize, bag: usize, pooled: &mut [f32], mut argmax: Option<&mut [u32]>) {
        pooled.fill(0.0);
        if let Some(argmax) = argmax.as_deref_mut() {
            argmax.fill(NO_SOURCE);
        }
        let start = self.positions(bag).start;
        for (k, (position, row)) in self.rows(feature, bag).enumerate() {
            for (column, x) in row.iter().enumerate() {
                let (x, best) = (x.to_f32(), pooled[column]);
                if k == 0 || x > best || (x.is_nan() && !best.is_nan()) {
                    pooled[column] = x;
                    if let Some(argmax) = argmax.as_deref_mut() {
                        argmax[column] = (position - start) as u32;
                    }
                }
            }
        }
    }

    /// The gradients of the per-sample weights of `bags`, into the part of the output that is theirs.
    fn weight_grads<'g>(
        &self,
        cpu: &Cpu,
        bags: Range<usize>,
        grad_weights: &mut [f32],
        grad_of: &(impl Fn(usize, Range<usize>) -> &'g [f32] + Sync),
    ) {
        if bags.len() > 1 && grad_weights.len() > MIN_IDS_PER_TASK {
            let middle = bags.start + bags.len() / 2;
            let first = self.positions(middle).start - self.positions(bags.start).start;
            let (left, right) = grad_weights.split_at_mut(first);
            cpu.join(
                || self.weight_grads(cpu, bags.start..middle, left, grad_of),
                || self.weight_grads(cpu, middle..bags.end, right, grad_of),
            );
            return;
        }
        let start = bags.clone().next().map_or(0, |bag| self.positions(bag).start);
        for bag in bags {
            let feature = bag / self.bags.batch_size;
            let grad = grad_of(bag, self.columns(feature));
            let mut counted = 0;
            for (position, row) in self.rows(feature, bag) {
                grad_weights[position - start] = dot_row(grad, row);
                counted += 1;
            }
            if self.tables.features()[feature].pooling == Pooling::Mean && counted > 1 {
                let positions = self.positions(bag);
                grad_weights[positions.start - start..positions.end - start]
                    .iter_mut()
                    .for_each(|g| *g /= counted as f32);
            }
        }
    }
}
