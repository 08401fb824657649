//! Tests of the costs of `pooled_interaction` on CUDA: launches and memory traffic.

use crate::common::cuda::emulator;
use crate::common::*;
use bagdot::ops::embedding_bag;
use bagdot::ops::pooled_interaction::{Forward, Interact};
use bagdot::ops::{Device, Interaction, Matrix, MatrixMut, Pooling};
use bagdot::{Cuda, bf16};

/// The number of features and of samples: those of Criteo's data, and fewer than fill a device.
const FEATURES: usize = 26;
const BATCH_SIZE: usize = 24;

/// Checks that one kernel takes `length` ids of each feature of a sample to the interaction: each
/// row is read once for each id, the output is written once, and so are the pooled vectors if they
/// are kept, which nothing reads.
fn check(dim: usize, length: usize, keeps_pooled: bool) {
    let Some(emulator) = emulator() else { return };
    let (alone, cuda) = (emulator.exclusive(), Cuda::new(0).unwrap());
    let interaction = Interaction::default();
    let (cols, width) = (FEATURES * dim, interaction.width(true, FEATURES, dim));
    let tables = vec![(100, dim); FEATURES];
    let features: Vec<_> = (0..FEATURES).map(|table| feature(table, Pooling::Sum)).collect();
    let lengths = vec![length; FEATURES * BATCH_SIZE];
    let case = BagCase::new("Criteo", (&tables, &features), &lengths, uniform);
    let bags = case.upload::<Cuda, i32>(&cuda);
    let weights = upload(&cuda, &case.weights::<f32>());
    let new = |len: usize| upload(&cuda, &vec![bf16::ONE; len]);
    let (dense, mut pooled, mut output) =
        (new(BATCH_SIZE * dim), new(BATCH_SIZE * cols), new(BATCH_SIZE * width));
    alone.reset_counters();
    let pooled = MatrixMut::contiguous(Cuda::view_mut(&mut pooled), BATCH_SIZE, cols);
    let lookup =
        embedding_bag::Forward::new(&bags.tables, Cuda::view(&weights), bags.view(), pooled);
    let dense = Matrix::contiguous(Cuda::view(&dense), BATCH_SIZE, dim);
    let output = MatrixMut::contiguous(Cuda::view_mut(&mut output), BATCH_SIZE, width);
    let interact = Interact::new(interaction, dim, dense, output).keeps_pooled(keeps_pooled);
    Forward { lookup, interact }.run(&cuda).unwrap();
    cuda.synchronize().unwrap();
    let counters = alone.counters();
    let launched: Vec<_> = counters.iter().filter(|kernel| kernel.launches > 0).collect();
    let names: Vec<_> = launched.iter().map(|kernel| &kernel.name[..]).collect();
    assert_eq!(names, ["pooled_interaction_forward_f32_bf16_i32"]);

    let what = format!("D {dim}, {length} ids, kept: {keeps_pooled}");
    let total = &launched[0].total;
    let kept = if keeps_pooled { cols } else { 0 };
    assert_eq!(total.global_written as usize, BATCH_SIZE * (width + kept) * 2, "{what}");
    let num_bags = BATCH_SIZE * FEATURES;
    let moved = num_bags * length * dim * 4 + BATCH_SIZE * (dim + width + kept) * 2;
    // For each bag a lane reads both bounds, and both again to check them, the first id, and two
    // fields each of the feature and of the table's rows: each read is of a sector of its own. For
    // several ids the lanes of a group read the fields and each id together.
    let sectors_of_ids = if length > 1 { length + 4 } else { 0 };
    let looked_up = num_bags * (2 * 2 + 1 + 4 + sectors_of_ids) * 32;
    let bytes = total.sectors as usize * 32;
    assert!(
        bytes as f64 <= 1.05 * (moved + looked_up) as f64,
        "{what}: {bytes} bytes, not {moved} and {looked_up}: {total:?}"
    );
}

#[test]
fn rows_go_straight_into_the_interaction() {
    check(128, 1, false);
    check(128, 1, true);
    check(64, 1, false);
    check(128, 8, false);
}
