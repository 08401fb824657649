//! The SIMD micro-kernel: sums a tile of the output in registers, `MR × NR`, along `k` of a panel
//! of A and a panel of B.

use bytemuck::cast;

use super::pack::{PackFormat, multiplies_pairs};
use crate::dtype::{DType, Element};
use crate::simd::amx::{self, K_STEP};
use crate::simd::{LANES, Lanes, Loop};

/// The sums of a tile of the output, large enough for every instruction set. A tile of fewer
/// columns uses the first ones of each row.
#[repr(align(64))]
pub(super) struct TileSums(pub(super) [[f32; amx::NR]; amx::MR]);

impl TileSums {
    pub(super) fn new() -> Self {
        Self([[0.0; amx::NR]; amx::MR])
    }
}

/// A panel of A: the rows of one tile.
#[derive(Clone, Copy)]
pub(super) enum PanelA<'a, E> {
    /// A packed panel.
    Packed(&'a [f32]),
    /// `rows` rows of `kc` elements where they lie in A, `ld` elements apart. A tile of more rows
    /// repeats the last one.
    Strided { data: &'a [E], ld: usize, rows: usize, kc: usize },
}

/// Returns whether micro-kernels can read rows of A where they lie, [`PanelA::Strided`]: then `k`
/// elements of a row are in memory what packing would make of them.
pub(super) fn reads_strided_a<E: Element>(format: PackFormat, k: usize) -> bool {
    match format {
        PackFormat::F32 => E::DTYPE == DType::F32,
        PackFormat::Bf16Pairs => true,
        PackFormat::AmxTiles { components } => components == 1 && k.is_multiple_of(K_STEP),
    }
}

/// The micro-kernel: multiplies a panel of A of `mr` rows by a panel of B of `nr_vectors` vectors
/// of columns. Each sum adds its products in the order of `k`.
pub(super) struct MicroKernel<'a, E> {
    pub(super) mr: usize,
    pub(super) nr_vectors: usize,
    pub(super) a: PanelA<'a, E>,
    pub(super) b: &'a [f32],
    pub(super) sums: &'a mut TileSums,
}

impl<E: Element> Loop for MicroKernel<'_, E> {
    type Output = ();
    const MULTIPLIES_PAIRS: bool = matches!(E::DTYPE, DType::BF16);

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        match self.nr_vectors {
            1 => self.with_nr::<V, 1>(lanes),
            _ if V::TILE.1 > 1 => self.with_nr::<V, 2>(lanes),
            _ => (),
        }
    }
}

impl<E: Element> MicroKernel<'_, E> {
    #[inline(always)]
    fn with_nr<V: Lanes, const VECTORS: usize>(self, lanes: V) {
        // Tiles that need more registers than an instruction set has are not compiled for it.
        match self.mr {
            1 => self.sum::<V, 1, VECTORS>(lanes),
            2 => self.sum::<V, 2, VECTORS>(lanes),
            4 if V::TILE.0 >= 4 => self.sum::<V, 4, VECTORS>(lanes),
            6 if V::TILE.0 >= 6 => self.sum::<V, 6, VECTORS>(lanes),
            8 if V::TILE.0 >= 8 => self.sum::<V, 8, VECTORS>(lanes),
            10 if V::TILE.0 >= 10 => self.sum::<V, 10, VECTORS>(lanes),
            12 if V::TILE.0 >= 12 => self.sum::<V, 12, VECTORS>(lanes),
            14 if V::TILE.0 >= 14 => self.sum::<V, 14, VECTORS>(lanes),
            _ => (),
        }
    }

    #[inline(always)]
    fn sum<V: Lanes, const MR: usize, const VECTORS: usize>(self, lanes: V) {
        let mut sums = [[lanes.splat(0.0); VECTORS]; MR];
        let b = self.b.as_chunks::<LANES>().0.as_chunks::<VECTORS>().0;
        match self.a {
            PanelA::Packed(panel) => {
                for (a, b) in panel.as_chunks::<MR>().0.iter().zip(b) {
                    rank_1_update::<V, E, MR, VECTORS>(lanes, a, b, &mut sums);
                }
            }
            PanelA::Strided { data, ld, rows, kc } if multiplies_pairs::<E, V>() => {
                let mut pairs: [&[[E; 2]]; MR] = [&[]; MR];
                let mut last = [0.0; MR];
                for r in 0..MR {
                    let (row, rest) = data[r.min(rows - 1) * ld..][..kc].as_chunks();
                    pairs[r] = row;
                    last[r] = rest.first().map_or(0.0, |&x| pack_pair([x, E::default()]));
                }
                for (p, b) in b.iter().enumerate().take(kc / 2) {
                    let mut a = [0.0; MR];
                    for r in 0..MR {
                        a[r] = pack_pair(pairs[r][p]);
                    }
                    rank_1_update::<V, E, MR, VECTORS>(lanes, &a, b, &mut sums);
                }
                if let Some(b) = b.get(kc / 2) {
                    rank_1_update::<V, E, MR, VECTORS>(lanes, &last, b, &mut sums);
                }
            }
            PanelA::Strided { data, ld, rows, kc } if E::DTYPE == DType::F32 => {
                let mut elements: [&[E]; MR] = [&[]; MR];
                for r in 0..MR {
                    elements[r] = &data[r.min(rows - 1) * ld..][..kc];
                }
                for (p, b) in b.iter().enumerate().take(kc) {
                    let mut a = [0.0; MR];
                    for r in 0..MR {
                        a[r] = elements[r][p].to_f32();
                    }
                    rank_1_update::<V, E, MR, VECTORS>(lanes, &a, b, &mut sums);
                }
            }
            PanelA::Strided { .. } => {}
        }
        for (sums, to) in sums.iter().zip(&mut self.sums.0) {
            for (sum, to) in sums.iter().zip(to.as_chunks_mut::<LANES>().0) {
                lanes.store(*sum, to);
            }
        }
    }
}

/// Packs two neighbours of a row into one packed element.
#[inline(always)]
fn pack_pair<E: Element>(pair: [E; 2]) -> f32 {
    cast(pair)
}

/// Adds the outer product of one packed element of each row of A and of each column of B.
#[inline(always)]
fn rank_1_update<V: Lanes, E: Element, const MR: usize, const VECTORS: usize>(
    lanes: V,
    a: &[f32; MR],
    b: &[[f32; LANES]; VECTORS],
    sums: &mut [[V::F32; VECTORS]; MR],
) {
    let mut columns = [lanes.splat(0.0); VECTORS];
    for v in 0..VECTORS {
        columns[v] = lanes.load(&b[v]);
    }
    for r in 0..MR {
        let row = lanes.splat(a[r]);
        for v in 0..VECTORS {
            sums[r][v] = match multiplies_pairs::<E, V>() {
                true => lanes.add_products_of_pairs(row, columns[v], sums[r][v]),
                false => lanes.mul_add(row, columns[v], sums[r][v]),
            };
        }
    }
}
