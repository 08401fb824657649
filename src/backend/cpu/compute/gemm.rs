//! Products of matrices: packed panels of both factors meet in tiles that lie in registers.
//!
//! A sum runs over blocks of terms, in each block term after term, whatever tiles and threads there
//! are: so its bits depend on sizes alone. Each thread has rows of the output to itself. Block
//! after block, it packs the right factor, which then stays in the second-level cache, and some
//! rows of the left one at a time, which meet all of it.

mod dot;
mod factor;
mod layout;
mod tile;
mod tiles;

use bytemuck::cast_slice;

use super::super::runtime::scratch::{RIGHT_FACTOR, Scratch, TASK};
use super::vector::{load_vector, store_vector};
use crate::Cpu;
use crate::dtype::Element;
use crate::ops::MatrixMut;
use crate::simd::amx::{Lines, Tiles};
use crate::simd::{LANES, Lanes, Loop, prefetch_row};
use crate::size;
pub(crate) use factor::{Factor, load_words, multiplies_pairs};
use factor::{Pack, Panels, Words};
use layout::Layout;
pub(crate) use tile::Finish;
use tile::{Put, Rows, Sums, Tile, reads_rows_as_they_lie};
use tiles::{AddTiles, PackTiles, TERMS_OF_STEP, as_tiles};

/// Rows that meet all columns, about: few enough for their packed words to stay in the cache beside
/// those of the columns.
const ROWS_AT_ONCE: usize = 60;
/// Panels of them, at least.
const PANELS_AT_ONCE: usize = 4;
/// Rows so few that packing the right factor costs more than it saves.
const FEW_ROWS: usize = 32;
/// Columns so few that they would leave most of a vector empty.
const FEW_COLS: usize = 3;

/// `out = lhs rhs`, `[m, k]` times `[k, n]`, up to what [`Finish`] does with it.
pub(crate) struct Product<'a, E> {
    pub(crate) shape: (usize, usize, usize),
    pub(crate) lhs: Factor<'a, E>,
    pub(crate) rhs: Factor<'a, E>,
    /// What [`Cpu::pack_rhs`] made of it for such an output, if it has.
    pub(crate) packed_rhs: Option<&'a [f32]>,
    pub(crate) finish: Finish<'a>,
    /// For each row of `lhs` the sum of its terms, `[m]`, if it is wanted: replaced or added to, as
    /// the product is.
    pub(crate) row_sums: Option<&'a mut [f32]>,
}

/// How a product is computed, the same for all rows.
struct Plan<'a, E> {
    layout: Layout,
    lhs: Factor<'a, E>,
    rhs: Factor<'a, E>,
    packed_rhs: Option<&'a [f32]>,
    finish: Finish<'a>,
    /// Whether the rows of the left factor are packed, and not read as they lie.
    packs_rows: bool,
}

/// A block of terms of some columns.
struct Block<'a> {
    first_col: usize,
    cols: usize,
    first_term: usize,
    terms: usize,
    /// Whether the output holds the sums of blocks before.
    continues: bool,
    finish: Finish<'a>,
    /// The packed right factor, panel after panel.
    rhs: &'a [f32],
}

/// Rows of the output.
struct Stripe<'a, O> {
    first_row: usize,
    rows: usize,
    out: &'a mut [O],
    ld: usize,
    row_sums: Option<&'a mut [f32]>,
}

impl Cpu {
    /// Computes a product. `out` is of `f32` or of the type of the factors.
    pub(crate) fn product<E: Element, O: Element>(
        &self,
        mut product: Product<'_, E>,
        out: MatrixMut<'_, Self, O>,
    ) {
        let (m, n, k) = product.shape;
        if m == 0 || (n == 0 && product.row_sums.is_none()) {
            return;
        }
        if k == 0 {
            // Without terms there may be no data where the strides lead to.
            (product.lhs, product.rhs) = (Factor::rows(&[], 0), Factor::rows(&[], 0));
        }
        let cpu = self.for_operations(size::product([2, m, n, k]));
        let by_lines = product.lhs.term_stride == 1
            && product.rhs.term_stride == 1
            && product.row_sums.is_none();
        if by_lines && (m <= FEW_ROWS || n <= FEW_COLS) {
            return cpu.product_of_few(&product, out);
        }
        let layout = Layout::new::<E, O>(self, n, k);
        let Product { lhs, rhs, packed_rhs, finish, row_sums, .. } = product;
        // Where tiles can do without, packing would cost more than it saves; but for tiles of AMX,
        // if the right factor has to be packed as well.
        let packs_rows = lhs.term_stride != 1
            || row_sums.is_some()
            || !reads_rows_as_they_lie::<E>(layout.words, k)
            || (matches!(layout.words, Words::Tiles { .. }) && packed_rhs.is_none());
        let plan = Plan { layout, lhs, rhs, packed_rhs, finish, packs_rows };
        let len = out.data.len().min(m * out.ld);
        let stripe =
            Stripe { first_row: 0, rows: m, out: &mut out.data[..len], ld: out.ld, row_sums };
        cpu.run(|| cpu.split(&plan, cpu.num_threads().min(m.div_ceil(layout.tile.0)), stripe));
    }

    /// Splits rows evenly between threads. Each packs all of the right factor: to read what another
    /// core has just packed would take longer.
    fn split<E: Element, O: Element>(
        &self,
        plan: &Plan<'_, E>,
        threads: usize,
        stripe: Stripe<'_, O>,
    ) {
        if threads <= 1 {
            return self.multiply(plan, stripe);
        }
        let half = threads / 2;
        let rows = stripe.rows * half / threads;
        let (upper, lower) = stripe.split_at(rows);
        self.join(|| self.split(plan, half, upper), || self.split(plan, threads - half, lower));
    }

    /// The sums of a stripe, block by block.
    fn multiply<E: Element, O: Element>(&self, plan: &Plan<'_, E>, mut stripe: Stripe<'_, O>) {
        let Plan { layout, rhs, packed_rhs, finish, packs_rows, .. } = *plan;
        let Layout { k, tile, words, block, .. } = layout;
        let most_rows = tile.0 * (ROWS_AT_ONCE / tile.0).max(PANELS_AT_ONCE);
        let packs_some_rows = packs_rows || matches!(words, Words::Tiles { .. });
        let room_for_rows =
            if packs_some_rows { words.rows_of_tile(most_rows.min(stripe.rows)) } else { 0 };
        let room_for_cols = if packed_rhs.is_some() { 0 } else { layout.words_of_block() };
        RIGHT_FACTOR.lend(room_for_cols, |room| {
            TASK.lend(words.of_terms(block.min(k)) * room_for_rows, |packed_rows| {
                for (cols, terms, place) in layout.blocks() {
                    let rhs = match packed_rhs {
                        Some(packed) => &packed[place],
                        None => {
                            let room = &mut room[..place.len()];
                            self.pack(layout.panels(rhs, &cols, &terms), words, false, room);
                            &*room
                        }
                    };
                    let finish = match finish {
                        Finish::Affine { .. } if terms.end < k => Finish::Replace,
                        finish => finish,
                    };
                    let block = Block {
                        first_col: cols.start,
                        cols: cols.len(),
                        first_term: terms.start,
                        terms: terms.len(),
                        continues: terms.start > 0,
                        finish,
                        rhs,
                    };
                    for row in (0..stripe.rows).step_by(most_rows) {
                        let rows = most_rows.min(stripe.rows - row);
                        self.multiply_block(plan, &block, stripe.part(row, rows), packed_rows);
                    }
                }
            });
        });
    }

    /// The words that a right factor of `n` columns of `k` terms takes when it is packed, for an
    /// output of its own type.
    pub(crate) fn packed_rhs_len<E: Element>(&self, n: usize, k: usize) -> usize {
        Layout::new::<E, E>(self, n, k).words_of_all()
    }

    /// Packs such a factor.
    pub(crate) fn pack_rhs<E: Element>(
        &self,
        rhs: Factor<'_, E>,
        (n, k): (usize, usize),
        packed: &mut [f32],
    ) {
        let layout = Layout::new::<E, E>(self, n, k);
        for (cols, terms, place) in layout.blocks() {
            self.pack(layout.panels(rhs, &cols, &terms), layout.words, false, &mut packed[place]);
        }
    }

    /// Packs panels of the left factor, whose lines are rows, or of the right one.
    fn pack<E: Element>(
        &self,
        panels: Panels<'_, E>,
        words: Words,
        lines_are_rows: bool,
        to: &mut [f32],
    ) {
        match words {
            _ if to.is_empty() => (),
            Words::Tiles { .. } => {
                self.dispatch.run(PackTiles { panels, rows_are_lines: lines_are_rows, to })
            }
            _ => self.dispatch.run(Pack { panels, words, to }),
        }
    }

    /// What a block of terms adds to some rows, with room for their packed words.
    fn multiply_block<E: Element, O: Element>(
        &self,
        plan: &Plan<'_, E>,
        block: &Block<'_>,
        task: Stripe<'_, O>,
        packed: &mut [f32],
    ) {
        let Plan {
            lhs,
            layout: Layout { tile: (tile_rows, tile_cols), words, .. },
            packs_rows,
            ..
        } = *plan;
        let Block { first_col, cols, first_term, terms, continues, finish, rhs } = *block;
        let mut sums = Sums::new();
        let tiles = match words {
            Words::Tiles { parts } => Some((Tiles::new(), parts, terms.div_ceil(TERMS_OF_STEP))),
            _ => None,
        };
        let num_words = words.of_terms(terms);
        let panels =
            || (0..task.rows).step_by(tile_rows).map(|row| (row, tile_rows.min(task.rows - row)));
        let last_rows = task.rows - (task.rows - 1) / tile_rows * tile_rows;
        // A tile reads rows that do not count, but they must be there.
        let rows_of_tiles = task.rows - last_rows + words.rows_of_tile(last_rows);
        let end_of_tiles =
            (task.first_row + rows_of_tiles - 1) * lhs.line_stride + first_term + terms;
        let packs_rows = packs_rows || (tiles.is_some() && end_of_tiles > lhs.data.len());
        if packs_rows {
            let panels = Panels {
                from: lhs,
                first_line: task.first_row,
                lines: task.rows,
                width: tile_rows,
                last_width: words.rows_of_tile(last_rows),
                first_term,
                terms,
            };
            self.pack(panels, words, true, packed);
        }
        if let (Some(row_sums), 0) = (task.row_sums, first_col) {
            let add = continues || matches!(finish, Finish::Add);
            for (row, lines) in panels() {
                let width = words.rows_of_tile(lines);
                let packed = &packed[row * num_words..][..width * num_words];
                let sums = &mut row_sums[row..row + lines];
                match words {
                    Words::Tiles { .. } => {
                        let (panel, tiles_of_part) = (as_tiles(packed), width / LANES);
                        self.dispatch.run(AddTiles { panel, tiles_of_part, add, sums });
                    }
                    _ => self.dispatch.run(AddWords { packed, num_words, width, words, add, sums }),
                }
            }
        }
        for (row, lines) in panels() {
            let rows = words.rows_of_tile(lines);
            let lhs = if packs_rows {
                Rows::Packed(&packed[row * num_words..][..rows * num_words])
            } else {
                let ld = lhs.line_stride;
                let data = &lhs.data[(task.first_row + row) * ld + first_term..];
                Rows::AsTheyLie { data, ld, rows: lines, terms }
            };
            let mut ahead = 0;
            for col in (0..cols).step_by(tile_cols) {
                let (width, first_col) = (tile_cols.min(cols - col), first_col + col);
                let vectors = width.div_ceil(LANES);
                // The output will be here when the sums are ready, and the next rows when it is
                // their turn. Tiles leave the machine time to see to that.
                if tiles.is_none() {
                    (row..row + lines)
                        .for_each(|r| prefetch_row(task.out, r * task.ld + first_col, width));
                }
                if let Rows::AsTheyLie { data, ld, .. } = lhs {
                    let until = (col + width) * tile_rows / cols;
                    (ahead..until).for_each(|r| prefetch_row(data, (tile_rows + r) * ld, terms));
                    ahead = until;
                }
                let rhs = &rhs[col * num_words..][..vectors * LANES * num_words];
                match (&tiles, lhs) {
                    (Some((tiles, parts, steps)), Rows::Packed(panel)) => {
                        tiles.sum(as_tiles(panel), as_tiles(rhs), *parts, *steps, &mut sums.0);
                    }
                    (Some((tiles, _, steps)), Rows::AsTheyLie { data, ld, .. }) => {
                        let lines = Lines { elements: cast_slice(data), ld, tiles: rows / LANES };
                        tiles.sum_of_lines(lines, as_tiles(rhs), *steps, &mut sums.0);
                    }
                    _ => self.dispatch.run(Tile { rows, vectors, lhs, rhs, sums: &mut sums }),
                }
                self.dispatch.run(Put {
                    sums: &sums,
                    out: &mut task.out[row * task.ld..],
                    ld: task.ld,
                    rows: lines,
                    first_col,
                    cols: width,
                    continues,
                    finish,
                });
            }
        }
    }
}

impl<O> Stripe<'_, O> {
    fn split_at(self, rows: usize) -> (Self, Self) {
        let Self { first_row, rows: all, out, ld, row_sums } = self;
        let (upper, lower) = out.split_at_mut(rows * ld);
        let (upper_sums, lower_sums) = match row_sums.map(|sums| sums.split_at_mut(rows)) {
            Some((upper, lower)) => (Some(upper), Some(lower)),
            None => (None, None),
        };
        (
            Self { first_row, rows, out: upper, ld, row_sums: upper_sums },
            Self {
                first_row: first_row + rows,
                rows: all - rows,
                out: lower,
                ld,
                row_sums: lower_sums,
            },
        )
    }

    fn part(&mut self, row: usize, rows: usize) -> Stripe<'_, O> {
        let end = self.out.len().min((row + rows) * self.ld);
        Stripe {
            first_row: self.first_row + row,
            rows,
            out: &mut self.out[row * self.ld..end],
            ld: self.ld,
            row_sums: self.row_sums.as_deref_mut().map(|sums| &mut sums[row..row + rows]),
        }
    }
}

/// Two ones of `bf16`.
const ONES: f32 = f32::from_bits(0x3f80_3f80);

/// Adds up the words of each line of a packed panel of the left factor.
struct AddWords<'a> {
    packed: &'a [f32],
    num_words: usize,
    width: usize,
    words: Words,
    /// To what there is.
    add: bool,
    sums: &'a mut [f32],
}

impl Loop for AddWords<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let pairs = V::MULTIPLIES_PAIRS && self.words == Words::Pairs;
        let ones = lanes.splat(ONES);
        for (k, out) in self.sums.chunks_mut(LANES).enumerate() {
            let mut sums = lanes.splat(0.0);
            for w in 0..self.num_words {
                let words = load_vector(lanes, &self.packed[w * self.width + k * LANES..]);
                sums = if pairs {
                    lanes.add_products_of_pairs(words, ones, sums)
                } else {
                    lanes.add(sums, words)
                };
            }
            put_sums(lanes, sums, self.add, out);
        }
    }
}

/// Up to 16 sums, added to what there is or in place of it.
#[inline(always)]
fn put_sums<V: Lanes>(lanes: V, sums: V::F32, add: bool, out: &mut [f32]) {
    let sums = if add { lanes.add(load_vector(lanes, out), sums) } else { sums };
    store_vector(lanes, sums, out);
}

#[cfg(test)]
mod tests {
    use super::factor::BLOCK;
    use super::*;
    use crate::dtype::{bf16, f16};
    use crate::simd::{Dispatch, Simd};

    /// `rows` times `cols` small numbers, that many elements from row to row; what lies between is
    /// no number.
    fn draw<E: Element>((rows, cols): (usize, usize), ld: usize, seed: u32) -> Vec<E> {
        let value = |k: usize| {
            let bits = (k as u32 + seed).wrapping_mul(2_654_435_769) >> 8;
            E::from_f32(bits as f32 / (1 << 23) as f32 - 1.0)
        };
        let of_row = |k: usize| if k % ld < cols { value(k) } else { E::from_f32(f32::NAN) };
        (0..rows * ld).map(of_row).collect()
    }

    /// A right factor that was packed before gives the same bits, whatever blocks there are.
    fn packed_factors_change_nothing<E: Element>() {
        let available = Simd::ALL.into_iter().filter_map(Dispatch::new);
        for dispatch in available.chain(Dispatch::with_tiles()) {
            let cpu = Cpu { dispatch, ..Cpu::with_threads(2).unwrap() };
            for (m, n, k) in [
                (33, 5, 31),
                (40, 600, 1100),
                (47, 1400, 544),
                (300, 40, 64),
                (64, 64, 0),
                (33, 3, 9),
            ] {
                let (lhs, rhs) = (draw::<E>((m, k), k + 1, 1), draw::<E>((n, k), k + 2, 1 << 20));
                let (lhs, rhs) = (Factor::rows(&lhs[..], k + 1), Factor::rows(&rhs[..], k + 2));
                let mut packed = vec![f32::NAN; cpu.packed_rhs_len::<E>(n, k)];
                cpu.pack_rhs(rhs, (n, k), &mut packed);
                let outputs = [None, Some(&packed[..])].map(|packed_rhs| {
                    let mut out = vec![E::default(); m * n];
                    let finish = Finish::Replace;
                    let product =
                        Product { shape: (m, n, k), lhs, rhs, packed_rhs, finish, row_sums: None };
                    cpu.product(product, MatrixMut::contiguous(&mut out[..], m, n));
                    out.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<_>>()
                });
                assert_eq!(outputs[0], outputs[1], "{:?}, {:?}", dispatch.simd(), (m, n, k));
            }
        }
    }

    #[test]
    fn a_packed_factor_is_as_long_as_its_blocks() {
        fn check<E: Element, O: Element>(cpu: &Cpu) {
            for (n, k) in [
                (0, 0),
                (0, 9),
                (1, 0),
                (5, 31),
                (16, 512),
                (600, 1100),
                (1400, 544),
                (3000, 513),
                (7, 9000),
            ] {
                let layout = Layout::new::<E, O>(cpu, n, k);
                let end = layout.blocks().last().map_or(0, |(_, _, words)| words.end);
                assert_eq!(layout.words_of_all(), end, "{:?}, {:?}", cpu.dispatch.simd(), (n, k));
            }
            // No machine has so much memory; whoever asks is told so at once.
            for (n, k) in [(usize::MAX, 1), (1, usize::MAX), (1 << 40, 1 << 40)] {
                assert!(
                    Layout::new::<E, O>(cpu, n, k).words_of_all() > usize::MAX / 4,
                    "{:?}",
                    (n, k)
                );
            }
        }
        for dispatch in
            Simd::ALL.into_iter().filter_map(Dispatch::new).chain(Dispatch::with_tiles())
        {
            let cpu = Cpu { dispatch, ..Cpu::single_threaded() };
            check::<f32, f32>(&cpu);
            check::<f16, f16>(&cpu);
            check::<bf16, bf16>(&cpu);
            check::<bf16, f32>(&cpu);
        }
    }

    #[test]
    fn packed_factors_change_nothing_of_any_type() {
        packed_factors_change_nothing::<f32>();
        packed_factors_change_nothing::<f16>();
        packed_factors_change_nothing::<bf16>();
    }

    /// Everything that a product in tiles can be, against sums in `f64`, which are off by at most
    /// that many units of `2⁻²⁴`, one more for each block and for what a sum is added to, and a
    /// rounding where it is stored as `bf16`.
    fn products_in_tiles_are_right<E: Element, O: Element>(
        add: bool,
        units: fn(usize) -> f64,
        rounding: f64,
    ) {
        let Some(dispatch) = Dispatch::with_tiles() else { return };
        for (m, n, k) in [
            (33, 5, 1),
            (40, 33, 31),
            (96, 64, 64),
            (150, 70, 415),
            (47, 130, 1100),
            (33, 560, 512),
            (64, 512, 0),
        ] {
            for (lhs_in_rows, rhs_in_rows) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let shape =
                    |lines: usize, in_rows: bool| if in_rows { (lines, k) } else { (k, lines) };
                let (lhs_shape, rhs_shape) = (shape(m, lhs_in_rows), shape(n, rhs_in_rows));
                let (lhs_ld, rhs_ld) = (lhs_shape.1 + 3, rhs_shape.1 + 1);
                let (lhs, rhs) =
                    (draw::<E>(lhs_shape, lhs_ld, 1), draw::<E>(rhs_shape, rhs_ld, 1 << 20));
                let factor = |data, ld, in_rows| {
                    if in_rows { Factor::rows(data, ld) } else { Factor::columns(data, ld) }
                };
                let (lhs, rhs) =
                    (factor(&lhs[..], lhs_ld, lhs_in_rows), factor(&rhs[..], rhs_ld, rhs_in_rows));
                let (mut row_sums, mut out) = (vec![2f32; m], vec![O::from_f32(3.0); m * n]);
                let finish = if add { Finish::Add } else { Finish::Replace };
                let product = Product {
                    shape: (m, n, k),
                    lhs,
                    rhs,
                    packed_rhs: None,
                    finish,
                    row_sums: Some(&mut row_sums),
                };
                let cpu = Cpu { dispatch, ..Cpu::with_threads(2).unwrap() };
                cpu.product(product, MatrixMut::contiguous(&mut out[..], m, n));

                let at = |of: &Factor<'_, E>, line: usize, term: usize| {
                    f64::from(of.data[line * of.line_stride + term * of.term_stride].to_f32())
                };
                let unit = 2f64.powi(-24) * (units(k) + (k / BLOCK + 4) as f64);
                let check = |got: f32,
                             products: &mut dyn Iterator<Item = f64>,
                             before: f64,
                             rounding: f64| {
                    let (sum, size) =
                        products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                    let (sum, size) = if add { (sum + before, size + before) } else { (sum, size) };
                    let error = (f64::from(got) - sum).abs();
                    assert!(
                        error <= unit * size + rounding * sum.abs(),
                        "{got} for {sum}, {:?}",
                        (m, n, k)
                    );
                };
                for row in 0..m {
                    check(row_sums[row], &mut (0..k).map(|t| at(&lhs, row, t)), 2.0, 0.0);
                    for col in 0..n {
                        let products = &mut (0..k).map(|t| at(&lhs, row, t) * at(&rhs, col, t));
                        check(out[row * n + col].to_f32(), products, 3.0, rounding);
                    }
                }
            }
        }
    }

    /// Products of `bf16` are exact, and a sum has at most as many roundings as terms.
    #[test]
    fn products_in_tiles_of_bf16_are_right() {
        products_in_tiles_are_right::<bf16, f32>(true, |k| k as f64, 0.0);
        products_in_tiles_are_right::<bf16, f32>(false, |k| k as f64, 0.0);
        products_in_tiles_are_right::<bf16, bf16>(false, |k| k as f64, 2f64.powi(-8));
    }

    /// The bound of [`Tiles::sum`], with a step more for each block; where there are too few terms
    /// for tiles, these have fewer roundings.
    #[test]
    fn products_in_tiles_of_f32_are_right() {
        let of_tiles =
            |k: usize| (6.0 * (k.div_ceil(32) + k / BLOCK) as f64 + 20.0) * (1.0 + 2f64.powi(-6));
        products_in_tiles_are_right::<f32, f32>(true, of_tiles, 0.0);
        products_in_tiles_are_right::<f32, f32>(false, of_tiles, 0.0);
    }

    /// Products of one term each, so that no part and no product of parts can hide behind the bound
    /// of a long sum: five additions of six exact products, and what is left out of them, see
    /// [`Tiles::sum`]. What is not finite is not lost.
    #[test]
    fn single_products_of_f32_in_tiles_are_right() {
        const TERMS: usize = 64;
        let Some(dispatch) = Dispatch::with_tiles() else { return };
        let cpu = Cpu { dispatch, ..Cpu::single_threaded() };
        let rhs = draw::<f32>((TERMS, 32), 32, 1);
        for term in 0..TERMS {
            let values = draw::<f32>((64, 1), 1, 1 + 64 * term as u32);
            let mut lhs = vec![0f32; 64 * TERMS];
            (0..64).for_each(|row| lhs[row * TERMS + term] = values[row]);
            lhs[63 * TERMS + term] = f32::INFINITY;
            let (mut out, sums) = (vec![0f32; 64 * 32], Finish::Replace);
            let (lhs, factor) = (Factor::rows(&lhs[..], TERMS), Factor::columns(&rhs[..], 32));
            let product = Product {
                shape: (64, 32, TERMS),
                lhs,
                rhs: factor,
                packed_rhs: None,
                finish: sums,
                row_sums: None,
            };
            cpu.product(product, MatrixMut::contiguous(&mut out[..], 64, 32));
            for (row, out) in out.chunks(32).enumerate() {
                for (got, y) in out.iter().zip(&rhs[term * 32..]) {
                    let want = f64::from(values[row]) * f64::from(*y);
                    let bound = 8.0 * 2f64.powi(-24) * want.abs();
                    match row {
                        63 => assert!(got.is_nan(), "{got}"),
                        _ => assert!(
                            (f64::from(*got) - want).abs() <= bound,
                            "{got} for {want}, {:?}",
                            (row, term)
                        ),
                    }
                }
            }
        }
    }
}
