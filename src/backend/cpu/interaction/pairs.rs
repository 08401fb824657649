//! The products of a sample's features, over the triangle alone: forward as many pairs at a time as registers hold sums of, and backward the product of
//! the symmetric matrix of the pairs' gradients with the features, in tiles that lie in registers.

use std::array::from_fn;

use bytemuck::cast_slice_mut;

use super::super::gemm::{dot_tile, multiplies_pairs};
use super::super::vector::{load, load_vector, store_vector};
use super::Sample;
use crate::dtype::Element;
use crate::ops::{Interaction, PairOrder};
use crate::simd::{LANES, Lanes, Loop};

/// The most features that meet as many others at once.
const MAX_SIDE: usize = 4;

/// All dot products of a sample, in the order of the output.
pub(super) struct Dots<'a, E> {
    pub(super) pairs: Pairs,
    pub(super) sample: Sample<'a, E>,
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

    /// The blocks of `len` features that some feature of the block from `first` on meets in its row.
    #[inline(always)]
    fn blocks(&self, first: usize, len: usize) -> impl Iterator<Item = usize> + use<> {
        let range = match self.order {
            PairOrder::LowerTriangle => 0..first + len,
            PairOrder::UpperTriangle => first..self.num_features,
        };
        range.step_by(len)
    }
}

/// The values that [`Dots`] needs for features and the square of their products.
pub(super) fn dots_len(num_features: usize, dim: usize) -> usize {
    let side = num_features.next_multiple_of(MAX_SIDE);
    side * dim.next_multiple_of(LANES) + side * side + LANES
}

impl<E: Element> Loop for Dots<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        match (V::DOTS, multiplies_pairs::<E, V>()) {
            (16, true) => self.sum::<V, E, 4>(lanes),
            (16, false) => self.sum::<V, f32, 4>(lanes),
            _ => self.sum::<V, f32, 2>(lanes),
        }
    }
}

impl<E: Element> Dots<'_, E> {
    /// The features side by side as the products take them, all products of the triangle in their square, and its rows in the output.
    #[inline(always)]
    fn sum<V: Lanes, P: Element, const SIDE: usize>(self, lanes: V) {
        let Self { pairs, sample, dots, scratch } = self;
        let (num_features, dim) = (pairs.num_features, sample.dim);
        let side = num_features.next_multiple_of(SIDE);
        let ld = dim.next_multiple_of(LANES);
        let (features, square) = scratch.split_at_mut(side * ld);
        let features = &mut cast_slice_mut::<f32, P>(features)[..side * ld];
        for (i, to) in features.chunks_exact_mut(ld).enumerate().take(num_features) {
            for (from, to) in sample.feature(i).chunks(LANES).zip(to.as_chunks_mut::<LANES>().0) {
                lanes.store(load_vector(lanes, from), to);
            }
        }
        // Nobody looks at products of features that are not there, but what happens to lie in their place may be slow to multiply: subnormal numbers.
        features[num_features * ld..].fill(P::default());
        let of = |first: usize| -> [&[P]; SIDE] { from_fn(|k| &features[(first + k) * ld..][..ld]) };
        for row in (0..side).step_by(SIDE) {
            let rows = of(row);
            for col in pairs.blocks(row, SIDE) {
                let sums = dot_tile(lanes, rows, of(col), ld);
                for (r, sums) in sums.iter().enumerate() {
                    if let Some(to) = square[(row + r) * side + col..].first_chunk_mut::<SIDE>() {
                        *to = *sums;
                    }
                }
            }
        }
        let mut rest = dots;
        for i in 0..num_features {
            let (first, end) = pairs.of_row(i);
            let (to, after) = rest.split_at_mut(end - first);
            rest = after;
            for (to, from) in to.chunks_mut(LANES).zip(square[i * side + first..].chunks(LANES)) {
                store_vector(lanes, load_vector(lanes, from), to);
            }
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
    /// Gradients of the dots.
    pub(super) grad_dots: &'a [E],
    /// For each feature what else its gradient begins with: of the dense vector, and of the others, if there is.
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
    /// Makes the symmetric matrix of the pairs' gradients: that of the triangle and the same turned over, which doubles the diagonal. A pair that is
    /// not there gets 0.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn spread<V: Lanes>(&mut self, lanes: V) {
        let Self { pairs, grad_dots, .. } = *self;
        let side = pairs.num_features.next_multiple_of(LANES);
        for row in (0..side).step_by(LANES) {
            for col in pairs.blocks(row, LANES) {
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
                    if let Some(to) = self.weights[turned_at..].first_chunk_mut::<LANES>().filter(|_| row != col) {
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
            7..=10 if V::TILE.0 >= 10 => self.tile::<V, 10, VECTORS, WHOLE>(lanes, first, rows, col),
            11..=14 if V::TILE.0 >= 14 => self.tile::<V, 14, VECTORS, WHOLE>(lanes, first, rows, col),
            _ => (),
        }
    }

    /// The gradients of up to `ROWS` features, in some columns: a sum over all features that they meet, in their order.
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
            let columns = load::<V, E, VECTORS, WHOLE>(lanes, &self.sample.feature(j)[col..][..cols]);
            let Some(weights) = self.weights[j * side + first..].first_chunk::<ROWS>() else { continue };
            for r in 0..ROWS {
                let weight = lanes.splat(weights[r]);
                for v in 0..VECTORS {
                    sums[r][v] = lanes.mul_add(weight, columns[v], sums[r][v]);
                }
            }
        }
        // Through memory once: gradients of a number that is not known before would keep the sums out of registers.
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

/// The gradients of the pairs of feature `i` with the 16 from `col` on, 0 where it does not meet them in its row.
#[inline(always)]
fn triangle_row<V: Lanes, E: Element>(lanes: V, pairs: Pairs, grad_dots: &[E], i: usize, col: usize) -> V::F32 {
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
