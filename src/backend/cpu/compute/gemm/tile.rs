//! The inner part of a product: a tile of sums that lies in registers while all terms of two packed
//! panels go by.

use bytemuck::cast;

use super::factor::{Words, multiplies_pairs};
use super::tiles::TERMS_OF_STEP;
use crate::dtype::{DType, Element};
use crate::simd::{LANES, Lanes, Loop};

/// The largest tile of any instruction set.
const MAX_ROWS: usize = 32;
const MAX_COLS: usize = 32;

/// Sums of a tile. A tile of fewer columns uses the first ones of each row.
#[repr(align(64))]
pub(super) struct Sums(pub(super) [[f32; MAX_COLS]; MAX_ROWS]);

impl Sums {
    pub(super) fn new() -> Self {
        Self([[0.0; MAX_COLS]; MAX_ROWS])
    }
}

/// The rows of a tile.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a, E> {
    /// A panel.
    Packed(&'a [f32]),
    /// `rows` rows of `terms` elements, each `ld` elements behind the one before. Rows of the tile
    /// that are not there are the last one once more.
    AsTheyLie { data: &'a [E], ld: usize, rows: usize, terms: usize },
}

/// Whether a tile can read rows of so many terms as they lie: what is multiplied lies there.
pub(super) fn reads_rows_as_they_lie<E: Element>(words: Words, terms: usize) -> bool {
    match words {
        Words::Single => E::DTYPE == DType::F32,
        Words::Pairs => true,
        Words::Tiles { parts } => parts == 1 && terms.is_multiple_of(TERMS_OF_STEP),
    }
}

/// The sums of products of a panel of `rows` and one of `vectors` times 16 columns, each in the
/// order of its terms.
pub(super) struct Tile<'a, E> {
    pub(super) rows: usize,
    pub(super) vectors: usize,
    pub(super) lhs: Rows<'a, E>,
    pub(super) rhs: &'a [f32],
    pub(super) sums: &'a mut Sums,
}

impl<E: Element> Loop for Tile<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        match self.vectors {
            1 => self.of_vectors::<V, 1>(lanes),
            _ if V::TILE.1 > 1 => self.of_vectors::<V, 2>(lanes),
            _ => (),
        }
    }
}

impl<E: Element> Tile<'_, E> {
    #[inline(always)]
    fn of_vectors<V: Lanes, const VECTORS: usize>(self, lanes: V) {
        // What an instruction set has no registers for is not compiled for it.
        match self.rows {
            1 => self.sum::<V, 1, VECTORS>(lanes),
            2 => self.sum::<V, 2, VECTORS>(lanes),
            4 if V::TILE.0 >= 4 => self.sum::<V, 4, VECTORS>(lanes),
            6 if V::TILE.0 >= 6 => self.sum::<V, 6, VECTORS>(lanes),
            8 if V::TILE.0 >= 8 => self.sum::<V, 8, VECTORS>(lanes),
            10 if V::TILE.0 >= 10 => self.sum::<V, 10, VECTORS>(lanes),
            12 if V::TILE.0 >= 12 => self.sum::<V, 12, VECTORS>(lanes),
            14 if V::TILE.0 >= 14 => self.sum::<V, 14, VECTORS>(lanes),
            _ => (),
        }
    }

    #[inline(always)]
    fn sum<V: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: V) {
        let mut sums = [[lanes.splat(0.0); VECTORS]; ROWS];
        let rhs = self.rhs.as_chunks::<LANES>().0.as_chunks::<VECTORS>().0;
        match self.lhs {
            Rows::Packed(panel) => {
                for (lhs, rhs) in panel.as_chunks::<ROWS>().0.iter().zip(rhs) {
                    add_products::<V, E, ROWS, VECTORS>(lanes, lhs, rhs, &mut sums);
                }
            }
            Rows::AsTheyLie { data, ld, rows, terms } if multiplies_pairs::<E, V>() => {
                let mut lines: [&[[E; 2]]; ROWS] = [&[]; ROWS];
                let mut last = [0.0; ROWS];
                for r in 0..ROWS {
                    let (line, rest) = data[r.min(rows - 1) * ld..][..terms].as_chunks();
                    lines[r] = line;
                    last[r] = rest.first().map_or(0.0, |&term| word([term, E::default()]));
                }
                for (w, rhs) in rhs.iter().enumerate().take(terms / 2) {
                    let mut lhs = [0.0; ROWS];
                    for r in 0..ROWS {
                        lhs[r] = word(lines[r][w]);
                    }
                    add_products::<V, E, ROWS, VECTORS>(lanes, &lhs, rhs, &mut sums);
                }
                if let Some(rhs) = rhs.get(terms / 2) {
                    add_products::<V, E, ROWS, VECTORS>(lanes, &last, rhs, &mut sums);
                }
            }
            Rows::AsTheyLie { data, ld, rows, terms } if E::DTYPE == DType::F32 => {
                let mut lines: [&[E]; ROWS] = [&[]; ROWS];
                for r in 0..ROWS {
                    lines[r] = &data[r.min(rows - 1) * ld..][..terms];
                }
                for (k, rhs) in rhs.iter().enumerate().take(terms) {
                    let mut lhs = [0.0; ROWS];
                    for r in 0..ROWS {
                        lhs[r] = lines[r][k].to_f32();
                    }
                    add_products::<V, E, ROWS, VECTORS>(lanes, &lhs, rhs, &mut sums);
                }
            }
            Rows::AsTheyLie { .. } => {}
        }
        for (sums, to) in sums.iter().zip(&mut self.sums.0) {
            for (sum, to) in sums.iter().zip(to.as_chunks_mut::<LANES>().0) {
                lanes.store(*sum, to);
            }
        }
    }
}

/// A word of two terms.
#[inline(always)]
fn word<E: Element>(terms: [E; 2]) -> f32 {
    cast(terms)
}

/// The products of one word of all rows and of all columns.
#[inline(always)]
fn add_products<V: Lanes, E: Element, const ROWS: usize, const VECTORS: usize>(
    lanes: V,
    lhs: &[f32; ROWS],
    rhs: &[[f32; LANES]; VECTORS],
    sums: &mut [[V::F32; VECTORS]; ROWS],
) {
    let mut columns = [lanes.splat(0.0); VECTORS];
    for v in 0..VECTORS {
        columns[v] = lanes.load(&rhs[v]);
    }
    for r in 0..ROWS {
        let row = lanes.splat(lhs[r]);
        for v in 0..VECTORS {
            sums[r][v] = match multiplies_pairs::<E, V>() {
                true => lanes.add_products_of_pairs(row, columns[v], sums[r][v]),
                false => lanes.mul_add(row, columns[v], sums[r][v]),
            };
        }
    }
}

/// What is done with a sum.
#[derive(Clone, Copy)]
pub(crate) enum Finish<'a> {
    /// The output is overwritten.
    Replace,
    /// The sum is added to the output.
    Add,
    /// A bias for each column is added, and the sum, at least 0 if `relu`, overwrites the output.
    Affine { bias: &'a [f32], relu: bool },
}

/// Brings a tile to the output: `rows` rows of `ld` elements, columns `first_col..first_col + cols`
/// of each.
pub(super) struct Put<'a, O> {
    pub(super) sums: &'a Sums,
    pub(super) out: &'a mut [O],
    pub(super) ld: usize,
    pub(super) rows: usize,
    pub(super) first_col: usize,
    pub(super) cols: usize,
    /// Whether the output holds a sum of terms that came before.
    pub(super) continues: bool,
    pub(super) finish: Finish<'a>,
}

impl<O: Element> Loop for Put<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self, lanes: V) {
        match self.cols / LANES {
            2 => self.whole::<V, 2>(lanes),
            1 => self.whole::<V, 1>(lanes),
            _ => (),
        }
        if !self.cols.is_multiple_of(LANES) {
            self.rest(lanes);
        }
    }
}

impl<O: Element> Put<'_, O> {
    /// The first columns, whole vectors of them.
    #[inline(always)]
    fn whole<V: Lanes, const VECTORS: usize>(&mut self, lanes: V) {
        let Self { sums, ld, rows, first_col, continues, finish, .. } = *self;
        let add = continues || matches!(finish, Finish::Add);
        let (mut biases, mut relu) = (None, false);
        if let Finish::Affine { bias, relu: is_relu } = finish {
            let bias = &bias[first_col..].as_chunks::<LANES>().0[..VECTORS];
            let mut vectors = [lanes.splat(0.0); VECTORS];
            for v in 0..VECTORS {
                vectors[v] = lanes.load(&bias[v]);
            }
            (biases, relu) = (Some(vectors), is_relu);
        }
        for (sums, out) in sums.0.iter().zip(self.out.chunks_mut(ld.max(1))).take(rows) {
            let out = &mut out[first_col..].as_chunks_mut::<LANES>().0[..VECTORS];
            let sums = sums.as_chunks::<LANES>().0;
            for v in 0..VECTORS {
                let mut sum = lanes.load(&sums[v]);
                if add {
                    sum = lanes.add(lanes.load(&out[v]), sum);
                }
                if let Some(biases) = &biases {
                    sum = activate(lanes, lanes.add(sum, biases[v]), relu);
                }
                lanes.store(sum, &mut out[v]);
            }
        }
    }

    /// The columns behind them, part of a vector.
    #[inline(always)]
    fn rest<V: Lanes>(&mut self, lanes: V) {
        let Self { sums, ld, rows, first_col, cols, continues, finish, .. } = *self;
        let add = continues || matches!(finish, Finish::Add);
        let first = cols / LANES * LANES;
        for (sums, out) in sums.0.iter().zip(self.out.chunks_mut(ld.max(1))).take(rows) {
            let out = &mut out[first_col + first..first_col + cols];
            let mut sum = lanes.load_part(&sums[first..cols]);
            if add {
                sum = lanes.add(lanes.load_part(out), sum);
            }
            if let Finish::Affine { bias, relu } = finish {
                let bias = lanes.load_part(&bias[first_col + first..first_col + cols]);
                sum = activate(lanes, lanes.add(sum, bias), relu);
            }
            lanes.store_part(sum, out);
        }
    }
}

/// ReLU lets a NaN through.
#[inline(always)]
pub(super) fn activate<V: Lanes>(lanes: V, value: V::F32, relu: bool) -> V::F32 {
    if relu { lanes.max(lanes.splat(0.0), value) } else { value }
}
