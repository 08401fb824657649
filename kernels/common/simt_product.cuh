// Tiles of a matrix product in f32 on the CUDA cores: every product is exact, and fma adds it in
// the order of the terms.
//
// A block computes a tile of the output. Tiles of both operands, kDepth terms deep, come to shared
// memory in a cp.async pipeline ahead of the arithmetic: a double buffer where a block has enough
// arithmetic to hide the loads, four stages where it does little else than wait for them.
//
// In shared memory a row is a term, so that a thread reads its rows and columns with vectorised
// loads of four. An operand with the other layout in global memory is transposed by the copy, four
// bytes at a time. The order of these copies lets a warp read whole sectors and write without bank
// conflicts.
#pragma once

#include "column_sums.cuh"
#include "params/linear.cuh"
#include "product.cuh"
#include "ptx.cuh"
#include "vec.cuh"

// The number of terms in a tile of an operand.
constexpr int kDepth = 16;

// The shape of a tile. The block has kRowWarps x kColWarps warps, each of kRowLanes x (32 /
// kRowLanes) lanes, and each lane has kThreadRows x kThreadCols elements in runs of four (register
// blocking). kStages pairs of operand tiles are in shared memory.
template <int kRowWarps, int kColWarps, int kRowLanes, int kThreadRows_, int kThreadCols_,
          int kStages_>
struct Tile {
  static constexpr int kStages = kStages_;
  static constexpr int kThreads = kRowWarps * kColWarps * 32;
  static constexpr int kThreadRows = kThreadRows_, kThreadCols = kThreadCols_;
  static constexpr int kColLanes = 32 / kRowLanes;
  static constexpr int kRows = kRowWarps * kRowLanes * kThreadRows,
                       kCols = kColWarps * kColLanes * kThreadCols;

  // Returns the first row (column) of run `run` of this thread.
  static __device__ __forceinline__ int row(int run) {
    const int warp = threadIdx.x / 32 % kRowWarps, lane = threadIdx.x % kRowLanes;
    return warp * kRowLanes * kThreadRows + run * kRowLanes * 4 + lane * 4;
  }
  static __device__ __forceinline__ int col(int run) {
    const int warp = threadIdx.x / 32 / kRowWarps, lane = threadIdx.x % 32 / kRowLanes;
    return warp * kColLanes * kThreadCols + run * kColLanes * 4 + lane * 4;
  }
  // Returns the number of this thread among those with the same columns.
  static __device__ __forceinline__ int rank() {
    return threadIdx.x / 32 % kRowWarps * kRowLanes + threadIdx.x % kRowLanes;
  }
};

// Tiles of 128 x 128, 64 x 64, 32 x 32, and 128 x 16 for products with few columns.
using Large = Tile<2, 4, 8, 8, 8, 2>;
using Small = Tile<2, 2, 4, 8, 4, 2>;
using Tiny = Tile<2, 1, 4, 4, 4, 4>;
using Narrow = Tile<4, 1, 8, 4, 4, 4>;
static_assert(Large::kRows == kLargeSide && Large::kCols == kLargeSide, "");
static_assert(Small::kRows == kSmallSide && Small::kCols == kSmallSide, "");
static_assert(Tiny::kRows == kTinySide && Tiny::kCols == kTinySide, "");
static_assert(Narrow::kRows == kLargeSide && Narrow::kCols == kNarrowCols, "");
static_assert(Large::kThreads == kLargeThreads && Small::kThreads == kSmallThreads, "");
static_assert(Tiny::kThreads == kTinyThreads && Narrow::kThreads == kNarrowThreads, "");

// An operand's tile in shared memory. The padding of its rows spreads a column over different
// banks.
template <int kOutputs>
struct OperandTile {
  alignas(16) float at[kDepth][kOutputs + 4];
};

// A thread's share of the copies of an operand's tiles, one tile after another along the terms.
template <Row kRow, int kThreads, int kOutputs>
class Source {
 public:
  __device__ __forceinline__ Source(const Operand<float>& operand, uint64_t output, uint64_t term)
      : ld(operand.ld),
        outputs(operand.outputs_from(output, kOutputs)),
        wide(kRow == Row::kTerm && is_aligned(operand.data, 16) && operand.ld % 4 == 0) {
    if constexpr (kRow == Row::kOutput) {
      from = operand.data + (output + threadIdx.x / 8) * ld + term + threadIdx.x % 8;
    } else {
      const int run = wide ? 4 : 1, runs = kOutputs / run;
      from = operand.data + (term + threadIdx.x / runs) * ld + output + threadIdx.x % runs * run;
    }
  }

  // Starts the copy of the next tile, of which at most `terms` terms exist. The other terms, and
  // the outputs behind the last one, become zeros.
  __device__ __forceinline__ void copy(OperandTile<kOutputs>& tile, uint32_t terms) {
    if constexpr (kRow == Row::kOutput) {
      // A warp copies eight terms of four outputs: whole sectors of 32 bytes.
      constexpr int kStep = kThreads / 8;
      const int o = threadIdx.x / 8, t = threadIdx.x % 8;
      const float* row = from;
      // Unrolling further would keep an address in registers for each copy.
#pragma unroll 2
      for (int k = 0; k < kOutputs; k += kStep, row += kStep * ld) {
#pragma unroll
        for (int half = 0; half < kDepth; half += 8) {
          copy_async<4>(&tile.at[t + half][o + k], row + half,
                        o + k < outputs && t + half < terms ? 4 : 0);
        }
      }
      from += kDepth;
    } else {
      wide ? copy_rows<4>(tile, terms) : copy_rows<1>(tile, terms);
      from += kDepth * ld;
    }
  }

 private:
  // Copies rows without transposition: a row of threads copies a term, kRun outputs per thread.
  template <int kRun>
  __device__ __forceinline__ void copy_rows(OperandTile<kOutputs>& tile, uint32_t terms) const {
    constexpr int kRuns = kOutputs / kRun, kStep = kThreads / kRuns;
    const int o = threadIdx.x % kRuns * kRun, t = threadIdx.x / kRuns;
    const uint32_t bytes = max(min(outputs - o, kRun), 0) * 4;
    const float* row = from;
#pragma unroll(kRun == 1 ? 1 : kDepth)
    for (int k = 0; k < kDepth; k += kStep, row += kStep * ld) {
      if (kStep <= kDepth || t < kDepth)
        copy_async<4 * kRun>(&tile.at[t + k][o], row, t + k < terms ? bytes : 0);
    }
  }

  const float* from;
  const uint64_t ld;
  const int outputs;
  const bool wide;
};

// Reads N floats of a term in runs of four; `at(run)` returns the first column of a run.
template <int N, int kOutputs, typename At>
__device__ __forceinline__ void read_runs(const OperandTile<kOutputs>& tile, int term, At at,
                                          float (&out)[N]) {
#pragma unroll
  for (int run = 0; run < N / 4; ++run) {
    const Vec<float, 4> loaded = load<4>(&tile.at[term][at(run)]);
#pragma unroll
    for (int k = 0; k < 4; ++k) out[run * 4 + k] = loaded.at[k];
  }
}

// Computes the block's tile of the product of `a` (rows) and `b` (columns) over `terms` terms from
// `begin` on. It passes the sums to the epilogue in runs of four columns, not all of which need
// exist: `store(row, column, values)`.
template <typename T, typename E, Row kA, Row kB, typename Store>
__device__ __forceinline__ void product(const Operand<E>& a, const Operand<E>& b, uint64_t begin,
                                        uint32_t terms, Store store) {
  constexpr int kAhead = T::kStages - 1;
  __shared__ OperandTile<T::kRows> a_tiles[T::kStages];
  __shared__ OperandTile<T::kCols> b_tiles[T::kStages];
  const TileIndex tile = tile_of_block(b.outputs, T::kCols);
  Source<kA, T::kThreads, T::kRows> a_source(a, uint64_t(tile.row) * T::kRows, begin);
  Source<kB, T::kThreads, T::kCols> b_source(b, uint64_t(tile.col) * T::kCols, begin);
  // Starts the copies of the next tiles, if any are left after `done` terms.
  const auto copy = [&](int stage, uint32_t done) {
    if (done < terms) {
      a_source.copy(a_tiles[stage], terms - done);
      b_source.copy(b_tiles[stage], terms - done);
    }
    commit_copies();
  };
  float sums[T::kThreadRows][T::kThreadCols] = {};
#pragma unroll 1
  for (int stage = 0; stage < kAhead; ++stage) copy(stage, stage * kDepth);
  int stage = 0;
#pragma unroll 1
  for (uint32_t done = 0; done < terms; done += kDepth) {
    wait_for_copies<kAhead - 1>();
    __syncthreads();
    // After the barrier no warp reads the stage before this one.
    copy(stage == 0 ? kAhead : stage - 1, done + kAhead * kDepth);
#pragma unroll 4
    for (int t = 0; t < kDepth; ++t) {
      float of_a[T::kThreadRows], of_b[T::kThreadCols];
      read_runs(a_tiles[stage], t, T::row, of_a);
      read_runs(b_tiles[stage], t, T::col, of_b);
#pragma unroll
      for (int i = 0; i < T::kThreadRows; ++i) {
#pragma unroll
        for (int j = 0; j < T::kThreadCols; ++j)
          sums[i][j] = __fmaf_rn(of_a[i], of_b[j], sums[i][j]);
      }
    }
    stage = stage == kAhead ? 0 : stage + 1;
  }
  ThreadSums<T::kThreadCols / 4> column_sums;
#pragma unroll
  for (int i = 0; i < T::kThreadRows; ++i) {
    const uint64_t row = uint64_t(tile.row) * T::kRows + T::row(i / 4) + i % 4;
#pragma unroll
    for (int run = 0; run < T::kThreadCols / 4; ++run) {
      const uint64_t col = uint64_t(tile.col) * T::kCols + T::col(run);
      float values[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) values[k] = sums[i][run * 4 + k];
      if (row >= a.outputs || col >= b.outputs) continue;
      if constexpr (Store::kSumsColumns) {
        if (store.sums_columns()) {
          store.through_relu(row, col, store.load_input(row, col), values);
          column_sums.add(run, values);
          continue;
        }
      }
      store(row, col, values);
    }
  }
  if constexpr (Store::kSumsColumns) {
    if (store.sums_columns()) {
      static_assert(sizeof(a_tiles) >= T::kThreads * T::kThreadCols * sizeof(float), "room");
      store.column_sums().template reduce<T::kThreads, T::kCols>(
          column_sums, T::rank(), T::col, &a_tiles[0].at[0][0], tile,
          uint32_t((a.outputs + T::kRows - 1) / T::kRows));
    }
  }
}
