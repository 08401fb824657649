//! `index_sort` and `sparse_update`: the order of a batch's ids, and an optimizer step on each row
//! that they name. On the CPU, the rate of the floor of lookups stands beside the steps.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::index_sort::{IndexSortOps, Sort, SortedIndices};
use bagdot::ops::sparse_update::{PooledGrad, SparseUpdateOps, Update};
use bagdot::ops::{Device, Matrix, Optimizer, OptimizerStateMut, UpdateRule};
use common::{Batch, Shape, Timed, group, measure, sets_of, upload, values};
use criterion::Criterion;

common::benchmark_on_every_device!(both);

const OPTIMIZERS: [(&str, Optimizer); 2] =
    [("sgd", Optimizer::Sgd), ("rowwise_adagrad", Optimizer::RowwiseAdagrad { eps: 1e-8 })];

fn both<B: Timed + IndexSortOps + SparseUpdateOps>(criterion: &mut Criterion, device: &B) {
    for shape in Shape::all::<B>(&[[64, 2048, 1], [64, 2048, 20], [128, 65_536, 1]]) {
        both_of(criterion, device, shape);
    }
}

fn both_of<B: Timed + IndexSortOps + SparseUpdateOps>(
    criterion: &mut Criterion,
    device: &B,
    shape: Shape,
) {
    let (ids, bags, dim) = (shape.num_indices(), shape.num_bags(), shape.dim);
    let sets = sets_of(ids * dim * 4);
    let mut batches = None;

    let bytes = (ids + bags + 1) * 8 + ids * 20;
    let mut sort = group(criterion, device, "index_sort");
    measure(&mut sort, device, &shape.name(), sets, bytes, |set| {
        batches.get_or_insert_with(|| Batches::new(device, shape, sets)).sort(device, set)
    });
    drop(sort);

    let (mut parameters, mut floor) = (None, None);
    for (name, optimizer) in OPTIMIZERS {
        let [state, _] = optimizer.state_len(ids, ids * dim);
        let bytes = ids * 8 + bags * dim * 4 + 2 * 4 * (ids * dim + state);
        let name = format!("{} f32 {name}", shape.name());
        let mut sums = None;
        let mut update = group(criterion, device, "sparse_update");
        let time = measure(&mut update, device, &name, sets, bytes, |set| {
            let batches = batches.get_or_insert_with(|| Batches::new(device, shape, sets));
            let parameters = parameters.get_or_insert_with(|| Parameters::new(device, shape, sets));
            let sums = sums.get_or_insert_with(|| {
                let layout = shape.layout();
                let [len, _] = optimizer.state_len(layout.num_rows(), layout.num_weights());
                device.alloc::<f32>(len).unwrap()
            });
            let state = match optimizer {
                Optimizer::Sgd => OptimizerStateMut::None,
                _ => OptimizerStateMut::SumOfSquares(B::view_mut(sums)),
            };
            parameters.update(device, batches, set, (optimizer, state))
        });
        if let Some(time) = time {
            let floor = floor.get_or_insert_with(|| device.floor_of_lookups::<f32>(&shape, sets));
            if let Some(floor) = floor {
                floor.print_share(bytes, time);
            }
        }
    }
}

/// The sets of ids, and their order.
struct Batches<B: Device> {
    shape: Shape,
    tables: B::Tables,
    batches: Vec<Batch<B, i64>>,
    sorted: Vec<SortedIndices<B>>,
    workspace: B::Buffer<u64>,
}

impl<B: Timed + IndexSortOps> Batches<B> {
    /// Draws the ids and sorts each set.
    fn new(device: &B, shape: Shape, sets: usize) -> Self {
        let (n, layout) = (shape.num_indices(), shape.layout());
        let sorted = |_| SortedIndices::new(device, n, shape.num_bags()).unwrap();
        let workspace = Sort::<B, i64>::workspace_len(device, &layout, n);
        let mut batches = Self {
            shape,
            batches: Batch::of_sets(device, &shape, sets),
            sorted: (0..sets).map(sorted).collect(),
            workspace: device.alloc(workspace).unwrap(),
            tables: device.tables(layout).unwrap(),
        };
        (0..sets).for_each(|set| _ = batches.sort(device, set));
        batches
    }

    fn sort(&mut self, device: &B, set: usize) -> usize {
        let op = Sort::new(
            &self.tables,
            self.batches[set].bags(),
            &mut self.sorted[set],
            B::view_mut(&mut self.workspace),
        );
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    }
}

/// The weights of the tables, and the gradients of their pooled rows.
struct Parameters<B: Device> {
    weights: B::Buffer<f32>,
    grads: Vec<B::Buffer<f32>>,
    workspace: B::Buffer<u64>,
}

impl<B: Timed + SparseUpdateOps> Parameters<B> {
    fn new(device: &B, shape: Shape, sets: usize) -> Self {
        let layout = shape.layout();
        let grad = |set| values(shape.batch_size * layout.width(), set as u64);
        let workspace = Update::<B, f32, i64>::workspace_len(device, &layout, shape.num_indices());
        Self {
            weights: upload(device, &values(layout.num_weights(), 1)),
            grads: (0..sets).map(|set| upload(device, &grad(set))).collect(),
            workspace: device.alloc(workspace).unwrap(),
        }
    }

    fn update<'a>(
        &'a mut self,
        device: &B,
        batches: &'a Batches<B>,
        set: usize,
        (optimizer, state): (Optimizer, OptimizerStateMut<'a, B>),
    ) -> usize {
        let Shape { batch_size, num_tables, dim, .. } = batches.shape;
        let source = PooledGrad::new(
            &batches.tables,
            batches.batches[set].bags(),
            &batches.sorted[set],
            Matrix::contiguous(B::view(&self.grads[set]), batch_size, num_tables * dim),
        );
        let op = Update::new(
            source,
            UpdateRule::new(optimizer, 1e-6),
            B::view_mut(&mut self.weights),
            state,
            B::view_mut(&mut self.workspace),
        );
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    }
}
