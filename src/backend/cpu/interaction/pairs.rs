//! The pairwise dot products of a sample's features, and their gradients.
//!
//! Both use register blocking. Forward, a tile of dots is summed at once, for the blocks that the
//! triangle of the pairs touches. Backward, the gradients of the features are the product of a
//! symmetric matrix, which holds the gradients of the pairs, with the features.

use std::ops::Range;

use super::super::compute::gemm::{load_packed, multiplies_pairs};
use super::super::compute::vector::{load, load_vector, store_vector};
use super::sample::Sample;
use crate::dtype::{DType, Element};
use crate::ops::{Interaction, PairOrder};
use crate::simd::{GROUP, LANES, Lanes, Loop, prefetch_row};

/// Computes the dot products of all pairs of a sample.
pub(super) struct Dots<'a, E> {
    pub(super) pairs: Pairs,
    pub(super) sample: Sample<'a, E>,
    /// The next sample, which is prefetched meanwhile.
    pub(super) next: Sample<'a, E>,
    /// The dots, in the order of the output.
    pub(super) dots: &'a mut [E],
    /// Space for [`dots_scratch_len`] values.
    pub(super) scratch: &'a mut [f32],
}

/// The pairs of an interaction.
#[derive(Clone, Copy)]
pub(super) struct Pairs {
    interaction: Interaction,
    order: PairOrder,
    /// 1 if each feature also meets itself, else 0.
    diagonal: usize,
    num_features: usize,
}

impl Pairs {
    /// Returns the pairs among `num_features` features.
    pub(super) fn new(interaction: Interaction, num_features: usize) -> Self {
        let (order, include_self) = match interaction {
            Interaction::Dot { order, include_self, .. } => (order, include_self),
            Interaction::Cat => (PairOrder::LowerTriangle, false),
        };
        Self { interaction, order, diagonal: usize::from(include_self), num_features }
    }

    /// Returns the partners `(first, end)` of feature `i` in its row of the triangle. Their dots
    /// lie side by side in the output.
    #[inline(always)]
    fn partners(&self, i: usize) -> (usize, usize) {
        match self.order {
            PairOrder::LowerTriangle => (0, (i + self.diagonal).min(self.num_features)),
            PairOrder::UpperTriangle => (i + 1 - self.diagonal, self.num_features),
        }
    }

    /// Returns the partners `(first, end)` of feature `i` among the features `from..from + len`.
    #[inline(always)]
    fn partners_among(&self, i: usize, from: usize, len: usize) -> (usize, usize) {
        let (first, end) = self.partners(i);
        (first.max(from), end.min(from + len))
    }

    /// Returns the column of a pair among the dots.
    #[inline(always)]
    fn position(&self, i: usize, j: usize) -> usize {
        self.interaction.pair_position(self.num_features, i, j)
    }

    /// Returns a range that covers the partners of the features `first..first + len`.
    #[inline(always)]
    fn partners_of_block(&self, first: usize, len: usize) -> Range<usize> {
        match self.order {
            PairOrder::LowerTriangle => 0..first + len,
            PairOrder::UpperTriangle => first..self.num_features,
        }
    }
}

/// The features of a block, as many as a vector has groups. A packed block interleaves its
/// features: a vector holds [`GROUP`] packed elements of each.
const BLOCK: usize = LANES / GROUP;

/// Returns the number of values that [`Dots`] needs for packed features and for rows of dots.
pub(super) fn dots_scratch_len(num_features: usize, dim: usize) -> usize {
    let side = num_features.next_multiple_of(BLOCK);
    side * dim.next_multiple_of(GROUP) + BLOCK * (side + LANES)
}

impl<E: Element> Loop for Dots<'_, E> {
    type Output = ();
    const MULTIPLIES_PAIRS: bool = matches!(E::DTYPE, DType::BF16);

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
    /// Computes all dots. A packed word of 32 bits holds `PACKED` elements: one as an `f32`, or two
    /// of 16 bits. The registers hold the sums of one block's features with those of `BLOCKS`
    /// blocks.
    #[inline(always)]
    fn sum<V: Lanes, const PACKED: usize, const BLOCKS: usize>(self, lanes: V) {
        let Self { pairs, sample, next, dots, scratch } = self;
        let num_features = pairs.num_features;
        let side = num_features.next_multiple_of(BLOCK);
        let len = sample.dim.div_ceil(PACKED * GROUP);
        let (packed, rows) = scratch.split_at_mut(side * len * GROUP);
        let packed = packed.as_chunks_mut::<LANES>().0;
        for (k, block) in packed.chunks_exact_mut(len).enumerate() {
            let mut features: [&[E]; BLOCK] = [&[]; BLOCK];
            for (i, feature) in features.iter_mut().enumerate() {
                if k * BLOCK + i < num_features {
                    *feature = sample.feature(k * BLOCK + i);
                }
            }
            pack::<V, E, PACKED>(lanes, features, block);
        }
        let ld = side + LANES;
        let mut position = 0;
        for row in (0..num_features).step_by(BLOCK) {
            next.prefetch(row..(row + BLOCK).min(num_features));
            let partners = pairs.partners_of_block(row, BLOCK);
            let end = partners.end.div_ceil(BLOCK);
            for block in (partners.start / BLOCK..end).step_by(BLOCKS) {
                let tile = Tile { lanes, packed, len, row, block, to: rows, ld };
                match (end - block).min(BLOCKS) {
                    2 if BLOCKS > 1 => tile.sum::<PACKED, 2>(),
                    3 if BLOCKS > 1 => tile.sum::<PACKED, 3>(),
                    4 if BLOCKS > 1 => tile.sum::<PACKED, 4>(),
                    _ => tile.sum::<PACKED, 1>(),
                }
            }
            for (i, sums) in (row..num_features).zip(rows.chunks_exact(ld)).take(BLOCK) {
                let (first, end) = pairs.partners(i);
                // Stores whole vectors: the next row overwrites the excess.
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

/// Packs the features of a block, padded with zeros. A feature that does not exist is empty.
#[inline(always)]
fn pack<V: Lanes, E: Element, const PACKED: usize>(
    lanes: V,
    features: [&[E]; BLOCK],
    block: &mut [[f32; LANES]],
) {
    for (k, to) in block.chunks_mut(BLOCK).enumerate() {
        let mut words = [lanes.splat(0.0); BLOCK];
        for i in 0..BLOCK {
            let feature = features[i];
            let rest = &feature[(k * LANES * PACKED).min(feature.len())..];
            // An empty load would be correct, but slow.
            if !rest.is_empty() {
                words[i] =
                    load_packed::<V, E, PACKED>(lanes, &rest[..rest.len().min(LANES * PACKED)]);
            }
        }
        for (to, vector) in to.iter_mut().zip(lanes.transpose_groups(words)) {
            lanes.store(vector, to);
        }
    }
}

/// A tile of dots: those of the features of one block with the features of some others.
struct Tile<'a, V> {
    lanes: V,
    /// The packed blocks of all features.
    packed: &'a [[f32; LANES]],
    /// The vectors of a block.
    len: usize,
    /// The first feature of the one block.
    row: usize,
    /// The number of the first of the other blocks.
    block: usize,
    /// The dots, a row for each feature of the one block.
    to: &'a mut [f32],
    /// The leading dimension of `to`.
    ld: usize,
}

impl<V: Lanes> Tile<'_, V> {
    /// Computes the tile. Lane `l` of a group sums the products of the packed elements
    /// `≡ l (mod 4)`, then the lanes are added pairwise.
    #[allow(clippy::needless_range_loop)] // a constant trip count keeps all in registers
    #[inline(always)]
    fn sum<const PACKED: usize, const BLOCKS: usize>(self) {
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
                let elements = lanes.splat_group(&rows[w].as_chunks::<GROUP>().0[r]);
                for b in 0..BLOCKS {
                    sums[r][b] = match PACKED {
                        2 => lanes.add_products_of_pairs(elements, columns[b], sums[r][b]),
                        _ => lanes.mul_add(elements, columns[b], sums[r][b]),
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
            // Stores a whole vector: the next tile overwrites the excess.
            store_vector(lanes, lanes.sums_of_groups(vectors), &mut to[r * ld + block * BLOCK..]);
        }
    }
}

/// Returns the number of values that [`Grads`] needs for the matrix of the pairs' gradients.
pub(super) fn grad_matrix_len(num_features: usize) -> usize {
    let side = num_features.next_multiple_of(LANES);
    // A tile reads a full tile's rows even where fewer are left.
    side * side + LANES
}

/// Computes the gradients of all features of a sample.
pub(super) struct Grads<'a, E> {
    pub(super) pairs: Pairs,
    pub(super) sample: Sample<'a, E>,
    /// The next sample, which is prefetched meanwhile.
    pub(super) next: Sample<'a, E>,
    /// The gradients of the dots.
    pub(super) grad_dots: &'a [E],
    /// The gradients of the copies of features in the output, which the sums begin with: that of
    /// the dense vector, and those of the other features. Either may be empty.
    pub(super) direct: (&'a [E], &'a [E]),
    /// The gradient of the first feature.
    pub(super) head: &'a mut [E],
    /// The gradients of the other features, side by side.
    pub(super) tail: &'a mut [E],
    /// Space for the symmetric matrix, [`grad_matrix_len`] values.
    pub(super) matrix: &'a mut [f32],
}

impl<E: Element> Loop for Grads<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self, lanes: V) {
        self.fill_matrix(lanes);
        let (rows, vectors) = V::TILE;
        let (num_features, dim) = (self.pairs.num_features, self.sample.dim);
        for first in (0..num_features).step_by(rows) {
            let rows = rows.min(num_features - first);
            self.next.prefetch(first..first + rows);
            for i in first..first + rows {
                // The gradients of the next sample follow those of this one, unless there are gaps.
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
    /// Fills the symmetric matrix: the triangle of the pairs' gradients plus its transpose, which
    /// doubles the diagonal. A pair that does not exist gets 0.
    #[allow(clippy::needless_range_loop)] // a constant trip count keeps all in registers
    #[inline(always)]
    fn fill_matrix<V: Lanes>(&mut self, lanes: V) {
        let Self { pairs, grad_dots, .. } = *self;
        let side = pairs.num_features.next_multiple_of(LANES);
        for row in (0..side).step_by(LANES) {
            for col in pairs.partners_of_block(row, LANES).step_by(LANES) {
                let mut block = [lanes.splat(0.0); LANES];
                for k in 0..LANES {
                    if row + k < pairs.num_features {
                        block[k] = triangle_row(lanes, pairs, grad_dots, row + k, col);
                    }
                }
                let transposed = lanes.transpose(block);
                for k in 0..LANES {
                    let (at, mirrored_at) = ((row + k) * side + col, (col + k) * side + row);
                    let sum =
                        if row == col { lanes.add(block[k], transposed[k]) } else { block[k] };
                    if let Some(to) = self.matrix[at..].first_chunk_mut::<LANES>() {
                        lanes.store(sum, to);
                    }
                    let mirrored = self.matrix[mirrored_at..].first_chunk_mut::<LANES>();
                    if let Some(to) = mirrored.filter(|_| row != col) {
                        lanes.store(transposed[k], to);
                    }
                }
            }
        }
    }

    /// Computes some columns of the gradients of up to a tile's rows.
    #[inline(always)]
    fn rows<V: Lanes, const VECTORS: usize, const WHOLE: bool>(
        &mut self,
        lanes: V,
        first: usize,
        rows: usize,
        col: usize,
    ) {
        // A tile that does not fit the registers of an instruction set is not compiled for it.
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

    /// Computes some columns of the gradients of up to `ROWS` features. Each is a sum over all
    /// features, in their order.
    #[allow(clippy::needless_range_loop)] // a constant trip count keeps all in registers
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
        // A constant trip count keeps the sums in registers.
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
            let Some(weights) = self.matrix[j * side + first..].first_chunk::<ROWS>() else {
                continue;
            };
            for r in 0..ROWS {
                let weight = lanes.splat(weights[r]);
                for v in 0..VECTORS {
                    sums[r][v] = lanes.mul_add(weight, columns[v], sums[r][v]);
                }
            }
        }
        // Goes through memory once: a loop over a variable number of rows would keep the sums out
        // of registers from the start.
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

/// Returns the gradients of the pairs of feature `i` with the 16 features from `col` on, 0 for
/// those that are not its partners in its row.
#[inline(always)]
fn triangle_row<V: Lanes, E: Element>(
    lanes: V,
    pairs: Pairs,
    grad_dots: &[E],
    i: usize,
    col: usize,
) -> V::F32 {
    let (first, end) = pairs.partners_among(i, col, LANES);
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
