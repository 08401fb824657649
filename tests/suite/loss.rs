//! Tests of `loss`: mean losses of logits, and their gradients.

use crate::common::*;
use bagdot::Result;
use bagdot::ops::Loss;
use bagdot::ops::loss::{Forward, LossOps};

backend_suite!(
    cuda:
    losses_and_gradients_are_right,
    extreme_logits_overflow_nothing,
    infinite_logits_have_the_limit,
    nan_comes_through,
    bad_labels_are_skipped_and_reported,
    weights_are_numbers,
    a_scale_multiplies_the_gradient_alone,
    wrong_arguments_are_errors,
);

const LOSSES: [Loss; 3] =
    [Loss::BceWithLogits, Loss::WeightedBce { negative: 0.25, positive: 3.0 }, Loss::Mse];

fn run<B: LossOps>(
    device: &B,
    how: (Loss, f32),
    logits: &[f32],
    labels: &[f32],
    with_grad: bool,
) -> (f64, Vec<f32>, Result<()>) {
    run_scaled(device, how, 1.0, logits, labels, with_grad)
}

fn run_scaled<B: LossOps>(
    device: &B,
    (loss, threshold): (Loss, f32),
    loss_scale: f32,
    logits: &[f32],
    labels: &[f32],
    with_grad: bool,
) -> (f64, Vec<f32>, Result<()>) {
    let (z, y) = (upload(device, logits), upload(device, labels));
    let (mut mean, mut grad) =
        (upload(device, &poisoned::<f64>(1)), upload(device, &poisoned::<f32>(logits.len())));
    let mut workspace =
        upload(device, &poisoned::<u64>(Forward::workspace_len(device, logits.len())));
    let mut op = Forward::new(
        loss,
        B::view(&z),
        B::view(&y),
        B::view_mut(&mut mean),
        B::view_mut(&mut workspace),
    )
    .threshold(threshold)
    .loss_scale(loss_scale);
    op.grad_logits = with_grad.then(|| B::view_mut(&mut grad));
    let result = outcome(device, op.run(device));
    (download(device, &mean)[0], download(device, &grad), result)
}

/// Compares a run with a gradient with the reference, and with a run without one.
fn check<B: LossOps>(device: &B, how: (Loss, f32), logits: &[f32], labels: &[f32]) {
    let what = format!("{how:?}, {} logits", logits.len());
    let want = reference::mean_loss(how.0, how.1, &exact(logits), &values(labels));
    let (mean, grad, result) = run(device, how, logits, labels, true);
    assert_eq!(result, Ok(()));
    let off = (mean - want.mean.value).abs();
    assert!(off <= want.mean.error, "{what}: the mean is {mean}, but must be {:?}", want.mean);
    assert_close(&what, &grad, &want.grad);
    let (alone, grad, _) = run(device, how, logits, labels, false);
    assert_same_bits(&what, &[alone], &[mean]);
    assert_same_bits(&what, &grad, &poisoned(logits.len()));
}

fn losses_and_gradients_are_right<B: LossOps>(device: &B) {
    for loss in LOSSES {
        for threshold in [0.0, 0.01, 0.3] {
            for batch_size in [0, 1, 33, 1000] {
                let logits: Vec<f32> = draw(batch_size, 1).iter().map(|z| z * 3.0).collect();
                // Every fourth label is soft.
                let label = |(k, u): (usize, &f32)| {
                    if k % 4 == 0 { u.abs().fract() } else { f32::from(*u > 0.0) }
                };
                let labels: Vec<f32> = draw(batch_size, 2).iter().enumerate().map(label).collect();
                check(device, (loss, threshold), &logits, &labels);
            }
        }
    }
    assert_eq!(run(device, (Loss::Mse, 0.0), &[], &[], true).0, 0.0, "an empty batch has no loss");
}

fn extreme_logits_overflow_nothing<B: LossOps>(device: &B) {
    let logits = [0.0, -0.0, 30.0, -30.0, 100.0, -100.0, 1000.0, -1000.0, 3e38, -3e38, 1e-30];
    for (loss, label) in LOSSES.iter().flat_map(|&loss| [(loss, 0.0), (loss, 1.0), (loss, 0.5)]) {
        for (threshold, &logit) in
            [0.0, 1e-7, 0.4].iter().flat_map(|&t| logits.iter().map(move |z| (t, z)))
        {
            check(device, (loss, threshold), &[logit], &[label]);
        }
    }
}

/// Checks that the loss is 0 where the label is what an infinite logit says and infinite elsewhere,
/// and that gradients are those of the probabilities 0 and 1.
fn infinite_logits_have_the_limit<B: LossOps>(device: &B) {
    for (loss, weights) in [(Loss::BceWithLogits, [1.0, 1.0]), (LOSSES[1], [0.25, 3.0])] {
        for (logit, label, is_right) in [
            (f32::INFINITY, 1.0, true),
            (f32::INFINITY, 0.0, false),
            (f32::INFINITY, 0.5, false),
            (f32::NEG_INFINITY, 0.0, true),
            (f32::NEG_INFINITY, 1.0, false),
            (f32::NEG_INFINITY, 0.5, false),
        ] {
            let (mean, grad, result) = run(device, (loss, 0.0), &[logit], &[label], true);
            assert_eq!(result, Ok(()));
            assert_eq!(
                mean,
                if is_right { 0.0 } else { f64::INFINITY },
                "{loss:?}, {logit}, {label}"
            );
            let p = if logit > 0.0 { 1.0 } else { 0.0 };
            assert_eq!(
                grad,
                [weights[usize::from(label >= 0.5)] * (p - label)],
                "{loss:?}, {logit}, {label}"
            );
        }
    }
}

/// Checks that samples with bad labels have no loss and no gradient, and that the others have the
/// same as beside good ones.
fn bad_labels_are_skipped_and_reported<B: LossOps>(device: &B) {
    let logits = draw(600, 1);
    let good: Vec<f32> = draw(600, 2).iter().map(|u| f32::from(*u > 0.0)).collect();
    let cases: [(&[(usize, f32)], &str); 4] = [
        (&[(0, 2.0)], "loss.forward: label 2 at position 0 is not in [0, 1] (1 bad in this call)"),
        (
            &[(599, -1.0), (301, f32::NAN), (300, -0.25)],
            "loss.forward: label -0.25 at position 300 is not in [0, 1] (3 bad in this call)",
        ),
        (
            &[(255, f32::NAN), (256, 7.0)],
            "loss.forward: label NaN at position 255 is not in [0, 1] (2 bad in this call)",
        ),
        (
            &[(7, f32::INFINITY), (8, 1.0000001)],
            "loss.forward: label inf at position 7 is not in [0, 1] (2 bad in this call)",
        ),
    ];
    for loss in LOSSES {
        let (_, good_grad, _) = run(device, (loss, 0.0), &logits, &good, true);
        for (bad, want) in cases {
            let (mut labels, mut want_grad, mut rest) =
                (good.clone(), good_grad.clone(), Vec::new());
            for &(k, label) in bad {
                (labels[k], want_grad[k]) = (label, 0.0);
            }
            let (mean, grad, result) = run(device, (loss, 0.0), &logits, &labels, true);
            assert_eq!(message(result), want);
            assert_same_bits("the gradient", &grad, &want_grad);
            rest.extend((0..600).filter(|k| bad.iter().all(|(of, _)| of != k)));
            let of_rest = |values: &[f32]| rest.iter().map(|&k| values[k]).collect::<Vec<_>>();
            let want = reference::mean_loss(
                loss,
                0.0,
                &exact(&of_rest(&logits)),
                &values(&of_rest(&good)),
            );
            let share = rest.len() as f64 / 600.0;
            assert!(
                (mean - want.mean.value * share).abs() <= want.mean.error + 1e-12,
                "{loss:?}: {mean}"
            );
            // The error is reported once, and the next run is not affected.
            assert_eq!(run(device, (loss, 0.0), &logits, &good, true).2, Ok(()));
        }
    }
    let edges = [0.0, -0.0, 1.0, 1e-45, 0.99999994];
    assert_eq!(run(device, (Loss::Mse, 0.0), &logits[..5], &edges, true).2, Ok(()));
}

fn weights_are_numbers<B: LossOps>(device: &B) {
    for (negative, positive, bad) in
        [(f32::NAN, 1.0, "NaN"), (1.0, f32::INFINITY, "inf"), (-1.0, 1.0, "-1")]
    {
        let loss = Loss::WeightedBce { negative, positive };
        let text = message(run(device, (loss, 0.0), &[0.5], &[1.0], true).2);
        let want = format!(
            "loss.forward: loss: a weight of {bad}, but must be a finite number of 0 or more"
        );
        assert_eq!(text, want);
    }
}

fn nan_comes_through<B: LossOps>(device: &B) {
    for loss in LOSSES {
        for threshold in [0.0, 0.1] {
            let (mean, grad, _) =
                run(device, (loss, threshold), &[0.5, f32::NAN, -0.5], &[1.0, 0.0, 0.0], true);
            assert!(mean.is_nan(), "{loss:?}, {threshold}");
            assert_eq!(
                grad.iter().map(|g| g.is_nan()).collect::<Vec<_>>(),
                [false, true, false],
                "{loss:?}, {threshold}"
            );
        }
    }
}

fn a_scale_multiplies_the_gradient_alone<B: LossOps>(device: &B) {
    let (logits, labels) = (draw(33, 1), vec![1.0; 33]);
    for loss in LOSSES {
        let (mean, grad, _) = run(device, (loss, 0.1), &logits, &labels, true);
        let (scaled_mean, scaled, _) =
            run_scaled(device, (loss, 0.1), 1024.0, &logits, &labels, true);
        assert_same_bits("the mean", &[scaled_mean], &[mean]);
        assert_same_bits(
            "the gradient",
            &scaled,
            &grad.iter().map(|g| g * 1024.0).collect::<Vec<_>>(),
        );
        let (_, _, refused) = run_scaled(device, (loss, 0.1), 1000.0, &logits, &labels, true);
        let want =
            "loss.forward: loss_scale: 1000, but must be a power of two from 2^-126 to 2^126";
        assert_eq!(message(refused), want);
    }
}

fn wrong_arguments_are_errors<B: LossOps>(device: &B) {
    for (labels, threshold, mean_len, grad_len, want) in [
        (2, 0.0, 1, 3, "labels is 2, but must be 3"),
        (3, 0.0, 0, 3, "mean is 0, but must be 1"),
        (3, 0.0, 1, 4, "grad_logits is 4, but must be 3"),
        (3, 0.5, 1, 3, "threshold: 0.5, but must be in [0, 0.5)"),
        (3, -0.1, 1, 3, "threshold: -0.1, but must be in [0, 0.5)"),
        (3, f32::NAN, 1, 3, "threshold: NaN, but must be in [0, 0.5)"),
    ] {
        let (z, y) = (upload(device, &[0.5_f32; 3]), upload(device, &vec![1.0_f32; labels]));
        let (mut mean, mut grad) =
            (upload(device, &poisoned::<f64>(mean_len)), upload(device, &poisoned(grad_len)));
        let mut workspace = device.alloc(1).unwrap();
        let op = Forward::new(
            Loss::Mse,
            B::view(&z),
            B::view(&y),
            B::view_mut(&mut mean),
            B::view_mut(&mut workspace),
        )
        .grad_logits(B::view_mut(&mut grad))
        .threshold(threshold);
        assert_eq!(message(op.run(device)), format!("loss.forward: {want}"));
        assert_same_bits(want, &download(device, &mean), &poisoned(mean_len));
        assert_same_bits::<f32>(want, &download(device, &grad), &poisoned(grad_len));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let (logits, labels) = (draw(5000, 1), vec![1.0; 5000]);
    for loss in LOSSES {
        assert_deterministic("loss", |cpu| {
            let (mean, grad, _) = run(cpu, (loss, 0.0), &logits, &labels, true);
            [bytes(&[mean]), bytes(&grad)].concat()
        });
    }
}
