//! Lookups, and lookups with an update of the rows.

use std::error::Error;
use std::path::PathBuf;

use bagdot::ops::embedding_bag::Forward;
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::sparse_update::{PooledGrad, Update};
use bagdot::ops::{
    Bags, Device, Matrix, MatrixMut, Optimizer, OptimizerStateMut, Pooling, StepControl, Table,
    TableBatch, UpdateRule,
};
use bagdot::{Cpu, DType, Element, bf16, f16};
use rand::SeedableRng;
use rand::distr::{Distribution, Uniform};
use rand::rngs::SmallRng;
use serde::Deserialize;

/// Equal tables, each looked up by one feature that is pooled by sum.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shape {
    num_tables: usize,
    num_embeddings: usize,
    dim: usize,
    batch_size: usize,
    pooling_factor: usize,
    dtype: DType,
    /// The optimizer of a step on the rows. Without it, only lookups are measured.
    optimizer: Option<Optimizer>,
    /// A file of sets of ids: `i64`, `[sets, num_tables, batch_size, pooling_factor]`.
    ids: PathBuf,
}

pub(crate) fn prepare(cpu: Cpu, shape: Shape) -> Result<super::Run, Box<dyn Error>> {
    match shape.dtype {
        DType::F32 => prepare_for::<f32>(cpu, &shape),
        DType::F16 => prepare_for::<f16>(cpu, &shape),
        DType::BF16 => prepare_for::<bf16>(cpu, &shape),
    }
}

fn prepare_for<E: Element>(cpu: Cpu, shape: &Shape) -> Result<super::Run, Box<dyn Error>> {
    let table = Table { num_embeddings: shape.num_embeddings, embedding_dim: shape.dim };
    let tables = TableBatch::one_feature_each(vec![table; shape.num_tables], Pooling::Sum)?;
    let (batch_size, num_bags) = (shape.batch_size, shape.num_tables * shape.batch_size);
    let num_indices = num_bags * shape.pooling_factor;
    let ids: Vec<i64> =
        std::fs::read(&shape.ids)?.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
    let sets = ids.len() / num_indices;
    let offsets: Vec<i64> = (0..=num_bags).map(|bag| (bag * shape.pooling_factor) as i64).collect();

    let mut weights = cpu.alloc::<E>(tables.num_weights())?;
    let uniform = Uniform::new(-0.01, 0.01)?.sample_iter(SmallRng::seed_from_u64(1));
    weights.iter_mut().zip(uniform).for_each(|(weight, value)| *weight = E::from_f32(value));
    let width = tables.width();
    let mut output = cpu.alloc::<f32>(batch_size * width)?;
    let optimizer = shape.optimizer.unwrap_or(Optimizer::Sgd);
    let mut sums =
        cpu.alloc::<f32>(optimizer.state_len(tables.num_rows(), tables.num_weights())[0])?;
    let mut grad = cpu.alloc::<f32>(batch_size * width)?;
    let uniform = Uniform::new(-1.0, 1.0)?.sample_iter(SmallRng::seed_from_u64(2));
    grad.iter_mut().zip(uniform).for_each(|(grad, value)| *grad = value);
    let mut sorted = SortedIndices::new(&cpu, num_indices, num_bags)?;
    let words =
        Sort::<Cpu, i64>::workspace_len(&cpu, &tables, num_indices)
            .max(Update::<Cpu, E, i64>::workspace_len(&cpu, &tables, num_indices));
    let mut workspace = cpu.alloc::<u64>(words)?;
    let is_update = shape.optimizer.is_some();
    Ok(Box::new(move |set| {
        let tables = &tables;
        let indices = &ids[set % sets * num_indices..][..num_indices];
        let bags = Bags::<Cpu, i64> {
            batch_size,
            indices,
            has_slack: false,
            offsets: &offsets,
            per_sample_weights: None,
        };
        let pooled = MatrixMut::contiguous(&mut output[..], batch_size, width);
        Forward {
            tables,
            weights: &weights[..],
            bags: bags.reborrow(),
            output: pooled,
            argmax: None,
        }
        .run(&cpu)?;
        if is_update {
            Sort {
                tables,
                bags: bags.reborrow(),
                sorted: &mut sorted,
                workspace: &mut workspace[..],
            }
            .run(&cpu)?;
            let grad_output = Matrix::contiguous(&grad[..], batch_size, width);
            let source = PooledGrad {
                tables,
                bags: bags.reborrow(),
                sorted: &sorted,
                grad_output,
                argmax: None,
                max_gradient: None,
            };
            let state = match optimizer {
                Optimizer::Sgd => OptimizerStateMut::None,
                _ => OptimizerStateMut::SumOfSquares(&mut sums[..]),
            };
            let (rule, weights) = (UpdateRule::new(optimizer, 0.01), &mut weights[..]);
            Update {
                source,
                control: StepControl::default(),
                rule,
                decay_scale: None,
                weights,
                state,
                workspace: &mut workspace[..],
            }
            .run(&cpu)?;
        }
        Ok(())
    }))
}
