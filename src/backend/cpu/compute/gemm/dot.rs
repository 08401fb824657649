//! Products of few rows or few columns, for which packing would cost as much as the product: each
//! sum is a dot product of a row of A and a column of B where they lie.

use std::ops::Range;

use super::pack::{load_packed, multiplies_pairs};
use super::product::{Epilogue, Operand, Product};
use crate::Cpu;
use crate::dtype::{DType, Element};
use crate::ops::MatrixMut;
use crate::simd::{LANES, Lanes, Loop};

/// Computes a product of row-major operands. Lane `l` sums the products at `k ≡ l (mod 16)`, or of
/// pairs at `k / 2 ≡ l (mod 16)`, then the lanes are added in a tree.
pub(super) fn gemm_by_dots<E: Element, O: Element>(
    cpu: &Cpu,
    product: &Product<'_, E>,
    mut out: MatrixMut<'_, Cpu, O>,
) {
    let Product { shape: (m, n, k), a, b, epilogue, .. } = *product;
    let ld = out.ld;
    let run = |first_row: usize, rows: usize, first_col: usize, cols: usize, out: &mut [O]| {
        let dots = Dots { k, a, b, epilogue, first_row, rows, first_col, cols, out, ld };
        cpu.dispatch.run(dots);
    };
    let threads = cpu.num_threads();
    if threads == 1 {
        run(0, m, 0, n, &mut out.data);
    } else if m == 1 {
        let cols = n.div_ceil(threads).next_multiple_of(LANES);
        cpu.for_each_chunk(&mut out.data[..n], cols, |chunk, out| {
            run(0, 1, chunk * cols, out.len(), out)
        });
    } else {
        let rows = m.div_ceil(threads).next_multiple_of(4);
        let len = out.data.len().min(m * ld);
        cpu.for_each_chunk(&mut out.data[..len], rows * ld, |chunk, out| {
            run(chunk * rows, rows.min(m - chunk * rows), 0, n, out)
        });
    }
}

/// Some rows and columns of a product; `out` begins with the first of both.
struct Dots<'a, E, O> {
    k: usize,
    a: Operand<'a, E>,
    b: Operand<'a, E>,
    epilogue: Epilogue<'a>,
    first_row: usize,
    rows: usize,
    first_col: usize,
    cols: usize,
    out: &'a mut [O],
    ld: usize,
}

impl<E: Element, O: Element> Loop for Dots<'_, E, O> {
    type Output = ();
    const MULTIPLIES_PAIRS: bool = matches!(E::DTYPE, DType::BF16);

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        match (V::DOTS, self.rows, self.cols) {
            (16, 1, _) => self.by_tiles::<V, 1, 16>(lanes),
            (16, 2 | 3, _) => self.by_tiles::<V, 2, 8>(lanes),
            (16, _, 1) => self.by_tiles::<V, 16, 1>(lanes),
            (16, ..) => self.by_tiles::<V, 4, 4>(lanes),
            (_, 1, _) => self.by_tiles::<V, 1, 4>(lanes),
            (_, _, 1) => self.by_tiles::<V, 4, 1>(lanes),
            _ => self.by_tiles::<V, 2, 2>(lanes),
        }
    }
}

impl<E: Element, O: Element> Dots<'_, E, O> {
    #[inline(always)]
    fn by_tiles<V: Lanes, const ROWS: usize, const COLS: usize>(mut self, lanes: V) {
        for col in (0..self.cols).step_by(COLS) {
            for row in (0..self.rows).step_by(ROWS) {
                self.tile::<V, ROWS, COLS>(lanes, row, col);
            }
        }
    }

    /// Computes a tile of the output. Past the last row or column, the last one is repeated.
    #[inline(always)]
    fn tile<V: Lanes, const ROWS: usize, const COLS: usize>(
        &mut self,
        lanes: V,
        row: usize,
        col: usize,
    ) {
        let (last_row, last_col) = (self.first_row + self.rows - 1, self.first_col + self.cols - 1);
        let mut rows_of_a: [&[E]; ROWS] = [&[]; ROWS];
        let mut cols_of_b: [&[E]; COLS] = [&[]; COLS];
        for (r, row_of_a) in rows_of_a.iter_mut().enumerate() {
            *row_of_a = self.a.row((self.first_row + row + r).min(last_row), 0, self.k);
        }
        for (c, col_of_b) in cols_of_b.iter_mut().enumerate() {
            *col_of_b = self.b.row((self.first_col + col + c).min(last_col), 0, self.k);
        }
        let sums = dot_tile(lanes, rows_of_a, cols_of_b, self.k);
        for (r, sums) in sums.iter().enumerate().take(self.rows - row) {
            let out = &mut self.out[(row + r) * self.ld + col..];
            for (c, (out, sum)) in out.iter_mut().zip(sums).enumerate().take(self.cols - col) {
                *out = O::from_f32(match self.epilogue {
                    Epilogue::Replace => *sum,
                    Epilogue::Add => out.to_f32() + sum,
                    Epilogue::Bias { bias, relu } => match sum + bias[self.first_col + col + c] {
                        // Unlike `f32::max`, this lets a NaN through.
                        y if relu && y < 0.0 => 0.0,
                        y => y,
                    },
                });
            }
        }
    }
}

/// Returns the dot products, of length `k`, of each of `ROWS` rows of A and `COLS` columns of B:
/// [`Lanes::DOTS`] in all.
#[inline(always)]
fn dot_tile<V: Lanes, E: Element, const ROWS: usize, const COLS: usize>(
    lanes: V,
    rows_of_a: [&[E]; ROWS],
    cols_of_b: [&[E]; COLS],
    k: usize,
) -> [[f32; COLS]; ROWS] {
    let vectors = match multiplies_pairs::<E, V>() {
        true => dot_vectors::<V, E, ROWS, COLS, 2>(lanes, rows_of_a, cols_of_b, k),
        false => dot_vectors::<V, E, ROWS, COLS, 1>(lanes, rows_of_a, cols_of_b, k),
    };
    let (vectors, mut sums) = (vectors.as_flattened(), [[0.0; COLS]; ROWS]);
    let to = sums.as_flattened_mut();
    if let Some(vectors) = vectors.first_chunk::<LANES>() {
        to.copy_from_slice(&lanes.to_array(lanes.sums(*vectors)));
    } else if let Some(vectors) = vectors.first_chunk::<4>() {
        to.copy_from_slice(&lanes.sums_of_four(*vectors));
    }
    sums
}

/// Returns the vectors whose lanes add up to the dot products. A lane multiplies `PACKED` elements
/// at a time.
#[inline(always)]
fn dot_vectors<V: Lanes, E: Element, const ROWS: usize, const COLS: usize, const PACKED: usize>(
    lanes: V,
    rows_of_a: [&[E]; ROWS],
    cols_of_b: [&[E]; COLS],
    k: usize,
) -> [[V::F32; COLS]; ROWS] {
    let mut sums = [[lanes.splat(0.0); COLS]; ROWS];
    let step = LANES * PACKED;
    let whole = k / step * step;
    let mut first = 0;
    while first < whole {
        add_products::<V, E, ROWS, COLS, PACKED>(
            lanes,
            rows_of_a,
            cols_of_b,
            first..first + step,
            &mut sums,
        );
        first += step;
    }
    if whole < k {
        add_products::<V, E, ROWS, COLS, PACKED>(lanes, rows_of_a, cols_of_b, whole..k, &mut sums);
    }
    sums
}

/// Adds the products at `ks`, at most a vector of packed elements.
#[inline(always)]
fn add_products<V: Lanes, E: Element, const ROWS: usize, const COLS: usize, const PACKED: usize>(
    lanes: V,
    rows_of_a: [&[E]; ROWS],
    cols_of_b: [&[E]; COLS],
    ks: Range<usize>,
    sums: &mut [[V::F32; COLS]; ROWS],
) {
    let mut columns = [lanes.splat(0.0); COLS];
    for c in 0..COLS {
        columns[c] = load_packed::<V, E, PACKED>(lanes, &cols_of_b[c][ks.clone()]);
    }
    for r in 0..ROWS {
        let row = load_packed::<V, E, PACKED>(lanes, &rows_of_a[r][ks.clone()]);
        for c in 0..COLS {
            sums[r][c] = match PACKED {
                2 => lanes.add_products_of_pairs(row, columns[c], sums[r][c]),
                _ => lanes.mul_add(row, columns[c], sums[r][c]),
            };
        }
    }
}
