//! [`embedding_bag`](crate::ops::embedding_bag) on the CPU.
//!
//! Threads share the samples. A task pools feature after feature, so that lookups of one table lie
//! close together in time. It sums a block of columns of a bag in registers and prefetches the rows
//! of later ids meanwhile.

use std::ops::Range;

use super::Cpu;
use super::compute::vector::{Blocks, dot_row, for_each_block, load, store, store_as};
use super::runtime::erased::{
    AnyBags, AnyMatrix, AnyMatrixMut, AnyTables, ByElement, ByIndex, ElementsMut, with_elements,
    with_indices,
};
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
    fn embedding_bag_forward<E: Element, I: Index, O: Element>(
        &self,
        args: Forward<'_, Self, E, I, O>,
    ) -> Result<()> {
        let cpu = &self.for_bytes(args.bytes_moved());
        let Forward { tables, weights, bags, output, argmax } = args;
        let (weights, bags) = (ByElement::of(weights), ByIndex::of(bags));
        forward(cpu, tables, weights, bags, ByElement::of(output), argmax)
    }

    fn embedding_bag_weight_grad<E: Element, I: Index, G: Element>(
        &self,
        args: WeightGrad<'_, Self, E, I, G>,
    ) -> Result<()> {
        let cpu = &self.for_bytes(args.bytes_moved());
        let WeightGrad { tables, weights, bags, grad_output, grad_weights } = args;
        let (weights, bags) = (ByElement::of(weights), ByIndex::of(bags));
        let grad_output = ByElement::of(grad_output);
        weight_grad(cpu, tables, weights, bags, grad_output, grad_weights.into_slice())
    }
}

/// Restores the types of the arguments, and runs the forward op.
fn forward<'a>(
    cpu: &Cpu,
    tables: &'a TableBatch,
    weights: AnyTables<'a>,
    bags: AnyBags<'a>,
    output: AnyMatrixMut<'a>,
    argmax: Option<MatrixMut<'a, Cpu, u32>>,
) -> Result<()> {
    with_elements!(weights => with_indices!(bags => {
        let gather = Gather::new(tables, weights, bags, FORWARD)?;
        with_elements!(output => pool_all(cpu, &gather, output, argmax));
        gather.into_result()
    }))
}

/// Pools all samples.
fn pool_all<E: Element, I: Index, O: Element>(
    cpu: &Cpu,
    gather: &Gather<'_, E, I>,
    output: MatrixMut<'_, Cpu, O>,
    argmax: Option<MatrixMut<'_, Cpu, u32>>,
) {
    let ld = output.ld;
    let (rows, output) = (output.rows, output.data.into_slice());
    // One run of samples for each thread: all threads read the same table at about the same time
    // and find its rows in the cache that they share.
    let run = rows.div_ceil(cpu.num_threads());
    match argmax {
        None => cpu.for_each_rows(output, rows, run, ld, |first, output| {
            let output = ByElement::of(output);
            cpu.dispatch.run(Pool { gather, first, output, ld, argmax: None });
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
                    let (output, argmax) = (ByElement::of(output), Some((sources, argmax_ld)));
                    cpu.dispatch.run(Pool { gather, first, output, ld, argmax });
                },
            );
        }
    }
}

/// Restores the types of the arguments, and runs the backward op.
fn weight_grad<'a>(
    cpu: &Cpu,
    tables: &'a TableBatch,
    weights: AnyTables<'a>,
    bags: AnyBags<'a>,
    grad_output: AnyMatrix<'a>,
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
    /// The pooled vectors, a row for each sample. Their type is known at run time, because this
    /// loop is compiled for all types of tables and ids already.
    pub(super) output: ElementsMut<'t>,
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
                let output = self.output.part(columns.start..self.output.len());
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
                let later = (k + PREFETCH_SAMPLES) * self.ld + columns.start;
                prefetch_pooled(&self.output, later, columns.len());
                rows.origin.bag = first_bag + k;
                let start = k * self.ld;
                let pooled = self.output.part(start + columns.start..start + columns.end);
                match feature.pooling {
                    Pooling::Max => {
                        let argmax = self
                            .argmax
                            .as_mut()
                            .map(|(data, ld)| &mut data[k * *ld..][columns.clone()]);
                        let mut maxima = BagMax { rows: &rows, lanes, positions, pooled, argmax };
                        for_each_block::<V>(rows.dim, &mut maxima);
                    }
                    pooling => {
                        let is_mean = pooling == Pooling::Mean;
                        let mut sum = BagSum { rows: &rows, lanes, positions, pooled, is_mean };
                        for_each_block::<V>(rows.dim, &mut sum);
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

/// Prefetches pooled vectors that are written soon.
#[inline(always)]
fn prefetch_pooled(pooled: &ElementsMut<'_>, start: usize, len: usize) {
    with_elements!(pooled => prefetch_output(pooled, start, len));
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
    output: ElementsMut<'r>,
    /// The leading dimension of `output`.
    ld: usize,
}

impl<E: Element, I: Index> ShortRows<'_, '_, E, I> {
    /// Pools rows of `N` vectors. It adds and divides in the order of [`BagSum`], so that results
    /// are the same bits.
    #[inline(always)]
    fn pool<V: Lanes, const N: usize>(self, lanes: V) {
        let Self { rows, gather, bags, pooling, output, ld } = self;
        // The loop is compiled for each type of output: a branch in it costs a sixth of the time.
        with_elements!(output => {
            Self::pool_into::<V, _, N>(lanes, rows, gather.each_bag(bags), pooling, (output, ld));
        });
    }

    /// Does [`Self::pool`] for bags with these positions, with the output in its type.
    #[inline(always)]
    fn pool_into<V: Lanes, O: Element, const N: usize>(
        lanes: V,
        rows: &FeatureRows<'_, E, I>,
        bags: EachBag<'_, Cpu>,
        pooling: Pooling,
        (output, ld): (&mut [O], usize),
    ) {
        for (k, positions) in bags.enumerate() {
            prefetch_output(output, (k + PREFETCH_SAMPLES) * ld, N * LANES);
            let mut sums = rows.plain_sum::<V, N, true>(lanes, positions.clone(), 0..N * LANES);
            if pooling == Pooling::Mean {
                divide(lanes, &mut sums, positions.len());
            }
            store::<V, O, N, true>(lanes, sums, &mut output[k * ld..][..N * LANES]);
        }
    }
}

/// Divides a sum by the number of its terms.
#[inline(always)]
fn divide<V: Lanes, const N: usize>(lanes: V, sums: &mut [V::F32; N], terms: usize) {
    if terms > 1 {
        let terms = lanes.splat(terms as f32);
        sums.iter_mut().for_each(|sum| *sum = lanes.div(*sum, terms));
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

    /// Returns the row that the id at a position names, for the block of its columns that begins at
    /// `column`. The first block notes a bad id, so that it is counted once.
    #[inline(always)]
    fn lookup_block(&self, position: usize, column: usize) -> Option<&[E]> {
        if column == 0 {
            return self.lookup(position);
        }
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
}

/// The sum or the mean of a bag, block by block.
struct BagSum<'a, 'r, V, E, I> {
    /// The lookups of the bag's feature.
    rows: &'r FeatureRows<'a, E, I>,
    lanes: V,
    /// The positions of the bag's ids.
    positions: Range<usize>,
    /// The pooled vector.
    pooled: ElementsMut<'r>,
    /// Set if the sum is divided by the number of its terms.
    is_mean: bool,
}

impl<V: Lanes, E: Element, I: Index> Blocks for BagSum<'_, '_, V, E, I> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        let Self { rows, lanes, .. } = *self;
        let (mut sums, terms);
        if rows.is_plain {
            let positions = self.positions.clone();
            terms = positions.len();
            sums = rows.plain_sum::<V, N, WHOLE>(lanes, positions, columns.clone());
        } else {
            (sums, terms) = self.sum::<N, WHOLE>(columns.clone());
        }
        if self.is_mean {
            divide(lanes, &mut sums, terms);
        }
        store_as::<V, N, WHOLE>(lanes, sums, self.pooled.part(columns));
    }
}

impl<V: Lanes, E: Element, I: Index> BagSum<'_, '_, V, E, I> {
    /// Returns some columns of the (weighted) sum of the rows that the bag's ids name, and the
    /// number of these rows.
    #[inline(always)]
    fn sum<const N: usize, const WHOLE: bool>(
        &self,
        columns: Range<usize>,
    ) -> ([V::F32; N], usize) {
        let Self { rows, lanes, .. } = *self;
        let (mut sums, mut terms) = ([lanes.splat(0.0); N], 0);
        for position in self.positions.clone() {
            rows.prefetch(position + rows.prefetch_rows, columns.clone());
            let Some(row) = rows.lookup_block(position, columns.start) else { continue };
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
            terms += 1;
        }
        (sums, terms)
    }
}

/// The maxima of a bag and the source of each, the number of the id within the bag, block by block.
/// A NaN counts as larger than everything.
struct BagMax<'a, 'r, V, E, I> {
    /// The lookups of the bag's feature.
    rows: &'r FeatureRows<'a, E, I>,
    lanes: V,
    /// The positions of the bag's ids.
    positions: Range<usize>,
    /// The pooled vector.
    pooled: ElementsMut<'r>,
    /// The sources.
    argmax: Option<&'r mut [u32]>,
}

impl<V: Lanes, E: Element, I: Index> Blocks for BagMax<'_, '_, V, E, I> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        // The values are compared as they are read, before any is rounded.
        let (mut maxima, mut sources) = ([[0.0; LANES]; N], [[NO_SOURCE; LANES]; N]);
        let (maxima, sources) = (maxima.as_flattened_mut(), sources.as_flattened_mut());
        let (mut is_first, start) = (true, self.positions.start);
        for position in self.positions.clone() {
            self.rows.prefetch(position + self.rows.prefetch_rows, columns.clone());
            let Some(row) = self.rows.lookup_block(position, columns.start) else { continue };
            let best = maxima.iter_mut().zip(sources.iter_mut());
            for (x, (best, source)) in row[columns.clone()].iter().zip(best) {
                let x = x.to_f32();
                if is_first || x > *best || (x.is_nan() && !best.is_nan()) {
                    (*best, *source) = (x, (position - start) as u32);
                }
            }
            is_first = false;
        }
        let len = columns.len();
        let maxima = load::<V, f32, N, WHOLE>(self.lanes, &maxima[..len]);
        store_as::<V, N, WHOLE>(self.lanes, maxima, self.pooled.part(columns.clone()));
        if let Some(argmax) = &mut self.argmax {
            argmax[columns].copy_from_slice(&sources[..len]);
        }
    }
}

impl<E: Element, I: Index> Gather<'_, E, I> {
    /// Writes the gradients of the per-sample weights of `bags`.
    fn weight_grads(
        &self,
        cpu: &Cpu,
        bags: Range<usize>,
        grad_weights: &mut [f32],
        grad_output: &AnyMatrix<'_>,
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
    grad_output: &'t AnyMatrix<'g>,
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
            let mut bag_len = 0;
            for position in gather.positions(bag) {
                rows.prefetch(position + rows.prefetch_rows, 0..rows.dim);
                if let Some(row) = rows.lookup(position) {
                    grad_weights[position - start] = with_elements!(grad_output => {
                        dot_row(lanes, &grad_output.row(sample)[gather.columns(feature)], row)
                    });
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
