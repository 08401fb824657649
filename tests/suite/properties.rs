//! Tests of laws that hold for any input, on random inputs.

use std::any::TypeId;

use crate::common::updates::{Backward, download_grad, poisoned_grad, rules, state_values};
use crate::common::*;
use bagdot::ops::interaction::{self, Features, FeaturesMut};
use bagdot::ops::{
    Activation, Backend, Interaction, Matrix, MatrixMut, Pooling, Precision, UpdateRule, linear,
};
use bagdot::{Cpu, Error, Jagged};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

backend_suite!(
    cuda:
    permuting_the_batch_permutes_pooled_vectors,
    permuting_the_batch_permutes_interactions,
    splitting_a_bag_adds_up,
    updates_depend_on_the_order_of_ids_by_rounding_alone,
    embedding_bag_and_row_gradients_are_adjoint,
    linear_is_adjoint,
    interaction_is_adjoint,
    merging_commutes,
);

fn settings() -> ProptestConfig {
    // A failure prints the shrunk input and stores nothing beside the sources.
    ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() }
}

/// Checks a law on random inputs: many on the CPU, and few on devices whose kernels may be
/// interpreted, under several schedules.
fn for_all<B: Backend + 'static, S: Strategy>(
    device: &B,
    inputs: S,
    law: impl Fn(&B, S::Value) -> Result<(), TestCaseError>,
) {
    let few = ProptestConfig { cases: 16, max_shrink_iters: 32, ..settings() };
    let settings = if TypeId::of::<B>() == TypeId::of::<Cpu>() { settings() } else { few };
    let result = TestRunner::new(settings).run(&inputs, |input| law(device, input));
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Returns a strategy for bags of up to three features over two tables.
fn bag_case(poolings: &'static [Pooling]) -> impl Strategy<Value = BagCase> {
    let dims = (1..40_usize, 1..9_usize, 1..12_usize, 1..140_usize);
    let features = prop::collection::vec((0..2_usize, prop::sample::select(poolings)), 1..4);
    (dims, features, 1..6_usize).prop_flat_map(
        |((rows_a, dim_a, rows_b, dim_b), features, batch_size)| {
            let bags = features.len() * batch_size;
            prop::collection::vec(0..9_usize, bags).prop_map(move |lengths| {
                let features: Vec<_> =
                    features.iter().map(|&(table, pooling)| feature(table, pooling)).collect();
                let layout = (&[(rows_a, dim_a), (rows_b, dim_b)][..], &features[..]);
                BagCase::new(format!("{lengths:?}"), layout, &lengths, uniform)
            })
        },
    )
}

fn interact<B: Backend>(
    device: &B,
    kind: Interaction,
    features: &[f32],
    (batch_size, num_features, dim): (usize, usize, usize),
) -> Vec<f32> {
    let width = kind.width(true, num_features - 1, dim);
    let (features, mut output) =
        (upload(device, features), upload(device, &poisoned(batch_size * width)));
    let block = Matrix::contiguous(B::view(&features), batch_size, num_features * dim);
    let features = Features::Joined { block, has_dense: true };
    let output_view = MatrixMut::contiguous(B::view_mut(&mut output), batch_size, width);
    interaction::Forward::new(kind, dim, features, output_view).run(device).unwrap();
    download(device, &output)
}

/// Returns `Σ a b` with a bound of its error, which comes from `b` alone.
fn inner(a: &[f32], b: &[f32], b_errors: &[Approx]) -> (f64, f64) {
    assert_eq!((a.len(), b.len()), (b.len(), b_errors.len()));
    let product = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let error = a
        .iter()
        .zip(b_errors)
        .map(|(a, b)| f64::from(a.abs()) * (b.error + ulp::<f32>(b.value)))
        .sum();
    (product, error)
}

/// Fails unless the values of `<g, J x>` and `<Jᵀ g, x>` agree within the sum of their bounds.
fn assert_adjoint(
    (left, left_error): (f64, f64),
    (right, right_error): (f64, f64),
) -> Result<(), TestCaseError> {
    let off = (left - right).abs();
    prop_assert!(
        off <= left_error + right_error,
        "{left} and {right} are {off:e} apart: more than {left_error:e} + {right_error:e}"
    );
    Ok(())
}

/// Returns the numbers `0..len` in random order.
fn shuffled(len: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    bagdot::Philox::new(seed, 0).shuffle(&mut order);
    order
}

/// Returns rows of `row` values in another order.
fn permuted(values: &[f32], row: usize, order: &[usize]) -> Vec<f32> {
    order.iter().flat_map(|&b| &values[b * row..][..row]).copied().collect()
}

/// Returns the batch with its samples in another order. `within` gives the order of the ids of a
/// bag of a length.
fn permuted_batch(
    case: &BagCase,
    order: &[usize],
    within: impl Fn(usize) -> Vec<usize>,
) -> BagCase {
    let mut permuted = BagCase { indices: vec![], offsets: vec![0], ..case.clone() };
    for bag in 0..case.features.len() * case.batch_size {
        let from = bag / case.batch_size * case.batch_size + order[bag % case.batch_size];
        let ids = &case.indices[case.offsets[from]..case.offsets[from + 1]];
        permuted.indices.extend(within(ids.len()).into_iter().map(|k| ids[k]));
        permuted.offsets.push(permuted.indices.len());
    }
    permuted
}

/// Checks that the bags of a sample do not depend on its place in the batch.
fn permuting_the_batch_permutes_pooled_vectors<B: Backend + 'static>(device: &B) {
    for_all(device, (bag_case(&POOLINGS), any::<u64>()), |device, (case, seed)| {
        let order = shuffled(case.batch_size, seed);
        let weights = case.weights::<f32>();
        let got = permuted_batch(&case, &order, |len| (0..len).collect())
            .pool::<B, i64>(device, &weights);
        assert_same_bits(
            "pooled",
            &got,
            &permuted(&case.pool::<B, i64>(device, &weights), case.width(), &order),
        );
        Ok(())
    });
}

fn permuting_the_batch_permutes_interactions<B: Backend + 'static>(device: &B) {
    for_all(
        device,
        ((1..9_usize, 1..7_usize, 1..20_usize), any::<u64>()),
        |device, (shape, seed)| {
            let (batch_size, num_features, dim) = shape;
            let row = num_features * dim;
            let (features, order) = (draw(batch_size * row, seed), shuffled(batch_size, seed));
            let straight = interact(device, Interaction::default(), &features, shape);
            let got =
                interact(device, Interaction::default(), &permuted(&features, row, &order), shape);
            assert_same_bits(
                "dots",
                &got,
                &permuted(&straight, straight.len() / batch_size, &order),
            );
            Ok(())
        },
    );
}

/// Checks that the sums of two parts of a bag add up to the sum of the bag, within the bound of the
/// rounding errors of the whole.
fn splitting_a_bag_adds_up<B: Backend + 'static>(device: &B) {
    for_all(device, (bag_case(&[Pooling::Sum]), 0..9_usize), |device, (case, cut)| {
        let part = |second: bool| {
            let mut part = BagCase { indices: vec![], offsets: vec![0], ..case.clone() };
            for bag in case.offsets.windows(2) {
                let middle = (bag[0] + cut).min(bag[1]);
                part.indices
                    .extend(&case.indices[if second { middle..bag[1] } else { bag[0]..middle }]);
                part.offsets.push(part.indices.len());
            }
            part
        };
        let weights = case.weights::<f32>();
        let (whole, _) = reference::embedding_bag(&case, &exact(&weights));
        let [a, b] = [false, true].map(|second| part(second).pool::<B, i64>(device, &weights));
        let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        // The parts take no more additions than the whole. Their sum adds one rounding.
        let want: Vec<Approx> = whole.iter().map(|w| w.once_rounded()).collect();
        assert_close("the sum of the parts", &sum, &want);
        assert_close("the whole", &case.pool::<B, i64>(device, &weights), &whole);
        Ok(())
    });
}

/// Checks updates with samples, and ids within bags, in another order. The order of the sums over
/// occurrences changes, but their error bound holds for any order. The reference carries it through
/// the step.
fn updates_depend_on_the_order_of_ids_by_rounding_alone<B: Backend + 'static>(device: &B) {
    let inputs = (bag_case(&[Pooling::Sum, Pooling::Mean]), 0..12_usize, any::<u64>());
    for_all(device, inputs, |device, (case, rule, seed)| {
        let rule: UpdateRule = rules()[rule];
        let order = shuffled(case.batch_size, seed);
        let other = permuted_batch(&case, &order, |len| shuffled(len, seed ^ 1));
        let (grad, weights) = (case.grad_output(), case.weights::<f32>());
        let state = state_values(rule.optimizer, case.num_rows(), case.num_weights());
        let expected = Backward::<B, i64>::new(device, &case, &grad, None).expected;
        let (mut want, [mut first, mut second]) =
            (exact(&weights), state.each_ref().map(|state| exact(state)));
        let betas = reference::Betas::Exact;
        reference::apply_rows(&case, (&rule, betas), &expected, &mut want, &mut first, &mut second);
        for (case, grad) in [(&case, grad.clone()), (&other, permuted(&grad, case.width(), &order))]
        {
            let backward = Backward::<B, i64>::new(device, case, &grad, None);
            let (got, got_state) = backward.update(device, case, rule, &weights, &state);
            assert_close("weights", &got, &want);
            assert_close("first state", &got_state[0], &first);
            assert_close("second state", &got_state[1], &second);
        }
        Ok(())
    });
}

fn embedding_bag_and_row_gradients_are_adjoint<B: Backend + 'static>(device: &B) {
    for_all(device, bag_case(&[Pooling::Sum, Pooling::Mean]), |device, case| {
        let (weights, grad) = (case.weights::<f32>(), case.grad_output());
        let (want, _) = reference::embedding_bag(&case, &exact(&weights));
        let left = inner(&grad, &case.pool::<B, i64>(device, &weights), &want);
        let backward = Backward::<B, i64>::new(device, &case, &grad, None);
        let mut rows = poisoned_grad(device, &case, case.indices.len());
        backward.reduce(device, &mut rows).unwrap();
        let mut right = (0.0, 0.0);
        let mut expected = backward.expected.values();
        for (row, values) in download_grad(device, &rows) {
            let start = case.layout().weight_offset_of_row(row as usize);
            let (product, error) =
                inner(&weights[start..start + values.len()], &values, expected.next().unwrap());
            right = (right.0 + product, right.1 + error);
        }
        assert_adjoint(left, right)
    });
}

fn linear_is_adjoint<B: Backend + 'static>(device: &B) {
    let inputs = (1..20_usize, 1..20_usize, 1..40_usize, any::<u64>());
    for_all(device, inputs, |device, (m, n, k, seed)| {
        let (x, w, g) = (draw(m * k, seed), draw(n * k, seed ^ 1), draw(m * n, seed ^ 2));
        let (bias, activation, precision) = (vec![0.0; n], Activation::None, Precision::Full);
        let [x_buffer, w_buffer, bias_buffer, mut z] =
            [&x, &w, &bias, &g].map(|values| upload(device, values));
        let [mut y, mut dx, mut dw, mut db] =
            [m * n, m * k, n * k, n].map(|len| upload(device, &poisoned::<f32>(len)));
        let (input, weight) = (
            Matrix::contiguous(B::view(&x_buffer), m, k),
            Matrix::contiguous(B::view(&w_buffer), n, k),
        );
        let (bias_view, output) =
            (B::view(&bias_buffer), MatrixMut::contiguous(B::view_mut(&mut y), m, n));
        linear::Forward::new(input, weight, bias_view, output)
            .activation(activation)
            .precision(precision)
            .run(device)
            .unwrap();
        let words = linear::Backward::<B, f32>::workspace_len(device, m, n, k);
        let mut workspace = upload(device, &poisoned::<u64>(words));
        let backward = linear::Backward::new(
            input,
            weight,
            Matrix::contiguous(B::view(&y), m, n),
            MatrixMut::contiguous(B::view_mut(&mut z), m, n),
            MatrixMut::contiguous(B::view_mut(&mut dw), n, k),
            B::view_mut(&mut db),
            B::view_mut(&mut workspace),
        )
        .activation(activation)
        .precision(precision)
        .grad_input(MatrixMut::contiguous(B::view_mut(&mut dx), m, k));
        backward.run(device).unwrap();
        let [y, dx, dw] = [&y, &dx, &dw].map(|buffer| download(device, buffer));
        let want_y = reference::linear(&exact(&x), &exact(&w), &exact(&bias), (m, n, k), false);
        let layers = [&exact(&x)[..], &exact(&w), &exact(&y), &exact(&g)];
        let want = reference::linear_backward(layers, (m, n, k), activation, None);
        // Y is linear in X, and in W.
        let left = inner(&g, &y, &want_y);
        assert_adjoint(left, inner(&x, &dx, &want.input))?;
        assert_adjoint(left, inner(&w, &dw, &want.weight))
    });
}

/// Checks `<Jᵀ g, x> = <g, dense> + 2 <g, dots>`: the dense columns have degree one in the
/// features, and the dots degree two.
fn interaction_is_adjoint<B: Backend + 'static>(device: &B) {
    for_all(
        device,
        ((1..4_usize, 1..9_usize, 1..30_usize), any::<u64>()),
        |device, (shape, seed)| {
            let (batch_size, num_features, dim) = shape;
            let (kind, row) = (Interaction::default(), num_features * dim);
            let features = draw(batch_size * row, seed);
            let output = interact(device, kind, &features, shape);
            let width = output.len() / batch_size;
            let grad = draw(output.len(), seed ^ 1);
            let scale = |(e, g): (usize, &f32)| if e % width < dim { *g } else { 2.0 * g };
            let scaled: Vec<f32> = grad.iter().enumerate().map(scale).collect();
            let [features_buffer, grad_buffer] =
                [&features, &grad].map(|values| upload(device, values));
            let mut grads = upload(device, &poisoned::<f32>(features.len()));
            let block = Matrix::contiguous(B::view(&features_buffer), batch_size, row);
            let backward = interaction::Backward::new(
                kind,
                dim,
                Features::Joined { block, has_dense: true },
                Matrix::contiguous(B::view(&grad_buffer), batch_size, width),
                FeaturesMut::Joined {
                    block: MatrixMut::contiguous(B::view_mut(&mut grads), batch_size, row),
                },
            );
            backward.run(device).unwrap();
            let (mut want, mut want_grads) = (vec![], vec![]);
            for (x, g) in exact(&features).chunks(row).zip(exact(&grad).chunks(width)) {
                want.extend(reference::dots(kind, x, dim, true));
                want_grads.extend(reference::dots_backward(kind, x, dim, true, g));
            }
            let grads = download(device, &grads);
            assert_adjoint(inner(&scaled, &output, &want), inner(&features, &grads, &want_grads))
        },
    );
}

fn merging_commutes<B: Backend + 'static>(device: &B) {
    let inputs = (bag_case(&[Pooling::Mean]), prop::collection::vec(0..5_usize, 1..4));
    for_all(device, inputs, |device, (case, lengths)| {
        let tables: Vec<_> =
            case.tables.iter().map(|t| (t.num_embeddings, t.embedding_dim)).collect();
        let lengths = vec![lengths; case.features.len()].concat();
        let other = BagCase::new("other", (&tables, &case.features), &lengths, uniform);
        let [a, b] = [&case, &other].map(|case| {
            let backward = Backward::<B, i64>::new(device, case, &case.grad_output(), None);
            let mut grad = poisoned_grad(device, case, case.indices.len());
            backward.reduce(device, &mut grad).unwrap();
            grad
        });
        let layout = device.tables(case.layout()).unwrap();
        let merge = |a, b| {
            let mut out = poisoned_grad(device, &case, case.num_rows());
            updates::merge(device, &layout, (a, b), &mut out).unwrap();
            download_grad(device, &out)
        };
        prop_assert_eq!(merge(&a, &b), merge(&b, &a));
        Ok(())
    });
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn updates_do_not_depend_on_threads(
        case in bag_case(&[Pooling::Sum, Pooling::Mean]),
        rule in 0..12_usize,
        threads in 2..6_usize,
    ) {
        let rule = rules()[rule];
        let state = state_values(rule.optimizer, case.num_rows(), case.num_weights());
        let run = |cpu: &Cpu| {
            let backward = Backward::<_, i32>::new(cpu, &case, &case.grad_output(), Some(1.0));
            backward.update(cpu, &case, rule, &case.weights::<bagdot::f16>(), &state)
        };
        let one = run(&Cpu::on_current_thread());
        let many = run(&Cpu::with_threads(threads).unwrap());
        assert_same_bits("weights", &many.0, &one.0);
        prop_assert_eq!(many.1, one.1);
    }

    #[test]
    fn jagged_goes_there_and_back(
        features in 1..4_usize,
        batch_size in 1..5_usize,
        lengths in prop::collection::vec(0..6_i32, 20),
    ) {
        let lengths = &lengths[..features * batch_size];
        let n = lengths.iter().sum::<i32>();
        let indices: Vec<i32> = (0..n).collect();
        let by_lengths = Jagged::from_lengths(indices.clone(), lengths, batch_size).unwrap();
        let offsets = by_lengths.offsets().to_vec();
        let by_offsets = Jagged::from_offsets(indices, offsets, batch_size).unwrap();
        prop_assert_eq!(&by_offsets, &by_lengths);
        let shape = (by_offsets.num_features(), by_offsets.batch_size());
        prop_assert_eq!(shape, (features, batch_size));
        let pairs = by_lengths.offsets().windows(2);
        let differences: Vec<i32> = pairs.map(|pair| pair[1] - pair[0]).collect();
        prop_assert_eq!(&differences[..], lengths);
    }

    /// Checks that arbitrary offsets never panic, and are refused exactly if they are wrong.
    #[test]
    fn arbitrary_offsets_are_no_panic(
        offsets in prop::collection::vec(prop_oneof![0..9_i64, any::<i64>()], 0..8),
        n in 0..9_usize,
        batch_size in 0..4_usize,
    ) {
        let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        let right = offsets.first() == Some(&0) && rising && offsets.last() == Some(&(n as i64));
        let bags = offsets.len().saturating_sub(1);
        let whole = if batch_size == 0 { bags == 0 } else { bags % batch_size == 0 };
        let got = Jagged::from_offsets(vec![7_i64; n], offsets.clone(), batch_size);
        prop_assert_eq!(got.is_ok(), right && whole);
        match got {
            Err(Error::InvalidOffsets { position, value, .. }) => {
                prop_assert_eq!(offsets[position], value)
            }
            Err(error) => prop_assert!(matches!(error, Error::InvalidArgument { .. }), "{}", error),
            Ok(_) => {}
        }
        // The same numbers are passed as lengths.
        let lengths = &offsets;
        let sum: i128 = lengths.iter().map(|&length| i128::from(length)).sum();
        let counts = lengths.iter().all(|&length| length >= 0) && sum == n as i128;
        let whole = match batch_size {
            0 => lengths.is_empty(),
            _ => lengths.len() % batch_size == 0,
        };
        let got = Jagged::from_lengths(vec![7_i64; n], lengths, batch_size);
        prop_assert_eq!(got.is_ok(), counts && whole);
    }
}
