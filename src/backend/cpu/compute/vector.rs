//! Loops over one row, written so that the compiler makes vector code of them. Their order of
//! summation is fixed by the source.

use std::ops::Range;

use crate::dtype::Element;
use crate::simd::{LANES, Lanes};

/// `Σ aᵢ xᵢ`, with `x` a stored row: lane `l` sums the products of columns `≡ l (mod 16)`, then the
/// lanes are added pairwise.
#[inline(always)]
pub(crate) fn dot_row<V: Lanes, E: Element>(lanes: V, a: &[f32], row: &[E]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (row, row_rest) = row.as_chunks::<LANES>();
    let mut sum = lanes.splat(0.0);
    for (a, row) in a.iter().zip(row) {
        sum = lanes.add(sum, lanes.mul(lanes.load(a), lanes.load(row)));
    }
    if !a_rest.is_empty() {
        // Beyond the end zeros are added, which change no sum that began with zero.
        sum = lanes.add(sum, lanes.mul(lanes.load_part(a_rest), lanes.load_part(row_rest)));
    }
    sum_lanes(lanes.to_array(sum))
}

/// The most vectors of a block.
pub(crate) const WIDE: usize = 4;

/// What is done with the columns of rows that are held in registers at a time: `N` vectors, or,
/// unless `WHOLE`, a part of one.
pub(crate) trait Blocks {
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>);
}

/// Cuts the columns of a row into blocks.
#[inline(always)]
pub(crate) fn for_each_block(dim: usize, blocks: &mut impl Blocks) {
    let mut first = 0;
    while first + WIDE * LANES <= dim {
        blocks.block::<WIDE, true>(first..first + WIDE * LANES);
        first += WIDE * LANES;
    }
    while first + LANES <= dim {
        blocks.block::<1, true>(first..first + LANES);
        first += LANES;
    }
    if first < dim {
        blocks.block::<1, false>(first..dim);
    }
}

/// The vectors of a block.
#[inline(always)]
pub(crate) fn load<V: Lanes, E: Element, const N: usize, const WHOLE: bool>(
    lanes: V,
    from: &[E],
) -> [V::F32; N] {
    if !WHOLE {
        return [lanes.load_part(from); N];
    }
    let from = &from.as_chunks::<LANES>().0[..N];
    let mut vectors = [lanes.splat(0.0); N];
    for (vector, from) in vectors.iter_mut().zip(from) {
        *vector = lanes.load(from);
    }
    vectors
}

/// At most a vector of elements.
#[inline(always)]
pub(crate) fn load_vector<V: Lanes, E: Element>(lanes: V, from: &[E]) -> V::F32 {
    match from.first_chunk() {
        Some(whole) => lanes.load(whole),
        None => lanes.load_part(from),
    }
}

#[inline(always)]
pub(crate) fn store_vector<V: Lanes, E: Element>(lanes: V, vector: V::F32, to: &mut [E]) {
    match to.first_chunk_mut() {
        Some(whole) => lanes.store(vector, whole),
        None => lanes.store_part(vector, to),
    }
}

/// Stores the vectors of a block.
#[inline(always)]
pub(crate) fn store<V: Lanes, E: Element, const N: usize, const WHOLE: bool>(
    lanes: V,
    vectors: [V::F32; N],
    to: &mut [E],
) {
    if !WHOLE {
        for vector in vectors {
            lanes.store_part(vector, to);
        }
        return;
    }
    let to = &mut to.as_chunks_mut::<LANES>().0[..N];
    for (vector, to) in vectors.into_iter().zip(to) {
        lanes.store(vector, to);
    }
}

/// A gradient clamped to `[-max, max]`; a NaN stays one.
#[inline(always)]
pub(crate) fn clamp<V: Lanes>(lanes: V, gradient: V::F32, max: Option<f32>) -> V::F32 {
    match max {
        Some(max) => lanes.max(lanes.splat(-max), lanes.min(lanes.splat(max), gradient)),
        None => gradient,
    }
}

/// The sum as a tree: the second half is added to the first one, a power of two of lanes, until one
/// is left.
#[inline]
pub(crate) fn sum_lanes<const LANES: usize>(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `sum += row`.
#[inline]
pub(crate) fn add_row<E: Element>(sum: &mut [f32], row: &[E]) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += x.to_f32();
    }
}
