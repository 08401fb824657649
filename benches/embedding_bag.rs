//! `embedding_bag`: pooled lookups at shapes that peers publish. The output of the first set is
//! checked against the CPU before it is measured. On the CPU, the rate of the floor stands beside.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::embedding_bag::{EmbeddingBagOps, Forward};
use bagdot::ops::{Device, MatrixMut};
use bagdot::{Cpu, Element, bf16, f16};
use common::{Batch, Shape, Timed, elements, group, measure, sets_of, upload};
use criterion::Criterion;

common::benchmark_on_every_device!(forward);

fn forward<B: Timed + EmbeddingBagOps>(criterion: &mut Criterion, device: &B) {
    let published = [[64, 2048, 1], [64, 2048, 20], [128, 65_536, 1], [128, 16_384, 20]];
    for shape in Shape::all::<B>(&published) {
        forward_of::<B, f32>(criterion, device, shape);
        forward_of::<B, f16>(criterion, device, shape);
        forward_of::<B, bf16>(criterion, device, shape);
    }
}

fn forward_of<B: Timed + EmbeddingBagOps, E: Element>(
    criterion: &mut Criterion,
    device: &B,
    shape: Shape,
) {
    let (ids, bags) = (shape.num_indices(), shape.num_bags());
    let sets = sets_of(ids * shape.dim * size_of::<E>());
    let bytes = ids * (shape.dim * size_of::<E>() + 8) + (bags + 1) * 8 + bags * shape.dim * 4;
    let name = format!("{} {}", shape.name(), E::DTYPE);
    let mut lookups = None;
    let mut group = group(criterion, device, "embedding_bag_forward");
    let time = measure(&mut group, device, &name, sets, bytes, |set| {
        let lookups = lookups.get_or_insert_with(|| Lookups::<B, E>::checked(device, shape, sets));
        lookups.run(device, set)
    });
    if let Some(time) = time
        && let Some(floor) = device.floor_of_lookups::<E>(&shape, sets)
    {
        floor.print_share(bytes, time);
    }
}

/// The tables, and sets of ids for them.
struct Lookups<B: Device, E: Element> {
    tables: B::Tables,
    weights: B::Buffer<E>,
    batches: Vec<Batch<B, i64>>,
    output: B::Buffer<f32>,
}

impl<B: EmbeddingBagOps, E: Element> Lookups<B, E> {
    fn new(device: &B, shape: Shape, weights: &[E], sets: usize) -> Self {
        let layout = shape.layout();
        Self {
            weights: upload(device, weights),
            batches: Batch::of_sets(device, &shape, sets),
            output: device.alloc(shape.batch_size * layout.width()).unwrap(),
            tables: device.tables(layout).unwrap(),
        }
    }

    /// Makes the inputs, and compares the output of the first set with that of the CPU.
    fn checked(device: &B, shape: Shape, sets: usize) -> Self {
        let weights: Vec<E> = elements(shape.layout().num_weights(), 1);
        let mut lookups = Self::new(device, shape, &weights, sets);
        let cpu = Cpu::new().unwrap();
        let mut on_cpu = Lookups::new(&cpu, shape, &weights, 1);
        on_cpu.run(&cpu, 0);
        lookups.run(device, 0);
        device.synchronize().unwrap();
        assert!(
            device.to_vec(&lookups.output).unwrap() == *on_cpu.output,
            "{shape:?} differs from the CPU"
        );
        lookups
    }

    /// Runs the op on a set, and returns the bytes that it must move.
    fn run(&mut self, device: &B, set: usize) -> usize {
        let (batch, width) = (&self.batches[set], self.tables.as_ref().width());
        let forward = Forward::new(
            &self.tables,
            B::view(&self.weights),
            batch.bags(),
            MatrixMut::contiguous(B::view_mut(&mut self.output), batch.batch_size, width),
        );
        let bytes = forward.bytes_moved();
        forward.run(device).unwrap();
        bytes
    }
}
