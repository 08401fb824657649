//! The factors of a product of matrices, and how they are packed: the lines of a panel side by side, term after term.
//!
//! A word is what a lane multiplies: one `f32`, or two `bf16` where the machine multiplies pairs ([`Lanes::MULTIPLIES_PAIRS`]). Other elements are
//! widened. Words are moved as `f32`, whatever their bits are.

use super::super::simd::{LANES, Lanes, Loop, prefetch_row};
use super::super::vector::{load_vector, store_vector};
use crate::dtype::{DType, Element};

/// Rows that are asked for ahead of their being packed.
const ROWS_AHEAD: usize = 16;

/// A factor: `lines` vectors of `terms` elements, rows of the left factor or columns of the right one. Element `t` of line `l` lies at
/// `data[l * line_stride + t * term_stride]`, and one of the strides is 1.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Factor<'a, E> {
    pub(in crate::backend::cpu) data: &'a [E],
    pub(in crate::backend::cpu) line_stride: usize,
    pub(in crate::backend::cpu) term_stride: usize,
}

impl<'a, E: Element> Factor<'a, E> {
    /// Each row of the matrix is a line.
    pub(in crate::backend::cpu) fn rows(data: &'a [E], ld: usize) -> Self {
        Self { data, line_stride: ld, term_stride: 1 }
    }

    /// Each column of the matrix is a line.
    pub(in crate::backend::cpu) fn columns(data: &'a [E], ld: usize) -> Self {
        Self { data, line_stride: 1, term_stride: ld }
    }

    /// The terms of a line whose terms lie side by side.
    #[inline(always)]
    pub(super) fn line(&self, line: usize, first: usize, terms: usize) -> &'a [E] {
        &self.data[line * self.line_stride + first..][..terms]
    }
}

/// The words that so many terms take.
pub(super) fn words(pairs: bool, terms: usize) -> usize {
    if pairs { terms.div_ceil(2) } else { terms }
}

/// Whether elements are multiplied in pairs.
pub(super) fn multiplies_pairs<E: Element, V: Lanes>() -> bool {
    V::MULTIPLIES_PAIRS && E::DTYPE == DType::BF16
}

/// Packs `lines` lines from `first_line` on in panels of `width` lines, the last one of `last_width`, one after the other: in a panel, word `w` of line `l`
/// goes to `w * width + l`. Lines that are not there get any values.
pub(super) struct Pack<'a, E> {
    pub(super) from: Factor<'a, E>,
    pub(super) first_line: usize,
    pub(super) lines: usize,
    pub(super) width: usize,
    pub(super) last_width: usize,
    pub(super) first_term: usize,
    pub(super) terms: usize,
    pub(super) to: &'a mut [f32],
}

impl<E: Element> Loop for Pack<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self, lanes: V) {
        match (self.from.term_stride, multiplies_pairs::<E, V>()) {
            (1, false) => self.transpose::<V, 1>(lanes),
            (1, true) => self.transpose::<V, 2>(lanes),
            (_, false) => self.copy(lanes),
            (_, true) => self.interleave(),
        }
    }
}

impl<E: Element> Pack<'_, E> {
    /// For the panel from `line` on, how many lines it has, and how wide it is.
    #[inline(always)]
    fn panel(&self, line: usize) -> (usize, usize) {
        let lines = self.width.min(self.lines - line);
        (lines, if line + self.width < self.lines { self.width } else { self.last_width })
    }

    /// Terms lie side by side: squares of 16 lines and 16 words are turned over.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn transpose<V: Lanes, const TERMS: usize>(&mut self, lanes: V) {
        let num_words = self.terms.div_ceil(TERMS);
        for line in (0..self.lines).step_by(self.width) {
            let (lines, width) = self.panel(line);
            for first_line in (0..lines).step_by(LANES) {
                for first_word in (0..num_words).step_by(LANES) {
                    let first = first_word * TERMS;
                    let terms = (self.terms - first).min(LANES * TERMS);
                    // Counted to a constant, so that the square lies in registers.
                    let mut square = [lanes.splat(0.0); LANES];
                    for l in 0..LANES {
                        if first_line + l < lines {
                            let at = self.first_line + line + first_line + l;
                            square[l] =
                                load_words::<V, E, TERMS>(lanes, self.from.line(at, self.first_term + first, terms));
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

    /// Asks for a term of all lines, where these lie side by side: no machine foresees the next row of a large matrix.
    #[inline(always)]
    fn prefetch(&self, term: usize) {
        let first = (self.first_term + term) * self.from.term_stride + self.first_line;
        prefetch_row(self.from.data, first, self.lines);
    }

    /// Lines lie side by side. All panels are written row by row, since each row is somewhere else in memory.
    #[inline(always)]
    fn copy<V: Lanes>(&mut self, lanes: V) {
        for t in 0..self.terms {
            self.prefetch(t + ROWS_AHEAD);
            let row = &self.from.data[(self.first_term + t) * self.from.term_stride + self.first_line..][..self.lines];
            for line in (0..self.lines).step_by(self.width) {
                let (lines, width) = self.panel(line);
                let to = &mut self.to[line * self.terms..][..width * self.terms];
                for first_line in (0..lines).step_by(LANES) {
                    let words = load_vector(lanes, &row[line + first_line..]);
                    store_words(lanes, words, to, t * width + first_line);
                }
            }
        }
    }

    /// As [`Self::copy`], two terms to a word.
    #[inline(always)]
    fn interleave(&mut self) {
        let num_words = self.terms.div_ceil(2);
        for w in 0..num_words {
            self.prefetch(2 * w + ROWS_AHEAD);
            self.prefetch(2 * w + 1 + ROWS_AHEAD);
            let first = (self.first_term + 2 * w) * self.from.term_stride + self.first_line;
            let low = &self.from.data[first..][..self.lines];
            let high = match 2 * w + 1 < self.terms {
                true => &self.from.data[first + self.from.term_stride..][..self.lines],
                false => &[],
            };
            for line in (0..self.lines).step_by(self.width) {
                let (lines, width) = self.panel(line);
                let to = &mut self.to[line * num_words + w * width..][..lines];
                let low = &low[line..][..lines];
                if high.is_empty() {
                    for (to, low) in to.iter_mut().zip(low) {
                        *to = word([*low, E::default()]);
                    }
                } else {
                    for ((to, low), high) in to.iter_mut().zip(low).zip(&high[line..][..lines]) {
                        *to = word([*low, *high]);
                    }
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

/// Two elements of 16 bits as the bits of a word.
#[inline(always)]
fn word<E: Element>(pair: [E; 2]) -> f32 {
    let bits = |x: &E| bytemuck::bytes_of(x).first_chunk().map_or(0, |bytes| u32::from(u16::from_ne_bytes(*bytes)));
    f32::from_bits(bits(&pair[0]) | bits(&pair[1]) << 16)
}

/// Up to 16 words of a line; zeros behind them.
#[inline(always)]
pub(super) fn load_words<V: Lanes, E: Element, const TERMS: usize>(lanes: V, from: &[E]) -> V::F32 {
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
