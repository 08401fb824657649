//! Sums of the rows of packed A: of the gradient of a linear layer they are the gradient of its
//! bias.

use super::super::vector::{load_vector, store_vector};
use super::pack::PackFormat;
use crate::simd::amx::Tile;
use crate::simd::{LANES, Lanes, Loop};

/// Two ones of `bf16`.
const ONES: f32 = f32::from_bits(0x3f80_3f80);

/// Sums the rows of a panel of A that is packed as [`PackFormat::F32`] or
/// [`PackFormat::Bf16Pairs`].
pub(super) struct SumRows<'a> {
    pub(super) panel: &'a [f32],
    /// The number of packed elements of a row.
    pub(super) packed_len: usize,
    /// The number of rows that the panel has room for.
    pub(super) panel_rows: usize,
    pub(super) format: PackFormat,
    /// Set to accumulate into `sums` instead of overwriting it.
    pub(super) add: bool,
    pub(super) sums: &'a mut [f32],
}

impl Loop for SumRows<'_> {
    type Output = ();
    const MULTIPLIES_PAIRS: bool = true;

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let pairs = V::MULTIPLIES_PAIRS && self.format == PackFormat::Bf16Pairs;
        let ones = lanes.splat(ONES);
        for (k, out) in self.sums.chunks_mut(LANES).enumerate() {
            let mut sums = lanes.splat(0.0);
            for p in 0..self.packed_len {
                let packed = load_vector(lanes, &self.panel[p * self.panel_rows + k * LANES..]);
                sums = if pairs {
                    lanes.add_products_of_pairs(packed, ones, sums)
                } else {
                    lanes.add(sums, packed)
                };
            }
            store_sums(lanes, sums, self.add, out);
        }
    }
}

/// Sums the rows of a panel of A that is packed as [`PackFormat::AmxTiles`].
pub(super) struct SumTileRows<'a> {
    pub(super) panel: &'a [Tile],
    /// The number of tiles of a step of one component.
    pub(super) tiles_per_component: usize,
    /// Set to accumulate into `sums` instead of overwriting it.
    pub(super) add: bool,
    pub(super) sums: &'a mut [f32],
}

impl Loop for SumTileRows<'_> {
    type Output = ();
    const MULTIPLIES_PAIRS: bool = true;

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let ones = lanes.splat(ONES);
        for (tile, out) in self.sums.chunks_mut(LANES).enumerate() {
            let mut sums = [lanes.splat(0.0); LANES];
            for rows in self.panel.iter().skip(tile).step_by(self.tiles_per_component) {
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = lanes.add_products_of_pairs(lanes.load(row), ones, *sum);
                }
            }
            store_sums(lanes, lanes.sums(sums), self.add, out);
        }
    }
}

/// Stores at most 16 sums, added to `out` if `add`.
#[inline(always)]
fn store_sums<V: Lanes>(lanes: V, sums: V::F32, add: bool, out: &mut [f32]) {
    let sums = if add { lanes.add(load_vector(lanes, out), sums) } else { sums };
    store_vector(lanes, sums, out);
}
