//! What a device moves at best: a copy of 1 GiB, which every other number is to be seen against.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Timed, group, measure};
use criterion::Criterion;

common::benchmark_on_every_device!(copy);

const BYTES: usize = 1 << 30;

fn copy<B: Timed>(criterion: &mut Criterion, device: &B) {
    let mut copy = device.copier(BYTES);
    measure(&mut group(criterion, device, "copy"), device, "1 GiB", 1, |_| {
        copy();
        2 * BYTES
    });
}
