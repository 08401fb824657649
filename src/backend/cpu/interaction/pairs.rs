//! The products of a sample's features, over the triangle alone: forward as many pairs at a time as
//! registers hold sums of, and backward the product of the symmetric matrix of the pairs' gradients
//! with the features, in tiles that lie in registers.

use std::ops::Range;

use super::super::compute::gemm::{load_packed, multiplies_pairs};
use super::super::compute::vector::{load, load_vector, store_vector};
use super::Sample;
use crate::dtype::Element;
use crate::ops::{Interaction, PairOrder};
use crate::simd::{GROUP, LANES, Lanes, Loop, prefetch_row};

/// All dot products of a sample, in the order of the output.
pub(super) struct Dots<'a, E> {
    pub(super) pairs: Pairs,
    pub(super) sample: Sample<'a, E>,
    /// The one whose turn it is next: it is on its way from memory meanwhile.
    pub(super) ahead: Sample<'a, E>,
    pub(super) dots: &'a mut [E],
    /// [`dots_len`] values.
    pub(super) scratch: &'a mut [f32],
}

/// Which pairs there are.
#[derive(Clone, Copy)]
pub(super) struct Pairs {
    interaction: Interaction,
    order: PairOrder,
    diagonal: usize,
    num_features: usize,
}

impl Pairs {
    pub(super) fn new(interaction: Interaction, num_features: usize) -> Self {
        let (order, include_self) = match interaction {
            Interaction::Dot { order, include_self, .. } => (order, include_self),
            Interaction::Cat => (PairOrder::LowerTriangle, false),
        };
        Self { interaction, order, diagonal: usize::from(include_self), num_features }
    }

    /// The features that `i` meets in its row of the triangle: their dots lie side by side.
    #[inline(always)]
    fn of_row(&self, i: usize) -> (usize, usize) {
        match self.order {
            PairOrder::LowerTriangle => (0, (i + self.diagonal).min(self.num_features)),
            PairOrder::UpperTriangle => (i + 1 - self.diagonal, self.num_features),
        }
    }

    /// The features `first..end` among `from..from + len` that `i` meets in its row.
    #[inline(always)]
    fn met(&self, i: usize, from: usize, len: usize) -> (usize, usize) {
        let (first, end) = self.of_row(i);
        (first.max(from), end.min(from + len))
    }

    #[inline(always)]
    fn position(&self, i: usize, j: usize) -> usize {
        self.interaction.pair_position(self.num_features, i, j)
    }

    /// The features that some of the `len` from `first` on meet in their rows, and some others.
    #[inline(always)]
    fn met_by(&self, first: usize, len: usize) -> Range<usize> {
        match self.order {
            PairOrder::LowerTriangle => 0..first + len,
            PairOrder::UpperTriangle => first..self.num_features,
        }
    }
}

/// Features that lie side by side, four words of each: as many as a vector has groups.
const BLOCK: usize = LANES / GROUP;

/// The values that [`Dots`] needs for features and for rows of products.
pub(super) fn dots_len(num_features: usize, dim: usize) -> usize {
    let side = num_features.next_multiple_of(BLOCK);
    side * dim.next_multiple_of(GROUP) + BLOCK * (side + LANES)
}

impl<E: Element> Loop for Dots<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        match (V::DOTS, multiplies_pairs::<E, V>()) {
            (16, true) => self.sum::<V, 2, 4>(lanes),
            (16, false) => self.sum::<V, 1, 4>(lanes),
            _ => self.sum::<V, 1, 1>(lanes),
        }
    }
}

impl<E: Element> Dots<'_, E> {
    /// Words are of `TERMS` elements; registers hold the sums of the features of a block with those
    /// of `BLOCKS` blocks.
    #[inline(always)]
    fn sum<V: Lanes, const TERMS: usize, const BLOCKS: usize>(self, lanes: V) {
        let Self { pairs, sample, ahead, dots, scratch } = self;
        let num_features = pairs.num_features;
        let side = num_features.next_multiple_of(BLOCK);
        let len = sample.dim.div_ceil(TERMS * GROUP);
        let (packed, rows) = scratch.split_at_mut(side * len * GROUP);
        let packed = packed.as_chunks_mut::<LANES>().0;
        for (k, block) in packed.chunks_exact_mut(len).enumerate() {
            let mut features: [&[E]; BLOCK] = [&[]; BLOCK];
            for (i, feature) in features.iter_mut().enumerate() {
                if k * BLOCK + i < num_features {
                    *feature = sample.feature(k * BLOCK + i);
                }
            }
            pack::<V, E, TERMS>(lanes, features, block);
        }
        let ld = side + LANES;
        let mut position = 0;
        for row in (0..num_features).step_by(BLOCK) {
            ahead.prefetch(row..(row + BLOCK).min(num_features));
            let met = pairs.met_by(row, BLOCK);
            let end = met.end.div_ceil(BLOCK);
            for block in (met.start / BLOCK..end).step_by(BLOCKS) {
                let tile = Tile { lanes, packed, len, row, block, to: rows, ld };
                match (end - block).min(BLOCKS) {
                    2 if BLOCKS > 1 => tile.sum::<TERMS, 2>(),
                    3 if BLOCKS > 1 => tile.sum::<TERMS, 3>(),
                    4 if BLOCKS > 1 => tile.sum::<TERMS, 4>(),
                    _ => tile.sum::<TERMS, 1>(),
                }
            }
            for (i, sums) in (row..num_features).zip(rows.chunks_exact(ld)).take(BLOCK) {
                let (first, end) = pairs.of_row(i);
                // Whole vectors: what is too much will be overwritten by the next row.
                for j in (first..end).step_by(LANES) {
                    store_vector(
                        lanes,
                        load_vector(lanes, &sums[j..]),
                        &mut dots[position + j - first..],
                    );
                }
                position += end - first;
            }
        }
    }
}

/// Brings four features to their block, four words of each at a time; zeros behind them and for
/// those that are not there.
#[inline(always)]
fn pack<V: Lanes, E: Element, const TERMS: usize>(
    lanes: V,
    features: [&[E]; BLOCK],
    block: &mut [[f32; LANES]],
) {
    for (k, to) in block.chunks_mut(BLOCK).enumerate() {
        let mut words = [lanes.splat(0.0); BLOCK];
        for i in 0..BLOCK {
            let feature = features[i];
            let rest = &feature[(k * LANES * TERMS).min(feature.len())..];
            // A load of nothing from nowhere is allowed, but slow.
            if !rest.is_empty() {
                words[i] =
                    load_packed::<V, E, TERMS>(lanes, &rest[..rest.len().min(LANES * TERMS)]);
            }
        }
        for (to, vector) in to.iter_mut().zip(lanes.transpose_groups(words)) {
            lanes.store(vector, to);
        }
    }
}

/// The products of the features of a block with those of some others.
struct Tile<'a, V> {
    lanes: V,
    /// Blocks of `len` vectors.
    packed: &'a [[f32; LANES]],
    len: usize,
    /// The first of the features.
    row: usize,
    /// The first of the other blocks.
    block: usize,
    /// A row for each of the features, `ld` values apart.
    to: &'a mut [f32],
    ld: usize,
}

impl<V: Lanes> Tile<'_, V> {
    /// Lane `l` of a group sums the products of words `≡ l (mod 4)`, then the lanes are added
    /// pairwise.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn sum<const TERMS: usize, const BLOCKS: usize>(self) {
        let Self { lanes, packed, len, row, block, to, ld } = self;
        let rows = &packed[row / BLOCK * len..][..len];
        let mut blocks: [&[[f32; LANES]]; BLOCKS] = [&[]; BLOCKS];
        for b in 0..BLOCKS {
            blocks[b] = &packed[(block + b) * len..][..len];
        }
        let mut sums = [[lanes.splat(0.0); BLOCKS]; BLOCK];
        for w in 0..len {
            let mut columns = [lanes.splat(0.0); BLOCKS];
            for b in 0..BLOCKS {
                columns[b] = lanes.load(&blocks[b][w]);
            }
            for r in 0..BLOCK {
                let words = lanes.splat_group(&rows[w].as_chunks::<GROUP>().0[r]);
                for b in 0..BLOCKS {
                    sums[r][b] = match TERMS {
                        2 => lanes.add_products_of_pairs(words, columns[b], sums[r][b]),
                        _ => lanes.mul_add(words, columns[b], sums[r][b]),
                    };
                }
            }
        }
        if BLOCKS == 1 {
            let mut vectors = [lanes.splat(0.0); BLOCK];
            for r in 0..BLOCK {
                vectors[r] = sums[r][0];
            }
            let dots = lanes.to_array(lanes.sums_of_groups(vectors));
            for (r, dots) in dots.as_chunks::<BLOCK>().0.iter().enumerate() {
                to[r * ld + block * BLOCK..][..BLOCK].copy_from_slice(dots);
            }
            return;
        }
        for r in 0..BLOCK {
            let mut vectors = [lanes.splat(0.0); BLOCK];
            vectors[..BLOCKS].copy_from_slice(&sums[r]);
            // What is behind the last block will be overwritten by the next ones.
            store_vector(lanes, lanes.sums_of_groups(vectors), &mut to[r * ld + block * BLOCK..]);
        }
    }
}

/// The values that [`Grads`] needs for the matrix of the pairs' gradients.
pub(super) fn weights_len(num_features: usize) -> usize {
    let side = num_features.next_multiple_of(LANES);
    // A tile reads as many as it can have rows.
    side * side + LANES
}

/// The gradients of all features of a sample.
pub(super) struct Grads<'a, E> {
    pub(super) pairs: Pairs,
    pub(super) sample: Sample<'a, E>,
    /// As in [`Dots`].
    pub(super) ahead: Sample<'a, E>,
    /// Gradients of the dots.
    pub(super) grad_dots: &'a [E],
    /// For each feature what else its gradient begins with: of the dense vector, and of the others,
    /// if there is.
    pub(super) direct: (&'a [E], &'a [E]),
    /// Where the gradients go, as the features lie.
    pub(super) head: &'a mut [E],
    pub(super) tail: &'a mut [E],
    /// [`weights_len`] values.
    pub(super) weights: &'a mut [f32],
}

impl<E: Element> Loop for Grads<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self, lanes: V) {
        self.spread(lanes);
        let (rows, vectors) = V::TILE;
        let (num_features, dim) = (self.pairs.num_features, self.sample.dim);
        for first in (0..num_features).step_by(rows) {
            let rows = rows.min(num_features - first);
            self.ahead.prefetch(first..first + rows);
            for i in first..first + rows {
                // Gradients of the next sample lie behind those of this one, if there are no gaps.
                match i {
                    0 => prefetch_row(self.head, dim, dim),
                    i => prefetch_row(self.tail, self.tail.len() + (i - 1) * dim, dim),
                }
            }
            let mut col = 0;
            while vectors > 1 && col + 2 * LANES <= dim {
                self.rows::<V, 2, true>(lanes, first, rows, col);
                col += 2 * LANES;
            }
            while col + LANES <= dim {
                self.rows::<V, 1, true>(lanes, first, rows, col);
                col += LANES;
            }
            if col < dim {
                self.rows::<V, 1, false>(lanes, first, rows, col);
            }
        }
    }
}

impl<E: Element> Grads<'_, E> {
    /// Makes the symmetric matrix of the pairs' gradients: that of the triangle and the same turned
    /// over, which doubles the diagonal. A pair that is not there gets 0.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn spread<V: Lanes>(&mut self, lanes: V) {
        let Self { pairs, grad_dots, .. } = *self;
        let side = pairs.num_features.next_multiple_of(LANES);
        for row in (0..side).step_by(LANES) {
            for col in pairs.met_by(row, LANES).step_by(LANES) {
                let mut block = [lanes.splat(0.0); LANES];
                for k in 0..LANES {
                    if row + k < pairs.num_features {
                        block[k] = triangle_row(lanes, pairs, grad_dots, row + k, col);
                    }
                }
                let turned = lanes.transpose(block);
                for k in 0..LANES {
                    let (at, turned_at) = ((row + k) * side + col, (col + k) * side + row);
                    let sum = if row == col { lanes.add(block[k], turned[k]) } else { block[k] };
                    if let Some(to) = self.weights[at..].first_chunk_mut::<LANES>() {
                        lanes.store(sum, to);
                    }
                    if let Some(to) =
                        self.weights[turned_at..].first_chunk_mut::<LANES>().filter(|_| row != col)
                    {
                        lanes.store(turned[k], to);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn rows<V: Lanes, const VECTORS: usize, const WHOLE: bool>(
        &mut self,
        lanes: V,
        first: usize,
        rows: usize,
        col: usize,
    ) {
        // What an instruction set has no registers for is not compiled for it.
        match rows {
            1 => self.tile::<V, 1, VECTORS, WHOLE>(lanes, first, rows, col),
            2 => self.tile::<V, 2, VECTORS, WHOLE>(lanes, first, rows, col),
            3..=4 if V::TILE.0 >= 4 => self.tile::<V, 4, VECTORS, WHOLE>(lanes, first, rows, col),
            5..=6 if V::TILE.0 >= 6 => self.tile::<V, 6, VECTORS, WHOLE>(lanes, first, rows, col),
            7..=10 if V::TILE.0 >= 10 => {
                self.tile::<V, 10, VECTORS, WHOLE>(lanes, first, rows, col)
            }
            11..=14 if V::TILE.0 >= 14 => {
                self.tile::<V, 14, VECTORS, WHOLE>(lanes, first, rows, col)
            }
            _ => (),
        }
    }

    /// The gradients of up to `ROWS` features, in some columns: a sum over all features that they
    /// meet, in their order.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn tile<V: Lanes, const ROWS: usize, const VECTORS: usize, const WHOLE: bool>(
        &mut self,
        lanes: V,
        first: usize,
        rows: usize,
        col: usize,
    ) {
        let (num_features, dim) = (self.pairs.num_features, self.sample.dim);
        let side = num_features.next_multiple_of(LANES);
        let cols = if WHOLE { VECTORS * LANES } else { dim - col };
        let mut sums = [[lanes.splat(0.0); VECTORS]; ROWS];
        // Counted to a constant, so that the sums lie in registers.
        for r in 0..ROWS {
            let direct = match first + r {
                0 => self.direct.0.get(col..col + cols),
                i => self.direct.1.get((i - 1) * dim + col..(i - 1) * dim + col + cols),
            };
            if let Some(direct) = direct {
                sums[r] = load::<V, E, VECTORS, WHOLE>(lanes, direct);
            }
        }
        for j in 0..num_features {
            let columns =
                load::<V, E, VECTORS, WHOLE>(lanes, &self.sample.feature(j)[col..][..cols]);
            let Some(weights) = self.weights[j * side + first..].first_chunk::<ROWS>() else {
                continue;
            };
            for r in 0..ROWS {
                let weight = lanes.splat(weights[r]);
                for v in 0..VECTORS {
                    sums[r][v] = lanes.mul_add(weight, columns[v], sums[r][v]);
                }
            }
        }
        // Through memory once: gradients of a number that is not known before would keep the sums
        // out of registers.
        let mut all = [[[0f32; LANES]; VECTORS]; ROWS];
        for r in 0..ROWS {
            for v in 0..VECTORS {
                lanes.store(sums[r][v], &mut all[r][v]);
            }
        }
        for (r, sums) in all.iter().enumerate().take(rows) {
            let grad = match first + r {
                0 => &mut self.head[col..][..cols],
                i => &mut self.tail[(i - 1) * dim + col..][..cols],
            };
            if WHOLE {
                for (sum, to) in sums.iter().zip(grad.as_chunks_mut::<LANES>().0) {
                    lanes.store(lanes.load(sum), to);
                }
            } else {
                lanes.store_part(lanes.load(&sums[0]), grad);
            }
        }
    }
}

/// The gradients of the pairs of feature `i` with the 16 from `col` on, 0 where it does not meet
/// them in its row.
#[inline(always)]
fn triangle_row<V: Lanes, E: Element>(
    lanes: V,
    pairs: Pairs,
    grad_dots: &[E],
    i: usize,
    col: usize,
) -> V::F32 {
    let (first, end) = pairs.met(i, col, LANES);
    if first >= end {
        return lanes.splat(0.0);
    }
    let from = &grad_dots[pairs.position(i, first)..][..end - first];
    match from.first_chunk::<LANES>() {
        Some(from) => lanes.load(from),
        None if first == col => lanes.load_part(from),
        None => {
            let mut all = [E::default(); LANES];
            all[first - col..end - col].copy_from_slice(from);
            lanes.load(&all)
        }
    }
}
