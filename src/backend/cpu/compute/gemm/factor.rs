//! The factors of a product of matrices, and how they are packed: the lines of a panel side by
//! side, term after term.
//!
//! A word is what a lane multiplies. Words are moved as `f32`, whatever their bits are.

use super::super::vector::{load_vector, store_vector};
use super::tiles::TERMS_OF_STEP;
use crate::dtype::{DType, Element};
use crate::simd::{LANES, Lanes, Loop, prefetch_row};
use crate::size::product;

/// Terms of a line that make a block, about.
pub(super) const BLOCK: usize = 512;
/// Rows that are asked for ahead of their being packed.
const ROWS_AHEAD: usize = 48;

/// A factor: `lines` vectors of `terms` elements, rows of the left factor or columns of the right
/// one. Element `t` of line `l` lies at `data[l * line_stride + t * term_stride]`, and one of the
/// strides is 1.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a, E> {
    pub(crate) data: &'a [E],
    pub(crate) line_stride: usize,
    pub(crate) term_stride: usize,
}

impl<'a, E: Element> Factor<'a, E> {
    /// Each row of the matrix is a line.
    pub(crate) fn rows(data: &'a [E], ld: usize) -> Self {
        Self { data, line_stride: ld, term_stride: 1 }
    }

    /// Each column of the matrix is a line.
    pub(crate) fn columns(data: &'a [E], ld: usize) -> Self {
        Self { data, line_stride: 1, term_stride: ld }
    }

    /// Returns `terms` terms of a line whose terms are contiguous, from `first` on.
    #[inline(always)]
    pub(super) fn line(&self, line: usize, first: usize, terms: usize) -> &'a [E] {
        &self.data[line * self.line_stride + first..][..terms]
    }
}

/// What the words of a product are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// One `f32`, to which elements are widened.
    Single,
    /// Two `bf16`, where the machine multiplies pairs ([`Lanes::MULTIPLIES_PAIRS`]).
    Pairs,
    /// Two `bf16` in [tiles](super::tiles), where an element is the sum of so many parts; zeros
    /// fill the last step up.
    Tiles { parts: usize },
}

impl Words {
    /// The words that so many terms take.
    pub(super) fn of_terms(self, terms: usize) -> usize {
        match self {
            Self::Single => terms,
            Self::Pairs => terms.div_ceil(2),
            Self::Tiles { parts } => product([terms.div_ceil(TERMS_OF_STEP), parts, LANES]),
        }
    }

    /// How many terms of all make a block: blocks of the same size, unless the last one is smaller.
    pub(super) fn terms_of_block(self, terms: usize) -> usize {
        let (most, multiple) = match self {
            Self::Single => (BLOCK, 1),
            Self::Pairs => (2 * BLOCK, 2),
            Self::Tiles { .. } => (BLOCK, TERMS_OF_STEP),
        };
        terms.div_ceil(terms.div_ceil(most).max(1)).next_multiple_of(multiple).max(1)
    }

    /// The number of rows that a tile can have, no fewer than are asked for.
    pub(super) fn rows_of_tile(self, rows: usize) -> usize {
        match self {
            Self::Single | Self::Pairs if rows == 1 => 1,
            Self::Single | Self::Pairs => rows.next_multiple_of(2),
            Self::Tiles { .. } => rows.next_multiple_of(LANES),
        }
    }
}

/// Whether elements are multiplied in pairs.
pub(crate) fn multiplies_pairs<E: Element, V: Lanes>() -> bool {
    V::MULTIPLIES_PAIRS && E::DTYPE == DType::BF16
}

/// `lines` lines from `first_line` on, some terms of each, in panels of `width` lines, the last one
/// of `last_width`.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, E> {
    pub(super) from: Factor<'a, E>,
    pub(super) first_line: usize,
    pub(super) lines: usize,
    pub(super) width: usize,
    pub(super) last_width: usize,
    pub(super) first_term: usize,
    pub(super) terms: usize,
}

impl<'a, E: Element> Panels<'a, E> {
    /// For the panel from `line` on, how many lines it has, and how wide it is.
    #[inline(always)]
    pub(super) fn panel(&self, line: usize) -> (usize, usize) {
        let lines = self.width.min(self.lines - line);
        (lines, if line + self.width < self.lines { self.width } else { self.last_width })
    }

    /// Asks for a term of all lines, where these lie side by side: no machine foresees the next row
    /// of a large matrix.
    #[inline(always)]
    pub(super) fn prefetch(&self, term: usize) {
        let first = (self.first_term + term) * self.from.term_stride + self.first_line;
        prefetch_row(self.from.data, first, self.lines);
        prefetch_row(self.from.data, first + self.lines - 1, 1);
    }

    /// A term of all lines, where these lie side by side. Beyond the last term there is none.
    #[inline(always)]
    fn term(&self, term: usize) -> &'a [E] {
        match term < self.terms {
            true => {
                &self.from.data
                    [(self.first_term + term) * self.from.term_stride + self.first_line..]
                    [..self.lines]
            }
            false => &[],
        }
    }
}

/// Packs panels, one after the other: in a panel, word `w` of line `l` goes to `w * width + l`.
/// Lines that are not there get any values.
pub(super) struct Pack<'a, E> {
    pub(super) panels: Panels<'a, E>,
    pub(super) words: Words,
    pub(super) to: &'a mut [f32],
}

impl<E: Element> Loop for Pack<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self, lanes: V) {
        let terms_lie_side_by_side = self.panels.from.term_stride == 1;
        if !multiplies_pairs::<E, V>() {
            return match terms_lie_side_by_side {
                true => self.transpose::<V, 1>(lanes),
                false => self.copy(lanes),
            };
        }
        match terms_lie_side_by_side {
            true => self.transpose::<V, 2>(lanes),
            false => self.interleave(lanes),
        }
    }
}

impl<E: Element> Pack<'_, E> {
    /// Terms lie side by side: squares of 16 lines and 16 words are turned over.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn transpose<V: Lanes, const TERMS: usize>(&mut self, lanes: V) {
        let num_words = self.words.of_terms(self.panels.terms);
        for line in (0..self.panels.lines).step_by(self.panels.width) {
            let (lines, width) = self.panels.panel(line);
            for first_line in (0..lines).step_by(LANES) {
                for first_word in (0..num_words).step_by(LANES) {
                    let first = first_word * TERMS;
                    let terms = (self.panels.terms - first).min(LANES * TERMS);
                    // Counted to a constant, so that the square lies in registers.
                    let mut square = [lanes.splat(0.0); LANES];
                    for l in 0..LANES {
                        if first_line + l < lines {
                            let at = self.panels.first_line + line + first_line + l;
                            square[l] = load_words::<V, E, TERMS>(
                                lanes,
                                self.panels.from.line(at, self.panels.first_term + first, terms),
                            );
                        }
                    }
                    let square = lanes.transpose(square);
                    let to = &mut self.to[line * num_words..][..width * num_words];
                    for w in 0..LANES {
                        if first_word + w >= num_words {
                            break;
                        }
                        store_words(lanes, square[w], to, (first_word + w) * width + first_line);
                    }
                }
            }
        }
    }

    /// Lines lie side by side. All panels are written row by row, since each row is somewhere else
    /// in memory.
    #[inline(always)]
    fn copy<V: Lanes>(&mut self, lanes: V) {
        for t in 0..self.panels.terms {
            self.panels.prefetch(t + ROWS_AHEAD);
            let row = self.panels.term(t);
            for line in (0..self.panels.lines).step_by(self.panels.width) {
                let (lines, width) = self.panels.panel(line);
                let to = &mut self.to[line * self.panels.terms..][..width * self.panels.terms];
                for first_line in (0..lines).step_by(LANES) {
                    let words = load_vector(lanes, &row[line + first_line..]);
                    store_words(lanes, words, to, t * width + first_line);
                }
            }
        }
    }

    /// As [`Self::copy`], two terms to a word.
    #[inline(always)]
    fn interleave<V: Lanes>(&mut self, lanes: V) {
        let num_words = self.words.of_terms(self.panels.terms);
        for w in 0..num_words {
            self.panels.prefetch(2 * w + ROWS_AHEAD);
            self.panels.prefetch(2 * w + 1 + ROWS_AHEAD);
            let (first, second) = (self.panels.term(2 * w), self.panels.term(2 * w + 1));
            for line in (0..self.panels.lines).step_by(self.panels.width) {
                let (lines, width) = self.panels.panel(line);
                let to = &mut self.to[line * num_words..][..width * num_words];
                for first_line in (0..lines).step_by(LANES) {
                    let at = line + first_line;
                    let words = lanes.pairs(&first[at..], &second[at.min(second.len())..]);
                    store_words(lanes, words, to, w * width + first_line);
                }
            }
        }
    }
}

/// Words of a panel, where those behind its width will be written again by the next row of words.
#[inline(always)]
fn store_words<V: Lanes>(lanes: V, words: V::F32, panel: &mut [f32], at: usize) {
    store_vector(lanes, words, &mut panel[at..]);
}

/// Up to 16 words of a line; zeros behind them.
#[inline(always)]
pub(crate) fn load_words<V: Lanes, E: Element, const TERMS: usize>(lanes: V, from: &[E]) -> V::F32 {
    if TERMS == 1 {
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
