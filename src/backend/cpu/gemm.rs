//! Products of matrices: packed panels of both factors meet in tiles that lie in registers.
//!
//! A sum runs over blocks of terms, in each block term after term, whatever tiles and tasks there are: so its bits depend on sizes alone. Block after
//! block, the right factor is packed for all, so that it stays in the second-level cache, and each task packs the rows of the left one that it
//! multiplies.

mod dot;
mod factor;
mod tile;

use std::ops::Range;

use super::Cpu;
use super::scratch::{Scratch, TASK, WHOLE};
use super::vector::{load_vector, store_vector};
use crate::dtype::{DType, Element};
use crate::ops::MatrixMut;
use crate::simd::amx::{self, Tiles};
use crate::simd::{LANES, Lanes, Loop, Simd, prefetch_row};
pub(super) use factor::{Factor, load_words, multiplies_pairs};
use factor::{Pack, Words};
pub(super) use tile::Finish;
use tile::{Put, Rows, Sums, Tile, reads_rows_as_they_lie};

/// Words of a line that make a block.
const BLOCK: usize = 512;
/// Words of columns that stay in the second-level cache while all rows of a task meet them.
const WORDS_PER_GROUP: usize = 1 << 18;
/// Rows of a task, about: few enough for their packed words to stay in the cache beside those of the columns, and to spread over threads.
const ROWS_PER_TASK: usize = 60;
/// Panels of a task, at least, and panels of columns that are packed at once.
const PANELS_PER_TASK: usize = 4;
/// Rows so few that packing the right factor costs more than it saves.
const FEW_ROWS: usize = 32;
/// Columns so few that they would leave most of a vector empty.
const FEW_COLS: usize = 3;

/// `out = lhs rhs`, `[m, k]` times `[k, n]`, up to what [`Finish`] does with it.
pub(super) struct Product<'a, E> {
    pub(super) shape: (usize, usize, usize),
    pub(super) lhs: Factor<'a, E>,
    pub(super) rhs: Factor<'a, E>,
    pub(super) finish: Finish<'a>,
    /// For each row of `lhs` the sum of its terms, `[m]`, if it is wanted: replaced or added to, as the product is.
    pub(super) row_sums: Option<&'a mut [f32]>,
}

/// A block of terms of a product, and how it is cut, the same for all tasks.
#[derive(Clone, Copy)]
struct Block<'a, E> {
    n: usize,
    first_term: usize,
    terms: usize,
    lhs: Factor<'a, E>,
    /// Whether the output holds the sums of blocks before.
    continues: bool,
    finish: Finish<'a>,
    /// Rows and columns of a tile.
    tile: (usize, usize),
    words: Words,
    /// Whether the rows of the left factor are packed, and not read as they lie.
    packs_rows: bool,
    /// Panel after panel.
    rhs: &'a [f32],
}

/// What the instruction set says of tiles of products of `E`.
struct TileOf<E>(std::marker::PhantomData<E>);

impl<E: Element> Loop for TileOf<E> {
    type Output = ((usize, usize), Words);
    #[inline(always)]
    fn run<V: Lanes>(self, _: V) -> Self::Output {
        let words = if multiplies_pairs::<E, V>() { Words::Pairs } else { Words::Single };
        ((V::TILE.0, V::TILE.1 * LANES), words)
    }
}

impl Cpu {
    /// Computes a product. `out` is of `f32` or of the type of the factors.
    pub(super) fn product<E: Element, O: Element>(&self, product: Product<'_, E>, out: MatrixMut<'_, Self, O>) {
        let (m, n, k) = product.shape;
        if m == 0 || (n == 0 && product.row_sums.is_none()) {
            return;
        }
        let cpu = self.for_operations(2 * m * n * k);
        let by_lines = product.lhs.term_stride == 1 && product.rhs.term_stride == 1 && product.row_sums.is_none();
        if by_lines && (m <= FEW_ROWS || n <= FEW_COLS) {
            return cpu.product_of_few(&product, out);
        }
        let (tile, words) = match (self.dispatch.simd(), E::DTYPE) {
            (Simd::Amx, DType::BF16) => ((amx::ROWS, amx::COLS), Words::Tiles),
            _ => self.dispatch.run(TileOf::<E>(std::marker::PhantomData)),
        };
        let block = match O::DTYPE {
            DType::F32 => k.div_ceil(k.div_ceil(BLOCK * words.num_terms()).max(1)),
            // A sum that is not over cannot be stored in 16 bits.
            _ => k,
        };
        let block = block.next_multiple_of(words.terms_of_block()).max(1);
        let Product { lhs, rhs, finish, mut row_sums, .. } = product;
        // Where tiles can do without, packing would cost more than it saves.
        let packs_rows = lhs.term_stride != 1 || row_sums.is_some() || !reads_rows_as_they_lie::<E>(words);
        let (columns, ld) = (n.next_multiple_of(LANES), out.ld);
        let len = out.data.len().min(m * ld);
        let out = &mut out.data[..len];
        WHOLE.lend(words.of_terms(block.min(k)) * columns, |packed| {
            for first_term in (0..k.max(1)).step_by(block) {
                let terms = block.min(k - first_term);
                let packed = &mut packed[..words.of_terms(terms) * columns];
                cpu.pack_columns(rhs, n, first_term..first_term + terms, tile.1, words, packed);
                let finish = match finish {
                    Finish::Affine { .. } if first_term + terms < k => Finish::Replace,
                    finish => finish,
                };
                let continues = first_term > 0;
                let block =
                    Block { n, first_term, terms, lhs, continues, finish, tile, words, packs_rows, rhs: packed };
                let task = Task { first_row: 0, rows: m, out: &mut *out, ld, row_sums: row_sums.as_deref_mut() };
                cpu.install(|| cpu.split(&block, m.div_ceil(cpu.num_threads()), task));
            }
        });
    }

    /// Packs some terms of all columns of the right factor.
    fn pack_columns<E: Element>(
        &self,
        from: Factor<'_, E>,
        n: usize,
        terms: Range<usize>,
        width: usize,
        words: Words,
        packed: &mut [f32],
    ) {
        if packed.is_empty() {
            return;
        }
        let width = width.min(n.next_multiple_of(LANES));
        let group = width * PANELS_PER_TASK;
        self.for_each_chunk(packed, group * words.of_terms(terms.len()), |k, to| {
            let first_line = k * group;
            let lines = group.min(n - first_line);
            let last_width = (lines - (lines - 1) / width * width).next_multiple_of(LANES);
            let (first_term, terms, whole_lines) = (terms.start, terms.len(), false);
            let pack = Pack { from, first_line, lines, width, last_width, first_term, terms, words, whole_lines, to };
            self.dispatch.run(pack);
        });
    }

    /// Halves the rows until a task is left: first so that every thread has as many rows, then by whole panels.
    fn split<E: Element, O: Element>(&self, block: &Block<'_, E>, rows_per_thread: usize, task: Task<'_, O>) {
        let panel = block.tile.0;
        let most = panel * (ROWS_PER_TASK / panel).max(PANELS_PER_TASK);
        if task.rows <= most.min(rows_per_thread.next_multiple_of(panel)) {
            return TASK.lend(block.task_words(task.rows), |packed| self.multiply(block, task, packed));
        }
        let half = task.rows / 2;
        let half = if task.rows > rows_per_thread { half } else { half.next_multiple_of(panel) };
        let (upper, lower) = task.split_at(half);
        self.join(|| self.split(block, rows_per_thread, upper), || self.split(block, rows_per_thread, lower));
    }

    /// The rows of a task, with room for their packed words.
    fn multiply<E: Element, O: Element>(&self, block: &Block<'_, E>, task: Task<'_, O>, packed: &mut [f32]) {
        let Block { n, first_term, terms, lhs, continues, finish, words, packs_rows, rhs, .. } = *block;
        let (tile_rows, tile_cols) = block.tile;
        let columns = n.next_multiple_of(LANES);
        let mut sums = Sums::new();
        let tiles = (words == Words::Tiles).then(Tiles::new);
        let num_words = words.of_terms(terms);
        let panels = || (0..task.rows).step_by(tile_rows).map(|row| (row, tile_rows.min(task.rows - row)));
        let last_rows = task.rows - (task.rows - 1) / tile_rows * tile_rows;
        if packs_rows {
            self.dispatch.run(Pack {
                from: lhs,
                first_line: task.first_row,
                lines: task.rows,
                width: tile_rows,
                last_width: words.rows_of_tile(last_rows),
                first_term,
                terms,
                words,
                whole_lines: tiles.is_some(),
                to: &mut *packed,
            });
        }
        if let Some(row_sums) = task.row_sums {
            let add = continues || matches!(finish, Finish::Add);
            for (row, lines) in panels() {
                let width = words.rows_of_tile(lines);
                let packed = &packed[row * num_words..][..width * num_words];
                let sums = &mut row_sums[row..row + lines];
                self.dispatch.run(AddWords { packed, num_words, width, words, add, sums });
            }
        }
        let group = (WORDS_PER_GROUP / num_words.max(1)).max(tile_cols) / tile_cols * tile_cols;
        for first_of_group in (0..columns).step_by(group) {
            let group = group.min(columns - first_of_group);
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
                for col in (0..group).step_by(tile_cols) {
                    let width = tile_cols.min(group - col);
                    let first_col = first_of_group + col;
                    let cols = width.min(n - first_col);
                    // The output will be here when the sums are ready, and the next rows when it is their turn.
                    (row..row + lines).for_each(|r| prefetch_row(task.out, r * task.ld + first_col, cols));
                    if let Rows::AsTheyLie { data, ld, .. } = lhs {
                        let until = (col + width) * tile_rows / group;
                        (ahead..until).for_each(|r| prefetch_row(data, (tile_rows + r) * ld, terms));
                        ahead = until;
                    }
                    let rhs = &rhs[first_col * num_words..][..width * num_words];
                    match (&tiles, lhs) {
                        (Some(tiles), Rows::Packed(panel)) => tiles.sum(panel, rhs, num_words, &mut sums.0),
                        _ => self.dispatch.run(Tile { rows, vectors: width / LANES, lhs, rhs, sums: &mut sums }),
                    }
                    self.dispatch.run(Put {
                        sums: &sums,
                        out: &mut task.out[row * task.ld..],
                        ld: task.ld,
                        rows: lines,
                        first_col,
                        cols,
                        continues,
                        finish,
                    });
                }
            }
        }
    }
}

impl<E> Block<'_, E> {
    /// The words that the rows of a task take, if they are packed.
    fn task_words(&self, rows: usize) -> usize {
        let words = self.words.rows_of_tile(rows) * self.words.of_terms(self.terms);
        if self.packs_rows { words } else { 0 }
    }
}

/// Rows of the output.
struct Task<'a, O> {
    first_row: usize,
    rows: usize,
    out: &'a mut [O],
    ld: usize,
    row_sums: Option<&'a mut [f32]>,
}

impl<O> Task<'_, O> {
    fn split_at(self, rows: usize) -> (Self, Self) {
        let Self { first_row, rows: all, out, ld, row_sums } = self;
        let (upper, lower) = out.split_at_mut(rows * ld);
        let (upper_sums, lower_sums) = match row_sums.map(|sums| sums.split_at_mut(rows)) {
            Some((upper, lower)) => (Some(upper), Some(lower)),
            None => (None, None),
        };
        (
            Self { first_row, rows, out: upper, ld, row_sums: upper_sums },
            Self { first_row: first_row + rows, rows: all - rows, out: lower, ld, row_sums: lower_sums },
        )
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
    fn run<V: Lanes>(mut self, lanes: V) {
        for (k, out) in std::mem::take(&mut self.sums).chunks_mut(LANES).enumerate() {
            let mut sums = match (V::MULTIPLIES_PAIRS, self.words) {
                (true, Words::Tiles) => self.of_lines(lanes, k * LANES),
                (true, Words::Pairs) => self.of_columns::<V, true>(lanes),
                _ => self.of_columns::<V, false>(lanes),
            };
            if self.add {
                sums = lanes.add(load_vector(lanes, out), sums);
            }
            store_vector(lanes, sums, out);
        }
    }
}

impl AddWords<'_> {
    /// Of up to 16 lines whose words lie side by side.
    #[inline(always)]
    fn of_columns<V: Lanes, const PAIRS: bool>(&self, lanes: V) -> V::F32 {
        let ones = lanes.splat(ONES);
        let mut sums = lanes.splat(0.0);
        for w in 0..self.num_words {
            let words = load_vector(lanes, &self.packed[w * self.width..]);
            sums = if PAIRS { lanes.add_products_of_pairs(words, ones, sums) } else { lanes.add(sums, words) };
        }
        sums
    }

    /// Of 16 whole lines.
    #[inline(always)]
    fn of_lines<V: Lanes>(&self, lanes: V, first_line: usize) -> V::F32 {
        let ones = lanes.splat(ONES);
        let mut sums = [lanes.splat(0.0); LANES];
        for (l, sum) in sums.iter_mut().enumerate() {
            let line = &self.packed[(first_line + l) * self.num_words..][..self.num_words];
            for words in line.as_chunks().0 {
                *sum = lanes.add_products_of_pairs(lanes.load(words), ones, *sum);
            }
        }
        lanes.sums(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::bf16;
    use crate::simd::Dispatch;

    /// `rows` times `cols` small numbers, that many elements from row to row; what lies between is no number.
    fn draw((rows, cols): (usize, usize), ld: usize, seed: u32) -> Vec<bf16> {
        let value = |k: usize| {
            let bits = (k as u32 + seed).wrapping_mul(2_654_435_769) >> 8;
            bf16::from_f32(bits as f32 / (1 << 23) as f32 - 1.0)
        };
        let of_row = |k: usize| if k % ld < cols { value(k) } else { bf16::NAN };
        (0..rows * ld).map(of_row).collect()
    }

    /// Everything that a product in tiles can be, against sums in `f64`. A sum of `k` products, which are exact, has at most `k` roundings of `2⁻²⁴`, one more
    /// for each block and for what it is added to, and one of `2⁻⁸` where it is stored as `bf16`.
    fn products_in_tiles_are_right<O: Element>(rounding: f64) {
        let Some(dispatch) = Dispatch::with_tiles() else { return };
        for (m, n, k) in [(33, 5, 1), (40, 33, 31), (96, 64, 64), (150, 70, 415), (47, 130, 1100), (64, 512, 0)] {
            for (lhs_in_rows, rhs_in_rows) in [(true, true), (true, false), (false, true), (false, false)] {
                let shape = |lines: usize, in_rows: bool| if in_rows { (lines, k) } else { (k, lines) };
                let (lhs_shape, rhs_shape) = (shape(m, lhs_in_rows), shape(n, rhs_in_rows));
                let (lhs_ld, rhs_ld) = (lhs_shape.1 + 3, rhs_shape.1 + 1);
                let (lhs, rhs) = (draw(lhs_shape, lhs_ld, 1), draw(rhs_shape, rhs_ld, 1 << 20));
                let factor =
                    |data, ld, in_rows| if in_rows { Factor::rows(data, ld) } else { Factor::columns(data, ld) };
                let (lhs, rhs) = (factor(&lhs[..], lhs_ld, lhs_in_rows), factor(&rhs[..], rhs_ld, rhs_in_rows));
                let (mut row_sums, mut out) = (vec![2f32; m], vec![O::from_f32(3.0); m * n]);
                let add = O::DTYPE == DType::F32;
                let finish = if add { Finish::Add } else { Finish::Replace };
                let product = Product { shape: (m, n, k), lhs, rhs, finish, row_sums: Some(&mut row_sums) };
                let cpu = Cpu { dispatch, ..Cpu::with_threads(2).unwrap() };
                cpu.product(product, MatrixMut::packed(&mut out[..], m, n));

                let at = |of: &Factor<'_, bf16>, line: usize, term: usize| {
                    f64::from(of.data[line * of.line_stride + term * of.term_stride].to_f32())
                };
                let unit = 2f64.powi(-24) * (k + k / BLOCK + 4) as f64;
                let check = |got: f32, products: &mut dyn Iterator<Item = f64>, before: f64, rounding: f64| {
                    let (sum, size) = products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                    let (sum, size) = if add { (sum + before, size + before) } else { (sum, size) };
                    let error = (f64::from(got) - sum).abs();
                    assert!(error <= unit * size + rounding * sum.abs(), "{got} for {sum}, {:?}", (m, n, k));
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

    #[test]
    fn products_in_tiles_to_f32_are_right() {
        products_in_tiles_are_right::<f32>(0.0);
    }

    #[test]
    fn products_in_tiles_to_bf16_are_right() {
        products_in_tiles_are_right::<bf16>(2f64.powi(-8));
    }
}
