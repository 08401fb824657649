//! [`embedding_bag`](crate::ops::embedding_bag) on the CPU.
//!
//! Threads share the samples. A task pools feature after feature, so that lookups of one table lie
//! close together in time. It sums a block of columns of a bag in registers and prefetches the rows
//! of later ids meanwhile.

use std::ops::Range;

use super::Cpu;
use super::compute::vector::{Blocks, dot_row, for_each_block, load, store};
use super::runtime::erased::{AnyBags, AnyTables, ByElement, ByIndex, with_elements, with_indices};
use super::runtime::fault::{FaultLog, IdOrigin, Lookup, pooled_row};
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::ops::bags::EachBag;
use crate::ops::embedding_bag::{
    EmbeddingBagOps, FORWARD, Forward, NO_SOURCE, WEIGHT_GRAD, WeightGrad,
};
use crate::ops::{Bags, Matrix, MatrixMut, Pooling, Table, TableBatch, TableValues, View};
use crate::simd::{LANES, Lanes, Loop, prefetch_output, prefetch_row};

impl EmbeddingBagOps for Cpu {
    fn embedding_bag_forward<E: Element, I: Index>(
        &self,
        args: Forward<'_, Self, E, I>,
    ) -> Result<()> {
        let cpu = &self.for_bytes(args.bytes_moved());
        let Forward { tables, weights, bags, output, argmax } = args;
        let (weights, bags) = (ByElement::of(weights), ByIndex::of(bags));
        forward(cpu, tables, weights, bags, output, argmax)
    }

    fn embedding_bag_weight_grad<E: Element, I: Index>(
        &self,
        args: WeightGrad<'_, Self, E, I>,
    ) -> Result<()> {
        let cpu = &self.for_bytes(args.bytes_moved());
        let WeightGrad { tables, weights, bags, grad_output, grad_weights } = args;
        let (weights, bags) = (ByElement::of(weights), ByIndex::of(bags));
        weight_grad(cpu, tables, weights, bags, grad_output, grad_weights.into_slice())
    }
}

/// Restores the types of the arguments, and runs the forward op.
fn forward<'a>(
    cpu: &Cpu,
    tables: &'a TableBatch,
    weights: AnyTables<'a>,
    bags: AnyBags<'a>,
    output: MatrixMut<'a, Cpu, f32>,
    argmax: Option<MatrixMut<'a, Cpu, u32>>,
) -> Result<()> {
    with_elements!(weights => with_indices!(bags => {
        typed_forward(cpu, Forward { tables, weights, bags, output, argmax })
    }))
}

fn typed_forward<E: Element, I: Index>(cpu: &Cpu, args: Forward<'_, Cpu, E, I>) -> Result<()> {
    let Forward { tables, weights, bags, output, argmax } = args;
    let gather = Gather::new(tables, weights, bags, FORWARD)?;
    let ld = output.ld;
    let (rows, output) = (output.rows, output.data.into_slice());
    // One run of samples for each thread: all threads read the same table at about the same time
    // and find its rows in the cache that they share.
    let run = rows.div_ceil(cpu.num_threads());
    match argmax {
        None => cpu.for_each_rows(output, rows, run, ld, |first, output| {
            cpu.dispatch.run(Pool { gather: &gather, first, output, ld, argmax: None });
        }),
        Some(argmax) => {
            let argmax_ld = argmax.ld;
            let sources = (argmax.data.into_slice(), argmax_ld);
            cpu.for_each_rows_of_both(
                (output, ld),
                sources,
                rows,
                run,
                |first, output, sources| {
                    let argmax = Some((sources, argmax_ld));
                    cpu.dispatch.run(Pool { gather: &gather, first, output, ld, argmax });
                },
            );
        }
    }
    gather.into_result()
}

/// Restores the types of the arguments, and runs the backward op.
fn weight_grad<'a>(
    cpu: &Cpu,
    tables: &'a TableBatch,
    weights: AnyTables<'a>,
    bags: AnyBags<'a>,
    grad_output: Matrix<'a, Cpu, f32>,
    grad_weights: &'a mut [f32],
) -> Result<()> {
    with_elements!(weights => with_indices!(bags => {
        let gather = Gather::new(tables, weights, bags, WEIGHT_GRAD)?;
        grad_weights.fill(0.0);
        let num_bags = gather.bags.num_bags(tables);
        cpu.run(|| gather.weight_grads(cpu, 0..num_bags, grad_weights, &grad_output));
        gather.into_result()
    }))
}

/// The lookups of a batch, with offsets that have been checked.
pub(super) struct Gather<'a, E: Element, I: Index> {
    tables: &'a TableBatch,
    weights: TableValues<'a, Cpu, E>,
    bags: Bags<'a, Cpu, I>,
    faults: FaultLog,
}

/// The number of ids below which another task costs more than it saves.
const MIN_IDS_PER_TASK: usize = 4096;
/// The bytes of rows that are prefetched: enough cache lines to keep memory busy, and few enough to
/// stay in the second-level cache.
const PREFETCH_BYTES: usize = 32768;
/// The largest prefetch distance in rows, which short rows would otherwise exceed.
const MAX_PREFETCH_ROWS: usize = 128;
/// The samples between the one that is written and the one whose pooled vector is prefetched.
const PREFETCH_SAMPLES: usize = 16;

/// The lookups of one feature, for the samples of a task.
struct FeatureRows<'a, E, I> {
    /// The weights of the feature's table.
    table: &'a [E],
    /// The leading dimension of the table.
    ld: usize,
    /// The columns of a row.
    dim: usize,
    /// The ids of all features.
    indices: &'a [I],
    /// The per-sample weights of all features.
    weights: Option<&'a [f32]>,
    /// Set if no id of the task has a weight and each names a row that is pooled, so that no id
    /// needs a check.
    is_plain: bool,
    /// The prefetch distance in rows.
    prefetch_rows: usize,
    /// The positions of the task's ids; no other rows are prefetched.
    positions: Range<usize>,
    /// The origin of the ids of the current bag.
    origin: IdOrigin<'a>,
    /// The bad ids so far.
    faults: &'a FaultLog,
}

impl<'a, E: Element, I: Index> Gather<'a, E, I> {
    /// Checks the offsets of the bags. Errors name `op`.
    pub(super) fn new(
        tables: &'a TableBatch,
        weights: TableValues<'a, Cpu, E>,
        bags: Bags<'a, Cpu, I>,
        op: &'static str,
    ) -> Result<Self> {
        let bags = bags.without_slack(bags.num_bags(tables));
        bags.offsets.check_values(op, bags.num_indices())?;
        Ok(Self { tables, weights, bags, faults: FaultLog::new(op, bags.has_unsigned_ids) })
    }

    /// Returns the error for bad ids, if there are any.
    pub(super) fn into_result(self) -> Result<()> {
        self.faults.into_result(self.tables)
    }

    /// Returns the columns of the output that hold a feature.
    fn columns(&self, feature: usize) -> Range<usize> {
        self.tables.column_offsets()[feature]..self.tables.column_offsets()[feature + 1]
    }

    /// Returns the positions of the ids of a bag.
    fn positions(&self, bag: usize) -> Range<usize> {
        let bound = |k: usize| self.bags.offsets.at(k, self.bags.indices.len());
        bound(bag)..bound(bag + 1)
    }

    /// Iterates over the positions of the ids of some bags.
    #[inline(always)]
    fn each_bag(&self, bags: Range<usize>) -> EachBag<'a, Cpu> {
        self.bags.offsets.each_bag(bags, self.bags.indices.len())
    }

    /// Returns the lookups of a feature at some positions.
    fn rows(&self, feature: usize, positions: Range<usize>) -> FeatureRows<'_, E, I> {
        let spec = &self.tables.features()[feature];
        let Table { num_embeddings, embedding_dim } = self.tables.table_of(feature);
        let (table, ld) = match &self.weights {
            TableValues::Joined(weights) => {
                let offsets = self.tables.weight_offsets();
                let range = offsets[spec.table]..offsets[spec.table + 1];
                (&weights.as_slice()[range], embedding_dim)
            }
            TableValues::Separate(tables) => {
                let Matrix { data, ld, .. } = tables.values[spec.table];
                (data.as_slice(), ld)
            }
        };
        FeatureRows {
            table,
            ld,
            dim: embedding_dim,
            indices: self.bags.indices.as_slice(),
            weights: self.bags.per_sample_weights.map(View::as_slice),
            is_plain: false,
            prefetch_rows: (PREFETCH_BYTES / (embedding_dim * size_of::<E>()))
                .clamp(2, MAX_PREFETCH_ROWS),
            positions,
            origin: IdOrigin { feature, spec, num_embeddings, bag: 0 },
            faults: &self.faults,
        }
    }
}

/// Pools all features of some samples.
pub(super) struct Pool<'a, 't, E: Element, I: Index> {
    /// The lookups.
    pub(super) gather: &'t Gather<'a, E, I>,
    /// The first sample.
    pub(super) first: usize,
    /// The pooled vectors, a row for each sample.
    pub(super) output: &'t mut [f32],
    /// The leading dimension of `output`.
    pub(super) ld: usize,
    /// The sources of the maxima, a row for each sample, and the leading dimension.
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
        let mut prefetched = 0;
        for (f, feature) in tables.features().iter().enumerate() {
            let columns = self.gather.columns(f);
            let first_bag = f * bags.batch_size + self.first;
            let mut rows = self.rows(f, samples);
            // Prefetches the first rows of the next feature, or of several features where each has
            // few rows, while this one is pooled.
            while prefetched < tables.features().len()
                && prefetched <= f + 1 + rows.prefetch_rows / samples
            {
                let later = self.rows(prefetched, samples);
                later
                    .positions
                    .clone()
                    .take(later.prefetch_rows)
                    .for_each(|position| later.prefetch(position, 0..later.dim));
                prefetched += 1;
            }
            rows.is_plain = rows.are_plain(rows.positions.clone());
            let is_short = V::UNROLLS_ROWS && matches!(rows.dim, 16 | 32 | 64);
            if is_short && rows.is_plain && feature.pooling != Pooling::Max {
                let output = &mut self.output[columns.start..];
                let (pooling, bags) = (feature.pooling, first_bag..first_bag + samples);
                let gather = self.gather;
                let short = ShortRows { rows: &rows, gather, bags, pooling, output, ld: self.ld };
                match rows.dim {
                    16 => short.pool::<V, 1>(lanes),
                    32 => short.pool::<V, 2>(lanes),
                    _ => short.pool::<V, 4>(lanes),
                }
                continue;
            }
            let each_bag = self.gather.each_bag(first_bag..first_bag + samples);
            for (k, positions) in each_bag.enumerate() {
                // Rows of the output also lie too far apart for the hardware prefetcher.
                prefetch_output(
                    self.output,
                    (k + PREFETCH_SAMPLES) * self.ld + columns.start,
                    columns.len(),
                );
                let start = k * self.ld;
                let bag = first_bag + k;
                rows.origin.bag = bag;
                let pooled = &mut self.output[start..][columns.clone()];
                match feature.pooling {
                    Pooling::Sum => _ = rows.sum(lanes, positions, pooled),
                    Pooling::Mean => {
                        let bag_len = rows.sum(lanes, positions, pooled);
                        if bag_len > 1 {
                            pooled.iter_mut().for_each(|x| *x /= bag_len as f32);
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
    /// Returns the lookups of a feature in the task's samples.
    fn rows(&self, feature: usize, samples: usize) -> FeatureRows<'t, E, I> {
        let first_bag = feature * self.gather.bags.batch_size + self.first;
        let positions = self.gather.positions(first_bag).start
            ..self.gather.positions(first_bag + samples - 1).end;
        self.gather.rows(feature, positions)
    }
}

/// Some samples of a plain feature whose rows fit the registers as a whole. A bag of one id then
/// costs little more than its row.
struct ShortRows<'a, 'r, E: Element, I: Index> {
    /// The lookups.
    rows: &'r FeatureRows<'a, E, I>,
    /// The lookups of all features, with the bounds of the bags.
    gather: &'r Gather<'a, E, I>,
    /// The samples' bags.
    bags: Range<usize>,
    /// The sum or the mean.
    pooling: Pooling,
    /// The pooled vectors, from the feature's first column on.
    output: &'r mut [f32],
    /// The leading dimension of `output`.
    ld: usize,
}

impl<E: Element, I: Index> ShortRows<'_, '_, E, I> {
    /// Pools rows of `N` vectors. It adds and divides in the order of [`FeatureRows::sum`] and its
    /// caller, so that results are the same bits.
    #[inline(always)]
    fn pool<V: Lanes, const N: usize>(self, lanes: V) {
        let Self { rows, gather, bags, pooling, output, ld } = self;
        for (k, positions) in gather.each_bag(bags).enumerate() {
            prefetch_output(output, (k + PREFETCH_SAMPLES) * ld, N * LANES);
            let mut sums = rows.plain_sum::<V, N, true>(lanes, positions.clone(), 0..N * LANES);
            if pooling == Pooling::Mean && positions.len() > 1 {
                let bag_len = lanes.splat(positions.len() as f32);
                for sum in &mut sums {
                    *sum = lanes.div(*sum, bag_len);
                }
            }
            store::<V, f32, N, true>(lanes, sums, &mut output[k * ld..][..N * LANES]);
        }
    }
}

impl<E: Element, I: Index> FeatureRows<'_, E, I> {
    /// Returns whether [`Self::is_plain`] holds for the ids at these positions.
    #[inline(always)]
    fn are_plain(&self, positions: Range<usize>) -> bool {
        let IdOrigin { spec, num_embeddings, .. } = self.origin;
        let padding = spec.padding_idx.map_or(-1, |row| row as i64);
        // The loop has no early exit, so that the compiler can vectorise it.
        self.weights.is_none()
            && self.indices[positions].iter().fold(true, |so_far, id| {
                let id = id.to_i64();
                so_far & ((id as u64) < num_embeddings as u64) & (id != padding)
            })
    }

    /// Returns the row that the id at a position names, and notes the id if it is bad.
    #[inline(always)]
    fn lookup(&self, position: usize) -> Option<&[E]> {
        match self.faults.lookup(self.indices[position], self.origin, position) {
            Lookup::Row(row) => Some(self.row(row)),
            Lookup::Skip => None,
        }
    }

    /// Returns the row that the id at a position names, and notes nothing: [`Self::lookup`] has
    /// seen the position before.
    #[inline(always)]
    fn lookup_again(&self, position: usize) -> Option<&[E]> {
        pooled_row(self.indices[position], self.origin.spec, self.origin.num_embeddings)
            .map(|row| self.row(row))
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &[E] {
        &self.table[row * self.ld..][..self.dim]
    }

    /// Prefetches some columns of the row of a later id. The address that a bad id gives lies
    /// outside of the table, which a prefetch allows.
    #[inline(always)]
    fn prefetch(&self, position: usize, columns: Range<usize>) {
        if position < self.positions.end {
            let row = (self.indices[position].to_i64() as usize).wrapping_mul(self.ld);
            prefetch_row(self.table, row.wrapping_add(columns.start), columns.len());
        }
    }

    /// Returns some columns of the sum of rows that [`Self::is_plain`] holds for.
    #[inline(always)]
    fn plain_sum<V: Lanes, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        positions: Range<usize>,
        columns: Range<usize>,
    ) -> [V::F32; N] {
        let mut sums = [lanes.splat(0.0); N];
        for (position, id) in positions.clone().zip(&self.indices[positions]) {
            self.prefetch(position + self.prefetch_rows, columns.clone());
            let row = self.row(id.to_i64() as usize);
            for (sum, x) in
                sums.iter_mut().zip(load::<V, E, N, WHOLE>(lanes, &row[columns.clone()]))
            {
                *sum = lanes.add(*sum, x);
            }
        }
        sums
    }

    /// Writes the (weighted) sum of a bag, and returns the number of ids that are summed.
    #[inline(always)]
    fn sum<V: Lanes>(&self, lanes: V, positions: Range<usize>, pooled: &mut [f32]) -> usize {
        let dim = self.dim;
        let mut sum = BagSum { rows: self, lanes, positions, pooled, bag_len: 0 };
        for_each_block::<V>(dim, &mut sum);
        sum.bag_len
    }

    /// Writes the maxima of a bag, and the source of each: the number of the id within the bag. A
    /// NaN counts as larger than everything.
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

/// The sum of a bag, block by block.
struct BagSum<'a, 'r, V, E, I> {
    /// The lookups of the bag's feature.
    rows: &'r FeatureRows<'a, E, I>,
    lanes: V,
    /// The positions of the bag's ids.
    positions: Range<usize>,
    /// The sum.
    pooled: &'r mut [f32],
    /// The number of ids that are summed.
    bag_len: usize,
}

impl<V: Lanes, E: Element, I: Index> Blocks for BagSum<'_, '_, V, E, I> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        let Self { rows, lanes, .. } = *self;
        if rows.is_plain {
            self.bag_len = self.positions.len();
            let sums =
                rows.plain_sum::<V, N, WHOLE>(lanes, self.positions.clone(), columns.clone());
            return store::<V, f32, N, WHOLE>(lanes, sums, &mut self.pooled[columns]);
        }
        let mut sums = [lanes.splat(0.0); N];
        self.bag_len = 0;
        for position in self.positions.clone() {
            rows.prefetch(position + rows.prefetch_rows, columns.clone());
            // The first block notes a bad id, so that it is counted once.
            let row = match columns.start {
                0 => rows.lookup(position),
                _ => rows.lookup_again(position),
            };
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
            self.bag_len += 1;
        }
        store::<V, f32, N, WHOLE>(lanes, sums, &mut self.pooled[columns]);
    }
}

impl<E: Element, I: Index> Gather<'_, E, I> {
    /// Writes the gradients of the per-sample weights of `bags`.
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
    /// The gradients of the ids of `bags`.
    grad_weights: &'t mut [f32],
    /// The gradients of all pooled vectors.
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
            rows.origin.bag = bag;
            let grad = &grad_output.row(sample)[gather.columns(feature)];
            let mut bag_len = 0;
            for position in gather.positions(bag) {
                rows.prefetch(position + rows.prefetch_rows, 0..rows.dim);
                if let Some(row) = rows.lookup(position) {
                    grad_weights[position - start] = dot_row(lanes, grad, row);
                    bag_len += 1;
                }
            }
            if rows.origin.spec.pooling == Pooling::Mean && bag_len > 1 {
                let positions = gather.positions(bag);
                let grads = &mut grad_weights[positions.start - start..positions.end - start];
                grads.iter_mut().for_each(|g| *g /= bag_len as f32);
            }
        }
    }
}
