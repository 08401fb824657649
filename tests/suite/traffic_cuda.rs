//! A test of the memory traffic of a whole training step and of a prediction on CUDA, beside the
//! least work that [`StepWork`] derives.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::cuda::emulator;
use crate::common::*;
use bagdot::backend::cuda::Gemm;
use bagdot::nn::{
    BatchSizes, BatchView, ComputePrecision, Dlrm, DlrmConfig, Optimizers, StepWork, Work,
};
use bagdot::ops::{Bags, Device, Matrix, Optimizer, Pooling, Table, linear};
use bagdot::{Cuda, Element, bf16};
use bagdot_emulator::{Config, KernelCounts};

/// The tables of MLPerf's model, with at most this many rows.
const MOST_ROWS: usize = 2000;
const ROWS: [usize; 26] = [
    39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10, 2208,
    11938, 155, 4, 976, 14, 39979771, 25641295, 39664984, 585935, 12972, 108, 36,
];
/// The dimension of MLPerf's model, divided by 4: its rows fill whole sectors.
const DIM: usize = 32;
/// The sizes of its layers and of its batch, divided by 8 and by 128.
const BOTTOM: [usize; 3] = [64, 32, DIM];
const TOP: [usize; 5] = [128, 128, 64, 32, 1];
const BATCH_SIZE: usize = 512;
const NUM_DENSE: usize = 13;

fn config(precision: ComputePrecision) -> DlrmConfig {
    let table = |rows: usize| Table { num_embeddings: rows.min(MOST_ROWS), embedding_dim: DIM };
    DlrmConfig {
        num_dense: NUM_DENSE,
        bottom_mlp: BOTTOM.to_vec(),
        tables: ROWS.map(table).to_vec(),
        features: (0..ROWS.len()).map(|table| feature(table, Pooling::Sum)).collect(),
        top_mlp: TOP.to_vec(),
        precision,
        ..DlrmConfig::default()
    }
}

fn sgd() -> Optimizers {
    Optimizers::same(Optimizer::Sgd, 0.01)
}

/// A batch with one id in each bag.
struct Batch {
    dense: Vec<f32>,
    indices: Vec<i64>,
    labels: Vec<f32>,
}

impl Batch {
    fn draw() -> Self {
        let tables: Vec<_> = ROWS.iter().map(|&rows| (rows.min(MOST_ROWS), DIM)).collect();
        let features: Vec<_> = (0..ROWS.len()).map(|table| feature(table, Pooling::Sum)).collect();
        let lengths = vec![1; ROWS.len() * BATCH_SIZE];
        let case = BagCase::new("MLPerf", (&tables, &features), &lengths, uniform);
        Self {
            dense: draw(BATCH_SIZE * NUM_DENSE, 4),
            indices: case.indices,
            labels: draw(BATCH_SIZE, 3).iter().map(|x| f32::from(*x > 0.0)).collect(),
        }
    }

    fn sizes(&self) -> BatchSizes {
        let rows = self.indices.iter().enumerate().map(|(k, &id)| (k / BATCH_SIZE, id));
        BatchSizes {
            batch_size: BATCH_SIZE,
            num_indices: self.indices.len(),
            distinct_rows: rows.collect::<BTreeSet<_>>().len(),
        }
    }
}

/// Returns the counters of one step or of one prediction, with the distinct sectors of each launch.
fn counters(config: &DlrmConfig, batch: &Batch, train: bool) -> Option<Vec<KernelCounts>> {
    let alone = emulator()?.exclusive();
    alone.configure(Config { footprints: true, ..Config::default() });
    let cuda = Cuda::with_gemm(0, Gemm::Own).unwrap();
    let mut model = Dlrm::new(cuda.clone(), config.clone(), 1).unwrap();
    model.optimize_with(sgd()).unwrap();
    let [dense, labels] = [&batch.dense, &batch.labels].map(|values| upload(&cuda, values));
    let (indices, mut logits) = (upload(&cuda, &batch.indices), vec![0.0; BATCH_SIZE]);
    // The first step allocates, and copies the parameters.
    for _ in 0..2 {
        cuda.synchronize().unwrap();
        alone.reset_counters();
        let bags = Bags::of_length(BATCH_SIZE, &indices, 1);
        let view = BatchView::new(Matrix::contiguous(&dense, BATCH_SIZE, NUM_DENSE), bags);
        if train {
            model.train_step(view.labels(&labels)).unwrap();
        } else {
            model.logits(view, &mut logits).unwrap();
        }
    }
    cuda.synchronize().unwrap();
    Some(alone.counters())
}

/// Returns the bytes of partial sums of the gradients of weights: blocks that share a product write
/// them once, and the last of these blocks reads them once.
fn partial_sums<E: Element>(config: &DlrmConfig) -> usize {
    let cuda = Cuda::with_gemm(0, Gemm::Own).unwrap();
    let interacted = config.interaction_width().next_multiple_of(8);
    let bottom = [&[NUM_DENSE.next_multiple_of(8)], &BOTTOM[..]].concat();
    let top = [&[interacted], &TOP[..TOP.len() - 1]].concat();
    let layers = bottom.windows(2).chain(top.windows(2));
    let words = layers.map(|layer| {
        linear::Backward::<Cuda, E>::workspace_len(&cuda, BATCH_SIZE, layer[1], layer[0])
    });
    2 * 8 * words.sum::<usize>()
}

/// Prints the bytes of each op beside those that it moves at least, and compares the sums.
fn check<E: Element>(precision: ComputePrecision, train: bool) {
    let (config, batch) = (config(precision), Batch::draw());
    let work = if train {
        StepWork::of_training(&config, sgd(), batch.sizes()).unwrap()
    } else {
        StepWork::of_prediction(&config, batch.sizes()).unwrap()
    };
    let Some(counters) = counters(&config, &batch, train) else { return };
    let mut least: BTreeMap<&str, usize> = BTreeMap::new();
    for Work { op, bytes, .. } in &work.ops {
        *least.entry(op).or_default() += bytes;
    }
    if train {
        *least.entry("linear_weight_grad").or_default() += partial_sums::<E>(&config);
    }
    let mut moved: BTreeMap<&str, usize> = BTreeMap::new();
    for kernel in &counters {
        // The name of an op and a direction, without that of the algorithm between them.
        let name = kernel.name.replace("_mma", "");
        let of = |op: &&&str| name.starts_with(**op);
        let op = least.keys().find(of).unwrap_or_else(|| panic!("{} has no work", kernel.name));
        *moved.entry(op).or_default() += kernel.footprint.bytes() as usize;
    }
    println!("{precision}, {}", if train { "step" } else { "prediction" });
    let share = |moved: usize, least: usize| moved as f64 / least as f64;
    for (op, &least) in &least {
        let moved = moved.get(op).copied().unwrap_or(0);
        println!("{op:<24} {least:>9} {moved:>9} {:>5.2}", share(moved, least));
        // Nothing but the sort and the head, which leaves partial sums, moves a tenth more.
        assert!(share(moved, least) < 1.4, "{op}: {moved} bytes, of {least}");
    }
    let [least, moved] = [&least, &moved].map(|bytes| bytes.values().sum::<usize>());
    println!("{:<24} {least:>9} {moved:>9} {:>5.2}", "all", share(moved, least));
    // The workspace of the gradients of weights has room for a few partial sums more.
    assert!((0.98..1.02).contains(&share(moved, least)), "{moved} bytes, of {least}");
}

#[test]
fn a_step_moves_each_byte_once() {
    for train in [true, false] {
        check::<f32>(ComputePrecision::Tf32, train);
        check::<bf16>(ComputePrecision::BF16, train);
    }
}
