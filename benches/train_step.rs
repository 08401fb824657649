//! A step of training of published models: `train_step` with the batch on the device,
//! `train_staged` with batches that come from the host.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use bagdot::nn::{Dlrm, Staging};
use bagdot::ops::Backend;
use common::model::{DeviceBatch, HostBatch, Model, published};
use common::{Ids, Timed, group, measure_samples};
use criterion::{BenchmarkId, Criterion, Throughput};

common::benchmark_on_every_device!(steps);

/// Batches that are trained on in turn.
const SETS: usize = 4;

fn steps<B: Timed + Backend>(criterion: &mut Criterion, device: &B) {
    for model in published::<B>() {
        let batches = [Ids::Uniform, Ids::Zipf]
            .map(|ids| (ids, (0..SETS).map(|set| model.batch(ids, set)).collect::<Vec<_>>()));
        for &precision in B::PRECISIONS {
            let mut dlrm = model.build(device, precision);
            for (ids, batches) in &batches {
                let shape = model.shape(*ids, precision);
                on_the_device(criterion, device, (&model, &shape), &mut dlrm, batches);
                from_the_host(criterion, device, (&model, &shape), &mut dlrm, batches);
            }
        }
    }
}

fn on_the_device<B: Timed + Backend>(
    criterion: &mut Criterion,
    device: &B,
    (model, shape): (&Model, &str),
    dlrm: &mut Dlrm<B>,
    batches: &[HostBatch],
) {
    let batches: Vec<DeviceBatch<B>> = batches.iter().map(|batch| batch.upload(device)).collect();
    let step = |set: usize| dlrm.train_step(batches[set].view(model)).unwrap();
    let mut group = group(criterion, device, "train_step");
    measure_samples(&mut group, device, (shape, model.batch_size), SETS, step);
}

/// By the clock on the wall, in the middle of training: the host is a few batches ahead, and waits
/// until the device has taken one.
fn from_the_host<B: Timed + Backend>(
    criterion: &mut Criterion,
    device: &B,
    (model, shape): (&Model, &str),
    dlrm: &mut Dlrm<B>,
    batches: &[HostBatch],
) {
    let mut staging = Staging::new(device).unwrap();
    let mut train = |steps: u64| {
        for step in 0..steps {
            dlrm.train_staged(&mut staging, batches[step as usize % SETS].view()).unwrap();
        }
    };
    train(SETS as u64);
    let mut group = group(criterion, device, "train_staged");
    group.throughput(Throughput::Elements(model.batch_size as u64));
    group.bench_function(BenchmarkId::from_parameter(shape), |bencher| {
        bencher.iter_custom(|iterations| {
            let start = Instant::now();
            train(iterations);
            start.elapsed()
        });
    });
    device.synchronize().unwrap();
}
