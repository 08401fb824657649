//! The engine, put together from the ops, against the model of the reference: losses, gradients and
//! a few steps of training.
//!
//! Bounds are carried through the whole model and from step to step; `eps` is large, so that no
//! step hangs on the sign of a gradient that is all rounding.

use crate::common::engine::{Batch, flat, reference_of};
use crate::common::reference::Model;
use crate::common::*;
use bagdot::DType;
use bagdot::nn::{
    ComputePrecision, Dlrm, DlrmConfig, GroupOptimizer, Optimizers, Schedule, TableInit,
};
use bagdot::ops::sparse_update::SparseGrad;
use bagdot::ops::{
    Accum, Backend, Interaction, Loss, Optimizer, PairOrder, Pooling, Rounding, Table, UpdateRule,
    WeightDecay,
};

backend_suite!(
    cuda:
    losses_gradients_and_steps_are_right,
    kept_gradients_are_steps_at_once,
    zeros_between_rows_stay_without_eps
);

const DIM: usize = 4;
const ROWS: [usize; 3] = [9, 30, 2];
const BOTTOM: [usize; 3] = [5, 7, DIM];
const TOP: [usize; 2] = [6, 1];
const STEPS: u64 = 2;
const LEARNING_RATE: f32 = 0.015625;

/// Interactions and losses, each once or more.
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
    let tables = ROWS.map(|rows| (rows, DIM));
    let features = [0, 1, 2].map(|table| feature(table, Pooling::Sum));
    let lengths: Vec<usize> = (0..3 * 8).map(|k| (k * 5 + seed as usize) % 4).collect();
    let case =
        BagCase::new(format!("batch {seed}"), (&tables, &features), &lengths, |random, rows| {
            random.below(rows)
        });
    let labels = draw(8, seed + 50).iter().map(|x| f32::from(*x > 0.0)).collect();
    Batch::new(draw(8 * BOTTOM[0], seed), case, labels)
}

/// An engine with its own initial parameters, and the reference with the same ones.
fn models<B: Backend>(
    device: &B,
    (interaction, loss, loss_threshold): (Interaction, Loss, f32),
    rule: UpdateRule,
) -> (Dlrm<B>, Model) {
    let config = DlrmConfig {
        num_dense: BOTTOM[0],
        bottom_mlp: BOTTOM[1..].to_vec(),
        tables: ROWS.map(|num_embeddings| Table { num_embeddings, embedding_dim: DIM }).to_vec(),
        features: [0, 1, 2].map(|table| feature(table, Pooling::Sum)).to_vec(),
        table_dtype: DType::F32,
        precision: ComputePrecision::F32,
        table_init: TableInit::InverseRoot,
        interaction,
        top_mlp: TOP.to_vec(),
        loss,
        loss_threshold,
    };
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
            "{what}: a bound of {worst:e} means nothing beside the steps"
        );
        assert_close(&format!("{what}: parameters"), &flat(&engine.tensors().unwrap()), &want);
        assert_eq!(engine.step(), STEPS);
    }
}

/// The parameters after the steps and what the optimizers remember, with gradients applied at once
/// or kept and applied later.
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
    flat(&[engine.tensors().unwrap(), engine.optimizer_tensors().unwrap()].concat())
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

/// Checks that no step makes 0/0 of zero gradients, which the next step would multiply by. The
/// zeros at the ends of the layers' rows have such gradients, and so do the table rows of clamped
/// samples.
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
