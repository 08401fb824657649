//! A step of training of published models: `train_step` with the batch on the device, `train_staged` with batches that come from the host.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use bagdot::nn::Staging;
use bagdot::ops::Backend;
use common::model::{Model, published};
use common::{Ids, Timed, group, measure_samples};
use criterion::{BenchmarkId, Criterion, Throughput};

common::benchmark_on_every_device!(steps);

/// Batches that are trained on in turn.
const SETS: usize = 4;

fn steps<B: Timed + Backend>(criterion: &mut Criterion, device: &B) {
    for model in published::<B>() {
        for ids in [Ids::Uniform, Ids::Zipf] {
            on_the_device(criterion, device, &model, ids);
            from_the_host(criterion, device, &model, ids);
        }
    }
}

fn on_the_device<B: Timed + Backend>(criterion: &mut Criterion, device: &B, model: &Model, ids: Ids) {
    let batches: Vec<_> = (0..SETS).map(|set| model.batch(ids, set).upload(device)).collect();
    let mut dlrm = model.build(device);
    let step = |set: usize| dlrm.train_step(batches[set].view(model)).unwrap();
    let mut group = group(criterion, device, "train_step");
    measure_samples(&mut group, device, (&model.shape(ids), model.batch_size), SETS, step);
}

/// By the clock on the wall, from the first batch to the end of the last step.
fn from_the_host<B: Timed + Backend>(criterion: &mut Criterion, device: &B, model: &Model, ids: Ids) {
    let batches: Vec<_> = (0..SETS).map(|set| model.batch(ids, set)).collect();
    let mut dlrm = model.build(device);
    let mut staging = Staging::new(device).unwrap();
    let mut train = |steps: u64| {
        for step in 0..steps {
            dlrm.train_staged(&mut staging, batches[step as usize % SETS].view()).unwrap();
        }
        device.synchronize().unwrap();
    };
    train(2);
    let mut group = group(criterion, device, "train_staged");
    group.throughput(Throughput::Elements(model.batch_size as u64));
    group.bench_function(BenchmarkId::from_parameter(model.shape(ids)), |bencher| {
        bencher.iter_custom(|steps| {
            let start = Instant::now();
            train(steps);
            start.elapsed()
        });
    });
}
