//! The floor of [`embedding_bag`](crate::ops::embedding_bag), for benchmarks: a loop that moves the
//! bytes of a lookup and does nothing else. It is no op, and no part of the public API.
//!
//! The caller gives what an op must find out: linear rows in place of ids, in the order in which
//! each thread reads them, bags of equal length, and the prefetch distances that suit the machine.
//! Nothing is checked beforehand, and the output is written in that order. Stores go through the
//! caches, as those of the op do, since the next op reads the output.

use std::ops::Range;

use super::Cpu;
use super::compute::vector::{Blocks, for_each_block, load, store};
use super::runtime::erased::{Elements, with_elements};
use crate::dtype::Element;
use crate::simd::{LANES, Lanes, Loop, prefetch_output, prefetch_row};

/// The arguments of a gather: row `k` of the output is the sum of `bag_len` rows.
#[derive(Clone, Copy, Debug)]
pub struct PooledGather<'a, E> {
    /// The rows of all tables, one after another.
    pub rows: &'a [E],
    /// The elements of a row.
    pub dim: usize,
    /// The linear rows that are summed, bag after bag. Numbers without a row are left out.
    pub numbers: &'a [i64],
    /// The position in `numbers` of the first row of each bag.
    pub starts: &'a [i64],
    /// The number of rows of each bag.
    pub bag_len: usize,
    /// The prefetch distance in rows; 0 for no prefetches.
    pub prefetch_rows: usize,
    /// The prefetch distance in rows of the output; 0 for no prefetches.
    pub prefetch_sums: usize,
}

impl<E: Element> PooledGather<'_, E> {
    /// Writes the sum of each bag to its row of `output`. Each thread writes one run of rows.
    pub fn run(self, cpu: &Cpu, output: &mut [f32]) {
        let Self { rows, dim, numbers, starts, bag_len, prefetch_rows, prefetch_sums } = self;
        let rows = Elements::of(rows);
        with_elements!(rows => {
            PooledGather { rows, dim, numbers, starts, bag_len, prefetch_rows, prefetch_sums }
                .run_typed(cpu, output)
        });
    }

    fn run_typed(self, cpu: &Cpu, output: &mut [f32]) {
        let bags = self.starts.len();
        let run = bags.div_ceil(cpu.num_threads());
        cpu.for_each_rows(output, bags, run, self.dim, |first, output| {
            cpu.dispatch.run(Sums { gather: self, first, output });
        });
    }

    /// Returns the row of this number.
    #[inline(always)]
    fn row(&self, number: i64) -> Option<&[E]> {
        self.rows.get((number as usize).wrapping_mul(self.dim)..)?.get(..self.dim)
    }

    /// Prefetches some columns of the row that is read `prefetch_rows` rows later.
    #[inline(always)]
    fn prefetch(&self, position: usize, columns: &Range<usize>) {
        if self.prefetch_rows > 0
            && let Some(&number) = self.numbers.get(position + self.prefetch_rows)
        {
            let first = (number as usize).wrapping_mul(self.dim).wrapping_add(columns.start);
            prefetch_row(self.rows, first, columns.len());
        }
    }

    /// Prefetches the row of `output` that is written `prefetch_sums` rows after row `k`.
    #[inline(always)]
    fn prefetch_sum(&self, output: &[f32], k: usize) {
        if self.prefetch_sums > 0 {
            prefetch_output(output, (k + self.prefetch_sums) * self.dim, self.dim);
        }
    }

    /// Returns the position of the first row of a bag, and the numbers of its rows.
    #[inline(always)]
    fn bag(&self, start: i64) -> (usize, &[i64]) {
        let start = start as usize;
        let numbers = self.numbers.get(start..start.wrapping_add(self.bag_len));
        (start, numbers.unwrap_or_default())
    }
}

/// The sums of some bags.
struct Sums<'a, 'o, E> {
    gather: PooledGather<'a, E>,
    /// The first bag.
    first: usize,
    /// The sums, a row for each bag.
    output: &'o mut [f32],
}

impl<E: Element> Loop for Sums<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        match self.gather.dim {
            16 if V::UNROLLS_ROWS => self.sum::<V, 1>(lanes),
            32 if V::UNROLLS_ROWS => self.sum::<V, 2>(lanes),
            64 if V::UNROLLS_ROWS => self.sum::<V, 4>(lanes),
            _ => self.sum_by_blocks(lanes),
        }
    }
}

impl<E: Element> Sums<'_, '_, E> {
    /// Sums rows of `N` vectors, which fit the registers as a whole.
    #[inline(always)]
    fn sum<V: Lanes, const N: usize>(self, lanes: V) {
        let Self { gather, first, output } = self;
        let bags = output.len() / (N * LANES);
        for (k, start) in gather.starts[first..].iter().take(bags).enumerate() {
            gather.prefetch_sum(output, k);
            let (bag, sum) = (gather.bag(*start), &mut output[k * N * LANES..][..N * LANES]);
            BagSum { gather: &gather, lanes, bag, sum }.block::<N, true>(0..N * LANES);
        }
    }

    /// Sums rows of any width, block by block.
    #[inline(always)]
    fn sum_by_blocks<V: Lanes>(self, lanes: V) {
        let Self { gather, first, output } = self;
        let bags = output.len() / gather.dim;
        for (k, start) in gather.starts[first..].iter().take(bags).enumerate() {
            gather.prefetch_sum(output, k);
            let (bag, sum) = (gather.bag(*start), &mut output[k * gather.dim..][..gather.dim]);
            for_each_block::<V>(gather.dim, &mut BagSum { gather: &gather, lanes, bag, sum });
        }
    }
}

/// The sum of a bag, block by block.
struct BagSum<'a, 'g, V, E> {
    gather: &'g PooledGather<'a, E>,
    lanes: V,
    /// The position of the bag's first row, and the numbers of all its rows.
    bag: (usize, &'g [i64]),
    /// The sum.
    sum: &'g mut [f32],
}

impl<V: Lanes, E: Element> Blocks for BagSum<'_, '_, V, E> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        let Self { gather, lanes, bag: (position, numbers), .. } = *self;
        let mut sums = [lanes.splat(0.0); N];
        for (k, &number) in numbers.iter().enumerate() {
            gather.prefetch(position + k, &columns);
            let Some(row) = gather.row(number) else { continue };
            let row = load::<V, E, N, WHOLE>(lanes, &row[columns.clone()]);
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum = lanes.add(*sum, x);
            }
        }
        store::<V, f32, N, WHOLE>(lanes, sums, &mut self.sum[columns]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Simd, bf16, f16};

    /// Compares the sums of a gather with those of plain loops. The elements are small integers, so
    /// that no sum is rounded.
    fn compare<E: Element>(cpu: &Cpu, dim: usize, bag_len: usize, prefetch: usize) {
        let (num_rows, bags) = (50, 23);
        let rows: Vec<E> = (0..num_rows * dim).map(|k| E::from_f32((k % 31) as f32)).collect();
        let mut numbers: Vec<i64> =
            (0..bags * bag_len).map(|k| (k * 7 % num_rows) as i64).collect();
        // These have no row.
        (numbers[0], numbers[bag_len]) = (-1, num_rows as i64);
        let starts: Vec<i64> = (0..bags).map(|bag| (bag * bag_len) as i64).collect();
        let mut output = vec![f32::NAN; bags * dim];
        let gather = PooledGather {
            rows: &rows[..],
            dim,
            numbers: &numbers,
            starts: &starts,
            bag_len,
            prefetch_rows: prefetch,
            prefetch_sums: prefetch,
        };
        gather.run(cpu, &mut output);
        for (bag, sum) in output.chunks(dim).enumerate() {
            for (column, sum) in sum.iter().enumerate() {
                let want: f32 = numbers[bag * bag_len..][..bag_len]
                    .iter()
                    .filter(|&&number| (0..num_rows as i64).contains(&number))
                    .map(|&number| rows[number as usize * dim + column].to_f32())
                    .sum();
                assert_eq!(*sum, want, "dim {dim}, bag {bag} of {bag_len}, column {column}");
            }
        }
    }

    #[test]
    fn each_bag_is_the_sum_of_its_rows() {
        for cpu in [Cpu::on_current_thread(), Cpu::with_threads(3).unwrap()] {
            for simd in Simd::ALL.into_iter().filter(|simd| simd.is_available()) {
                let cpu = cpu.clone().with_simd(simd).unwrap();
                for dim in [3, 16, 32, 64, 70, 128] {
                    for (bag_len, prefetch) in [(1, 0), (1, 8), (4, 0), (4, 5)] {
                        compare::<f32>(&cpu, dim, bag_len, prefetch);
                        compare::<f16>(&cpu, dim, bag_len, prefetch);
                        compare::<bf16>(&cpu, dim, bag_len, prefetch);
                    }
                }
            }
        }
    }
}
