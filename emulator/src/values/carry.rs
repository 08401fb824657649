//! Additions with a carry flag.

use crate::ir::{Carry, CarryOp};

/// Returns the result, and the flag after it: the carry of a sum or the borrow of a difference.
pub(crate) fn with_carry(c: &Carry, x: u64, y: u64, z: u64, flag: u64) -> (u64, u64) {
    let (bits, mask) = (c.ty.bits(), u128::from(c.ty.mask()));
    let flag = u128::from(c.takes && flag & 1 == 1);
    let part = |v: u64| u128::from(v) & mask;
    let exact = match c.op {
        CarryOp::Add => part(x) + part(y) + flag,
        CarryOp::Sub => part(x).wrapping_sub(part(y)).wrapping_sub(flag),
        CarryOp::MadLo => ((part(x) * part(y)) & mask) + part(z) + flag,
        CarryOp::MadHi => {
            let product = if c.ty.signed() {
                (i128::from(c.ty.extend(x) as i64) * i128::from(c.ty.extend(y) as i64)) as u128
            } else {
                part(x) * part(y)
            };
            ((product >> bits) & mask) + part(z) + flag
        }
    };
    ((exact & mask) as u64, (exact >> bits) as u64 & 1)
}
