// Tiles of a matrix product on the tensor cores: factors of f16, bf16, or f32 rounded to tf32; sums
// in f32.
//
// A block computes a tile of the output. Panels of both operands, 128 bytes of terms deep, come to
// shared memory in a cp.async pipeline of kPanelStages stages, two of them ahead of the arithmetic.
//
// A panel has the same layout as its operand in global memory, so that copies are coalesced. The
// 16-byte pieces of a row are swizzled (XOR with the row's number), so that the eight rows that
// ldmatrix reads at a time have no bank conflicts, with and without transposition. ldmatrix
// transposes elements of 16 bits where a row is a term. It cannot transpose elements of 32 bits:
// these are read one by one, and the swizzle of their rows moves pieces of 32 bytes.
//
// Besides the tensor cores, address arithmetic limits such products. Therefore each thread computes
// one base address for its copies and one for its reads; all other addresses of whole panels differ
// from these by constants.
#pragma once

#include "column_sums.cuh"
#include "params/linear.cuh"
#include "product.cuh"
#include "ptx.cuh"
#include "vec.cuh"

// The shape of a tile: kRowWarps x kColWarps warps, each with kWarpRows x kWarpCols elements.
template <int kRowWarps, int kColWarps, int kWarpRows, int kWarpCols>
struct MmaTile {
  static constexpr int kThreads = kRowWarps * kColWarps * 32;
  static constexpr int kRows = kRowWarps * kWarpRows, kCols = kColWarps * kWarpCols;
  // The bytes of shared memory for panels of any type.
  static constexpr int kShared = kPanelStages * kPanelDepth * (kRows + kCols);
  static constexpr int kRowParts = kWarpRows / 16, kColParts = kWarpCols / 16;

  // Returns the first row (column) of a 16 x 16 part of this warp's elements.
  static __device__ __forceinline__ int row(int part) {
    return threadIdx.x / 32 % kRowWarps * kWarpRows + part * 16;
  }
  static __device__ __forceinline__ int col(int part) {
    return threadIdx.x / 32 / kRowWarps * kWarpCols + part * 16;
  }
  // Returns the first of the four columns of a 16 x 16 part that `runs_of_part` gives to this lane,
  // and its row in the upper half; it has the same columns of the lower half.
  static __device__ __forceinline__ int lane_col(int part) {
    const int lane = threadIdx.x % 32;
    return col(part) + lane % 2 * 8 + lane % 4 / 2 * 4;
  }
  static __device__ __forceinline__ int lane_row(int part) {
    return row(part) + threadIdx.x % 32 / 4;
  }
  // Returns the number of this thread among those with the same columns.
  static __device__ __forceinline__ int rank() {
    return threadIdx.x / 32 % kRowWarps * 8 + threadIdx.x % 32 / 4;
  }
};

// Tiles of 128 x 128 and 64 x 64.
using MmaLarge = MmaTile<2, 4, 64, 32>;
using MmaSmall = MmaTile<2, 2, 32, 32>;
static_assert(MmaLarge::kShared == kLargePanels && MmaLarge::kThreads == kLargeThreads, "");
static_assert(MmaSmall::kShared == kSmallPanels && MmaSmall::kThreads == kSmallThreads, "");
static_assert(MmaLarge::kRows == kLargeSide && MmaLarge::kCols == kLargeSide, "");
static_assert(MmaSmall::kRows == kSmallSide && MmaSmall::kCols == kSmallSide, "");

// The swizzled layout of an operand's panel in shared memory.
template <typename E, Row kRow, int kOutputs>
struct Panel {
  static constexpr int kTerms = kPanelDepth / int(sizeof(E));
  // Set if elements need a transposition that ldmatrix does not have: they are read one by one.
  static constexpr bool kSingle = kRow == Row::kTerm && sizeof(E) == 4;
  static constexpr int kRows = kRow == Row::kOutput ? kOutputs : kTerms;
  static constexpr int kRowBytes = (kRow == Row::kOutput ? kTerms : kOutputs) * int(sizeof(E));
  static constexpr int kBytes = kRows * kRowBytes;
  // The number of rows after which the swizzle repeats.
  static constexpr int kPeriod = kSingle ? 4 : 8;

  static __device__ __forceinline__ int offset(int row, int byte) {
    return row * kRowBytes + (byte ^ row % kPeriod * (kSingle ? 32 : 16));
  }
};

// Loads tensor-core fragments from a panel, for the outputs from `first` on. The addresses for
// other steps and parts differ from the lane's base address by a constant distance or by constant
// bits of the place in the row. A left fragment holds 16 outputs; a right one holds those of two
// products of 8 columns, one after the other.
template <typename E, Row kRow, int kOutputs, bool kRight>
class PanelReader {
 public:
  using P = Panel<E, kRow, kOutputs>;

  __device__ __forceinline__ explicit PanelReader(int first) {
    const int lane = threadIdx.x % 32;
    // A left fragment takes its matrices of 8 x 16 bytes in the order upper left, lower left, upper
    // right, lower right. A right fragment lies across, so the second and third are exchanged.
    const int along = kRight ? lane % 8 + lane / 16 * 8 : lane % 16,
              across = kRight ? lane / 8 % 2 : lane / 16;
    if constexpr (kRow == Row::kOutput) {
      at = P::offset(first + along, across * 16);
    } else if constexpr (!P::kSingle) {
      at = P::offset(kRight ? lane % 16 : lane % 8 + lane / 16 * 8,
                     first * 2 + (kRight ? lane / 16 : lane / 8 % 2) * 16);
    } else {
      at = P::offset(lane % 4, (first + lane / 4) * 4);
    }
  }

  // Loads the fragment of outputs `part` * 16 to `part` * 16 + 15, for the 32 bytes of terms of a
  // step.
  __device__ __forceinline__ void load(const char* panel, int step, int part,
                                       uint32_t (&out)[4]) const {
    if constexpr (kRow == Row::kOutput) {
      load_matrices(out, panel + part * 16 * P::kRowBytes + (at ^ step * 32));
    } else if constexpr (!P::kSingle) {
      load_transposed(out, panel + step * 16 * P::kRowBytes + (at ^ part * 32));
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int later = kRight ? k % 2 : k / 2, lower = kRight ? k / 2 : k % 2;
        out[k] = *reinterpret_cast<const uint32_t*>(panel + (step * 8 + later * 4) * P::kRowBytes +
                                                    (at ^ (part * 64 + lower * 32)));
      }
    }
    round_factors<E>(out);
  }

 private:
  int at;  // The base offset of the calling lane in a panel.
};

// Copies an operand's panels to shared memory, one after another along the terms.
template <typename E, Row kRow, int kThreads, int kOutputs>
class PanelSource {
 public:
  using P = Panel<E, kRow, kOutputs>;

  __device__ __forceinline__ PanelSource(const Operand<E>& operand, uint64_t output, uint64_t term)
      : from(operand.data +
             (kRow == Row::kOutput ? output * operand.ld + term : term * operand.ld + output)),
        own(threadIdx.x / kPieces * operand.ld + threadIdx.x % kPieces * (16 / sizeof(E))),
        ld(operand.ld),
        beyond(operand.outputs_from(output, 2 * kOutputs)),
        together(uint32_t(reinterpret_cast<uintptr_t>(operand.data) | operand.ld * sizeof(E)) %
                 16) {}

  // Starts the copy of the next panel, of which at most `terms` terms exist. The other terms, and
  // the outputs behind the last one, become zeros.
  __device__ __forceinline__ void copy(char* panel, uint32_t terms) {
    const int exist = int(min(terms, uint32_t(P::kTerms))), outputs = min(beyond, kOutputs),
              rows = kRow == Row::kOutput ? outputs : exist;
    const int bytes = (kRow == Row::kOutput ? exist : outputs) * int(sizeof(E));
    if (together == 0 && outputs == kOutputs && exist == P::kTerms) {
      copy_whole(panel);
    } else if (together == 0) {
      copy_runs<16>(panel, rows, bytes);
    } else if (sizeof(E) == 4) {
      copy_runs<4>(panel, rows, bytes);
    } else {
      copy_words(
          panel, rows, bytes,
          (kRow == Row::kOutput ? int(min(terms, 2u * P::kTerms)) : beyond) * int(sizeof(E)));
    }
    from += kRow == Row::kOutput ? P::kTerms : P::kTerms * ld;
  }

 private:
  // The number of 16-byte pieces in a row, and the distance in rows of a thread's pieces in a whole
  // panel.
  static constexpr int kPieces = P::kRowBytes / 16, kApart = kThreads / kPieces;
  static_assert(kApart % P::kPeriod == 0, "a thread's pieces are permuted alike");

  __device__ __forceinline__ void copy_whole(char* panel) const {
    char* to = panel + P::offset(threadIdx.x / kPieces, threadIdx.x % kPieces * 16);
    const E* source = from + own;
#pragma unroll
    for (int row = 0; row < P::kRows; row += kApart) {
      copy_async<16>(to + row * P::kRowBytes, source);
      source += kApart * ld;
    }
  }

  template <int kRun>
  __device__ __forceinline__ void copy_runs(char* panel, int rows, int bytes) const {
    constexpr int kRuns = P::kRowBytes / kRun;
#pragma unroll 1
    for (int k = threadIdx.x; k < P::kRows * kRuns; k += kThreads) {
      const int row = k / kRuns, byte = k % kRuns * kRun;
      const int left = row < rows ? max(min(bytes - byte, kRun), 0) : 0;
      copy_async<kRun>(panel + P::offset(row, byte),
                       reinterpret_cast<const char*>(from + row * ld) + byte, left);
    }
  }

  // Copies a panel of 16-bit elements whose rows are not aligned to 16 bytes. Each piece is shifted
  // together from the aligned words that cover it: in registers rather than asynchronously, but the
  // same number of stages ahead. `readable` is the number of bytes of a row that may be read from
  // the panel's begin on.
  __device__ __forceinline__ void copy_words(char* panel, int rows, int bytes, int readable) const {
#pragma unroll 2
    for (int k = threadIdx.x; k < P::kRows * kPieces; k += kThreads) {
      const int row = k / kPieces, byte = k % kPieces * 16;
      const E* source = from + row * ld + byte / int(sizeof(E));
      const int shift = int(reinterpret_cast<uintptr_t>(source) % 4);
      uint32_t words[4] = {};
      if (row < rows && bytes - byte >= 16 && readable - byte >= 16 + shift) {
        const uint32_t* word =
            reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(source) - shift);
        uint32_t loaded[5];
#pragma unroll
        for (int w = 0; w < 4; ++w) loaded[w] = word[w];
        loaded[4] = shift ? word[4] : 0;
#pragma unroll
        for (int w = 0; w < 4; ++w) words[w] = __funnelshift_r(loaded[w], loaded[w + 1], shift * 8);
      } else if (row < rows) {
        const uint16_t* element = reinterpret_cast<const uint16_t*>(source);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          if (byte + 2 * e < bytes) words[e / 2] |= uint32_t(element[e]) << e % 2 * 16;
        }
      }
      *reinterpret_cast<uint4*>(panel + P::offset(row, byte)) =
          make_uint4(words[0], words[1], words[2], words[3]);
    }
  }

  const E* from;
  const uint64_t own;  // The offset of the calling thread's first piece in a panel.
  const uint64_t ld;
  const int beyond;         // The number of outputs that exist, at most two tiles of them.
  const uint32_t together;  // Zero if all rows begin at multiples of 16 bytes.
};

// Gives each lane two runs of four columns of 16 x 16 sums, one in each half of the rows. A lane
// holds two columns of each half of the columns; a warp shuffle exchanges them between neighbours.
__device__ __forceinline__ void runs_of_part(const float (&halves)[2][4], float (&runs)[2][4]) {
  const bool odd = threadIdx.x % 2;
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float left = halves[0][lower * 2 + k], right = halves[1][lower * 2 + k];
      const float traded = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
      runs[lower][k] = odd ? traded : left;
      runs[lower][k + 2] = odd ? right : traded;
    }
  }
}

// Computes the block's tile of a product on the tensor cores; see `product` in simt_product.cuh.
template <typename T, typename E, Row kA, Row kB, typename Store>
__device__ __forceinline__ void mma_product(const Operand<E>& a, const Operand<E>& b,
                                            uint64_t begin, uint32_t terms, Store store) {
  using A = Panel<E, kA, T::kRows>;
  using B = Panel<E, kB, T::kCols>;
  constexpr int kStageBytes = A::kBytes + B::kBytes;
  static_assert(kPanelStages * kStageBytes <= T::kShared, "no more than is asked for");
  extern __shared__ __align__(128) char panels[];
  const TileIndex tile = tile_of_block(b.outputs, T::kCols);
  const uint64_t first_row = uint64_t(tile.row) * T::kRows,
                 first_col = uint64_t(tile.col) * T::kCols;
  PanelSource<E, kA, T::kThreads, T::kRows> a_source(a, first_row, begin);
  PanelSource<E, kB, T::kThreads, T::kCols> b_source(b, first_col, begin);
  const PanelReader<E, kA, T::kRows, false> a_reader(T::row(0));
  const PanelReader<E, kB, T::kCols, true> b_reader(T::col(0));
  // Commits a group even if it is empty, so that the last panels are waited for like all others.
  const auto copy = [&](char* stage, uint32_t first) {
    if (first < terms) {
      a_source.copy(stage, terms - first);
      b_source.copy(stage + A::kBytes, terms - first);
    }
    commit_copies();
  };
  float sums[T::kRowParts][T::kColParts][2][4] = {};
#pragma unroll 1
  for (int k = 0; k + 1 < kPanelStages; ++k) copy(panels + k * kStageBytes, k * A::kTerms);
  char* const last = panels + (kPanelStages - 1) * kStageBytes;
  char *stage = panels, *free = last;
#pragma unroll 1
  for (uint32_t first = 0; first < terms; first += A::kTerms) {
    wait_for_copies<kPanelStages - 2>();
    __syncthreads();
    // After the barrier no warp reads the stage that this copy overwrites.
    copy(free, first + (kPanelStages - 1) * A::kTerms);
    free = stage;
#pragma unroll
    for (int step = 0; step < kPanelDepth / 32; ++step) {
      uint32_t left[T::kRowParts][4];
#pragma unroll
      for (int i = 0; i < T::kRowParts; ++i) a_reader.load(stage, step, i, left[i]);
#pragma unroll
      for (int j = 0; j < T::kColParts; ++j) {
        uint32_t right[4];
        b_reader.load(stage + A::kBytes, step, j, right);
#pragma unroll
        for (int i = 0; i < T::kRowParts; ++i) {
          multiply_add<E>(sums[i][j][0], left[i], right[0], right[1]);
          multiply_add<E>(sums[i][j][1], left[i], right[2], right[3]);
        }
      }
    }
    stage = stage == last ? panels : stage + kStageBytes;
  }
  ThreadSums<T::kColParts> column_sums;
#pragma unroll
  for (int i = 0; i < T::kRowParts; ++i) {
    const auto row = [&](int lower) { return first_row + T::lane_row(i) + lower * 8; };
    const auto exists = [&](int j, int lower) {
      return row(lower) < a.outputs && first_col + T::lane_col(j) < b.outputs;
    };
    if constexpr (Store::kSumsColumns) {
      if (store.sums_columns()) {
        // All inputs of these rows are loaded before any is used.
        Vec<E, 4> inputs[T::kColParts][2];
#pragma unroll
        for (int j = 0; j < T::kColParts; ++j) {
#pragma unroll
          for (int lower = 0; lower < 2; ++lower) {
            if (exists(j, lower))
              inputs[j][lower] = store.load_input(row(lower), first_col + T::lane_col(j));
          }
        }
#pragma unroll
        for (int j = 0; j < T::kColParts; ++j) {
          float runs[2][4];
          runs_of_part(sums[i][j], runs);
#pragma unroll
          for (int lower = 0; lower < 2; ++lower) {
            if (!exists(j, lower)) continue;
            store.through_relu(row(lower), first_col + T::lane_col(j), inputs[j][lower],
                               runs[lower]);
            column_sums.add(j, runs[lower]);
          }
        }
        continue;
      }
    }
#pragma unroll
    for (int j = 0; j < T::kColParts; ++j) {
      float runs[2][4];
      runs_of_part(sums[i][j], runs);
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) {
        if (exists(j, lower)) store(row(lower), first_col + T::lane_col(j), runs[lower]);
      }
    }
  }
  if constexpr (Store::kSumsColumns) {
    if (store.sums_columns()) {
      store.column_sums().template reduce<T::kThreads, T::kCols>(
          column_sums, T::rank(), T::lane_col, reinterpret_cast<float*>(panels), tile,
          uint32_t((a.outputs + T::kRows - 1) / T::kRows));
    }
  }
}
