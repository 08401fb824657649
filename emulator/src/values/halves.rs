//! Arithmetic of f16 and bf16: computed exactly in doubles, and rounded once.

use super::float::{
    BF16, F16, exact_quotient, exact_root, exact_sum, from_bf16, from_f16, maximum, minimum,
};
use crate::ir::{Alu, Mods, Rounding, Ty};

/// Returns the result of one lane, or `None` if the type has no such operation.
pub(super) fn half(op: Alu, ty: Ty, mods: Mods, x: u64, y: u64, z: u64) -> Option<u64> {
    // These operations change the sign only.
    match op {
        Alu::Neg => return Some((x ^ 0x8000) & 0xffff),
        Alu::Abs => return Some(x & 0x7fff),
        _ => {}
    }
    let bfloat = ty == Ty::BF16;
    let widen = |bits: u64| if bfloat { from_bf16(bits & 0xffff) } else { from_f16(bits & 0xffff) };
    let (a, b, c) = (widen(x), widen(y), widen(z));
    let nearest = Rounding::Nearest;
    let exact = match op {
        Alu::Add => exact_sum(a, b, nearest),
        Alu::Sub => exact_sum(a, -b, nearest),
        Alu::Mul => a * b,
        Alu::Fma => exact_sum(a * b, c, nearest),
        Alu::Min => minimum(a, b, mods.nan),
        Alu::Max => maximum(a, b, mods.nan),
        Alu::Div => exact_quotient(a, b),
        Alu::Sqrt => exact_root(a),
        Alu::Ex2 => a.exp2(),
        Alu::Tanh => a.tanh(),
        _ => return None,
    };
    let exact = if mods.sat {
        if exact.is_nan() { 0.0 } else { exact.clamp(0.0, 1.0) }
    } else if mods.relu && exact < 0.0 {
        0.0
    } else {
        exact
    };
    let format = if bfloat { BF16 } else { F16 };
    let bits = u64::from(format.round(exact, nearest));
    // Only f16 flushes denormals to zero, where the opcode says `ftz`.
    Some(if mods.ftz && bits & 0x7c00 == 0 && !bfloat { bits & 0x8000 } else { bits })
}
