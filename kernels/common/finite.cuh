// The search for values that are not finite, and its report.
#pragma once

#include "dtype.cuh"

// The mask of an element's exponent. All of its bits are set in infinities and NaNs, and in no
// other value.
template <typename E>
inline constexpr uint32_t kExponent = 0x7f800000u;
template <>
inline constexpr uint32_t kExponent<f16> = 0x7c00u;
template <>
inline constexpr uint32_t kExponent<bf16> = 0x7f80u;

__device__ __forceinline__ uint32_t bits(f32 x) { return __float_as_uint(x); }
__device__ __forceinline__ uint32_t bits(f16 x) { return __half_as_ushort(x); }
__device__ __forceinline__ uint32_t bits(bf16 x) { return __bfloat16_as_ushort(x); }

template <typename E>
__device__ __forceinline__ bool is_infinite_or_nan(E x) {
  return (bits(x) & kExponent<E>) == kExponent<E>;
}

// Returns true if one of the elements in a word is not finite.
template <typename E>
__device__ __forceinline__ bool has_non_finite(uint32_t word) {
  constexpr uint32_t kLow = kExponent<E>, kHigh = sizeof(E) == 2 ? kLow << 16 : kLow;
  return (word & kLow) == kLow || (word & kHigh) == kHigh;
}

template <typename E>
__device__ __forceinline__ bool has_non_finite(const uint4& run) {
  return has_non_finite<E>(run.x) || has_non_finite<E>(run.y) || has_non_finite<E>(run.z) ||
         has_non_finite<E>(run.w);
}

// Sets `*word` to 1 if a lane has found a value that is not finite, with at most one atomic for
// each warp. All lanes of the warp call it. There is nothing to set if `word` is null.
__device__ __forceinline__ void report_non_finite(uint64_t* word, bool found) {
  if (word == nullptr) return;
  if (__any_sync(0xffffffffu, found) && threadIdx.x % 32 == 0)
    atomicOr(reinterpret_cast<unsigned long long*>(word), 1ull);
}
