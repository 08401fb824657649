//! Tests of `dense_update`: optimizer steps on dense parameters.

use crate::common::updates::{State, rules, state_values};
use crate::common::*;
use bagdot::ops::dense_update::{DenseUpdateOps, Update};
use bagdot::ops::{Optimizer, OptimizerStateMut, UpdateRule, WeightDecay};
use bagdot::{Element, bf16, f16};

backend_suite!(
    cuda:
    steps_are_right,
    many_steps_are_right,
    scaled_gradients_and_rounded_parameters_are_exact,
    nan_and_infinity_are_clamped_or_come_through,
    parameters_without_gradients_stay,
    wrong_arguments_are_errors,
    wrong_scales_and_copies_are_errors
);

fn step<B: DenseUpdateOps>(
    device: &B,
    rule: UpdateRule,
    max_gradient: Option<f32>,
    grad: &[f32],
    parameters: &[f32],
    state: &[Vec<f32>; 2],
) -> (Vec<f32>, [Vec<f32>; 2]) {
    let (grad, mut parameters) = (upload(device, grad), upload(device, parameters));
    let mut state = State::new(device, state);
    let mut op = Update::<B, f32>::new(
        rule,
        B::view(&grad),
        B::view_mut(&mut parameters),
        state.view_mut(rule.optimizer),
    );
    op.max_gradient = max_gradient;
    assert_eq!(outcome(device, op.run(device)), Ok(()));
    (download(device, &parameters), state.download(device))
}

/// Does what [`step`] does with a gradient that is multiplied by a loss scale. Also returns the
/// rounded parameters.
fn scaled_step<B: DenseUpdateOps, E: Poison + Element>(
    device: &B,
    rule: UpdateRule,
    (loss_scale, max_gradient): (f32, Option<f32>),
    grad: &[f32],
    parameters: &[f32],
    state: &[Vec<f32>; 2],
) -> (Vec<E>, Vec<f32>, [Vec<f32>; 2]) {
    let scaled: Vec<f32> = grad.iter().map(|g| g * loss_scale).collect();
    let (grad, mut parameters) = (upload(device, &scaled), upload(device, parameters));
    let mut rounded = upload(device, &poisoned::<E>(scaled.len()));
    let mut state = State::new(device, state);
    let mut op = Update::new(
        rule,
        B::view(&grad),
        B::view_mut(&mut parameters),
        state.view_mut(rule.optimizer),
    )
    .loss_scale(loss_scale)
    .rounded(B::view_mut(&mut rounded));
    op.max_gradient = max_gradient;
    assert_eq!(outcome(device, op.run(device)), Ok(()));
    (download(device, &rounded), download(device, &parameters), state.download(device))
}

/// Returns the rule that `dense_update` follows: without rows, row-wise Adagrad is Adagrad.
fn for_dense(rule: UpdateRule) -> UpdateRule {
    let optimizer = match rule.optimizer {
        Optimizer::RowwiseAdagrad { eps } => Optimizer::Adagrad { eps },
        other => other,
    };
    UpdateRule { optimizer, ..rule }
}

fn steps_are_right<B: DenseUpdateOps>(device: &B) {
    for rule in rules() {
        for len in [0, 1, 63, 64, 65, 1000, 33_000] {
            for max_gradient in [None, Some(0.75)] {
                let what =
                    format!("{:?}, {:?}, {len} parameters", rule.optimizer, rule.weight_decay);
                let (grad, parameters) = (draw(len, 1), draw(len, 2));
                let dense = for_dense(rule);
                let state = state_values(dense.optimizer, 0, len);
                let (got, got_state) = step(device, rule, max_gradient, &grad, &parameters, &state);
                let grad: Vec<Approx> =
                    exact(&grad).into_iter().map(|g| g.clamp(max_gradient)).collect();
                let (mut want, [mut first, mut second]) =
                    (exact(&parameters), state.each_ref().map(|s| exact(s)));
                reference::optimize(
                    &dense,
                    reference::Betas::Exact,
                    &grad,
                    &mut want,
                    &mut first,
                    &mut second,
                );
                assert_close(&what, &got, &want);
                assert_close(&format!("{what}, first state"), &got_state[0], &first);
                assert_close(&format!("{what}, second state"), &got_state[1], &second);
            }
        }
    }
}

/// Checks that 0/0 is no step if `eps` is 0.
fn parameters_without_gradients_stay<B: DenseUpdateOps>(device: &B) {
    let adam = Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 0.0 };
    for optimizer in [Optimizer::Adagrad { eps: 0.0 }, Optimizer::RowwiseAdagrad { eps: 0.0 }, adam]
    {
        let rule = UpdateRule::new(optimizer, 0.5).at_step(1);
        let state = for_dense(rule).optimizer.state_len(2, 2).map(|len| vec![0.0; len]);
        let (got, _) = step(device, rule, None, &[0.0, 0.25], &[0.75, 0.75], &state);
        assert_eq!(got[0], 0.75, "{optimizer:?}");
        assert!(
            (got[1] - 0.25).abs() < 1e-6,
            "{optimizer:?}: the first step is as long as the learning rate, {got:?}"
        );
    }
}

/// Checks that a loss scale, which is a power of two, changes no bit and is divided out before
/// gradients are clamped, and that the copy of the parameters is rounded once.
fn scaled_gradients_and_rounded_parameters_are_exact<B: DenseUpdateOps>(device: &B) {
    scaled_and_rounded::<B, f32>(device);
    scaled_and_rounded::<B, f16>(device);
    scaled_and_rounded::<B, bf16>(device);
}

fn scaled_and_rounded<B: DenseUpdateOps, E: Poison + Element>(device: &B) {
    for rule in rules() {
        for (len, scale) in [(0, 1.0), (1, 1024.0), (1003, 0.125)] {
            for max_gradient in [None, Some(0.75)] {
                let what = format!("{:?}, {len} parameters, {}", rule.optimizer, E::DTYPE);
                let (grad, parameters) = (draw(len, 1), draw(len, 2));
                let state = state_values(for_dense(rule).optimizer, 0, len);
                let (want, want_state) =
                    step(device, rule, max_gradient, &grad, &parameters, &state);
                let (rounded, got, got_state) = scaled_step::<B, E>(
                    device,
                    rule,
                    (scale, max_gradient),
                    &grad,
                    &parameters,
                    &state,
                );
                assert_same_bits(&what, &got, &want);
                assert_same_bits(&what, &got_state.concat(), &want_state.concat());
                let want: Vec<E> = want.into_iter().map(E::from_f32).collect();
                assert_same_bits(&format!("{what}, rounded"), &rounded, &want);
            }
        }
    }
}

/// Checks steps from an empty state, in which Adam's bias correction matters.
fn many_steps_are_right<B: DenseUpdateOps>(device: &B) {
    for rule in rules() {
        let dense = for_dense(rule);
        let mut parameters = draw(40, 3);
        let mut state = state_values(dense.optimizer, 0, 40).map(|s| vec![0.0; s.len()]);
        let (mut want, [mut first, mut second]) =
            (exact(&parameters), state.each_ref().map(|s| exact(s)));
        for number in 1..=4 {
            let grad = draw(40, 100 + number);
            let rule = UpdateRule { step: number, ..rule };
            (parameters, state) = step(device, rule, None, &grad, &parameters, &state);
            let dense = UpdateRule { step: number, ..dense };
            // The errors of one step go into the next.
            reference::optimize(
                &dense,
                reference::Betas::Exact,
                &exact(&grad),
                &mut want,
                &mut first,
                &mut second,
            );
            assert_close(&format!("{rule:?}"), &parameters, &want);
        }
    }
}

fn nan_and_infinity_are_clamped_or_come_through<B: DenseUpdateOps>(device: &B) {
    let rule = UpdateRule::new(Optimizer::Sgd, 1.0);
    let grad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.5];
    let none = [vec![], vec![]];
    let (got, _) = step(device, rule, Some(2.0), &grad, &[0.0; 4], &none);
    assert!(got[0].is_nan());
    assert_eq!(got[1..], [-2.0, 2.0, -0.5]);
    let (got, _) = step(device, rule, None, &grad, &[0.0; 4], &none);
    assert!(got[0].is_nan());
    assert_eq!(got[1..], [f32::NEG_INFINITY, f32::INFINITY, -0.5]);
    // A bound of 0 makes every other gradient 0.
    let (got, _) = step(device, rule, Some(0.0), &grad[1..], &[1.0; 3], &none);
    assert_eq!(got, [1.0; 3]);
}

fn wrong_arguments_are_errors<B: DenseUpdateOps>(device: &B) {
    let adam =
        |beta1, beta2, eps| UpdateRule::new(Optimizer::Adam { beta1, beta2, eps }, 0.1).at_step(1);
    let sgd = UpdateRule::new(Optimizer::Sgd, 0.1);
    let good = adam(0.9, 0.99, 1e-8);
    let number = "but must be a finite number of 0 or more";
    for (rule, max_gradient, [grad, first, second], want) in [
        (good, None, [4, 5, 5], "grad is 4, but must be 5".to_string()),
        (good, None, [5, 4, 5], "state.first is 4, but must be 5".into()),
        (good, None, [5, 5, 6], "state.second is 6, but must be 5".into()),
        (sgd, None, [5, 5, 5], "state: it is not the state of Sgd".into()),
        (good, Some(-1.0), [5, 5, 5], "max_gradient: -1, but must be 0 or more".into()),
        (good, Some(f32::NAN), [5, 5, 5], "max_gradient: NaN, but must be 0 or more".into()),
        (
            adam(1.0, 0.9, 0.0),
            None,
            [5, 5, 5],
            "rule.optimizer.beta: 1, but must be in [0, 1)".into(),
        ),
        (
            adam(0.9, f32::NAN, 0.0),
            None,
            [5, 5, 5],
            "rule.optimizer.beta: NaN, but must be in [0, 1)".into(),
        ),
        (
            adam(0.9, 0.9, f32::INFINITY),
            None,
            [5, 5, 5],
            format!("rule.optimizer.eps: inf, {number}"),
        ),
        (
            UpdateRule { step: 0, ..good },
            None,
            [5, 5, 5],
            "rule.step: not given, but Adam and stochastic rounding need it: count steps from 1 \
             (`at_step`)"
                .into(),
        ),
        (
            UpdateRule { learning_rate: -0.5, ..good },
            None,
            [5, 5, 5],
            format!("rule.learning_rate: -0.5, {number}"),
        ),
        (
            UpdateRule { weight_decay: WeightDecay::L2(f32::NAN), ..good },
            None,
            [5, 5, 5],
            format!("rule.weight_decay: NaN, {number}"),
        ),
    ] {
        let grad = upload(device, &vec![1.0_f32; grad]);
        let mut buffers = [5, first, second].map(|len| upload(device, &poisoned::<f32>(len)));
        let [parameters, moment, square] = &mut buffers;
        let state =
            OptimizerStateMut::Moments { first: B::view_mut(moment), second: B::view_mut(square) };
        let op = {
            let mut op =
                Update::<B, f32>::new(rule, B::view(&grad), B::view_mut(parameters), state);
            op.max_gradient = max_gradient;
            op
        };
        assert_eq!(message(op.run(device)), format!("dense_update: {want}"));
        for (buffer, len) in buffers.iter().zip([5, first, second]) {
            assert_same_bits(&want, &download(device, buffer), &poisoned(len));
        }
    }
}

fn wrong_scales_and_copies_are_errors<B: DenseUpdateOps>(device: &B) {
    for (loss_scale, rounded, want) in [
        (1.0, 4, "rounded is 4, but must be 5"),
        (3.0, 5, "loss_scale: 3, but must be a power of two from 2^-126 to 2^126"),
        (0.0, 5, "loss_scale: 0, but must be a power of two from 2^-126 to 2^126"),
        (-2.0, 5, "loss_scale: -2, but must be a power of two from 2^-126 to 2^126"),
        (f32::NAN, 5, "loss_scale: NaN, but must be a power of two from 2^-126 to 2^126"),
        (f32::INFINITY, 5, "loss_scale: inf, but must be a power of two from 2^-126 to 2^126"),
    ] {
        let grad = upload(device, &[1.0_f32; 5]);
        let (mut parameters, mut copy) =
            (upload(device, &poisoned::<f32>(5)), upload(device, &poisoned::<bf16>(rounded)));
        let op = Update::new(
            UpdateRule::new(Optimizer::Sgd, 0.1),
            B::view(&grad),
            B::view_mut(&mut parameters),
            OptimizerStateMut::None,
        )
        .loss_scale(loss_scale)
        .rounded(B::view_mut(&mut copy));
        assert_eq!(message(op.run(device)), format!("dense_update: {want}"));
        assert_same_bits(want, &download(device, &parameters), &poisoned::<f32>(5));
        assert_same_bits(want, &download(device, &copy), &poisoned::<bf16>(rounded));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    for rule in rules() {
        let state = state_values(for_dense(rule).optimizer, 0, 40_001);
        assert_deterministic(&format!("{rule:?}"), |cpu| {
            let how = (2.0, Some(1.0));
            let (rounded, got, [first, second]) =
                scaled_step::<_, bf16>(cpu, rule, how, &draw(40_001, 1), &draw(40_001, 2), &state);
            [bytes(&rounded), bytes(&got), bytes(&first), bytes(&second)].concat()
        });
    }
}

/// Checks that all devices round the same operations in the same order.
#[cfg(feature = "cuda")]
#[test]
fn cuda_gives_the_bits_of_the_cpu() {
    for rule in rules() {
        let state = state_values(for_dense(rule).optimizer, 0, 1003);
        let (grad, parameters) = (draw(1003, 1), draw(1003, 2));
        let (want, [want_first, want_second]) =
            step(&bagdot::Cpu::on_current_thread(), rule, Some(1.5), &grad, &parameters, &state);
        crate::common::cuda::on_every_schedule(|cuda| {
            let (got, [first, second]) = step(cuda, rule, Some(1.5), &grad, &parameters, &state);
            assert_same_bits(&format!("{rule:?}"), &got, &want);
            assert_same_bits(&format!("{rule:?}, first state"), &first, &want_first);
            assert_same_bits(&format!("{rule:?}, second state"), &second, &want_second);
        });
    }
}
