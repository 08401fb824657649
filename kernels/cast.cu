// cast.cu: a matrix in another storage type.
//
// Computes     to[r][c] = factor * from[r][c]
// Rust         src/ops/cast.rs, src/backend/cuda/cast.rs
// Entries      cast_{f32,f16,bf16}_{f32,f16,bf16}: from, to
// Algorithm    1. A grid-stride loop gives each thread runs of four elements of a row, so that
//                 accesses are coalesced.
//              2. A run is one vectorised access of 16 bytes, or 8 in 16 bits, where all rows are
//                 aligned to that; otherwise a thread takes single elements.
//              3. A matrix without gaps between rows is treated as one row, so that short rows do
//                 not leave threads idle.
// Mapping      blockIdx.y -> row, in a loop; T = 256 gridDim.x threads work on a row:
//                columns  |0 1 2 3|4 5 6 7| ... |4 T - 4 ..|4 T ..|       |rest, one by one|
//                thread   |   0   |   1   | ... |  T - 1   |  0   |  ...  | 0  1  2         |
// Launch       grid (as many blocks as a row has runs of 256 * 4 elements, at most 4096; rows, at
//              most 65535), block 256
// Bytes        each value read and written once
// Requires     factor is a power of two
// Numerics     product in f32, rounded once to the nearest value, ties to even: the same bits as on
//              the CPU, except that one NaN may stand for another
// Measured     compiled and emulated, tests pass on an NVIDIA H200; not yet measured

#include "common/vec.cuh"
#include "params/cast.cuh"

template <typename A, typename B>
__device__ __forceinline__ void convert(const A* from, B* to, float factor) {
  const Vec<A, kRun> values = load<kRun>(from);
  Vec<B, kRun> results;
#pragma unroll
  for (int k = 0; k < kRun; ++k)
    results.at[k] = from_f32<B>(__fmul_rn(to_f32(values.at[k]), factor));
  store(to, results);
}

template <typename A, typename B>
__device__ __forceinline__ void cast(const Cast<A, B>& p) {
  const uint64_t thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x,
                 threads = uint64_t(gridDim.x) * kThreads;
  const bool wide = is_aligned(p.from, kRun * sizeof(A)) && is_aligned(p.to, kRun * sizeof(B)) &&
                    (p.rows == 1 || (p.from_ld % kRun == 0 && p.to_ld % kRun == 0));
  const uint64_t runs = wide ? p.cols / kRun : 0;
  for (uint64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
    const A* const from_row = p.from + row * p.from_ld;
    B* const to_row = p.to + row * p.to_ld;
#pragma unroll 1
    for (uint64_t run = thread; run < runs; run += threads)
      convert(from_row + run * kRun, to_row + run * kRun, p.factor);
#pragma unroll 1
    for (uint64_t k = runs * kRun + thread; k < p.cols; k += threads)
      to_row[k] = from_f32<B>(__fmul_rn(to_f32(from_row[k]), p.factor));
  }
}

#define CAST(A, B)                                           \
  extern "C" __global__ void __launch_bounds__(kThreads)     \
      cast_##A##_##B(const __grid_constant__ Cast<A, B> p) { \
    cast(p);                                                 \
  }
FOR_EACH_PAIR_OF_ELEMENTS(CAST)
