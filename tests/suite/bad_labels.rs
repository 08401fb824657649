//! Tests of labels outside of [0, 1]: a step with one changes nothing, and every kind of step
//! reports it.

use crate::common::engine::{Batch, FAST_ADAM, small_batch, small_model, state};
use crate::common::*;
use bagdot::nn::{Dlrm, Optimizers, Staging};
use bagdot::ops::finite_check::{NonFinite, Verdict};
use bagdot::ops::{Accum, Backend, Loss};
use bagdot::{Error, Result};

backend_suite!(
    cuda:
    steps_change_nothing,
    gradients_are_reported,
    bad_ids_come_first,
);

const BAD: [(f32, &str); 4] = [(2.0, "2"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")];

fn model<B: Backend>(device: &B, loss: Loss) -> Dlrm<B> {
    let mut model = small_model(device, loss, Optimizers::same(FAST_ADAM, 0.1));
    model.average_with(0.5).unwrap();
    model
}

/// Returns a batch of four samples, of which the third has this label.
fn batch(label: f32) -> Batch<i64> {
    small_batch(vec![0.25, 0.5, -1.0, 2.0], &[2, 1, 0, 1], vec![1.0, 0.0, label, 0.0])
}

/// Takes a step on a batch that is staged, or uploaded as a whole.
fn step<B: Backend>(
    model: &mut Dlrm<B>,
    staging: Option<&mut Staging<B>>,
    batch: &Batch<i64>,
) -> Result<()> {
    match staging {
        Some(staging) => model.train_staged(staging, batch.view()),
        None => model.train_step(batch.upload(&model.device().clone()).view()),
    }
}

fn steps_change_nothing<B: Backend>(device: &B) {
    let losses =
        [Loss::BceWithLogits, Loss::WeightedBce { negative: 0.5, positive: 2.0 }, Loss::Mse];
    for (loss, is_staged) in losses.into_iter().flat_map(|loss| [(loss, false), (loss, true)]) {
        for policy in [NonFinite::Error, NonFinite::SkipStep] {
            let mut model = model(device, loss);
            model.on_non_finite(policy);
            let mut staging = is_staged.then(|| Staging::new(device).unwrap());
            step(&mut model, staging.as_mut(), &batch(1.0)).unwrap();
            for (label, text) in BAD {
                let before = state(&mut model);
                let result = step(&mut model, staging.as_mut(), &batch(label));
                // The device may not have reported the label yet. The step after it must not be
                // taken either.
                let result = result.and_then(|()| step(&mut model, staging.as_mut(), &batch(1.0)));
                let want = format!(
                    "head.loss_and_grads: label {text} at position 2 is not in [0, 1] (1 bad in \
                     this call)"
                );
                assert_eq!(message(outcome(device, result)), want, "{loss:?}, staged: {is_staged}");
                assert_eq!(state(&mut model), before, "{loss:?}, {label}, staged: {is_staged}");
            }
            // A reported label stops no later step and counts as no loss that is not finite.
            assert_eq!(model.verdict(), Ok(Verdict::default()));
            let before = state(&mut model);
            step(&mut model, staging.as_mut(), &batch(0.5)).unwrap();
            assert!(model.last_loss().unwrap().is_finite());
            assert_ne!(state(&mut model), before, "a good step after bad ones");
        }
    }
}

fn gradients_are_reported<B: Backend>(device: &B) {
    let mut model = model(device, Loss::Mse);
    for (label, text) in BAD {
        let result = model.loss_and_grad(batch(label).upload(device).view(), Accum::Replace);
        let want = format!(
            "head.loss_and_grads: label {text} at position 2 is not in [0, 1] (1 bad in this call)"
        );
        assert_eq!(message(outcome(device, result)), want);
    }
}

/// Checks that a batch with a bad id and a bad label gives the error about the id.
fn bad_ids_come_first<B: Backend>(device: &B) {
    let mut model = model(device, Loss::Mse);
    let mut both = batch(f32::NAN);
    both.case.indices[3] = 5;
    let both = Batch::<i64>::new(both.dense, both.case, both.labels);
    let result = outcome(device, step(&mut model, None, &both));
    assert!(
        matches!(result, Err(Error::IndexOutOfRange { position: 3, value: 5, .. })),
        "{result:?}"
    );
    assert_eq!(device.synchronize(), Ok(()), "the id is reported once");
}
