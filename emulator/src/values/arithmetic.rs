//! Arithmetic of all lanes.

use super::float::{
    F32, NAN_F32, exact_quotient, exact_root, exact_sum, f32_of, maximum, minimum, widen,
};
use super::halves::half;
use super::integer::{integer, map};
use crate::ir::{Alu, FloatClass, Lanes, Mods, Rounding, Ty};

/// Returns the results of the lanes in `lanes`; those of other lanes mean nothing. Returns `None`
/// if the type has no such operation.
pub(crate) fn evaluate(op: Alu, ty: Ty, mods: Mods, s: [&Lanes; 4], lanes: u32) -> Option<Lanes> {
    if matches!(
        op,
        Alu::Mov | Alu::Selp | Alu::Slct | Alu::And | Alu::Or | Alu::Xor | Alu::Not | Alu::Lop3(_)
    ) {
        return integer(op, ty, s);
    }
    if let Some(part) = ty.half() {
        let high: [Lanes; 4] = s.map(|lanes| lanes.map(|v| v >> 16));
        let low = evaluate(op, part, mods, s, lanes)?;
        let high = evaluate(op, part, mods, high.each_ref(), lanes)?;
        return Some(map!(low, high => (low & 0xffff) | ((high & 0xffff) << 16)));
    }
    match ty {
        Ty::F32 => single(op, mods, s, lanes),
        Ty::F64 => double(op, s),
        Ty::F16 | Ty::BF16 => {
            let mut out = [0; 32];
            for i in set(lanes) {
                out[i] = half(op, ty, mods, s[0][i], s[1][i], s[2][i])?;
            }
            Some(out)
        }
        Ty::Tf32 => None,
        _ => integer(op, ty, s),
    }
}

/// Returns the lanes of a mask.
fn set(lanes: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |i| lanes >> i & 1 == 1)
}

/// Returns the pattern of a result of single precision. All NaNs become the same one.
fn canonical(v: f32) -> u64 {
    u64::from(if v.is_nan() { NAN_F32 } else { v.to_bits() })
}

/// Returns zero in the place of a denormal.
fn flush(v: f32) -> f32 {
    if v.is_subnormal() { 0f32.copysign(v) } else { v }
}

fn single(op: Alu, mods: Mods, s: [&Lanes; 4], lanes: u32) -> Option<Lanes> {
    if mods.ftz && !matches!(op, Alu::Testp(_) | Alu::Copysign) {
        let flushed = s.map(|lanes| map!(lanes => u64::from(flush(f32_of(lanes)).to_bits())));
        let out = single(op, Mods { ftz: false, ..mods }, flushed.each_ref(), lanes)?;
        return Some(map!(out => u64::from(flush(f32_of(out)).to_bits())));
    }
    let [x, y, z, _] = s;
    if mods.rounding != Rounding::Nearest {
        return directed(op, mods.rounding, s, lanes)
            .map(|out| if mods.sat { saturate(&out) } else { out });
    }
    let out = match op {
        Alu::Add => map!(x, y => canonical(f32_of(x) + f32_of(y))),
        Alu::Sub => map!(x, y => canonical(f32_of(x) - f32_of(y))),
        Alu::Mul => map!(x, y => canonical(f32_of(x) * f32_of(y))),
        Alu::Fma => {
            let mut out = [0; 32];
            for i in set(lanes) {
                out[i] = canonical(f32_of(x[i]).mul_add(f32_of(y[i]), f32_of(z[i])));
            }
            out
        }
        Alu::Div => map!(x, y => canonical(f32_of(x) / f32_of(y))),
        Alu::Neg => map!(x => (x ^ 0x8000_0000) & 0xffff_ffff),
        Alu::Abs => map!(x => x & 0x7fff_ffff),
        Alu::Min => map!(x, y => {
            canonical(minimum(f64::from(f32_of(x)), f64::from(f32_of(y)), mods.nan) as f32)
        }),
        Alu::Max => map!(x, y => {
            canonical(maximum(f64::from(f32_of(x)), f64::from(f32_of(y)), mods.nan) as f32)
        }),
        Alu::Rcp => map!(x => canonical(1.0 / f32_of(x))),
        Alu::Sqrt => map!(x => canonical(f32_of(x).sqrt())),
        // The approximations of the hardware differ from these by one or two units in the last
        // place.
        Alu::Rsqrt => approximate(x, lanes, |v| 1.0 / v.sqrt()),
        Alu::Ex2 => approximate(x, lanes, f64::exp2),
        Alu::Lg2 => approximate(x, lanes, f64::log2),
        Alu::Sin => approximate(x, lanes, f64::sin),
        Alu::Cos => approximate(x, lanes, f64::cos),
        Alu::Tanh => approximate(x, lanes, f64::tanh),
        Alu::Copysign => map!(x, y => (y & 0x7fff_ffff) | (x & 0x8000_0000)),
        Alu::Testp(class) => map!(x => u64::from(is_class(class, f32_of(x)))),
        _ => return None,
    };
    Some(if mods.sat { saturate(&out) } else { out })
}

/// Returns the results of a function of doubles, rounded once.
fn approximate(x: &Lanes, lanes: u32, f: impl Fn(f64) -> f64) -> Lanes {
    let mut out = [0; 32];
    for i in set(lanes) {
        out[i] = canonical(f(f64::from(f32_of(x[i]))) as f32);
    }
    out
}

fn saturate(out: &Lanes) -> Lanes {
    map!(out => {
        let v = f32_of(out);
        // A NaN is not above zero, and becomes zero.
        u64::from(if v > 0.0 { v.min(1.0) } else { 0.0 }.to_bits())
    })
}

/// Returns results that are rounded in one direction.
fn directed(op: Alu, rounding: Rounding, s: [&Lanes; 4], lanes: u32) -> Option<Lanes> {
    let mut out = [0; 32];
    for i in set(lanes) {
        let [a, b, c] = [s[0][i], s[1][i], s[2][i]].map(|bits| widen(Ty::F32, bits));
        let exact = match op {
            Alu::Add => exact_sum(a, b, rounding),
            Alu::Sub => exact_sum(a, -b, rounding),
            Alu::Mul => a * b,
            Alu::Fma => exact_sum(a * b, c, rounding),
            Alu::Div => exact_quotient(a, b),
            Alu::Rcp => exact_quotient(1.0, a),
            Alu::Sqrt => exact_root(a),
            _ => return None,
        };
        out[i] = u64::from(F32.round(exact, rounding));
    }
    Some(out)
}

fn double(op: Alu, s: [&Lanes; 4]) -> Option<Lanes> {
    let [x, y, z, _] = s;
    let f = f64::from_bits;
    Some(match op {
        Alu::Add => map!(x, y => (f(x) + f(y)).to_bits()),
        Alu::Sub => map!(x, y => (f(x) - f(y)).to_bits()),
        Alu::Mul => map!(x, y => (f(x) * f(y)).to_bits()),
        Alu::Fma => map!(x, y, z => f(x).mul_add(f(y), f(z)).to_bits()),
        Alu::Div => map!(x, y => (f(x) / f(y)).to_bits()),
        Alu::Min => map!(x, y => minimum(f(x), f(y), false).to_bits()),
        Alu::Max => map!(x, y => maximum(f(x), f(y), false).to_bits()),
        Alu::Neg => map!(x => x ^ (1 << 63)),
        Alu::Abs => map!(x => x & (u64::MAX >> 1)),
        Alu::Rcp => map!(x => (1.0 / f(x)).to_bits()),
        Alu::Sqrt => map!(x => f(x).sqrt().to_bits()),
        Alu::Rsqrt => map!(x => (1.0 / f(x).sqrt()).to_bits()),
        Alu::Copysign => map!(x, y => (y & (u64::MAX >> 1)) | (x & (1 << 63))),
        Alu::Testp(class) => map!(x => u64::from(match class {
            FloatClass::Finite => f(x).is_finite(),
            FloatClass::Infinite => f(x).is_infinite(),
            FloatClass::Number => !f(x).is_nan(),
            FloatClass::NotANumber => f(x).is_nan(),
            FloatClass::Normal => f(x).is_normal(),
            FloatClass::Subnormal => f(x).is_subnormal(),
        })),
        _ => return None,
    })
}

fn is_class(class: FloatClass, v: f32) -> bool {
    match class {
        FloatClass::Finite => v.is_finite(),
        FloatClass::Infinite => v.is_infinite(),
        FloatClass::Number => !v.is_nan(),
        FloatClass::NotANumber => v.is_nan(),
        FloatClass::Normal => v.is_normal(),
        FloatClass::Subnormal => v.is_subnormal(),
    }
}
