//! What a CPU gives at best, on one thread and on all: a copy, rows gathered at random, a product
//! of matrices. What an op costs is to be seen against the one that bounds it: look-ups and updates
//! against the gather, layers and the interaction against the product.
#![allow(clippy::unwrap_used)]

// What runs on devices of every kind is not called here.
#[allow(unused_imports, unused_macros)]
mod common;

use bagdot::Cpu;
use bagdot::ops::linear::Forward;
use bagdot::ops::{Activation, Matrix, MatrixMut, Precision};
use common::{Ids, Shape, group, ids_of, settings, values};
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
    let (from, mut to) = (vec![1_f32; LEN], vec![0_f32; LEN]);
    group.throughput(Throughput::BytesDecimal(2 * 4 * LEN as u64));
    group.bench_function(name("copy 256 MiB"), |bencher| {
        let piece = LEN.div_ceil(threads);
        bencher.iter(|| {
            pool.install(|| {
                to.par_chunks_mut(piece)
                    .zip(from.par_chunks(piece))
                    .for_each(|(to, from)| to.copy_from_slice(from));
            })
        });
    });
    drop((from, to));

    // The rows of a batch of the shape that others are measured at, each read once from anywhere
    // and written in a row.
    let shape = Shape {
        num_tables: 26,
        num_embeddings: 100_000,
        dim: 64,
        batch_size: 2048,
        pooling_factor: 1,
        ids: Ids::Uniform,
    };
    let (dim, rows, count) =
        (shape.dim, shape.num_tables * shape.num_embeddings, shape.num_indices());
    const SETS: usize = 4;
    let table = values(rows * dim, 1);
    let ids: Vec<_> = (0..SETS).map(|set| ids_of(shape.ids, rows, count, set as u64)).collect();
    let mut gathered = vec![0_f32; count * dim];
    let mut set = 0;
    group.throughput(Throughput::BytesDecimal((count * dim * 4) as u64));
    group.bench_function(name(&format!("gather {count} rows of {} bytes", dim * 4)), |bencher| {
        let piece = count.div_ceil(threads);
        bencher.iter(|| {
            set = (set + 1) % SETS;
            pool.install(|| {
                gathered.par_chunks_mut(piece * dim).zip(ids[set].par_chunks(piece)).for_each(
                    |(gathered, ids)| {
                        for (row, &id) in gathered.chunks_exact_mut(dim).zip(ids) {
                            row.copy_from_slice(&table[id as usize * dim..][..dim]);
                        }
                    },
                );
            });
        });
    });
    drop((table, gathered));

    let [m, n, k] = [2048, 512, 512];
    let (input, weight, bias, mut output) =
        (values(m * k, 1), values(n * k, 2), values(n, 3), vec![0_f32; m * n]);
    group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
    group.bench_function(name(&format!("product m{m} n{n} k{k}, flops")), |bencher| {
        bencher.iter(|| {
            let (activation, precision) = (Activation::None, Precision::Full);
            let input = Matrix::contiguous(&input[..], m, k);
            let weight = Matrix::contiguous(&weight[..], n, k);
            let output = MatrixMut::contiguous(&mut output[..], m, n);
            Forward {
                input,
                weight,
                packed_weight: None,
                bias: &bias[..],
                activation,
                precision,
                output,
            }
            .run(&cpu)
            .unwrap();
        });
    });
}
