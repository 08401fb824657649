//! Tests of `sparse_update`: the gradients of rows, and optimizer steps on them.

use crate::common::updates::{
    Backward, State, download_grad, merge, poisoned_grad, rules, state_values,
};
use crate::common::*;
use bagdot::ops::index_sort::IndexSortOps;
use bagdot::ops::sparse_update::{Apply, CHUNK, SparseUpdateOps};
use bagdot::ops::{Optimizer, Pooling, Table, UpdateRule, WeightDecay};
use bagdot::{bf16, f16};

backend_suite!(
    cuda:
    reduces_by_i32,
    reduces_by_i64,
    updates_f32,
    updates_f16,
    updates_bf16,
    gradients_in_16_bits_are_those_in_f32,
    the_loss_scale_is_divided_out,
    reduce_and_apply_are_update,
    the_decay_of_each_row_is_scaled,
    weights_without_gradients_stay_without_eps,
    a_hot_row_is_a_tree_of_chunks,
    merges,
    nan_goes_no_further_than_its_column,
    bad_ids_have_no_gradient,
    a_batch_without_ids_changes_nothing,
);

fn reduce<B: IndexSortOps + SparseUpdateOps, I: Id, G: Stored + Poison>(
    device: &B,
    case: &BagCase,
    backward: &Backward<B, I, G>,
) -> Vec<(u64, Vec<f32>)> {
    let mut grad = poisoned_grad(device, case, case.indices.len());
    assert_eq!(backward.reduce(device, &mut grad), Ok(()), "{}", case.name);
    download_grad(device, &grad)
}

fn linear_row(case: &BagCase, (table, row): (usize, usize)) -> u64 {
    (case.tables[..table].iter().map(|t| t.num_embeddings).sum::<usize>() + row) as u64
}

#[track_caller]
fn assert_gradients(case: &BagCase, got: &[(u64, Vec<f32>)], want: &reference::RowGradients) {
    let rows: Vec<u64> = want.keys().map(|&row| linear_row(case, row)).collect();
    assert_eq!(got.iter().map(|(row, _)| *row).collect::<Vec<_>>(), rows, "{}: rows", case.name);
    for ((_, got), (row, want)) in got.iter().zip(want) {
        assert_close(&format!("{}: table and row {row:?}", case.name), got, want);
    }
}

fn reduces<B: IndexSortOps + SparseUpdateOps, I: Id>(device: &B) {
    for pooling in POOLINGS {
        for case in BagCase::all(pooling) {
            let weighted = (pooling != Pooling::Max).then(|| case.clone().weighted());
            for case in [case].into_iter().chain(weighted) {
                for max_gradient in [None, Some(0.5)] {
                    let backward =
                        Backward::<B, I>::new(device, &case, &case.grad_output(), max_gradient);
                    assert_gradients(&case, &reduce(device, &case, &backward), &backward.expected);
                }
            }
        }
    }
}

fn reduces_by_i32<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    reduces::<B, i32>(device);
}

fn reduces_by_i64<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    reduces::<B, i64>(device);
}

/// Returns the cases for each optimizer: narrow rows, rows wider than any block, and all kinds of
/// features.
fn update_cases() -> Vec<BagCase> {
    let [wide, narrow] = [2050, 1].map(|dim| {
        let layout =
            (&[(7, dim), (130, 3)][..], &[feature(0, Pooling::Mean), feature(1, Pooling::Sum)][..]);
        BagCase::new(format!("D = {dim}"), layout, &[3, 0, 4, 90, 80, 70], uniform).weighted()
    });
    vec![wide, narrow, BagCase::mixed(Pooling::Sum).weighted(), BagCase::mixed(Pooling::Max)]
}

fn updates<B: IndexSortOps + SparseUpdateOps, E: Stored, I: Id>(device: &B) {
    for case in update_cases() {
        let backward = Backward::<B, I>::new(device, &case, &case.grad_output(), Some(1.5));
        let weights = case.weights::<E>();
        for rule in rules() {
            let what = format!("{}, {:?}, {:?}", case.name, rule.optimizer, rule.weight_decay);
            let state = state_values(rule.optimizer, case.num_rows(), case.num_weights());
            let (mut want, [mut first, mut second]) =
                (exact(&weights), state.each_ref().map(|s| exact(s)));
            reference::apply_rows(
                &case,
                (&rule, reference::Betas::Exact),
                &backward.expected,
                &mut want,
                &mut first,
                &mut second,
            );
            let (got, got_state) = backward.update(device, &case, rule, &weights, &state);
            assert_close(&what, &got, &want);
            assert_close(&format!("{what}, first state"), &got_state[0], &first);
            assert_close(&format!("{what}, second state"), &got_state[1], &second);
            assert_untouched(&case, &what, &backward.expected, &got, &weights);
        }
    }
}

/// Returns a hot row, which has a tree of chunks, and all kinds of features.
fn narrow_gradient_cases() -> Vec<BagCase> {
    let layout = (&[(3, 20), (40, 5)][..], &[0, 1].map(|t| feature(t, Pooling::Sum))[..]);
    let hot = BagCase::new("hot", layout, &[300, 0, 250, 20, 3, 1], uniform);
    let mixed = POOLINGS.map(BagCase::mixed);
    [vec![hot.clone(), hot.weighted()], mixed.into()].concat()
}

/// A gradient in 16 bits gives the same bits as the same values in `f32`.
fn gradients_in_16_bits_are_those_in_f32<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    fn check<B: IndexSortOps + SparseUpdateOps, G: Stored + Poison>(device: &B) {
        for case in narrow_gradient_cases() {
            let narrow: Vec<G> = case.grad_output().iter().map(|&g| G::from_f32(g)).collect();
            let wide: Vec<f32> = narrow.iter().map(|g| g.to_f32()).collect();
            let narrow = Backward::<B, i64, G>::new(device, &case, &narrow, Some(1.5));
            let wide = Backward::<B, i64>::new(device, &case, &wide, Some(1.5));
            let what = format!("{}, {}", case.name, G::DTYPE);
            assert_same_rows(&what, &reduce(device, &case, &narrow), &reduce(device, &case, &wide));
            let rule = UpdateRule::new(Optimizer::RowwiseAdagrad { eps: 0.25 }, 0.1).at_step(5);
            let state = state_values(rule.optimizer, case.num_rows(), case.num_weights());
            let weights = case.weights::<f32>();
            let got = narrow.update(device, &case, rule, &weights, &state);
            let want = wide.update(device, &case, rule, &weights, &state);
            assert_same_bits(&what, &got.0, &want.0);
            assert_same_bits(&what, &got.1[0], &want.1[0]);
        }
    }
    check::<B, f16>(device);
    check::<B, bf16>(device);
}

/// A gradient that is multiplied by a power of two gives the bits of the gradient itself, bounds
/// included, since neither the factor nor its reciprocal rounds.
fn the_loss_scale_is_divided_out<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    for case in narrow_gradient_cases() {
        for max_gradient in [None, Some(0.5)] {
            let grad = case.grad_output();
            let scaled: Vec<f32> = grad.iter().map(|g| g * 4096.0).collect();
            let mut scaled = Backward::<B, i64>::new(device, &case, &scaled, max_gradient);
            scaled.loss_scale = 4096.0;
            let plain = Backward::<B, i64>::new(device, &case, &grad, max_gradient);
            assert_same_rows(
                &case.name,
                &reduce(device, &case, &scaled),
                &reduce(device, &case, &plain),
            );
        }
    }
}

#[track_caller]
fn assert_same_rows(what: &str, got: &[(u64, Vec<f32>)], want: &[(u64, Vec<f32>)]) {
    assert!(got.iter().map(|(row, _)| row).eq(want.iter().map(|(row, _)| row)), "{what}: rows");
    for ((row, got), (_, want)) in got.iter().zip(want) {
        assert_same_bits(&format!("{what}: row {row}"), got, want);
    }
}

/// Fails unless rows without a gradient keep their bits.
#[track_caller]
fn assert_untouched<E: Stored>(
    case: &BagCase,
    what: &str,
    grads: &reference::RowGradients,
    got: &[E],
    before: &[E],
) {
    let mut start = 0;
    for (table, &Table { num_embeddings, embedding_dim }) in case.tables.iter().enumerate() {
        for row in 0..num_embeddings {
            if !grads.contains_key(&(table, row)) {
                let elements = start..start + embedding_dim;
                assert_same_bits(
                    &format!("{what}: row {row}"),
                    &got[elements.clone()],
                    &before[elements],
                );
            }
            start += embedding_dim;
        }
    }
}

fn updates_f32<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    updates::<B, f32, i64>(device);
}

fn updates_f16<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    updates::<B, f16, i32>(device);
}

fn updates_bf16<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    updates::<B, bf16, i64>(device);
}

/// Checks rows whose decay is scaled by 0, 1 and 4 in turn. They take the steps that they take
/// without decay, with it, and with four times as much: to the bit, since the factors and the
/// learning rate, by which decoupled decay is multiplied, are powers of two.
fn the_decay_of_each_row_is_scaled<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    for case in update_cases() {
        let backward = Backward::<B, i64>::new(device, &case, &case.grad_output(), None);
        let weights = case.weights::<f32>();
        let scale: Vec<f32> = (0..case.num_rows()).map(|row| [0.0, 1.0, 4.0][row % 3]).collect();
        for decay in [WeightDecay::L2 as fn(f32) -> WeightDecay, WeightDecay::Decoupled] {
            for optimizer in rules().iter().map(|rule| rule.optimizer) {
                let state = state_values(optimizer, case.num_rows(), case.num_weights());
                let rule = |decay| UpdateRule {
                    weight_decay: decay,
                    step: 5,
                    ..UpdateRule::new(optimizer, 0.25)
                };
                let run = |decay, scale| {
                    backward.update_scaled(device, &case, (rule(decay), scale), &weights, &state).0
                };
                let got = run(decay(0.125), Some(&scale[..]));
                let want =
                    [WeightDecay::None, decay(0.125), decay(0.5)].map(|decay| run(decay, None));
                let (mut start, mut row) = (0, 0);
                for table in &case.tables {
                    for _ in 0..table.num_embeddings {
                        let elements = start..start + table.embedding_dim;
                        let what =
                            format!("{}, {optimizer:?}, {:?}: row {row}", case.name, decay(0.125));
                        assert_same_bits(&what, &got[elements.clone()], &want[row % 3][elements]);
                        (start, row) = (start + table.embedding_dim, row + 1);
                    }
                }
            }
        }
    }
}

/// Checks that [`Apply`] after a reduction gives the bits of an update in one op.
fn reduce_and_apply_are_update<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    for case in update_cases() {
        let backward = Backward::<B, i64>::new(device, &case, &case.grad_output(), Some(2.0));
        let mut grad = poisoned_grad(device, &case, case.indices.len() + 9);
        backward.reduce(device, &mut grad).unwrap();
        for mut rule in rules() {
            rule.rounding = bagdot::ops::Rounding::Stochastic { seed: 9 };
            let state = state_values(rule.optimizer, case.num_rows(), case.num_weights());
            let (want, want_state) =
                backward.update(device, &case, rule, &case.weights::<bf16>(), &state);
            let mut weights = upload(device, &case.weights::<bf16>());
            let mut state = State::new(device, &state);
            let apply = Apply::new(
                &backward.bags.tables,
                &grad,
                rule,
                B::view_mut(&mut weights),
                state.view_mut(rule.optimizer),
            );
            outcome(device, apply.run(device)).unwrap();
            let what = format!("{}, {:?}", case.name, rule.optimizer);
            assert_same_bits(&what, &download(device, &weights), &want);
            for (got, want) in state.download(device).iter().zip(&want_state) {
                assert_same_bits(&format!("{what}, state"), got, want);
            }
        }
    }
}

/// Checks that 0/0 is no step at any learning rate. Rows 1 and 2 are looked up. The gradient of row
/// 1 is all zeros, and the first element of that of row 2 is zero.
fn weights_without_gradients_stay_without_eps<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    stays::<B, f32>(device, &[0.5, 8.0, 1e6]);
    stays::<B, f16>(device, &[0.5]);
    stays::<B, bf16>(device, &[0.5, 8.0]);
}

fn stays<B: IndexSortOps + SparseUpdateOps, E: Stored>(device: &B, rates: &[f32]) {
    let (dim, mut ids) = (6, [1, 2].into_iter());
    let case = BagCase::one_table("no gradient", (4, dim), &[1, 1], |_, _| ids.next().unwrap());
    let mut grad = vec![0.0; 2 * dim];
    grad[dim + 1..].fill(0.25);
    let adam = |eps| Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps };
    for (eps, &rate) in
        [0.0, 1e-45, 1e-38].into_iter().flat_map(|eps| rates.iter().map(move |rate| (eps, rate)))
    {
        for optimizer in [Optimizer::Adagrad { eps }, Optimizer::RowwiseAdagrad { eps }, adam(eps)]
        {
            let (what, rule) = (
                format!("{optimizer:?}, {rate}, {:?}", E::DTYPE),
                UpdateRule::new(optimizer, rate).at_step(1),
            );
            let weights = case.weights::<E>();
            let state = optimizer.state_len(4, 4 * dim).map(|len| vec![0.0; len]);
            let backward = Backward::<B, i64>::new(device, &case, &grad, None);
            let (got, got_state) = backward.update(device, &case, rule, &weights, &state);
            assert_same_bits(&what, &got[..2 * dim], &weights[..2 * dim]);
            let first =
                2 * dim + usize::from(!matches!(optimizer, Optimizer::RowwiseAdagrad { .. }));
            assert_same_bits(&what, &got[2 * dim..first], &weights[2 * dim..first]);
            for k in 2 * dim + 1..3 * dim {
                let (got, before) = (exact(&got[k..=k])[0].value, exact(&weights[k..=k])[0].value);
                assert!(
                    got < before && got.is_finite(),
                    "{what}: element {k} is {got} after {before}"
                );
            }
            let cpu = bagdot::Cpu::on_current_thread();
            let on_cpu = Backward::<bagdot::Cpu, i64>::new(&cpu, &case, &grad, None);
            let (want, want_state) = on_cpu.update(&cpu, &case, rule, &weights, &state);
            assert_same_bits(&what, &got, &want);
            assert_same_bits(&what, &got_state.concat(), &want_state.concat());
            let mut kept = poisoned_grad(device, &case, 2);
            backward.reduce(device, &mut kept).unwrap();
            let (mut applied, mut state) = (upload(device, &weights), State::new(device, &state));
            let apply = Apply::new(
                &backward.bags.tables,
                &kept,
                rule,
                B::view_mut(&mut applied),
                state.view_mut(optimizer),
            );
            assert_eq!(outcome(device, apply.run(device)), Ok(()));
            assert_same_bits(&what, &download(device, &applied), &got);
        }
    }
}

/// Checks a row of 50,000 occurrences. In column 0 each contribution is 1 + 2⁻⁹ - 2⁻²⁰. In a sum
/// without chunks, each addition beyond 2¹⁵ would lose almost half a unit in the last place, always
/// in the same direction. That sum would be off by 7e-4, far outside of the bound of the reduction
/// tree, 9e-6.
fn a_hot_row_is_a_tree_of_chunks<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let case = BagCase::one_table("hot row", (8, 3), &[5000; 10], |_, _| 6);
    let mut grad = case.grad_output();
    grad.iter_mut().step_by(3).for_each(|g| *g = 1.0 + 1.0 / 512.0 - 1.0 / 1_048_576.0);
    let backward = Backward::<B, i64>::new(device, &case, &grad, None);
    let want = backward.expected[&(0, 6)][0];
    assert!(want.error / want.value < 1e-5, "the bound is that of a reduction tree: {want:?}");
    let got = reduce(device, &case, &backward);
    assert_gradients(&case, &got, &backward.expected);
    let sum_in_order = |run: &[f32]| run.iter().copied().reduce(|sum, term| sum + term).unwrap();
    for (column, got) in got[0].1.iter().enumerate() {
        let mut level: Vec<f32> = (0..50_000).map(|k| grad[k / 5000 * 3 + column]).collect();
        while level.len() > 1 {
            level = level.chunks(CHUNK).map(sum_in_order).collect();
        }
        assert_same_bits(&format!("column {column}"), &[*got], &level);
    }
}

/// Checks merges of the gradients of two batches of the same tables. A batch may be empty.
fn merges<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let mixed = BagCase::mixed(Pooling::Mean);
    let layout: Vec<_> = mixed.tables.iter().map(|t| (t.num_embeddings, t.embedding_dim)).collect();
    let with = |name: &str, length: usize| {
        BagCase::new(name, (&layout, &mixed.features), &[length; 10], uniform)
    };
    let cases = [mixed.clone(), with("few", 3), with("none", 0)];
    let [a, b, none] = cases.each_ref().map(|case| {
        let backward = Backward::<B, i64>::new(device, case, &case.grad_output(), None);
        let mut grad = poisoned_grad(device, case, case.indices.len());
        backward.reduce(device, &mut grad).unwrap();
        grad
    });
    let tables = device.tables(mixed.layout()).unwrap();
    for (a, b) in [(&a, &b), (&b, &a), (&a, &none), (&none, &b), (&a, &a), (&none, &none)] {
        let mut out = poisoned_grad(device, &mixed, a.capacity() + b.capacity());
        merge(device, &tables, (a, b), &mut out).unwrap();
        let got = download_grad(device, &out);
        let mut want = std::collections::BTreeMap::new();
        for (row, values) in
            [download_grad(device, a), download_grad(device, b)].into_iter().flatten()
        {
            let sum: &mut Vec<f32> = want.entry(row).or_insert_with(|| vec![0.0; values.len()]);
            // A sum of two f32 values is rounded once, so its bits are known.
            sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
        }
        assert_eq!(got, want.into_iter().collect::<Vec<_>>());
    }
}

fn nan_goes_no_further_than_its_column<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let mut ids = [0, 2, 2].into_iter();
    let case = BagCase::one_table("not numbers", (4, 3), &[1, 2], |_, _| ids.next().unwrap());
    let grad = [f32::NAN, 1.0, f32::INFINITY, 0.5, f32::NEG_INFINITY, 0.25];
    let (weights, none) = ([1.0_f32; 12], [vec![], vec![]]);
    let rule = UpdateRule::new(Optimizer::Sgd, 1.0);
    let unbounded = Backward::<B, i64>::new(device, &case, &grad, None);
    let (got, _) = unbounded.update(device, &case, rule, &weights, &none);
    assert!(got[0].is_nan());
    assert_eq!(got[1..3], [0.0, f32::NEG_INFINITY]);
    assert_eq!(got[3..6], [1.0; 3]);
    assert_eq!(got[6..9], [0.0, f32::INFINITY, 0.5]);
    assert_eq!(got[9..], [1.0; 3]);
    // A bound clamps infinities. A NaN stays a NaN, lest it look like a gradient.
    let bounded = Backward::<B, i64>::new(device, &case, &grad, Some(2.0));
    let (got, _) = bounded.update(device, &case, rule, &weights, &none);
    assert!(got[0].is_nan());
    assert_eq!(got[1..], [0.0, -1.0, 1.0, 1.0, 1.0, 0.0, 5.0, 0.5, 1.0, 1.0, 1.0]);
}

fn bad_ids_have_no_gradient<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    for pooling in POOLINGS {
        let mut case = BagCase::mixed(pooling);
        let (here, there) = (case.offsets[33 + 1], case.offsets[3 * 33 + 2]);
        case.indices[here] = 30;
        case.indices[there] = -1;
        let backward = Backward::<B, i32>::new(device, &case, &case.grad_output(), None);
        assert!(
            message(backward.sort_result.clone())
                .contains("index 30 is out of range for table 0 with 30 rows")
        );
        assert_gradients(&case, &reduce(device, &case, &backward), &backward.expected);
    }
}

fn a_batch_without_ids_changes_nothing<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let layout = (&[(4, 3)][..], &[feature(0, Pooling::Mean)][..]);
    for lengths in [&[][..], &[0; 7]] {
        let case = BagCase::new("no ids", layout, lengths, |_, _| 0);
        let backward = Backward::<B, i64>::new(device, &case, &case.grad_output(), None);
        for rule in rules() {
            let state = state_values(rule.optimizer, 4, 12);
            let (got, got_state) =
                backward.update(device, &case, rule, &case.weights::<f16>(), &state);
            assert_same_bits("weights", &got, &case.weights::<f16>());
            assert_eq!(got_state, state);
        }
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    for case in update_cases() {
        for rule in rules().into_iter().filter(|rule| rule.weight_decay == WeightDecay::L2(0.125)) {
            let state = state_values(rule.optimizer, case.num_rows(), case.num_weights());
            assert_deterministic(&case.name, |cpu| {
                let backward = Backward::<_, i64>::new(cpu, &case, &case.grad_output(), None);
                let (weights, [first, second]) =
                    backward.update(cpu, &case, rule, &case.weights::<f32>(), &state);
                [bytes(&weights), bytes(&first), bytes(&second)].concat()
            });
        }
        assert_deterministic(&case.name, |cpu| {
            let backward = Backward::<_, i64>::new(cpu, &case, &case.grad_output(), None);
            reduce(cpu, &case, &backward).iter().flat_map(|(_, values)| bytes(values)).collect()
        });
    }
}
