//! [`pooled_interaction`](crate::ops::pooled_interaction) on a CUDA device. The header of
//! kernels/pooled_interaction.cu describes the algorithm. What that kernel does not take runs as
//! both ops, one after the other.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::interaction::Dots;
use super::runtime::launch::Function;
use super::runtime::module::{ByWidth, Module};
use super::runtime::params::bags::FaultyOp;
use super::runtime::params::pooled_interaction as params;
use super::runtime::params::vec::VECTOR_BYTES;
use super::runtime::pointer::{Ptr, PtrMut};
use super::runtime::tables::Placed;
use crate::dtype::{DType, Element, Index};
use crate::error::Result;
use crate::ops::pooled_interaction::{Forward, PooledInteractionOps};
use crate::ops::table_values::Per;
use crate::ops::{Interaction, TableBatch, View, embedding_bag};

/// The types of rows and of features that the kernel has instances for.
const TYPES: [(DType, DType); 5] = [
    (DType::F32, DType::F32),
    (DType::F32, DType::F16),
    (DType::F32, DType::BF16),
    (DType::F16, DType::F16),
    (DType::BF16, DType::BF16),
];

/// The instances of the kernel of kernels/pooled_interaction.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    /// The instances for each of [`TYPES`].
    forward: Vec<ByWidth<params::PooledInteractionForward<(), (), ()>>>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "pooled_interaction")?;
        let of_types = |(rows, features): &(DType, DType)| {
            module.by_width(&format!("_{rows}_{features}"), ["i32", "i64"])
        };
        let forward = TYPES.iter().map(of_types).collect::<Result<_>>()?;
        Ok(Self { forward, _module: module })
    }

    /// Returns the instance for rows of `E`, features of `O` and ids of `I`, if there is one.
    fn of<E: Element, O: Element, I: Index>(
        &self,
    ) -> Option<Function<params::PooledInteractionForward<(), (), ()>>> {
        let number = TYPES.iter().position(|types| *types == (E::DTYPE, O::DTYPE))?;
        self.forward.get(number).map(ByWidth::of::<I>)
    }
}

impl PooledInteractionOps for Cuda {
    fn pooled_interaction_forward<E: Element, I: Index, O: Element>(
        &self,
        mut args: Forward<'_, Self, E, I, O>,
    ) -> Result<()> {
        let function = self.inner.kernels.pooled_interaction.of::<E, O, I>();
        let weights = self.placed(args.lookup.tables, &args.lookup.weights, Per::Element)?;
        let (base, rows, is_taken) = (weights.base, weights.features, is_taken(&args, &weights));
        let (Some(function), true) = (function, is_taken) else {
            return args.run_in_turn(self);
        };
        let call = Dots::of_forward(&args.as_interaction(), self)?;
        let Some((grid, team_threads)) = call.mma_teams() else {
            return args.run_in_turn(self);
        };
        let Forward { lookup, interact } = args;
        let embedding_bag::Forward { tables, weights: _, bags, output: pooled, argmax: _ } = lookup;
        let lanes = (interact.dim * size_of::<E>()).div_ceil(VECTOR_BYTES);
        let parameters = params::PooledInteractionForward {
            matrices: call.forward::<O>(),
            features: tables.features(self)?,
            weights: base,
            rows,
            indices: bags.indices.on(self)?,
            per_sample_weights: View::on_or_null(&bags.per_sample_weights, self)?,
            pooled: if interact.keeps_pooled { pooled.data.on(self)? } else { PtrMut::NULL },
            status: self.inner.faults.pointer(),
            bags: self.bags(&bags, tables.as_ref(), FaultyOp::EmbeddingBagForward)?,
            pooled_ld: pooled.ld as u64,
            batch_size: bags.batch_size as u32,
            team_threads,
            lanes: lanes.next_power_of_two().min(32) as u32,
        };
        // SAFETY: the function is the instance for `E`, `O` and `I`. The op has been validated:
        // weights, ids, offsets, dense vectors and outputs have the sizes that features and batch
        // size require, and outputs are exclusive views. A block has the shared memory that its
        // teams need. The rows of all tables are aligned for the vectorised loads of the kernel.
        // Ids and offsets may hold any values: the kernel checks them before it uses them.
        unsafe { function.launch(self, grid, parameters) }
    }
}

/// Returns whether the kernel takes these arguments, if it has an instance for their types.
fn is_taken<E: Element, I: Index, O: Element>(
    args: &Forward<'_, Cuda, E, I, O>,
    weights: &Placed<'_, Ptr<E>>,
) -> bool {
    let Forward { lookup, interact } = args;
    let tables: &TableBatch = lookup.tables.as_ref();
    let wide = VECTOR_BYTES / size_of::<E>();
    let is_wide =
        tables.features().iter().zip(weights.rows_of_features(tables)).all(|(feature, rows)| {
            tables.tables()[feature.table].embedding_dim == interact.dim
                && (rows.stride as usize).is_multiple_of(wide)
                && weights.base.add(rows.start as usize).is_aligned_to(VECTOR_BYTES)
        });
    matches!(interact.interaction, Interaction::Dot { .. })
        && !interact.precision.is_exact::<O>()
        && !tables.has_max()
        && lookup.argmax.is_none()
        && interact.dim.is_multiple_of(wide)
        && interact.output.cols > 0
        && is_wide
}
