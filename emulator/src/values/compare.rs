//! Comparisons.

use std::cmp::Ordering;

use super::float::widen;
use crate::ir::{Cmp, Compare, Lanes, Ty};

/// Returns the lanes for which a comparison holds, before it is joined with a predicate.
pub(crate) fn compare(c: &Compare, x: &Lanes, y: &Lanes) -> u32 {
    let mut out = 0;
    if c.ty.float() {
        for i in 0..32 {
            let value = |bits: u64| {
                let v = widen(c.ty, bits & c.ty.mask());
                if c.ftz && c.ty == Ty::F32 && (v as f32).is_subnormal() { 0.0 } else { v }
            };
            let holds = match value(x[i]).partial_cmp(&value(y[i])) {
                Some(order) => ordered(c.cmp, order),
                None => c.unordered,
            };
            out |= u32::from(holds) << i;
        }
    } else if c.ty.signed() {
        for i in 0..32 {
            let (a, b) = (c.ty.extend(x[i]) as i64, c.ty.extend(y[i]) as i64);
            out |= u32::from(ordered(c.cmp, a.cmp(&b))) << i;
        }
    } else {
        let mask = c.ty.mask();
        for i in 0..32 {
            out |= u32::from(ordered(c.cmp, (x[i] & mask).cmp(&(y[i] & mask)))) << i;
        }
    }
    out
}

/// Returns the lanes for which a comparison of packed halves holds: for the low and for the high
/// half.
pub(crate) fn compare_packed(c: &Compare, part: Ty, x: &Lanes, y: &Lanes) -> [u32; 2] {
    let c = Compare { ty: part, ..*c };
    [compare(&c, x, y), compare(&c, &x.map(|v| v >> 16), &y.map(|v| v >> 16))]
}

fn ordered(cmp: Cmp, order: Ordering) -> bool {
    match cmp {
        Cmp::Eq => order.is_eq(),
        Cmp::Ne => order.is_ne(),
        Cmp::Lt => order.is_lt(),
        Cmp::Le => order.is_le(),
        Cmp::Gt => order.is_gt(),
        Cmp::Ge => order.is_ge(),
        Cmp::Num => true,
        Cmp::Nan => false,
    }
}
