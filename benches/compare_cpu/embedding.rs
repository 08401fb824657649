//! Lookups, and lookups with an update of the rows.

use std::cell::RefCell;
use std::error::Error;
use std::path::PathBuf;
use std::rc::Rc;

use bagdot::ops::embedding_bag::Forward;
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::sparse_update::{PooledGrad, Update};
use bagdot::ops::{
    Bags, Matrix, MatrixMut, Optimizer, OptimizerStateMut, Pooling, Table, TableBatch, UpdateRule,
};
use bagdot::{Cpu, DType, Element, bf16, f16};
use rand::SeedableRng;
use rand::distr::{Distribution, Uniform};
use rand::rngs::SmallRng;
use serde::Deserialize;

use super::gather::{Gather, Sizes};
use super::memory::{Allocator, Memory};
use super::{Floor, Run};

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
    /// The allocator of tables, ids, gradients, outputs and workspaces. The order of the ids is in
    /// buffers of the library in any case.
    #[serde(default)]
    memory: Allocator,
    /// The optimizer of a step on the rows. Without it, only lookups are measured.
    optimizer: Option<Optimizer>,
    /// A file of sets of ids: `i64`, `[sets, num_tables, batch_size, pooling_factor]`.
    ids: PathBuf,
}

pub(crate) fn prepare(cpu: Cpu, shape: Shape) -> Result<Run, Box<dyn Error>> {
    match shape.dtype {
        DType::F32 => prepare_for::<f32>(cpu, &shape),
        DType::F16 => prepare_for::<f16>(cpu, &shape),
        DType::BF16 => prepare_for::<bf16>(cpu, &shape),
    }
}

fn prepare_for<E: Element>(cpu: Cpu, shape: &Shape) -> Result<Run, Box<dyn Error>> {
    let table = Table { num_embeddings: shape.num_embeddings, embedding_dim: shape.dim };
    let tables = TableBatch::one_feature_each(vec![table; shape.num_tables], Pooling::Sum)?;
    let (batch_size, num_bags) = (shape.batch_size, shape.num_tables * shape.batch_size);
    let num_indices = num_bags * shape.pooling_factor;
    let memory = shape.memory;
    let bytes = std::fs::read(&shape.ids)?;
    let mut ids = memory.alloc::<i64>(&cpu, bytes.len() / size_of::<i64>())?;
    ids.iter_mut()
        .zip(bytes.chunks_exact(size_of::<i64>()))
        .for_each(|(id, bytes)| *id = bytemuck::pod_read_unaligned(bytes));
    let sets = ids.len() / num_indices;
    let mut offsets = memory.alloc::<i64>(&cpu, num_bags + 1)?;
    offsets
        .iter_mut()
        .enumerate()
        .for_each(|(bag, offset)| *offset = (bag * shape.pooling_factor) as i64);

    let weights = Rc::new(RefCell::new(memory.alloc::<E>(&cpu, tables.num_weights())?));
    let uniform = Uniform::new(-0.01, 0.01)?.sample_iter(SmallRng::seed_from_u64(1));
    weights
        .borrow_mut()
        .iter_mut()
        .zip(uniform)
        .for_each(|(weight, value)| *weight = E::from_f32(value));
    let floor = floor(&cpu, shape, &ids, Rc::clone(&weights))?;
    let width = tables.width();
    let mut output = memory.alloc::<f32>(&cpu, batch_size * width)?;
    let optimizer = shape.optimizer.unwrap_or(Optimizer::Sgd);
    let mut sums = memory
        .alloc::<f32>(&cpu, optimizer.state_len(tables.num_rows(), tables.num_weights())[0])?;
    let mut grad = memory.alloc::<f32>(&cpu, batch_size * width)?;
    let uniform = Uniform::new(-1.0, 1.0)?.sample_iter(SmallRng::seed_from_u64(2));
    grad.iter_mut().zip(uniform).for_each(|(grad, value)| *grad = value);
    let mut sorted = SortedIndices::new(&cpu, num_indices, num_bags)?;
    let words =
        Sort::<Cpu, i64>::workspace_len(&cpu, &tables, num_indices)
            .max(Update::<Cpu, E, i64>::workspace_len(&cpu, &tables, num_indices));
    let mut workspace = memory.alloc::<u64>(&cpu, words)?;
    let is_update = shape.optimizer.is_some();
    let work = move |set: usize| -> bagdot::Result<()> {
        let tables = &tables;
        let weights = &mut *weights.borrow_mut();
        let indices = &ids[set % sets * num_indices..][..num_indices];
        let bags = Bags::<Cpu, i64>::new(batch_size, indices, &offsets[..]);
        let pooled = MatrixMut::contiguous(&mut output[..], batch_size, width);
        Forward::new(tables, &weights[..], bags, pooled).run(&cpu)?;
        if is_update {
            Sort::new(tables, bags, &mut sorted, &mut workspace[..]).run(&cpu)?;
            let grad_output = Matrix::contiguous(&grad[..], batch_size, width);
            let source = PooledGrad::new(tables, bags, &sorted, grad_output);
            let state = match optimizer {
                Optimizer::Sgd => OptimizerStateMut::None,
                _ => OptimizerStateMut::SumOfSquares((&mut sums[..]).into()),
            };
            let (rule, weights) = (UpdateRule::new(optimizer, 0.01), &mut weights[..]);
            Update::new(source, rule, weights, state, &mut workspace[..]).run(&cpu)?;
        }
        Ok(())
    };
    Ok(Run { work: Box::new(work), floor: Some(floor) })
}

/// Makes the gather of the same rows, in bagdot's own memory.
fn floor<E: Element>(
    cpu: &Cpu,
    shape: &Shape,
    ids: &[i64],
    weights: Rc<RefCell<Memory<E>>>,
) -> Result<Floor, Box<dyn Error>> {
    let &Shape { num_tables, num_embeddings, dim, batch_size, pooling_factor, .. } = shape;
    let (bags, num_indices) = (num_tables * batch_size, num_tables * batch_size * pooling_factor);
    let sizes = Sizes { num_tables, num_embeddings, dim, batch_size, pooling_factor };
    let sets: Vec<&[i64]> = ids.chunks_exact(num_indices).collect();
    let mut gather = Gather::new(cpu, sizes, &sets)?;
    let rows = match shape.memory {
        Allocator::Bagdot => weights,
        Allocator::Torch => {
            let weights = weights.borrow();
            let mut rows = Allocator::Bagdot.alloc::<E>(cpu, weights.len())?;
            rows.copy_from_slice(&weights);
            Rc::new(RefCell::new(rows))
        }
    };
    gather.tune::<E>(&rows.borrow());
    let lookup = gather.bytes::<E>();
    // A step adds those of the sort and of the update, as the ops' `bytes_moved` count them.
    let step = shape.optimizer.map_or(0, |optimizer| {
        let elements = num_indices * dim;
        let state: usize = optimizer.state_len(num_indices, elements).iter().sum();
        let sort = (num_indices + bags + 1) * 8 + num_indices * 20;
        let update = num_indices * 8 + bags * dim * 4 + 2 * (elements * size_of::<E>() + state * 4);
        sort + update
    });
    let run = move |set: usize| -> bagdot::Result<()> {
        gather.run::<E>(&rows.borrow(), set);
        Ok(())
    };
    Ok(Floor { gather: Box::new(run), bytes: [lookup + step, lookup] })
}
