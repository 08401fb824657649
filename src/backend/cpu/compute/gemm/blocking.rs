//! Cache and register blocking, and the layout of a B that is packed as a whole.

use std::marker::PhantomData;
use std::ops::Range;

use super::amx_pack::components_of;
use super::pack::{PackFormat, Panels, multiplies_pairs};
use super::product::Operand;
use crate::backend::cpu::Cpu;
use crate::dtype::{DType, Element};
use crate::simd::amx::{self, K_STEP};
use crate::simd::{LANES, Lanes, Loop, Simd};
use crate::size::{next_multiple, product, sum};

/// The largest KC; twice as many for [`PackFormat::Bf16Pairs`], of which a packed element is two.
pub(super) const MAX_KC: usize = 512;
/// The packed elements of a block of B, about, which sets NC: 1 MiB, which stays in the L2 cache
/// while the rows of A pass by.
const B_BLOCK_LEN: usize = 1 << 18;
/// MC, about: few enough rows for a packed block of A to stay in the L2 cache beside that of B.
const MC: usize = 60;
/// The least number of panels of a block of A.
const MIN_PANELS_OF_A: usize = 4;

/// The block sizes of a product, and the format of its packed panels; the table in
/// [the module's documentation](super) says what the sizes are for.
#[derive(Clone, Copy)]
pub(super) struct Blocking {
    n: usize,
    pub(super) k: usize,
    pub(super) mr: usize,
    pub(super) nr: usize,
    pub(super) kc: usize,
    pub(super) format: PackFormat,
}

/// A block of B.
pub(super) struct BlockOfB {
    pub(super) cols: Range<usize>,
    pub(super) ks: Range<usize>,
    /// The place of its packed elements in a B that is packed as a whole.
    pub(super) packed: Range<usize>,
}

/// Returns MR, NR and the format of the SIMD micro-kernel for elements of type `E`.
struct MicroKernelShape<E>(PhantomData<E>);

impl<E: Element> Loop for MicroKernelShape<E> {
    type Output = (usize, usize, PackFormat);
    const MULTIPLIES_PAIRS: bool = matches!(E::DTYPE, DType::BF16);
    #[inline(always)]
    fn run<V: Lanes>(self, _: V) -> Self::Output {
        let format =
            if multiplies_pairs::<E, V>() { PackFormat::Bf16Pairs } else { PackFormat::F32 };
        (V::TILE.0, V::TILE.1 * LANES, format)
    }
}

impl Blocking {
    /// Chooses the block sizes for operands of type `E` and an output of type `O`.
    pub(super) fn new<E: Element, O: Element>(cpu: &Cpu, n: usize, k: usize) -> Self {
        let by_amx = match E::DTYPE {
            DType::BF16 => true,
            // Three components of each operand make more work, too much of which would be wasted on
            // a tile that is not full.
            DType::F32 => n >= amx::NR && k >= K_STEP,
            DType::F16 => false,
        };
        let (mr, nr, format) = match cpu.dispatch.simd() {
            Simd::Amx if by_amx => {
                (amx::MR, amx::NR, PackFormat::AmxTiles { components: components_of::<E>() })
            }
            _ => cpu.dispatch.run(MicroKernelShape::<E>(PhantomData)),
        };
        let kc = match O::DTYPE {
            DType::F32 => balanced_kc(format, k),
            // A partial sum cannot be stored in 16 bits.
            _ => k.max(1),
        };
        Self { n, k, mr, nr, kc, format }
    }

    /// Returns MC.
    pub(super) fn mc(&self) -> usize {
        self.mr * (MC / self.mr).max(MIN_PANELS_OF_A)
    }

    /// Returns NC.
    fn nc(&self) -> usize {
        let packed_len = self.format.packed_len(self.kc.min(self.k)).max(1);
        (B_BLOCK_LEN / packed_len)
            .next_multiple_of(self.nr)
            .min(next_multiple(self.n, LANES))
            .max(1)
    }

    /// Returns the blocks of B in their order: all of `k` of NC columns, then of the next ones.
    pub(super) fn blocks_of_b(self) -> impl Iterator<Item = BlockOfB> {
        let Self { n, k, kc, .. } = self;
        let nc = self.nc();
        let blocks = (0..n.max(1)).step_by(nc).flat_map(move |col| {
            let cols = col..n.min(col + nc);
            (0..k.max(1)).step_by(kc).map(move |p| (cols.clone(), p..k.min(p + kc)))
        });
        blocks.scan(0, move |end, (cols, ks)| {
            let start = *end;
            *end += self.format.packed_len(ks.len()) * cols.len().next_multiple_of(LANES);
            Some(BlockOfB { cols, ks, packed: start..*end })
        })
    }

    /// Returns the number of packed elements of the largest block of B.
    pub(super) fn packed_block_len(&self) -> usize {
        self.format.packed_len(self.kc.min(self.k)) * self.nc()
    }

    /// Returns the number of packed elements of all blocks of B.
    pub(super) fn packed_b_len(self) -> usize {
        // This is the sum over `blocks_of_b`, in closed form: a size that is not validated may have
        // too many blocks to count one by one.
        let Self { n, k, kc, format, .. } = self;
        let packed_len = sum([product([k / kc, format.packed_len(kc)]), format.packed_len(k % kc)]);
        let nc = self.nc();
        let cols = sum([product([n / nc, nc]), next_multiple(n % nc, LANES)]);
        product([packed_len, cols])
    }

    /// Returns the panels of a block of B.
    pub(super) fn panels_of_b<'a, E>(
        &self,
        b: Operand<'a, E>,
        cols: &Range<usize>,
        ks: &Range<usize>,
    ) -> Panels<'a, E> {
        let padded_cols = cols.len().next_multiple_of(LANES);
        Panels {
            operand: b,
            first_row: cols.start,
            rows: cols.len(),
            panel_rows: self.nr,
            last_panel_rows: padded_cols - padded_cols.saturating_sub(1) / self.nr * self.nr,
            first_k: ks.start,
            kc: ks.len(),
        }
    }
}

/// Returns KC for a sum of `k` products: blocks of equal size, except for a smaller last one.
fn balanced_kc(format: PackFormat, k: usize) -> usize {
    let (max, multiple) = match format {
        PackFormat::F32 => (MAX_KC, 1),
        PackFormat::Bf16Pairs => (2 * MAX_KC, 2),
        PackFormat::AmxTiles { .. } => (MAX_KC, K_STEP),
    };
    k.div_ceil(k.div_ceil(max).max(1)).next_multiple_of(multiple).max(1)
}
