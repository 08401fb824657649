//! AVX-512: a vector is one register.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::intrinsic;
use crate::dtype::{DType, Element};
use crate::simd::{GROUP, LANES, Lanes};

/// A proof that the machine has AVX-512, with dot products of `bf16` if `BF16`. It is made by
/// [`run_avx512`](super::Compiled::run_avx512) and
/// [`run_avx512_bf16`](super::Compiled::run_avx512_bf16) alone, which must not be called on a
/// machine without the instructions.
#[derive(Clone, Copy)]
pub(in crate::simd) struct Avx512<const BF16: bool>(pub(super) ());

/// Widens the `bf16` of a vector to `f32`, of which they become the upper halves.
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
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(
            rounded, is_nan, quiet,
        )))
    }};
}

impl<const BF16: bool> Lanes for Avx512<BF16> {
    type F32 = __m512;

    const TILE: (usize, usize) = (14, 2);
    const DOTS: usize = 16;
    const MULTIPLIES_PAIRS: bool = BF16;

    #[inline(always)]
    fn add_products_of_pairs(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        debug_assert!(BF16);
        if !BF16 {
            return c;
        }
        // A vector of pairs has the size of one of `f32`.
        intrinsic!(_mm512_dpbf16_ps(
            c,
            transmute::<__m512, __m512bh>(a),
            transmute::<__m512, __m512bh>(b)
        ))
    }
    #[inline(always)]
    fn pairs<E: Element>(self, first: &[E], second: &[E]) -> __m512 {
        // Elements go to the lower halves of the lanes.
        let halves = |of: &[E]| match (size_of::<E>(), of.len()) {
            (2, LANES..) => {
                intrinsic!(_mm512_cvtepu16_epi32(_mm256_loadu_si256(of.as_ptr().cast())))
            }
            // Nothing is read of an empty slice: its address may be anything, which makes a load
            // slow.
            (2, 1..) => {
                intrinsic!(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(
                    first_lanes(of.len()),
                    of.as_ptr().cast()
                )))
            }
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
    fn split_pairs(self, first: __m512, second: __m512) -> [__m512; 3] {
        intrinsic!(split_pairs([first, second]))
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
    fn transpose_groups(self, rows: [__m512; LANES / GROUP]) -> [__m512; LANES / GROUP] {
        intrinsic!(transpose_groups(rows))
    }
    #[inline(always)]
    fn sums_of_groups(self, v: [__m512; LANES / GROUP]) -> __m512 {
        intrinsic!(sums_of_groups(v))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    fn splat_group(self, values: &[f32; GROUP]) -> __m512 {
        intrinsic!(_mm512_broadcast_f32x4(_mm_loadu_ps(values.as_ptr())))
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
                intrinsic!(_mm256_storeu_si256(
                    at.cast(),
                    _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector)
                ))
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
            DType::BF16 => {
                intrinsic!(_mm256_mask_storeu_epi16(at.cast(), mask, round_bf16!(vector)))
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

/// Returns the mask of the first `number` lanes.
#[inline(always)]
fn first_lanes(number: usize) -> u16 {
    u16::MAX.checked_shr((LANES - number.min(LANES)) as u32).unwrap_or(0)
}

/// See [`Lanes::split_pairs`]. A component is rounded to nearest, ties away from zero, by the
/// addition of half a unit of its last place; the remainder of a number that is not finite is a
/// NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn split_pairs(of: [__m512; 2]) -> [__m512; 3] {
    let upper_half = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let round = |x| {
        let rounded = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
        _mm512_castsi512_ps(_mm512_and_si512(rounded, upper_half))
    };
    let pair = |a, b| {
        let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
        _mm512_castsi512_ps(_mm512_or_si512(
            _mm512_srli_epi32::<16>(a),
            _mm512_and_si512(b, upper_half),
        ))
    };
    let first = of.map(round);
    let left = [_mm512_sub_ps(of[0], first[0]), _mm512_sub_ps(of[1], first[1])];
    let second = left.map(round);
    let third = [_mm512_sub_ps(left[0], second[0]), _mm512_sub_ps(left[1], second[1])];
    [pair(first[0], first[1]), pair(second[0], second[1]), pair(third[0], third[1])]
}

/// See [`Lanes::transpose`].
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
    // Now b[4 k + c] holds columns c, c + 4, c + 8 and c + 12 of rows 4 k to 4 k + 3.
    let mut out = b;
    for c in 0..4 {
        [out[c], out[c + 4], out[c + 8], out[c + 12]] =
            transpose_groups([b[c], b[4 + c], b[8 + c], b[12 + c]]);
    }
    out
}

/// See [`Lanes::transpose_groups`].
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_groups(r: [__m512; LANES / GROUP]) -> [__m512; LANES / GROUP] {
    // `even` holds groups 0 and 2 of two rows in each register, `odd` groups 1 and 3.
    let even = (_mm512_shuffle_f32x4::<0x88>(r[0], r[1]), _mm512_shuffle_f32x4::<0x88>(r[2], r[3]));
    let odd = (_mm512_shuffle_f32x4::<0xdd>(r[0], r[1]), _mm512_shuffle_f32x4::<0xdd>(r[2], r[3]));
    [
        _mm512_shuffle_f32x4::<0x88>(even.0, even.1),
        _mm512_shuffle_f32x4::<0x88>(odd.0, odd.1),
        _mm512_shuffle_f32x4::<0xdd>(even.0, even.1),
        _mm512_shuffle_f32x4::<0xdd>(odd.0, odd.1),
    ]
}

/// See [`Lanes::sums`].
#[inline]
#[target_feature(enable = "avx512f")]
fn sums(v: [__m512; LANES]) -> __m512 {
    // One half of the lanes is added to the other; the sums of two vectors then fit one.
    let mut eight = [_mm512_setzero_ps(); LANES / 2];
    for (k, of) in [(0, 0), (1, 8), (2, 1), (3, 9), (4, 2), (5, 10), (6, 3), (7, 11)] {
        let (a, b) = (v[of], v[of + 4]);
        eight[k] =
            _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
    }
    // The four quarters of the k-th sum are of vectors k, k + 4, k + 8 and k + 12.
    let mut four = [_mm512_setzero_ps(); LANES / 4];
    for k in 0..LANES / 4 {
        let (a, b) = (eight[2 * k], eight[2 * k + 1]);
        four[k] =
            _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
    }
    let mut two = [_mm512_setzero_ps(); LANES / 8];
    for k in 0..LANES / 8 {
        let (a, b) = (four[2 * k], four[2 * k + 1]);
        two[k] = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
    }
    _mm512_add_ps(
        _mm512_shuffle_ps::<0x88>(two[0], two[1]),
        _mm512_shuffle_ps::<0xdd>(two[0], two[1]),
    )
}

/// See [`Lanes::sums_of_groups`].
#[inline]
#[target_feature(enable = "avx512f")]
fn sums_of_groups(v: [__m512; LANES / GROUP]) -> __m512 {
    let halves =
        |a, b| _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
    let (a, b) = (halves(v[0], v[1]), halves(v[2], v[3]));
    // The sum of group g of vector v is in lane 4 g + v.
    let sums = _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
    let transposed = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_ps(transposed, sums)
}
