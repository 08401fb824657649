//! How far a result may lie from the exact one, derived for each element.
//!
//! [`Approx`] is an exact value with a bound of the error that any evaluation of the same formula
//! in `f32` may have made: the running error analysis of Higham, *Accuracy and Stability of
//! Numerical Algorithms*, §3.3. It rests on the standard model of rounding, `fl(x op y) = (x op
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
//! Values are in `f64`: its own rounding is 2⁻²⁹ of what is bounded here, and lies within the one
//! unit in the last place of the output type that [`assert_close`] adds.

use bagdot::{Element, Scalar, bf16, f16};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// The unit roundoff of `f32`.
pub const U: f64 = 1.0 / (1u32 << 24) as f64;
/// What a result below the normal numbers may lose, if it is flushed to zero.
const UNDERFLOW: f64 = f32::MIN_POSITIVE as f64;

/// The bound for `n` roundings in a row.
pub fn gamma(n: usize) -> f64 {
    let nu = n as f64 * U;
    assert!(nu < 0.5, "the bound has no meaning for {n} roundings");
    nu / (1.0 - nu)
}

/// A value, and how far an `f32` result may lie from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Approx {
    pub value: f64,
    pub error: f64,
}

impl Approx {
    pub const ZERO: Self = Self { value: 0.0, error: 0.0 };

    /// A value that both sides know exactly.
    pub fn exact(value: impl Into<f64>) -> Self {
        Self { value: value.into(), error: 0.0 }
    }

    /// The result of one rounded operation whose operands' errors amount to `error`.
    fn rounded(value: f64, error: f64) -> Self {
        Self { value, error: error + U * (value.abs() + error) + UNDERFLOW }
    }

    /// The same after one rounding to `f32`.
    pub fn once_rounded(self) -> Self {
        Self::rounded(self.value, self.error)
    }

    /// The largest magnitude that the `f32` value may have.
    fn magnitude(self) -> f64 {
        self.value.abs() + self.error
    }

    pub fn sqrt(self) -> Self {
        let root = self.value.sqrt();
        let error =
            if self.error == 0.0 { 0.0 } else { (self.error / root).min(self.error.sqrt()) };
        Self::rounded(root, error)
    }

    /// The same as a factor that may have been rounded to the 11 bits of tf32.
    pub fn as_tf32(self) -> Self {
        Self { error: self.error + self.magnitude() / 2048.0, ..self }
    }

    /// The same stored in a type, to nearest, as `scale` times the value. Rounding is monotone: it
    /// takes an interval to that between the rounded ends.
    pub fn stored_as<E: Stored>(self, scale: f64) -> Self {
        let stored = |x: f64| E::from_f32((x * scale) as f32).value() / scale;
        let (value, low, high) =
            (stored(self.value), stored(self.value - self.error), stored(self.value + self.error));
        Self { value, error: (high - value).max(value - low) }
    }

    /// The same as the sum of `n` products on tensor cores, whose magnitudes add up to `magnitude`.
    /// These add several at once, which they first cut off at the last bit of the largest, and cut
    /// off each sum of, at the least, 4: so a term and each of the `n / 4 + 1` sums loses up to
    /// 2⁻²³ of the whole, where rounding would lose 2⁻²⁴.
    pub fn on_tensor_cores(self, n: usize, magnitude: Self) -> Self {
        Self { error: self.error + gamma(2 * (n + n / 4 + 1)) * magnitude.magnitude(), ..self }
    }

    /// The sum of the terms, in whatever order.
    pub fn sum(terms: &[Self]) -> Self {
        Self::sum_with(terms, terms.len().saturating_sub(1))
    }

    /// The sum of the terms in chunks of `chunk`, whose sums are summed in the same way until one
    /// is left: on each level a term, or a sum that it is in, takes part in at most one addition
    /// less than there are in its chunk.
    pub fn sum_in_chunks(terms: &[Self], chunk: usize) -> Self {
        let (mut additions, mut left) = (0, terms.len());
        while left > 1 {
            additions += left.min(chunk) - 1;
            left = left.div_ceil(chunk);
        }
        Self::sum_with(terms, additions)
    }

    fn sum_with(terms: &[Self], additions: usize) -> Self {
        let value = terms.iter().map(|t| t.value).sum();
        let error: f64 = terms.iter().map(|t| t.error).sum();
        let magnitude: f64 = terms.iter().map(|t| t.magnitude()).sum();
        Self { value, error: error + gamma(additions) * magnitude }
    }

    /// `Σ aᵢ bᵢ`.
    pub fn dot(pairs: impl IntoIterator<Item = (Self, Self)>) -> Self {
        let terms: Vec<_> = pairs.into_iter().map(|(a, b)| a * b).collect();
        Self::sum(&terms)
    }

    /// Clamped to `[-max, max]`: exact, and no error grows.
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

/// A type that results are stored in.
pub trait Stored: Element {
    const FRACTION_BITS: i32;
    const MIN_EXPONENT: i32;
    /// The nearest value.
    fn store(value: f64) -> Self;
    /// The exact value.
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

/// The values of stored elements.
pub fn values<E: Stored>(stored: &[E]) -> Vec<f64> {
    stored.iter().map(|x| x.value()).collect()
}

/// Stored elements as exact values.
pub fn exact<E: Stored>(stored: &[E]) -> Vec<Approx> {
    stored.iter().map(|x| Approx::exact(x.value())).collect()
}

/// The distance between two neighbours of the type near `x`.
pub fn ulp<E: Stored>(x: f64) -> f64 {
    let exponent = if x == 0.0 {
        E::MIN_EXPONENT
    } else {
        (x.abs().log2().floor() as i32).max(E::MIN_EXPONENT)
    };
    2f64.powi(exponent - E::FRACTION_BITS)
}

/// Fails at the first element that lies further from its value than its bound and one unit in the
/// last place. A NaN is close to nothing.
#[track_caller]
pub fn assert_close<E: Stored>(what: &str, got: &[E], want: &[Approx]) {
    assert_close_within(what, got, want, 1.0);
}

/// As [`assert_close`], for results whose counterpart has made rounding errors of its own: `sides`
/// times the bound.
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
            "{what}: element {k} is {:e}, but must be {:e}: off by {off:.2e}, right is at most {bound:.2e}",
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
