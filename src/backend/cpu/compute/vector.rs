//! Loops over the columns of one row, written so that the compiler vectorises them. The source
//! fixes the order of each sum.

use std::ops::Range;

use crate::backend::cpu::runtime::erased::{ElementsMut, with_elements};
use crate::dtype::Element;
use crate::simd::{LANES, Lanes};

/// Returns `Σ aᵢ xᵢ` of two stored rows. Lane `l` sums the products of the columns
/// `≡ l (mod 16)`, then the lanes are added pairwise.
#[inline(always)]
pub(crate) fn dot_row<V: Lanes, A: Element, E: Element>(lanes: V, a: &[A], row: &[E]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (row, row_rest) = row.as_chunks::<LANES>();
    let mut sum = lanes.splat(0.0);
    for (a, row) in a.iter().zip(row) {
        sum = lanes.add(sum, lanes.mul(lanes.load(a), lanes.load(row)));
    }
    if !a_rest.is_empty() {
        // The zeros beyond the end change no sum that began with zero.
        sum = lanes.add(sum, lanes.mul(lanes.load_part(a_rest), lanes.load_part(row_rest)));
    }
    sum_lanes(lanes.to_array(sum))
}

/// The vectors of the largest block.
pub(crate) const WIDE: usize = 4;

/// A loop body for blocks of columns that fit the registers.
pub(crate) trait Blocks {
    /// Handles a block of `N` vectors, or of a part of one vector unless `WHOLE`.
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>);
}

/// Cuts `dim` columns into blocks: of [`WIDE`] vectors if these fit the registers, then of one,
/// then the rest.
#[inline(always)]
pub(crate) fn for_each_block<V: Lanes>(dim: usize, blocks: &mut impl Blocks) {
    let mut first = 0;
    while V::UNROLLS_ROWS && first + WIDE * LANES <= dim {
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

/// Loads the vectors of a block.
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

/// Loads at most a vector of elements; zeros follow them.
#[inline(always)]
pub(crate) fn load_vector<V: Lanes, E: Element>(lanes: V, from: &[E]) -> V::F32 {
    match from.first_chunk() {
        Some(whole) => lanes.load(whole),
        None => lanes.load_part(from),
    }
}

/// Stores the first elements of a vector, as many as `to` has up to a whole vector.
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

/// Stores the vectors of a block as elements of a type that is known at run time.
#[inline(always)]
pub(crate) fn store_as<V: Lanes, const N: usize, const WHOLE: bool>(
    lanes: V,
    vectors: [V::F32; N],
    to: ElementsMut<'_>,
) {
    with_elements!(to => store::<V, _, N, WHOLE>(lanes, vectors, to));
}

/// Clamps a gradient to `[-max, max]`; a NaN stays one.
#[inline(always)]
pub(crate) fn clamp<V: Lanes>(lanes: V, gradient: V::F32, max: Option<f32>) -> V::F32 {
    match max {
        Some(max) => lanes.max(lanes.splat(-max), lanes.min(lanes.splat(max), gradient)),
        None => gradient,
    }
}

/// Sums the lanes of a vector as a tree: the second half is added to the first one until one lane
/// is left. `LANES` is a power of two.
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

/// Adds a stored row to `sum`.
#[inline]
pub(crate) fn add_row<E: Element>(sum: &mut [f32], row: &[E]) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += x.to_f32();
    }
}
