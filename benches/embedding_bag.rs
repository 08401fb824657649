//! `embedding_bag`: pooled lookups at shapes that peers publish, and by max. The output of the
//! first set is checked against the CPU before it is measured, unless the tables are very large.
//! On the CPU, the rate of the floor stands beside.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::embedding_bag::{EmbeddingBagOps, Forward};
use bagdot::ops::{Device, MatrixMut, Pooling};
use bagdot::{Cpu, Element, bf16, f16};
use common::{Batch, FBGEMM, Shape, Timed, criteo, drawn, group, measure_with_floor, sets_of};
use criterion::Criterion;

common::benchmark_on_every_device!(by_sum, by_max);

fn by_sum<B: Timed + EmbeddingBagOps>(criterion: &mut Criterion, device: &B) {
    let published = [
        criteo(64, 2048, 1),
        criteo(64, 2048, 20),
        criteo(128, 65_536, 1),
        criteo(128, 16_384, 20),
        FBGEMM,
    ];
    for shape in Shape::all::<B>(&published) {
        forward::<B, f32>(criterion, device, shape, false);
        if !shape.is_large() {
            forward::<B, f16>(criterion, device, shape, false);
            forward::<B, bf16>(criterion, device, shape, false);
        }
    }
}

/// Measures max pooling as predictions run it, and with the sources that training needs.
fn by_max<B: Timed + EmbeddingBagOps>(criterion: &mut Criterion, device: &B) {
    for shape in Shape::all::<B>(&[criteo(64, 2048, 20)]) {
        let shape = Shape { pooling: Pooling::Max, ..shape };
        for keeps_argmax in [false, true] {
            forward::<B, f32>(criterion, device, shape, keeps_argmax);
        }
    }
}

fn forward<B: Timed + EmbeddingBagOps, E: Element>(
    criterion: &mut Criterion,
    device: &B,
    shape: Shape,
    keeps_argmax: bool,
) {
    const OP: &str = "embedding_bag_forward";
    let (ids, bags, row) = (shape.num_indices(), shape.num_bags(), shape.dim * size_of::<E>());
    let sets = sets_of(ids * row);
    let outputs = if keeps_argmax { 2 } else { 1 };
    let others = ids * 8 + (bags + 1) * 8 + outputs * bags * shape.dim * 4;
    let argmax = if keeps_argmax { " argmax" } else { "" };
    let name = format!("{}{argmax} {}", shape.name(), E::DTYPE);
    let mut lookups = None;
    let mut group = group(criterion, device, OP);
    let bytes = others + ids * row;
    let time = measure_with_floor(&mut group, device, (OP, &name), sets, bytes, |set| {
        let lookups = lookups
            .get_or_insert_with(|| Lookups::<B, E>::checked(device, shape, keeps_argmax, sets));
        let floor = others + Batch::mean_distinct_rows(&lookups.batches) * row;
        (lookups.run(device, set), floor)
    });
    if let Some(time) = time.filter(|_| shape.pooling == Pooling::Sum && !shape.is_large()) {
        let floor = device.floor_of_lookups::<E>(&shape, sets);
        floor.inspect(|floor| floor.print_share(bytes, time));
    }
}

/// The tables, and sets of ids for them.
struct Lookups<B: Device, E: Element> {
    tables: B::Tables,
    weights: B::Buffer<E>,
    batches: Vec<Batch<B, i64>>,
    output: B::Buffer<f32>,
    argmax: Option<B::Buffer<u32>>,
}

impl<B: EmbeddingBagOps, E: Element> Lookups<B, E> {
    fn new(device: &B, shape: Shape, keeps_argmax: bool, sets: usize) -> Self {
        let layout = shape.layout();
        let len = shape.batch_size * layout.width();
        Self {
            weights: drawn(device, layout.num_weights(), 1),
            batches: Batch::of_sets(device, &shape, sets),
            output: device.alloc(len).unwrap(),
            argmax: keeps_argmax.then(|| device.alloc(len).unwrap()),
            tables: device.tables(layout).unwrap(),
        }
    }

    /// Makes the inputs, and compares the output of the first set with that of the CPU.
    fn checked(device: &B, shape: Shape, keeps_argmax: bool, sets: usize) -> Self {
        let mut lookups = Self::new(device, shape, keeps_argmax, sets);
        if shape.is_large() {
            return lookups;
        }
        let cpu = Cpu::new().unwrap();
        let mut on_cpu = Lookups::<Cpu, E>::new(&cpu, shape, keeps_argmax, 1);
        on_cpu.run(&cpu, 0);
        lookups.run(device, 0);
        device.synchronize().unwrap();
        assert!(
            device.to_vec(&lookups.output).unwrap() == *on_cpu.output,
            "{shape:?} differs from the CPU"
        );
        lookups
    }

    /// Runs the op on a set, and returns the bytes that it moves with a read for each id.
    fn run(&mut self, device: &B, set: usize) -> usize {
        let (batch, width) = (&self.batches[set], self.tables.as_ref().width());
        let mut forward = Forward::new(
            &self.tables,
            B::view(&self.weights),
            batch.bags(),
            MatrixMut::contiguous(B::view_mut(&mut self.output), batch.batch_size, width),
        );
        let mut bytes = forward.bytes_moved();
        if let Some(argmax) = &mut self.argmax {
            bytes += batch.batch_size * width * 4;
            let argmax = B::view_mut(argmax);
            forward = forward.argmax(MatrixMut::contiguous(argmax, batch.batch_size, width));
        }
        forward.run(device).unwrap();
        bytes
    }
}
