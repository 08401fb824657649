// Prefix sums over the threads of a block, and over the tiles of a launch by decoupled look-back
// (Merrill and Garland, 2016).
#pragma once

#include "reduce.cuh"

// Returns the sum of `x` over the threads before the calling one: an exclusive prefix sum. All
// kThreads threads of the block must call this together.
template <int kThreads, typename T>
__device__ __forceinline__ T sum_of_threads_before(T x) {
  __shared__ T sums[kThreads / 32];
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T sum = x;
#pragma unroll
  for (uint32_t step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(kWarp, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  T before = sum - x;
#pragma unroll
  for (uint32_t w = 0; w < kThreads / 32; ++w) before += w < warp ? sums[w] : 0;
  return before;
}

// The status word of a tile in a look-back. The high half holds the round and whether the sum
// covers the tile alone or all tiles up to it; the low half holds the sum. One load reads both, and
// so no fence is needed. Zero before the first round.
using TileWord = unsigned long long;

__device__ __forceinline__ void publish(TileWord* word, uint32_t round, bool with_all_before,
                                        uint32_t sum) {
  *static_cast<volatile TileWord*>(word) = TileWord(2 * round + 1 + with_all_before) << 32 | sum;
}

// Returns the number of this block's tile. Tickets are drawn in the order in which blocks start, so
// that a look-back waits only for blocks that are already running. All threads of the block must
// call this together.
__device__ __forceinline__ uint32_t take_tile(uint32_t* tickets) {
  __shared__ uint32_t tile;
  if (threadIdx.x == 0) tile = atomicAdd(tickets, 1u);
  __syncthreads();
  return tile;
}

// Returns the sum over the tiles before `tile` by look-back, with words `stride` apart. Several
// words are loaded at once, so that their latencies overlap.
__device__ __forceinline__ uint32_t sum_of_tiles_before(const TileWord* words, uint32_t tile,
                                                        uint32_t stride, uint32_t round) {
  constexpr uint32_t kWindow = 8;
  uint32_t sum = 0;
  uint32_t end = tile;
  while (end > 0) {
    TileWord read[kWindow];
#pragma unroll
    for (uint32_t k = 0; k < kWindow; ++k) {
      read[k] = k < end
                    ? *static_cast<const volatile TileWord*>(words + uint64_t(end - 1 - k) * stride)
                    : 0;
    }
    bool ready = true;
#pragma unroll
    for (uint32_t k = 0; k < kWindow; ++k) {
      const uint32_t known = uint32_t(read[k] >> 32);
      ready &= known > 2 * round;
      if (!ready) continue;
      sum += uint32_t(read[k]);
      --end;
      if (known == 2 * round + 2) return sum;
    }
  }
  return sum;
}

// Returns the sum over the tiles before `tile` by look-back with contiguous words. A whole warp
// calls this together, one lane per tile.
__device__ __forceinline__ uint32_t sum_of_tiles_before(const TileWord* words, uint32_t tile,
                                                        uint32_t round) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t sum = 0;
  uint32_t end = tile;
  while (end > 0) {
    const TileWord word =
        lane < end ? *static_cast<const volatile TileWord*>(words + end - 1 - lane) : 0;
    const uint32_t known = uint32_t(word >> 32);
    // Counts the tiles that are known without a gap, up to the first one whose sum covers all tiles
    // before it.
    const uint32_t unknown = __ballot_sync(kWarp, known <= 2 * round),
                   whole = __ballot_sync(kWarp, known == 2 * round + 2);
    const uint32_t gap = unknown ? __ffs(unknown) - 1 : 32, last = whole ? __ffs(whole) : 33;
    const uint32_t count = min(gap, last);
    sum += __reduce_add_sync(kWarp, lane < count ? uint32_t(word) : 0);
    if (last <= gap) return sum;
    end -= count;
  }
  return sum;
}
