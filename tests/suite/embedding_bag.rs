//! Tests of `embedding_bag`: pooling and the gradient of the per-sample weights.

use crate::common::*;
use bagdot::ops::embedding_bag::{EmbeddingBagOps, Forward, NO_SOURCE, WeightGrad};
use bagdot::ops::{Feature, Matrix, Pooling};
use bagdot::{Error, OffsetRule, Result, bf16, f16};

backend_suite!(cuda:
    pools_f32_by_i64,
    pools_f16_by_i32,
    pools_bf16_by_i64,
    pooled_vectors_in_16_bits_are_rounded_once,
    weight_grads,
    weight_grads_from_gradients_in_16_bits,
    max_takes_the_first_of_equals,
    nan_and_infinity_come_through,
    bad_ids_are_skipped_and_reported,
    wrong_shapes_are_errors,
);

#[test]
fn wrong_offsets_are_errors_on_the_cpu() {
    wrong_offsets_are_errors(&bagdot::Cpu::with_threads(3).unwrap());
}

#[cfg(feature = "cuda")]
#[test]
fn wrong_offsets_are_errors_on_cuda() {
    crate::common::cuda::on_every_schedule_with_overlaps(wrong_offsets_are_errors);
}

/// The pooled output and, if requested, the sources of maxima.
struct Pooled<O> {
    output: Vec<O>,
    argmax: Option<Vec<u32>>,
    result: Result<()>,
}

fn pool<B: EmbeddingBagOps, E: Stored, I: Id>(
    device: &B,
    case: &BagCase,
    weights: &[E],
    gap: usize,
    with_argmax: bool,
) -> Pooled<f32> {
    pool_as::<B, E, I, f32>(device, case, weights, gap, with_argmax)
}

fn pool_as<B: EmbeddingBagOps, E: Stored, I: Id, O: Stored + Poison>(
    device: &B,
    case: &BagCase,
    weights: &[E],
    gap: usize,
    with_argmax: bool,
) -> Pooled<O> {
    let bags = case.upload::<B, I>(device);
    let weights = upload(device, weights);
    let output = Grid::<O>::poisoned(case.batch_size, case.width(), gap);
    let argmax = Grid::<u32>::poisoned(case.batch_size, case.width(), gap / 2);
    let (mut output_buffer, mut argmax_buffer) = (output.upload(device), argmax.upload(device));
    let mut forward = Forward::new(
        &bags.tables,
        B::view(&weights),
        bags.view(),
        output.view_mut(&mut output_buffer),
    );
    forward.argmax = with_argmax.then(|| argmax.view_mut(&mut argmax_buffer));
    let result = outcome(device, forward.run(device));
    let argmax = argmax.download(device, &argmax_buffer);
    Pooled {
        output: output.download(device, &output_buffer),
        argmax: with_argmax.then_some(argmax),
        result,
    }
}

fn pools<B: EmbeddingBagOps, E: Stored, I: Id>(device: &B) {
    for pooling in POOLINGS {
        for case in BagCase::all(pooling) {
            let weighted = (pooling != Pooling::Max).then(|| case.clone().weighted());
            for case in [case].into_iter().chain(weighted) {
                let weights = case.weights::<E>();
                let (want, sources) = reference::embedding_bag(&case, &exact(&weights));
                let plain = pool::<B, E, I>(device, &case, &weights, 0, false);
                assert_eq!(plain.result, Ok(()), "{}", case.name);
                assert_close(&case.name, &plain.output, &want);
                let gapped = pool::<B, E, I>(device, &case, &weights, 5, true);
                assert_same_bits(
                    &format!("{}, with gaps", case.name),
                    &gapped.output,
                    &plain.output,
                );
                // Columns that are not pooled by max are not written.
                let want: Vec<u32> =
                    sources.iter().map(|source| source.unwrap_or(u32::POISON)).collect();
                assert_same_bits(&format!("{}, argmax", case.name), &gapped.argmax.unwrap(), &want);
            }
        }
    }
}

fn pools_f32_by_i64<B: EmbeddingBagOps>(device: &B) {
    pools::<B, f32, i64>(device);
}

fn pools_f16_by_i32<B: EmbeddingBagOps>(device: &B) {
    pools::<B, f16, i32>(device);
}

fn pools_bf16_by_i64<B: EmbeddingBagOps>(device: &B) {
    pools::<B, bf16, i64>(device);
}

/// Pooled vectors in 16 bits are those in `f32`, rounded to nearest: sums, means and maxima are
/// never rounded before.
fn pooled_vectors_in_16_bits_are_rounded_once<B: EmbeddingBagOps>(device: &B) {
    fn check<B: EmbeddingBagOps, E: Stored, O: Stored + Poison>(device: &B) {
        for pooling in POOLINGS {
            for case in BagCase::all(pooling) {
                let case = if pooling == Pooling::Mean { case.weighted() } else { case };
                let weights = case.weights::<E>();
                let want = pool::<B, E, i64>(device, &case, &weights, 0, true);
                for gap in [0, 5, 8] {
                    let got = pool_as::<B, E, i64, O>(device, &case, &weights, gap, true);
                    let what = format!("{} as {}, gap {gap}", case.name, O::DTYPE);
                    assert_eq!(got.result, Ok(()), "{what}");
                    let want_output: Vec<O> = want.output.iter().map(|&x| O::from_f32(x)).collect();
                    assert_same_bits(&what, &got.output, &want_output);
                    assert_eq!(got.argmax, want.argmax, "{what}");
                }
            }
        }
    }
    check::<B, f32, f16>(device);
    check::<B, f32, bf16>(device);
    check::<B, bf16, bf16>(device);
    check::<B, f16, bf16>(device);
    check::<B, bf16, f16>(device);
}

fn weight_grad<B: EmbeddingBagOps, E: Stored, I: Id>(
    device: &B,
    case: &BagCase,
    weights: &[E],
) -> (Vec<f32>, Result<()>) {
    weight_grad_from::<B, E, I, f32>(device, case, weights, &case.grad_output())
}

fn weight_grad_from<B: EmbeddingBagOps, E: Stored, I: Id, G: Stored + Poison>(
    device: &B,
    case: &BagCase,
    weights: &[E],
    grad_output: &[G],
) -> (Vec<f32>, Result<()>) {
    let bags = case.upload::<B, I>(device);
    let weights = upload(device, weights);
    let grad = Grid::new(case.batch_size, case.width(), 3, grad_output);
    let grad_buffer = grad.upload(device);
    let mut out = upload(device, &poisoned::<f32>(case.indices.len()));
    let op = WeightGrad::new(
        &bags.tables,
        B::view(&weights),
        bags.view(),
        grad.view(&grad_buffer),
        B::view_mut(&mut out),
    );
    let result = outcome(device, op.run(device));
    (download(device, &out), result)
}

fn weight_grads<B: EmbeddingBagOps>(device: &B) {
    fn check<B: EmbeddingBagOps, E: Stored, I: Id>(device: &B) {
        for pooling in [Pooling::Sum, Pooling::Mean] {
            for case in BagCase::all(pooling).into_iter().map(BagCase::weighted) {
                let weights = case.weights::<E>();
                let want = reference::bag_weight_grad(
                    &case,
                    &exact(&weights),
                    &exact(&case.grad_output()),
                );
                let (got, result) = weight_grad::<B, E, I>(device, &case, &weights);
                assert_eq!(result, Ok(()), "{}", case.name);
                assert_close(&case.name, &got, &want);
            }
        }
    }
    check::<B, f32, i32>(device);
    check::<B, f16, i64>(device);
    check::<B, bf16, i64>(device);
}

/// A gradient in 16 bits gives the same bits as the same values in `f32`.
fn weight_grads_from_gradients_in_16_bits<B: EmbeddingBagOps>(device: &B) {
    fn check<B: EmbeddingBagOps, G: Stored + Poison>(device: &B) {
        for case in BagCase::all(Pooling::Mean).into_iter().map(BagCase::weighted) {
            let weights = case.weights::<f32>();
            let narrow: Vec<G> = case.grad_output().iter().map(|&g| G::from_f32(g)).collect();
            let wide: Vec<f32> = narrow.iter().map(|g| g.to_f32()).collect();
            let got = weight_grad_from::<B, f32, i32, G>(device, &case, &weights, &narrow);
            let want = weight_grad_from::<B, f32, i32, f32>(device, &case, &weights, &wide);
            assert_eq!(got.1, Ok(()), "{}", case.name);
            assert_same_bits(&case.name, &got.0, &want.0);
        }
    }
    check::<B, f16>(device);
    check::<B, bf16>(device);
}

fn max_takes_the_first_of_equals<B: EmbeddingBagOps>(device: &B) {
    let layout =
        (&[(4, 2)][..], &[Feature { padding_idx: Some(3), ..feature(0, Pooling::Max) }][..]);
    let mut ids = [3, 1, 0, 2, 1, 3].into_iter();
    let case = BagCase::new("ties", layout, &[5, 0, 1], |_, _| ids.next().unwrap());
    // Column 0: the maximum is the first of three equal rows; the larger row before it is padding.
    // Column 1: -0 and 0 are equal. A negative maximum is not replaced by 0.
    let weights = [-2.0_f32, 0.0, -2.0, -0.0, -2.0, 0.0, 9.0, 9.0];
    let got = pool::<B, f32, i64>(device, &case, &weights, 2, true);
    assert_eq!(got.output, [-2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(got.argmax.unwrap(), [1, 1, NO_SOURCE, NO_SOURCE, NO_SOURCE, NO_SOURCE]);
}

fn nan_and_infinity_come_through<B: EmbeddingBagOps>(device: &B) {
    for pooling in POOLINGS {
        let layout = (&[(4, 2)][..], &[feature(0, pooling)][..]);
        let mut ids = [0, 1, 2, 3, 0, 1, 2, 0].into_iter();
        let case = BagCase::new("not numbers", layout, &[3, 3, 2], |_, _| ids.next().unwrap());
        let weights =
            [1.0_f32, f32::INFINITY, f32::NAN, 2.0, 3.0, 4.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let got = pool::<B, f32, i64>(device, &case, &weights, 0, true).output;
        let nan = [true, false, true, pooling != Pooling::Max, false, false];
        assert_eq!(got.iter().map(|x| x.is_nan()).collect::<Vec<_>>(), nan, "{pooling:?}: {got:?}");
        assert_eq!(got[1], f32::INFINITY, "{pooling:?}");
    }
}

/// The names of the ops in errors.
const FORWARD: &str = "embedding_bag.forward";
const WEIGHT_GRAD: &str = "embedding_bag.weight_grad";

/// Returns a case with three bad ids, which the reference skips, and the error of an op about them.
fn case_with_bad_ids(pooling: Pooling) -> (BagCase, impl Fn(&'static str) -> Error) {
    let mut case = BagCase::mixed(pooling);
    let bag = 2 * 33 + 7;
    let position = case.offsets[bag] + 1;
    assert!(position < case.offsets[bag + 1]);
    // This id is of table 0, which has 30 rows. The later ones are of other tables.
    case.indices[position] = 30;
    let (later, last) = (case.offsets[3 * 33 + 2], case.indices.len() - 1);
    case.indices[later] = -1;
    case.indices[last] = i64::from(i32::MAX);
    let error = move |op| {
        let (table, num_embeddings, value) = (0, 30, 30);
        Error::IndexOutOfRange { op, table, bag, position, value, num_embeddings, count: 3 }
    };
    (case, error)
}

fn bad_ids_are_skipped_and_reported<B: EmbeddingBagOps>(device: &B) {
    fn check<B: EmbeddingBagOps, I: Id>(device: &B, wide: Option<i64>) {
        for pooling in POOLINGS {
            let (mut case, error) = case_with_bad_ids(pooling);
            if let (Some(wide), Some(last)) = (wide, case.indices.last_mut()) {
                *last = wide;
            }
            let weights = case.weights::<f32>();
            let (want, sources) = reference::embedding_bag(&case, &exact(&weights));
            let got = pool::<B, f32, I>(device, &case, &weights, 3, true);
            assert_out_of_range(got.result, error(FORWARD));
            assert_close(&case.name, &got.output, &want);
            let want: Vec<u32> =
                sources.iter().map(|source| source.unwrap_or(u32::POISON)).collect();
            assert_same_bits(&case.name, &got.argmax.unwrap(), &want);
            assert_eq!(device.synchronize(), Ok(()), "an error is reported once");
            if pooling != Pooling::Max {
                let case = case.weighted();
                let (got, result) = weight_grad::<B, f32, I>(device, &case, &weights);
                assert_out_of_range(result, error(WEIGHT_GRAD));
                let want = reference::bag_weight_grad(
                    &case,
                    &exact(&weights),
                    &exact(&case.grad_output()),
                );
                assert_close(&case.name, &got, &want);
            }
        }
    }
    check::<B, i32>(device, None);
    check::<B, i64>(device, None);
    // The low 32 bits of these ids are row 0.
    check::<B, i64>(device, Some(1 << 32));
    check::<B, i64>(device, Some(i64::MIN));
}

fn wrong_offsets_are_errors<B: EmbeddingBagOps>(device: &B) {
    let good = BagCase::one_table("offsets", (4, 2), &[1, 2, 1], uniform).weighted();
    for (position, offset, rule) in [
        (0, 1, OffsetRule::FirstIsZero),
        (2, 0, OffsetRule::NotBelow(1)),
        (3, 2, OffsetRule::NotBelow(3)),
        (3, 3, OffsetRule::LastIs(4)),
        (3, 900, OffsetRule::LastIs(4)),
    ] {
        let mut case = good.clone();
        case.offsets[position] = offset;
        let error = |op| Err(Error::InvalidOffsets { op, position, value: offset as i64, rule });
        let got = pool::<B, f32, i64>(device, &case, &case.weights(), 1, false);
        assert_eq!(got.result, error(FORWARD));
        let result = weight_grad::<B, f32, i64>(device, &case, &case.weights()).1;
        assert_eq!(result, error(WEIGHT_GRAD));
    }
}

/// The buffers that the arguments of a call view.
struct Given<B: EmbeddingBagOps> {
    bags: cases::DeviceBags<B, i64>,
    weights: B::Buffer<f32>,
    grad: B::Buffer<f32>,
}

/// A function that spoils an argument.
type SpoilForward<'s, B> = &'s dyn for<'a> Fn(&mut Forward<'a, B, f32, i64>, &'a Given<B>);
type SpoilGrad<'s, B> = &'s dyn for<'a> Fn(&mut WeightGrad<'a, B, f32, i64>, &'a Given<B>);

/// Checks that each wrong argument gives an error that names it, and that nothing is written.
fn wrong_shapes_are_errors<B: EmbeddingBagOps>(device: &B) {
    let layout =
        (&[(4, 2), (3, 5)][..], &[feature(0, Pooling::Sum), feature(1, Pooling::Mean)][..]);
    let case = BagCase::new("shapes", layout, &[1, 2, 1, 0, 3, 1], uniform).weighted();
    let given = Given::<B> {
        bags: case.upload(device),
        weights: upload(device, &case.weights::<f32>()),
        grad: upload(device, &case.grad_output()),
    };
    let output = Grid::<f32>::poisoned(3, 7, 0);
    let argmax = Grid::<u32>::poisoned(3, 7, 0);
    let (mut output_buffer, mut argmax_buffer) = (output.upload(device), argmax.upload(device));
    let mut check = |spoil: SpoilForward<'_, B>, text: &str| {
        let mut forward = Forward::new(
            &given.bags.tables,
            B::view(&given.weights),
            given.bags.view(),
            output.view_mut(&mut output_buffer),
        )
        .argmax(argmax.view_mut(&mut argmax_buffer));
        spoil(&mut forward, &given);
        assert_eq!(message(forward.run(device)), format!("embedding_bag.forward: {text}"));
        assert_same_bits(text, &output.download(device, &output_buffer), &output.data);
        assert_same_bits(text, &argmax.download(device, &argmax_buffer), &argmax.data);
    };
    check(&|f, g| f.weights = B::slice(&g.weights, 0..22).into(), "weights is 22, but must be 23");
    check(
        &|f, g| f.bags.offsets = B::slice(&g.bags.offsets, 0..6).into(),
        "bags.offsets: 6 of them, but 2 features x 3 samples need 7 offsets, one more than bags",
    );
    check(
        &|f, _| f.bags.batch_size = 4,
        "bags.offsets: 7 of them, but 2 features x 4 samples need 9 offsets, one more than bags",
    );
    check(
        &|f, g| f.bags.per_sample_weights = Some(B::slice(&g.weights, 0..7)),
        "bags.per_sample_weights is 7, but must be 8",
    );
    check(&|f, _| f.output.rows = 2, "output.rows is 2, but must be 3");
    check(&|f, _| f.output.cols = 6, "output.cols is 6, but must be 7");
    check(&|f, _| f.output.ld = 6, "output.ld: 6 is less than the 7 columns");
    check(&|f, _| f.output.ld = 8, "output.data holds 21 elements, but 23 are needed");
    check(
        &|f, _| f.output.ld = usize::MAX,
        "output.ld: 18446744073709551615, but no memory has room for 3 rows so far apart",
    );
    check(&|f, _| f.argmax.as_mut().unwrap().rows = 4, "argmax.rows is 4, but must be 3");

    let mut out = upload(device, &poisoned::<f32>(8));
    let mut check = |spoil: SpoilGrad<'_, B>, text: &str| {
        let mut op = WeightGrad::new(
            &given.bags.tables,
            B::view(&given.weights),
            given.bags.view(),
            Matrix::contiguous(B::view(&given.grad), 3, 7),
            B::view_mut(&mut out),
        );
        spoil(&mut op, &given);
        assert_eq!(message(op.run(device)), format!("embedding_bag.weight_grad: {text}"));
        assert_same_bits(text, &download(device, &out), &poisoned(8));
    };
    check(&|op, g| op.weights = B::slice(&g.weights, 0..0).into(), "weights is 0, but must be 23");
    check(&|op, _| op.grad_output.cols = 8, "grad_output.cols is 8, but must be 7");
    check(
        &|op, g| op.bags.indices = B::slice(&g.bags.indices, 0..7),
        "bags.per_sample_weights is 8, but must be 7",
    );

    let max = BagCase::mixed(Pooling::Max);
    let refused = "bags.per_sample_weights: max pooling takes no weights";
    let got = pool::<B, f32, i64>(device, &max.clone().weighted(), &max.weights(), 0, true);
    assert_eq!(message(got.result), format!("embedding_bag.forward: {refused}"));
    assert_same_bits("output", &got.output, &poisoned(got.output.len()));
    let (_, result) = weight_grad::<B, f32, i64>(device, &max, &max.weights());
    assert_eq!(
        message(result),
        "embedding_bag.weight_grad: tables: max pooling has no per-sample weights"
    );
}

#[test]
fn results_do_not_depend_on_threads() {
    for pooling in POOLINGS {
        let case = BagCase::mixed(pooling);
        assert_deterministic(&case.name, |cpu| {
            let got = pool::<_, f16, i32>(cpu, &case, &case.weights(), 1, true);
            [bytes(&got.output), bytes(&got.argmax.unwrap())].concat()
        });
        let (bad, _) = case_with_bad_ids(pooling);
        assert_deterministic("bad ids", |cpu| {
            let got = pool::<_, f32, i64>(cpu, &bad, &bad.weights(), 0, true);
            [bytes(&got.output), message(got.result).into_bytes()].concat()
        });
    }
    let lengths: Vec<usize> = (0..33).map(|k| k * 20).collect();
    let layout = (&[(500, 33)][..], &[feature(0, Pooling::Mean)][..]);
    let case = BagCase::new("many ids", layout, &lengths, zipf).weighted();
    assert_deterministic(&case.name, |cpu| {
        bytes(&weight_grad::<_, bf16, i64>(cpu, &case, &case.weights()).0)
    });
}
