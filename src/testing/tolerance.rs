//! Error bounds of results, derived for each element.
//!
//! [`Approx`] is an exact value with a bound of the error of any evaluation of the same formula in
//! `f32`. The bounds are a running error analysis (Higham, *Accuracy and Stability of
//! Numerical Algorithms*, §3.3). They rest on the standard model of rounding, `fl(x op y) = (x op
//! y)(1 + δ) + η` with `|δ| ≤ u = 2⁻²⁴` and, for results below the normal numbers (flushed to zero
//! or not), `|η| ≤ 2⁻¹²⁶`. With operands that are off by `dx` and `dy`:
//!
//! | formula | error before its own rounding |
//! |---|---|
//! | `x ± y` | `dx + dy` |
//! | `x y` | `\|x\| dy + \|y\| dx + dx dy` |
//! | `x / y` | `(dx + \|x / y\| dy) / (\|y\| - dy)` |
//! | `√x` | `min(dx / √x, √dx)`, since `\|√x̂ - √x\| = dx / (√x̂ + √x)` |
//! | sum of `n` terms in any order | `Σ dt + γₙ₋₁ Σ (\|t\| + dt)`, `γₖ = ku / (1 - ku)` |
//!
//! Values are in `f64`. Its rounding errors are 2⁻²⁹ of those of `f32`: the one unit in the last
//! place of the output type that [`assert_close`] adds covers them.

use crate::{Element, Scalar, bf16, f16};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// The unit roundoff of `f32`.
pub const U: f64 = 1.0 / (1u32 << 24) as f64;
/// The largest error of a result below the normal numbers that is flushed to zero.
const UNDERFLOW: f64 = f32::MIN_POSITIVE as f64;

/// Returns `γₙ`, the bound of the relative error of `n` roundings in a row.
pub fn gamma(n: usize) -> f64 {
    let nu = n as f64 * U;
    assert!(nu < 0.5, "the bound has no meaning for {n} roundings");
    nu / (1.0 - nu)
}

/// A value with a bound of the error of an `f32` result.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Approx {
    /// The exact value.
    pub value: f64,
    /// The bound of the error of a result.
    pub error: f64,
}

impl Approx {
    /// Zero, without an error.
    pub const ZERO: Self = Self { value: 0.0, error: 0.0 };

    /// Returns a value without an error: an input of both sides.
    pub fn exact(value: impl Into<f64>) -> Self {
        Self { value: value.into(), error: 0.0 }
    }

    /// Returns the result of one rounded operation. `error` is the error before its rounding.
    fn rounded(value: f64, error: f64) -> Self {
        Self { value, error: error + U * (value.abs() + error) + UNDERFLOW }
    }

    /// Rounds the value to `f32` once more.
    pub fn once_rounded(self) -> Self {
        Self::rounded(self.value, self.error)
    }

    /// Returns the largest magnitude that the `f32` result may have.
    fn magnitude(self) -> f64 {
        self.value.abs() + self.error
    }

    /// Returns the square root.
    pub fn sqrt(self) -> Self {
        let root = self.value.sqrt();
        let error =
            if self.error == 0.0 { 0.0 } else { (self.error / root).min(self.error.sqrt()) };
        Self::rounded(root, error)
    }

    /// Returns the value as a factor that a device may have rounded to tf32, which has 11 bits.
    pub fn as_tf32(self) -> Self {
        Self { error: self.error + self.magnitude() / 2048.0, ..self }
    }

    /// Rounds `scale` times the value to the nearest value of a type, and divides by `scale`.
    /// Rounding is monotone, so the result lies between the rounded ends of the interval.
    pub fn stored_as<E: Stored>(self, scale: f64) -> Self {
        let stored = |x: f64| E::from_f32((x * scale) as f32).value() / scale;
        let (value, low, high) =
            (stored(self.value), stored(self.value - self.error), stored(self.value + self.error));
        Self { value, error: (high - value).max(value - low) }
    }

    /// Returns the value as a sum of `n` products on tensor cores. `magnitude` is the sum of their
    /// absolute values. Tensor cores add 4 products or more at once. They truncate the terms at the
    /// last bit of the largest one, and truncate each sum: a term and each of the `n / 4 + 1` sums
    /// loses up to 2⁻²³ of the whole, where rounding would lose 2⁻²⁴.
    pub fn on_tensor_cores(self, n: usize, magnitude: Self) -> Self {
        Self { error: self.error + gamma(2 * (n + n / 4 + 1)) * magnitude.magnitude(), ..self }
    }

    /// Returns the sum of the terms in any order.
    pub fn sum(terms: &[Self]) -> Self {
        Self::sum_with(terms, terms.len().saturating_sub(1))
    }

    /// Returns the sum of the terms by a reduction tree: chunks of `chunk` terms are summed, then
    /// chunks of these sums, until one is left. On each level a term goes through at most as many
    /// additions as its chunk has terms, less one.
    pub fn sum_in_chunks(terms: &[Self], chunk: usize) -> Self {
        let (mut additions, mut left) = (0, terms.len());
        while left > 1 {
            additions += left.min(chunk) - 1;
            left = left.div_ceil(chunk);
        }
        Self::sum_with(terms, additions)
    }

    /// Returns the sum of terms of which each goes through at most `additions` additions.
    fn sum_with(terms: &[Self], additions: usize) -> Self {
        let value = terms.iter().map(|t| t.value).sum();
        let error: f64 = terms.iter().map(|t| t.error).sum();
        let magnitude: f64 = terms.iter().map(|t| t.magnitude()).sum();
        Self { value, error: error + gamma(additions) * magnitude }
    }

    /// Returns `Σ aᵢ bᵢ`.
    pub fn dot(pairs: impl IntoIterator<Item = (Self, Self)>) -> Self {
        let terms: Vec<_> = pairs.into_iter().map(|(a, b)| a * b).collect();
        Self::sum(&terms)
    }

    /// Clamps the value to `[-max, max]`. This is exact and increases no error.
    pub fn clamp(self, max: Option<f32>) -> Self {
        let bound = max.map_or(f64::INFINITY, f64::from);
        Self {
            value: if self.value.is_nan() { self.value } else { self.value.clamp(-bound, bound) },
            ..self
        }
    }
}

impl Add for Approx {
    type Output = Self;
    fn add(self, y: Self) -> Self {
        Self::rounded(self.value + y.value, self.error + y.error)
    }
}
impl Neg for Approx {
    type Output = Self;
    fn neg(self) -> Self {
        Self { value: -self.value, ..self }
    }
}
impl Sub for Approx {
    type Output = Self;
    fn sub(self, y: Self) -> Self {
        self + -y
    }
}
impl Mul for Approx {
    type Output = Self;
    fn mul(self, y: Self) -> Self {
        let error = self.value.abs() * y.error + y.value.abs() * self.error + self.error * y.error;
        Self::rounded(self.value * y.value, error)
    }
}
impl Div for Approx {
    type Output = Self;
    fn div(self, y: Self) -> Self {
        let quotient = self.value / y.value;
        let denominator = y.value.abs() - y.error;
        let error = if denominator > 0.0 {
            (self.error + quotient.abs() * y.error) / denominator
        } else {
            f64::INFINITY
        };
        Self::rounded(quotient, error)
    }
}

/// A storage type of results.
pub trait Stored: Element {
    /// The number of stored bits of the fraction.
    const FRACTION_BITS: i32;
    /// The exponent of the smallest normal number.
    const MIN_EXPONENT: i32;
    /// Rounds to the nearest value of the type.
    fn store(value: f64) -> Self;
    /// Returns the exact value.
    fn value(self) -> f64;
}

impl Stored for f32 {
    const FRACTION_BITS: i32 = 23;
    const MIN_EXPONENT: i32 = -126;
    fn store(value: f64) -> Self {
        value as f32
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
}
impl Stored for f16 {
    const FRACTION_BITS: i32 = 10;
    const MIN_EXPONENT: i32 = -14;
    fn store(value: f64) -> Self {
        f16::from_f64(value)
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
}
impl Stored for bf16 {
    const FRACTION_BITS: i32 = 7;
    const MIN_EXPONENT: i32 = -126;
    fn store(value: f64) -> Self {
        bf16::from_f64(value)
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
}

/// Returns the values of stored elements.
pub fn values<E: Stored>(stored: &[E]) -> Vec<f64> {
    stored.iter().map(|x| x.value()).collect()
}

/// Returns stored elements as exact values.
pub fn exact<E: Stored>(stored: &[E]) -> Vec<Approx> {
    stored.iter().map(|x| Approx::exact(x.value())).collect()
}

/// Returns the unit in the last place of `x`: the distance of neighbouring values of the type.
pub fn ulp<E: Stored>(x: f64) -> f64 {
    let exponent = if x == 0.0 {
        E::MIN_EXPONENT
    } else {
        (x.abs().log2().floor() as i32).max(E::MIN_EXPONENT)
    };
    2f64.powi(exponent - E::FRACTION_BITS)
}

/// Fails at the first element whose error exceeds its bound plus one unit in the last place. A NaN
/// always fails.
#[track_caller]
pub fn assert_close<E: Stored>(what: &str, got: &[E], want: &[Approx]) {
    assert_close_within(what, got, want, 1.0);
}

/// Does what [`assert_close`] does, with `sides` times the bound: for results that are compared
/// with another rounded result, or whose additions round more coarsely.
#[track_caller]
pub fn assert_close_within<E: Stored>(what: &str, got: &[E], want: &[Approx], sides: f64) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            want.value.is_finite() && !want.error.is_nan(),
            "{what}: element {k}: the reference is {want:?}"
        );
        let (off, bound) =
            ((got.value() - want.value).abs(), sides * (want.error + ulp::<E>(want.magnitude())));
        assert!(
            off <= bound,
            "{what}: element {k} is {:e}, but must be {:e}: off by {off:.2e}, more than the bound \
             {bound:.2e}",
            got.value(),
            want.value
        );
    }
}

/// Fails at the first element whose bits differ.
#[track_caller]
pub fn assert_same_bits<T: Scalar>(what: &str, got: &[T], want: &[T]) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    let bits = |x: &T| bytemuck::bytes_of(x).to_vec();
    if let Some(k) = (0..got.len()).find(|&k| bits(&got[k]) != bits(&want[k])) {
        panic!("{what}: element {k} is {:?}, not {:?} to the bit", got[k], want[k]);
    }
}
