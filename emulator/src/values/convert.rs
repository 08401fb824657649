//! Conversions between types.

use super::float::{BF16, F16, F32, NAN_F32, TF32, to_odd, widen};
use crate::ir::{Convert, Rounding, Ty};

/// Returns the pattern in type `to` of the value whose pattern in type `from` is `x`.
pub(crate) fn convert(c: &Convert, x: u64) -> u64 {
    match (c.from.float(), c.to.float()) {
        (true, true) => float_to_float(c, x),
        (true, false) => float_to_integer(c, x),
        (false, true) => integer_to_float(c, x),
        (false, false) => integer_to_integer(c, x),
    }
}

fn to_integer(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => value.round_ties_even(),
        Rounding::NearestAway => value.round(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

/// Returns the value of a pattern, flushed to zero if the conversion flushes denormals.
fn input(c: &Convert, x: u64) -> f64 {
    let value = widen(c.from, x & c.from.mask());
    let flushed = c.mods.ftz && c.from == Ty::F32 && (value as f32).is_subnormal();
    if flushed { 0f64.copysign(value) } else { value }
}

fn float_to_float(c: &Convert, x: u64) -> u64 {
    let mut value = input(c, x);
    if let Some(rounding) = c.integer {
        value = to_integer(value, rounding);
    }
    if c.mods.sat {
        value = if value > 0.0 { value.min(1.0) } else { 0.0 };
    }
    if c.mods.relu && value < 0.0 {
        value = 0.0;
    }
    pattern(c, value)
}

/// Returns the pattern of an exact value in the type that it is converted to.
fn pattern(c: &Convert, value: f64) -> u64 {
    let rounding = c.mods.rounding;
    u64::from(match c.to {
        Ty::F16 => F16.round(value, rounding),
        Ty::BF16 => BF16.round(value, rounding),
        Ty::Tf32 if value.is_nan() => NAN_F32,
        Ty::Tf32 => TF32.round(value, rounding) << 13,
        Ty::F32 => {
            let bits = F32.round(value, rounding);
            if c.mods.ftz && f32::from_bits(bits).is_subnormal() {
                bits & 0x8000_0000
            } else {
                bits
            }
        }
        _ => return value.to_bits(),
    })
}

fn float_to_integer(c: &Convert, x: u64) -> u64 {
    let value = input(c, x);
    let bits = c.to.bits();
    if value.is_nan() {
        let wide = c.from == Ty::F64 || bits == 64;
        return if wide { 1 << (bits - 1) } else { 0 };
    }
    let value = to_integer(value, c.integer.unwrap_or(Rounding::Zero));
    // A value out of range becomes the nearest value in range.
    let clamped = if c.to.signed() {
        let most = i64::MAX >> (64 - bits);
        (value as i64).clamp(-most - 1, most) as u64
    } else {
        (value as u64).min(c.to.mask())
    };
    c.to.extend(clamped)
}

fn integer_to_float(c: &Convert, x: u64) -> u64 {
    let exact = if c.from.signed() {
        i128::from(c.from.extend(x) as i64)
    } else {
        i128::from(c.from.extend(x))
    };
    let value = exact as f64;
    if c.to == Ty::F64 {
        return value.to_bits();
    }
    let missing = exact - value as i128;
    let value = to_odd(value, missing as f64);
    pattern(c, if c.mods.sat { value.clamp(0.0, 1.0) } else { value })
}

fn integer_to_integer(c: &Convert, x: u64) -> u64 {
    if !c.mods.sat {
        return c.to.extend(c.from.extend(x));
    }
    let exact = if c.from.signed() {
        i128::from(c.from.extend(x) as i64)
    } else {
        i128::from(c.from.extend(x))
    };
    let (least, most) = if c.to.signed() {
        let most = i128::from(i64::MAX >> (64 - c.to.bits()));
        (-most - 1, most)
    } else {
        (0, i128::from(c.to.mask()))
    };
    c.to.extend(exact.clamp(least, most) as u64)
}
