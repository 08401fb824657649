//! Tests of layers in tf32, bf16 and f16: losses, gradients and logits against the reference,
//! copies of the parameters, and loss scales.

use crate::common::engine::{Batch, flat, reference_of, state, three_table_batch, three_tables};
use crate::common::*;
use bagdot::nn::{ComputePrecision, Dlrm, DlrmConfig, Optimizers};
use bagdot::ops::finite_check::NonFinite;
use bagdot::ops::{Backend, Optimizer};
use bagdot::{Error, bf16, f16};

backend_suite!(
    cuda:
    gradients_are_right,
    predictions_use_the_parameters_of_the_last_step,
    a_loss_scale_that_is_too_large_skips_steps,
    an_mlp_of_the_logit_alone_is_right,
);

const F16: ComputePrecision = ComputePrecision::F16 { loss_scale: 1024.0 };
const ADAM: Optimizer = Optimizer::Adam { beta1: 0.875, beta2: 0.75, eps: 1e-3 };

fn batch(seed: u64) -> Batch<i32> {
    three_table_batch(8, seed)
}

fn engine<B: Backend>(device: &B, precision: ComputePrecision, top_mlp: &[usize]) -> Dlrm<B> {
    let config = DlrmConfig { precision, top_mlp: top_mlp.to_vec(), ..three_tables() };
    let mut engine = Dlrm::new(device.clone(), config, 7).unwrap();
    engine.optimize_with(Optimizers::same(ADAM, 0.05)).unwrap();
    engine
}

/// Compares a pass with the reference whose layers are stored in `E`. Returns the gradients of the
/// layers of the reference.
fn check<B: Backend, E: Stored>(
    device: &B,
    engine: &mut Dlrm<B>,
    batch: &Batch<i32>,
) -> Vec<Approx> {
    let what = format!("{:?}, {}", engine.config().precision, batch.case.name);
    let loss_scale = match engine.config().precision {
        ComputePrecision::F16 { loss_scale } => f64::from(loss_scale),
        _ => 1.0,
    };
    let pass = reference_of(engine, ADAM).pass_in::<E>(
        loss_scale,
        &batch.dense,
        &batch.case,
        &batch.labels,
    );
    let (layers, rows) = batch.gradients(engine);
    let want: Vec<Approx> = pass.layers.iter().flatten().flatten().copied().collect();
    assert_close(&format!("{what}: gradients of the layers"), &flat(&layers), &want);
    let got: Vec<f32> = rows.into_iter().flat_map(|(_, row)| row).collect();
    let of_rows: Vec<Approx> = pass.rows.into_values().flatten().collect();
    assert_close(&format!("{what}: gradients of the rows"), &got, &of_rows);
    let off = (engine.last_loss().unwrap() - pass.mean_loss.value).abs();
    assert!(
        off <= pass.mean_loss.error,
        "{what}: the loss is {off:e} off, the bound is {:e}",
        pass.mean_loss.error
    );
    let mut logits = vec![0.0; batch.labels.len()];
    engine.logits(batch.upload(device).view(), &mut logits).unwrap();
    assert_close(&format!("{what}: logits"), &logits, &pass.logits);
    want
}

/// Fails unless the error bounds of gradients are much smaller than the gradients.
#[track_caller]
fn assert_meaningful(gradient: &[Approx]) {
    let sum = |of: fn(&Approx) -> f64| gradient.iter().map(of).sum::<f64>();
    let (values, errors) = (sum(|g| g.value.abs()), sum(|g| g.error));
    assert!(errors < values / 20.0, "a bound of {errors:e} for gradients of {values:e}");
}

fn gradients_are_right<B: Backend>(device: &B) {
    for seed in 1..=3 {
        let (mut bf16_engine, mut f16_engine) =
            (engine(device, ComputePrecision::BF16, &[6, 1]), engine(device, F16, &[6, 1]));
        assert_meaningful(&check::<B, bf16>(device, &mut bf16_engine, &batch(seed)));
        assert_meaningful(&check::<B, f16>(device, &mut f16_engine, &batch(seed)));
    }
}

/// Compares predictions with the parameters of the model after three steps, after exchanges with
/// the averages, and after parameters were loaded. The rounded and packed copies of the parameters
/// must follow them. The batch is large enough for the CPU to multiply by packed weights.
fn predictions_use_the_parameters_of_the_last_step<B: Backend>(device: &B) {
    for precision in [ComputePrecision::F32, ComputePrecision::BF16, F16] {
        let batch_of_check = three_table_batch(40, 9);
        let check = |engine: &mut Dlrm<B>| match precision {
            ComputePrecision::F32 => check::<B, f32>(device, engine, &batch_of_check),
            ComputePrecision::BF16 => check::<B, bf16>(device, engine, &batch_of_check),
            _ => check::<B, f16>(device, engine, &batch_of_check),
        };
        let mut trained = engine(device, precision, &[6, 1]);
        trained.average_with(0.5).unwrap();
        let before = flat(&trained.tensors().unwrap());
        for seed in 1..=3 {
            trained.train_step(batch(seed).upload(device).view()).unwrap();
        }
        let moved = flat(&trained.tensors().unwrap())
            .iter()
            .zip(&before)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(moved > 0.05, "the parameters moved by only {moved}");
        check(&mut trained);
        trained.swap_averages().unwrap();
        check(&mut trained);
        trained.swap_averages().unwrap();
        trained.train_step(batch(4).upload(device).view()).unwrap();
        check(&mut trained);
        let mut loaded = engine(device, precision, &[6, 1]);
        check(&mut loaded);
        loaded.load(trained.tensors().unwrap().as_slice()).unwrap();
        check(&mut loaded);
        // Tensors are in f32, and a model of any precision can load them.
        let mut other = engine(device, ComputePrecision::F32, &[6, 1]);
        other.load(trained.tensors().unwrap().as_slice()).unwrap();
        assert_eq!(other.tensors().unwrap(), trained.tensors().unwrap());
    }
}

/// Checks that a gradient beyond the largest f16, which is infinite, skips the step or ends the
/// run.
fn a_loss_scale_that_is_too_large_skips_steps<B: Backend>(device: &B) {
    let mut engine = engine(device, ComputePrecision::F16 { loss_scale: 2f32.powi(30) }, &[6, 1]);
    engine.on_non_finite(NonFinite::SkipStep);
    let before = engine.tensors().unwrap();
    engine.train_step(batch(1).upload(device).view()).unwrap();
    assert_eq!(engine.verdict().unwrap().steps, 1);
    assert_eq!(engine.tensors().unwrap(), before);
    engine.on_non_finite(NonFinite::Error);
    assert_eq!(engine.last_loss(), Err(Error::NonFinite { step: 1 }));
}

/// Checks a top MLP of one layer: the last layer never computes in 16 bits.
fn an_mlp_of_the_logit_alone_is_right<B: Backend>(device: &B) {
    check::<B, f32>(device, &mut engine(device, ComputePrecision::F32, &[1]), &batch(1));
    check::<B, bf16>(device, &mut engine(device, ComputePrecision::BF16, &[1]), &batch(1));
    check::<B, f16>(device, &mut engine(device, F16, &[1]), &batch(1));
}

/// Checks that the CPU does not round factors to tf32.
#[test]
fn tf32_is_f32_on_the_cpu() {
    let train = |precision| {
        let mut engine = engine(&bagdot::Cpu::on_current_thread(), precision, &[6, 1]);
        engine.train_step(batch(1).view()).unwrap();
        engine.tensors().unwrap()
    };
    assert_eq!(train(ComputePrecision::Tf32), train(ComputePrecision::F32));
    assert_ne!(train(ComputePrecision::BF16), train(ComputePrecision::F32));
}

#[test]
fn steps_are_the_same_on_any_number_of_threads() {
    for precision in [ComputePrecision::BF16, F16] {
        assert_deterministic_on_each_simd("steps", |cpu| {
            let mut engine = engine(cpu, precision, &[6, 1]);
            (1..=2).for_each(|seed| engine.train_step(batch(seed).view()).unwrap());
            bytes(&flat(&state(&mut engine)))
        });
    }
}

#[test]
fn a_loss_scale_must_be_a_power_of_two() {
    let config = DlrmConfig {
        num_dense: 1,
        bottom_mlp: vec![1],
        top_mlp: vec![1],
        precision: ComputePrecision::F16 { loss_scale: 1000.0 },
        ..DlrmConfig::default()
    };
    let error = Dlrm::new(bagdot::Cpu::on_current_thread(), config, 1).err().unwrap().to_string();
    assert_eq!(
        error,
        "Dlrm: precision.loss_scale: 1000, but must be a power of two from 2^-126 to 2^126"
    );
}
