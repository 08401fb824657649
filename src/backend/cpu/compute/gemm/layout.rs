//! How the right factor of a product is cut into blocks, and how these lie one after the other when
//! it is packed as a whole.

use std::ops::Range;

use super::factor::{Factor, Panels, Words, multiplies_pairs};
use super::tiles::{TERMS_OF_STEP, parts_of};
use crate::backend::cpu::Cpu;
use crate::dtype::{DType, Element};
use crate::simd::{LANES, Lanes, Loop, Simd, amx};
use crate::size::{next_multiple, product, sum};

/// Words of columns that are packed at once, about: they stay in the second-level cache while rows
/// meet them.
const WORDS_OF_COLS: usize = 1 << 18;

/// Of a right factor of `n` columns of `k` terms.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    n: usize,
    pub(super) k: usize,
    /// Rows and columns of a tile.
    pub(super) tile: (usize, usize),
    pub(super) words: Words,
    /// Terms of a block.
    pub(super) block: usize,
}

/// What the instruction set says of tiles of products of `E`.
struct TileOf<E>(std::marker::PhantomData<E>);

impl<E: Element> Loop for TileOf<E> {
    type Output = ((usize, usize), Words);
    #[inline(always)]
    fn run<V: Lanes>(self, _: V) -> Self::Output {
        let words = if multiplies_pairs::<E, V>() { Words::Pairs } else { Words::Single };
        ((V::TILE.0, V::TILE.1 * LANES), words)
    }
}

impl Layout {
    /// For factors of `E` and an output of `O`.
    pub(super) fn new<E: Element, O: Element>(cpu: &Cpu, n: usize, k: usize) -> Self {
        let by_tiles = match E::DTYPE {
            DType::BF16 => true,
            // Three parts of each factor make more work, of which a tile that is not full would
            // waste too much.
            DType::F32 => n >= amx::COLS && k >= TERMS_OF_STEP,
            DType::F16 => false,
        };
        let (tile, words) = match cpu.dispatch.simd() {
            Simd::Amx if by_tiles => {
                ((amx::ROWS, amx::COLS), Words::Tiles { parts: parts_of::<E>() })
            }
            _ => cpu.dispatch.run(TileOf::<E>(std::marker::PhantomData)),
        };
        let block = match O::DTYPE {
            DType::F32 => words.terms_of_block(k),
            // A sum that is not over cannot be stored in 16 bits.
            _ => k.max(1),
        };
        Self { n, k, tile, words, block }
    }

    /// The columns and terms of each block, in their order, and where its words are among those of
    /// all blocks.
    pub(super) fn blocks(self) -> impl Iterator<Item = (Range<usize>, Range<usize>, Range<usize>)> {
        let Self { n, k, block, .. } = self;
        let most_cols = self.most_cols();
        let blocks = (0..n.max(1)).step_by(most_cols).flat_map(move |col| {
            let cols = col..n.min(col + most_cols);
            (0..k.max(1)).step_by(block).map(move |term| (cols.clone(), term..k.min(term + block)))
        });
        blocks.scan(0, move |end, (cols, terms)| {
            let start = *end;
            *end += self.words.of_terms(terms.len()) * cols.len().next_multiple_of(LANES);
            Some((cols, terms, start..*end))
        })
    }

    fn most_cols(&self) -> usize {
        let words_of_line = self.words.of_terms(self.block.min(self.k)).max(1);
        (WORDS_OF_COLS / words_of_line)
            .next_multiple_of(self.tile.1)
            .min(next_multiple(self.n, LANES))
            .max(1)
    }

    /// The words of the largest block.
    pub(super) fn words_of_block(&self) -> usize {
        self.words.of_terms(self.block.min(self.k)) * self.most_cols()
    }

    /// The words of all blocks.
    pub(super) fn words_of_all(self) -> usize {
        // This is the sum over `blocks`, in closed form: a size that is not validated may have too
        // many blocks to count one by one.
        let Self { n, k, block, words, .. } = self;
        let terms = sum([product([k / block, words.of_terms(block)]), words.of_terms(k % block)]);
        let most_cols = self.most_cols();
        let cols = sum([product([n / most_cols, most_cols]), next_multiple(n % most_cols, LANES)]);
        product([terms, cols])
    }

    /// What is packed for a block.
    pub(super) fn panels<'a, E>(
        &self,
        from: Factor<'a, E>,
        cols: &Range<usize>,
        terms: &Range<usize>,
    ) -> Panels<'a, E> {
        let (lines, width) = (cols.len().next_multiple_of(LANES), self.tile.1);
        Panels {
            from,
            first_line: cols.start,
            lines: cols.len(),
            width,
            last_width: lines - lines.saturating_sub(1) / width * width,
            first_term: terms.start,
            terms: terms.len(),
        }
    }
}
