//! AVX2 and AVX-512.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{LANES, Lanes, Loop};
use crate::dtype::{DType, Element};

pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run_avx2<L: Loop>(body: L) -> L::Output {
    body.run(Avx2(()))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run_avx512<L: Loop>(body: L) -> L::Output {
    body.run(Avx512(()))
}

#[inline(always)]
pub(super) fn prefetch<T>(of: *const T) {
    // SAFETY: a prefetch neither reads nor faults, whatever the address is.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(of.cast()) }
}

/// Shown by [`run_avx2`] alone, which can only be called where the instructions are.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Shown by [`run_avx512`] alone, which can only be called where the instructions are.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// An intrinsic in a method of [`Avx2`] or [`Avx512`].
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` shows that the machine has the instructions. Pointers are to whole arrays of the type that is read or written, or, with
        // a mask, to slices with as many elements as the mask has ones; no alignment is needed. Arrays and vectors that are transmuted are
        // of the same size, and every bit pattern is a value of both.
        unsafe { $call }
    };
}

/// Widens the `bf16` that are in a vector: its lanes become the upper halves.
macro_rules! widen_bf16 {
    ($stored:expr) => {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32($stored)))
    };
}

impl Lanes for Avx512 {
    type F32 = __m512;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    fn load<E: Element>(self, from: &[E; LANES]) -> __m512 {
        let from = from.as_ptr();
        match E::DTYPE {
            DType::F32 => intrinsic!(_mm512_loadu_ps(from.cast())),
            DType::F16 => intrinsic!(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))),
            DType::BF16 => intrinsic!(widen_bf16!(_mm256_loadu_si256(from.cast()))),
        }
    }
    #[inline(always)]
    fn store<E: Element>(self, vector: __m512, to: &mut [E; LANES]) {
        let at = to.as_mut_ptr();
        match E::DTYPE {
            DType::F32 => intrinsic!(_mm512_storeu_ps(at.cast(), vector)),
            DType::F16 => {
                intrinsic!(_mm256_storeu_si256(at.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector)))
            }
            DType::BF16 => *to = self.to_array(vector).map(E::from_f32),
        }
    }
    #[inline(always)]
    fn load_part<E: Element>(self, from: &[E]) -> __m512 {
        let (mask, from) = (first_lanes(from.len()), from.as_ptr());
        match E::DTYPE {
            DType::F32 => intrinsic!(_mm512_maskz_loadu_ps(mask, from.cast())),
            DType::F16 => intrinsic!(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.cast()))),
            DType::BF16 => intrinsic!(widen_bf16!(_mm256_maskz_loadu_epi16(mask, from.cast()))),
        }
    }
    #[inline(always)]
    fn store_part<E: Element>(self, vector: __m512, to: &mut [E]) {
        let (mask, at) = (first_lanes(to.len()), to.as_mut_ptr());
        match E::DTYPE {
            DType::F32 => intrinsic!(_mm512_mask_storeu_ps(at.cast(), mask, vector)),
            DType::F16 => intrinsic!({
                let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector);
                _mm256_mask_storeu_epi16(at.cast(), mask, halves)
            }),
            DType::BF16 => {
                to.iter_mut().zip(self.to_array(vector)).for_each(|(to, value)| *to = E::from_f32(value));
            }
        }
    }
    #[inline(always)]
    fn to_array(self, vector: __m512) -> [f32; LANES] {
        intrinsic!(transmute::<__m512, [f32; LANES]>(vector))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        intrinsic!(_mm512_sqrt_ps(a))
    }
}

/// A mask of the first lanes.
#[inline(always)]
fn first_lanes(number: usize) -> u16 {
    u16::MAX.checked_shr((LANES - number.min(LANES)) as u32).unwrap_or(0)
}

impl Lanes for Avx2 {
    type F32 = [__m256; 2];

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        [intrinsic!(_mm256_set1_ps(value)); 2]
    }
    #[inline(always)]
    fn load<E: Element>(self, from: &[E; LANES]) -> [__m256; 2] {
        let halves = [from.as_ptr(), from[LANES / 2..].as_ptr()];
        match E::DTYPE {
            DType::F32 => halves.map(|half| intrinsic!(_mm256_loadu_ps(half.cast()))),
            DType::F16 => halves.map(|half| intrinsic!(_mm256_cvtph_ps(_mm_loadu_si128(half.cast())))),
            DType::BF16 => halves.map(|half| {
                let bits = intrinsic!(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(half.cast()))));
                intrinsic!(_mm256_castsi256_ps(bits))
            }),
        }
    }
    #[inline(always)]
    fn store<E: Element>(self, vector: [__m256; 2], to: &mut [E; LANES]) {
        let (low, high) = to.split_at_mut(LANES / 2);
        let (low, high) = (low.as_mut_ptr(), high.as_mut_ptr());
        match E::DTYPE {
            DType::F32 => intrinsic!({
                _mm256_storeu_ps(low.cast(), vector[0]);
                _mm256_storeu_ps(high.cast(), vector[1]);
            }),
            DType::F16 => intrinsic!({
                _mm_storeu_si128(low.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector[0]));
                _mm_storeu_si128(high.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector[1]));
            }),
            DType::BF16 => *to = self.to_array(vector).map(E::from_f32),
        }
    }
    #[inline(always)]
    fn to_array(self, vector: [__m256; 2]) -> [f32; LANES] {
        intrinsic!(transmute::<[__m256; 2], [f32; LANES]>(vector))
    }
    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        intrinsic!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        intrinsic!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        intrinsic!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        intrinsic!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        intrinsic!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        intrinsic!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn min(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        intrinsic!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sqrt(self, a: [__m256; 2]) -> [__m256; 2] {
        intrinsic!([_mm256_sqrt_ps(a[0]), _mm256_sqrt_ps(a[1])])
    }
}
