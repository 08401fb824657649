//! Products of few rows or few columns, where packing would cost as much as the product: each sum
//! runs along two lines as they are.

use std::ops::Range;

use super::factor::{load_words, multiplies_pairs};
use super::tile::Finish;
use super::{Factor, Product};
use crate::Cpu;
use crate::dtype::Element;
use crate::ops::MatrixMut;
use crate::simd::{LANES, Lanes, Loop};

impl Cpu {
    /// A product of factors whose terms lie side by side. Lane `l` sums the products of terms `≡ l
    /// (mod 16)`, then the lanes are added pairwise.
    pub(super) fn product_of_few<E: Element, O: Element>(
        &self,
        product: &Product<'_, E>,
        out: MatrixMut<'_, Self, O>,
    ) {
        let Product { shape: (m, n, k), lhs, rhs, finish, .. } = *product;
        let ld = out.ld;
        let run = |first_row: usize, rows: usize, first_col: usize, cols: usize, out: &mut [O]| {
            self.dispatch.run(Dots {
                k,
                lhs,
                rhs,
                finish,
                first_row,
                rows,
                first_col,
                cols,
                out,
                ld,
            });
        };
        let threads = self.num_threads();
        if threads == 1 {
            run(0, m, 0, n, out.data);
        } else if m == 1 {
            let cols = n.div_ceil(threads).next_multiple_of(LANES);
            self.for_each_chunk(&mut out.data[..n], cols, |k, out| {
                run(0, 1, k * cols, out.len(), out)
            });
        } else {
            let rows = m.div_ceil(threads).next_multiple_of(4);
            let len = out.data.len().min(m * ld);
            let part = |k: usize, out: &mut [O]| run(k * rows, rows.min(m - k * rows), 0, n, out);
            self.for_each_chunk(&mut out.data[..len], rows * ld, part);
        }
    }
}

/// Some rows and columns of a product; `out` begins with the first of both.
struct Dots<'a, E, O> {
    k: usize,
    lhs: Factor<'a, E>,
    rhs: Factor<'a, E>,
    finish: Finish<'a>,
    first_row: usize,
    rows: usize,
    first_col: usize,
    cols: usize,
    out: &'a mut [O],
    ld: usize,
}

impl<E: Element, O: Element> Loop for Dots<'_, E, O> {
    type Output = ();

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

    /// A tile of sums. Rows and columns that are not there are the last ones once more.
    #[inline(always)]
    fn tile<V: Lanes, const ROWS: usize, const COLS: usize>(
        &mut self,
        lanes: V,
        row: usize,
        col: usize,
    ) {
        let (last_row, last_col) = (self.first_row + self.rows - 1, self.first_col + self.cols - 1);
        let mut left: [&[E]; ROWS] = [&[]; ROWS];
        let mut right: [&[E]; COLS] = [&[]; COLS];
        for (r, line) in left.iter_mut().enumerate() {
            *line = self.lhs.line((self.first_row + row + r).min(last_row), 0, self.k);
        }
        for (c, line) in right.iter_mut().enumerate() {
            *line = self.rhs.line((self.first_col + col + c).min(last_col), 0, self.k);
        }
        let sums = dot_tile(lanes, left, right, self.k);
        for (r, sums) in sums.iter().enumerate().take(self.rows - row) {
            let out = &mut self.out[(row + r) * self.ld + col..];
            for (c, (out, sum)) in out.iter_mut().zip(sums).enumerate().take(self.cols - col) {
                *out = O::from_f32(match self.finish {
                    Finish::Replace => *sum,
                    Finish::Add => out.to_f32() + sum,
                    Finish::Affine { bias, relu } => match sum + bias[self.first_col + col + c] {
                        // Unlike `f32::max`, this lets a NaN through.
                        y if relu && y < 0.0 => 0.0,
                        y => y,
                    },
                });
            }
        }
    }
}

/// The sums of products of [`Lanes::DOTS`] pairs of lines of `terms` elements, `ROWS` times `COLS`
/// of them.
#[inline(always)]
fn dot_tile<V: Lanes, E: Element, const ROWS: usize, const COLS: usize>(
    lanes: V,
    left: [&[E]; ROWS],
    right: [&[E]; COLS],
    terms: usize,
) -> [[f32; COLS]; ROWS] {
    let vectors = match multiplies_pairs::<E, V>() {
        true => dot_words::<V, E, ROWS, COLS, 2>(lanes, left, right, terms),
        false => dot_words::<V, E, ROWS, COLS, 1>(lanes, left, right, terms),
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

#[inline(always)]
fn dot_words<V: Lanes, E: Element, const ROWS: usize, const COLS: usize, const TERMS: usize>(
    lanes: V,
    left: [&[E]; ROWS],
    right: [&[E]; COLS],
    terms: usize,
) -> [[V::F32; COLS]; ROWS] {
    let mut sums = [[lanes.splat(0.0); COLS]; ROWS];
    let whole = terms / (LANES * TERMS) * (LANES * TERMS);
    let mut first = 0;
    while first < whole {
        add_products::<V, E, ROWS, COLS, TERMS>(
            lanes,
            left,
            right,
            first..first + LANES * TERMS,
            &mut sums,
        );
        first += LANES * TERMS;
    }
    if whole < terms {
        add_products::<V, E, ROWS, COLS, TERMS>(lanes, left, right, whole..terms, &mut sums);
    }
    sums
}

#[inline(always)]
fn add_products<V: Lanes, E: Element, const ROWS: usize, const COLS: usize, const TERMS: usize>(
    lanes: V,
    left: [&[E]; ROWS],
    right: [&[E]; COLS],
    terms: Range<usize>,
    sums: &mut [[V::F32; COLS]; ROWS],
) {
    let mut columns = [lanes.splat(0.0); COLS];
    for c in 0..COLS {
        columns[c] = load_words::<V, E, TERMS>(lanes, &right[c][terms.clone()]);
    }
    for r in 0..ROWS {
        let row = load_words::<V, E, TERMS>(lanes, &left[r][terms.clone()]);
        for c in 0..COLS {
            sums[r][c] = match TERMS {
                2 => lanes.add_products_of_pairs(row, columns[c], sums[r][c]),
                _ => lanes.mul_add(row, columns[c], sums[r][c]),
            };
        }
    }
}
