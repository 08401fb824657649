// Tiles of a matrix product on the tensor cores, of f16, bf16, or f32 that are rounded to tf32; sums in f32.
//
// A block computes a tile of the output. Panels of both operands, 64 bytes of terms deep, come to shared memory by asynchronous copies, three pairs
// of panels ahead of the arithmetic. A panel lies as its operand does in global memory. Its rows' pieces of 16 bytes are permuted, so that the
// eight rows of a matrix that ldmatrix reads lie in different banks, whichever way it reads them; it transposes elements of 16 bits where a row
// is a term. Elements of 32 bits it cannot transpose: these are read one by one, from rows that are padded to the same end.
#pragma once

#include "product.cuh"
#include "ptx.cuh"
#include "vec.cuh"

// Bytes of terms that are in shared memory at once, for each output.
constexpr int kPanelDepth = 64;
// Panels of an operand in shared memory.
constexpr int kStages = 4;

// How a block shares out its tile: warps of kWarpRows x kWarpCols elements each.
template <int kRowWarps, int kColWarps, int kWarpRows, int kWarpCols>
struct MmaTile {
  static constexpr int kThreads = kRowWarps * kColWarps * 32;
  static constexpr int kRows = kRowWarps * kWarpRows, kCols = kColWarps * kWarpCols;
  // Shared memory for the panels of any type, padded or not, as src/backend/cuda/linear.rs asks for it.
  static constexpr int kShared = kStages * kPanelDepth * (kRows + kCols + 16);
  static constexpr int kRowParts = kWarpRows / 16, kColParts = kWarpCols / 16;

  // The first row (column) of a part of this warp's.
  static __device__ __forceinline__ int row(int part) { return threadIdx.x / 32 % kRowWarps * kWarpRows + part * 16; }
  static __device__ __forceinline__ int col(int part) { return threadIdx.x / 32 / kRowWarps * kWarpCols + part * 16; }
};

// 128 x 128 and 64 x 64.
using MmaLarge = MmaTile<2, 4, 64, 32>;
using MmaSmall = MmaTile<2, 2, 32, 32>;

// Where the elements of an operand's panel lie in shared memory.
template <typename E, Row kRow, int kOutputs>
struct Panel {
  static constexpr int kTerms = kPanelDepth / int(sizeof(E));
  static constexpr bool kPadded = kRow == Row::kTerm && sizeof(E) == 4;
  static constexpr int kRows = kRow == Row::kOutput ? kOutputs : kTerms;
  static constexpr int kRowBytes = (kRow == Row::kOutput ? kTerms : kOutputs) * int(sizeof(E));
  static constexpr int kStride = kRowBytes + (kPadded ? 32 : 0);
  static constexpr int kBytes = kRows * kStride;

  static __device__ __forceinline__ int offset(int row, int byte) {
    if (kPadded) return row * kStride + byte;
    return row * kStride + (byte ^ (kRow == Row::kOutput ? row / 2 % 4 : row % 8) * 16);
  }

  // Rows `first` to `first` + 15 of the output, for the terms of a step (32 bytes of them), as the left factor of a product.
  static __device__ __forceinline__ void load_left(const char* panel, int step, int first, uint32_t (&out)[4]) {
    const int lane = threadIdx.x % 32;
    if constexpr (kRow == Row::kOutput) {
      load_matrices(out, panel + offset(first + lane % 16, step * 32 + lane / 16 * 16));
    } else if constexpr (!kPadded) {
      load_transposed(out, panel + offset(step * 16 + lane % 8 + lane / 16 * 8, (first + lane / 8 % 2 * 8) * 2));
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) out[k] = single(panel, step * 8 + lane % 4 + k / 2 * 4, first + lane / 4 + k % 2 * 8);
    }
    round_factors<E>(out);
  }

  // Columns `first` to `first` + 15 as the right factors of two products, one after the other.
  static __device__ __forceinline__ void load_right(const char* panel, int step, int first, uint32_t (&out)[4]) {
    const int lane = threadIdx.x % 32;
    if constexpr (kRow == Row::kOutput) {
      load_matrices(out, panel + offset(first + lane % 8 + lane / 16 * 8, step * 32 + lane / 8 % 2 * 16));
    } else if constexpr (!kPadded) {
      load_transposed(out, panel + offset(step * 16 + lane % 16, (first + lane / 16 * 8) * 2));
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) out[k] = single(panel, step * 8 + lane % 4 + k % 2 * 4, first + lane / 4 + k / 2 * 8);
    }
    round_factors<E>(out);
  }

 private:
  static __device__ __forceinline__ uint32_t single(const char* panel, int term, int output) {
    return *reinterpret_cast<const uint32_t*>(panel + offset(term, output * 4));
  }
};

// The copies of an operand's panels, from term to term.
template <typename E, Row kRow, int kThreads, int kOutputs>
class PanelSource {
 public:
  using P = Panel<E, kRow, kOutputs>;

  __device__ __forceinline__ PanelSource(const Operand<E>& operand, uint64_t output, uint64_t term)
      : from(operand.data + (kRow == Row::kOutput ? output * operand.ld + term : term * operand.ld + output)),
        ld(operand.ld),
        outputs(operand.outputs_from(output, kOutputs)),
        together(uint32_t(reinterpret_cast<uintptr_t>(operand.data) | operand.ld * sizeof(E)) % 16) {}

  // Starts the copy of the next panel, of which no more than `terms` exist; zeros for the others, and beyond the last output.
  __device__ __forceinline__ void copy(char* panel, uint32_t terms) {
    const int exist = int(min(terms, uint32_t(P::kTerms))), rows = kRow == Row::kOutput ? outputs : exist;
    const int bytes = (kRow == Row::kOutput ? exist : outputs) * int(sizeof(E));
    if (together == 0) {
      copy_runs<16>(panel, rows, bytes);
    } else if (sizeof(E) == 4 || together % 4 == 0) {
      copy_runs<4>(panel, rows, bytes);
    } else {
      copy_runs<2>(panel, rows, bytes);
    }
    from += kRow == Row::kOutput ? P::kTerms : P::kTerms * ld;
  }

 private:
  // A thread copies kRun bytes at a time; two at a time not asynchronously, but just as far ahead.
  template <int kRun>
  __device__ __forceinline__ void copy_runs(char* panel, int rows, int bytes) const {
    constexpr int kRuns = P::kRowBytes / kRun;
#pragma unroll(kRun == 4 ? 1 : 2)
    for (int k = threadIdx.x; k < P::kRows * kRuns; k += kThreads) {
      const int row = k / kRuns, byte = k % kRuns * kRun;
      const char* source = reinterpret_cast<const char*>(from + row * ld) + byte;
      const int left = row < rows ? max(min(bytes - byte, kRun), 0) : 0;
      if constexpr (kRun == 2) {
        *reinterpret_cast<uint16_t*>(panel + P::offset(row, byte)) = left > 0 ? *reinterpret_cast<const uint16_t*>(source) : 0;
      } else {
        copy_async<kRun>(panel + P::offset(row, byte), source, left);
      }
    }
  }

  const E* from;
  const uint64_t ld;
  const int outputs;
  const uint32_t together;  // 0 if rows begin at multiples of 16 bytes
};

// Hands on 16 x 16 sums in runs of four columns. Lanes hold two columns of either half: neighbours trade, so that each has four of one half.
template <typename Store>
__device__ __forceinline__ void store_part(const float (&halves)[2][4], uint64_t row, uint64_t col, uint64_t rows, uint64_t cols, Store store) {
  const int lane = threadIdx.x % 32;
  const bool odd = lane % 2;
  col += (odd ? 8 : 0) + lane % 4 / 2 * 4;
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    float values[4];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float left = halves[0][lower * 2 + k], right = halves[1][lower * 2 + k];
      const float traded = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
      values[k] = odd ? traded : left;
      values[k + 2] = odd ? right : traded;
    }
    const uint64_t at = row + lower * 8 + lane / 4;
    if (at < rows && col < cols) store(at, col, values);
  }
}

// As `product` of simt_product.cuh, on the tensor cores.
template <typename T, typename E, Row kA, Row kB, typename Store>
__device__ __forceinline__ void mma_product(const Operand<E>& a, const Operand<E>& b, uint64_t begin, uint32_t terms, Store store) {
  using A = Panel<E, kA, T::kRows>;
  using B = Panel<E, kB, T::kCols>;
  constexpr int kStageBytes = A::kBytes + B::kBytes;
  static_assert(kStages * kStageBytes <= T::kShared, "no more than is asked for");
  extern __shared__ __align__(128) char panels[];
  const TileIndex tile = tile_of_block(b.outputs, T::kCols);
  const uint64_t first_row = uint64_t(tile.row) * T::kRows, first_col = uint64_t(tile.col) * T::kCols;
  PanelSource<E, kA, T::kThreads, T::kRows> a_source(a, first_row, begin);
  PanelSource<E, kB, T::kThreads, T::kCols> b_source(b, first_col, begin);
  // An empty group counts, too: so the last panels are waited for like all others.
  const auto copy = [&](uint32_t panel) {
    if (panel * A::kTerms < terms) {
      char* stage = panels + panel % kStages * kStageBytes;
      a_source.copy(stage, terms - panel * A::kTerms);
      b_source.copy(stage + A::kBytes, terms - panel * A::kTerms);
    }
    commit_copies();
  };
  float sums[T::kRowParts][T::kColParts][2][4] = {};
#pragma unroll 1
  for (uint32_t panel = 0; panel + 1 < kStages; ++panel) copy(panel);
#pragma unroll 1
  for (uint32_t panel = 0; panel * A::kTerms < terms; ++panel) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    // All are through with the stage that this overwrites.
    copy(panel + kStages - 1);
    const char* a_panel = panels + panel % kStages * kStageBytes;
    const char* b_panel = a_panel + A::kBytes;
#pragma unroll
    for (int step = 0; step < kPanelDepth / 32; ++step) {
      uint32_t left[T::kRowParts][4];
#pragma unroll
      for (int i = 0; i < T::kRowParts; ++i) A::load_left(a_panel, step, T::row(i), left[i]);
#pragma unroll
      for (int j = 0; j < T::kColParts; ++j) {
        uint32_t right[4];
        B::load_right(b_panel, step, T::col(j), right);
#pragma unroll
        for (int i = 0; i < T::kRowParts; ++i) {
          multiply_add<E>(sums[i][j][0], left[i], right[0], right[1]);
          multiply_add<E>(sums[i][j][1], left[i], right[2], right[3]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < T::kRowParts; ++i) {
#pragma unroll
    for (int j = 0; j < T::kColParts; ++j) {
      store_part(sums[i][j], first_row + T::row(i), first_col + T::col(j), a.outputs, b.outputs, store);
    }
  }
}
