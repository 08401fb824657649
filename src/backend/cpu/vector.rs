//! Loops over one row, written so that the compiler makes vector code of them. Their order of summation is fixed by the source.

use crate::dtype::Element;

/// The number of partial sums of a dot product.
const LANES: usize = 16;

/// `Σ aᵢ bᵢ`: lane `l` sums the products of columns `≡ l (mod 16)`, then the lanes are added pairwise.
#[inline]
pub(super) fn dot<E: Element>(a: &[E], b: &[E]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for l in 0..LANES {
            lanes[l] += a[l].to_f32() * b[l].to_f32();
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += a.to_f32() * b.to_f32();
    }
    sum_lanes(lanes)
}

/// As [`dot`], with a stored row.
#[inline]
pub(super) fn dot_row<E: Element>(a: &[f32], row: &[E]) -> f32 {
    let mut lanes = [0f32; LANES];
    for (a, row) in a.chunks(LANES).zip(row.chunks(LANES)) {
        for (lane, (a, x)) in lanes.iter_mut().zip(a.iter().zip(row)) {
            *lane += a * x.to_f32();
        }
    }
    sum_lanes(lanes)
}

/// The sum as a tree: the second half is added to the first one, a power of two of lanes, until one is left.
#[inline]
pub(super) fn sum_lanes<const LANES: usize>(mut lanes: [f32; LANES]) -> f32 {
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
pub(super) fn add_row<E: Element>(sum: &mut [f32], row: &[E]) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += x.to_f32();
    }
}

/// `sum += factor * row`, product and sum rounded separately.
#[inline]
pub(super) fn add_scaled_row<E: Element>(sum: &mut [f32], factor: f32, row: &[E]) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += factor * x.to_f32();
    }
}
