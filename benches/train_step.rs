//! A training step of published models: `train_step` with the batch on the device, `train_staged`
//! with batches that come from the host.
#![allow(clippy::unwrap_used)]

mod common;

use std::cell::LazyCell;
use std::ops::Deref;
use std::time::Instant;

use bagdot::nn::{ComputePrecision, Dlrm, Staging};
use bagdot::ops::Backend;
use common::model::{HostBatch, Model, published};
use common::{Ids, Timed, group, measure_samples};
use criterion::{BenchmarkId, Criterion, Throughput};

common::benchmark_on_every_device!(steps);

/// The number of batches that are trained on in turn.
const SETS: usize = 4;

fn steps<B: Timed + Backend>(criterion: &mut Criterion, device: &B) {
    for model in published::<B>() {
        let model = &model;
        let batches = [Ids::Uniform, Ids::Zipf].map(|ids| {
            let batch = move |set| HostBatch::new(model, ids, set);
            (ids, LazyCell::new(move || (0..SETS).map(batch).collect::<Vec<_>>()))
        });
        for &precision in B::PRECISIONS {
            let mut dlrm = LazyModel { model, precision, built: None };
            for (ids, batches) in &batches {
                let shape = model.shape(*ids, precision);
                on_the_device(criterion, device, &shape, &mut dlrm, batches);
                from_the_host(criterion, device, &shape, &mut dlrm, batches);
            }
        }
    }
}

/// A model that is built when it is needed for the first time.
struct LazyModel<'a, B: Backend> {
    model: &'a Model,
    precision: ComputePrecision,
    built: Option<Dlrm<B>>,
}

impl<B: Backend> LazyModel<'_, B> {
    fn get(&mut self, device: &B) -> &mut Dlrm<B> {
        self.built.get_or_insert_with(|| self.model.build(device, self.precision))
    }
}

fn on_the_device<B: Timed + Backend>(
    criterion: &mut Criterion,
    device: &B,
    shape: &str,
    dlrm: &mut LazyModel<'_, B>,
    batches: &impl Deref<Target = Vec<HostBatch>>,
) {
    let model = dlrm.model;
    let mut on_device = None;
    let step = |set: usize| {
        let on_device = on_device.get_or_insert_with(|| {
            batches.iter().map(|batch| batch.upload(device)).collect::<Vec<_>>()
        });
        dlrm.get(device).train_step(on_device[set].view(model)).unwrap();
    };
    let mut group = group(criterion, device, "train_step");
    measure_samples(&mut group, device, (shape, model.batch_size), SETS, step);
}

/// Measures wall-clock time in the middle of training: the host is a few batches ahead, and waits
/// until the device has taken one.
fn from_the_host<B: Timed + Backend>(
    criterion: &mut Criterion,
    device: &B,
    shape: &str,
    dlrm: &mut LazyModel<'_, B>,
    batches: &impl Deref<Target = Vec<HostBatch>>,
) {
    let batch_size = dlrm.model.batch_size;
    let mut staging = None;
    let mut train = |steps: u64| {
        let dlrm = dlrm.get(device);
        let staging = staging.get_or_insert_with(|| Staging::new(device).unwrap());
        for step in 0..steps {
            dlrm.train_staged(staging, batches[step as usize % SETS].view()).unwrap();
        }
    };
    let mut has_run = false;
    let mut group = group(criterion, device, "train_staged");
    group.throughput(Throughput::Elements(batch_size as u64));
    group.bench_function(BenchmarkId::from_parameter(shape), |bencher| {
        if !has_run {
            train(SETS as u64);
            has_run = true;
        }
        bencher.iter_custom(|iterations| {
            let start = Instant::now();
            train(iterations);
            start.elapsed()
        });
    });
    device.synchronize().unwrap();
}
