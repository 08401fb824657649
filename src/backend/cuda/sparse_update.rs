//! [`sparse_update`](crate::ops::sparse_update) on a CUDA device: kernels/sparse_update.cu says
//! how.

use std::iter;

use super::buffer::Parts;
use super::index_sort::segment_tiles;
use super::kernels::{
    Grid, IndexSortSegments, OptimizerStep, OptimizerTarget, RowGradientSource, SparseUpdateAdd,
    SparseUpdateApply, SparseUpdateChunks, SparseUpdateInterleave, SparseUpdateReduce,
    SparseUpdateRuns, SparseUpdateStarts, SparseUpdateUpdate,
};
use super::tables::{Tables, WIDE};
use super::{Cuda, Slice, SliceMut};
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::ops::sparse_update::{Apply, CHUNK, Merge, PooledGrad, Reduce, SparseUpdateOps, Update};
use crate::ops::{Device, Extent, OptimizerStateMut, Rounding, TableBatch, UpdateRule};
use crate::size::{product, sum};

/// Threads of a block, as the kernels are compiled.
pub(super) const THREADS: u32 = 256;
/// Blocks loop over what is left beyond this many: most batches have far fewer rows than ids, and a
/// block without work takes time too.
const MAX_BLOCKS: usize = 8192;
/// Bytes of what the kernels note for each table: where its rows begin.
const PLACE: usize = 16;

impl SparseUpdateOps for Cuda {
    fn sparse_update_reduce<I: Index>(&self, args: Reduce<'_, Self, I>) -> Result<()> {
        let Reduce { source, grad, workspace } = args;
        let tables = source.tables.as_ref();
        let mut parts = Parts::of(&workspace, self)?;
        let from = self.sum_runs(&source, &mut parts)?;
        let places = parts.take(tables.tables().len() * PLACE);
        let (starts, values) = (
            Self::view_mut(&mut grad.starts).on(self)?,
            Self::view_mut(&mut grad.values).on(self)?,
        );
        let (capacity, num_rows) = (grad.capacity() as u32, from.counts + size_of::<u32>() as u64);
        let counts = Self::view_mut(&mut grad.counts).on(self)?;
        self.place_rows(source.tables, (from.rows, num_rows), places, (starts, counts), capacity)?;
        let lanes = source.tables.lanes(from.is_wide != 0);
        let kernel = SparseUpdateReduce {
            source: from,
            places,
            grad_rows: Self::view_mut(&mut grad.rows).on(self)?,
            starts,
            values,
            num_values: grad.values.extent() as u64,
            capacity,
            lanes: lanes as u32,
        };
        let most_rows = source.bags.num_indices().min(grad.capacity());
        let grid = self.grid_at_once(most_rows, lanes);
        // SAFETY: the op has been validated: the gradient has room for all rows that there can be,
        // and is an exclusive view, as is the workspace. What was sorted may hold anything: the
        // kernel checks it before it uses it.
        unsafe { kernel.launch(self, self.inner.kernels.sparse_update_reduce, grid) }
    }

    fn sparse_update_merge(&self, args: Merge<'_, Self>) -> Result<()> {
        let Merge { tables, a, b, out, mut workspace } = args;
        let (host, num_rows) = (tables.as_ref(), a.capacity() + b.capacity());
        let cleared = 1 + segment_tiles(num_rows);
        let mut parts = Parts::of(&workspace, self)?;
        workspace.first(cleared).clear(self.raw_stream())?;
        let (ticket, words) = (parts.take(8), parts.take(8 * (cleared - 1)));
        let [merged, rows] = [(); 2].map(|()| parts.take(num_rows * 8));
        let sources = parts.take(num_rows * 4);
        let segments = parts.take((num_rows + 1) * 4);
        let counts = parts.take(8);
        let places = parts.take(host.tables().len() * PLACE);

        let interleave = SparseUpdateInterleave {
            a_rows: Self::view(&a.rows).on(self)?,
            a_count: Self::view(&a.counts).on(self)?,
            b_rows: Self::view(&b.rows).on(self)?,
            b_count: Self::view(&b.counts).on(self)?,
            rows: merged,
            sources,
            end_key: host.num_rows() as u64,
            a_capacity: a.capacity() as u32,
            b_capacity: b.capacity() as u32,
        };
        // SAFETY: the op has been validated: the sum has room for the rows of both gradients, and
        // the workspace is as long as `sparse_update_merge_workspace_len` says; both are exclusive
        // views. Gradients may hold anything: rows and starts are checked before use.
        unsafe {
            interleave.launch(
                self,
                self.inner.kernels.sparse_update_interleave,
                grid(num_rows, 1),
            )?
        };
        let number = IndexSortSegments {
            keys: merged,
            positions: 0,
            bag_of: 0,
            rows,
            segments,
            bags: 0,
            counts,
            words,
            tickets: ticket,
            num_keys: num_rows as u64,
            end_key: host.num_rows() as u64,
        };
        // SAFETY: as above; ticket and words have been cleared on this stream.
        unsafe { self.number_rows(number, size_of::<u64>())? };
        let out_capacity = out.capacity() as u32;
        let out_starts = Self::view_mut(&mut out.starts).on(self)?;
        let out_count = Self::view_mut(&mut out.counts).on(self)?;
        self.place_rows(tables, (rows, counts + 4), places, (out_starts, out_count), out_capacity)?;
        let lanes = tables.lanes(false);
        let add = SparseUpdateAdd {
            tables: tables.tables(self)?,
            rows,
            segments,
            sources,
            places,
            a_starts: Self::view(&a.starts).on(self)?,
            a_values: Self::view(&a.values).on(self)?,
            b_starts: Self::view(&b.starts).on(self)?,
            b_values: Self::view(&b.values).on(self)?,
            out_rows: Self::view_mut(&mut out.rows).on(self)?,
            out_starts,
            out_values: Self::view_mut(&mut out.values).on(self)?,
            out_count,
            num_a_values: a.values.extent() as u64,
            num_b_values: b.values.extent() as u64,
            num_out_values: out.values.extent() as u64,
            a_capacity: a.capacity() as u32,
            b_capacity: b.capacity() as u32,
            num_tables: host.tables().len() as u32,
            lanes: lanes as u32,
        };
        // SAFETY: as above.
        unsafe { add.launch(self, self.inner.kernels.sparse_update_add, grid(num_rows, lanes)) }
    }

    fn sparse_update_apply<E: Element>(&self, args: Apply<'_, Self, E>) -> Result<()> {
        let Apply { tables, grad, rule, decay_scale, weights, state } = args;
        let target = self.target(&rule, decay_scale, weights, state)?;
        let lanes = tables.lanes(target.is_wide_target != 0);
        let kernel = SparseUpdateApply {
            tables: tables.tables(self)?,
            rows: Self::view(&grad.rows).on(self)?,
            starts: Self::view(&grad.starts).on(self)?,
            values: Self::view(&grad.values).on(self)?,
            counts: Self::view(&grad.counts).on(self)?,
            num_values: grad.values.extent() as u64,
            num_tables: tables.as_ref().tables().len() as u32,
            capacity: grad.capacity() as u32,
            target,
            step: OptimizerStep::of(&rule),
            lanes: lanes as u32,
        };
        // SAFETY: the function is that of `E`. The op has been validated: weights, state and scales
        // have the sizes that the tables call for, and those that are written are exclusive views.
        // The gradient may hold anything: the kernel checks rows and starts before it uses them.
        unsafe {
            kernel.launch(
                self,
                self.inner.kernels.sparse_update_apply.of::<E>(),
                grid(grad.capacity(), lanes),
            )
        }
    }

    fn sparse_update_update<E: Element, I: Index>(
        &self,
        args: Update<'_, Self, E, I>,
    ) -> Result<()> {
        let Update { source, control, rule, decay_scale, weights, state, workspace } = args;
        let from = self.sum_runs(&source, &mut Parts::of(&workspace, self)?)?;
        let target = self.target(&rule, decay_scale, weights, state)?;
        let lanes = source.tables.lanes(from.is_wide != 0 && target.is_wide_target != 0);
        let (step, control) = (OptimizerStep::of(&rule), self.step_pointers(&control)?);
        let kernel =
            SparseUpdateUpdate { source: from, target, step, control, lanes: lanes as u32 };
        let grid = self.grid_at_once(source.bags.num_indices(), lanes);
        // SAFETY: as in `sparse_update_apply` and `sparse_update_reduce`.
        unsafe { kernel.launch(self, self.inner.kernels.sparse_update_update.of::<E>(), grid) }
    }

    fn sparse_update_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize {
        let run_sums = product([run_sums_len(tables, num_indices), size_of::<f32>()]);
        sum([run_sums, tables.tables().len() * PLACE]).div_ceil(8)
    }

    fn sparse_update_merge_workspace_len(&self, tables: &TableBatch, num_rows: usize) -> usize {
        // Ticket, words, counts; rows merged and numbered; sources and segments; places.
        let numbering = 1 + segment_tiles(num_rows) + 1;
        let (sources, segments) = (num_rows.div_ceil(2), sum([num_rows, 1]).div_ceil(2));
        sum([
            numbering,
            product([2, num_rows]),
            sources,
            segments,
            tables.tables().len() * PLACE / 8,
        ])
    }
}

impl Cuda {
    /// Launches what sums the runs of hot rows, the first of each length and row left out, and
    /// tells what the gradient of rows is made of then.
    fn sum_runs<I: Index>(
        &self,
        source: &PooledGrad<'_, Self, I>,
        parts: &mut Parts,
    ) -> Result<RowGradientSource> {
        let PooledGrad { tables, bags, sorted, grad_output, argmax, max_gradient } = source;
        let host = tables.as_ref();
        let (argmax, argmax_ld) = match argmax {
            Some(argmax) => (argmax.data.on(self)?, argmax.ld),
            None => (0, 0),
        };
        let run_sums_ld = run_sums_ld(host);
        let num_indices = bags.num_indices();
        let is_wide = is_wide::<f32>(grad_output.data.on(self)?)
            && is_wide::<f32>(argmax)
            && grad_output.ld.is_multiple_of(WIDE)
            && argmax_ld.is_multiple_of(WIDE);
        let gradient = RowGradientSource {
            features: tables.features(self)?,
            tables: tables.tables(self)?,
            rows: Self::view(&sorted.rows).on(self)?,
            segments: Self::view(&sorted.segments).on(self)?,
            positions: Self::view(&sorted.positions).on(self)?,
            bags: Self::view(&sorted.bags).on(self)?,
            bag_lengths: Self::view(&sorted.bag_lengths).on(self)?,
            counts: Self::view(&sorted.counts).on(self)?,
            offsets: bags.offsets.on(self)?,
            per_sample_weights: bags
                .per_sample_weights
                .map_or(Ok(0), |weights| weights.on(self))?,
            grad_output: grad_output.data.on(self)?,
            argmax,
            run_sums: parts.take(run_sums_len(host, num_indices) * size_of::<f32>()),
            grad_output_ld: grad_output.ld as u64,
            argmax_ld: argmax_ld as u64,
            run_sums_ld: run_sums_ld as u64,
            num_tables: host.tables().len() as u32,
            num_indices: num_indices as u32,
            num_bags: bags.num_bags(host) as u32,
            batch_size: bags.batch_size as u32,
            offset_bytes: size_of::<I>() as u32,
            is_wide: is_wide.into(),
            max_gradient: max_gradient.unwrap_or(f32::INFINITY),
        };
        let (mut shorter_sums, mut sums) = (0, gradient.run_sums);
        for len in run_lens(num_indices) {
            let windows = num_indices.div_ceil(len);
            // SAFETY: the op has been validated: order, gradient, sources and weights have the
            // sizes that bags and ids call for, and the workspace is as long as
            // `sparse_update_workspace_len` says, and an exclusive view. What was sorted may hold
            // anything: the kernels check it.
            unsafe {
                if len == CHUNK {
                    let kernel = SparseUpdateChunks { source: gradient };
                    kernel.launch(
                        self,
                        self.inner.kernels.sparse_update_chunks,
                        grid(windows, 32),
                    )?;
                } else {
                    let kernel = SparseUpdateRuns {
                        source: gradient,
                        shorter_sums,
                        sums,
                        shift: len.ilog2(),
                    };
                    kernel.launch(
                        self,
                        self.inner.kernels.sparse_update_runs,
                        grid(windows, 32),
                    )?;
                }
            }
            shorter_sums = sums;
            sums += (windows * run_sums_ld * size_of::<f32>()) as u64;
        }
        Ok(gradient)
    }

    /// Blocks for `count` rows of a batch, no more than run at the same time: each looks up rows
    /// for itself before it sums their gradients, and a few that come after all others would double
    /// the time.
    fn grid_at_once(&self, count: usize, lanes: usize) -> Grid {
        Grid::looping(count * lanes, THREADS, self.inner.kernels.sparse_update_blocks)
    }

    /// Returns the kernel arguments of a step: its buffers, its rounding and its number.
    fn target<E: Element>(
        &self,
        rule: &UpdateRule,
        decay_scale: Option<Slice<'_, f32>>,
        weights: SliceMut<'_, E>,
        state: OptimizerStateMut<'_, Self>,
    ) -> Result<OptimizerTarget> {
        let (weights, (first, second)) = (weights.on(self)?, self.state_pointers(&state)?);
        let seed = match rule.rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic { seed } => Some(seed),
        };
        Ok(OptimizerTarget {
            decay_scale: decay_scale.map_or(Ok(0), |scale| scale.on(self))?,
            weights,
            first,
            second,
            seed: seed.unwrap_or(0),
            step_number: rule.step,
            is_stochastic: seed.is_some().into(),
            is_wide_target: (is_wide::<E>(weights)
                && is_wide::<f32>(first)
                && is_wide::<f32>(second))
            .into(),
        })
    }

    /// Launches what finds out where rows and values of each table begin in a gradient: of the rows
    /// at the address `rows`, as many as the word at `num_rows` says, but at most `capacity`.
    fn place_rows(
        &self,
        tables: &Tables,
        (rows, num_rows): (u64, u64),
        places: u64,
        (starts, counts): (u64, u64),
        capacity: u32,
    ) -> Result<()> {
        let num_tables = tables.as_ref().tables().len() as u32;
        let kernel = SparseUpdateStarts {
            tables: tables.tables(self)?,
            rows,
            num_rows,
            places,
            starts,
            counts,
            num_tables,
            capacity,
        };
        // SAFETY: the caller's op has been validated: the gradient has room for `capacity` rows,
        // and the workspace for a place of each table.
        unsafe {
            kernel.launch(self, self.inner.kernels.sparse_update_starts, Grid::new((1, 1), THREADS))
        }
    }
}

/// Whether a run of elements at an address can be loaded at once.
fn is_wide<T>(pointer: u64) -> bool {
    pointer.is_multiple_of((WIDE * size_of::<T>()) as u64)
}

/// The lengths of runs, ever longer, of which a row of `num_indices` occurrences has more than the
/// first.
fn run_lens(num_indices: usize) -> impl Iterator<Item = usize> {
    iter::successors(Some(CHUNK), |len| len.checked_mul(CHUNK))
        .take_while(move |&len| len < num_indices)
}

/// The elements of the sums of runs: for each window of occurrences as long as a run one, since at
/// most one begins in it that is not the first of its row.
fn run_sums_len(tables: &TableBatch, num_indices: usize) -> usize {
    sum(run_lens(num_indices).map(|len| product([num_indices.div_ceil(len), run_sums_ld(tables)])))
}

/// The distance of the sums of runs.
fn run_sums_ld(tables: &TableBatch) -> usize {
    tables.max_dim().next_multiple_of(WIDE)
}

/// Enough blocks for `count` groups.
fn grid(count: usize, lanes: usize) -> Grid {
    Grid::looping(count * lanes, THREADS, MAX_BLOCKS)
}
