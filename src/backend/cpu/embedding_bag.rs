//! [`embedding_bag`](crate::ops::embedding_bag) on the CPU: samples are split over threads; within
//! a task, features go first, so that lookups of one table lie close together in time. The columns
//! of a bag are summed in registers, while the rows of later ids are on their way from memory.

use std::ops::Range;

use super::Cpu;
use super::compute::vector::{Blocks, dot_row, for_each_block, load, store};
use super::runtime::fault::{FaultLog, Lookup, Place, pooled_row};
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::jagged::check_offsets;
use crate::ops::embedding_bag::{EmbeddingBagOps, Forward, NO_SOURCE, WeightGrad};
use crate::ops::{Bags, Matrix, Pooling, Table, TableBatch};
use crate::simd::{LANES, Lanes, Loop, prefetch_output, prefetch_row};

impl EmbeddingBagOps for Cpu {
    fn embedding_bag_forward<E: Element, I: Index>(
        &self,
        args: Forward<'_, Self, E, I>,
    ) -> Result<()> {
        let Forward { tables, weights, bags, output, argmax } = args;
        let gather = Gather::new(tables, weights, bags)?;
        let (rows, ld) = (output.rows, output.ld);
        // One run a thread: all of them are at one table at about one time, and find rows in the
        // cache that they share.
        let run = rows.div_ceil(self.num_threads());
        match argmax {
            None => self.for_each_rows(output.data, rows, run, ld, |first, output| {
                self.dispatch.run(Pool { gather: &gather, first, output, ld, argmax: None });
            }),
            Some(argmax) => {
                let sources = (argmax.data, argmax.ld);
                self.for_each_rows_of_both(
                    (output.data, ld),
                    sources,
                    rows,
                    run,
                    |first, output, sources| {
                        let argmax = Some((sources, argmax.ld));
                        self.dispatch.run(Pool { gather: &gather, first, output, ld, argmax });
                    },
                );
            }
        }
        gather.into_result()
    }

    fn embedding_bag_weight_grad<E: Element, I: Index>(
        &self,
        args: WeightGrad<'_, Self, E, I>,
    ) -> Result<()> {
        let WeightGrad { tables, weights, bags, grad_output, grad_weights } = args;
        let gather = Gather::new(tables, weights, bags)?;
        grad_weights.fill(0.0);
        let num_bags = gather.bags.offsets.len() - 1;
        self.run(|| gather.weight_grads(self, 0..num_bags, grad_weights, &grad_output));
        gather.into_result()
    }
}

/// A batch of lookups.
pub(super) struct Gather<'a, E: Element, I: Index> {
    tables: &'a TableBatch,
    weights: &'a [E],
    bags: Bags<'a, Cpu, I>,
    faults: FaultLog,
}

/// Below this many ids a split costs more than it brings.
const MIN_IDS_PER_TASK: usize = 4096;
/// Bytes that are asked for ahead of their use: enough lines to keep memory busy, and few enough to
/// stay in the second-level cache.
const BYTES_AHEAD: usize = 32768;
/// Rows of so few bytes are not asked for earlier than this.
const MAX_AHEAD: usize = 128;
/// Samples whose pooled vectors are asked for ahead of their being written.
const SAMPLES_AHEAD: usize = 16;

/// The lookups of one feature.
struct Rows<'a, E, I> {
    /// The weights of its table.
    table: &'a [E],
    dim: usize,
    indices: &'a [I],
    weights: Option<&'a [f32]>,
    /// Whether each id of the samples that are worked on names a row that is pooled, and has no
    /// weight: then nothing else need be looked at.
    is_plain: bool,
    /// How many rows are asked for ahead of their use.
    ahead: usize,
    /// Of the samples that are worked on: no other rows are asked for.
    positions: Range<usize>,
    place: Place<'a>,
    faults: &'a FaultLog,
}

impl<'a, E: Element, I: Index> Gather<'a, E, I> {
    pub(super) fn new(
        tables: &'a TableBatch,
        weights: &'a [E],
        bags: Bags<'a, Cpu, I>,
    ) -> Result<Self> {
        let bags = bags.without_slack();
        check_offsets(bags.offsets, bags.indices.len())?;
        Ok(Self { tables, weights, bags, faults: FaultLog::default() })
    }

    /// The error for bad ids, if there were any.
    pub(super) fn into_result(self) -> Result<()> {
        self.faults.into_result(self.tables)
    }

    fn columns(&self, feature: usize) -> Range<usize> {
        self.tables.column_offsets()[feature]..self.tables.column_offsets()[feature + 1]
    }

    fn positions(&self, bag: usize) -> Range<usize> {
        // Offsets have been checked: they lie within the indices.
        let bound = |k: usize| self.bags.offsets[k].to_row().unwrap_or(0);
        bound(bag)..bound(bag + 1)
    }

    fn rows(&self, feature: usize, positions: Range<usize>) -> Rows<'_, E, I> {
        let spec = &self.tables.features()[feature];
        let Table { num_embeddings, embedding_dim } = self.tables.table_of(feature);
        Rows {
            table: &self.weights[self.tables.weight_offsets()[spec.table]..]
                [..num_embeddings * embedding_dim],
            dim: embedding_dim,
            indices: self.bags.indices,
            weights: self.bags.per_sample_weights,
            is_plain: false,
            ahead: (BYTES_AHEAD / (embedding_dim * size_of::<E>())).clamp(2, MAX_AHEAD),
            positions,
            place: Place { feature, spec, num_embeddings, bag: 0 },
            faults: &self.faults,
        }
    }
}

/// Pools the samples from `first` on into `output`, whose rows are `ld` apart, and notes where
/// maxima came from.
pub(super) struct Pool<'a, 't, E: Element, I: Index> {
    pub(super) gather: &'t Gather<'a, E, I>,
    pub(super) first: usize,
    pub(super) output: &'t mut [f32],
    pub(super) ld: usize,
    pub(super) argmax: Option<(&'t mut [u32], usize)>,
}

impl<E: Element, I: Index> Loop for Pool<'_, '_, E, I> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self, lanes: V) {
        let Gather { tables, bags, .. } = self.gather;
        if tables.width() == 0 {
            return;
        }
        let samples = self.output.len().div_ceil(self.ld);
        let mut asked = 0;
        for (f, feature) in tables.features().iter().enumerate() {
            let columns = self.gather.columns(f);
            let first_bag = f * bags.batch_size + self.first;
            let mut rows = self.rows(f, samples);
            // The first rows of a feature are on their way while those before are pooled: of
            // several features, where these have few rows each.
            while asked < tables.features().len() && asked <= f + 1 + rows.ahead / samples {
                let later = self.rows(asked, samples);
                later
                    .positions
                    .clone()
                    .take(later.ahead)
                    .for_each(|position| later.prefetch(position, 0..later.dim));
                asked += 1;
            }
            rows.is_plain = rows.are_plain(rows.positions.clone());
            let is_short = matches!(rows.dim, 16 | 32 | 64);
            if is_short && rows.is_plain && feature.pooling != Pooling::Max {
                // Offsets have been checked.
                let offsets = &bags.offsets[first_bag..][..samples + 1];
                let output = &mut self.output[columns.start..];
                let short =
                    Short { rows: &rows, offsets, pooling: feature.pooling, output, ld: self.ld };
                match rows.dim {
                    16 => short.pool::<V, 1>(lanes),
                    32 => short.pool::<V, 2>(lanes),
                    _ => short.pool::<V, 4>(lanes),
                }
                continue;
            }
            for k in 0..samples {
                // Rows of the output lie far apart from each other, too.
                prefetch_output(
                    self.output,
                    (k + SAMPLES_AHEAD) * self.ld + columns.start,
                    columns.len(),
                );
                let start = k * self.ld;
                let bag = first_bag + k;
                rows.place.bag = bag;
                let (positions, pooled) =
                    (self.gather.positions(bag), &mut self.output[start..][columns.clone()]);
                match feature.pooling {
                    Pooling::Sum => _ = rows.sum(lanes, positions, pooled),
                    Pooling::Mean => {
                        let counted = rows.sum(lanes, positions, pooled);
                        if counted > 1 {
                            pooled.iter_mut().for_each(|x| *x /= counted as f32);
                        }
                    }
                    Pooling::Max => {
                        let source = self
                            .argmax
                            .as_mut()
                            .map(|(data, ld)| &mut data[k * *ld..][columns.clone()]);
                        rows.max(positions, pooled, source);
                    }
                }
            }
        }
    }
}

impl<'t, E: Element, I: Index> Pool<'_, 't, E, I> {
    fn rows(&self, feature: usize, samples: usize) -> Rows<'t, E, I> {
        let first_bag = feature * self.gather.bags.batch_size + self.first;
        let positions = self.gather.positions(first_bag).start
            ..self.gather.positions(first_bag + samples - 1).end;
        self.gather.rows(feature, positions)
    }
}

/// Samples of a plain feature whose rows registers hold as a whole: bags of one id cost little more
/// than their row then.
struct Short<'a, 'r, E, I> {
    rows: &'r Rows<'a, E, I>,
    /// Of the samples, and the end of the last one.
    offsets: &'r [I],
    pooling: Pooling,
    output: &'r mut [f32],
    ld: usize,
}

impl<E: Element, I: Index> Short<'_, '_, E, I> {
    /// As [`Rows::sum`] and what follows it, in the same order.
    #[inline(always)]
    fn pool<V: Lanes, const N: usize>(self, lanes: V) {
        let Self { rows, offsets, pooling, output, ld } = self;
        let bound = |offset: I| offset.to_i64() as usize;
        for (k, bag) in offsets.windows(2).enumerate() {
            let positions = bound(bag[0])..bound(bag[1]);
            prefetch_output(output, (k + SAMPLES_AHEAD) * ld, N * LANES);
            let mut sums = rows.plain_sum::<V, N, true>(lanes, positions.clone(), 0..N * LANES);
            if pooling == Pooling::Mean && positions.len() > 1 {
                let counted = lanes.splat(positions.len() as f32);
                for sum in &mut sums {
                    *sum = lanes.div(*sum, counted);
                }
            }
            store::<V, f32, N, true>(lanes, sums, &mut output[k * ld..][..N * LANES]);
        }
    }
}

impl<E: Element, I: Index> Rows<'_, E, I> {
    /// Whether [`Self::is_plain`] holds at all of these positions.
    #[inline(always)]
    fn are_plain(&self, positions: Range<usize>) -> bool {
        let Place { spec, num_embeddings, .. } = self.place;
        let padding = spec.padding_idx.map_or(-1, |row| row as i64);
        // No way out of the loop before its end, so that the compiler makes vector code of it.
        self.weights.is_none()
            && self.indices[positions].iter().fold(true, |so_far, id| {
                let id = id.to_i64();
                so_far & ((id as u64) < num_embeddings as u64) & (id != padding)
            })
    }

    /// The row that an id names, noted if there is none.
    #[inline(always)]
    fn lookup(&self, position: usize) -> Option<&[E]> {
        match self.faults.lookup(self.indices[position], self.place, position) {
            Lookup::Row(row) => Some(self.row(row)),
            Lookup::Skip => None,
        }
    }

    /// The same, where it has been noted before.
    #[inline(always)]
    fn known(&self, position: usize) -> Option<&[E]> {
        pooled_row(self.indices[position], self.place.spec, self.place.num_embeddings)
            .map(|row| self.row(row))
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &[E] {
        &self.table[row * self.dim..][..self.dim]
    }

    /// Asks for some columns of the row of a later id. A bad id asks for what is not there, which
    /// does no harm.
    #[inline(always)]
    fn prefetch(&self, position: usize, columns: Range<usize>) {
        if position < self.positions.end {
            let row = (self.indices[position].to_i64() as usize).wrapping_mul(self.dim);
            prefetch_row(self.table, row.wrapping_add(columns.start), columns.len());
        }
    }

    /// Some columns of the sum of rows that [`Self::is_plain`] holds for.
    #[inline(always)]
    fn plain_sum<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        positions: Range<usize>,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let mut sums = [lanes.splat(0.0); N];
        for (position, id) in positions.clone().zip(&self.indices[positions]) {
            self.prefetch(position + self.ahead, columns.clone());
            let row = self.row(id.to_i64() as usize);
            for (sum, x) in
                sums.iter_mut().zip(load::<V, E, N, WHOLE>(lanes, &row[columns.clone()]))
            {
                *sum = lanes.add(*sum, x);
            }
        }
        sums
    }

    /// The weighted sum of a bag; gives the number of counted ids.
    #[inline(always)]
    fn sum<V: Lanes>(&self, lanes: V, positions: Range<usize>, pooled: &mut [f32]) -> usize {
        let dim = self.dim;
        let mut sum = Sum { rows: self, lanes, positions, pooled, counted: 0 };
        for_each_block(dim, &mut sum);
        sum.counted
    }

    /// The maxima of a bag, and where they came from. A NaN counts as larger than everything.
    #[inline(always)]
    fn max(&self, positions: Range<usize>, pooled: &mut [f32], mut argmax: Option<&mut [u32]>) {
        pooled.fill(0.0);
        if let Some(argmax) = argmax.as_deref_mut() {
            argmax.fill(NO_SOURCE);
        }
        let (start, mut is_first) = (positions.start, true);
        for position in positions {
            let Some(row) = self.lookup(position) else { continue };
            for (column, x) in row.iter().enumerate() {
                let (x, best) = (x.to_f32(), pooled[column]);
                if is_first || x > best || (x.is_nan() && !best.is_nan()) {
                    pooled[column] = x;
                    if let Some(argmax) = argmax.as_deref_mut() {
                        argmax[column] = (position - start) as u32;
                    }
                }
            }
            is_first = false;
        }
    }
}

/// The sum of a bag.
struct Sum<'a, 'r, V, E, I> {
    rows: &'r Rows<'a, E, I>,
    lanes: V,
    positions: Range<usize>,
    pooled: &'r mut [f32],
    /// The number of ids that are summed.
    counted: usize,
}

impl<V: Lanes, E: Element, I: Index> Blocks for Sum<'_, '_, V, E, I> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        let Self { rows, lanes, .. } = *self;
        if rows.is_plain {
            self.counted = self.positions.len();
            let sums =
                rows.plain_sum::<V, N, WHOLE>(lanes, self.positions.clone(), columns.clone());
            return store::<V, f32, N, WHOLE>(lanes, sums, &mut self.pooled[columns]);
        }
        let mut sums = [lanes.splat(0.0); N];
        self.counted = 0;
        for position in self.positions.clone() {
            rows.prefetch(position + rows.ahead, columns.clone());
            // A bad id is noted once, with the first columns.
            let row = if columns.start == 0 { rows.lookup(position) } else { rows.known(position) };
            let Some(row) = row else { continue };
            let x = load::<V, E, N, WHOLE>(lanes, &row[columns.clone()]);
            match rows.weights {
                None => {
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = lanes.add(*sum, x);
                    }
                }
                Some(weights) => {
                    let weight = lanes.splat(weights[position]);
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = lanes.add(*sum, lanes.mul(weight, x));
                    }
                }
            }
            self.counted += 1;
        }
        store::<V, f32, N, WHOLE>(lanes, sums, &mut self.pooled[columns]);
    }
}

impl<E: Element, I: Index> Gather<'_, E, I> {
    /// The gradients of the per-sample weights of `bags`, into the part of the output that is
    /// theirs.
    fn weight_grads(
        &self,
        cpu: &Cpu,
        bags: Range<usize>,
        grad_weights: &mut [f32],
        grad_output: &Matrix<'_, Cpu, f32>,
    ) {
        if bags.len() > 1 && grad_weights.len() > MIN_IDS_PER_TASK {
            let middle = bags.start + bags.len() / 2;
            let first = self.positions(middle).start - self.positions(bags.start).start;
            let (left, right) = grad_weights.split_at_mut(first);
            cpu.join(
                || self.weight_grads(cpu, bags.start..middle, left, grad_output),
                || self.weight_grads(cpu, middle..bags.end, right, grad_output),
            );
            return;
        }
        cpu.dispatch.run(WeightGrads { gather: self, bags, grad_weights, grad_output });
    }
}

/// The gradients of the per-sample weights of some bags.
struct WeightGrads<'a, 'g, 't, E: Element, I: Index> {
    gather: &'t Gather<'a, E, I>,
    bags: Range<usize>,
    grad_weights: &'t mut [f32],
    grad_output: &'t Matrix<'g, Cpu, f32>,
}

impl<E: Element, I: Index> Loop for WeightGrads<'_, '_, '_, E, I> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let Self { gather, bags, grad_weights, grad_output } = self;
        if bags.is_empty() {
            return;
        }
        let start = gather.positions(bags.start).start;
        for bag in bags {
            let (feature, sample) = (bag / gather.bags.batch_size, bag % gather.bags.batch_size);
            let mut rows = gather.rows(feature, gather.positions(bag));
            rows.place.bag = bag;
            let grad = &grad_output.row(sample)[gather.columns(feature)];
            let mut counted = 0;
            for position in gather.positions(bag) {
                rows.prefetch(position + rows.ahead, 0..rows.dim);
                if let Some(row) = rows.lookup(position) {
                    grad_weights[position - start] = dot_row(lanes, grad, row);
                    counted += 1;
                }
            }
            if rows.place.spec.pooling == Pooling::Mean && counted > 1 {
                let positions = gather.positions(bag);
                let grads = &mut grad_weights[positions.start - start..positions.end - start];
                grads.iter_mut().for_each(|g| *g /= counted as f32);
            }
        }
    }
}
