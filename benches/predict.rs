//! Predictions of published models for batches on the device.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::Backend;
use common::model::{HostBatch, published};
use common::{Ids, Timed, group, measure_samples};
use criterion::Criterion;

common::benchmark_on_every_device!(predictions);

/// The number of batches that are predicted in turn.
const SETS: usize = 4;

fn predictions<B: Timed + Backend>(criterion: &mut Criterion, device: &B) {
    for model in published::<B>() {
        let mut inputs = None;
        let mut new_inputs = || {
            let batch = |set| HostBatch::new(&model, Ids::Uniform, set).upload(device);
            let batches = (0..SETS).map(batch).collect::<Vec<_>>();
            (batches, device.alloc::<f32>(model.batch_size).unwrap())
        };
        for &precision in B::PRECISIONS {
            let mut dlrm = None;
            let predict = |set: usize| {
                let (batches, logits) = inputs.get_or_insert_with(&mut new_inputs);
                let dlrm = dlrm.get_or_insert_with(|| model.build(device, precision));
                dlrm.logits_on_device(batches[set].view(&model), B::view_mut(logits)).unwrap();
            };
            let shape = model.shape(Ids::Uniform, precision);
            let mut group = group(criterion, device, "predict");
            measure_samples(&mut group, device, (&shape, model.batch_size), SETS, predict);
        }
    }
}
