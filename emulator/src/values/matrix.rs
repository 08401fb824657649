//! The matrix product of a warp, with the fragment layouts of the PTX ISA.

use super::float::{F16, F32, from_bf16, from_f16};
use crate::ir::{Lanes, MmaShape, Rounding, Ty};

/// Returns `d = a b + c`, where a is 16 x k, b is k x 8, and c and d are 16 x 8. Each element is
/// summed in doubles and rounded once. The order and precision of the hardware are not specified.
pub(crate) fn multiply(
    shape: MmaShape,
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
) -> [Lanes; 4] {
    let k = shape.k;
    let (mut left, mut right) = ([[0.0f64; 16]; 16], [[0.0f64; 8]; 16]);
    let single = shape.ty == Ty::Tf32;
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        if single {
            // The low 13 bits of a tf32 are ignored.
            let value = |bits: u64| f64::from(f32::from_bits(bits as u32 & 0xffff_e000));
            for r in 0..k / 2 {
                left[group + 8 * (r & 1)][thread + 4 * (r >> 1)] = value(a[r][lane]);
            }
            for r in 0..k / 4 {
                right[thread + 4 * r][group] = value(b[r][lane]);
            }
        } else {
            let value = |bits: u64| {
                if shape.ty == Ty::F16 { from_f16(bits & 0xffff) } else { from_bf16(bits & 0xffff) }
            };
            for h in 0..2 {
                for r in 0..k / 4 {
                    left[group + 8 * (r & 1)][2 * thread + h + 8 * (r >> 1)] =
                        value(a[r][lane] >> (16 * h));
                }
                for r in 0..k / 8 {
                    right[2 * thread + h + 8 * r][group] = value(b[r][lane] >> (16 * h));
                }
            }
        }
    }
    let mut out = [[0; 32]; 4];
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        for q in 0..4 {
            let (row, column) = (group + 8 * (q >> 1), 2 * thread + (q & 1));
            let start = if shape.half {
                from_f16((c[q / 2][lane] >> (16 * (q & 1))) & 0xffff)
            } else {
                f64::from(f32::from_bits(c[q][lane] as u32))
            };
            let sum = (0..k).fold(start, |sum, i| sum + left[row][i] * right[i][column]);
            if shape.half {
                out[q / 2][lane] |= u64::from(F16.round(sum, Rounding::Nearest)) << (16 * (q & 1));
            } else {
                out[q][lane] = u64::from(F32.round(sum, Rounding::Nearest));
            }
        }
    }
    out
}

/// Returns what each lane receives of an 8 x 8 matrix of 16-bit elements, given by its rows.
pub(crate) fn transpose_rows(rows: &[[u8; 16]; 8], transposed: bool) -> Lanes {
    let element = |row: usize, column: usize| {
        u64::from(u16::from_le_bytes([rows[row][2 * column], rows[row][2 * column + 1]]))
    };
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        if transposed {
            element(column, row) | (element(column + 1, row) << 16)
        } else {
            element(row, column) | (element(row, column + 1) << 16)
        }
    })
}
