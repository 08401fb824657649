//! `index_sort` and `sparse_update`: the order of a batch's ids, and an optimizer step on each row
//! that they name. `sort_and_update` runs both: it is the work that has to be done for a batch, and
//! that peers do in one call. On the CPU, the rate of the floor of lookups stands beside.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::index_sort::{IndexSortOps, Sort, SortedIndices};
use bagdot::ops::sparse_update::{PooledGrad, SparseUpdateOps, Update};
use bagdot::ops::{
    Device, Matrix, Optimizer, OptimizerState, OptimizerStateMut, Rounding, UpdateRule,
};
use bagdot::{DType, Element, bf16, f16};
use common::{
    Batch, FBGEMM, Shape, Timed, criteo, drawn, group, measure_with_floor, sets_of, upload, values,
};
use criterion::Criterion;

common::benchmark_on_every_device!(all);

const SGD: (&str, Optimizer) = ("sgd", Optimizer::Sgd);
const ADAGRAD: (&str, Optimizer) = ("adagrad", Optimizer::Adagrad { eps: 1e-8 });
const ROWWISE: (&str, Optimizer) = ("rowwise_adagrad", Optimizer::RowwiseAdagrad { eps: 1e-8 });
const ADAM: (&str, Optimizer) = ("adam", Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 });

fn all<B: Timed + IndexSortOps + SparseUpdateOps>(criterion: &mut Criterion, device: &B) {
    let published = [criteo(64, 2048, 1), criteo(64, 2048, 20), criteo(128, 65_536, 1), FBGEMM];
    for shape in Shape::all::<B>(&published) {
        let mut batches = None;
        sort(criterion, device, shape, &mut batches);
        updates::<B, f32>(criterion, device, &mut batches, shape, &[SGD, ADAGRAD, ROWWISE, ADAM]);
        if !shape.is_large() {
            updates::<B, bf16>(criterion, device, &mut batches, shape, &[SGD, ROWWISE, ADAM]);
            updates::<B, f16>(criterion, device, &mut batches, shape, &[SGD]);
        }
    }
}

/// The bytes of a row's number and its segment in the order.
const ORDER_BYTES: usize = 8 + 4;

fn sort<B: Timed + IndexSortOps>(
    criterion: &mut Criterion,
    device: &B,
    shape: Shape,
    batches: &mut Option<Batches<B>>,
) {
    const OP: &str = "index_sort";
    let sets = sets(shape);
    let mut group = group(criterion, device, OP);
    let name = shape.name();
    measure_with_floor(&mut group, device, (OP, &name), sets, sort_bytes(shape), |set| {
        let batches = batches.get_or_insert_with(|| Batches::new(device, shape, sets));
        (batches.sort(device, set), batches.sort_floor())
    });
}

/// Measures the step of each optimizer, and on tables of f32 also the sort and the step together.
/// Tables in 16 bits are rounded stochastically.
fn updates<B: Timed + IndexSortOps + SparseUpdateOps, E: Element>(
    criterion: &mut Criterion,
    device: &B,
    batches: &mut Option<Batches<B>>,
    shape: Shape,
    optimizers: &[(&str, Optimizer)],
) {
    let sets = sets(shape);
    let (ids, bags) = (shape.num_indices(), shape.num_bags());
    let gradient_bytes = ids * 8 + bags * shape.dim * 4;
    let (mut parameters, mut gather) = (None, None);
    for &(name, optimizer) in optimizers {
        let is_f32 = E::DTYPE == DType::F32;
        let rounding = if is_f32 { Rounding::Nearest } else { Rounding::Stochastic { seed: 1 } };
        let rule = UpdateRule { rounding, ..UpdateRule::new(optimizer, 1e-6).at_step(1) };
        let step_bytes = |rows: usize| {
            let [first, second] = optimizer.state_len(rows, rows * shape.dim);
            2 * (rows * shape.dim * size_of::<E>() + (first + second) * 4)
        };
        let name = format!("{} {} {name}", shape.name(), E::DTYPE);
        let mut state = None;
        let alone_and_with_sort = [("sparse_update", true), ("sort_and_update", false)];
        for (op, is_sorted) in alone_and_with_sort.into_iter().take(if is_f32 { 2 } else { 1 }) {
            let sort_bytes = if is_sorted { 0 } else { sort_bytes(shape) };
            let bytes = sort_bytes + gradient_bytes + step_bytes(ids);
            let mut group = group(criterion, device, op);
            let time = measure_with_floor(&mut group, device, (op, &name), sets, bytes, |set| {
                let batches = batches.get_or_insert_with(|| Batches::new(device, shape, sets));
                let parameters =
                    parameters.get_or_insert_with(|| Parameters::<B, E>::new(device, shape, sets));
                let state = state.get_or_insert_with(|| {
                    OptimizerState::of_tables(device, optimizer, &shape.layout()).unwrap()
                });
                let rows = Batch::mean_distinct_rows(&batches.batches);
                let mut floor = gradient_bytes + rows * ORDER_BYTES + step_bytes(rows);
                let mut bytes = 0;
                if !is_sorted {
                    bytes += batches.sort(device, set);
                    floor += batches.sort_floor();
                }
                bytes += parameters.update(device, batches, set, (rule, state.view_mut()));
                (bytes, floor)
            });
            if let Some(time) = time.filter(|_| is_f32 && !shape.is_large()) {
                let gather =
                    gather.get_or_insert_with(|| device.floor_of_lookups::<f32>(&shape, sets));
                gather.inspect(|gather| gather.print_share(bytes, time));
            }
        }
    }
}

/// Returns the number of sets of ids: the rows of all of them together are more than caches hold.
fn sets(shape: Shape) -> usize {
    sets_of(shape.num_indices() * shape.dim * 4)
}

/// Returns the bytes that a sort moves if no id occurs twice.
fn sort_bytes(shape: Shape) -> usize {
    let (ids, bags) = (shape.num_indices(), shape.num_bags());
    (ids + bags + 1) * 8 + ids * (8 + ORDER_BYTES)
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

    /// Returns the least number of bytes that a sort moves: rows and segments are written once for
    /// each distinct row.
    fn sort_floor(&self) -> usize {
        let duplicates = self.shape.num_indices() - Batch::mean_distinct_rows(&self.batches);
        sort_bytes(self.shape) - duplicates * ORDER_BYTES
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
struct Parameters<B: Device, E: Element> {
    weights: B::Buffer<E>,
    grads: Vec<B::Buffer<f32>>,
    workspace: B::Buffer<u64>,
}

impl<B: Timed + SparseUpdateOps, E: Element> Parameters<B, E> {
    fn new(device: &B, shape: Shape, sets: usize) -> Self {
        let layout = shape.layout();
        let grad = |set| values(shape.batch_size * layout.width(), set as u64);
        let workspace = Update::<B, E, i64>::workspace_len(device, &layout, shape.num_indices());
        Self {
            weights: drawn(device, layout.num_weights(), 1),
            grads: (0..sets).map(|set| upload(device, &grad(set))).collect(),
            workspace: device.alloc(workspace).unwrap(),
        }
    }

    fn update<'a>(
        &'a mut self,
        device: &B,
        batches: &'a Batches<B>,
        set: usize,
        (rule, state): (UpdateRule, OptimizerStateMut<'a, B>),
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
            rule,
            B::view_mut(&mut self.weights),
            state,
            B::view_mut(&mut self.workspace),
        );
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    }
}
