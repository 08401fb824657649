//! Element and index types.

pub use half::{bf16, f16};

use crate::ops::bags::{End, OffsetsOf};
use crate::ops::{Memory, Offsets, View};

/// A type whose values a buffer of a backend can hold.
pub trait Scalar:
    bytemuck::Pod + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static
{
}
impl<T: bytemuck::Pod + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static> Scalar
    for T
{
}

/// The storage type of an embedding table, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum DType {
    /// IEEE single precision.
    #[default]
    F32,
    /// IEEE half precision: 5 exponent bits, 10 fraction bits.
    F16,
    /// bfloat16: 8 exponent bits, 7 fraction bits.
    BF16,
}

impl DType {
    /// Returns the number of bytes of an element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for super::f16 {}
    impl Sealed for super::bf16 {}
    impl Sealed for i32 {}
    impl Sealed for i64 {}
    impl Sealed for u32 {}
}

/// The storage type of an embedding table. Arithmetic is always in `f32`.
///
/// Backends have code for each of the types, so that this trait and [`Index`] are sealed.
///
/// ```compile_fail,E0277
/// impl bagdot::Index for u64 {
///     const MAX: u64 = u64::MAX;
///     fn to_i64(self) -> i64 { self as i64 }
///     fn from_usize(value: usize) -> Option<Self> { Some(value as u64) }
/// }
/// ```
pub trait Element: Scalar + sealed::Sealed {
    /// This type, as a value.
    const DTYPE: DType;
    /// Converts the value exactly.
    fn to_f32(self) -> f32;
    /// Rounds to the nearest value of this type, ties to the even one.
    fn from_f32(value: f32) -> Self;
    /// Rounds stochastically to one of the two neighbours of `value`: to the upper one with a
    /// probability equal to the fraction of the gap that lies below `value`, so that the
    /// expectation is `value`. `random` is uniform in 32 bits, of which the ones just below the
    /// last kept bit are used. A finite value never becomes infinite: values beyond the largest
    /// finite one become that.
    fn from_f32_stochastic(value: f32, random: u32) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn from_f32_stochastic(value: f32, _random: u32) -> Self {
        value
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    #[inline]
    fn from_f32_stochastic(value: f32, random: u32) -> Self {
        if !value.is_finite() {
            return bf16::from_f32(value);
        }
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(random & 0xffff) & 0xffff_0000;
        // The carry may produce the exponent of infinity: keep the largest finite value instead.
        let kept = if rounded & 0x7f80_0000 == 0x7f80_0000 { bits & 0xffff_0000 } else { rounded };
        bf16::from_bits((kept >> 16) as u16)
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    #[inline]
    fn from_f32_stochastic(value: f32, random: u32) -> Self {
        if !value.is_finite() {
            return f16::from_f32(value);
        }
        let bits = value.to_bits();
        let exponent = ((bits >> 23) & 0xff) as i32 - 127;
        let sign = ((bits >> 16) & 0x8000) as u16;
        // A normal f16 keeps 10 of the 23 fraction bits, and one less for each power of two below
        // 2^-14.
        let dropped = (13 + (-14 - exponent).max(0)) as u32;
        // The significand with its hidden bit, in units of 2^(exponent - 23); f32 subnormals are
        // far below f16's.
        let significand = (bits & 0x7f_ffff) | 0x80_0000;
        // There are only 32 random bits: truncate the bits below them first.
        let significand = u64::from(significand) >> dropped.saturating_sub(32).min(63);
        let dropped = dropped.min(32);
        let kept = (significand + (u64::from(random) & ((1 << dropped) - 1))) >> dropped;
        // `kept` includes the hidden bit: adding it to the exponent also propagates an overflow.
        let magnitude = if exponent >= -14 { (exponent + 14) as u64 * 1024 + kept } else { kept };
        f16::from_bits(sign | magnitude.min(0x7bff) as u16)
    }
}

/// The type of ids and offsets.
pub trait Index: Scalar + sealed::Sealed + Eq + Ord + Copy {
    /// The largest value of the type.
    const MAX: u64;
    /// Converts the value to 64 bits.
    fn to_i64(self) -> i64;
    /// Converts the value to a row number; `None` if it is negative.
    #[inline(always)]
    fn to_row(self) -> Option<usize> {
        usize::try_from(self.to_i64()).ok()
    }
    /// Converts a value to this type; `None` if it does not fit.
    fn from_usize(value: usize) -> Option<Self>;
    /// Makes offsets of this type, one more than there are bags.
    #[doc(hidden)]
    fn offsets<M: Memory>(values: View<'_, M, Self>) -> Offsets<'_, M>;
}

macro_rules! index {
    ($(#[$attribute:meta])* $Type:ty, $Offsets:ident) => {
        $(#[$attribute])*
        impl Index for $Type {
            const MAX: u64 = <$Type>::MAX as u64;
            #[inline(always)]
            fn to_i64(self) -> i64 {
                i64::from(self)
            }
            fn from_usize(value: usize) -> Option<Self> {
                value.try_into().ok()
            }
            fn offsets<M: Memory>(values: View<'_, M, Self>) -> Offsets<'_, M> {
                Offsets(OffsetsOf::$Offsets(values, End::Given))
            }
        }
    };
}
index!(i32, I32);
index!(i64, I64);
index!(
    /// The `i32` of the same bits takes its place in loops and kernels, so that a table that it
    /// looks up has at most 2³¹ rows.
    u32,
    U32
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that every finite `E` maps to itself for all random bits, and a value between two
    /// neighbours to one of them.
    fn neighbours_only<E: Element>(from_bits: fn(u16) -> E) {
        for bits in 0..=u16::MAX {
            let exact = from_bits(bits).to_f32();
            if exact.is_finite() {
                for random in [0, 1, 0x1fff, 0xffff, u32::MAX] {
                    assert_eq!(
                        E::from_f32_stochastic(exact, random).to_f32().to_bits(),
                        exact.to_bits(),
                        "{exact:e}"
                    );
                }
            }
        }
        for k in 0..200_000u32 {
            let value = f32::from_bits(k.wrapping_mul(2_654_435_761));
            if !value.is_finite() {
                continue;
            }
            let (down, up) = (
                E::from_f32_stochastic(value, 0).to_f32(),
                E::from_f32_stochastic(value, u32::MAX).to_f32(),
            );
            assert!(
                down.abs() <= up.abs() && down.is_finite() && up.is_finite(),
                "{value:e}: {down:e} {up:e}"
            );
            let (down_bits, up_bits) =
                (E::from_f32_stochastic(value, 0), E::from_f32_stochastic(value, u32::MAX));
            let nearest = E::from_f32(value);
            if nearest.to_f32().is_finite() {
                assert!(
                    nearest == down_bits || nearest == up_bits,
                    "{value:e}: {down:e} {nearest:?} {up:e}"
                );
            }
        }
    }

    #[test]
    fn stochastic_rounding_picks_a_neighbour() {
        neighbours_only::<f16>(f16::from_bits);
        neighbours_only::<bf16>(bf16::from_bits);
    }

    /// Checks the mean over random values that take each pattern of their low 18 bits once. It is
    /// exact: `Σ ⌊(s + r) / 2ᵈ⌋ 2ᵈ = 2¹⁸ s` for each `d ≤ 18`. The sum in `f64` is exact, too: 2¹⁸
    /// values of at most 11 bits.
    #[test]
    fn stochastic_rounding_is_unbiased() {
        fn mean<E: Element>(value: f32) -> f64 {
            // An odd factor permutes the patterns.
            let random = |k: u32| k.wrapping_mul(2_654_435_769);
            let sum: f64 = (0..1 << 18)
                .map(|k| f64::from(E::from_f32_stochastic(value, random(k)).to_f32()))
                .sum();
            sum / f64::from(1 << 18)
        }
        // The last two are subnormal in f16: 14 and 18 bits are dropped.
        for value in [1.0003_f32, -0.3333, 1000.7, 6.0e-5, 3.0e-6] {
            assert_eq!([mean::<f16>(value), mean::<bf16>(value)], [f64::from(value); 2]);
        }
    }
}
