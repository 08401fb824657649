//! Sums of a matrix over its rows, such as the gradient of a bias: tasks share columns, so that no
//! sum is split between threads.

use std::ops::Range;

use super::vector::{Blocks, for_each_block, load, store};
use crate::Cpu;
use crate::dtype::Element;
use crate::ops::{Accum, Matrix};
use crate::simd::{LANES, Lanes, Loop};
use crate::size::product;

/// The columns of a task: their sums fit the registers.
const COLUMNS_PER_TASK: usize = 4 * LANES;

/// Computes the sum of each column in the order of the rows, which may have factors.
pub(crate) fn column_sums<E: Element>(
    cpu: &Cpu,
    matrix: Matrix<'_, Cpu, E>,
    factors: Option<&[f32]>,
    sums: &mut [f32],
    accum: Accum,
) {
    let cpu = cpu.for_operations(product([2, matrix.rows, matrix.cols]));
    cpu.for_each_chunk(sums, COLUMNS_PER_TASK, |k, sums| {
        let first = k * COLUMNS_PER_TASK;
        cpu.dispatch.run(Sums { matrix, factors, first, sums, accum });
    });
}

/// Computes the sums of the columns from `first` on.
struct Sums<'a, E: Element> {
    matrix: Matrix<'a, Cpu, E>,
    factors: Option<&'a [f32]>,
    first: usize,
    sums: &'a mut [f32],
    accum: Accum,
}

impl<E: Element> Loop for Sums<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let columns = self.sums.len();
        for_each_block::<V>(columns, &mut SumsOfBlocks { lanes, of: self });
    }
}

struct SumsOfBlocks<'a, V, E: Element> {
    lanes: V,
    of: Sums<'a, E>,
}

impl<V: Lanes, E: Element> Blocks for SumsOfBlocks<'_, V, E> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        let Self { lanes, of: Sums { matrix, factors, first, sums, accum } } = self;
        let mut sum = [lanes.splat(0.0); N];
        for r in 0..matrix.rows {
            let row = load::<V, E, N, WHOLE>(*lanes, &matrix.row(r)[*first..][columns.clone()]);
            for (sum, x) in sum.iter_mut().zip(row) {
                let term = match factors {
                    Some(factors) => lanes.mul(lanes.splat(factors[r]), x),
                    None => x,
                };
                *sum = lanes.add(*sum, term);
            }
        }
        let to = &mut sums[columns];
        if *accum == Accum::Add {
            for (sum, before) in sum.iter_mut().zip(load::<V, f32, N, WHOLE>(*lanes, to)) {
                *sum = lanes.add(before, *sum);
            }
        }
        store::<V, f32, N, WHOLE>(*lanes, sum, to);
    }
}
