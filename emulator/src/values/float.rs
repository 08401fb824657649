//! Binary formats and exact rounding. A result that is narrower than a double is computed exactly,
//! as a double and the sign of its error, and rounded once.

use crate::ir::{Rounding, Ty};

/// A floating-point format whose values are all doubles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
}

pub(super) const F16: Format = Format { exponent_bits: 5, mantissa_bits: 10 };
pub(super) const BF16: Format = Format { exponent_bits: 8, mantissa_bits: 7 };
pub(super) const F32: Format = Format { exponent_bits: 8, mantissa_bits: 23 };
pub(super) const TF32: Format = Format { exponent_bits: 8, mantissa_bits: 10 };

/// The NaN that instructions of single precision return.
pub(super) const NAN_F32: u32 = 0x7fff_ffff;

impl Format {
    fn sign(self) -> u32 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    fn infinity(self) -> u32 {
        ((1 << self.exponent_bits) - 1) << self.mantissa_bits
    }

    /// Returns the pattern of `x`, rounded. A NaN becomes the NaN with all bits set but its sign.
    pub(super) fn round(self, x: f64, rounding: Rounding) -> u32 {
        let negative = x.is_sign_negative();
        let sign = if negative { self.sign() } else { 0 };
        if x.is_nan() {
            return self.sign() - 1;
        }
        if x.is_infinite() {
            return sign | self.infinity();
        }
        let bits = x.to_bits() & (u64::MAX >> 1);
        if bits == 0 {
            return sign;
        }
        let field = (bits >> 52) as i32;
        let significand = if field == 0 { bits } else { (bits & ((1 << 52) - 1)) | (1 << 52) };
        let exponent = field.max(1) - 1023;
        let smallest = 2 - (1 << (self.exponent_bits - 1));
        let below = (smallest - exponent).max(0);
        let shift = (52 - self.mantissa_bits as i32 + below).min(62) as u32;
        let (kept, rest, half) =
            (significand >> shift, significand & ((1 << shift) - 1), 1u64 << (shift - 1));
        let up = match rounding {
            Rounding::Nearest => rest > half || (rest == half && kept & 1 == 1),
            Rounding::NearestAway => rest >= half,
            Rounding::Zero => false,
            Rounding::Down => negative && rest > 0,
            Rounding::Up => !negative && rest > 0,
        };
        // A mantissa that rounds up to the next power of two carries into the exponent.
        let kept = kept + u64::from(up);
        let biased = if below > 0 {
            kept
        } else {
            (((exponent - smallest) as u64) << self.mantissa_bits) + kept
        };
        if biased < u64::from(self.infinity()) {
            return sign | biased as u32;
        }
        let finite = match rounding {
            Rounding::Nearest | Rounding::NearestAway => false,
            Rounding::Zero => true,
            Rounding::Down => !negative,
            Rounding::Up => negative,
        };
        sign | (self.infinity() - u32::from(finite))
    }
}

/// Returns the value of an f16 pattern.
pub(super) fn from_f16(bits: u64) -> f64 {
    let (exponent, mantissa) = ((bits >> 10) & 31, bits & 1023);
    let magnitude = match exponent {
        0 => mantissa as f64 * 2f64.powi(-24),
        31 if mantissa == 0 => f64::INFINITY,
        31 => f64::NAN,
        _ => f64::from_bits(((exponent + 1008) << 52) | (mantissa << 42)),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// Returns the value of a bf16 pattern.
pub(super) fn from_bf16(bits: u64) -> f64 {
    f64::from(f32::from_bits((bits as u32) << 16))
}

/// Returns the value of an f32 pattern in the low bits.
pub(super) fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// Returns the value of a pattern of any floating-point type.
pub(crate) fn widen(ty: Ty, bits: u64) -> f64 {
    match ty {
        Ty::F16 => from_f16(bits),
        Ty::BF16 => from_bf16(bits),
        Ty::F64 => f64::from_bits(bits),
        _ => f64::from(f32_of(bits)),
    }
}

/// Returns the pattern of the f16, bf16 or f32 nearest to a double.
pub(crate) fn narrow(ty: Ty, x: f64) -> u32 {
    let format = match ty {
        Ty::F16 => F16,
        Ty::BF16 => BF16,
        _ => F32,
    };
    format.round(x, Rounding::Nearest)
}

/// Returns the sum of two doubles and its rounding error (TwoSum).
pub(super) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let from_b = sum - a;
    (sum, (a - (sum - from_b)) + (b - from_b))
}

/// Rounds the exact `value + missing` to odd: returns the one of the two doubles around it that has
/// an odd pattern. To any format that is at least two bits shorter, and in any direction, this
/// double rounds as the exact value does.
pub(super) fn to_odd(value: f64, missing: f64) -> f64 {
    if missing == 0.0 || missing.is_nan() || !value.is_finite() || value.to_bits() & 1 == 1 {
        return value;
    }
    let away = (missing > 0.0) == (value > 0.0);
    f64::from_bits(if away { value.to_bits() + 1 } else { value.to_bits() - 1 })
}

/// Returns `a + b` for one rounding to a shorter format.
pub(super) fn exact_sum(a: f64, b: f64, rounding: Rounding) -> f64 {
    let (sum, missing) = two_sum(a, b);
    // Opposite numbers sum to -0 if rounding is downwards.
    if sum == 0.0 && rounding == Rounding::Down && a.is_sign_negative() != b.is_sign_negative() {
        return -0.0;
    }
    to_odd(sum, missing)
}

/// Returns `a / b` for one rounding to a shorter format.
pub(super) fn exact_quotient(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    to_odd(quotient, (-quotient).mul_add(b, a) * b.signum())
}

/// Returns the square root of `a` for one rounding to a shorter format.
pub(super) fn exact_root(a: f64) -> f64 {
    let root = a.sqrt();
    to_odd(root, (-root).mul_add(root, a))
}

/// Returns the smaller of two values by the rules of PTX: -0 is below +0, and a number wins over a
/// NaN unless `nan` is set.
pub(super) fn minimum(a: f64, b: f64, nan: bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if nan || (a.is_nan() && b.is_nan()) {
            f64::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    if a < b || (a == b && a.is_sign_negative()) { a } else { b }
}

/// Returns the larger of two values by the rules of [`minimum`].
pub(super) fn maximum(a: f64, b: f64, nan: bool) -> f64 {
    -minimum(-a, -b, nan)
}
