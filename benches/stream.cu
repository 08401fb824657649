// stream.cu: a read, a write and a copy of a buffer by plain loops, the yardstick of the kernels
// that memory bounds. Only the benchmark `stream` carries these kernels.
//
// Computes     read:  sums[block] = the sum of all words that the block reads, modulo 2^32
//              write: to[k] = pattern(k)
//              copy:  to[k] = from[k]
// Rust         benches/stream.rs
// Entries      stream_read, stream_write, stream_copy
// Algorithm    1. A buffer is cut into tiles of 256 * 4 vectors of 16 bytes. A grid-stride loop
//                 gives each block whole tiles, so that all accesses are coalesced.
//              2. A thread has all four loads of a tile in flight before it uses the first one.
//                 2048 threads of a multiprocessor then wait for 128 KB, several times the product
//                 of latency and bandwidth.
//              3. Loads and stores are marked as streaming (evict-first), since nothing is used
//                 twice.
// Mapping      block -> tiles blockIdx.x, blockIdx.x + gridDim.x, ..; in a tile:
//                vectors  |0 .. 255  |256 .. 511|512 .. 767|768 .. 1023|
//                thread   |0 .. 255  |0 .. 255  |0 .. 255  |0 .. 255   |
// Launch       grid (the blocks that run at once, or a block for each tile), block 256
// Bytes        the buffer once: read, written, or both
// Requires     whole tiles, at most 2^32 vectors
// Numerics     sums modulo 2^32, which no order changes
// Measured     compiled and emulated, not yet measured

#include <stdint.h>

// The number of threads of a block.
constexpr int kThreads = 256;
// The number of loads of a thread that are in flight at the same time.
constexpr int kInFlight = 4;
// The number of vectors of a tile.
constexpr uint64_t kTile = kThreads * kInFlight;

__device__ __forceinline__ uint32_t sum_of(uint4 v) { return v.x + v.y + v.z + v.w; }

// Returns the vector that a write leaves at position `at`: four words that look random, since
// devices can be faster with zeros.
__device__ __forceinline__ uint4 pattern(uint64_t at) {
  const uint32_t x = uint32_t(at) * 0x9e3779b9u;
  return make_uint4(x, x ^ x >> 15, x + 0x7f4a7c15u, ~x);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    stream_read(const uint4* from, uint32_t* sums, uint64_t tiles) {
  uint32_t sum = 0;
#pragma unroll 1
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const uint4* const at = from + tile * kTile + threadIdx.x;
    uint4 loaded[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) loaded[k] = __ldcs(at + k * kThreads);
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) sum += sum_of(loaded[k]);
  }
  __shared__ uint32_t of_warps[kThreads / 32];
  sum = __reduce_add_sync(0xffffffffu, sum);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) sum += of_warps[warp];
  sums[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(kThreads) stream_write(uint4* to, uint64_t tiles) {
#pragma unroll 1
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const uint64_t first = tile * kTile + threadIdx.x;
#pragma unroll
    for (int k = 0; k < kInFlight; ++k)
      __stcs(to + first + k * kThreads, pattern(first + k * kThreads));
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    stream_copy(const uint4* from, uint4* to, uint64_t tiles) {
#pragma unroll 1
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const uint64_t first = tile * kTile + threadIdx.x;
    uint4 loaded[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) loaded[k] = __ldcs(from + first + k * kThreads);
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) __stcs(to + first + k * kThreads, loaded[k]);
  }
}
