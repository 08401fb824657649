//! The parts that the benchmarks share: devices that time themselves, and batches of ids.
//!
//! A benchmark of an op goes over several sets of inputs in turn, more than caches hold. It makes
//! them when it is measured for the first time, so that `--list` and benchmarks that the filter
//! leaves out cost nothing.
//!
//! `BAGDOT_BENCH_SHAPE` replaces the published shapes: `d128 b4096` is a shape whose other numbers
//! are those of the first published one, and `d64; d128` are two shapes. The letters are those in
//! the names of the benchmarks.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "cuda")]
mod cuda;
mod gather;
pub mod model;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use bagdot::backend::cpu::Buffer;
use bagdot::nn::ComputePrecision;
use bagdot::ops::{Bags, Device, Pooling, Precision, Table, TableBatch};
use bagdot::{Cpu, Element, Index};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime};
use gather::{Gather, Sizes};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Uniform, Zipf};
use rayon::prelude::*;

/// The least number of bytes of all sets of inputs of a benchmark together: several times the
/// last-level cache of any device.
const ROTATED_BYTES: usize = 256 << 20;

/// A device that measures the time of what runs on it.
pub trait Timed: Device {
    /// The name of the device in names of benchmarks.
    const NAME: &'static str;

    /// The precisions in which the layers of whole models are measured.
    const PRECISIONS: &'static [ComputePrecision];

    /// Returns this device once for each implementation of matrix products that it has, with a
    /// suffix for names of benchmarks.
    fn with_each_gemm(&self) -> Vec<(Self, &'static str)> {
        vec![(self.clone(), "")]
    }

    /// Returns the time of `iterations` calls of `op`, which takes the numbers of `sets` in turn.
    fn time(&self, iterations: u64, sets: usize, op: &mut dyn FnMut(usize)) -> Duration;

    /// Measures the floor of lookups of a shape, where the device has one.
    fn floor_of_lookups<E: Element>(&self, _shape: &Shape, _sets: usize) -> Option<Floor> {
        None
    }
}

/// The floor of lookups.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    pub bytes: usize,
    pub time: Duration,
}

impl Floor {
    /// Prints the rate of an op, which moved `bytes` bytes in `time`, as a share of this rate.
    pub fn print_share(&self, bytes: usize, time: Duration) {
        let rate = |bytes: usize, time: Duration| bytes as f64 / time.as_secs_f64();
        let share = rate(bytes, time) / rate(self.bytes, self.time);
        println!("{:24}{:.0} % of gather ({:.3?})", "", 100.0 * share, self.time);
    }
}

impl Timed for Cpu {
    const NAME: &'static str = "cpu";
    /// The CPU computes TF32 as f32, so that it is left out.
    const PRECISIONS: &'static [ComputePrecision] =
        &[ComputePrecision::F32, ComputePrecision::BF16];

    fn time(&self, iterations: u64, sets: usize, op: &mut dyn FnMut(usize)) -> Duration {
        let start = Instant::now();
        for iteration in 0..iterations {
            op(iteration as usize % sets);
        }
        start.elapsed()
    }

    fn floor_of_lookups<E: Element>(&self, shape: &Shape, sets: usize) -> Option<Floor> {
        const RUNS: usize = 51;
        let (mut gather, rows) = gather_of::<E>(self, shape, sets);
        let mut times: Vec<Duration> = (0..RUNS)
            .map(|set| {
                let start = Instant::now();
                gather.run(&rows, set);
                start.elapsed()
            })
            .collect();
        times.sort();
        Some(Floor { bytes: gather.bytes::<E>(), time: times[RUNS / 2] })
    }
}

/// Makes the floor of lookups of a shape, with its rows.
pub(crate) fn gather_of<E: Element>(cpu: &Cpu, shape: &Shape, sets: usize) -> (Gather, Buffer<E>) {
    let &Shape { num_tables, num_embeddings, dim, batch_size, pooling_factor, .. } = shape;
    let sizes = Sizes { num_tables, num_embeddings, dim, batch_size, pooling_factor };
    let ids: Vec<_> = (0..sets).into_par_iter().map(|set| shape.indices(set)).collect();
    let sets: Vec<_> = ids.iter().map(|ids| &ids[..]).collect();
    let mut gather = Gather::new(cpu, sizes, &sets).unwrap();
    let rows = upload(cpu, &elements::<E>(shape.layout().num_weights(), 1));
    gather.tune(&rows);
    (gather, rows)
}

/// Makes a program that runs the benchmarks on the CPU, and on a CUDA device if there is one.
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
        criterion::criterion_group! {
            name = benches;
            config = crate::common::settings();
            targets = on_cuda, on_cpu
        }
        criterion::criterion_main!(benches);
    };
}
pub(crate) use benchmark_on_every_device;

/// Returns settings for few and short samples: there are many benchmarks, and medians settle soon.
/// Resampling gives only their confidence intervals, and by default takes as long as the samples.
pub fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .without_plots()
}

/// Begins the benchmarks of an op on a device, which are named `op/device/shape`.
pub fn group<'c, B: Timed>(
    criterion: &'c mut Criterion,
    _device: &B,
    op: &str,
) -> BenchmarkGroup<'c, WallTime> {
    criterion.benchmark_group(format!("{op}/{}", B::NAME))
}

/// Measures an op that moves `bytes` bytes at least. It takes the numbers of `sets` in turn, makes
/// its inputs at the first call, and returns the number of bytes that its arguments say. The result
/// is the median time of a call, or `None` if the filter leaves the benchmark out.
pub fn measure<B: Timed>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    device: &B,
    shape: &str,
    sets: usize,
    bytes: usize,
    mut op: impl FnMut(usize) -> usize,
) -> Option<Duration> {
    let throughput = Throughput::BytesDecimal(bytes as u64);
    measure_at(group, device, (shape, throughput), sets, |set| assert_eq!(op(set), bytes))
}

/// Measures an op as [`measure`] does. Besides the bytes that its arguments say, it returns the
/// least number of bytes that it can move: each distinct row of a table counts once. The latter is
/// noted under the name of the op ([`note_floor`]).
pub fn measure_with_floor<B: Timed>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    device: &B,
    (op_name, shape): (&str, &str),
    sets: usize,
    bytes: usize,
    mut op: impl FnMut(usize) -> (usize, usize),
) -> Option<Duration> {
    let mut is_noted = false;
    measure(group, device, shape, sets, bytes, |set| {
        let (moved, floor) = op(set);
        if !is_noted {
            note_floor::<B>(op_name, shape, floor);
            is_noted = true;
        }
        moved
    })
}

/// Prints the least number of bytes that the op of a benchmark can move as a line of JSON, and
/// appends the line to floors.jsonl in the folder `CRITERION_HOME`, if that is set.
/// gpu_compare.py reads it there.
pub fn note_floor<B: Timed>(op: &str, shape: &str, floor: usize) {
    let device = B::NAME;
    let line = format!(r#"{{"op": "{op}/{device}", "shape": "{shape}", "floor_bytes": {floor}}}"#);
    eprintln!("{line}");
    let Some(folder) = std::env::var_os("CRITERION_HOME") else { return };
    std::fs::create_dir_all(&folder).unwrap();
    let path = Path::new(&folder).join("floors.jsonl");
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// Measures an op that processes a batch of `batch_size` samples. It takes the numbers of `sets` in
/// turn and makes its inputs at the first call.
pub fn measure_samples<B: Timed>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    device: &B,
    (shape, batch_size): (&str, usize),
    sets: usize,
    op: impl FnMut(usize),
) {
    measure_at(group, device, (shape, Throughput::Elements(batch_size as u64)), sets, op);
}

fn measure_at<B: Timed>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    device: &B,
    (shape, throughput): (&str, Throughput),
    sets: usize,
    mut op: impl FnMut(usize),
) -> Option<Duration> {
    group.throughput(throughput);
    let mut has_run = false;
    let mut times = vec![];
    // criterion calls this for each sample, and never if the filter leaves the benchmark out.
    group.bench_function(BenchmarkId::from_parameter(shape), |bencher| {
        if !has_run {
            op(0);
            device.synchronize().unwrap();
            has_run = true;
        }
        bencher.iter_custom(|iterations| {
            let time = device.time(iterations, sets, &mut op);
            times.push(time.div_f64(iterations as f64));
            time
        });
    });
    times.sort();
    times.get(times.len() / 2).copied()
}

/// Returns the shapes to measure, as numbers in the order of `letters`: those of
/// `BAGDOT_BENCH_SHAPE`, or else the published ones.
pub fn shapes<const N: usize>(letters: [&str; N], published: &[[usize; N]]) -> Vec<[usize; N]> {
    let Ok(text) = std::env::var("BAGDOT_BENCH_SHAPE") else { return published.to_vec() };
    let shape = |text: &str| {
        let mut shape = published[0];
        for word in text.split_whitespace() {
            let (letter, number) =
                word.split_at(word.find(|c: char| c.is_ascii_digit()).unwrap_or(0));
            let at = letters.iter().position(|&known| known == letter);
            let number = number.parse().ok().filter(|&number| number > 0);
            let (Some(at), Some(number)) = (at, number) else {
                panic!("BAGDOT_BENCH_SHAPE: {word:?} is not a number of one of {letters:?}");
            };
            shape[at] = number;
        }
        shape
    };
    text.split(';').map(shape).collect()
}

/// Returns the name of the arithmetic in which an op computes its products.
pub fn arithmetic<E: Element>(precision: Precision) -> String {
    if precision == Precision::Tf32 { "tf32".to_owned() } else { E::DTYPE.to_string() }
}

/// Returns the number of sets of inputs of this many bytes that no cache holds.
pub fn sets_of(bytes: usize) -> usize {
    ROTATED_BYTES.div_ceil(bytes.max(1)).clamp(2, 16)
}

pub fn upload<B: Device, T: bagdot::Scalar>(device: &B, values: &[T]) -> B::Buffer<T> {
    device.to_device(values).unwrap()
}

/// Returns values that are uniform in [-1, 1). They are never all zeros, with which a device can be
/// faster than with the values that people have.
pub fn values(len: usize, seed: u64) -> Vec<f32> {
    let uniform = Uniform::new(-1.0, 1.0).unwrap();
    let mut values = vec![0.0; len];
    values.par_chunks_mut(1 << 16).enumerate().for_each(|(chunk, values)| {
        let random = SmallRng::seed_from_u64(seed << 32 | chunk as u64);
        values
            .iter_mut()
            .zip(uniform.sample_iter(random))
            .for_each(|(value, drawn)| *value = drawn);
    });
    values
}

/// Returns such values in another type.
pub fn elements<E: Element>(len: usize, seed: u64) -> Vec<E> {
    values(len, seed).into_par_iter().map(E::from_f32).collect()
}

/// Returns a buffer of such values, of any size: the host never holds more than a piece of them.
/// Another device gets the same values for the same seed.
pub fn drawn<B: Device, E: Element>(device: &B, len: usize, seed: u64) -> B::Buffer<E> {
    const PIECE: usize = 1 << 26;
    let mut buffer = device.alloc(len).unwrap();
    for (piece, start) in (0..len).step_by(PIECE).enumerate() {
        let end = len.min(start + PIECE);
        let values: Vec<E> = elements(end - start, seed << 16 | piece as u64);
        device.upload(&values, B::slice_mut(&mut buffer, start..end)).unwrap();
    }
    buffer
}

/// The distribution of the ids of a batch over the rows of their table.
#[derive(Clone, Copy, Debug)]
pub enum Ids {
    Uniform,
    /// Frequencies fall with the power 1.05 of the rank; which row has which rank is random.
    Zipf,
}

/// The shape of a batch: `num_tables` equal tables, each looked up by one feature.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub num_tables: usize,
    pub num_embeddings: usize,
    pub dim: usize,
    pub batch_size: usize,
    pub pooling_factor: usize,
    pub ids: Ids,
    pub pooling: Pooling,
}

/// Returns the numbers of a shape with as many tables as Criteo has, in the order of
/// [`Shape::all`].
pub const fn criteo(dim: usize, batch_size: usize, pooling_factor: usize) -> [usize; 5] {
    [26, 100_000, dim, batch_size, pooling_factor]
}

/// The shape at which FBGEMM's lookup and updates are compared in public: 1,048,570 ids.
pub const FBGEMM: [usize; 5] = [10, 1_677_721, 128, 104_857, 1];

/// The number of weights from which on tables are large: they are measured in f32 alone, and a CPU
/// does not check them.
const LARGE: usize = 1 << 30;

impl Shape {
    /// Returns the shapes to measure on a device, with ids of both distributions. `published` gives
    /// tables, rows of each, dimension, batch size and pooling factor of each shape.
    pub fn all<B: Timed>(published: &[[usize; 5]]) -> Vec<Self> {
        let numbers = shapes(["t", "r", "d", "b", "l"], &for_device::<B, 5>(published, 3));
        let with_ids = |ids| {
            numbers.iter().map(move |&[t, r, d, b, l]| Self {
                num_tables: t,
                num_embeddings: r,
                dim: d,
                batch_size: b,
                pooling_factor: l,
                ids,
                pooling: Pooling::Sum,
            })
        };
        [Ids::Uniform, Ids::Zipf].into_iter().flat_map(with_ids).collect()
    }

    pub fn name(&self) -> String {
        let Self { num_tables, num_embeddings, dim, batch_size, pooling_factor, ids, .. } = self;
        let max = if self.pooling == Pooling::Max { " max" } else { "" };
        format!(
            "T{num_tables} R{num_embeddings} D{dim} B{batch_size} L{pooling_factor} {ids:?}{max}"
        )
        .to_lowercase()
    }

    pub fn is_large(&self) -> bool {
        self.num_tables * self.num_embeddings * self.dim >= LARGE
    }

    pub fn layout(&self) -> TableBatch {
        let table = Table { num_embeddings: self.num_embeddings, embedding_dim: self.dim };
        TableBatch::one_feature_each(vec![table; self.num_tables], self.pooling).unwrap()
    }

    pub fn num_bags(&self) -> usize {
        self.num_tables * self.batch_size
    }

    pub fn num_indices(&self) -> usize {
        self.num_bags() * self.pooling_factor
    }

    /// Returns a set of ids, key-major.
    pub fn indices(&self, set: usize) -> Vec<i64> {
        ids_of(self.ids, self.num_embeddings, self.num_indices(), set as u64)
    }
}

/// Leaves out the shapes with batches of more than 2048 samples on a CPU: they are for devices that
/// have the bandwidth. The batch size is number `at` of a shape.
pub fn for_device<B: Timed, const N: usize>(shapes: &[[usize; N]], at: usize) -> Vec<[usize; N]> {
    let is_wanted = |shape: &&[usize; N]| B::NAME != Cpu::NAME || shape[at] <= 2048;
    shapes.iter().filter(is_wanted).copied().collect()
}

/// Draws `count` ids of a table of `rows` rows. The row of each rank is the same for every seed.
pub fn ids_of(ids: Ids, rows: usize, count: usize, seed: u64) -> Vec<i64> {
    let mut random = SmallRng::seed_from_u64(seed);
    match ids {
        Ids::Uniform => (0..count).map(|_| random.random_range(0..rows as i64)).collect(),
        Ids::Zipf => {
            let mut row_of_rank: Vec<i64> = (0..rows as i64).collect();
            row_of_rank.shuffle(&mut SmallRng::seed_from_u64(0));
            let ranks = Zipf::new(rows as f64, 1.05).unwrap().sample_iter(random);
            ranks.take(count).map(|rank| row_of_rank[rank as usize - 1]).collect()
        }
    }
}

/// Returns the number of rows that ids name, of which `of_table` belong to each table.
fn distinct_rows(ids: &[i64], of_table: usize) -> usize {
    let count = |ids: &[i64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    };
    ids.par_chunks(of_table).map(count).sum()
}

/// A set of ids on a device.
pub struct Batch<B: Device, I: Index> {
    pub indices: B::Buffer<I>,
    pub offsets: B::Buffer<I>,
    pub batch_size: usize,
    /// The number of rows that the ids name, each counted once.
    pub distinct_rows: usize,
}

impl<B: Device> Batch<B, i64> {
    /// Returns a batch for each of so many sets of ids.
    pub fn of_sets(device: &B, shape: &Shape, sets: usize) -> Vec<Self> {
        let bags = shape.num_bags() as i64;
        let offsets: Vec<i64> = (0..=bags).map(|bag| bag * shape.pooling_factor as i64).collect();
        let indices: Vec<_> = (0..sets).into_par_iter().map(|set| shape.indices(set)).collect();
        let batch = |indices: Vec<i64>| Self {
            indices: upload(device, &indices),
            offsets: upload(device, &offsets),
            batch_size: shape.batch_size,
            distinct_rows: distinct_rows(&indices, shape.batch_size * shape.pooling_factor),
        };
        indices.into_iter().map(batch).collect()
    }

    /// Returns the mean over batches of the number of distinct rows.
    pub fn mean_distinct_rows(batches: &[Self]) -> usize {
        batches.iter().map(|batch| batch.distinct_rows).sum::<usize>() / batches.len()
    }

    pub fn bags(&self) -> Bags<'_, B, i64> {
        Bags::new(self.batch_size, B::view(&self.indices), B::view(&self.offsets))
    }
}
