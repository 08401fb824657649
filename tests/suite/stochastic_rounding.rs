//! Tests of the stochastic rounding of 16-bit tables: its random bits are the documented ones, and
//! its mean is right.

use crate::common::updates::Backward;
use crate::common::*;
use bagdot::ops::index_sort::IndexSortOps;
use bagdot::ops::sparse_update::SparseUpdateOps;
use bagdot::ops::{Optimizer, Pooling, Rounding, UpdateRule};
use bagdot::{bf16, f16};

backend_suite!(cuda: bits_are_those_documented, the_mean_is_right, f32_tables_are_not_rounded);

/// Returns a step of SGD with a learning rate of 1. The weight before stochastic rounding is `w -
/// g`, one rounded operation.
fn rule(seed: u64, step: u64) -> UpdateRule {
    UpdateRule {
        step,
        rounding: Rounding::Stochastic { seed },
        ..UpdateRule::new(Optimizer::Sgd, 1.0)
    }
}

fn bits_are_those_documented<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    fn check<B: IndexSortOps + SparseUpdateOps, E: Stored>(device: &B) {
        // Each row of each table occurs once, so its gradient is that of its bag.
        let tables = [(5, 3), (70, 130), (9, 6)];
        let features = [0, 1, 2].map(|table| feature(table, Pooling::Sum));
        let lengths: Vec<usize> = tables
            .iter()
            .flat_map(|(rows, _)| (0..70).map(move |b| usize::from(b < *rows)))
            .collect();
        let mut next = (0..5).chain(0..70).chain(0..9);
        let case = BagCase::new("each row once", (&tables, &features), &lengths, |_, _| {
            next.next().unwrap()
        });
        // Results lie between 0.5 and 1.5, with either sign: they are normal numbers of all types.
        let sign = |k: usize| if k.is_multiple_of(3) { -1.0 } else { 1.0 };
        let weights: Vec<E> = (0..case.num_weights())
            .map(|k| E::store(sign(k) * (0.75 + (k % 89) as f64 / 178.0)))
            .collect();
        let grad: Vec<f32> = case.grad_output().iter().map(|g| g.clamp(-2.5, 2.5) / 16.0).collect();
        let backward = Backward::<B, i64>::new(device, &case, &grad, None);
        for (seed, step) in [(0, 1), (0x0123_4567_89ab_cdef, (0x55 << 32) + 7)] {
            let (got, _) =
                backward.update(device, &case, rule(seed, step), &weights, &[vec![], vec![]]);
            let (mut k, mut column_start) = (0, 0);
            for (table, &(rows, dim)) in tables.iter().enumerate() {
                for row in 0..rows {
                    for column in 0..dim {
                        let exact = weights[k].value() as f32
                            - grad[row * case.width() + column_start + column];
                        let ids = [table, row, column].map(|id| id as u64);
                        let want = reference::round_stochastically::<E>(
                            exact, seed, step, ids[0], ids[1], ids[2],
                        );
                        let got = got[k].value() as f32;
                        assert_eq!(
                            got.to_bits(),
                            want.to_bits(),
                            "{:?}: table, row, column {ids:?}",
                            E::DTYPE
                        );
                        k += 1;
                    }
                }
                column_start += dim;
            }
        }
    }
    check::<B, f16>(device);
    check::<B, bf16>(device);
}

/// Checks 65,536 weights that lie a quarter of the way to the next value. A quarter of them must go
/// up, within six standard deviations, `6 √(p (1 - p) / n) = 0.0102`.
fn the_mean_is_right<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    fn check<B: IndexSortOps + SparseUpdateOps, E: Stored>(device: &B) {
        let mut next = 0..4096;
        let case =
            BagCase::one_table("each row once", (4096, 16), &[4096], |_, _| next.next().unwrap());
        let quarter = ulp::<E>(1.0) / 4.0;
        let backward = Backward::<B, i64>::new(device, &case, &[-quarter as f32; 16], None);
        let weights = vec![E::store(1.0); case.num_weights()];
        let (got, _) = backward.update(device, &case, rule(3, 1), &weights, &[vec![], vec![]]);
        let (below, above) = (1.0, 1.0 + 4.0 * quarter);
        assert!(
            got.iter().all(|w| [below, above].contains(&w.value())),
            "no weight goes further than its neighbours"
        );
        let up = got.iter().filter(|w| w.value() == above).count() as f64 / got.len() as f64;
        assert!((up - 0.25).abs() < 0.0102, "{:?}: {up} of the weights went up", E::DTYPE);
        // Rounding to nearest would lose all these updates. Another step draws other bits.
        let nearest = UpdateRule::new(Optimizer::Sgd, 1.0);
        assert_same_bits(
            "nearest",
            &backward.update(device, &case, nearest, &weights, &[vec![], vec![]]).0,
            &weights,
        );
        let (other, _) = backward.update(device, &case, rule(3, 2), &weights, &[vec![], vec![]]);
        assert_ne!(other, got);
    }
    check::<B, f16>(device);
    check::<B, bf16>(device);
}

fn f32_tables_are_not_rounded<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let case = BagCase::mixed(Pooling::Sum);
    let backward = Backward::<B, i32>::new(device, &case, &case.grad_output(), None);
    let weights = case.weights::<f32>();
    let [stochastic, nearest] = [rule(1, 1), UpdateRule::new(Optimizer::Sgd, 1.0)]
        .map(|rule| backward.update(device, &case, rule, &weights, &[vec![], vec![]]).0);
    assert_same_bits("weights", &stochastic, &nearest);
}

#[test]
fn results_do_not_depend_on_threads() {
    let case = BagCase::mixed(Pooling::Mean);
    assert_deterministic(&case.name, |cpu| {
        let backward = Backward::<_, i64>::new(cpu, &case, &case.grad_output(), None);
        bytes(
            &backward.update(cpu, &case, rule(5, 1), &case.weights::<bf16>(), &[vec![], vec![]]).0,
        )
    });
}
