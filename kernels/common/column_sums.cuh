// The column sums of a product's output, for an epilogue that returns the gradient of a bias.
//
// A thread adds the rows that it stores. The block adds its threads in shared memory and writes one
// part for its row of tiles; the block of a column of tiles that arrives last adds the parts. All
// sums are in a fixed order, which depends on sizes and on the shape of the tile alone.
#pragma once

#include "arrivals.cuh"
#include "block_reduce.cuh"
#include "product.cuh"
#include "vec.cuh"

// The sums of a thread for its runs of four columns.
template <int kRuns>
struct ThreadSums {
  float at[kRuns][4] = {};

  __device__ __forceinline__ void add(int run, const float (&values)[4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) at[run][k] += values[k];
  }
};

// The output of the column sums of `cols` columns.
struct ColumnSums {
  float* parts;
  float* sums;
  uint32_t* arrivals;
  uint64_t cols;
  uint32_t accumulate;

  // Adds the sums of all threads: those of this one are for the columns of the tile from
  // `col(run)` on. `rank` numbers the threads that have the same columns. `shared` has room for
  // kThreads * kRuns * 4 floats.
  template <int kThreads, int kCols, int kRuns, typename Col>
  __device__ __forceinline__ void reduce(const ThreadSums<kRuns>& own, int rank, Col col,
                                         float* shared, TileIndex tile, uint32_t row_tiles) const {
    constexpr int kRanks = kThreads * kRuns * 4 / kCols, kWidth = kCols / 4,
                  kRows = kThreads / kWidth;
    static_assert(kRows <= kRanks && kThreads >= kCols, "the shapes of tiles");
    const uint64_t first = uint64_t(tile.col) * kCols;
    // No warp reads the operands any more.
    __syncthreads();
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
#pragma unroll
      for (int k = 0; k < 4; ++k) shared[rank * kCols + col(run) + k] = own.at[run][k];
    }
    __syncthreads();
    const bool has_column = threadIdx.x < kCols && first + threadIdx.x < cols;
    if (has_column) parts[tile.row * cols + first + threadIdx.x] = column<kRanks, kCols>(shared);
    if (!arrives_last(arrivals + tile.col, row_tiles)) return;
    // A row of threads adds every kRows-th part, four columns per thread.
    const int lane = threadIdx.x % kWidth * 4, row = threadIdx.x / kWidth;
    float sum[4] = {};
    if (first + lane < cols) {
#pragma unroll 8
      for (uint32_t part = row; part < row_tiles; part += kRows) {
        const Vec<float, 4> run = load_run(parts + part * cols + first + lane, cols - first - lane);
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[k] += run.at[k];
      }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) shared[row * kCols + lane + k] = sum[k];
    __syncthreads();
    if (has_column) store_sum(sums + first + threadIdx.x, column<kRows, kCols>(shared), accumulate);
  }

 private:
  // Returns the sum of a column, one for each thread, in the order of the rows.
  template <int kRows, int kCols>
  static __device__ __forceinline__ float column(const float* shared) {
    float sum = 0.0f;
#pragma unroll
    for (int row = 0; row < kRows; ++row) sum += shared[row * kCols + threadIdx.x];
    return sum;
  }
};
