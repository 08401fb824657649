//! AVX2: a vector is two registers, one for the first eight lanes and one for the others.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::intrinsic;
use crate::dtype::{DType, Element};
use crate::simd::{GROUP, LANES, Lanes};

/// A proof that the machine has AVX2. It is made by [`run_avx2`](super::Compiled::run_avx2) alone,
/// which must not be called on a machine without the instructions.
#[derive(Clone, Copy)]
pub(in crate::simd) struct Avx2(pub(super) ());

/// The number of lanes of a register.
const HALF: usize = LANES / 2;

impl Lanes for Avx2 {
    type F32 = [__m256; 2];

    const TILE: (usize, usize) = (6, 1);

    #[inline(always)]
    fn transpose(self, rows: [[__m256; 2]; LANES]) -> [[__m256; 2]; LANES] {
        intrinsic!(transpose(rows))
    }
    #[inline(always)]
    fn sums_of_four(self, vectors: [[__m256; 2]; 4]) -> [f32; 4] {
        intrinsic!(transmute::<__m128, [f32; 4]>(sums_of_four(vectors)))
    }

    #[inline(always)]
    fn transpose_groups(self, rows: [[__m256; 2]; LANES / GROUP]) -> [[__m256; 2]; LANES / GROUP] {
        intrinsic!(transpose_groups(rows))
    }
    #[inline(always)]
    fn sums_of_groups(self, vectors: [[__m256; 2]; LANES / GROUP]) -> [__m256; 2] {
        intrinsic!(sums_of_groups(vectors))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        [intrinsic!(_mm256_set1_ps(value)); 2]
    }
    #[inline(always)]
    fn splat_group(self, values: &[f32; GROUP]) -> [__m256; 2] {
        [intrinsic!(_mm256_broadcast_ps(&_mm_loadu_ps(values.as_ptr()))); 2]
    }
    #[inline(always)]
    fn load<E: Element>(self, from: &[E; LANES]) -> [__m256; 2] {
        let (low, high) = (from.as_ptr(), from[HALF..].as_ptr());
        match E::DTYPE {
            DType::F32 => intrinsic!([_mm256_loadu_ps(low.cast()), _mm256_loadu_ps(high.cast())]),
            DType::F16 => intrinsic!([
                _mm256_cvtph_ps(_mm_loadu_si128(low.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(high.cast()))
            ]),
            DType::BF16 => {
                intrinsic!([
                    widen_bf16(_mm_loadu_si128(low.cast())),
                    widen_bf16(_mm_loadu_si128(high.cast()))
                ])
            }
        }
    }
    #[inline(always)]
    fn store<E: Element>(self, vector: [__m256; 2], to: &mut [E; LANES]) {
        let (low, high) = to.split_at_mut(HALF);
        let (low, high) = (low.as_mut_ptr(), high.as_mut_ptr());
        match E::DTYPE {
            DType::F32 => intrinsic!({
                _mm256_storeu_ps(low.cast(), vector[0]);
                _mm256_storeu_ps(high.cast(), vector[1]);
            }),
            DType::F16 => intrinsic!({
                _mm_storeu_si128(
                    low.cast(),
                    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector[0]),
                );
                _mm_storeu_si128(
                    high.cast(),
                    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector[1]),
                );
            }),
            DType::BF16 => intrinsic!(_mm256_storeu_si256(low.cast(), round_bf16(vector))),
        }
    }
    #[inline(always)]
    fn load_part<E: Element>(self, from: &[E]) -> [__m256; 2] {
        if E::DTYPE != DType::F32 {
            let mut all = [E::default(); LANES];
            all[..from.len()].copy_from_slice(from);
            return self.load(&all);
        }
        let (low, high) = from.split_at(from.len().min(HALF));
        intrinsic!([
            _mm256_maskload_ps(low.as_ptr().cast(), first_lanes(low.len())),
            _mm256_maskload_ps(high.as_ptr().cast(), first_lanes(high.len()))
        ])
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

/// Returns the mask of the first `number` lanes of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn first_lanes(number: usize) -> __m256i {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(number as i32), lanes)
}

/// Widens `bf16` to `f32`, of which they become the upper halves.
#[inline]
#[target_feature(enable = "avx2")]
fn widen_bf16(stored: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(stored)))
}

/// Rounds to the nearest `bf16`, ties to even; a NaN becomes a quiet one.
#[inline]
#[target_feature(enable = "avx2")]
fn round_bf16(vector: [__m256; 2]) -> __m256i {
    let mut rounded = [_mm256_setzero_si256(); 2];
    for h in 0..2 {
        let bits = _mm256_castps_si256(vector[h]);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let nearest = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
        let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(vector[h], vector[h]));
        rounded[h] = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(nearest, quiet, is_nan));
    }
    // The instruction packs each half of the registers apart: the second quarter of the one comes
    // after the first quarter of the other.
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(rounded[0], rounded[1]))
}

/// See [`Lanes::transpose`].
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [[__m256; 2]; LANES]) -> [[__m256; 2]; LANES] {
    let mut out = rows;
    for to in 0..2 {
        for from in 0..2 {
            let mut square = [_mm256_setzero_ps(); HALF];
            for k in 0..HALF {
                square[k] = rows[from * HALF + k][to];
            }
            let square = transpose_square(square);
            for k in 0..HALF {
                out[to * HALF + k][from] = square[k];
            }
        }
    }
    out
}

/// Transposes a square of eight rows of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_square(r: [__m256; HALF]) -> [__m256; HALF] {
    let mut a = r;
    for k in 0..HALF / 2 {
        a[2 * k] = _mm256_unpacklo_ps(r[2 * k], r[2 * k + 1]);
        a[2 * k + 1] = _mm256_unpackhi_ps(r[2 * k], r[2 * k + 1]);
    }
    let mut out = a;
    for c in 0..2 {
        // `first` holds columns 2 c and 2 c + 4 of rows 0 to 3 and of rows 4 to 7, `second` the
        // columns after these.
        let first = [
            _mm256_shuffle_ps::<0x44>(a[c], a[2 + c]),
            _mm256_shuffle_ps::<0x44>(a[4 + c], a[6 + c]),
        ];
        let second = [
            _mm256_shuffle_ps::<0xee>(a[c], a[2 + c]),
            _mm256_shuffle_ps::<0xee>(a[4 + c], a[6 + c]),
        ];
        out[2 * c] = _mm256_permute2f128_ps::<0x20>(first[0], first[1]);
        out[2 * c + 1] = _mm256_permute2f128_ps::<0x20>(second[0], second[1]);
        out[2 * c + 4] = _mm256_permute2f128_ps::<0x31>(first[0], first[1]);
        out[2 * c + 5] = _mm256_permute2f128_ps::<0x31>(second[0], second[1]);
    }
    out
}

/// See [`Lanes::sums_of_four`].
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_four(v: [[__m256; 2]; 4]) -> __m128 {
    // One half of the lanes is added to the other; the sums of two vectors then fit one register.
    let mut eight = [_mm256_setzero_ps(); 4];
    for k in 0..4 {
        eight[k] = _mm256_add_ps(v[k][0], v[k][1]);
    }
    let [a, b, c, d] = eight;
    let ac =
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, c), _mm256_permute2f128_ps::<0x31>(a, c));
    let bd =
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(b, d), _mm256_permute2f128_ps::<0x31>(b, d));
    let abcd = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ac, bd), _mm256_shuffle_ps::<0xee>(ac, bd));
    let (ab, cd) = (_mm256_castps256_ps128(abcd), _mm256_extractf128_ps::<1>(abcd));
    _mm_add_ps(_mm_shuffle_ps::<0x88>(ab, cd), _mm_shuffle_ps::<0xdd>(ab, cd))
}

/// See [`Lanes::sums_of_groups`].
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_groups(v: [[__m256; 2]; LANES / GROUP]) -> [__m256; 2] {
    let halves =
        |a, b| _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b));
    let mut sums = v[0];
    for (half, sums) in sums.iter_mut().enumerate() {
        let (a, b) = (halves(v[0][half], v[1][half]), halves(v[2][half], v[3][half]));
        *sums = _mm256_add_ps(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
    }
    // The first register holds groups 0 and 1, with a lane for each vector, the second one groups 2
    // and 3.
    let (low, high) = (_mm256_unpacklo_ps(sums[0], sums[1]), _mm256_unpackhi_ps(sums[0], sums[1]));
    let (first, second) =
        (_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high));
    let (low, high) = (_mm256_unpacklo_ps(first, second), _mm256_unpackhi_ps(first, second));
    [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
}

/// See [`Lanes::transpose_groups`].
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_groups(r: [[__m256; 2]; LANES / GROUP]) -> [[__m256; 2]; LANES / GROUP] {
    let mut out = r;
    for half in 0..2 {
        for k in 0..2 {
            // These are the groups in one half of two rows.
            let (a, b) = (r[2 * k][half], r[2 * k + 1][half]);
            out[2 * half][k] = _mm256_permute2f128_ps::<0x20>(a, b);
            out[2 * half + 1][k] = _mm256_permute2f128_ps::<0x31>(a, b);
        }
    }
    out
}
