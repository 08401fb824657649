//! The factors of a product of matrices, and how they are packed: the lines of a panel side by side, term after term.
//!
//! A word is what a lane multiplies: one `f32`, or two `bf16` where the machine multiplies pairs ([`Lanes::MULTIPLIES_PAIRS`]). Other elements are
//! widened. Words are moved as `f32`, whatever their bits are.

use super::super::simd::{LANES, Lanes, Loop};
use crate::dtype::{DType, Element};

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

/// Packs a panel of `width` lines from `first_line` on, of which `lines` are there: word `w` of line `l` goes to `to[w * width + l]`. Lines that are
/// not there get any values.
pub(super) struct Pack<'a, E> {
    pub(super) from: Factor<'a, E>,
    pub(super) first_line: usize,
    pub(super) lines: usize,
    pub(super) width: usize,
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
    /// Terms lie side by side: squares of 16 lines and 16 words are turned over.
    #[allow(clippy::needless_range_loop)] // counted to a constant, so that all stays in registers
    #[inline(always)]
    fn transpose<V: Lanes, const TERMS: usize>(&mut self, lanes: V) {
        let num_words = self.terms.div_ceil(TERMS);
        for first_word in (0..num_words).step_by(LANES) {
            let first = first_word * TERMS;
            let terms = (self.terms - first).min(LANES * TERMS);
            for first_line in (0..self.lines).step_by(LANES) {
                // Counted to a constant, so that the square lies in registers.
                let mut square = [lanes.splat(0.0); LANES];
                for l in 0..LANES {
                    if first_line + l < self.lines {
                        let line = self.from.line(self.first_line + first_line + l, self.first_term + first, terms);
                        square[l] = load_words::<V, E, TERMS>(lanes, line);
                    }
                }
                let square = lanes.transpose(square);
                for w in 0..LANES {
                    if first_word + w >= num_words {
                        break;
                    }
                    let at = (first_word + w) * self.width + first_line;
                    // What goes beyond the panel's width is written again by the next word.
                    match self.to.get_mut(at..).and_then(|to| to.first_chunk_mut::<LANES>()) {
                        Some(to) => lanes.store(square[w], to),
                        None => {
                            let end = (at + LANES).min(self.to.len());
                            lanes.store_part(square[w], &mut self.to[at..end]);
                        }
                    }
                }
            }
        }
    }

    /// Lines lie side by side.
    #[inline(always)]
    fn copy<V: Lanes>(&mut self, lanes: V) {
        let Self { from, first_line, lines, width, first_term, terms, .. } = *self;
        for (t, to) in self.to.chunks_exact_mut(width).take(terms).enumerate() {
            let row = &from.data[(first_term + t) * from.term_stride + first_line..][..lines];
            let (blocks, rest) = row.as_chunks::<LANES>();
            let (to_blocks, to_rest) = to.as_chunks_mut::<LANES>();
            for (block, to) in blocks.iter().zip(to_blocks.iter_mut()) {
                lanes.store(lanes.load(block), to);
            }
            if !rest.is_empty() {
                let to = to_blocks.get_mut(blocks.len()).map_or(to_rest, |block| &mut block[..]);
                lanes.store_part(lanes.load_part(rest), &mut to[..rest.len()]);
            }
        }
    }

    /// Lines lie side by side, two terms to a word.
    #[inline(always)]
    fn interleave(&mut self) {
        let Self { from, first_line, lines, width, first_term, terms, .. } = *self;
        let row = |term: usize| &from.data[(first_term + term) * from.term_stride + first_line..][..lines];
        for (w, to) in self.to.chunks_exact_mut(width).take(terms.div_ceil(2)).enumerate() {
            let (low, to) = (row(2 * w), &mut to[..lines]);
            if 2 * w + 1 < terms {
                let high = row(2 * w + 1);
                for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
                    *to = word([*low, *high]);
                }
            } else {
                to.iter_mut().zip(low).for_each(|(to, low)| *to = word([*low, E::default()]));
            }
        }
    }
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
        return match from.first_chunk::<LANES>() {
            Some(from) => lanes.load(from),
            None => lanes.load_part(from),
        };
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
