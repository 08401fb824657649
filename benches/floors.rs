//! The best that a CPU gives, on one thread and on all: a copy, a gather of rows, a product of
//! matrices. The cost of an op is to be seen against the one that bounds it: lookups and updates
//! against the gather, which moves the bytes of a lookup; layers and the interaction against the
//! product.
#![allow(clippy::unwrap_used)]

// The parts for devices of every kind are not called here.
#[allow(unused_imports, unused_macros)]
mod common;

use bagdot::Cpu;
use bagdot::ops::linear::Forward;
use bagdot::ops::{Matrix, MatrixMut};
use common::{Shape, criteo, gather_of, group, sets_of, settings, values};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;

criterion_group! { name = benches; config = settings(); targets = on_one_thread, on_all_threads }
criterion_main!(benches);

fn on_one_thread(criterion: &mut Criterion) {
    floors(criterion, 1);
}

fn on_all_threads(criterion: &mut Criterion) {
    floors(criterion, std::thread::available_parallelism().unwrap().get());
}

fn floors(criterion: &mut Criterion, threads: usize) {
    let cpu = Cpu::with_threads(threads).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut group = group(criterion, &cpu, "floors");
    let name = |what: &str| BenchmarkId::from_parameter(format!("{what} {threads} threads"));

    // More than caches hold; read and written.
    const LEN: usize = 64 << 20;
    let mut buffers = None;
    group.throughput(Throughput::BytesDecimal(2 * 4 * LEN as u64));
    group.bench_function(name("copy 256 MiB"), |bencher| {
        let (from, to) = buffers.get_or_insert_with(|| (vec![1_f32; LEN], vec![0_f32; LEN]));
        let piece = LEN.div_ceil(threads);
        bencher.iter(|| {
            pool.install(|| {
                to.par_chunks_mut(piece)
                    .zip(from.par_chunks(piece))
                    .for_each(|(to, from)| to.copy_from_slice(from));
            })
        });
    });
    drop(buffers);

    for shape in Shape::all::<Cpu>(&[criteo(64, 2048, 1), criteo(64, 2048, 20)]) {
        let sets = sets_of(shape.num_indices() * shape.dim * 4);
        let (mut inputs, mut set) = (None, 0);
        let (bags, ids) = (shape.num_bags(), shape.num_indices());
        let bytes = ids * (shape.dim * 4 + 8) + (bags + 1) * 8 + bags * shape.dim * 4;
        group.throughput(Throughput::BytesDecimal(bytes as u64));
        group.bench_function(name(&format!("gather {} f32", shape.name())), |bencher| {
            let (gather, rows) = inputs.get_or_insert_with(|| gather_of::<f32>(&cpu, &shape, sets));
            assert_eq!(gather.bytes::<f32>(), bytes);
            bencher.iter(|| {
                set += 1;
                gather.run(rows, set);
            });
        });
    }

    let [m, n, k] = [2048, 512, 512];
    let mut inputs = None;
    group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
    group.bench_function(name(&format!("product m{m} n{n} k{k}, flops")), |bencher| {
        let (input, weight, bias, output) = inputs.get_or_insert_with(|| {
            (values(m * k, 1), values(n * k, 2), values(n, 3), vec![0_f32; m * n])
        });
        bencher.iter(|| {
            Forward::new(
                Matrix::contiguous(&input[..], m, k),
                Matrix::contiguous(&weight[..], n, k),
                &bias[..],
                MatrixMut::contiguous(&mut output[..], m, n),
            )
            .run(&cpu)
            .unwrap();
        });
    });
}
