//! The instructions.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
use std::marker::PhantomData;
use std::sync::OnceLock;

use bytemuck::cast_slice;

use super::{COLS, Lines, PARTS_OF_F32, ROWS, TERMS_OF_STEP, Tile};

/// Rows of a tile, and the bytes of one.
const TILE_ROWS: usize = size_of::<Tile>() / ROW_BYTES;
const ROW_BYTES: usize = 64;
/// What a process asks the system for, and the state that it asks to use: that of the tiles.
const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
const XFEATURE_XTILEDATA: libc::c_long = 18;

/// Asks the system once; what it grants holds for all threads.
pub(super) fn are_available() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        // Leaf 7: bits 22 and 24 are the product of `bf16` and the tiles themselves.
        let wanted = 1 << 22 | 1 << 24;
        __get_cpuid_max(0).0 >= 7
            && __cpuid_count(7, 0).edx & wanted == wanted
            // SAFETY: the call reads its two numbers, and changes only what state this process may
            // use.
            && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    })
}

/// How `ldtilecfg` wants to be told the sizes of the tiles.
#[repr(C, align(64))]
struct Sizes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Sizes {
    /// All eight tiles are as large as can be.
    const FULL: Self = {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        let mut tile = 0;
        while tile < 8 {
            (row_bytes[tile], rows[tile]) = (ROW_BYTES as u16, TILE_ROWS as u8);
            tile += 1;
        }
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    };
}

/// Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 columns.
macro_rules! multiply {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// Clears the sums, adds to them in steps, and stores them. Given are what a step does and the
/// operands of the left factor.
macro_rules! sum {
    ($rhs:ident, $steps:ident, $sums:ident, [$($step:tt)*], $($lhs:tt)*) => {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
            $($step)*
            "dec {steps}",
            "jnz 2b",
            "3:",
            "tilestored [{sums} + {sums_row}*1], tmm0",
            "tilestored [{sums} + {sums_row}*1 + {ROW_BYTES}], tmm1",
            "tilestored [{sums} + {sums_row}*1 + {LOWER_SUMS}], tmm2",
            "tilestored [{sums} + {sums_row}*1 + {LOWER_SUMS} + {ROW_BYTES}], tmm3",
            steps = inout(reg) $steps => _,
            $($lhs)*
            rhs = inout(reg) $rhs.as_ptr() => _,
            row = in(reg) ROW_BYTES,
            sums = in(reg) $sums.as_mut_ptr(),
            sums_row = in(reg) COLS * size_of::<f32>(),
            RIGHT = const (COL_TILES - 1) * size_of::<Tile>(),
            RHS_PART = const COL_TILES * size_of::<Tile>(),
            ROW_BYTES = const ROW_BYTES,
            LOWER_SUMS = const TILE_ROWS * COLS * size_of::<f32>(),
            options(nostack),
        )
    };
}

/// A left factor of one part, 16 or 32 rows of it: `ld` elements from row to row, and so many from
/// step to step.
struct Wholes<'a> {
    elements: &'a [u16],
    ld: usize,
    of_step: usize,
    tiles: usize,
}

/// Shows that the machine has the instructions, and that this thread's tiles are of their full
/// size: it cannot leave the thread.
pub(super) struct Configured(PhantomData<*const ()>);

impl Configured {
    pub(super) fn new() -> Option<Self> {
        if !are_available() {
            return None;
        }
        // SAFETY: the instruction is there, and reads 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &Sizes::FULL, options(nostack, readonly)) };
        Some(Self(PhantomData))
    }

    /// As [`Tiles::sum`](super::Tiles::sum).
    pub(super) fn sum(
        &self,
        lhs: &[Tile],
        rhs: &[Tile],
        parts: usize,
        steps: usize,
        sums: &mut [[f32; COLS]; ROWS],
    ) {
        let tiles_of_part = |of: &[Tile]| of.len().checked_div(steps * parts).unwrap_or(2);
        match (parts, tiles_of_part(lhs), tiles_of_part(rhs)) {
            (1, tiles, _) => {
                let (ld, of_step) = (TERMS_OF_STEP, tiles * TILE_ROWS * TERMS_OF_STEP);
                let words = lhs.as_flattened().as_flattened();
                self.sum_of_wholes(
                    Wholes { elements: cast_slice(words), ld, of_step, tiles },
                    rhs,
                    steps,
                    sums,
                );
            }
            (PARTS_OF_F32, 1, 1) => self.sum_of_parts::<1, 1>(lhs, rhs, steps, sums),
            (PARTS_OF_F32, 1, 2) => self.sum_of_parts::<1, 2>(lhs, rhs, steps, sums),
            (PARTS_OF_F32, 2, 1) => self.sum_of_parts::<2, 1>(lhs, rhs, steps, sums),
            (PARTS_OF_F32, 2, 2) => self.sum_of_parts::<2, 2>(lhs, rhs, steps, sums),
            other => unreachable!("parts, and tiles of rows and columns: {other:?}"),
        }
    }

    /// As [`Tiles::sum_of_lines`](super::Tiles::sum_of_lines).
    pub(super) fn sum_of_lines(
        &self,
        lhs: Lines<'_>,
        rhs: &[Tile],
        steps: usize,
        sums: &mut [[f32; COLS]; ROWS],
    ) {
        let Lines { elements, ld, tiles } = lhs;
        self.sum_of_wholes(
            Wholes { elements, ld, of_step: TERMS_OF_STEP, tiles },
            rhs,
            steps,
            sums,
        );
    }

    fn sum_of_wholes(
        &self,
        lhs: Wholes<'_>,
        rhs: &[Tile],
        steps: usize,
        sums: &mut [[f32; COLS]; ROWS],
    ) {
        match rhs.len().checked_div(steps).unwrap_or(2) {
            1 => self.sum_of_wholes_with::<1>(lhs, rhs, steps, sums),
            _ => self.sum_of_wholes_with::<2>(lhs, rhs, steps, sums),
        }
    }

    /// Factors of one part. Where there is only one tile of rows or columns, it is also taken for
    /// the other.
    fn sum_of_wholes_with<const COL_TILES: usize>(
        &self,
        lhs: Wholes<'_>,
        rhs: &[Tile],
        steps: usize,
        sums: &mut [[f32; COLS]; ROWS],
    ) {
        let Wholes { elements, ld, of_step, tiles } = lhs;
        let lower = (tiles - 1) * TILE_ROWS * ld;
        let last_row = steps.saturating_sub(1) * of_step + lower + (TILE_ROWS - 1) * ld;
        assert!(
            rhs.len() == steps * COL_TILES
                && (steps == 0 || last_row + TERMS_OF_STEP <= elements.len())
        );
        // SAFETY: `self` shows that the instructions are there and the tiles of their full size;
        // nothing but this type touches tiles, and the system keeps them for the thread. Each step
        // reads 16 rows of 64 bytes, `ld` elements apart, from both pointers to the left factor on,
        // which move on by `of_step` elements: by the assertion, the last of them is one of
        // `elements`. It reads the `COL_TILES` tiles that the other pointer is at, and moves on by
        // as many: all of `rhs`, by the assertion. The four tiles of sums are written to the four
        // quarters of `sums`.
        unsafe {
            sum!(
                rhs,
                steps,
                sums,
                [
                    // Rows meet all columns in turn, so they shall stay in the first-level cache,
                    // and columns, which pass by, shall not push them out.
                    "tileloadd tmm4, [{lhs} + {lhs_row}*1]",
                    "tileloaddt1 tmm6, [{rhs} + {row}*1]",
                    "tileloaddt1 tmm7, [{rhs} + {row}*1 + {RIGHT}]",
                    "tileloadd tmm5, [{lower} + {lhs_row}*1]",
                    multiply!(),
                    "add {lhs}, {of_step}",
                    "add {lower}, {of_step}",
                    "add {rhs}, {RHS_PART}",
                ],
                lhs = inout(reg) elements.as_ptr() => _,
                lower = inout(reg) elements.as_ptr().wrapping_add(lower) => _,
                lhs_row = in(reg) ld * size_of::<u16>(),
                of_step = in(reg) of_step * size_of::<u16>(),
            );
        }
    }

    /// Factors of three parts, in the order of [`PRODUCTS_OF_PARTS`](super::PRODUCTS_OF_PARTS),
    /// which loads few tiles more than once.
    fn sum_of_parts<const ROW_TILES: usize, const COL_TILES: usize>(
        &self,
        lhs: &[Tile],
        rhs: &[Tile],
        steps: usize,
        sums: &mut [[f32; COLS]; ROWS],
    ) {
        assert!(
            lhs.len() == steps * PARTS_OF_F32 * ROW_TILES
                && rhs.len() == steps * PARTS_OF_F32 * COL_TILES
        );
        // SAFETY: as above, but that each step reads, and moves on by, three times as many tiles:
        // its offsets are those of tiles `0..3 * ROW_TILES` and `0..3 * COL_TILES`.
        unsafe {
            sum!(
                rhs,
                steps,
                sums,
                [
                    "tileloaddt1 tmm4, [{lhs} + {row}*1 + 2*{LHS_PART}]",
                    "tileloaddt1 tmm5, [{lhs} + {row}*1 + 2*{LHS_PART} + {LOWER}]",
                    "tileloadd tmm6, [{rhs} + {row}*1]",
                    "tileloadd tmm7, [{rhs} + {row}*1 + {RIGHT}]",
                    multiply!(),
                    "tileloaddt1 tmm4, [{lhs} + {row}*1 + {LHS_PART}]",
                    "tileloaddt1 tmm5, [{lhs} + {row}*1 + {LHS_PART} + {LOWER}]",
                    multiply!(),
                    "tileloadd tmm6, [{rhs} + {row}*1 + {RHS_PART}]",
                    "tileloadd tmm7, [{rhs} + {row}*1 + {RHS_PART} + {RIGHT}]",
                    multiply!(),
                    "tileloaddt1 tmm4, [{lhs} + {row}*1]",
                    "tileloaddt1 tmm5, [{lhs} + {row}*1 + {LOWER}]",
                    multiply!(),
                    "tileloadd tmm6, [{rhs} + {row}*1]",
                    "tileloadd tmm7, [{rhs} + {row}*1 + {RIGHT}]",
                    multiply!(),
                    "tileloadd tmm6, [{rhs} + {row}*1 + 2*{RHS_PART}]",
                    "tileloadd tmm7, [{rhs} + {row}*1 + 2*{RHS_PART} + {RIGHT}]",
                    multiply!(),
                    "add {lhs}, 3*{LHS_PART}",
                    "add {rhs}, 3*{RHS_PART}",
                ],
                lhs = inout(reg) lhs.as_ptr() => _,
                LOWER = const (ROW_TILES - 1) * size_of::<Tile>(),
                LHS_PART = const ROW_TILES * size_of::<Tile>(),
            );
        }
    }
}

impl Drop for Configured {
    /// Tiles that are in use would have to be saved at every change of threads.
    fn drop(&mut self) {
        // SAFETY: the instruction is there, as `self` shows.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}
