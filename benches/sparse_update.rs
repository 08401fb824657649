//! `index_sort` and `sparse_update`: the order of a batch's ids, and a step on each row that they
//! name.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::Cpu;
use bagdot::ops::index_sort::{IndexSortOps, Sort, SortedIndices};
use bagdot::ops::sparse_update::{PooledGrad, SparseUpdateOps, Update};
use bagdot::ops::{Matrix, Optimizer, OptimizerStateMut, UpdateRule};
use common::{Batch, Ids, Shape, Timed, group, measure, sets_of, upload, values};
use criterion::Criterion;

common::benchmark_on_every_device!(both);

fn both<B: Timed + IndexSortOps + SparseUpdateOps>(criterion: &mut Criterion, device: &B) {
    for ids in [Ids::Uniform, Ids::Zipf] {
        for (dim, batch_size, pooling_factor) in [(64, 2048, 1), (64, 2048, 20), (128, 65_536, 1)] {
            if B::NAME == Cpu::NAME && batch_size > 2048 {
                continue;
            }
            let shape = Shape {
                num_tables: 26,
                num_embeddings: 100_000,
                dim,
                batch_size,
                pooling_factor,
                ids,
            };
            both_of(criterion, device, shape);
        }
    }
}

fn both_of<B: Timed + IndexSortOps + SparseUpdateOps>(
    criterion: &mut Criterion,
    device: &B,
    shape: Shape,
) {
    let layout = shape.layout();
    let tables = device.tables(layout.clone()).unwrap();
    let (n, num_bags) = (shape.num_indices(), shape.num_tables * shape.batch_size);
    let sets = sets_of(n * shape.dim * 4);
    let batches = Batch::of_sets(device, &shape, sets);
    let mut sorted: Vec<_> =
        (0..sets).map(|_| SortedIndices::new(device, n, num_bags).unwrap()).collect();
    let words = Sort::<B, i64>::workspace_len(device, &layout, n);
    let mut workspace = device.alloc(words).unwrap();
    let mut sort = |set: usize| {
        let (tables, sorted, workspace) = (&tables, &mut sorted[set], B::view_mut(&mut workspace));
        let op = Sort { tables, bags: batches[set].bags(), sorted, workspace };
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    };
    (0..sets).for_each(|set| _ = sort(set));
    measure(&mut group(criterion, device, "index_sort"), device, &shape.name(), sets, sort);

    let grads: Vec<_> = (0..sets)
        .map(|set| upload(device, &values(shape.batch_size * layout.width(), set as u64)))
        .collect();
    let mut weights = upload(device, &values(layout.num_weights(), 1));
    let words = Update::<B, f32, i64>::workspace_len(device, &layout, n);
    let mut workspace = device.alloc(words).unwrap();
    for (name, optimizer) in
        [("sgd", Optimizer::Sgd), ("rowwise_adagrad", Optimizer::RowwiseAdagrad { eps: 1e-8 })]
    {
        let [len, _] = optimizer.state_len(layout.num_rows(), layout.num_weights());
        let mut sums = device.alloc::<f32>(len).unwrap();
        let update = |set: usize| {
            let source = PooledGrad {
                tables: &tables,
                bags: batches[set].bags(),
                sorted: &sorted[set],
                grad_output: Matrix::contiguous(
                    B::view(&grads[set]),
                    shape.batch_size,
                    layout.width(),
                ),
                argmax: None,
                max_gradient: None,
            };
            let state = match optimizer {
                Optimizer::Sgd => OptimizerStateMut::None,
                _ => OptimizerStateMut::SumOfSquares(B::view_mut(&mut sums)),
            };
            let (weights, workspace) = (B::view_mut(&mut weights), B::view_mut(&mut workspace));
            let (control, rule) = (Default::default(), UpdateRule::new(optimizer, 1e-6));
            let op = Update { source, control, rule, decay_scale: None, weights, state, workspace };
            let bytes = op.bytes_moved();
            op.run(device).unwrap();
            bytes
        };
        let shape = format!("{} f32 {name}", shape.name());
        measure(&mut group(criterion, device, "sparse_update"), device, &shape, sets, update);
    }
}
