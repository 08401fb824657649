// Stochastic rounding to storage types, with the same bits as src/dtype.rs. `from_f32` rounds to
// nearest.
#pragma once

#include "dtype.cuh"

// Rounds to one of the two neighbours of `x`: to the upper one with a probability equal to the
// fraction of the gap that lies below `x`. A finite value never becomes infinite.
template <typename E>
__device__ __forceinline__ E stochastic(float x, uint32_t random);
template <>
__device__ __forceinline__ f32 stochastic(float x, uint32_t) {
  return x;
}
template <>
__device__ __forceinline__ bf16 stochastic(float x, uint32_t random) {
  if (!isfinite(x)) return from_f32<bf16>(x);
  const uint32_t bits = __float_as_uint(x);
  const uint32_t rounded = (bits + (random & 0xffff)) & 0xffff0000u;
  // The carry may reach the exponent of infinity: the largest finite value is kept instead.
  const uint32_t kept = (rounded & 0x7f800000u) == 0x7f800000u ? bits : rounded;
  return __ushort_as_bfloat16(kept >> 16);
}
template <>
__device__ __forceinline__ f16 stochastic(float x, uint32_t random) {
  if (!isfinite(x)) return from_f32<f16>(x);
  const uint32_t bits = __float_as_uint(x);
  const int exponent = int(bits >> 23 & 0xff) - 127;
  // A normal f16 keeps 10 of the 23 fraction bits; each power of two below 2^-14 costs one more.
  const uint32_t dropped = 13 + max(-14 - exponent, 0);
  // The significand with its hidden bit. There are only 32 random bits, so the bits below them are
  // cut off first.
  const uint64_t significand =
      uint64_t((bits & 0x7fffff) | 0x800000) >> (dropped > 32 ? min(dropped - 32, 63u) : 0u);
  const uint32_t in_random = min(dropped, 32u);
  const uint64_t kept = (significand + (random & ((uint64_t(1) << in_random) - 1))) >> in_random;
  // `kept` includes the hidden bit: adding it to the exponent also carries an overflow upwards.
  const uint64_t magnitude = exponent >= -14 ? uint64_t(exponent + 14) * 1024 + kept : kept;
  return __ushort_as_half((bits >> 16 & 0x8000) | uint32_t(min(magnitude, uint64_t(0x7bff))));
}
