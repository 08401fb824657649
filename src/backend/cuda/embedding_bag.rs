//! [`embedding_bag`](crate::ops::embedding_bag) on a CUDA device. The header of
//! kernels/embedding_bag.cu describes the algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::launch::Grid;
use super::runtime::module::{ByTypes, Module};
use super::runtime::params::bags::{FaultyOp, TableRows};
use super::runtime::params::embedding_bag as params;
use super::runtime::params::vec::VECTOR_BYTES;
use super::runtime::pointer::{Ptr, PtrMut};
use super::runtime::tables::Placed;
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::ops::embedding_bag::{EmbeddingBagOps, Forward, WeightGrad};
use crate::ops::table_values::Per;
use crate::ops::{Feature, TableBatch, View};

/// The number of ids that fills a run of short bags, and so the most bags of a run.
const MAX_RUN_BAGS: usize = 8;
/// The number of bags that keeps any device busy for a while with a group of lanes for each bag.
const MANY_BAGS: usize = 100_000;

/// The kernels of kernels/embedding_bag.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    forward: ByTypes<params::EmbeddingBagForward<(), ()>>,
    weight_grad: ByTypes<params::EmbeddingBagWeightGrad<(), ()>>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "embedding_bag")?;
        Ok(Self { forward: module.by_types()?, weight_grad: module.by_types()?, _module: module })
    }
}

impl EmbeddingBagOps for Cuda {
    fn embedding_bag_forward<E: Element, I: Index, O: Element>(
        &self,
        args: Forward<'_, Self, E, I, O>,
    ) -> Result<()> {
        let Forward { tables, weights, bags, output, argmax } = args;
        let run_bags = run_bags(bags.num_bags(tables.as_ref()), bags.num_indices());
        let weights = self.placed(tables, &weights, Per::Element)?;
        let grid = grid(tables.as_ref(), &weights, bags.batch_size, run_bags);
        let parameters = params::EmbeddingBagForward {
            features: tables.features(self)?,
            weights: weights.base,
            rows: weights.features,
            indices: bags.indices.on(self)?,
            per_sample_weights: View::on_or_null(&bags.per_sample_weights, self)?,
            output: output.data.on(self)?.cast(),
            argmax: argmax.as_ref().map_or(Ok(PtrMut::NULL), |argmax| argmax.data.on(self))?,
            status: self.inner.faults.pointer(),
            bags: self.bags(&bags, tables.as_ref(), FaultyOp::EmbeddingBagForward)?,
            output_ld: output.ld as u64,
            argmax_ld: argmax.as_ref().map_or(0, |argmax| argmax.ld as u64),
            output_type: O::DTYPE.into(),
            num_features: tables.as_ref().features().len() as u32,
            batch_size: bags.batch_size as u32,
            run_bags: run_bags as u32,
        };
        // SAFETY: the function is the instance for `E` and `I`, and the output has the type that it
        // is told. The op has been validated: weights, ids, offsets and outputs have the sizes that
        // features and batch size require, and outputs are exclusive views. Ids and offsets may
        // hold any values: the kernel checks them before it uses them.
        unsafe {
            self.inner.kernels.embedding_bag.forward.of::<E, I>().launch(self, grid, parameters)
        }
    }

    fn embedding_bag_weight_grad<E: Element, I: Index, G: Element>(
        &self,
        args: WeightGrad<'_, Self, E, I, G>,
    ) -> Result<()> {
        let WeightGrad { tables, weights, bags, grad_output, grad_weights } = args;
        let weights = self.placed(tables, &weights, Per::Element)?;
        let grid = grid(tables.as_ref(), &weights, bags.batch_size, 1);
        let parameters = params::EmbeddingBagWeightGrad {
            features: tables.features(self)?,
            weights: weights.base,
            rows: weights.features,
            indices: bags.indices.on(self)?,
            grad_output: grad_output.data.on(self)?.cast(),
            grad_weights: grad_weights.on(self)?,
            status: self.inner.faults.pointer(),
            bags: self.bags(&bags, tables.as_ref(), FaultyOp::EmbeddingBagWeightGrad)?,
            grad_output_ld: grad_output.ld as u64,
            grad_output_type: G::DTYPE.into(),
            num_features: tables.as_ref().features().len() as u32,
            batch_size: bags.batch_size as u32,
        };
        // SAFETY: as in the forward pass. The gradient of the output has the size of the output and
        // the type that the kernel is told.
        unsafe {
            self.inner.kernels.embedding_bag.weight_grad.of::<E, I>().launch(self, grid, parameters)
        }
    }
}

/// Returns the number of bags in a run, which a group of lanes pools one after another. Short bags
/// form runs, so that enough rows are in flight at once. If there are many bags, they form runs
/// too, since a group has set-up work before its first row.
fn run_bags(num_bags: usize, num_indices: usize) -> usize {
    let length = num_indices.div_ceil(num_bags.max(1)).max(1);
    (MAX_RUN_BAGS / length).max((num_bags / MANY_BAGS).min(MAX_RUN_BAGS / 2)).max(1)
}

/// Returns a grid with enough blocks for the runs of the feature that needs the most lanes, and a
/// row of blocks for each feature.
fn grid<E: Element>(
    tables: &TableBatch,
    weights: &Placed<'_, Ptr<E>>,
    batch_size: usize,
    run_bags: usize,
) -> Grid {
    let lanes = |(feature, rows): (&Feature, &TableRows)| {
        let dim = tables.tables()[feature.table].embedding_dim;
        let wide = VECTOR_BYTES / size_of::<E>();
        let is_wide = dim.is_multiple_of(wide)
            && (rows.stride as usize).is_multiple_of(wide)
            && weights.base.add(rows.start as usize).is_aligned_to(VECTOR_BYTES);
        dim.div_ceil(if is_wide { wide } else { 1 }).next_power_of_two().min(32)
    };
    // A run has at most as many bags as its group has lanes.
    let threads = |lanes: usize| batch_size.div_ceil(run_bags.min(lanes)) * lanes;
    let features = tables.features().iter().zip(weights.rows_of_features(tables));
    let threads = features.map(|feature| threads(lanes(feature))).max().unwrap_or(0);
    let blocks = threads.div_ceil(params::THREADS);
    // Features beyond the limit of the grid share blocks.
    Grid::new((blocks as u32, tables.features().len().min(Grid::MAX_Y) as u32), params::THREADS)
}
