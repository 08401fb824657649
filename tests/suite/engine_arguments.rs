//! Tests that requests which the engine cannot fulfil are errors and change nothing.

use crate::common::engine::{Batch, FAST_ADAM, small_batch, small_model, state};
use crate::common::*;
use bagdot::Result;
use bagdot::nn::{Dlrm, GroupOptimizer, NamedTensor, Optimizers, Schedule, Staging};
use bagdot::ops::sparse_update::SparseGrad;
use bagdot::ops::{Accum, Backend, Loss, Optimizer};

backend_suite!(
    cuda:
    predictions_of_more_samples_than_there_were,
    no_step_follows_the_last_number,
    invalid_rules_change_nothing,
    invalid_factors_and_decays_are_refused,
    gradients_of_another_batch_are_refused,
);

fn model<B: Backend>(device: &B, optimizers: Optimizers) -> Dlrm<B> {
    small_model(device, Loss::BceWithLogits, optimizers)
}

fn sgd() -> Optimizers {
    Optimizers::same(Optimizer::Sgd, 0.1)
}

fn batch(samples: usize) -> Batch<i64> {
    small_batch(draw(samples, 1), &vec![1; samples], vec![1.0; samples])
}

fn state_and_step<B: Backend>(model: &mut Dlrm<B>) -> (Vec<NamedTensor>, u64) {
    (state(model), model.step())
}

fn predictions_of_more_samples_than_there_were<B: Backend>(device: &B) {
    let mut model = model(device, sgd());
    let mut staging = Staging::new(device).unwrap();
    let read = |model: &Dlrm<B>, samples: usize| -> [Result<()>; 2] {
        let mut target = device.alloc(samples).unwrap();
        [
            model.last_probabilities(&mut vec![0.0; samples]),
            model.copy_last_logits(B::view_mut(&mut target)),
        ]
    };
    let assert_last = |model: &Dlrm<B>, samples: usize| {
        assert_eq!(read(model, samples), [Ok(()), Ok(())]);
        assert_eq!(read(model, 0), [Ok(()), Ok(())]);
        for more in [samples + 1, 1000] {
            let want =
                format!("Dlrm: the last batch holds {samples} elements, but {more} are needed");
            assert_eq!(read(model, more).map(message), [want.clone(), want]);
        }
    };
    assert_last(&model, 0);
    // After a smaller batch the buffers still have room for the largest one.
    for samples in [3, 9, 2, 9, 2] {
        model.train_step(batch(samples).upload(device).view()).unwrap();
        assert_last(&model, samples);
        model.train_staged(&mut staging, batch(samples + 1).view()).unwrap();
        assert_last(&model, samples + 1);
    }
    model.predict(batch(5).upload(device).view(), &mut [0.0; 5]).unwrap();
    assert_last(&model, 5);
}

fn no_step_follows_the_last_number<B: Backend>(device: &B) {
    let want =
        "Dlrm: step: 18446744073709551615 steps have been taken: there is no number for one more";
    let mut model = model(device, Optimizers::same(FAST_ADAM, 0.1));
    model.average_with(0.5).unwrap();
    let optimizer_state = model.optimizer_tensors().unwrap();
    model.load_optimizers(&optimizer_state[..], u64::MAX - 1).unwrap();
    let batch = batch(3);
    model.train_step(batch.upload(device).view()).unwrap();
    assert!(model.last_loss().unwrap().is_finite());
    let before = state_and_step(&mut model);
    assert_eq!(before.1, u64::MAX);
    let mut staging = Staging::new(device).unwrap();
    assert_eq!(message(model.train_step(batch.upload(device).view())), want);
    assert_eq!(message(model.train_staged(&mut staging, batch.view())), want);
    let grad = SparseGrad::new(device, &batch.case.layout(), 3).unwrap();
    assert_eq!(message(model.apply(&grad)), want);
    assert_eq!(state_and_step(&mut model), before);
}

/// Checks that rules that are invalid for the tables or for the layers alone are refused at once,
/// and that the model keeps the rules that it had.
fn invalid_rules_change_nothing<B: Backend>(device: &B) {
    let good = GroupOptimizer::new(Optimizer::Sgd, 0.1);
    let power = Schedule { decay_steps: 10, power: f32::NAN, ..Schedule::default() };
    let number = "but must be a finite number of 0 or more";
    for (bad, schedule, want) in [
        (
            GroupOptimizer { learning_rate: f32::NAN, ..good },
            Schedule::default(),
            format!("rule.learning_rate: NaN, {number}"),
        ),
        (good, power, format!("schedule.power: NaN, {number}")),
        (
            GroupOptimizer { max_gradient: Some(f32::NAN), ..good },
            Schedule::default(),
            "max_gradient: NaN, but must be 0 or more".into(),
        ),
    ] {
        for (tables, dense) in [(good, bad), (bad, good)] {
            let mut model = model(device, sgd());
            let (before, batch) = (state_and_step(&mut model), batch(3));
            let optimizers = Optimizers { tables, dense, schedule };
            assert_eq!(message(model.optimize_with(optimizers)), format!("Dlrm: {want}"));
            assert_eq!(state_and_step(&mut model), before);
            model.train_step(batch.upload(device).view()).unwrap();
        }
    }
}

fn invalid_factors_and_decays_are_refused<B: Backend>(device: &B) {
    let mut model = model(device, sgd());
    let number = "but must be a finite number of 0 or more";
    for (bad, text) in [(f32::NAN, "NaN"), (-1.0, "-1"), (f32::INFINITY, "inf")] {
        let mut scale = [1.0; 5];
        scale[3] = bad;
        let want = format!("EmbeddingBagCollection: scale: {text} for row 3, {number}");
        assert_eq!(message(model.scale_table_decay(&scale)), want);
    }
    let want = "EmbeddingBagCollection: scale is 4, but must be 5";
    assert_eq!(message(model.scale_table_decay(&[1.0; 4])), want);
    for (bad, text) in [(f32::NAN, "NaN"), (-0.5, "-0.5"), (1.5, "1.5")] {
        assert_eq!(
            message(model.average_with(bad)),
            format!("Dlrm: decay: {text}, but must be in [0, 1]")
        );
    }
    model.train_step(batch(3).upload(device).view()).unwrap();
    assert!(model.last_loss().unwrap().is_finite());
}

fn gradients_of_another_batch_are_refused<B: Backend>(device: &B) {
    let mut model = model(device, sgd());
    let mut grad = SparseGrad::new(device, &batch(9).case.layout(), 9).unwrap();
    model.loss_and_grad(batch(9).upload(device).view(), Accum::Replace).unwrap();
    let text = message(model.sparse_grad(batch(8).upload(device).view(), &mut grad));
    let want = "sparse_update.reduce: sorted: the order of 9 ids of 9 samples, but the batch has 8 \
        of 8";
    assert!(text.starts_with(want), "{text}");
    model.sparse_grad(batch(9).upload(device).view(), &mut grad).unwrap();
    model.apply(&grad).unwrap();
}
