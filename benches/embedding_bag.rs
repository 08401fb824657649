//! `embedding_bag`: pooled lookups at shapes that peers publish.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::embedding_bag::{EmbeddingBagOps, Forward};
use bagdot::ops::{Device, MatrixMut};
use bagdot::{Cpu, Element, bf16, f16};
use common::{Batch, Ids, Shape, Timed, group, measure, sets_of, upload, values};
use criterion::Criterion;

common::benchmark_on_every_device!(forward);

fn forward<B: Timed + EmbeddingBagOps>(criterion: &mut Criterion, device: &B) {
    for ids in [Ids::Uniform, Ids::Zipf] {
        for (dim, batch_size, pooling_factor) in
            [(64, 2048, 1), (64, 2048, 20), (128, 65_536, 1), (128, 16_384, 20)]
        {
            // The large ones are for devices that have the bandwidth.
            if B::NAME == Cpu::NAME && batch_size > 2048 {
                continue;
            }
            let shape = Shape {
                num_tables: 26,
                num_embeddings: 100_000,
                dim,
                batch_size,
                pooling_factor,
                ids,
            };
            forward_of::<B, f32>(criterion, device, shape, f32::from);
            forward_of::<B, f16>(criterion, device, shape, f16::from_f32);
            forward_of::<B, bf16>(criterion, device, shape, bf16::from_f32);
        }
    }
}

fn forward_of<B: Timed + EmbeddingBagOps, E: Element>(
    criterion: &mut Criterion,
    device: &B,
    shape: Shape,
    store: fn(f32) -> E,
) {
    let weights: Vec<E> = values(shape.layout().num_weights(), 1).into_iter().map(store).collect();
    let sets = sets_of(shape.num_indices() * shape.dim * size_of::<E>());
    let mut lookups = Lookups::new(device, shape, &weights, sets);
    let cpu = Cpu::new().unwrap();
    let mut on_cpu = Lookups::new(&cpu, shape, &weights, 1);
    on_cpu.run(&cpu, 0);
    lookups.run(device, 0);
    device.synchronize().unwrap();
    assert!(
        device.to_vec(&lookups.output).unwrap() == *on_cpu.output,
        "{shape:?} differs from the CPU"
    );
    let name = format!("{} {}", shape.name(), E::DTYPE);
    measure(&mut group(criterion, device, "embedding_bag_forward"), device, &name, sets, |set| {
        lookups.run(device, set)
    });
}

/// Sets of ids, and tables for them.
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

    /// Gives the bytes that must move.
    fn run(&mut self, device: &B, set: usize) -> usize {
        let (batch, width) = (&self.batches[set], self.tables.as_ref().width());
        let forward = Forward {
            tables: &self.tables,
            weights: B::view(&self.weights),
            bags: batch.bags(),
            output: MatrixMut::contiguous(B::view_mut(&mut self.output), batch.batch_size, width),
            argmax: None,
        };
        let bytes = forward.bytes_moved();
        forward.run(device).unwrap();
        bytes
    }
}
