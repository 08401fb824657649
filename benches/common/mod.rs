//! What the benchmarks share: devices that time themselves, and batches of ids.
//!
//! Every benchmark of an op goes over several sets of inputs in turn, more than caches hold, and
//! checks the result of the first set against the CPU before any time is taken.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "cuda")]
mod cuda;
pub mod model;

use std::time::{Duration, Instant};

use bagdot::nn::ComputePrecision;
use bagdot::ops::{Bags, Device, Feature, Pooling, Precision, Table, TableBatch};
use bagdot::{Cpu, Element, Index, Philox};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime};
use rayon::prelude::*;

/// Bytes that all sets of inputs of a benchmark have together, at least: several times the
/// last-level cache of any device.
const ROTATED_BYTES: usize = 256 << 20;

/// A device that takes the time of what runs on it.
pub trait Timed: Device {
    /// How benchmarks on it are called.
    const NAME: &'static str;

    /// What layers of whole models are measured in.
    const PRECISIONS: &'static [ComputePrecision];

    /// This device for each that can multiply matrices on it, with a word for names of benchmarks.
    fn with_each_gemm(&self) -> Vec<(Self, &'static str)> {
        vec![(self.clone(), "")]
    }

    /// The time of `iterations` calls of `op`, which is given the numbers of `sets` in turn.
    fn time(&self, iterations: u64, sets: usize, op: &mut dyn FnMut(usize)) -> Duration;

    /// The device's own way to copy so many bytes.
    fn copier(&self, bytes: usize) -> Box<dyn FnMut() + '_>;
}

impl Timed for Cpu {
    const NAME: &'static str = "cpu";
    /// Tf32 is f32 here.
    const PRECISIONS: &'static [ComputePrecision] =
        &[ComputePrecision::F32, ComputePrecision::BF16];

    fn time(&self, iterations: u64, sets: usize, op: &mut dyn FnMut(usize)) -> Duration {
        let start = Instant::now();
        for iteration in 0..iterations {
            op(iteration as usize % sets);
        }
        start.elapsed()
    }

    fn copier(&self, bytes: usize) -> Box<dyn FnMut() + '_> {
        let (from, mut to) = (vec![1_u64; bytes / 8], vec![0_u64; bytes / 8]);
        Box::new(move || {
            let piece = from.len().div_ceil(rayon::current_num_threads());
            to.par_chunks_mut(piece)
                .zip(from.par_chunks(piece))
                .for_each(|(to, from)| to.copy_from_slice(from));
        })
    }
}

/// Runs `benches` on the CPU, and on a CUDA device where there is one.
macro_rules! benchmark_on_every_device {
    ($($bench:ident),+ $(,)?) => {
        fn on_cpu(criterion: &mut criterion::Criterion) {
            let device = bagdot::Cpu::new().unwrap();
            $($bench(criterion, &device);)+
        }
        fn on_cuda(criterion: &mut criterion::Criterion) {
            #[cfg(feature = "cuda")]
            match bagdot::Cuda::new(0) {
                Ok(device) => { $($bench(criterion, &device);)+ }
                Err(error) => eprintln!("no benchmarks on a CUDA device: {error}"),
            }
            let _ = criterion;
        }
        criterion::criterion_group! { name = benches; config = crate::common::settings(); targets = on_cuda, on_cpu }
        criterion::criterion_main!(benches);
    };
}
pub(crate) use benchmark_on_every_device;

/// Few and short samples: there are many benchmarks, and medians settle soon.
pub fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .without_plots()
}

/// The benchmarks of an op on a device, named `op/device/shape`.
pub fn group<'c, B: Timed>(
    criterion: &'c mut Criterion,
    _device: &B,
    op: &str,
) -> BenchmarkGroup<'c, WallTime> {
    criterion.benchmark_group(format!("{op}/{}", B::NAME))
}

/// Measures an op, which is given the numbers of `sets` in turn and tells how many bytes it moves
/// at least.
pub fn measure<B: Timed>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    device: &B,
    shape: &str,
    sets: usize,
    mut op: impl FnMut(usize) -> usize,
) {
    group.throughput(Throughput::BytesDecimal(op(0) as u64));
    device.synchronize().unwrap();
    group.bench_function(BenchmarkId::from_parameter(shape), |bencher| {
        bencher.iter_custom(|iterations| device.time(iterations, sets, &mut |set| _ = op(set)));
    });
}

/// Measures what takes a batch of so many samples, and is given the numbers of `sets` in turn.
pub fn measure_samples<B: Timed>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    device: &B,
    (shape, batch_size): (&str, usize),
    sets: usize,
    mut op: impl FnMut(usize),
) {
    group.throughput(Throughput::Elements(batch_size as u64));
    op(0);
    device.synchronize().unwrap();
    group.bench_function(BenchmarkId::from_parameter(shape), |bencher| {
        bencher.iter_custom(|iterations| device.time(iterations, sets, &mut op));
    });
}

/// How a name says in what the products of an op are computed.
pub fn arithmetic<E: Element>(precision: Precision) -> String {
    if precision == Precision::Tf32 { "tf32".to_owned() } else { E::DTYPE.to_string() }
}

/// How many sets of inputs of so many bytes no cache holds.
pub fn sets_of(bytes: usize) -> usize {
    ROTATED_BYTES.div_ceil(bytes.max(1)).clamp(2, 16)
}

pub fn upload<B: Device, T: bagdot::Scalar>(device: &B, values: &[T]) -> B::Buffer<T> {
    let mut buffer = device.alloc(values.len()).unwrap();
    device.upload(values, B::view_mut(&mut buffer)).unwrap();
    buffer
}

/// Values in [-1, 1): cheap, since there are many, and never zeros, which can be faster than what
/// people have.
pub fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; len];
    values.par_chunks_mut(1 << 16).enumerate().for_each(|(chunk, values)| {
        let mut state = (seed << 32 | chunk as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for value in values {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *value = (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
        }
    });
    values
}

/// How the ids of a batch are spread over the rows of their table.
#[derive(Clone, Copy, Debug)]
pub enum Ids {
    Uniform,
    /// Frequencies fall with the power 1.05 of the rank; which row has which rank is random.
    Zipf,
}

/// The shape of a batch: `num_tables` tables alike, each looked up by one feature.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub num_tables: usize,
    pub num_embeddings: usize,
    pub dim: usize,
    pub batch_size: usize,
    pub pooling_factor: usize,
    pub ids: Ids,
}

impl Shape {
    pub fn name(&self) -> String {
        let Self { num_tables, num_embeddings, dim, batch_size, pooling_factor, ids } = self;
        format!("T{num_tables} R{num_embeddings} D{dim} B{batch_size} L{pooling_factor} {ids:?}")
            .to_lowercase()
    }

    pub fn layout(&self) -> TableBatch {
        let table = Table { num_embeddings: self.num_embeddings, embedding_dim: self.dim };
        let feature = |table| Feature { table, pooling: Pooling::Sum, padding_idx: None };
        TableBatch::new(vec![table; self.num_tables], (0..self.num_tables).map(feature).collect())
            .unwrap()
    }

    pub fn num_indices(&self) -> usize {
        self.num_tables * self.batch_size * self.pooling_factor
    }

    /// A set of ids, key-major.
    pub fn indices(&self, set: usize) -> Vec<i64> {
        ids_of(self.ids, self.num_embeddings, self.num_indices(), set as u64)
    }
}

/// So many ids of a table, drawn from a seed; which row has which rank is the same for every seed.
pub fn ids_of(ids: Ids, rows: usize, count: usize, seed: u64) -> Vec<i64> {
    let mut random = Philox::new(seed, 1);
    match ids {
        Ids::Uniform => (0..count).map(|_| random.below(rows as u64) as i64).collect(),
        Ids::Zipf => {
            let mut total = 0.0;
            let mut add = |rank: usize| {
                total += (rank as f64).powf(-1.05);
                total
            };
            let distribution: Vec<f64> = (1..=rows).map(&mut add).collect();
            let mut row_of_rank: Vec<i64> = (0..rows as i64).collect();
            let mut shuffle = Philox::new(0, 2);
            for k in (1..rows).rev() {
                row_of_rank.swap(k, shuffle.below(k as u64 + 1) as usize);
            }
            let mut draw =
                || distribution.partition_point(|&below| below < random.uniform() * total);
            (0..count).map(|_| row_of_rank[draw().min(rows - 1)]).collect()
        }
    }
}

/// A set of ids on a device.
pub struct Batch<B: Device, I: Index> {
    pub indices: B::Buffer<I>,
    pub offsets: B::Buffer<I>,
    pub batch_size: usize,
}

impl<B: Device> Batch<B, i64> {
    /// Batches with the ids of so many sets.
    pub fn of_sets(device: &B, shape: &Shape, sets: usize) -> Vec<Self> {
        let bags = (shape.num_tables * shape.batch_size) as i64;
        let offsets: Vec<i64> = (0..=bags).map(|bag| bag * shape.pooling_factor as i64).collect();
        let indices: Vec<_> = (0..sets).into_par_iter().map(|set| shape.indices(set)).collect();
        let batch = |indices: Vec<i64>| Self {
            indices: upload(device, &indices),
            offsets: upload(device, &offsets),
            batch_size: shape.batch_size,
        };
        indices.into_iter().map(batch).collect()
    }

    pub fn bags(&self) -> Bags<'_, B, i64> {
        Bags {
            batch_size: self.batch_size,
            indices: B::view(&self.indices),
            has_slack: false,
            offsets: B::view(&self.offsets),
            per_sample_weights: None,
        }
    }
}
