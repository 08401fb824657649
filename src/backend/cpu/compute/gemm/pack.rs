//! Packing: panels of an operand in the order in which a micro-kernel reads them, the elements of
//! all rows of a panel side by side, step after step along `k`.
//!
//! A *packed element* is what one lane multiplies at a time. Packed elements are moved as `f32`,
//! whatever their bits mean, see [`PackFormat`].

use super::super::vector::{load_vector, store_vector};
use super::product::Operand;
use crate::dtype::{DType, Element};
use crate::simd::amx::K_STEP;
use crate::simd::{LANES, Lanes, Loop, prefetch_row};
use crate::size::product;

/// The number of columns by which the prefetch of a column-major operand is ahead of packing.
const PREFETCH_DISTANCE: usize = 48;

/// The meaning of the bits of a packed element.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PackFormat {
    /// One element, widened to `f32`.
    F32,
    /// Two neighbours along `k`, of `bf16`, where the machine multiplies pairs
    /// ([`Lanes::MULTIPLIES_PAIRS`]).
    Bf16Pairs,
    /// Two `bf16` of an [AMX tile](super::amx_pack). An element is the sum of `components` `bf16`;
    /// zeros fill the last step of `k` up.
    AmxTiles { components: usize },
}

impl PackFormat {
    /// Returns the number of packed elements that `kc` elements of a row become.
    pub(super) fn packed_len(self, kc: usize) -> usize {
        match self {
            Self::F32 => kc,
            Self::Bf16Pairs => kc.div_ceil(2),
            Self::AmxTiles { components } => product([kc.div_ceil(K_STEP), components, LANES]),
        }
    }

    /// Returns the number of rows of a packed panel, at least `rows`, for which there is a
    /// micro-kernel.
    pub(super) fn panel_rows(self, rows: usize) -> usize {
        match self {
            Self::F32 | Self::Bf16Pairs if rows == 1 => 1,
            Self::F32 | Self::Bf16Pairs => rows.next_multiple_of(2),
            Self::AmxTiles { .. } => rows.next_multiple_of(LANES),
        }
    }
}

/// Returns whether elements are multiplied in pairs.
pub(crate) fn multiplies_pairs<E: Element, V: Lanes>() -> bool {
    V::MULTIPLIES_PAIRS && E::DTYPE == DType::BF16
}

/// The part of an operand that is packed at a time: columns `first_k..first_k + kc` of rows
/// `first_row..first_row + rows`, in panels of `panel_rows` rows (MR for A, NR for B), the last of
/// which has room for `last_panel_rows`.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, E> {
    pub(super) operand: Operand<'a, E>,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) panel_rows: usize,
    pub(super) last_panel_rows: usize,
    pub(super) first_k: usize,
    pub(super) kc: usize,
}

impl<'a, E: Element> Panels<'a, E> {
    /// Returns the number of rows of the panel from `row` on, and the number that it has room for.
    #[inline(always)]
    pub(super) fn panel(&self, row: usize) -> (usize, usize) {
        let rows = self.panel_rows.min(self.rows - row);
        let is_last = row + self.panel_rows >= self.rows;
        (rows, if is_last { self.last_panel_rows } else { self.panel_rows })
    }

    /// Prefetches column `p` of a column-major operand; the hardware prefetcher does not follow the
    /// stride from one column of a large matrix to the next.
    #[inline(always)]
    pub(super) fn prefetch(&self, p: usize) {
        let first = (self.first_k + p) * self.operand.k_stride + self.first_row;
        prefetch_row(self.operand.data, first, self.rows);
        prefetch_row(self.operand.data, first + self.rows - 1, 1);
    }

    /// Returns column `p` of a column-major operand; none past the last one.
    #[inline(always)]
    fn column(&self, p: usize) -> &'a [E] {
        match p < self.kc {
            true => {
                &self.operand.data[(self.first_k + p) * self.operand.k_stride + self.first_row..]
                    [..self.rows]
            }
            false => &[],
        }
    }
}

/// Packs panels one after the other, as [`PackFormat::F32`] or [`PackFormat::Bf16Pairs`]: packed
/// element `p` of row `r` of a panel goes to `p * panel_rows + r`. Rows past the last one get any
/// values.
pub(super) struct Pack<'a, E> {
    pub(super) panels: Panels<'a, E>,
    pub(super) format: PackFormat,
    pub(super) to: &'a mut [f32],
}

impl<E: Element> Loop for Pack<'_, E> {
    type Output = ();
    const MULTIPLIES_PAIRS: bool = matches!(E::DTYPE, DType::BF16);

    #[inline(always)]
    fn run<V: Lanes>(mut self, lanes: V) {
        let is_row_major = self.panels.operand.k_stride == 1;
        if !multiplies_pairs::<E, V>() {
            return match is_row_major {
                true => self.transpose::<V, 1>(lanes),
                false => self.copy(lanes),
            };
        }
        match is_row_major {
            true => self.transpose::<V, 2>(lanes),
            false => self.interleave(lanes),
        }
    }
}

impl<E: Element> Pack<'_, E> {
    /// Packs a row-major operand: transposes squares of 16 rows and 16 packed elements of `PACKED`
    /// elements each.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn transpose<V: Lanes, const PACKED: usize>(&mut self, lanes: V) {
        let packed_len = self.format.packed_len(self.panels.kc);
        for panel_row in (0..self.panels.rows).step_by(self.panels.panel_rows) {
            let (rows, panel_rows) = self.panels.panel(panel_row);
            for first_row in (0..rows).step_by(LANES) {
                for first_packed in (0..packed_len).step_by(LANES) {
                    let first_k = first_packed * PACKED;
                    let kc = (self.panels.kc - first_k).min(LANES * PACKED);
                    // Counted to a constant, so that the square stays in registers.
                    let mut square = [lanes.splat(0.0); LANES];
                    for r in 0..LANES {
                        if first_row + r < rows {
                            let row = self.panels.first_row + panel_row + first_row + r;
                            square[r] = load_packed::<V, E, PACKED>(
                                lanes,
                                self.panels.operand.row(row, self.panels.first_k + first_k, kc),
                            );
                        }
                    }
                    let square = lanes.transpose(square);
                    let to = &mut self.to[panel_row * packed_len..][..panel_rows * packed_len];
                    for p in 0..LANES {
                        if first_packed + p >= packed_len {
                            break;
                        }
                        let at = (first_packed + p) * panel_rows + first_row;
                        store_packed(lanes, square[p], to, at);
                    }
                }
            }
        }
    }

    /// Packs a column-major operand. All panels are written column by column, since each column is
    /// somewhere else in memory.
    #[inline(always)]
    fn copy<V: Lanes>(&mut self, lanes: V) {
        for p in 0..self.panels.kc {
            self.panels.prefetch(p + PREFETCH_DISTANCE);
            let column = self.panels.column(p);
            for panel_row in (0..self.panels.rows).step_by(self.panels.panel_rows) {
                let (rows, panel_rows) = self.panels.panel(panel_row);
                let to = &mut self.to[panel_row * self.panels.kc..][..panel_rows * self.panels.kc];
                for first_row in (0..rows).step_by(LANES) {
                    let packed = load_vector(lanes, &column[panel_row + first_row..]);
                    store_packed(lanes, packed, to, p * panel_rows + first_row);
                }
            }
        }
    }

    /// Packs a column-major operand as [`Self::copy`] does, two columns at a time.
    #[inline(always)]
    fn interleave<V: Lanes>(&mut self, lanes: V) {
        let packed_len = self.format.packed_len(self.panels.kc);
        for p in 0..packed_len {
            self.panels.prefetch(2 * p + PREFETCH_DISTANCE);
            self.panels.prefetch(2 * p + 1 + PREFETCH_DISTANCE);
            let (first, second) = (self.panels.column(2 * p), self.panels.column(2 * p + 1));
            for panel_row in (0..self.panels.rows).step_by(self.panels.panel_rows) {
                let (rows, panel_rows) = self.panels.panel(panel_row);
                let to = &mut self.to[panel_row * packed_len..][..panel_rows * packed_len];
                for first_row in (0..rows).step_by(LANES) {
                    let at = panel_row + first_row;
                    let packed = lanes.pairs(&first[at..], &second[at.min(second.len())..]);
                    store_packed(lanes, packed, to, p * panel_rows + first_row);
                }
            }
        }
    }
}

/// Stores packed elements of a panel. Those past its last row are overwritten by the next store.
#[inline(always)]
fn store_packed<V: Lanes>(lanes: V, packed: V::F32, panel: &mut [f32], at: usize) {
    store_vector(lanes, packed, &mut panel[at..]);
}

/// Loads at most 16 packed elements of a row, of `PACKED` elements each; zeros follow them.
#[inline(always)]
pub(crate) fn load_packed<V: Lanes, E: Element, const PACKED: usize>(
    lanes: V,
    from: &[E],
) -> V::F32 {
    if PACKED == 1 {
        return load_vector(lanes, from);
    }
    match from.as_chunks::<2>().0.first_chunk::<LANES>() {
        Some(pairs) => lanes.load_pairs(pairs),
        None => {
            let mut all = [[E::default(); 2]; LANES];
            all.as_flattened_mut()[..from.len()].copy_from_slice(from);
            lanes.load_pairs(&all)
        }
    }
}
