//! A copy of 1 GiB: the best bandwidth of a device, against which every other number is to be seen.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Timed, group, measure};
use criterion::Criterion;

common::benchmark_on_every_device!(copy);

const BYTES: usize = 1 << 30;

fn copy<B: Timed>(criterion: &mut Criterion, device: &B) {
    let mut copy = None;
    measure(&mut group(criterion, device, "copy"), device, "1 GiB", 1, 2 * BYTES, |_| {
        copy.get_or_insert_with(|| device.copier(BYTES))();
        2 * BYTES
    });
}
