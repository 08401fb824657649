// Prefix sums: over the threads of a block, and over the tiles of a launch by decoupled look-back
// (Merrill and Garland, 2016).
#pragma once

#include "reduce.cuh"

// The sum of `x` over the threads before the calling one. All threads of the block, kThreads of
// them, must call it together.
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

// What is known of a sum over tiles: in the high half, in which round it was noted and whether it
// is of the tile alone or of all tiles up to it; in the low half the sum. One word, so that one
// load tells both, and nothing else needs to be ordered. Zero before the first round.
using TileWord = unsigned long long;

__device__ __forceinline__ void publish(TileWord* word, uint32_t round, bool with_all_before,
                                        uint32_t sum) {
  *static_cast<volatile TileWord*>(word) = TileWord(2 * round + 1 + with_all_before) << 32 | sum;
}

// The number of the tile that this block takes. Numbers are handed out as blocks begin, so that
// whoever waits for tiles before its own waits for blocks that are running already. All threads of
// the block must call it together.
__device__ __forceinline__ uint32_t take_tile(uint32_t* tickets) {
  __shared__ uint32_t tile;
  if (threadIdx.x == 0) tile = atomicAdd(tickets, 1u);
  __syncthreads();
  return tile;
}

// The sum over the tiles before `tile`, of words that are `stride` apart. Several words are read at
// once, since each read takes long.
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

// The same, of words side by side, by a whole warp: a lane for each tile.
__device__ __forceinline__ uint32_t sum_of_tiles_before(const TileWord* words, uint32_t tile,
                                                        uint32_t round) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t sum = 0;
  uint32_t end = tile;
  while (end > 0) {
    const TileWord word =
        lane < end ? *static_cast<const volatile TileWord*>(words + end - 1 - lane) : 0;
    const uint32_t known = uint32_t(word >> 32);
    // Those that are known without a gap, up to the first with all before it.
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
