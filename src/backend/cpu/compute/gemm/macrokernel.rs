//! The macro-kernel: multiplies MC rows of A by one block of B. It packs the rows, and calls the
//! micro-kernel and the epilogue for each tile of the output.

use bytemuck::cast_slice;

use super::amx_pack::{PackTiles, as_tiles};
use super::blocking::Blocking;
use super::epilogue::StoreTile;
use super::microkernel::{MicroKernel, PanelA, TileSums};
use super::pack::{Pack, PackFormat, Panels};
use super::product::{Epilogue, Operand};
use super::row_sums::{SumRows, SumTileRows};
use crate::Cpu;
use crate::dtype::Element;
use crate::simd::amx::{K_STEP, StridedRows, Tiles};
use crate::simd::{LANES, prefetch_row};

/// The plan of a product, the same for all rows of the output.
pub(super) struct Plan<'a, E> {
    pub(super) blocking: Blocking,
    pub(super) a: Operand<'a, E>,
    pub(super) b: Operand<'a, E>,
    pub(super) packed_b: Option<&'a [f32]>,
    pub(super) epilogue: Epilogue<'a>,
    /// Set if rows of A are packed, not read where they lie.
    pub(super) packs_a: bool,
}

/// A packed block of B, `kc × nc`, and what follows from its place in B.
pub(super) struct PackedBlock<'a> {
    pub(super) first_col: usize,
    pub(super) nc: usize,
    pub(super) first_k: usize,
    pub(super) kc: usize,
    /// Set if the output holds the sums of the blocks of `k` before this one.
    pub(super) continues: bool,
    pub(super) epilogue: Epilogue<'a>,
    /// The panels, one after the other.
    pub(super) panels: &'a [f32],
}

/// Rows of the output.
pub(super) struct Stripe<'a, O> {
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) out: &'a mut [O],
    pub(super) ld: usize,
    pub(super) row_sums: Option<&'a mut [f32]>,
}

impl<O> Stripe<'_, O> {
    /// Splits the stripe after `rows` rows.
    pub(super) fn split_at(self, rows: usize) -> (Self, Self) {
        let Self { first_row, rows: all, out, ld, row_sums } = self;
        let (upper, lower) = out.split_at_mut(rows * ld);
        let (upper_sums, lower_sums) = match row_sums.map(|sums| sums.split_at_mut(rows)) {
            Some((upper, lower)) => (Some(upper), Some(lower)),
            None => (None, None),
        };
        (
            Self { first_row, rows, out: upper, ld, row_sums: upper_sums },
            Self {
                first_row: first_row + rows,
                rows: all - rows,
                out: lower,
                ld,
                row_sums: lower_sums,
            },
        )
    }

    /// Returns `rows` rows from `row` on.
    pub(super) fn part(&mut self, row: usize, rows: usize) -> Stripe<'_, O> {
        let end = self.out.len().min((row + rows) * self.ld);
        Stripe {
            first_row: self.first_row + row,
            rows,
            out: &mut self.out[row * self.ld..end],
            ld: self.ld,
            row_sums: self.row_sums.as_deref_mut().map(|sums| &mut sums[row..row + rows]),
        }
    }
}

/// Packs panels of A, or of B unless `is_a`.
pub(super) fn pack_panels<E: Element>(
    cpu: &Cpu,
    panels: Panels<'_, E>,
    format: PackFormat,
    is_a: bool,
    to: &mut [f32],
) {
    match format {
        _ if to.is_empty() => (),
        PackFormat::AmxTiles { .. } => cpu.dispatch.run(PackTiles { panels, is_a, to }),
        _ => cpu.dispatch.run(Pack { panels, format, to }),
    }
}

/// Multiplies some rows of A by a block of B, and brings the sums to the output. `packed_a` is
/// scratch memory for the packed rows.
pub(super) fn multiply_block<E: Element, O: Element>(
    cpu: &Cpu,
    plan: &Plan<'_, E>,
    block: &PackedBlock<'_>,
    rows: Stripe<'_, O>,
    packed_a: &mut [f32],
) {
    let Blocking { mr, nr, format, .. } = plan.blocking;
    let amx = match format {
        PackFormat::AmxTiles { components } => {
            Some(Amx { tiles: Tiles::new(), components, steps: block.kc.div_ceil(K_STEP) })
        }
        _ => None,
    };
    let packed_len = format.packed_len(block.kc);
    let mut kernel = MacroKernel { cpu, plan, block, rows, mr, nr, format, packed_len, amx };
    let packs_a = kernel.packs_a();
    if packs_a {
        kernel.pack_a(packed_a);
    }
    kernel.sum_rows(packed_a);
    let mut sums = TileSums::new();
    for row in (0..kernel.rows.rows).step_by(mr) {
        let panel_a = kernel.panel_a(packs_a, packed_a, row);
        kernel.multiply_panel(row, panel_a, &mut sums);
    }
}

/// The tiles of AMX, and the sizes of a block for them.
struct Amx {
    tiles: Tiles,
    components: usize,
    /// The steps of `k` of the block.
    steps: usize,
}

/// The arguments of [`multiply_block`], whose steps are the methods.
struct MacroKernel<'a, E, O> {
    cpu: &'a Cpu,
    plan: &'a Plan<'a, E>,
    block: &'a PackedBlock<'a>,
    rows: Stripe<'a, O>,
    mr: usize,
    nr: usize,
    format: PackFormat,
    /// The number of packed elements of one row of the block.
    packed_len: usize,
    amx: Option<Amx>,
}

impl<E: Element, O: Element> MacroKernel<'_, E, O> {
    /// Returns the number of rows of the panel from `row` on.
    #[inline(always)]
    fn panel_rows(&self, row: usize) -> usize {
        self.mr.min(self.rows.rows - row)
    }

    /// Returns the number of rows of the last panel.
    #[inline(always)]
    fn last_panel_rows(&self) -> usize {
        self.rows.rows - (self.rows.rows - 1) / self.mr * self.mr
    }

    /// Returns whether rows of A are packed: a tile of AMX reads 16 or 32 rows, and cannot read
    /// rows past the end of A where they lie.
    #[inline(always)]
    fn packs_a(&self) -> bool {
        let (a, last_rows) = (&self.plan.a, self.last_panel_rows());
        let rows_of_tiles = self.rows.rows - last_rows + self.format.panel_rows(last_rows);
        let last_row = self.rows.first_row + rows_of_tiles - 1;
        let end = last_row * a.row_stride + self.block.first_k + self.block.kc;
        self.plan.packs_a || (self.amx.is_some() && end > a.data.len())
    }

    /// Packs the rows of A.
    #[inline(always)]
    fn pack_a(&self, to: &mut [f32]) {
        let panels = Panels {
            operand: self.plan.a,
            first_row: self.rows.first_row,
            rows: self.rows.rows,
            panel_rows: self.mr,
            last_panel_rows: self.format.panel_rows(self.last_panel_rows()),
            first_k: self.block.first_k,
            kc: self.block.kc,
        };
        pack_panels(self.cpu, panels, self.format, true, to);
    }

    /// Sums the packed rows of A, if that is wanted. Of the blocks of B with the same `k`, the one
    /// of the first columns does so.
    #[inline(always)]
    fn sum_rows(&mut self, packed_a: &[f32]) {
        if self.block.first_col > 0 {
            return;
        }
        let Some(row_sums) = self.rows.row_sums.take() else { return };
        let (format, packed_len) = (self.format, self.packed_len);
        let add = self.block.continues || matches!(self.block.epilogue, Epilogue::Add);
        for row in (0..self.rows.rows).step_by(self.mr) {
            let rows = self.panel_rows(row);
            let panel_rows = format.panel_rows(rows);
            let panel = &packed_a[row * packed_len..][..panel_rows * packed_len];
            let sums = &mut row_sums[row..row + rows];
            match format {
                PackFormat::AmxTiles { .. } => {
                    let (panel, tiles_per_component) = (as_tiles(panel), panel_rows / LANES);
                    self.cpu.dispatch.run(SumTileRows { panel, tiles_per_component, add, sums });
                }
                _ => self.cpu.dispatch.run(SumRows {
                    panel,
                    packed_len,
                    panel_rows,
                    format,
                    add,
                    sums,
                }),
            }
        }
    }

    /// Returns the panel of A from `row` on.
    #[inline(always)]
    fn panel_a<'p>(&self, is_packed: bool, packed_a: &'p [f32], row: usize) -> PanelA<'p, E>
    where
        Self: 'p,
    {
        let rows = self.panel_rows(row);
        if is_packed {
            let len = self.format.panel_rows(rows) * self.packed_len;
            return PanelA::Packed(&packed_a[row * self.packed_len..][..len]);
        }
        let ld = self.plan.a.row_stride;
        let data = &self.plan.a.data[(self.rows.first_row + row) * ld + self.block.first_k..];
        PanelA::Strided { data, ld, rows, kc: self.block.kc }
    }

    /// Multiplies a panel of A by all panels of B, tile after tile.
    #[inline(always)]
    fn multiply_panel(&mut self, row: usize, panel_a: PanelA<'_, E>, sums: &mut TileSums) {
        let rows = self.panel_rows(row);
        let PackedBlock { nc, continues, epilogue, panels, .. } = *self.block;
        let mut prefetched = 0;
        for col in (0..nc).step_by(self.nr) {
            let cols = self.nr.min(nc - col);
            let first_col = self.block.first_col + col;
            prefetched = self.prefetch(row, col, cols, panel_a, prefetched);
            let nr_vectors = cols.div_ceil(LANES);
            let panel_b = &panels[col * self.packed_len..][..nr_vectors * LANES * self.packed_len];
            self.multiply_tile(rows, panel_a, nr_vectors, panel_b, sums);
            self.cpu.dispatch.run(StoreTile {
                sums,
                out: &mut self.rows.out[row * self.rows.ld..],
                ld: self.rows.ld,
                rows,
                first_col,
                cols,
                continues,
                epilogue,
            });
        }
    }

    /// Prefetches the tile of the output at `row` and `col`, and, of rows of A that are read where
    /// they lie, the part of the next panel that is in proportion to the columns done. Returns the
    /// number of rows of that panel that are prefetched by now.
    #[inline(always)]
    fn prefetch(
        &self,
        row: usize,
        col: usize,
        cols: usize,
        panel_a: PanelA<'_, E>,
        prefetched: usize,
    ) -> usize {
        // The output arrives by the time its sums are ready. AMX leaves the machine enough time to
        // fetch it without a prefetch.
        if self.amx.is_none() {
            let first_col = self.block.first_col + col;
            (row..row + self.panel_rows(row))
                .for_each(|r| prefetch_row(self.rows.out, r * self.rows.ld + first_col, cols));
        }
        let PanelA::Strided { data, ld, kc, .. } = panel_a else { return prefetched };
        let until = (col + cols) * self.mr / self.block.nc;
        (prefetched..until).for_each(|r| prefetch_row(data, (self.mr + r) * ld, kc));
        until
    }

    /// Multiplies a panel of A by a panel of B, by AMX or by the SIMD micro-kernel.
    #[inline(always)]
    fn multiply_tile(
        &self,
        rows: usize,
        panel_a: PanelA<'_, E>,
        nr_vectors: usize,
        panel_b: &[f32],
        sums: &mut TileSums,
    ) {
        let mr = self.format.panel_rows(rows);
        match (&self.amx, panel_a) {
            (Some(Amx { tiles, components, steps }), PanelA::Packed(panel_a)) => {
                let (a, b) = (as_tiles(panel_a), as_tiles(panel_b));
                tiles.multiply(a, b, *components, *steps, &mut sums.0);
            }
            (Some(Amx { tiles, steps, .. }), PanelA::Strided { data, ld, .. }) => {
                let rows = StridedRows { elements: cast_slice(data), ld, tiles: mr / LANES };
                tiles.multiply_strided(rows, as_tiles(panel_b), *steps, &mut sums.0);
            }
            (None, a) => {
                self.cpu.dispatch.run(MicroKernel { mr, nr_vectors, a, b: panel_b, sums });
            }
        }
    }
}
