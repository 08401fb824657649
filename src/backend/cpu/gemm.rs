//! Products of matrices: packed panels of both factors meet in tiles that lie in registers.
//!
//! The right factor is packed once for all; each task packs the rows of the left one that it multiplies. A sum runs over blocks of terms, in
//! each block term after term, whatever tiles and tasks there are: so its bits depend on sizes alone.

mod dot;
mod factor;
mod tile;

use super::Cpu;
use super::scratch::{Scratch, TASK, WHOLE};
use super::simd::{LANES, Lanes, Loop};
use crate::dtype::{DType, Element};
use crate::ops::MatrixMut;
pub(super) use dot::dot_tile;
pub(super) use factor::Factor;
use factor::{Pack, multiplies_pairs, words};
pub(super) use tile::Finish;
use tile::{Put, Sums, Tile, rows_of_tile};

/// Terms whose words of a panel and a few others stay in the second-level cache.
const BLOCK: usize = 512;
/// Panels of rows that a task packs at once: enough to use a panel of columns several times, few enough to spread over threads.
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

/// How a product is cut, the same for all tasks.
#[derive(Clone, Copy)]
struct Plan<'a, E> {
    n: usize,
    k: usize,
    lhs: Factor<'a, E>,
    finish: Finish<'a>,
    /// Rows and columns of a tile.
    tile: (usize, usize),
    pairs: bool,
    /// Terms of a block.
    block: usize,
    /// Block after block, panel after panel.
    rhs: &'a [f32],
}

/// What the instruction set says of tiles of products of `E`.
struct TileOf<E>(std::marker::PhantomData<E>);

impl<E: Element> Loop for TileOf<E> {
    type Output = ((usize, usize), bool);
    #[inline(always)]
    fn run<V: Lanes>(self, _: V) -> Self::Output {
        ((V::TILE.0, V::TILE.1 * LANES), multiplies_pairs::<E, V>())
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
        let (tile, pairs) = self.dispatch.run(TileOf::<E>(std::marker::PhantomData));
        let block = match O::DTYPE {
            DType::F32 => k.div_ceil(k.div_ceil(BLOCK).max(1)).next_multiple_of(2),
            // A sum that is not over cannot be stored in 16 bits.
            _ => k.next_multiple_of(2),
        };
        let Product { lhs, rhs, finish, row_sums, .. } = product;
        WHOLE.lend(words(pairs, k) * n.next_multiple_of(LANES), |packed| {
            cpu.pack_columns(rhs, (n, k, block), tile.1, pairs, packed);
            let plan = Plan { n, k, lhs, finish, tile, pairs, block, rhs: packed };
            let ld = out.ld;
            let len = out.data.len().min(m * ld);
            let task = Task { first_row: 0, rows: m, out: &mut out.data[..len], ld, row_sums };
            cpu.install(|| cpu.split(&plan, m.div_ceil(cpu.num_threads()), task));
        });
    }

    /// Packs all columns of the right factor.
    fn pack_columns<E: Element>(
        &self,
        from: Factor<'_, E>,
        (n, k, block): (usize, usize, usize),
        width: usize,
        pairs: bool,
        packed: &mut [f32],
    ) {
        let columns = n.next_multiple_of(LANES);
        let width = width.min(columns);
        let group = width * PANELS_PER_TASK;
        let block_len = columns * words(pairs, block);
        if block_len == 0 {
            return;
        }
        self.for_each_chunk(packed, block_len, |b, packed| {
            let (first_term, terms) = (b * block, block.min(k - b * block));
            self.for_each_chunk(packed, group * words(pairs, terms), |k, to| {
                let first_line = k * group;
                let lines = group.min(n - first_line);
                let last_width = (lines - (lines - 1) / width * width).next_multiple_of(LANES);
                self.dispatch.run(Pack { from, first_line, lines, width, last_width, first_term, terms, to });
            });
        });
    }

    /// Halves the rows until a task is left: first so that every thread has as many rows, then by whole panels.
    fn split<E: Element, O: Element>(&self, plan: &Plan<'_, E>, rows_per_thread: usize, task: Task<'_, O>) {
        let panel = plan.tile.0;
        if task.rows <= panel * PANELS_PER_TASK {
            return TASK.lend(task_words(plan, task.rows), |packed| self.multiply(plan, task, packed));
        }
        let half = task.rows / 2;
        let half = if task.rows > rows_per_thread { half } else { half.next_multiple_of(panel) };
        let (upper, lower) = task.split_at(half);
        self.join(|| self.split(plan, rows_per_thread, upper), || self.split(plan, rows_per_thread, lower));
    }

    /// The rows of a task, with room for their packed words.
    fn multiply<E: Element, O: Element>(&self, plan: &Plan<'_, E>, mut task: Task<'_, O>, packed: &mut [f32]) {
        let Plan { n, k, lhs, tile: (tile_rows, tile_cols), pairs, block, finish, .. } = *plan;
        let columns = n.next_multiple_of(LANES);
        let mut sums = Sums::new();
        let num_blocks = k.div_ceil(block.max(1)).max(1);
        let mut rhs = plan.rhs;
        for b in 0..num_blocks {
            let (first_term, is_last) = (b * block, b + 1 == num_blocks);
            let terms = block.min(k - first_term);
            let num_words = words(pairs, terms);
            let finish = match finish {
                Finish::Affine { .. } if !is_last => Finish::Replace,
                finish => finish,
            };
            let panels = || (0..task.rows).step_by(tile_rows).map(|row| (row, tile_rows.min(task.rows - row)));
            let last_rows = task.rows - (task.rows - 1) / tile_rows * tile_rows;
            self.dispatch.run(Pack {
                from: lhs,
                first_line: task.first_row,
                lines: task.rows,
                width: tile_rows,
                last_width: rows_of_tile(last_rows),
                first_term,
                terms,
                to: &mut *packed,
            });
            if let Some(row_sums) = task.row_sums.as_deref_mut() {
                let add = b > 0 || matches!(finish, Finish::Add);
                for (row, lines) in panels() {
                    let width = rows_of_tile(lines);
                    let words = &packed[row * num_words..][..width * num_words];
                    add_words(words, width, pairs, add, &mut row_sums[row..row + lines]);
                }
            }
            let (of_block, after) = rhs.split_at(columns * num_words);
            rhs = after;
            for first_col in (0..columns).step_by(tile_cols) {
                let width = tile_cols.min(columns - first_col);
                let rhs = &of_block[first_col * num_words..][..width * num_words];
                let mut rest = &packed[..];
                for (row, lines) in panels() {
                    let rows = rows_of_tile(lines);
                    let (lhs, after) = rest.split_at(rows * num_words);
                    rest = after;
                    self.dispatch.run(Tile { rows, vectors: width / LANES, pairs, lhs, rhs, sums: &mut sums });
                    self.dispatch.run(Put {
                        sums: &sums,
                        out: &mut task.out[row * task.ld..],
                        ld: task.ld,
                        rows: lines,
                        first_col,
                        cols: width.min(n - first_col),
                        continues: b > 0,
                        finish,
                    });
                }
            }
        }
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

/// The words that a task's rows take.
fn task_words<E>(plan: &Plan<'_, E>, rows: usize) -> usize {
    (rows + 1) * words(plan.pairs, plan.block.min(plan.k))
}

/// Adds up the words of each line of a packed panel.
fn add_words(packed: &[f32], width: usize, pairs: bool, add: bool, sums: &mut [f32]) {
    let mut lanes = [0f32; tile::MAX_ROWS];
    let lanes = &mut lanes[..sums.len()];
    for words in packed.chunks_exact(width) {
        if pairs {
            let halves =
                |word: f32| (f32::from_bits(word.to_bits() << 16), f32::from_bits(word.to_bits() & 0xffff_0000));
            lanes.iter_mut().zip(words).for_each(|(lane, word)| *lane = *lane + halves(*word).0 + halves(*word).1);
        } else {
            lanes.iter_mut().zip(words).for_each(|(lane, word)| *lane += word);
        }
    }
    sums.iter_mut().zip(lanes).for_each(|(sum, lane)| *sum = if add { *sum + *lane } else { *lane });
}
