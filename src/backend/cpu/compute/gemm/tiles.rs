//! Factors of products that [tiles](crate::simd::amx) sum: how they are packed.
//!
//! A panel of 16 or 32 lines is packed in steps of 32 terms; a step is its parts, a part a tile for
//! each 16 lines. A word is two `bf16`: elements of `bf16` make pairs of neighbours, and of `f32`,
//! which are sums of three parts, those that are 16 terms apart.

use super::super::vector::load_vector;
use super::factor::{Panels, load_words};
use super::{ONES, put_sums};
use crate::dtype::{DType, Element};
pub(super) use crate::simd::amx::TERMS_OF_STEP;
use crate::simd::amx::{PARTS_OF_F32, Tile};
use crate::simd::{LANES, Lanes, Loop};

/// How many `bf16` an element is the sum of.
pub(super) fn parts_of<E: Element>() -> usize {
    if E::DTYPE == DType::F32 { PARTS_OF_F32 } else { 1 }
}

/// The tiles of packed words.
pub(super) fn as_tiles(words: &[f32]) -> &[Tile] {
    words.as_chunks().0.as_chunks().0
}

/// Packs panels, one after the other. Lines that are not there get any values.
pub(super) struct PackTiles<'a, E> {
    pub(super) panels: Panels<'a, E>,
    /// Whether a row of a tile is a line, as in the left factor; else it is a word of 16 lines.
    pub(super) rows_are_lines: bool,
    pub(super) to: &'a mut [f32],
}

impl<E: Element> Loop for PackTiles<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        // Where there are tiles, pairs are multiplied too.
        if V::MULTIPLIES_PAIRS {
            match E::DTYPE {
                DType::F32 => self.pack::<V, PARTS_OF_F32>(lanes),
                _ => self.pack::<V, 1>(lanes),
            }
        }
    }
}

impl<E: Element> PackTiles<'_, E> {
    #[inline(always)]
    fn pack<V: Lanes, const PARTS: usize>(mut self, lanes: V) {
        let panels = self.panels;
        let steps = panels.terms.div_ceil(TERMS_OF_STEP);
        let lines = || (0..panels.lines).step_by(LANES);
        if panels.from.term_stride == 1 {
            for line in lines() {
                for step in 0..steps {
                    self.tiles::<V, PARTS>(lanes, line, step, steps);
                }
            }
            return;
        }
        for step in 0..steps {
            (TERMS_OF_STEP..2 * TERMS_OF_STEP)
                .for_each(|term| panels.prefetch(step * TERMS_OF_STEP + term));
            for line in lines() {
                self.tiles::<V, PARTS>(lanes, line, step, steps);
            }
        }
    }

    /// A step of 16 lines: the tile of each part.
    #[inline(always)]
    fn tiles<V: Lanes, const PARTS: usize>(
        &mut self,
        lanes: V,
        line: usize,
        step: usize,
        steps: usize,
    ) {
        let panels = self.panels;
        let first = line / panels.width * panels.width;
        let (tile, tiles_of_part) = ((line - first) / LANES, panels.panel(first).1 / LANES);
        let to: &mut [Tile] =
            self.to[first * steps * PARTS * LANES..].as_chunks_mut().0.as_chunks_mut().0;
        let to = &mut to[step * PARTS * tiles_of_part + tile..][..(PARTS - 1) * tiles_of_part + 1];
        let square = Square { panels, line, term: step * TERMS_OF_STEP };
        let turn = self.rows_are_lines != (panels.from.term_stride == 1);
        match (square.is_whole(), turn) {
            (true, true) => square.pack::<V, PARTS, true, true>(lanes, to, tiles_of_part),
            (true, false) => square.pack::<V, PARTS, true, false>(lanes, to, tiles_of_part),
            (false, true) => square.pack::<V, PARTS, false, true>(lanes, to, tiles_of_part),
            (false, false) => square.pack::<V, PARTS, false, false>(lanes, to, tiles_of_part),
        }
    }
}

/// 16 lines and 32 terms.
struct Square<'a, E> {
    panels: Panels<'a, E>,
    line: usize,
    term: usize,
}

impl<E: Element> Square<'_, E> {
    /// Whether all of them are there.
    #[inline(always)]
    fn is_whole(&self) -> bool {
        self.line + LANES <= self.panels.lines && self.term + TERMS_OF_STEP <= self.panels.terms
    }

    /// Packs it into the tile of each part, so far apart, turned over if `TURN`.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn pack<V: Lanes, const PARTS: usize, const WHOLE: bool, const TURN: bool>(
        &self,
        lanes: V,
        to: &mut [Tile],
        tiles_of_part: usize,
    ) {
        let mut turned = [[lanes.splat(0.0); LANES]; 2];
        if TURN {
            for row in 0..LANES {
                [turned[0][row], turned[1][row]] = self.row::<V, PARTS, WHOLE>(lanes, row);
            }
            turned[0] = lanes.transpose(turned[0]);
            if PARTS > 1 {
                turned[1] = lanes.transpose(turned[1]);
            }
        }
        for row in 0..LANES {
            let elements = if TURN {
                [turned[0][row], turned[1][row]]
            } else {
                self.row::<V, PARTS, WHOLE>(lanes, row)
            };
            let words = parts::<V, PARTS>(lanes, elements);
            for p in 0..PARTS {
                lanes.store(words[p], &mut to[p * tiles_of_part][row]);
            }
        }
    }

    /// A row as it lies in memory, part of a line or a word of all lines: the first and the second
    /// elements of its words, or, where these have one part, the words. What is not there is zero.
    #[inline(always)]
    fn row<V: Lanes, const PARTS: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        row: usize,
    ) -> [V::F32; 2] {
        let none = lanes.splat(0.0);
        if self.panels.from.term_stride == 1 {
            let terms = self.terms::<WHOLE>(row);
            return match PARTS {
                1 => [load_words::<V, E, 2>(lanes, terms), none],
                _ => [load_some(lanes, terms), load_some(lanes, &terms[LANES.min(terms.len())..])],
            };
        }
        // Not a closure, which would be compiled for the target's baseline.
        match PARTS {
            1 => {
                [lanes.pairs(self.lines::<WHOLE>(2 * row), self.lines::<WHOLE>(2 * row + 1)), none]
            }
            _ => [
                load_some(lanes, self.lines::<WHOLE>(row)),
                load_some(lanes, self.lines::<WHOLE>(row + LANES)),
            ],
        }
    }

    /// The terms of a line, where they lie side by side.
    #[inline(always)]
    fn terms<const WHOLE: bool>(&self, line: usize) -> &[E] {
        let Self { panels, line: first_line, term } = self;
        let (line, terms) = (
            first_line + line,
            if WHOLE { TERMS_OF_STEP } else { TERMS_OF_STEP.min(panels.terms - term) },
        );
        if !WHOLE && line >= panels.lines {
            return &[];
        }
        panels.from.line(panels.first_line + line, panels.first_term + term, terms)
    }

    /// A term of the lines, where these lie side by side.
    #[inline(always)]
    fn lines<const WHOLE: bool>(&self, term: usize) -> &[E] {
        let Self { panels, line, term: first_term } = self;
        let (term, lines) =
            (first_term + term, if WHOLE { LANES } else { LANES.min(panels.lines - line) });
        if !WHOLE && term >= panels.terms {
            return &[];
        }
        &panels.from.data
            [(panels.first_term + term) * panels.from.term_stride + panels.first_line + line..]
            [..lines]
    }
}

/// Words of their first and second elements; zeros, where there are none.
#[inline(always)]
fn parts<V: Lanes, const PARTS: usize>(lanes: V, elements: [V::F32; 2]) -> [V::F32; PARTS] {
    let mut words = [elements[0]; PARTS];
    if PARTS > 1 {
        words.copy_from_slice(&lanes.split_pairs(elements[0], elements[1]));
    }
    words
}

/// Up to a vector of elements. Where there are none, nothing is read: their address may be
/// anything, which makes a load slow.
#[inline(always)]
fn load_some<V: Lanes, E: Element>(lanes: V, from: &[E]) -> V::F32 {
    if from.is_empty() { lanes.splat(0.0) } else { load_vector(lanes, from) }
}

/// Adds up the words of each row of packed panels of the left factor.
pub(super) struct AddTiles<'a> {
    pub(super) panel: &'a [Tile],
    pub(super) tiles_of_part: usize,
    /// To what there is.
    pub(super) add: bool,
    pub(super) sums: &'a mut [f32],
}

impl Loop for AddTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let ones = lanes.splat(ONES);
        for (tile, out) in self.sums.chunks_mut(LANES).enumerate() {
            let mut sums = [lanes.splat(0.0); LANES];
            for rows in self.panel.iter().skip(tile).step_by(self.tiles_of_part) {
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = lanes.add_products_of_pairs(lanes.load(row), ones, *sum);
                }
            }
            put_sums(lanes, lanes.sums(sums), self.add, out);
        }
    }
}
