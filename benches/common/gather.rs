//! The floor of lookups: rows that are gathered and summed with the instructions, the memory, the
//! threads and the bytes of a lookup, and with nothing around them. `benches/compare_cpu` includes
//! this file, too, by its path.

use std::time::{Duration, Instant};

use bagdot::backend::cpu::{Buffer, floor::PooledGather};
use bagdot::ops::Device;
use bagdot::{Cpu, Element};

/// The prefetch distances in rows, and those in rows of the output, of which the fastest are taken.
const DISTANCES: ([usize; 8], [usize; 2]) = ([0, 4, 8, 16, 32, 64, 128, 256], [0, 16]);

/// The sizes of lookups in `num_tables` equal tables, each for one feature.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) num_tables: usize,
    pub(crate) num_embeddings: usize,
    pub(crate) dim: usize,
    pub(crate) batch_size: usize,
    pub(crate) pooling_factor: usize,
}

/// Gathers of several sets of rows.
pub(crate) struct Gather {
    cpu: Cpu,
    sizes: Sizes,
    /// The linear rows of each set, in the order in which the threads read them.
    numbers: Vec<Buffer<i64>>,
    /// The position of the first row of each bag.
    starts: Buffer<i64>,
    /// The sums, in the order of `numbers`.
    output: Buffer<f32>,
    /// The prefetch distances in rows and in rows of the output.
    prefetches: (usize, usize),
}

impl Gather {
    /// Makes a gather of sets of ids, which are key-major.
    pub(crate) fn new(cpu: &Cpu, sizes: Sizes, sets: &[&[i64]]) -> bagdot::Result<Self> {
        let Sizes { num_tables, num_embeddings, dim, batch_size, pooling_factor } = sizes;
        // Each thread has a run of samples and reads the same table at about the same time as the
        // others, as the op does: they find its rows in the cache that they share.
        let run = batch_size.div_ceil(cpu.num_threads()).max(1);
        let mut numbers = vec![];
        for ids in sets {
            let mut ordered = Vec::with_capacity(ids.len());
            for first in (0..batch_size).step_by(run) {
                let end = batch_size.min(first + run);
                for table in 0..num_tables {
                    let first_row = (table * num_embeddings) as i64;
                    let position = |sample: usize| (table * batch_size + sample) * pooling_factor;
                    ordered.extend(
                        ids[position(first)..position(end)].iter().map(|id| first_row + id),
                    );
                }
            }
            let mut buffer = cpu.alloc::<i64>(ordered.len())?;
            buffer.copy_from_slice(&ordered);
            numbers.push(buffer);
        }
        let num_bags = num_tables * batch_size;
        let mut starts = cpu.alloc::<i64>(num_bags)?;
        for (bag, start) in starts.iter_mut().enumerate() {
            *start = (bag * pooling_factor) as i64;
        }
        let output = cpu.alloc::<f32>(num_bags * dim)?;
        Ok(Self { cpu: cpu.clone(), sizes, numbers, starts, output, prefetches: (0, 0) })
    }

    /// Takes the fastest prefetch distances.
    pub(crate) fn tune<E: Element>(&mut self, rows: &[E]) {
        let mut best = (Duration::MAX, (0, 0));
        for distance in DISTANCES.0 {
            for distance_of_sums in DISTANCES.1 {
                self.prefetches = (distance, distance_of_sums);
                for run in 0..3 * self.numbers.len() {
                    let start = Instant::now();
                    self.run(rows, run);
                    best = best.min((start.elapsed(), self.prefetches));
                }
            }
        }
        self.prefetches = best.1;
    }

    /// Gathers the rows of a set.
    pub(crate) fn run<E: Element>(&mut self, rows: &[E], set: usize) {
        let gather = PooledGather {
            rows,
            dim: self.sizes.dim,
            numbers: &self.numbers[set % self.numbers.len()],
            starts: &self.starts,
            bag_len: self.sizes.pooling_factor,
            prefetch_rows: self.prefetches.0,
            prefetch_sums: self.prefetches.1,
        };
        gather.run(&self.cpu, &mut self.output);
    }

    /// Returns the bytes of rows, ids, offsets and output, as `embedding_bag::Forward` counts them.
    pub(crate) fn bytes<E: Element>(&self) -> usize {
        let Sizes { dim, pooling_factor, .. } = self.sizes;
        let (bags, ids) = (self.starts.len(), self.starts.len() * pooling_factor);
        ids * (dim * size_of::<E>() + 8) + (bags + 1) * 8 + bags * dim * 4
    }
}
