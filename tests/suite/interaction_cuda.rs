//! Tests of the costs of `interaction` on CUDA: memory traffic, and bank conflicts.

use crate::common::cuda::emulator;
use crate::common::*;
use bagdot::ops::interaction::{Backward, Features, FeaturesMut, Forward};
use bagdot::ops::{Device, Interaction, Matrix, MatrixMut, Precision};
use bagdot::{Cuda, bf16};
use bagdot_emulator::{Counts, Exclusive};

/// Returns the counters of `run`, which must launch this kernel alone.
fn counts(alone: &Exclusive, cuda: &Cuda, kernel: &str, run: impl FnOnce()) -> Counts {
    alone.reset_counters();
    run();
    cuda.synchronize().unwrap();
    let counters = alone.counters();
    let launched: Vec<_> = counters.iter().filter(|kernel| kernel.launches > 0).collect();
    assert_eq!(launched.iter().map(|kernel| &kernel.name[..]).collect::<Vec<_>>(), [kernel]);
    launched[0].total
}

/// Fails unless each byte moves once, in whole sectors, and nearly all accesses to shared memory
/// are free of bank conflicts. The loop that unfolds the gradient of the pairs takes two passes a
/// read on average; its share is largest if D is small.
#[track_caller]
fn assert_lean(what: &str, counts: &Counts, (read, written): (usize, usize)) {
    assert_eq!(counts.global_read as usize, read, "{what}: bytes read, {counts:?}");
    assert_eq!(counts.global_written as usize, written, "{what}: bytes written, {counts:?}");
    let ideal = (read + written) as f64 / 32.0;
    assert!(
        counts.sectors as f64 <= 1.05 * ideal,
        "{what}: {} sectors of {ideal}, {counts:?}",
        counts.sectors
    );
    assert!(
        counts.bank_passes as f64 <= 1.11 * counts.ideal_passes as f64,
        "{what}: {} passes over the banks, not {}, {counts:?}",
        counts.bank_passes,
        counts.ideal_passes
    );
}

/// Checks F = 27, the number of features of Criteo's data, forward and backward.
fn check<E: Stored + Poison>(precision: Precision, (forward, backward): (&str, &str)) {
    let Some(emulator) = emulator() else { return };
    for dim in [64, 128] {
        let (alone, cuda) = (emulator.exclusive(), Cuda::new(0).unwrap());
        let (interaction, batch_size, pooled) = (Interaction::default(), 24, 26 * dim);
        let width = interaction.width(true, 26, dim);
        let new = |len: usize| upload(&cuda, &vec![E::store(1.0); len]);
        let (dense, sparse, grad) =
            (new(batch_size * dim), new(batch_size * pooled), new(batch_size * width));
        let features = Features::Split {
            dense: Matrix::contiguous(Cuda::view(&dense), batch_size, dim),
            sparse: Matrix::contiguous(Cuda::view(&sparse), batch_size, pooled),
        };
        let what = format!("{} {precision:?}, D = {dim}", E::DTYPE);
        let mut output = new(batch_size * width);
        let counted = counts(&alone, &cuda, forward, || {
            let output = MatrixMut::contiguous(Cuda::view_mut(&mut output), batch_size, width);
            Forward::new(interaction, dim, features, output)
                .precision(precision)
                .run(&cuda)
                .unwrap();
        });
        let [features_bytes, output_bytes] =
            [27 * dim, width].map(|cols| batch_size * cols * size_of::<E>());
        assert_lean(&format!("{what}, forward"), &counted, (features_bytes, output_bytes));

        let (mut grad_dense, mut grad_sparse) = (new(batch_size * dim), new(batch_size * pooled));
        let counted = counts(&alone, &cuda, backward, || {
            let grad_output = Matrix::contiguous(Cuda::view(&grad), batch_size, width);
            let grad_features = FeaturesMut::Split {
                dense: MatrixMut::contiguous(Cuda::view_mut(&mut grad_dense), batch_size, dim),
                sparse: MatrixMut::contiguous(Cuda::view_mut(&mut grad_sparse), batch_size, pooled),
            };
            Backward::new(interaction, dim, features, grad_output, grad_features)
                .precision(precision)
                .run(&cuda)
                .unwrap();
        });
        assert_lean(
            &format!("{what}, backward"),
            &counted,
            (features_bytes + output_bytes, features_bytes),
        );
    }
}

#[test]
fn exact_products_are_lean() {
    check::<f32>(Precision::Full, ("interaction_forward_f32", "interaction_backward_f32"));
}

#[test]
fn tf32_products_are_lean() {
    check::<f32>(
        Precision::Tf32,
        ("interaction_mma_forward_f32", "interaction_mma_backward_few_f32"),
    );
}

#[test]
fn bf16_features_are_lean() {
    check::<bf16>(
        Precision::Full,
        ("interaction_mma_forward_bf16", "interaction_mma_backward_few_bf16"),
    );
}
