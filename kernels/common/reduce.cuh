// Sums over the lanes of a group: a run of `size` lanes of a warp, `size` a power of two, beginning
// at a multiple of it.
#pragma once

#include <stdint.h>

// All lanes of a warp. What some of them vote on or hand round takes longer, since for masks that
// are not known the hardware takes one after another.
constexpr uint32_t kWarp = 0xffffffffu;

// The lanes of the group that the calling lane is in, as a mask of the warp.
__device__ __forceinline__ uint32_t group_mask(int size) {
  const int lane = threadIdx.x % 32;
  return size == 32 ? 0xffffffffu : ((1u << size) - 1) << (lane / size * size);
}

// Whether `x` is true in any lane of the group, in every lane. All groups of a warp must call it
// together.
__device__ __forceinline__ bool group_any(bool x, int size) {
  return __ballot_sync(kWarp, x) & group_mask(size);
}

// The sum of `x` over the lanes of the group, in every lane. All groups of a warp must call it
// together.
template <typename T>
__device__ __forceinline__ T group_sum(T x, int size) {
#pragma unroll 1
  for (int step = size / 2; step > 0; step /= 2) x += __shfl_xor_sync(kWarp, x, step);
  return x;
}
