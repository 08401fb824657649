//! [`sparse_update`](crate::ops::sparse_update) on a CUDA device. The header of
//! kernels/sparse_update.cu describes the algorithm.

use std::iter;
use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::index_sort::segment_tiles;
use super::runtime::buffer::Parts;
use super::runtime::launch::{Function, Grid};
use super::runtime::module::{ByElement, Module};
use super::runtime::params::bags::FaultyOp;
use super::runtime::params::index_sort::IndexSortSegments;
use super::runtime::params::sparse_update::{
    self as params, CHUNK_THREADS, OptimizerStep, OptimizerTarget, Place, RowGradientSource,
    StepPointers, THREADS, WIDE_COLUMNS,
};
use super::runtime::pointer::{Ptr, PtrMut};
use super::runtime::tables::{Placed, Tables};
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::ops::sparse_update::{Apply, CHUNK, Merge, PooledGrad, Reduce, SparseUpdateOps, Update};
use crate::ops::table_values::Per;
use crate::ops::{
    Device, Extent, Rounding, TableBatch, TableStateMut, TableValuesMut, UpdateRule, View,
};
use crate::size::{product, sum};

/// The most blocks of a grid whose blocks loop over the work. Most batches have far fewer rows than
/// ids, and a block without work takes time too.
const MAX_BLOCKS: usize = 8192;

// Sums have the same order as on the CPU, so chunks must have the same length.
const _: () = assert!(params::CHUNK as usize == CHUNK);

/// The kernels of kernels/sparse_update.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    runs: Function<params::SparseUpdateRuns>,
    starts: Function<params::SparseUpdateStarts>,
    reduce_rows: Function<params::SparseUpdateReduce>,
    reduce_chunks: Function<params::SparseUpdateReduce>,
    interleave: Function<params::SparseUpdateInterleave>,
    add: Function<params::SparseUpdateAdd>,
    update_rows: ByElement<params::SparseUpdateUpdate<()>>,
    update_chunks: ByElement<params::SparseUpdateUpdate<()>>,
    apply: ByElement<params::SparseUpdateApply<()>>,
    /// The number of blocks of `update_rows` that run at the same time.
    blocks: usize,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "sparse_update")?;
        let update_rows: ByElement<params::SparseUpdateUpdate<()>> = module.by_element("_rows")?;
        Ok(Self {
            runs: module.function()?,
            starts: module.function()?,
            reduce_rows: module.instance("_rows")?,
            reduce_chunks: module.instance("_chunks")?,
            interleave: module.function()?,
            add: module.function()?,
            blocks: module.blocks_at_once(update_rows.of::<f32>(), THREADS)?,
            update_rows,
            update_chunks: module.by_element("_chunks")?,
            apply: module.by_element("")?,
            _module: module,
        })
    }
}

impl SparseUpdateOps for Cuda {
    fn sparse_update_reduce<I: Index, G: Element>(
        &self,
        args: Reduce<'_, Self, I, G>,
    ) -> Result<()> {
        let Reduce { source, grad, workspace } = args;
        let tables = source.tables.as_ref();
        let mut parts = Parts::of(&workspace, self)?;
        let (from, num_indices) = (self.source(&source, &mut parts)?, source.bags.num_indices());
        let places = parts.take(tables.tables().len());
        let (starts, values) = (
            Self::view_mut(&mut grad.starts).on(self)?,
            Self::view_mut(&mut grad.values).on(self)?,
        );
        let (capacity, num_rows) = (grad.capacity() as u32, from.counts.add(1));
        let counts = Self::view_mut(&mut grad.counts).on(self)?;
        self.place_rows(source.tables, (from.rows, num_rows), places, (starts, counts), capacity)?;
        let lanes = source.tables.lanes(from.is_wide != 0);
        let parameters = params::SparseUpdateReduce {
            source: from,
            places: places.as_const(),
            grad_rows: Self::view_mut(&mut grad.rows).on(self)?,
            starts,
            values,
            num_values: grad.values.extent() as u64,
            capacity,
            lanes: lanes as u32,
        };
        let kernels = &self.inner.kernels.sparse_update;
        let no_control = StepPointers { values: Ptr::NULL, gate: Ptr::NULL };
        let grid = self.grid_at_once(num_indices.min(grad.capacity()), lanes);
        // SAFETY: the op has been validated: the gradient has room for `capacity` rows, which the
        // kernels do not exceed. Gradient and workspace are exclusive views. The order may hold any
        // values: the kernels check them before they use them.
        unsafe {
            if let Some(grid) = chunk_grid(num_indices) {
                kernels.reduce_chunks.launch(self, grid, parameters)?;
            }
            self.sum_runs(tables, &from, no_control)?;
            kernels.reduce_rows.launch(self, grid, parameters)
        }
    }

    fn sparse_update_merge(&self, args: Merge<'_, Self>) -> Result<()> {
        let Merge { tables, a, b, out, mut workspace } = args;
        let kernels = &self.inner.kernels.sparse_update;
        let (host, num_rows) = (tables.as_ref(), a.capacity() + b.capacity());
        let cleared = 1 + segment_tiles(num_rows);
        let mut parts = Parts::of(&workspace, self)?;
        workspace.first(cleared).clear(self.raw_stream())?;
        let (ticket, words) = (parts.take::<u32>(2), parts.take::<u64>(cleared - 1));
        let [merged, rows] = [(); 2].map(|()| parts.take::<u64>(num_rows));
        let sources = parts.take::<u32>(num_rows);
        let segments = parts.take::<u32>(num_rows + 1);
        let counts = parts.take::<u32>(2);
        let places = parts.take(host.tables().len());

        let interleave = params::SparseUpdateInterleave {
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
        // the workspace has the length of `sparse_update_merge_workspace_len`. Both are exclusive
        // views. Gradients may hold any values: the kernels check rows and starts before they use
        // them.
        unsafe { kernels.interleave.launch(self, grid(num_rows, 1), interleave)? };
        let number = IndexSortSegments {
            keys: merged.as_const(),
            positions: Ptr::NULL,
            bag_of: Ptr::NULL,
            rows,
            segments,
            bags: PtrMut::NULL,
            counts,
            words,
            ticket,
            num_keys: num_rows as u64,
            end_key: host.num_rows() as u64,
        };
        // SAFETY: as above. The ticket and the look-back words have been cleared on this stream.
        // There are no bags, whose pointers are null.
        unsafe { self.number_rows(number)? };
        let out_capacity = out.capacity() as u32;
        let out_starts = Self::view_mut(&mut out.starts).on(self)?;
        let out_count = Self::view_mut(&mut out.counts).on(self)?;
        self.place_rows(
            tables,
            (rows.as_const(), counts.add(1).as_const()),
            places,
            (out_starts, out_count),
            out_capacity,
        )?;
        let lanes = tables.lanes(false);
        let add = params::SparseUpdateAdd {
            tables: tables.tables(self)?,
            rows: rows.as_const(),
            segments: segments.as_const(),
            sources: sources.as_const(),
            places: places.as_const(),
            a_starts: Self::view(&a.starts).on(self)?,
            a_values: Self::view(&a.values).on(self)?,
            b_starts: Self::view(&b.starts).on(self)?,
            b_values: Self::view(&b.values).on(self)?,
            out_rows: Self::view_mut(&mut out.rows).on(self)?,
            out_starts,
            out_values: Self::view_mut(&mut out.values).on(self)?,
            out_count: out_count.as_const(),
            num_a_values: a.values.extent() as u64,
            num_b_values: b.values.extent() as u64,
            num_out_values: out.values.extent() as u64,
            a_capacity: a.capacity() as u32,
            b_capacity: b.capacity() as u32,
            num_tables: host.tables().len() as u32,
            lanes: lanes as u32,
        };
        // SAFETY: as above. The launches before, on the same stream, have written the rows,
        // segments, sources and places.
        unsafe { kernels.add.launch(self, grid(num_rows, lanes), add) }
    }

    fn sparse_update_apply<E: Element>(&self, args: Apply<'_, Self, E>) -> Result<()> {
        let Apply { tables, grad, rule, decay_scale, weights, state } = args;
        let (target, is_wide) = self.target(tables, &rule, decay_scale, &weights, &state)?;
        let lanes = tables.lanes(is_wide);
        let parameters = params::SparseUpdateApply {
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
        let grid = grid(grad.capacity(), lanes);
        // SAFETY: the function is the instance for `E`. The op has been validated: weights, state
        // and scales have the sizes that the tables require, and those that are written are
        // exclusive views. The gradient may hold any values: the kernel checks rows and starts
        // before it uses them.
        unsafe { self.inner.kernels.sparse_update.apply.of::<E>().launch(self, grid, parameters) }
    }

    fn sparse_update_update<E: Element, I: Index, G: Element>(
        &self,
        args: Update<'_, Self, E, I, G>,
    ) -> Result<()> {
        let Update { source, control, rule, decay_scale, weights, state, workspace } = args;
        let from = self.source(&source, &mut Parts::of(&workspace, self)?)?;
        let (target, is_wide) = self.target(source.tables, &rule, decay_scale, &weights, &state)?;
        let lanes = source.tables.lanes(from.is_wide != 0 && is_wide);
        let parameters = params::SparseUpdateUpdate {
            source: from,
            target,
            step: OptimizerStep::of(&rule),
            control: self.step_pointers(&control)?,
            lanes: lanes as u32,
        };
        let (kernels, num_indices) = (&self.inner.kernels.sparse_update, source.bags.num_indices());
        let grid = self.grid_at_once(num_indices, lanes);
        // SAFETY: as in `sparse_update_apply` and `sparse_update_reduce`.
        unsafe {
            if let Some(grid) = chunk_grid(num_indices) {
                kernels.update_chunks.of::<E>().launch(self, grid, parameters)?;
            }
            self.sum_runs(source.tables.as_ref(), &from, parameters.control)?;
            kernels.update_rows.of::<E>().launch(self, grid, parameters)
        }
    }

    fn sparse_update_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize {
        let lens = [first_sums_len(tables, num_indices), run_sums_len(tables, num_indices)];
        let [first_sums, run_sums] = lens.map(|len| product([len, size_of::<f32>()]));
        sum([first_sums, run_sums, tables.tables().len() * size_of::<Place>()]).div_ceil(8)
    }

    fn sparse_update_merge_workspace_len(&self, tables: &TableBatch, num_rows: usize) -> usize {
        // The workspace holds the ticket, the look-back words and the counts; the merged rows and
        // the numbered rows; sources and segments; and a place for each table.
        let numbering = 1 + segment_tiles(num_rows) + 1;
        let (sources, segments) = (num_rows.div_ceil(2), sum([num_rows, 1]).div_ceil(2));
        sum([
            numbering,
            product([2, num_rows]),
            sources,
            segments,
            tables.tables().len() * size_of::<Place>() / 8,
        ])
    }
}

impl Cuda {
    /// Returns the arguments from which kernels compute the gradient of rows.
    fn source<I: Index, G: Element>(
        &self,
        source: &PooledGrad<'_, Self, I, G>,
        parts: &mut Parts,
    ) -> Result<RowGradientSource> {
        let PooledGrad { tables, bags, sorted, grad_output, loss_scale, argmax, max_gradient } =
            source;
        let host = tables.as_ref();
        let (argmax, argmax_ld) = match argmax {
            Some(argmax) => (argmax.data.on(self)?, argmax.ld),
            None => (Ptr::NULL, 0),
        };
        let run_sums_ld = run_sums_ld(host);
        let num_indices = bags.num_indices();
        let is_wide = is_wide(grad_output.data.on(self)?.address(), size_of::<G>())
            && is_wide(argmax.address(), size_of::<u32>())
            && grad_output.ld.is_multiple_of(WIDE_COLUMNS)
            && argmax_ld.is_multiple_of(WIDE_COLUMNS);
        Ok(RowGradientSource {
            features: tables.features(self)?,
            tables: tables.tables(self)?,
            rows: Self::view(&sorted.rows).on(self)?,
            segments: Self::view(&sorted.segments).on(self)?,
            positions: Self::view(&sorted.positions).on(self)?,
            bags: Self::view(&sorted.bags).on(self)?,
            bag_lengths: Self::view(&sorted.bag_lengths).on(self)?,
            counts: Self::view(&sorted.counts).on(self)?,
            per_sample_weights: View::on_or_null(&bags.per_sample_weights, self)?,
            grad_output: grad_output.data.on(self)?.cast(),
            argmax,
            first_sums: parts.take(first_sums_len(host, num_indices)),
            run_sums: parts.take(run_sums_len(host, num_indices)),
            // The kernels that use the order report no faults.
            bags_of_ids: self.bags(bags, host, FaultyOp::IndexSort)?,
            grad_output_ld: grad_output.ld as u64,
            argmax_ld: argmax_ld as u64,
            run_sums_ld: run_sums_ld as u64,
            grad_output_type: G::DTYPE.into(),
            num_tables: host.tables().len() as u32,
            num_indices: num_indices as u32,
            batch_size: bags.batch_size as u32,
            is_wide: is_wide.into(),
            max_gradient: max_gradient.map_or(f32::INFINITY, |max| max * loss_scale),
            factor: 1.0 / loss_scale,
        })
    }

    /// Launches the kernels that sum the runs of hot rows that are longer than a chunk, except for
    /// the first run of each length in a row.
    ///
    /// # Safety
    /// The op must have been validated. `source` must be of its tables, with the sums of chunks.
    unsafe fn sum_runs(
        &self,
        tables: &TableBatch,
        source: &RowGradientSource,
        control: StepPointers,
    ) -> Result<()> {
        let (num_indices, run_sums_ld) = (source.num_indices as usize, run_sums_ld(tables));
        let mut sums = source.run_sums;
        for (shorter, len) in run_lens(num_indices).zip(run_lens(num_indices).skip(1)) {
            let shorter_sums = sums.as_const();
            sums = sums.add(num_indices.div_ceil(shorter) * run_sums_ld);
            let (source, shift) = (*source, len.ilog2());
            let parameters =
                params::SparseUpdateRuns { source, shorter_sums, sums, control, shift };
            let grid = grid(num_indices.div_ceil(len), 32);
            // SAFETY: the caller has validated the op: order, gradient, sources and weights have
            // the sizes that bags and ids require. The workspace has the length of
            // `sparse_update_workspace_len` and is an exclusive view. The order may hold any
            // values: the kernel checks them before it uses them.
            unsafe { self.inner.kernels.sparse_update.runs.launch(self, grid, parameters)? };
        }
        Ok(())
    }

    /// Returns a grid for `count` rows of a batch, with no more blocks than run at the same time.
    /// Each block looks up rows for itself before it sums their gradients; a few blocks that start
    /// after all others would double the time.
    fn grid_at_once(&self, count: usize, lanes: usize) -> Grid {
        Grid::looping(count * lanes, THREADS, self.inner.kernels.sparse_update.blocks)
    }

    /// Returns the kernel arguments of a step on rows: its buffers, its rounding and its number.
    /// Returns with them whether the rows of all tables, and their state, are aligned for
    /// `WIDE_COLUMNS` elements.
    fn target<E: Element>(
        &self,
        tables: &Tables,
        rule: &UpdateRule,
        decay_scale: Option<View<'_, Cuda, f32>>,
        weights: &TableValuesMut<'_, Cuda, E>,
        state: &TableStateMut<'_, Self>,
    ) -> Result<(OptimizerTarget<E>, bool)> {
        let weights = self.placed_mut(tables, weights, Per::Element)?;
        let per = rule.optimizer.state_per();
        let placed = |values| self.placed_mut(tables, values, per).map(Some);
        let (first, second) = match state {
            TableStateMut::None => (None, None),
            TableStateMut::SumOfSquares(sums) => (placed(sums)?, None),
            TableStateMut::Moments { first, second } => (placed(first)?, placed(second)?),
        };
        let state = [&first, &second].map(|state| {
            state.as_ref().map_or((PtrMut::NULL, Ptr::NULL), |state| (state.base, state.tables))
        });
        let [(first_base, first_rows), (second_base, second_rows)] = state;
        let seed = match rule.rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic { seed } => Some(seed),
        };
        let is_wide_base = is_wide(weights.base.address(), size_of::<E>())
            && (per == Per::Row || is_wide(first_base.address(), size_of::<f32>()))
            && is_wide(second_base.address(), size_of::<f32>());
        let are_wide = weights.is_wide()
            && (per == Per::Row
                || [&first, &second]
                    .iter()
                    .all(|state| state.as_ref().is_none_or(Placed::is_wide)));
        let target = OptimizerTarget {
            decay_scale: View::on_or_null(&decay_scale, self)?,
            weights: weights.base,
            weight_rows: weights.tables,
            first: first_base,
            first_rows,
            second: second_base,
            second_rows,
            seed: seed.unwrap_or(0),
            step_number: rule.step,
            is_stochastic: seed.is_some().into(),
            is_wide: is_wide_base.into(),
        };
        Ok((target, is_wide_base && are_wide))
    }

    /// Launches the kernel that finds where the rows and values of each table begin in a gradient.
    /// `rows` is the address of the rows and `num_rows` that of their number; the gradient takes at
    /// most `capacity` of them.
    fn place_rows(
        &self,
        tables: &Tables,
        (rows, num_rows): (Ptr<u64>, Ptr<u32>),
        places: PtrMut<Place>,
        (starts, counts): (PtrMut<u64>, PtrMut<u32>),
        capacity: u32,
    ) -> Result<()> {
        let num_tables = tables.as_ref().tables().len() as u32;
        let parameters = params::SparseUpdateStarts {
            tables: tables.tables(self)?,
            rows,
            num_rows,
            places,
            starts,
            counts,
            num_tables,
            capacity,
        };
        let one_block = Grid::new((1, 1), THREADS);
        // SAFETY: the caller's op has been validated: the gradient has room for `capacity` rows,
        // and the workspace for a place of each table; both are exclusive views.
        unsafe { self.inner.kernels.sparse_update.starts.launch(self, one_block, parameters) }
    }
}

/// Returns whether `WIDE_COLUMNS` elements of `size` bytes can be loaded at once from an address.
fn is_wide(address: u64, size: usize) -> bool {
    address.is_multiple_of((WIDE_COLUMNS * size) as u64)
}

/// Returns the lengths of runs, in occurrences: one chunk, `CHUNK` chunks, and so on, as long as a
/// row of `num_indices` occurrences has more than one run.
fn run_lens(num_indices: usize) -> impl Iterator<Item = usize> {
    iter::successors(Some(CHUNK), |len| len.checked_mul(CHUNK))
        .take_while(move |&len| len < num_indices)
}

/// Returns the number of elements of the sums of first chunks. Rows that have more than one begin
/// farther apart than a window is long.
fn first_sums_len(tables: &TableBatch, num_indices: usize) -> usize {
    match num_indices > CHUNK {
        true => product([num_indices.div_ceil(CHUNK), run_sums_ld(tables)]),
        false => 0,
    }
}

/// Returns the number of elements of all sums of runs. For each length the occurrences are cut into
/// windows as long as a run, and each window has room for one sum: at most one run begins in it
/// that is not the first of its row.
fn run_sums_len(tables: &TableBatch, num_indices: usize) -> usize {
    sum(run_lens(num_indices).map(|len| product([num_indices.div_ceil(len), run_sums_ld(tables)])))
}

/// Returns the leading dimension of the sums of runs, in elements.
fn run_sums_ld(tables: &TableBatch) -> usize {
    tables.max_dim().next_multiple_of(WIDE_COLUMNS)
}

/// Returns the grid of a kernel that sums chunks, a warp for each window, or `None` if no row of a
/// batch can have more than a few occurrences.
fn chunk_grid(num_indices: usize) -> Option<Grid> {
    let windows = num_indices.div_ceil(CHUNK);
    (num_indices > params::FEW as usize)
        .then(|| Grid::looping(32 * windows, CHUNK_THREADS, MAX_BLOCKS))
}

/// Returns a grid for `count` groups of `lanes` lanes, with at most `MAX_BLOCKS` blocks.
fn grid(count: usize, lanes: usize) -> Grid {
    Grid::looping(count * lanes, THREADS, MAX_BLOCKS)
}
