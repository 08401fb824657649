// Reductions over the threads of a block, in fixed reduction trees. The threads lie in rows of
// `width` threads, a power of two of at most a warp; a row reads neighbouring columns of a matrix.
#pragma once

#include <stdint.h>

#include "reduce.cuh"

// Returns the width of rows with a thread for each of `runs` runs of columns: the least power of
// two that is enough, at most a warp.
__device__ __forceinline__ int row_width(uint64_t runs) {
  return runs >= 32 ? 32 : runs <= 1 ? 1 : 1 << (32 - __clz(uint32_t(runs) - 1));
}

// Returns the sum over the block to its first thread: a reduction tree in each warp, then the warps
// in order.
template <int kThreads, typename T>
__device__ __forceinline__ T block_sum(T x) {
  __shared__ T sums[kThreads / 32];
  x = group_sum(x, 32);
  // Nobody may still read the sums of a call before this one.
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = 0;
  if (threadIdx.x == 0) {
    for (T of_warp : sums) sum += of_warp;
  }
  return sum;
}

// Adds N sums of each thread over the rows of threads, by a reduction tree in shared memory: `sums`
// has at least N elements. The first row has the result.
template <int kThreads, int N>
__device__ __forceinline__ void sum_rows(float (*sums)[kThreads], float (&sum)[N], int width) {
  // Nobody may still read the sums of a call before this one.
  __syncthreads();
#pragma unroll
  for (int j = 0; j < N; ++j) sums[j][threadIdx.x] = sum[j];
#pragma unroll 1
  for (int step = kThreads / 2; step >= width; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) {
#pragma unroll
      for (int j = 0; j < N; ++j) sums[j][threadIdx.x] += sums[j][threadIdx.x + step];
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) sum[j] = sums[j][threadIdx.x];
}

// Stores a gradient, or adds it to the one that is there.
__device__ __forceinline__ void store_sum(float* to, float sum, uint32_t accumulate) {
  *to = accumulate ? *to + sum : sum;
}
