//! Packing for [AMX](crate::simd::amx), [`PackFormat::AmxTiles`](super::pack::PackFormat).
//!
//! A panel has 16 or 32 rows and is packed in steps of 32 along `k`. A step is its components, one
//! after the other, and a component is one tile for every 16 rows. A packed element is two `bf16`:
//! a pair of neighbours if elements are `bf16`; if they are `f32`, which are sums of three
//! components, the components of two elements that are 16 apart along `k`.

use super::super::vector::load_vector;
use super::pack::{Panels, load_packed};
use crate::dtype::{DType, Element};
use crate::simd::amx::{COMPONENTS_OF_F32, K_STEP, Tile};
use crate::simd::{LANES, Lanes, Loop};

/// Returns the number of `bf16` that an element is the sum of.
pub(super) fn components_of<E: Element>() -> usize {
    if E::DTYPE == DType::F32 { COMPONENTS_OF_F32 } else { 1 }
}

/// Returns packed elements as the tiles that they make.
pub(super) fn as_tiles(packed: &[f32]) -> &[Tile] {
    packed.as_chunks().0.as_chunks().0
}

/// Packs panels one after the other. Rows past the last one get any values.
pub(super) struct PackTiles<'a, E> {
    pub(super) panels: Panels<'a, E>,
    /// Set for A: each row of a tile is a row of the operand. For B, each row of a tile is one
    /// packed element of 16 rows of the operand.
    pub(super) is_a: bool,
    pub(super) to: &'a mut [f32],
}

impl<E: Element> Loop for PackTiles<'_, E> {
    type Output = ();
    const MULTIPLIES_PAIRS: bool = true;

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        // Every machine that has AMX multiplies pairs.
        if V::MULTIPLIES_PAIRS {
            match E::DTYPE {
                DType::F32 => self.pack::<V, COMPONENTS_OF_F32>(lanes),
                _ => self.pack::<V, 1>(lanes),
            }
        }
    }
}

impl<E: Element> PackTiles<'_, E> {
    #[inline(always)]
    fn pack<V: Lanes, const COMPONENTS: usize>(mut self, lanes: V) {
        let panels = self.panels;
        let steps = panels.kc.div_ceil(K_STEP);
        let first_rows = || (0..panels.rows).step_by(LANES);
        if panels.operand.k_stride == 1 {
            for row in first_rows() {
                for step in 0..steps {
                    self.pack_step::<V, COMPONENTS>(lanes, row, step, steps);
                }
            }
            return;
        }
        for step in 0..steps {
            (K_STEP..2 * K_STEP).for_each(|p| panels.prefetch(step * K_STEP + p));
            for row in first_rows() {
                self.pack_step::<V, COMPONENTS>(lanes, row, step, steps);
            }
        }
    }

    /// Packs a step of 16 rows: one tile for each component.
    #[inline(always)]
    fn pack_step<V: Lanes, const COMPONENTS: usize>(
        &mut self,
        lanes: V,
        row: usize,
        step: usize,
        steps: usize,
    ) {
        let panels = self.panels;
        let panel_row = row / panels.panel_rows * panels.panel_rows;
        let tile = (row - panel_row) / LANES;
        let tiles_per_component = panels.panel(panel_row).1 / LANES;
        let to: &mut [Tile] =
            self.to[panel_row * steps * COMPONENTS * LANES..].as_chunks_mut().0.as_chunks_mut().0;
        let to = &mut to[step * COMPONENTS * tiles_per_component + tile..]
            [..(COMPONENTS - 1) * tiles_per_component + 1];
        let square = Square { panels, row, k: step * K_STEP };
        let transposed = self.is_a != (panels.operand.k_stride == 1);
        match (square.is_whole(), transposed) {
            (true, true) => {
                square.pack::<V, COMPONENTS, true, true>(lanes, to, tiles_per_component)
            }
            (true, false) => {
                square.pack::<V, COMPONENTS, true, false>(lanes, to, tiles_per_component)
            }
            (false, true) => {
                square.pack::<V, COMPONENTS, false, true>(lanes, to, tiles_per_component)
            }
            (false, false) => {
                square.pack::<V, COMPONENTS, false, false>(lanes, to, tiles_per_component)
            }
        }
    }
}

/// A part of an operand that becomes one tile for each component: columns `k..k + 32` of rows
/// `row..row + 16` of `panels`.
struct Square<'a, E> {
    panels: Panels<'a, E>,
    row: usize,
    k: usize,
}

impl<E: Element> Square<'_, E> {
    /// Returns whether all of its rows and columns are inside the panels.
    #[inline(always)]
    fn is_whole(&self) -> bool {
        self.row + LANES <= self.panels.rows && self.k + K_STEP <= self.panels.kc
    }

    /// Packs the square into the tile of each component, which are `tiles_per_component` tiles
    /// apart, transposed if `TRANSPOSED`.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn pack<V: Lanes, const COMPONENTS: usize, const WHOLE: bool, const TRANSPOSED: bool>(
        &self,
        lanes: V,
        to: &mut [Tile],
        tiles_per_component: usize,
    ) {
        let mut transposed = [[lanes.splat(0.0); LANES]; 2];
        if TRANSPOSED {
            for line in 0..LANES {
                [transposed[0][line], transposed[1][line]] =
                    self.load_line::<V, COMPONENTS, WHOLE>(lanes, line);
            }
            transposed[0] = lanes.transpose(transposed[0]);
            if COMPONENTS > 1 {
                transposed[1] = lanes.transpose(transposed[1]);
            }
        }
        for line in 0..LANES {
            let elements = if TRANSPOSED {
                [transposed[0][line], transposed[1][line]]
            } else {
                self.load_line::<V, COMPONENTS, WHOLE>(lanes, line)
            };
            let packed = split::<V, COMPONENTS>(lanes, elements);
            for c in 0..COMPONENTS {
                lanes.store(packed[c], &mut to[c * tiles_per_component][line]);
            }
        }
    }

    /// Loads what makes line `line` of the tile before it is transposed: 16 packed elements of a
    /// row if the operand is row-major, else one packed element of all rows. Returns the first and
    /// the second elements of the pairs, or the packed pairs if there is one component. Elements
    /// outside the panels are zero.
    #[inline(always)]
    fn load_line<V: Lanes, const COMPONENTS: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        line: usize,
    ) -> [V::F32; 2] {
        let none = lanes.splat(0.0);
        if self.panels.operand.k_stride == 1 {
            let row = self.row::<WHOLE>(line);
            return match COMPONENTS {
                1 => [load_packed::<V, E, 2>(lanes, row), none],
                _ => [load_some(lanes, row), load_some(lanes, &row[LANES.min(row.len())..])],
            };
        }
        // No closure here: it would be compiled for the target's baseline.
        match COMPONENTS {
            1 => {
                let (first, second) =
                    (self.column::<WHOLE>(2 * line), self.column::<WHOLE>(2 * line + 1));
                [lanes.pairs(first, second), none]
            }
            _ => [
                load_some(lanes, self.column::<WHOLE>(line)),
                load_some(lanes, self.column::<WHOLE>(line + LANES)),
            ],
        }
    }

    /// Returns row `r` of the square, of a row-major operand.
    #[inline(always)]
    fn row<const WHOLE: bool>(&self, r: usize) -> &[E] {
        let Self { panels, row: first_row, k } = self;
        let (row, kc) = (first_row + r, if WHOLE { K_STEP } else { K_STEP.min(panels.kc - k) });
        if !WHOLE && row >= panels.rows {
            return &[];
        }
        panels.operand.row(panels.first_row + row, panels.first_k + k, kc)
    }

    /// Returns column `p` of the square, of a column-major operand.
    #[inline(always)]
    fn column<const WHOLE: bool>(&self, p: usize) -> &[E] {
        let Self { panels, row, k } = self;
        let (p, rows) = (k + p, if WHOLE { LANES } else { LANES.min(panels.rows - row) });
        if !WHOLE && p >= panels.kc {
            return &[];
        }
        &panels.operand.data
            [(panels.first_k + p) * panels.operand.k_stride + panels.first_row + row..][..rows]
    }
}

/// Splits pairs, given as their first and second elements, into components; if there is one, the
/// first vector holds the packed pairs already.
#[inline(always)]
fn split<V: Lanes, const COMPONENTS: usize>(
    lanes: V,
    elements: [V::F32; 2],
) -> [V::F32; COMPONENTS] {
    let mut packed = [elements[0]; COMPONENTS];
    if COMPONENTS > 1 {
        packed.copy_from_slice(&lanes.split_pairs(elements[0], elements[1]));
    }
    packed
}

/// Loads at most a vector of elements. Nothing is read of an empty slice: its address may be
/// anything, which makes a load slow.
#[inline(always)]
fn load_some<V: Lanes, E: Element>(lanes: V, from: &[E]) -> V::F32 {
    if from.is_empty() { lanes.splat(0.0) } else { load_vector(lanes, from) }
}
