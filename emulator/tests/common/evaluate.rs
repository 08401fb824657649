//! Runs single instructions on rows of operands.

use super::{Gpu, Plain, grid};
use bagdot_emulator::Config;

/// Runs the instructions of `body` on every row of operands. Registers `%x0` to `%x3` hold the
/// operands as 64 bits, and the body leaves its result in `%d`.
pub(crate) fn evaluate(body: &str, rows: &[Vec<u64>]) -> Vec<u64> {
    let width = rows[0].len();
    let loads: String =
        (0..width).map(|k| format!("ld.global.b64 %x{k}, [%a+{}];\n", 8 * k)).collect();
    let ptx = format!(
        ".version 9.0\n.target sm_90\n.address_size 64\n\
        .visible .entry go(.param .u64 in, .param .u64 out, .param .u32 n)\n{{\n\
        .reg .b64 %x<4>; .reg .b64 %d; .reg .b64 %a; .reg .b64 %o; .reg .b64 %t;\n\
        .reg .b32 %i; .reg .b32 %n; .reg .b32 %c; .reg .pred %q; .reg .pred %p<3>;\n\
        .reg .b32 %r<9>; .reg .b16 %h<9>; .reg .f32 %f<9>; .reg .f64 %g<9>;\n\
        mov.u32 %i, %tid.x; mov.u32 %c, %ctaid.x; shl.b32 %c, %c, 5; add.s32 %i, %i, %c;\n\
        ld.param.u32 %n, [n]; setp.ge.u32 %q, %i, %n; @%q bra END;\n\
        ld.param.u64 %a, [in]; mul.wide.u32 %t, %i, {}; add.s64 %a, %a, %t;\n\
        ld.param.u64 %o, [out]; mul.wide.u32 %t, %i, 8; add.s64 %o, %o, %t;\n\
        {loads}mov.u64 %d, 0;\n{body}\nst.global.b64 [%o], %d;\nEND:\nret;\n}}",
        8 * width
    );
    let mut gpu = Gpu::new(&ptx, Config::default());
    let flat: Vec<u64> = rows.iter().flatten().copied().collect();
    let (input, output) = (gpu.upload(&flat), gpu.room::<u64>(rows.len()));
    gpu.run(
        "go",
        grid(rows.len().div_ceil(32) as u32, 32),
        &[input.to_bytes(), output.to_bytes(), (rows.len() as u32).to_bytes()],
    );
    gpu.download(output, rows.len())
}

/// Runs an instruction with 32-bit operands and a 32-bit result on every row.
pub(crate) fn evaluate32(instruction: &str, rows: &[Vec<u64>]) -> Vec<u32> {
    let names: Vec<String> = (1..=rows[0].len()).map(|k| format!("%r{k}")).collect();
    let moves: String =
        (0..rows[0].len()).map(|k| format!("cvt.u32.u64 %r{}, %x{k};\n", k + 1)).collect();
    let body = format!("{moves}{instruction} %r0, {};\ncvt.u64.u32 %d, %r0;", names.join(", "));
    evaluate(&body, rows).into_iter().map(|v| v as u32).collect()
}

pub(crate) const EDGES: [u32; 26] = [
    0x0000_0000,
    0x8000_0000,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3f7f_ffff,
    0x4b7f_ffff,
    0x4b80_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_1234,
    0x7f80_0001,
    0x3380_0000,
    0x3300_0001,
    0x4f00_0000,
    0xcf00_0000,
    0x3eaa_aaab,
    0x40490fdb,
];

pub(crate) fn noise_bits(k: u64) -> u64 {
    let mut x = k.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

/// Returns rows of operands: all pairs of [`EDGES`], and random numbers with near ones.
pub(crate) fn rows(operands: usize) -> Vec<Vec<u64>> {
    let mut out = vec![];
    for (i, &a) in EDGES.iter().enumerate() {
        for (j, &b) in EDGES.iter().enumerate() {
            let c = EDGES[(i * 7 + j * 3) % EDGES.len()];
            out.push([a, b, c].iter().take(operands).map(|&v| u64::from(v)).collect());
        }
    }
    for k in 0..2000 {
        let a = noise_bits(3 * k) as u32;
        let close = noise_bits(3 * k + 1) as u32;
        let b = if k % 2 == 0 {
            close
        } else {
            (a ^ 0x8000_0000).wrapping_add(close % 5).wrapping_sub(2)
        };
        let c = noise_bits(3 * k + 2) as u32;
        out.push([a, b, c].iter().take(operands).map(|&v| u64::from(v)).collect());
    }
    out
}

pub(crate) fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

pub(crate) fn expect32(instruction: &str, rows: &[Vec<u64>], reference: impl Fn(&[u64]) -> u32) {
    for (row, got) in rows.iter().zip(evaluate32(instruction, rows)) {
        let expected = reference(row);
        assert_eq!(got, expected, "{instruction} of {row:x?}: {got:#x}, not {expected:#x}");
    }
}

/// Returns the pattern of a number; all NaNs have the canonical one.
pub(crate) fn bits(v: f32) -> u32 {
    if v.is_nan() { 0x7fff_ffff } else { v.to_bits() }
}

pub(crate) fn flush(v: f32) -> f32 {
    if v.is_subnormal() { 0f32.copysign(v) } else { v }
}
