//! The instructions of AMX.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
use std::marker::PhantomData;
use std::sync::OnceLock;

use bytemuck::cast_slice;

use super::{COMPONENTS_OF_F32, K_STEP, MR, NR, StridedRows, Tile};

/// The number of rows of a tile, and the bytes of a row.
const TILE_ROWS: usize = size_of::<Tile>() / ROW_BYTES;
const ROW_BYTES: usize = 64;
/// The request of `arch_prctl` for the permission to use more processor state, and the state that
/// is requested: that of the tiles.
const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
const XFEATURE_XTILEDATA: libc::c_long = 18;

/// Returns whether the machine has AMX and the system lets this process use it. The system is asked
/// once; its permission holds for all threads.
pub(super) fn are_available() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        // Leaf 7: bit 22 is the product of `bf16`, bit 24 the tiles themselves.
        let wanted = 1 << 22 | 1 << 24;
        __get_cpuid_max(0).0 >= 7
            && __cpuid_count(7, 0).edx & wanted == wanted
            && request_permission()
    })
}

/// Asks the system for the permission to use the tiles.
fn request_permission() -> bool {
    let (request, state) = (ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
    // SAFETY: the call reads its two numbers, and changes nothing but the state that this process
    // may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, request, state) == 0 }
}

/// The operand of `ldtilecfg`: the sizes of the tiles.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileConfig {
    /// All eight tiles have their largest size.
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

/// Multiplies tiles 4 and 5, rows of A, by tiles 6 and 7, columns of B; tiles 0 to 3 are the sums.
macro_rules! multiply_tiles {
    () => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "tdpbf16ps tmm3, tmm5, tmm7"
        )
    };
}

/// Clears the sums, adds to them in steps, and stores them. The arguments are the instructions of a
/// step and the operands that are for A.
macro_rules! multiply_panels {
    ($b:ident, $steps:ident, $sums:ident, [$($step:tt)*], $($a:tt)*) => {
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
            $($a)*
            b = inout(reg) $b.as_ptr() => _,
            row = in(reg) ROW_BYTES,
            sums = in(reg) $sums.as_mut_ptr(),
            sums_row = in(reg) NR * size_of::<f32>(),
            RIGHT = const (COL_TILES - 1) * size_of::<Tile>(),
            B_COMPONENT = const COL_TILES * size_of::<Tile>(),
            ROW_BYTES = const ROW_BYTES,
            LOWER_SUMS = const TILE_ROWS * NR * size_of::<f32>(),
            options(nostack),
        )
    };
}

/// A panel of A of one component, of 16 or 32 rows.
struct PanelA<'a> {
    elements: &'a [u16],
    /// The distance between two rows, in elements.
    ld: usize,
    /// The distance between two steps, in elements.
    step: usize,
    /// The number of tiles of a step: one for every 16 rows.
    tiles: usize,
}

/// A proof that the machine has the instructions, and that this thread's tiles have their full
/// size. It cannot leave the thread.
pub(super) struct Configured(PhantomData<*const ()>);

impl Configured {
    pub(super) fn new() -> Option<Self> {
        if !are_available() {
            return None;
        }
        // SAFETY: the machine has the instruction, which reads 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &TileConfig::FULL, options(nostack, readonly)) };
        Some(Self(PhantomData))
    }

    /// See [`Tiles::multiply`](super::Tiles::multiply).
    pub(super) fn multiply(
        &self,
        a: &[Tile],
        b: &[Tile],
        components: usize,
        steps: usize,
        sums: &mut [[f32; NR]; MR],
    ) {
        let tiles_of = |panel: &[Tile]| panel.len().checked_div(steps * components).unwrap_or(2);
        match (components, tiles_of(a), tiles_of(b)) {
            (1, tiles, _) => {
                let elements = cast_slice(a.as_flattened().as_flattened());
                let a = PanelA { elements, ld: K_STEP, step: tiles * TILE_ROWS * K_STEP, tiles };
                self.multiply_bf16(a, b, steps, sums);
            }
            (COMPONENTS_OF_F32, 1, 1) => self.multiply_f32::<1, 1>(a, b, steps, sums),
            (COMPONENTS_OF_F32, 1, 2) => self.multiply_f32::<1, 2>(a, b, steps, sums),
            (COMPONENTS_OF_F32, 2, 1) => self.multiply_f32::<2, 1>(a, b, steps, sums),
            (COMPONENTS_OF_F32, 2, 2) => self.multiply_f32::<2, 2>(a, b, steps, sums),
            other => unreachable!("components, and tiles of rows and columns: {other:?}"),
        }
    }

    /// See [`Tiles::multiply_strided`](super::Tiles::multiply_strided).
    pub(super) fn multiply_strided(
        &self,
        a: StridedRows<'_>,
        b: &[Tile],
        steps: usize,
        sums: &mut [[f32; NR]; MR],
    ) {
        let StridedRows { elements, ld, tiles } = a;
        self.multiply_bf16(PanelA { elements, ld, step: K_STEP, tiles }, b, steps, sums);
    }

    /// Multiplies panels of one component.
    fn multiply_bf16(&self, a: PanelA<'_>, b: &[Tile], steps: usize, sums: &mut [[f32; NR]; MR]) {
        match b.len().checked_div(steps).unwrap_or(2) {
            1 => self.multiply_bf16_by::<1>(a, b, steps, sums),
            _ => self.multiply_bf16_by::<2>(a, b, steps, sums),
        }
    }

    /// Multiplies a panel of A by one of B of `COL_TILES` tiles for each step. If there is only one
    /// tile of rows or columns, it is taken for the other, too.
    fn multiply_bf16_by<const COL_TILES: usize>(
        &self,
        a: PanelA<'_>,
        b: &[Tile],
        steps: usize,
        sums: &mut [[f32; NR]; MR],
    ) {
        let PanelA { elements, ld, step, tiles } = a;
        let lower = (tiles - 1) * TILE_ROWS * ld;
        let last_row = steps.saturating_sub(1) * step + lower + (TILE_ROWS - 1) * ld;
        assert!(
            b.len() == steps * COL_TILES && (steps == 0 || last_row + K_STEP <= elements.len())
        );
        // SAFETY: `self` proves that the machine has the instructions and that the tiles have their
        // full size; nothing but this type touches tiles, and the system keeps them for the thread.
        // Each step reads 16 rows of 64 bytes, `ld` elements apart, from both pointers into A on,
        // which move on by `step` elements: by the assertion, the last element read is one of
        // `elements`. It reads the `COL_TILES` tiles that the pointer into B is at, which moves on
        // by as many: all of `b`, by the assertion. The four tiles of sums are written to the four
        // quarters of `sums`.
        unsafe {
            multiply_panels!(
                b,
                steps,
                sums,
                [
                    // The panel of A is multiplied by all panels of B in turn. So A is loaded into
                    // the L1 cache, and B with a hint (T1) not to keep it there.
                    "tileloadd tmm4, [{a} + {a_row}*1]",
                    "tileloaddt1 tmm6, [{b} + {row}*1]",
                    "tileloaddt1 tmm7, [{b} + {row}*1 + {RIGHT}]",
                    "tileloadd tmm5, [{lower} + {a_row}*1]",
                    multiply_tiles!(),
                    "add {a}, {step}",
                    "add {lower}, {step}",
                    "add {b}, {B_COMPONENT}",
                ],
                a = inout(reg) elements.as_ptr() => _,
                lower = inout(reg) elements.as_ptr().wrapping_add(lower) => _,
                a_row = in(reg) ld * size_of::<u16>(),
                step = in(reg) step * size_of::<u16>(),
            );
        }
    }

    /// Multiplies panels of three components, in the order of
    /// [`PRODUCTS_OF_F32`](super::PRODUCTS_OF_F32), which loads few tiles more than once.
    fn multiply_f32<const ROW_TILES: usize, const COL_TILES: usize>(
        &self,
        a: &[Tile],
        b: &[Tile],
        steps: usize,
        sums: &mut [[f32; NR]; MR],
    ) {
        assert!(
            a.len() == steps * COMPONENTS_OF_F32 * ROW_TILES
                && b.len() == steps * COMPONENTS_OF_F32 * COL_TILES
        );
        // SAFETY: the proof is that of `multiply_bf16_by`, except that each step reads, and moves
        // on by, three times as many tiles, `0..3 * ROW_TILES` of `a` and `0..3 * COL_TILES` of
        // `b`: by the assertion, all of both.
        unsafe {
            multiply_panels!(
                b,
                steps,
                sums,
                [
                    "tileloaddt1 tmm4, [{a} + {row}*1 + 2*{A_COMPONENT}]",
                    "tileloaddt1 tmm5, [{a} + {row}*1 + 2*{A_COMPONENT} + {LOWER}]",
                    "tileloadd tmm6, [{b} + {row}*1]",
                    "tileloadd tmm7, [{b} + {row}*1 + {RIGHT}]",
                    multiply_tiles!(),
                    "tileloaddt1 tmm4, [{a} + {row}*1 + {A_COMPONENT}]",
                    "tileloaddt1 tmm5, [{a} + {row}*1 + {A_COMPONENT} + {LOWER}]",
                    multiply_tiles!(),
                    "tileloadd tmm6, [{b} + {row}*1 + {B_COMPONENT}]",
                    "tileloadd tmm7, [{b} + {row}*1 + {B_COMPONENT} + {RIGHT}]",
                    multiply_tiles!(),
                    "tileloaddt1 tmm4, [{a} + {row}*1]",
                    "tileloaddt1 tmm5, [{a} + {row}*1 + {LOWER}]",
                    multiply_tiles!(),
                    "tileloadd tmm6, [{b} + {row}*1]",
                    "tileloadd tmm7, [{b} + {row}*1 + {RIGHT}]",
                    multiply_tiles!(),
                    "tileloadd tmm6, [{b} + {row}*1 + 2*{B_COMPONENT}]",
                    "tileloadd tmm7, [{b} + {row}*1 + 2*{B_COMPONENT} + {RIGHT}]",
                    multiply_tiles!(),
                    "add {a}, 3*{A_COMPONENT}",
                    "add {b}, 3*{B_COMPONENT}",
                ],
                a = inout(reg) a.as_ptr() => _,
                LOWER = const (ROW_TILES - 1) * size_of::<Tile>(),
                A_COMPONENT = const ROW_TILES * size_of::<Tile>(),
            );
        }
    }
}

impl Drop for Configured {
    /// Releases the tiles, which the system would have to save at every context switch otherwise.
    fn drop(&mut self) {
        // SAFETY: `self` proves that the machine has the instruction.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}
