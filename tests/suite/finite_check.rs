//! Tests of `finite_check`, and of its use by the engine: a step whose loss or gradient is not
//! finite changes nothing.

use crate::common::engine::{Batch, FAST_ADAM, small_batch, small_model, state};
use crate::common::*;
use bagdot::Error;
use bagdot::nn::{Dlrm, Optimizers};
use bagdot::ops::finite_check::{Check, FiniteCheckOps, NonFinite, Verdict};
use bagdot::ops::{Backend, Loss};

backend_suite!(
    cuda:
    every_value_is_looked_at,
    verdicts_are_kept_or_forgotten,
    values_that_other_ops_have_found_count,
    wrong_arguments_are_errors,
    bad_steps_change_nothing
);

fn check<B: FiniteCheckOps>(
    device: &B,
    (policy, step): (NonFinite, u64),
    loss: f64,
    grads: [&[f32]; 2],
    verdict: &mut B::Buffer<u64>,
) -> (bool, Verdict) {
    let (loss, [a, b]) = (upload(device, &[loss]), grads.map(|grad| upload(device, grad)));
    let op =
        Check::new(policy, step, B::view(&loss), [B::view(&a), B::view(&b)], B::view_mut(verdict));
    assert_eq!(outcome(device, op.run(device)), Ok(()));
    let words: [u64; Verdict::WORDS] = download(device, verdict).try_into().unwrap();
    assert_eq!(words[Verdict::FOUND], 0, "the op clears this word");
    (words[Verdict::GATE] != 0, Verdict::of(&words))
}

fn every_value_is_looked_at<B: FiniteCheckOps>(device: &B) {
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let good = [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45];
    for len in [0, 1, 3, 4, 65, 5000] {
        let values: Vec<f32> = good.into_iter().cycle().take(len).collect();
        let is_shut = |loss: f64, grads: [&[f32]; 2]| {
            let mut verdict = upload(device, &[0; Verdict::WORDS]);
            check(device, (NonFinite::Error, 7), loss, grads, &mut verdict)
        };
        assert_eq!(is_shut(0.5, [&values, &values]), (false, Verdict::default()), "{len} values");
        let want = (true, Verdict { steps: 1, first: 7, last: 7 });
        for place in [0, len / 2, len.wrapping_sub(1)].into_iter().filter(|&place| place < len) {
            let mut values = values.clone();
            values[place] = bad[place % 3];
            assert_eq!(
                is_shut(0.5, [&values, &good]),
                want,
                "the first gradient, {place} of {len}"
            );
            assert_eq!(
                is_shut(0.5, [&good, &values]),
                want,
                "the second gradient, {place} of {len}"
            );
        }
        for loss in [f64::NAN, f64::INFINITY] {
            assert_eq!(is_shut(loss, [&values, &values]), want, "loss {loss}");
        }
    }
}

fn verdicts_are_kept_or_forgotten<B: FiniteCheckOps>(device: &B) {
    for (policy, stays_shut) in [(NonFinite::Error, true), (NonFinite::SkipStep, false)] {
        let mut verdict = upload(device, &[0; Verdict::WORDS]);
        let mut step =
            |step, loss| check(device, (policy, step), loss, [&[1.0], &[]], &mut verdict);
        assert_eq!(step(1, 0.5), (false, Verdict::default()));
        assert_eq!(step(2, f64::NAN), (true, Verdict { steps: 1, first: 2, last: 2 }));
        assert_eq!(
            step(3, 0.5),
            (stays_shut, Verdict { steps: 1, first: 2, last: 2 }),
            "{policy:?}"
        );
        assert_eq!(step(4, f64::INFINITY), (true, Verdict { steps: 2, first: 2, last: 4 }));
    }
}

fn values_that_other_ops_have_found_count<B: FiniteCheckOps>(device: &B) {
    let mut words = [0; Verdict::WORDS];
    words[Verdict::FOUND] = 1;
    let mut verdict = upload(device, &words);
    let mut step =
        |step| check(device, (NonFinite::SkipStep, step), 0.5, [&[1.0], &[]], &mut verdict);
    let found = Verdict { steps: 1, first: 1, last: 1 };
    assert_eq!(step(1), (true, found));
    assert_eq!(step(2), (false, found), "the word counts once");
}

fn wrong_arguments_are_errors<B: FiniteCheckOps>(device: &B) {
    let run = |losses: usize, words: usize| {
        let (loss, grad) = (upload(device, &vec![0.5; losses]), upload(device, &[1.0_f32]));
        let mut verdict = upload(device, &vec![9; words]);
        let text = message(
            Check::new(
                NonFinite::Error,
                1,
                B::view(&loss),
                [B::view(&grad), B::view(&grad)],
                B::view_mut(&mut verdict),
            )
            .run(device),
        );
        assert_same_bits("the verdict", &download(device, &verdict), &vec![9; words]);
        text
    };
    assert_eq!(run(2, 5), "finite_check: loss is 2, but must be 1");
    assert_eq!(run(1, 4), "finite_check: verdict is 4, but must be 5");
}

fn batch(dense: f32) -> Batch<i64> {
    small_batch(vec![dense, 0.5, -1.0, 2.0], &[2, 1, 0, 1], vec![1.0, 0.0, 1.0, 0.0])
}

fn bad_steps_change_nothing<B: Backend>(device: &B) {
    for policy in [NonFinite::Error, NonFinite::SkipStep] {
        let mut model = small_model(device, Loss::BceWithLogits, Optimizers::same(FAST_ADAM, 0.1));
        model.average_with(0.5).unwrap();
        model.on_non_finite(policy);
        let step = |model: &mut Dlrm<B>, dense: f32| {
            model.train_step(batch(dense).upload(device).view()).unwrap()
        };
        step(&mut model, 1.0);
        let before = state(&mut model);
        for dense in [f32::NAN, f32::INFINITY] {
            step(&mut model, dense);
        }
        assert_eq!(state(&mut model), before, "{policy:?}");
        assert_eq!(model.verdict(), Ok(Verdict { steps: 2, first: 2, last: 3 }));
        match policy {
            NonFinite::Error => assert_eq!(model.last_loss(), Err(Error::NonFinite { step: 2 })),
            NonFinite::SkipStep => assert!(model.last_loss().is_ok()),
        }
        step(&mut model, 1.0);
        let is_taken = state(&mut model) != before;
        assert_eq!(
            is_taken,
            policy == NonFinite::SkipStep,
            "a good step after bad ones, {policy:?}"
        );
    }
}
