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

pub(super) fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run_avx2<L: Loop>(body: L) -> L::Output {
    body.run(Avx2(()))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run_avx512<L: Loop>(body: L) -> L::Output {
    body.run(Avx512::<false>(()))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn run_avx512_bf16<L: Loop>(body: L) -> L::Output {
    body.run(Avx512::<true>(()))
}

#[inline(always)]
pub(super) fn prefetch<T>(of: *const T) {
    // SAFETY: a prefetch neither reads nor faults, whatever the address is.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(of.cast()) }
}

/// Shown by [`run_avx2`] alone, which can only be called where the instructions are.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Shown by [`run_avx512`] and, with products of `bf16`, by [`run_avx512_bf16`] alone, which can only be called where the instructions are.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BF16: bool>(());

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

/// Rounds to the nearest `bf16`, ties to even; a NaN becomes a quiet one.
macro_rules! round_bf16 {
    ($value:expr) => {{
        let value = $value;
        let bits = _mm512_castps_si512(value);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, is_nan, quiet)))
    }};
}

impl<const BF16: bool> Lanes for Avx512<BF16> {
    type F32 = __m512;

    const TILE: (usize, usize) = (14, 2);
    const MULTIPLIES_PAIRS: bool = BF16;

    #[inline(always)]
    fn add_products_of_pairs(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        if !BF16 {
            return c;
        }
        // Vectors of pairs are of the same size as those of `f32`.
        intrinsic!(_mm512_dpbf16_ps(c, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)))
    }
    #[inline(always)]
    fn pairs<E: Element>(self, first: &[E], second: &[E]) -> __m512 {
        // The lower halves of all lanes.
        let halves = |of: &[E]| match size_of::<E>() {
            2 => intrinsic!(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(of.len()), of.as_ptr().cast()))),
            _ => intrinsic!(_mm512_setzero_si512()),
        };
        let (first, second) = (halves(first), halves(second));
        intrinsic!(_mm512_castsi512_ps(_mm512_or_si512(first, _mm512_slli_epi32::<16>(second))))
    }
    #[inline(always)]
    fn load_pairs<E: Element>(self, from: &[[E; 2]; LANES]) -> __m512 {
        match size_of::<E>() {
            2 => intrinsic!(_mm512_loadu_ps(from.as_ptr().cast())),
            _ => self.splat(0.0),
        }
    }
    #[inline(always)]
    fn transpose(self, rows: [__m512; LANES]) -> [__m512; LANES] {
        intrinsic!(transpose(rows))
    }
    #[inline(always)]
    fn sums(self, v: [__m512; LANES]) -> __m512 {
        intrinsic!(sums(v))
    }

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
            DType::BF16 => intrinsic!(_mm256_storeu_si256(at.cast(), round_bf16!(vector))),
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
            DType::BF16 => intrinsic!(_mm256_mask_storeu_epi16(at.cast(), mask, round_bf16!(vector))),
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

/// Row `l` of the result holds lane `l` of all rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(r: [__m512; LANES]) -> [__m512; LANES] {
    let mut a = r;
    for k in 0..LANES / 2 {
        a[2 * k] = _mm512_unpacklo_ps(r[2 * k], r[2 * k + 1]);
        a[2 * k + 1] = _mm512_unpackhi_ps(r[2 * k], r[2 * k + 1]);
    }
    let mut b = a;
    for k in 0..LANES / 4 {
        let (low, high) = (4 * k, 4 * k + 2);
        b[low] = _mm512_shuffle_ps::<0x44>(a[low], a[high]);
        b[low + 1] = _mm512_shuffle_ps::<0xee>(a[low], a[high]);
        b[high] = _mm512_shuffle_ps::<0x44>(a[low + 1], a[high + 1]);
        b[high + 1] = _mm512_shuffle_ps::<0xee>(a[low + 1], a[high + 1]);
    }
    // Now b[4 k + c] holds, of rows 4 k to 4 k + 3, columns c, c + 4, c + 8 and c + 12.
    let mut out = b;
    for c in 0..4 {
        let (x, y) = (_mm512_shuffle_f32x4::<0x88>(b[c], b[4 + c]), _mm512_shuffle_f32x4::<0x88>(b[8 + c], b[12 + c]));
        let (z, w) = (_mm512_shuffle_f32x4::<0xdd>(b[c], b[4 + c]), _mm512_shuffle_f32x4::<0xdd>(b[8 + c], b[12 + c]));
        out[c] = _mm512_shuffle_f32x4::<0x88>(x, y);
        out[c + 4] = _mm512_shuffle_f32x4::<0x88>(z, w);
        out[c + 8] = _mm512_shuffle_f32x4::<0xdd>(x, y);
        out[c + 12] = _mm512_shuffle_f32x4::<0xdd>(z, w);
    }
    out
}

/// Lane `l` of the result is the sum of the lanes of `v[l]`, in the order of [`Lanes::sums`].
#[inline]
#[target_feature(enable = "avx512f")]
fn sums(v: [__m512; LANES]) -> __m512 {
    // Half of the lanes is added to the other one; what is left of two vectors fits one.
    let mut eight = [_mm512_setzero_ps(); LANES / 2];
    for (k, of) in [(0, 0), (1, 8), (2, 1), (3, 9), (4, 2), (5, 10), (6, 3), (7, 11)] {
        let (a, b) = (v[of], v[of + 4]);
        eight[k] = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
    }
    // Vectors k, k + 4, k + 8 and k + 12, in the four quarters of the k-th.
    let mut four = [_mm512_setzero_ps(); LANES / 4];
    for k in 0..LANES / 4 {
        let (a, b) = (eight[2 * k], eight[2 * k + 1]);
        four[k] = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
    }
    let mut two = [_mm512_setzero_ps(); LANES / 8];
    for k in 0..LANES / 8 {
        let (a, b) = (four[2 * k], four[2 * k + 1]);
        two[k] = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
    }
    _mm512_add_ps(_mm512_shuffle_ps::<0x88>(two[0], two[1]), _mm512_shuffle_ps::<0xdd>(two[0], two[1]))
}

impl Lanes for Avx2 {
    type F32 = [__m256; 2];

    const TILE: (usize, usize) = (6, 1);

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
