//! Tests of `head`: logits, and with them mean losses and all gradients. The reference is that of
//! `linear` and of `loss`; each stage is compared for the results of the stages before it.

use crate::common::{self, *};
use bagdot::Result;
use bagdot::ops::head::{Forward, Grads, HeadOps, LossAndGrads};
use bagdot::ops::loss::{self, LossOps};
use bagdot::ops::{Accum, Activation, Loss};
use bagdot::{bf16, f16};

backend_suite!(
    cuda:
    logits_are_right,
    losses_and_gradients_are_right,
    large_batches_have_larger_parts,
    nan_comes_through,
    bad_labels_are_skipped_and_reported,
    a_scale_multiplies_gradients_alone,
    wrong_arguments_are_errors,
);

/// The shapes as batch size and inputs. With 16 columns or more in vectors of 16 bytes, and with
/// fewer; with as many vectors as a warp has threads, with more and with fewer; with several parts.
const SHAPES: [(usize, usize); 11] = [
    (0, 4),
    (1, 1),
    (5, 0),
    (3, 8),
    (33, 17),
    (32, 64),
    (70, 24),
    (300, 16),
    (65, 256),
    (7, 1000),
    (2, 2056),
];
const LOSSES: [Loss; 3] =
    [Loss::BceWithLogits, Loss::WeightedBce { negative: 0.25, positive: 3.0 }, Loss::Mse];

/// A layer with a batch of inputs and labels.
struct Case<E> {
    shape: (usize, usize),
    input: Vec<E>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    labels: Vec<f32>,
}

/// The settings of a run with gradients.
#[derive(Clone, Copy)]
struct How {
    loss: Loss,
    threshold: f32,
    loss_scale: f32,
    accum: Accum,
    gap: usize,
    /// True if the input is the output of ReLU, and the gradient of the bias before is wanted.
    through_relu: bool,
}

const HOW: How = How {
    loss: Loss::Mse,
    threshold: 0.0,
    loss_scale: 1.0,
    accum: Accum::Replace,
    gap: 0,
    through_relu: false,
};

/// The results of a run with gradients.
struct Got<E> {
    logits: Vec<f32>,
    mean: f64,
    grad_logits: Vec<f32>,
    input: Vec<E>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    bias_before: Vec<f32>,
    result: Result<()>,
}

impl<E: Stored + Poison> Case<E> {
    fn new((m, k): (usize, usize)) -> Self {
        let seed = (m * 31 + k) as u64;
        // The logits of many inputs are as large as those of few, so that losses have a slope.
        let scale = 1.0 / (k.max(1) as f32).sqrt();
        // Every fourth label is soft.
        let label = |(k, u): (usize, &f32)| {
            if k % 4 == 0 { u.abs().fract() } else { f32::from(*u > 0.0) }
        };
        Self {
            shape: (m, k),
            input: draw_stored(m * k, seed),
            weight: draw(k, seed + 1).iter().map(|w| w * scale).collect(),
            bias: draw(1, seed + 2),
            labels: draw(m, seed + 3).iter().enumerate().map(label).collect(),
        }
    }

    fn forward<B: HeadOps>(&self, device: &B, gap: usize) -> Vec<f32> {
        let (m, k) = self.shape;
        let input = Grid::new(m, k, gap, &self.input);
        let x = input.upload(device);
        let (w, b) = (upload(device, &self.weight), upload(device, &self.bias));
        let mut logits = upload(device, &poisoned::<f32>(m));
        let op = Forward::new(input.view(&x), B::view(&w), B::view(&b), B::view_mut(&mut logits));
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        download(device, &logits)
    }

    /// Runs the op with gradients. Those of weight and bias hold `before`.
    fn loss_and_grads<B: HeadOps>(&self, device: &B, how: How, before: (&[f32], &[f32])) -> Got<E> {
        let How { loss, threshold, loss_scale, accum, gap, through_relu } = how;
        let (m, k) = self.shape;
        let (input, grad_input) =
            (Grid::new(m, k, gap, &self.input), Grid::<E>::poisoned(m, k, 2 * gap));
        let (x, mut dx) = (input.upload(device), grad_input.upload(device));
        let [w, b, y] = [&self.weight, &self.bias, &self.labels].map(|of| upload(device, of));
        let [mut logits, mut grad_logits] = [(); 2].map(|()| upload(device, &poisoned::<f32>(m)));
        let [mut dw, mut db, mut db_before] =
            [before.0, before.1, before.0].map(|of| upload(device, of));
        let mut mean = upload(device, &poisoned::<f64>(1));
        let len = LossAndGrads::<B, E>::workspace_len(device, m, k);
        let mut workspace = upload(device, &poisoned::<u64>(len));
        let mut grads = Grads::new(
            B::view_mut(&mut grad_logits),
            grad_input.view_mut(&mut dx),
            B::view_mut(&mut dw),
            B::view_mut(&mut db),
        );
        grads.bias_before = through_relu.then(|| B::view_mut(&mut db_before));
        let result = LossAndGrads::new(
            loss,
            Forward::new(input.view(&x), B::view(&w), B::view(&b), B::view_mut(&mut logits)),
            B::view(&y),
            B::view_mut(&mut mean),
            grads,
            B::view_mut(&mut workspace),
        )
        .threshold(threshold)
        .loss_scale(loss_scale)
        .accum(accum)
        .run(device);
        let result = outcome(device, result);
        Got {
            logits: download(device, &logits),
            mean: download(device, &mean)[0],
            grad_logits: download(device, &grad_logits),
            input: grad_input.download(device, &dx),
            weight: download(device, &dw),
            bias: download(device, &db),
            bias_before: download(device, &db_before),
            result,
        }
    }

    /// Runs the op with gradients that nothing is added to.
    fn run<B: HeadOps>(&self, device: &B, how: How) -> Got<E> {
        self.loss_and_grads(device, how, (&poisoned(self.shape.1), &poisoned(1)))
    }

    /// Compares a run with the references, and with `loss` for its logits.
    fn check<B: HeadOps + LossOps>(&self, device: &B, how: How) {
        let (m, k) = self.shape;
        let what = format!("{}, {:?}, {:?}, gap {}", E::DTYPE, self.shape, how.loss, how.gap);
        let (adds, before) = (how.accum == Accum::Add, (draw(k, 10), draw(1, 11)));
        let got = match adds {
            true => self.loss_and_grads(device, how, (&before.0, &before.1)),
            false => self.run(device, how),
        };
        assert_eq!(got.result, Ok(()));
        assert_same_bits(&what, &got.logits, &self.forward(device, how.gap));
        let (mean, grad_logits) = loss_of(device, how, &got.logits, &self.labels);
        assert_same_bits(&format!("{what}, mean"), &[got.mean], &[mean]);
        assert_same_bits(&format!("{what}, logits"), &got.grad_logits, &grad_logits);
        let before = (exact(&before.0), exact(&before.1));
        let mut want = reference::linear_backward(
            [
                &exact(&self.input),
                &exact(&self.weight),
                &exact(&got.logits),
                &exact(&got.grad_logits),
            ],
            (m, 1, k),
            Activation::None,
            adds.then_some((&before.0[..], &before.1[..])),
        );
        if how.through_relu {
            for (grad, x) in want.input.iter_mut().zip(&self.input) {
                *grad = if x.value() <= 0.0 { Approx::ZERO } else { *grad };
            }
            let values = exact(&got.input);
            let sum_of = |column: usize| {
                let mut terms: Vec<_> = values.iter().skip(column).step_by(k).copied().collect();
                terms.extend(adds.then(|| before.0[column]));
                Approx::sum(&terms)
            };
            let want: Vec<_> = (0..k).map(sum_of).collect();
            assert_close(&format!("{what}, bias before"), &got.bias_before, &want);
        }
        assert_close(&format!("{what}, input"), &got.input, &want.input);
        assert_close(&format!("{what}, weight"), &got.weight, &want.weight);
        assert_close(&format!("{what}, bias"), &got.bias, &want.bias);
    }
}

/// Runs `loss`: mean and gradient of the logits.
fn loss_of<B: LossOps>(device: &B, how: How, logits: &[f32], labels: &[f32]) -> (f64, Vec<f32>) {
    let (z, y) = (upload(device, logits), upload(device, labels));
    let (mut mean, mut grad) =
        (upload(device, &poisoned::<f64>(1)), upload(device, &poisoned::<f32>(logits.len())));
    let len = loss::Forward::workspace_len(device, logits.len());
    let mut workspace = upload(device, &poisoned::<u64>(len));
    let op = loss::Forward::new(
        how.loss,
        B::view(&z),
        B::view(&y),
        B::view_mut(&mut mean),
        B::view_mut(&mut workspace),
    )
    .threshold(how.threshold)
    .loss_scale(how.loss_scale)
    .grad_logits(B::view_mut(&mut grad));
    assert_eq!(outcome(device, op.run(device)), Ok(()));
    (download(device, &mean)[0], download(device, &grad))
}

fn logits_are_right<B: HeadOps>(device: &B) {
    logits_of_a_type_are_right::<B, f32>(device);
    logits_of_a_type_are_right::<B, f16>(device);
    logits_of_a_type_are_right::<B, bf16>(device);
}

fn logits_of_a_type_are_right<B: HeadOps, E: Stored + Poison>(device: &B) {
    for (m, k) in SHAPES {
        let case = Case::<E>::new((m, k));
        let (x, w, b) = (exact(&case.input), exact(&case.weight), exact(&case.bias));
        let got = case.forward(device, 0);
        let what = format!("{}, {:?}", E::DTYPE, (m, k));
        assert_close(&what, &got, &reference::linear(&x, &w, &b, (m, 1, k), false));
        // Rows that are not aligned are added in the same order.
        assert_same_bits(&what, &case.forward(device, 3), &got);
    }
}

fn losses_and_gradients_are_right<B: HeadOps + LossOps>(device: &B) {
    losses_and_gradients_of_a_type_are_right::<B, f32>(device);
    losses_and_gradients_of_a_type_are_right::<B, f16>(device);
    losses_and_gradients_of_a_type_are_right::<B, bf16>(device);
}

fn losses_and_gradients_of_a_type_are_right<B: HeadOps + LossOps, E: Stored + Poison>(device: &B) {
    for shape in SHAPES {
        let case = Case::<E>::new(shape);
        for (loss, threshold, accum, gap, through_relu) in [
            (LOSSES[0], 0.0, Accum::Replace, 0, true),
            (LOSSES[1], 0.3, Accum::Add, 3, true),
            (LOSSES[2], 0.01, Accum::Replace, 1, false),
        ] {
            case.check(device, How { loss, threshold, accum, gap, through_relu, ..HOW });
        }
    }
    let case = Case::<E>::new((70, 24));
    let [aligned, other] = [0, 3].map(|gap| case.run(device, How { gap, ..HOW }));
    assert_same_bits("alignment, input", &aligned.input, &other.input);
    assert_same_bits("alignment, weight", &aligned.weight, &other.weight);
}

/// Checks a batch of parts of more samples than the least.
fn large_batches_have_larger_parts<B: HeadOps + LossOps>(device: &B) {
    Case::<f32>::new((9000, 4)).check(device, HOW);
}

fn nan_comes_through<B: HeadOps>(device: &B) {
    let mut case = Case::<f16>::new((3, 2));
    case.input[2] = f16::NAN;
    for loss in LOSSES {
        let got = case.run(device, How { loss, ..HOW });
        let is_nan = |values: &[f64]| values.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
        assert_eq!(is_nan(&values(&got.logits)), [false, true, false]);
        assert!(got.mean.is_nan() && got.bias[0].is_nan());
        assert_eq!(is_nan(&values(&got.grad_logits)), [false, true, false]);
        assert_eq!(is_nan(&values(&got.input)), [false, false, true, true, false, false]);
        assert_eq!(is_nan(&values(&got.weight)), [true, true]);
    }
}

/// Checks that samples with bad labels have logits but no loss and no gradient, and that the others
/// have the same as beside good ones.
fn bad_labels_are_skipped_and_reported<B: HeadOps>(device: &B) {
    let good = Case::<f32>::new((600, 4));
    for loss in LOSSES {
        let how = How { loss, ..HOW };
        let want = good.run(device, how);
        let mut bad = Case::<f32>::new((600, 4));
        (bad.labels[599], bad.labels[301], bad.labels[300]) = (-1.0, f32::NAN, 2.0);
        let got = bad.run(device, how);
        assert_eq!(
            message(got.result),
            "head.loss_and_grads: label 2 at position 300 is not in [0, 1] (3 bad in this call)"
        );
        assert_same_bits("the logits", &got.logits, &want.logits);
        let mut grads = want.grad_logits.clone();
        [599, 301, 300].iter().for_each(|&k: &usize| grads[k] = 0.0);
        assert_same_bits("the gradient of the logits", &got.grad_logits, &grads);
        assert!(got.mean.is_finite() && got.mean < want.mean);
        // The error is reported once, and the next run is not affected.
        assert_eq!(good.run(device, how).result, Ok(()));
    }
}

fn a_scale_multiplies_gradients_alone<B: HeadOps>(device: &B) {
    let case = Case::<f16>::new((33, 17));
    let [one, scaled] = [1.0, 1024.0].map(|loss_scale| case.run(device, How { loss_scale, ..HOW }));
    assert_same_bits("the mean", &[scaled.mean], &[one.mean]);
    let times = |values: &[f32]| values.iter().map(|g| g * 1024.0).collect::<Vec<_>>();
    assert_same_bits("logits", &scaled.grad_logits, &times(&one.grad_logits));
    assert_same_bits("weight", &scaled.weight, &times(&one.weight));
    assert_same_bits("bias", &scaled.bias, &times(&one.bias));
    let normal = scaled.input.iter().filter(|g| g.value().abs() >= 0.1).count();
    assert!(normal > 0, "scaled gradients are well within the range of f16");
}

/// Checks that each wrong argument gives an error that names it, and that nothing is written.
fn wrong_arguments_are_errors<B: HeadOps>(device: &B) {
    let ones = upload(device, &[1.0_f32; 64]);
    let grid = |rows, cols| Grid::<f32>::poisoned(rows, cols, 0);
    // The lengths are those of weight, bias, logits; labels, mean; the gradients of logits, weight,
    // bias and the bias before.
    let right = [3, 1, 2, 2, 1, 2, 3, 1, 3];
    let run = |len: [usize; 9], grads: (usize, usize), (threshold, loss_scale): (f32, f32)| {
        let mut outputs = [(); 6].map(|()| upload(device, &poisoned::<f32>(64)));
        let [logits, grad_logits, dx, dw, db, db_before] = &mut outputs;
        let mut mean = upload(device, &poisoned::<f64>(2));
        let mut workspace = device.alloc(64).unwrap();
        let result = LossAndGrads::new(
            Loss::Mse,
            Forward::new(
                grid(2, 3).view(&ones),
                B::slice(&ones, 0..len[0]),
                B::slice(&ones, 0..len[1]),
                B::slice_mut(logits, 0..len[2]),
            ),
            B::slice(&ones, 0..len[3]),
            B::slice_mut(&mut mean, 0..len[4]),
            Grads::new(
                B::slice_mut(grad_logits, 0..len[5]),
                grid(grads.0, grads.1).view_mut(dx),
                B::slice_mut(dw, 0..len[6]),
                B::slice_mut(db, 0..len[7]),
            )
            .through_relu(B::slice_mut(db_before, 0..len[8])),
            B::view_mut(&mut workspace),
        )
        .threshold(threshold)
        .loss_scale(loss_scale)
        .run(device);
        let text = message(result);
        for output in &outputs {
            assert_same_bits(&text, &download(device, output), &poisoned(64));
        }
        assert_same_bits(&text, &download(device, &mean), &poisoned(2));
        text
    };
    for (at, len, want) in [
        (0, 4, "input.cols is 3, but must be 4"),
        (1, 0, "bias is 0, but must be 1"),
        (2, 3, "input.rows is 2, but must be 3"),
        (3, 3, "labels is 3, but must be 2"),
        (4, 2, "mean is 2, but must be 1"),
        (5, 1, "grads.logits is 1, but must be 2"),
        (6, 2, "grads.weight is 2, but must be 3"),
        (7, 2, "grads.bias is 2, but must be 1"),
        (8, 2, "grads.bias_before is 2, but must be 3"),
    ] {
        let mut spoilt = right;
        spoilt[at] = len;
        assert_eq!(run(spoilt, (2, 3), (0.0, 1.0)), format!("head.loss_and_grads: {want}"));
    }
    for (grads, numbers, want) in [
        ((2, 2), (0.0, 1.0), "grads.input.cols is 2, but must be 3"),
        ((2, 3), (0.5, 1.0), "threshold: 0.5, but must be in [0, 0.5)"),
        ((2, 3), (0.0, 3.0), "loss_scale: 3, but must be a power of two from 2^-126 to 2^126"),
    ] {
        assert_eq!(run(right, grads, numbers), format!("head.loss_and_grads: {want}"));
    }
    let mut logits = upload(device, &poisoned::<f32>(3));
    let forward = Forward::new(
        grid(2, 3).view(&ones),
        B::slice(&ones, 0..3),
        B::slice(&ones, 0..1),
        B::view_mut(&mut logits),
    );
    assert_eq!(message(forward.run(device)), "head.forward: input.rows is 2, but must be 3");
}

#[test]
fn results_do_not_depend_on_threads() {
    for shape in [(2000, 300), (3, 70_000)] {
        let case = Case::<bf16>::new(shape);
        assert_deterministic("head", |cpu| {
            let got = case.run(cpu, How { loss: Loss::BceWithLogits, through_relu: true, ..HOW });
            [
                bytes(&got.logits),
                bytes(&[got.mean]),
                bytes(&got.input),
                bytes(&got.weight),
                bytes(&got.bias),
                bytes(&got.bias_before),
            ]
            .concat()
        });
    }
}

/// Checks that losses are summed as `loss` sums them in a batch with more sums of blocks than a
/// block has threads. The emulator takes too long for more than one schedule.
#[cfg(feature = "cuda")]
#[test]
fn large_batches_have_the_mean_of_loss() {
    let alone = common::cuda::emulator().map(|emulator| emulator.exclusive());
    Case::<bf16>::new((66_000, 1)).check(&common::cuda::own(), HOW);
    assert!(alone.is_none_or(|alone| alone.report().is_empty()));
}
