//! The instructions.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::super::LANES;
use super::{COLS, ROWS};

/// Rows of a tile, and the bytes of one.
const TILE_ROWS: usize = 16;
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
            // SAFETY: the call reads its two numbers, and changes only what state this process may use.
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

/// Shows that the machine has the instructions, and that this thread's tiles are of their full size: it cannot leave the thread.
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
    pub(super) fn sum(&self, lhs: &[f32], rhs: &[f32], num_words: usize, sums: &mut [[f32; COLS]; ROWS]) {
        let rows = lhs.len().checked_div(num_words).unwrap_or(ROWS);
        let cols = rhs.len().checked_div(num_words).unwrap_or(COLS);
        // Whole tiles of words of one or two tiles of rows and columns. Where there is only one, it is also taken for the other.
        assert!(
            [TILE_ROWS, ROWS].contains(&rows) && [LANES, COLS].contains(&cols) && num_words.is_multiple_of(TILE_ROWS)
        );
        let (lower_rows, right_cols) = ((rows - TILE_ROWS) * num_words, cols - LANES);
        let rhs_row = cols * size_of::<f32>();
        // SAFETY: `self` shows that the instructions are there and the tiles of their full size; nothing but this type touches tiles, and the system
        // keeps them for the thread. A round reads, of each of both tiles of rows, 16 rows of 16 words, `num_words` words apart, and, of each
        // of both tiles of columns, 16 rows of 16 words, `cols` words apart; it then moves on by 16 words and by 16 rows. After `num_words / 16`
        // rounds all of both slices was read and nothing else, by the assertion. The four tiles of sums are written to the four quarters of `sums`.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "test {rounds}, {rounds}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{upper} + {lhs_row}*1]",
                "tileloadd tmm6, [{left} + {rhs_row}*1]",
                "tileloadd tmm7, [{right} + {rhs_row}*1]",
                "tileloadd tmm5, [{lower} + {lhs_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {upper}, {ROW_BYTES}",
                "add {lower}, {ROW_BYTES}",
                "add {left}, {rhs_tile}",
                "add {right}, {rhs_tile}",
                "dec {rounds}",
                "jnz 2b",
                "3:",
                "tilestored [{sums} + {sums_row}*1], tmm0",
                "tilestored [{sums} + {sums_row}*1 + {ROW_BYTES}], tmm1",
                "tilestored [{sums} + {sums_row}*1 + {LOWER}], tmm2",
                "tilestored [{sums} + {sums_row}*1 + {LOWER} + {ROW_BYTES}], tmm3",
                rounds = inout(reg) num_words / TILE_ROWS => _,
                upper = inout(reg) lhs.as_ptr() => _,
                lower = inout(reg) lhs.as_ptr().wrapping_add(lower_rows) => _,
                left = inout(reg) rhs.as_ptr() => _,
                right = inout(reg) rhs.as_ptr().wrapping_add(right_cols) => _,
                sums = in(reg) sums.as_mut_ptr(),
                lhs_row = in(reg) num_words * size_of::<f32>(),
                rhs_row = in(reg) rhs_row,
                rhs_tile = in(reg) TILE_ROWS * rhs_row,
                sums_row = in(reg) COLS * size_of::<f32>(),
                ROW_BYTES = const ROW_BYTES,
                LOWER = const TILE_ROWS * COLS * size_of::<f32>(),
                options(nostack),
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
