//! Laws that hold for any input, tried on drawn ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot::ops::embedding_bag::Forward;
use bagdot::ops::interaction::{self, Features, FeaturesMut};
use bagdot::ops::{Accum, Activation, Interaction, Matrix, MatrixMut, Pooling, Precision, linear};
use bagdot::{Cpu, Error, Jagged};
use common::updates::{Backward, download_grad, poisoned_grad, rules, state_values};
use common::*;
use proptest::prelude::*;

fn settings() -> ProptestConfig {
    // Nothing is written beside the sources; a failure prints the input it has been shrunk to.
    ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() }
}

/// Bags of up to three features over two tables.
fn bag_case(poolings: &'static [Pooling]) -> impl Strategy<Value = BagCase> {
    let dims = (1..40_usize, 1..9_usize, 1..12_usize, 1..140_usize);
    let features = prop::collection::vec((0..2_usize, prop::sample::select(poolings)), 1..4);
    (dims, features, 1..6_usize).prop_flat_map(|((rows_a, dim_a, rows_b, dim_b), features, batch_size)| {
        let bags = features.len() * batch_size;
        prop::collection::vec(0..9_usize, bags).prop_map(move |lengths| {
            let features: Vec<_> = features.iter().map(|&(table, pooling)| feature(table, pooling)).collect();
            let layout = (&[(rows_a, dim_a), (rows_b, dim_b)][..], &features[..]);
            BagCase::new(format!("{lengths:?}"), layout, &lengths, |random, rows| random.below(rows))
        })
    })
}

fn pool(case: &BagCase, weights: &[f32]) -> Vec<f32> {
    let (cpu, width) = (Cpu::single_threaded(), case.width());
    let bags = case.upload::<Cpu, i64>(&cpu);
    let mut output = poisoned(case.batch_size * width);
    let view = MatrixMut::packed(&mut output[..], case.batch_size, width);
    Forward { tables: &bags.tables, weights, bags: bags.view(), output: view, argmax: None }.run(&cpu).unwrap();
    output
}

fn interact(kind: Interaction, features: &[f32], (batch_size, num_features, dim): (usize, usize, usize)) -> Vec<f32> {
    let width = kind.width(true, num_features - 1, dim);
    let mut output = poisoned(batch_size * width);
    let block = Matrix::packed(features, batch_size, num_features * dim);
    let features = Features::Joined { block, has_dense: true };
    let output_view = MatrixMut::packed(&mut output[..], batch_size, width);
    interaction::Forward { interaction: kind, dim, precision: Precision::Full, features, output: output_view }
        .run(&Cpu::single_threaded())
        .unwrap();
    output
}

/// `Σ a b` with a bound for what the second factor may be off by.
fn inner(a: &[f32], b: &[f32], b_errors: &[Approx]) -> (f64, f64) {
    assert_eq!((a.len(), b.len()), (b.len(), b_errors.len()));
    let product = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let error = a.iter().zip(b_errors).map(|(a, b)| f64::from(a.abs()) * (b.error + ulp::<f32>(b.value))).sum();
    (product, error)
}

/// `<g, J x> = <Jᵀ g, x>`, each side computed from results in `f32` whose bounds add up. A scale makes up for an op that is of degree two.
fn assert_adjoint((left, left_error): (f64, f64), (right, right_error): (f64, f64)) -> Result<(), TestCaseError> {
    let off = (left - right).abs();
    prop_assert!(
        off <= left_error + right_error,
        "{left} and {right} are {off:e} apart: more than {left_error:e} + {right_error:e}"
    );
    Ok(())
}

proptest! {
    #![proptest_config(settings())]

    /// The samples of a batch know nothing of each other.
    #[test]
    fn permuting_the_batch_permutes_pooled_vectors(case in bag_case(&POOLINGS), seed: u64) {
        let mut order: Vec<usize> = (0..case.batch_size).collect();
        bagdot::Philox::new(seed, 0).shuffle(&mut order);
        let mut permuted = BagCase { indices: vec![], offsets: vec![0], ..case.clone() };
        for bag in 0..case.features.len() * case.batch_size {
            let (feature, sample) = (bag / case.batch_size, bag % case.batch_size);
            let from = feature * case.batch_size + order[sample];
            permuted.indices.extend(&case.indices[case.offsets[from]..case.offsets[from + 1]]);
            permuted.offsets.push(permuted.indices.len());
        }
        let weights = case.weights::<f32>();
        let (straight, got) = (pool(&case, &weights), pool(&permuted, &weights));
        let width = case.width();
        let want: Vec<f32> = order.iter().flat_map(|&b| &straight[b * width..][..width]).copied().collect();
        assert_same_bits("pooled", &got, &want);
    }

    #[test]
    fn permuting_the_batch_permutes_interactions(shape in (1..9_usize, 1..7_usize, 1..20_usize), seed: u64) {
        let (batch_size, num_features, dim) = shape;
        let row = num_features * dim;
        let features = draw(batch_size * row, seed);
        let mut order: Vec<usize> = (0..batch_size).collect();
        bagdot::Philox::new(seed, 0).shuffle(&mut order);
        let permute = |values: &[f32], row: usize| -> Vec<f32> {
            order.iter().flat_map(|&b| &values[b * row..][..row]).copied().collect()
        };
        let straight = interact(Interaction::default(), &features, shape);
        let width = straight.len() / batch_size;
        let got = interact(Interaction::default(), &permute(&features, row), shape);
        assert_same_bits("dots", &got, &permute(&straight, width));
    }

    /// The sum of a bag is that of its parts, but for the rounding of both, bounded by that of the whole.
    #[test]
    fn splitting_a_bag_adds_up(case in bag_case(&[Pooling::Sum]), cut in 0..9_usize) {
        let part = |second: bool| {
            let mut part = BagCase { indices: vec![], offsets: vec![0], ..case.clone() };
            for bag in case.offsets.windows(2) {
                let middle = (bag[0] + cut).min(bag[1]);
                part.indices.extend(&case.indices[if second { middle..bag[1] } else { bag[0]..middle }]);
                part.offsets.push(part.indices.len());
            }
            part
        };
        let weights = case.weights::<f32>();
        let (whole, _) = reference::embedding_bag(&case, &exact(&weights));
        let (a, b) = (pool(&part(false), &weights), pool(&part(true), &weights));
        let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        // Together they take no more additions than the whole, and one more for the sum.
        let want: Vec<Approx> = whole.iter().map(|w| w.once_rounded()).collect();
        assert_close("the sum of the parts", &sum, &want);
        assert_close("the whole", &pool(&case, &weights), &whole);
    }

    #[test]
    fn updates_do_not_depend_on_threads(case in bag_case(&[Pooling::Sum, Pooling::Mean]), rule in 0..12_usize, threads in 2..6_usize) {
        let rule = rules()[rule];
        let state = state_values(rule.optimizer, case.num_rows(), case.num_weights());
        let run = |cpu: &Cpu| {
            let backward = Backward::<_, i32>::new(cpu, &case, &case.grad_output(), Some(1.0));
            backward.update(cpu, &case, rule, &case.weights::<bagdot::f16>(), &state)
        };
        let (one, many) = (run(&Cpu::single_threaded()), run(&Cpu::with_threads(threads).unwrap()));
        assert_same_bits("weights", &many.0, &one.0);
        prop_assert_eq!(many.1, one.1);
    }

    #[test]
    fn embedding_bag_and_row_gradients_are_adjoint(case in bag_case(&[Pooling::Sum, Pooling::Mean])) {
        let (cpu, weights, grad) = (Cpu::single_threaded(), case.weights::<f32>(), case.grad_output());
        let (want, _) = reference::embedding_bag(&case, &exact(&weights));
        let left = inner(&grad, &pool(&case, &weights), &want);
        let backward = Backward::<_, i64>::new(&cpu, &case, &grad, None);
        let mut rows = poisoned_grad(&cpu, &case, case.indices.len());
        backward.reduce(&cpu, &mut rows).unwrap();
        let mut right = (0.0, 0.0);
        let mut expected = backward.expected.values();
        for (row, values) in download_grad(&cpu, &rows) {
            let start = case.layout().weight_offset_of_row(row as usize);
            let (product, error) = inner(&weights[start..start + values.len()], &values, expected.next().unwrap());
            right = (right.0 + product, right.1 + error);
        }
        assert_adjoint(left, right)?;
    }

    #[test]
    fn linear_is_adjoint(m in 1..20_usize, n in 1..20_usize, k in 1..40_usize, seed: u64) {
        let cpu = Cpu::single_threaded();
        let (x, w, g) = (draw(m * k, seed), draw(n * k, seed ^ 1), draw(m * n, seed ^ 2));
        let (mut y, mut z, mut dx) = (poisoned(m * n), g.clone(), poisoned(m * k));
        let (mut dw, mut db) = (poisoned(n * k), poisoned(n));
        let (input, weight, activation) = (Matrix::packed(&x[..], m, k), Matrix::packed(&w[..], n, k), Activation::None);
        let bias = vec![0.0; n];
        let forward = linear::Forward { input, weight, bias: &bias[..], activation, precision: Precision::Full, output: MatrixMut::packed(&mut y[..], m, n) };
        forward.run(&cpu).unwrap();
        let (input, weight) = (Matrix::packed(&x[..], m, k), Matrix::packed(&w[..], n, k));
        let backward = linear::Backward {
            input,
            weight,
            output: Matrix::packed(&y[..], m, n),
            activation,
            precision: Precision::Full,
            grad_output: MatrixMut::packed(&mut z[..], m, n),
            grad_input: Some(MatrixMut::packed(&mut dx[..], m, k)),
            grad_weight: MatrixMut::packed(&mut dw[..], n, k),
            grad_bias: &mut db[..],
            accum: Accum::Replace,
            workspace: &mut [][..],
        };
        backward.run(&cpu).unwrap();
        let want_y = reference::linear(&exact(&x), &exact(&w), &exact(&bias), (m, n, k), false);
        let layers = [&exact(&x)[..], &exact(&w), &exact(&y), &exact(&g)];
        let want = reference::linear_backward(layers, (m, n, k), activation, None);
        // Y is linear in X and in W alike.
        let left = inner(&g, &y, &want_y);
        assert_adjoint(left, inner(&x, &dx, &want.input))?;
        assert_adjoint(left, inner(&w, &dw, &want.weight))?;
    }

    /// The dense columns are of degree one in the features and the dots of degree two: `<Jᵀ g, x> = <g, dense> + 2 <g, dots>`.
    #[test]
    fn interaction_is_adjoint(shape in (1..4_usize, 1..9_usize, 1..30_usize), seed: u64) {
        let (batch_size, num_features, dim) = shape;
        let (cpu, kind, row) = (Cpu::single_threaded(), Interaction::default(), num_features * dim);
        let features = draw(batch_size * row, seed);
        let output = interact(kind, &features, shape);
        let width = output.len() / batch_size;
        let grad = draw(output.len(), seed ^ 1);
        let scaled: Vec<f32> = grad.iter().enumerate().map(|(e, g)| if e % width < dim { *g } else { 2.0 * g }).collect();
        let mut grads = poisoned(features.len());
        let backward = interaction::Backward {
            interaction: kind,
            dim,
            precision: Precision::Full,
            features: Features::Joined { block: Matrix::packed(&features[..], batch_size, row), has_dense: true },
            grad_output: Matrix::packed(&grad[..], batch_size, width),
            grad_features: FeaturesMut::Joined { block: MatrixMut::packed(&mut grads[..], batch_size, row) },
        };
        backward.run(&cpu).unwrap();
        let (mut want, mut want_grads) = (vec![], vec![]);
        for (x, g) in exact(&features).chunks(row).zip(exact(&grad).chunks(width)) {
            want.extend(reference::dots(kind, x, dim, true));
            want_grads.extend(reference::dots_backward(kind, x, dim, true, g));
        }
        assert_adjoint(inner(&scaled, &output, &want), inner(&features, &grads, &want_grads))?;
    }

    #[test]
    fn merging_commutes(case in bag_case(&[Pooling::Mean]), lengths in prop::collection::vec(0..5_usize, 1..4)) {
        let cpu = Cpu::single_threaded();
        let tables: Vec<_> = case.tables.iter().map(|t| (t.num_embeddings, t.embedding_dim)).collect();
        let lengths = vec![lengths; case.features.len()].concat();
        let other = BagCase::new("other", (&tables, &case.features), &lengths, |random, rows| random.below(rows));
        let [a, b] = [&case, &other].map(|case| {
            let backward = Backward::<_, i64>::new(&cpu, case, &case.grad_output(), None);
            let mut grad = poisoned_grad(&cpu, case, case.indices.len());
            backward.reduce(&cpu, &mut grad).unwrap();
            grad
        });
        let merge = |a, b| {
            let mut out = poisoned_grad(&cpu, &case, case.num_rows());
            updates::merge(&cpu, &case.layout(), (a, b), &mut out).unwrap();
            download_grad(&cpu, &out)
        };
        prop_assert_eq!(merge(&a, &b), merge(&b, &a));
    }

    #[test]
    fn jagged_goes_there_and_back(features in 1..4_usize, batch_size in 1..5_usize, lengths in prop::collection::vec(0..6_i32, 20)) {
        let lengths = &lengths[..features * batch_size];
        let n = lengths.iter().sum::<i32>();
        let indices: Vec<i32> = (0..n).collect();
        let by_lengths = Jagged::from_lengths(indices.clone(), lengths, batch_size).unwrap();
        let by_offsets = Jagged::from_offsets(indices, by_lengths.offsets().to_vec(), batch_size).unwrap();
        prop_assert_eq!(&by_offsets, &by_lengths);
        prop_assert_eq!((by_offsets.num_features(), by_offsets.batch_size()), (features, batch_size));
        let differences: Vec<i32> = by_lengths.offsets().windows(2).map(|pair| pair[1] - pair[0]).collect();
        prop_assert_eq!(&differences[..], lengths);
    }

    /// Arbitrary offsets are taken or refused, never a panic, and refused only with a reason.
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
            Err(Error::InvalidOffsets { position, value, .. }) => prop_assert_eq!(offsets[position], value),
            Err(error) => prop_assert!(matches!(error, Error::InvalidArgument { .. }), "{}", error),
            Ok(_) => {}
        }
        // The same numbers as lengths.
        let counts = offsets.iter().all(|&length| length >= 0) && offsets.iter().map(|&l| i128::from(l)).sum::<i128>() == n as i128;
        let whole = if batch_size == 0 { offsets.is_empty() } else { offsets.len() % batch_size == 0 };
        prop_assert_eq!(Jagged::from_lengths(vec![7_i64; n], &offsets, batch_size).is_ok(), counts && whole);
    }
}
