//! Tests of the engine against the reference model: losses, gradients and a few steps of training.
//!
//! Error bounds run through the whole model and from step to step. `eps` is large, so that no step
//! depends on the sign of a gradient that is nothing but rounding errors.

use crate::common::engine::{Batch, flat, reference_of, state, three_table_batch, three_tables};
use crate::common::reference::Model;
use crate::common::*;
use bagdot::nn::{Dlrm, DlrmConfig, GroupOptimizer, Optimizers, Schedule};
use bagdot::ops::sparse_update::SparseGrad;
use bagdot::ops::{
    Accum, Backend, Interaction, Loss, Optimizer, PairOrder, Rounding, UpdateRule, WeightDecay,
};

backend_suite!(
    cuda:
    losses_gradients_and_steps_are_right,
    kept_gradients_are_steps_at_once,
    zeros_between_rows_stay_without_eps
);

const TOP: [usize; 2] = [6, 1];
const STEPS: u64 = 2;
const LEARNING_RATE: f32 = 0.015625;

/// Returns interactions with losses and thresholds, which cover each kind.
fn kinds() -> [(Interaction, Loss, f32); 4] {
    let dot = |order, include_self, pad_to| Interaction::Dot {
        order,
        include_self,
        append_sparse: pad_to == 8,
        pad_to,
    };
    [
        (
            dot(PairOrder::LowerTriangle, true, 1),
            Loss::WeightedBce { negative: 0.5, positive: 2.0 },
            0.0,
        ),
        (dot(PairOrder::UpperTriangle, false, 8), Loss::BceWithLogits, 0.0),
        (dot(PairOrder::LowerTriangle, false, 1), Loss::BceWithLogits, 0.3),
        (Interaction::Cat, Loss::Mse, 0.0),
    ]
}

fn optimizers() -> [(Optimizer, WeightDecay); 4] {
    [
        (Optimizer::Sgd, WeightDecay::L2(0.125)),
        (Optimizer::Adagrad { eps: 1.0 }, WeightDecay::None),
        (Optimizer::RowwiseAdagrad { eps: 1.0 }, WeightDecay::None),
        (Optimizer::Adam { beta1: 0.875, beta2: 0.75, eps: 1.0 }, WeightDecay::Decoupled(0.25)),
    ]
}

fn batch(seed: u64) -> Batch<i32> {
    three_table_batch(8, seed)
}

/// Returns an engine with random parameters, and the reference with the same ones.
fn models<B: Backend>(
    device: &B,
    (interaction, loss, loss_threshold): (Interaction, Loss, f32),
    rule: UpdateRule,
) -> (Dlrm<B>, Model) {
    let config =
        DlrmConfig { interaction, top_mlp: TOP.to_vec(), loss, loss_threshold, ..three_tables() };
    let mut engine = Dlrm::new(device.clone(), config, 7).unwrap();
    let group = GroupOptimizer {
        optimizer: rule.optimizer,
        learning_rate: rule.learning_rate,
        weight_decay: rule.weight_decay,
        max_gradient: None,
        rounding: Rounding::Nearest,
    };
    engine
        .optimize_with(Optimizers { tables: group, dense: group, schedule: Schedule::default() })
        .unwrap();
    let reference = reference_of(&engine, rule.optimizer);
    (engine, reference)
}

fn losses_gradients_and_steps_are_right<B: Backend>(device: &B) {
    for (kind, (optimizer, weight_decay)) in
        kinds().into_iter().flat_map(|kind| optimizers().map(|o| (kind, o)))
    {
        let rule = UpdateRule { weight_decay, ..UpdateRule::new(optimizer, LEARNING_RATE) };
        let what = format!("{kind:?}, {optimizer:?}");
        let (mut engine, mut model) = models(device, kind, rule);
        for step in 1..=STEPS {
            let batch = batch(step);
            let (layers, rows) = batch.gradients(&mut engine);
            let pass = model.train_step(
                &UpdateRule { step, ..rule },
                &batch.dense,
                &batch.case,
                &batch.labels,
            );
            let want: Vec<Approx> = pass.layers.iter().flatten().flatten().copied().collect();
            assert_close(
                &format!("{what}, step {step}: gradients of the layers"),
                &flat(&layers),
                &want,
            );
            let (got, want): (Vec<f32>, Vec<Approx>) = (
                rows.into_iter().flat_map(|(_, row)| row).collect(),
                pass.rows.into_values().flatten().collect(),
            );
            assert_close(&format!("{what}, step {step}: gradients of the rows"), &got, &want);
            engine.train_step(batch.upload(device).view()).unwrap();
            let off = (engine.last_loss().unwrap() - pass.mean_loss.value).abs();
            assert!(off <= pass.mean_loss.error, "{what}, step {step}: the loss is {off:e} off");
        }
        let layers =
            model.bottom.iter().chain(&model.top).flat_map(|layer| [&layer.weight, &layer.bias]);
        let want: Vec<Approx> = layers.chain([&model.tables]).flatten().copied().collect();
        let worst = want.iter().map(|x| x.error).fold(0.0, f64::max);
        assert!(
            worst < 0.01 * f64::from(LEARNING_RATE),
            "{what}: a bound of {worst:e} is not small beside the steps"
        );
        assert_close(&format!("{what}: parameters"), &flat(&engine.tensors().unwrap()), &want);
        assert_eq!(engine.step(), STEPS);
    }
}

/// Returns parameters and optimizer state after the steps. Gradients are applied by `train_step`,
/// or else kept and applied by `apply`.
fn train<B: Backend>(device: &B, rule: UpdateRule, at_once: bool) -> Vec<f32> {
    let (mut engine, _) = models(device, kinds()[0], rule);
    for step in 1..=STEPS {
        let host = batch(step);
        let batch = host.upload(device);
        if at_once {
            engine.train_step(batch.view()).unwrap();
            continue;
        }
        engine.loss_and_grad(batch.view(), Accum::Replace).unwrap();
        let mut grad =
            SparseGrad::new(device, &host.case.layout(), host.case.indices.len()).unwrap();
        engine.sparse_grad(batch.view(), &mut grad).unwrap();
        engine.apply(&grad).unwrap();
    }
    device.synchronize().unwrap();
    flat(&state(&mut engine))
}

fn rules() -> impl Iterator<Item = UpdateRule> {
    let rule = |(optimizer, weight_decay)| UpdateRule {
        weight_decay,
        ..UpdateRule::new(optimizer, LEARNING_RATE)
    };
    optimizers().into_iter().map(rule)
}

fn kept_gradients_are_steps_at_once<B: Backend>(device: &B) {
    for rule in rules() {
        assert_same_bits("apply", &train(device, rule, false), &train(device, rule, true));
    }
}

/// Checks that a zero gradient does not become 0/0, with which the next step would multiply. The
/// padding of the layers' rows has such gradients, and so have the table rows of samples that the
/// loss clamps.
fn zeros_between_rows_stay_without_eps<B: Backend>(device: &B) {
    let adam = Optimizer::Adam { beta1: 0.875, beta2: 0.75, eps: 0.0 };
    for optimizer in [Optimizer::Adagrad { eps: 0.0 }, Optimizer::RowwiseAdagrad { eps: 0.0 }, adam]
    {
        let (mut engine, _) =
            models(device, kinds()[2], UpdateRule::new(Optimizer::Sgd, LEARNING_RATE));
        engine.optimize_with(Optimizers::same(optimizer, LEARNING_RATE)).unwrap();
        for step in 1..=STEPS {
            engine.train_step(batch(step).upload(device).view()).unwrap();
            assert!(engine.last_loss().unwrap().is_finite(), "{optimizer:?}, step {step}");
        }
    }
}

#[test]
fn a_step_is_the_same_on_any_number_of_threads() {
    for rule in rules() {
        assert_deterministic("train_step", |cpu| bytes(&train(cpu, rule, true)));
    }
}
