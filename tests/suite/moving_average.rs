//! Tests of `moving_average`, and of the averages that the engine keeps with it.

use crate::common::engine::{Batch, tensor};
use crate::common::*;
use bagdot::nn::{Dlrm, DlrmConfig, NamedTensor, Optimizers, TableInit};
use bagdot::ops::moving_average::{MovingAverageOps, Update};
use bagdot::ops::{Interaction, Optimizer, PairOrder, Pooling, Table};
use bagdot::{Cpu, DType};

backend_suite!(cuda: averages_are_right, wrong_arguments_are_errors);

fn average<B: MovingAverageOps>(
    device: &B,
    decay: f32,
    values: &[f32],
    before: &[f32],
) -> Vec<f32> {
    let (values, mut average) = (upload(device, values), upload(device, before));
    let op = Update::new(decay, B::view(&values), B::view_mut(&mut average));
    assert_eq!(outcome(device, op.run(device)), Ok(()));
    download(device, &average)
}

fn blend(decay: f32, value: Approx, average: Approx) -> Approx {
    // 1 - decay is rounded once, as are the difference, the product and the sum.
    average + (Approx::exact(1.0) - Approx::exact(decay)) * (value - average)
}

fn averages_are_right<B: MovingAverageOps>(device: &B) {
    for len in [0, 1, 63, 64, 1000, 40_000] {
        for decay in [0.0, 0.25, 0.998, 1.0] {
            let (values, before) = (draw(len, 1), draw(len, 2));
            let got = average(device, decay, &values, &before);
            let want: Vec<Approx> = exact(&values)
                .into_iter()
                .zip(exact(&before))
                .map(|(value, average)| blend(decay, value, average))
                .collect();
            assert_close(&format!("decay {decay}, {len} values"), &got, &want);
            if decay == 1.0 {
                assert_same_bits("the average stays unchanged", &got, &before);
            }
        }
    }
    let got = average(device, 0.5, &[f32::NAN, 1.0], &[1.0, 3.0]);
    assert!(got[0].is_nan() && got[1] == 2.0, "a NaN stays in its element: {got:?}");
}

fn wrong_arguments_are_errors<B: MovingAverageOps>(device: &B) {
    let values = upload(device, &[1.0_f32; 3]);
    let run = |decay: f32, len: usize| {
        let mut average = upload(device, &poisoned::<f32>(len));
        let text =
            message(Update::new(decay, B::view(&values), B::view_mut(&mut average)).run(device));
        assert_same_bits("the average", &download(device, &average), &poisoned::<f32>(len));
        text
    };
    assert_eq!(run(0.5, 2), "moving_average: average is 2, but must be 3");
    for decay in [-0.1, 1.1, f32::NAN] {
        assert_eq!(run(decay, 3), format!("moving_average: decay: {decay}, but must be in [0, 1]"));
    }
}

#[test]
fn averages_do_not_depend_on_threads() {
    let (values, before) = (draw(100_000, 3), draw(100_000, 4));
    assert_deterministic("moving_average", |cpu| {
        bytemuck::cast_slice(&average(cpu, 0.9, &values, &before)).to_vec()
    });
}

fn model(cpu: Cpu, table_dtype: DType) -> Dlrm<Cpu> {
    let config = DlrmConfig {
        num_dense: 2,
        bottom_mlp: vec![3, 4],
        tables: vec![Table { num_embeddings: 11, embedding_dim: 4 }],
        features: vec![feature(0, Pooling::Sum)],
        table_dtype,
        table_init: TableInit::Normal(0.5),
        interaction: Interaction::Dot {
            order: PairOrder::LowerTriangle,
            include_self: false,
            append_sparse: true,
            pad_to: 1,
        },
        top_mlp: vec![5, 1],
        ..DlrmConfig::default()
    };
    let mut model = Dlrm::new(cpu, config, 5).unwrap();
    model.optimize_with(Optimizers::same(Optimizer::Adagrad { eps: 1e-8 }, 0.1)).unwrap();
    model
}

fn batch(seed: u64) -> Batch<i64> {
    let case = BagCase::one_table("bags", (11, 4), &[2, 0, 1, 3], uniform);
    Batch::new(draw(8, seed), case, vec![1.0, 0.0, 0.0, 1.0])
}

/// Checks over four steps that the averages follow the parameters by the documented rule, starting
/// from the initial ones, and that a second exchange undoes the first.
#[test]
fn the_engine_averages_all_parameters() {
    let mut model = model(Cpu::with_threads(2).unwrap(), DType::F32);
    model.average_with(0.6).unwrap();
    let before = model.tensors().unwrap();
    let mut want: Vec<Vec<Approx>> = before.iter().map(|tensor| exact(&tensor.to_f32())).collect();
    for step in 1..=4 {
        model.train_step(batch(step).view()).unwrap();
        let decay = 0.6_f32.min((1 + step) as f32 / (5 + step) as f32);
        for (want, now) in want.iter_mut().zip(model.tensors().unwrap()) {
            for (average, value) in want.iter_mut().zip(exact(&now.to_f32())) {
                *average = blend(decay, value, *average);
            }
        }
    }
    let averages = model.average_tensors().unwrap();
    for ((want, before), average) in want.iter().zip(&before).zip(&averages) {
        assert_eq!(average.name, format!("average.{}", before.name));
        // The decay of the first steps is a quotient that is rounded at most twice: an error of
        // 2 u, times the difference of two values.
        let want: Vec<Approx> = want
            .iter()
            .map(|w| Approx { value: w.value, error: w.error + 8.0 * U * 8.0 })
            .collect();
        assert_close(&before.name, &average.to_f32(), &want);
        assert_ne!(average.bytes, before.bytes, "{} has moved", before.name);
    }

    let parameters = model.tensors().unwrap();
    model.swap_averages().unwrap();
    let unnamed = |tensors: &[NamedTensor]| {
        tensors.iter().map(|tensor| tensor.bytes.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        unnamed(&model.tensors().unwrap()),
        unnamed(&averages),
        "predictions are now made with the averages"
    );
    model.swap_averages().unwrap();
    assert_eq!(model.tensors().unwrap(), parameters);

    // Another model can load saved averages.
    let mut other = self::model(Cpu::on_current_thread(), DType::F32);
    other.average_with(0.6).unwrap();
    other.load_averages(averages.as_slice()).unwrap();
    assert_eq!(other.average_tensors().unwrap(), averages);
    assert_eq!(
        tensor(&other.tensors().unwrap(), "tables.0.weight"),
        tensor(&before, "tables.0.weight")
    );
}

#[test]
fn averaging_needs_tables_of_single_precision() {
    let text = message(model(Cpu::on_current_thread(), DType::BF16).average_with(0.9));
    assert_eq!(text, "tables (to be averaged) holds bf16, not f32");
}
