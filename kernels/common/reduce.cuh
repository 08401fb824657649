// Reductions over a group of lanes: `size` lanes of a warp, a power of two, from a multiple of
// `size` on.
#pragma once

#include <stdint.h>

// The mask of all lanes of a warp. Votes and shuffles with a mask that the compiler does not know
// take longer, since the hardware serves one mask after another.
constexpr uint32_t kWarp = 0xffffffffu;

// Returns the mask of the group of the calling lane.
__device__ __forceinline__ uint32_t group_mask(int size) {
  const int lane = threadIdx.x % 32;
  return size == 32 ? 0xffffffffu : ((1u << size) - 1) << (lane / size * size);
}

// Returns true in every lane if `x` is true in any lane of the group. All groups of a warp must
// call this together.
__device__ __forceinline__ bool group_any(bool x, int size) {
  return __ballot_sync(kWarp, x) & group_mask(size);
}

// Returns in every lane the sum of `x` over the group, by a reduction tree of warp shuffles. All
// groups of a warp must call this together.
template <typename T>
__device__ __forceinline__ T group_sum(T x, int size) {
#pragma unroll 1
  for (int step = size / 2; step > 0; step /= 2) x += __shfl_xor_sync(kWarp, x, step);
  return x;
}
