//! Predictions of published models, for batches on the device.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::Backend;
use common::model::published;
use common::{Ids, Timed, group, measure_samples};
use criterion::Criterion;

common::benchmark_on_every_device!(predictions);

/// Batches that are predicted in turn.
const SETS: usize = 4;

fn predictions<B: Timed + Backend>(criterion: &mut Criterion, device: &B) {
    for model in published::<B>() {
        let ids = Ids::Uniform;
        let batches: Vec<_> = (0..SETS).map(|set| model.batch(ids, set).upload(device)).collect();
        let mut logits = device.alloc::<f32>(model.batch_size).unwrap();
        for &precision in B::PRECISIONS {
            let mut dlrm = model.build(device, precision);
            let predict = |set: usize| {
                dlrm.logits_on_device(batches[set].view(&model), B::view_mut(&mut logits)).unwrap()
            };
            let mut group = group(criterion, device, "predict");
            measure_samples(
                &mut group,
                device,
                (&model.shape(ids, precision), model.batch_size),
                SETS,
                predict,
            );
        }
    }
}
