//! The best that a CPU gives, on one thread and on all: a copy, rows gathered at random, a product
//! of matrices. The cost of an op is to be seen against the one that bounds it: lookups and updates
//! against the gather, layers and the interaction against the product.
#![allow(clippy::unwrap_used)]

// The parts for devices of every kind are not called here.
#[allow(unused_imports, unused_macros)]
mod common;

use bagdot::Cpu;
use bagdot::ops::linear::Forward;
use bagdot::ops::{Matrix, MatrixMut};
use common::{Ids, group, ids_of, settings, values};
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

    // The rows of a batch of the shape that the ops are measured at, 26 tables of 100,000 rows and
    // 2048 samples. Each is read once from anywhere, and written in a row.
    const DIM: usize = 64;
    const ROWS: usize = 26 * 100_000;
    const COUNT: usize = 26 * 2048;
    const SETS: usize = 4;
    let mut inputs = None;
    let mut set = 0;
    group.throughput(Throughput::BytesDecimal((COUNT * DIM * 4) as u64));
    group.bench_function(name(&format!("gather {COUNT} rows of {} bytes", DIM * 4)), |bencher| {
        let (table, ids, gathered) = inputs.get_or_insert_with(|| {
            let ids = |set| ids_of(Ids::Uniform, ROWS, COUNT, set as u64);
            let ids: Vec<_> = (0..SETS).map(ids).collect();
            (values(ROWS * DIM, 1), ids, vec![0_f32; COUNT * DIM])
        });
        let piece = COUNT.div_ceil(threads);
        bencher.iter(|| {
            set = (set + 1) % SETS;
            pool.install(|| {
                gathered.par_chunks_mut(piece * DIM).zip(ids[set].par_chunks(piece)).for_each(
                    |(gathered, ids)| {
                        for (row, &id) in gathered.chunks_exact_mut(DIM).zip(ids) {
                            row.copy_from_slice(&table[id as usize * DIM..][..DIM]);
                        }
                    },
                );
            });
        });
    });
    drop(inputs);

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
