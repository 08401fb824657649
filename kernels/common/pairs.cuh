// The features of a sample, their pairs, and the threads that work on them. All kernels of the
// interaction share this file.
#pragma once

#include "finite.cuh"
#include "params/pairs.cuh"
#include "ptx.cuh"
#include "vec.cuh"

// The features of a batch: the first feature of each sample is in `head`, the others are in `tail`,
// contiguous per sample.
template <typename T>
struct Features {
  T* head;
  T* tail;
  uint64_t head_ld;
  uint64_t tail_ld;
  uint32_t num_features;
  uint32_t dim;

  __device__ __forceinline__ T* row(uint64_t sample, uint32_t i) const {
    return i == 0 ? head + sample * head_ld : tail + sample * tail_ld + uint64_t(i - 1) * dim;
  }

  // Returns true if all features begin and end at multiples of 16 bytes.
  __device__ __forceinline__ bool is_wide() const {
    return (dim | head_ld | tail_ld) % kWidest<T> == 0 && is_aligned(head, 16) &&
           is_aligned(tail, 16);
  }
};

// The columns of a row of the output: the dense vector, the pairs, the appended features, zeros.
// `Int` is the type of a column number.
template <typename Int>
struct Columns {
  uint32_t flags;
  Int num_features;
  Int dim;

  __device__ __forceinline__ bool has(uint32_t flag) const { return (flags & flag) != 0; }
  __device__ __forceinline__ Int diagonal() const { return has(kIncludeSelf) ? 1 : 0; }
  __device__ __forceinline__ Int first_sparse() const { return has(kHasDense) ? 1 : 0; }
  __device__ __forceinline__ Int pairs_begin() const { return has(kHasDense) ? dim : 0; }
  __device__ __forceinline__ Int num_pairs() const {
    return num_features * (num_features - 1 + 2 * diagonal()) / 2;
  }
  __device__ __forceinline__ Int pairs_end() const { return pairs_begin() + num_pairs(); }
  __device__ __forceinline__ Int appended_end() const {
    return pairs_end() + (has(kAppendSparse) ? (num_features - first_sparse()) * dim : 0);
  }

  // Returns whether a feature is copied into the output; `direct` returns its first column there.
  __device__ __forceinline__ bool has_direct(Int i) const {
    return has(i == 0 && has(kHasDense) ? kHasDense : kAppendSparse);
  }
  __device__ __forceinline__ Int direct(Int i) const {
    return i == 0 && has(kHasDense) ? 0 : pairs_end() + (i - first_sparse()) * dim;
  }

  // Returns the position of a pair among all pairs.
  __device__ __forceinline__ Int pair_position(Int i, Int j) const {
    const Int low = min(i, j), high = max(i, j);
    // The rows above have 0 + diagonal, 1 + diagonal, ... entries in a lower triangle, and F - 1 +
    // diagonal, F - 2 + diagonal, ... in an upper one.
    return has(kUpper)
               ? low * (2 * (num_features + diagonal()) - low - 1) / 2 + high + diagonal() - low - 1
               : high * (high + 2 * diagonal() - 1) / 2 + low;
  }
};

// Returns the features that a pass reads.
template <typename E>
__device__ __forceinline__ Features<const E> features_of(const InteractionForwardMatrices<E>& m) {
  return {m.head, m.tail, m.head_ld, m.tail_ld, m.num_features, m.dim};
}
template <typename E>
__device__ __forceinline__ Features<const E> features_of(const InteractionBackwardMatrices<E>& m) {
  return {m.head, m.tail, m.head_ld, m.tail_ld, m.num_features, m.dim};
}

// Returns the gradients of the features.
template <typename E>
__device__ __forceinline__ Features<E> grads_of(const InteractionBackwardMatrices<E>& m) {
  return {m.grad_head, m.grad_tail, m.grad_head_ld, m.grad_tail_ld, m.num_features, m.dim};
}

// Returns the columns of the output, or of its gradient.
template <typename Int, typename Matrices>
__device__ __forceinline__ Columns<Int> columns_of(const Matrices& m) {
  return {m.flags, m.num_features, m.dim};
}

// A team: the threads that work on one sample, a warp or a whole block.
struct Team {
  uint32_t thread;   // The number of the thread within the team.
  uint32_t threads;  // The number of threads in the team: 32, or all of the block.
  uint32_t number;   // The number of the team within the block.

  __device__ __forceinline__ explicit Team(uint32_t size)
      : thread(threadIdx.x % size), threads(size), number(threadIdx.x / size) {}

  __device__ __forceinline__ void wait() const {
    if (threads == 32) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }
};

// The walk of a thread through rows of `units` units, with consecutive threads of the team at
// consecutive units, which makes accesses coalesced. It divides only at its start.
struct Walk {
  uint32_t row, unit, rows_each, units_each, units;

  __device__ __forceinline__ Walk(const Team& team, uint32_t units)
      : row(team.thread / units),
        unit(team.thread % units),
        rows_each(team.threads / units),
        units_each(team.threads % units),
        units(units) {}

  __device__ __forceinline__ void next() {
    row += rows_each;
    unit += units_each;
    if (unit >= units) {
      unit -= units;
      ++row;
    }
  }
};

// Sets the columns from `cols` to `whole` of rows in shared memory to zero.
template <typename E>
__device__ __forceinline__ void pad_rows(const Team& team, E* to, uint32_t pitch, uint32_t rows,
                                         uint32_t cols, uint32_t whole) {
  if (whole == cols) return;
  for (Walk at(team, whole - cols); at.row < rows; at.next())
    to[at.row * pitch + cols + at.unit] = E(0.0f);
}

// Starts the copy of `rows` rows of `cols` elements to shared memory with leading dimension
// `pitch`. `from(row)` returns the begin of a row. The columns from `cols` to `whole` become zeros.
template <typename E, typename From>
__device__ __forceinline__ void stage_rows(const Team& team, E* to, uint32_t pitch, uint32_t rows,
                                           uint32_t cols, uint32_t whole, bool wide, From from) {
  if (wide) {
    constexpr uint32_t kRun = kWidest<E>;
    for (Walk at(team, cols / kRun); at.row < rows; at.next()) {
      copy_async<16>(to + at.row * pitch + at.unit * kRun, from(at.row) + at.unit * kRun);
    }
  } else {
    for (Walk at(team, cols); at.row < rows; at.next()) {
      if (sizeof(E) == 4) {
        copy_async<4>(to + at.row * pitch + at.unit, from(at.row) + at.unit);
      } else {
        to[at.row * pitch + at.unit] = from(at.row)[at.unit];
      }
    }
  }
  pad_rows(team, to, pitch, rows, cols, whole);
}

// Stores `rows` rows of `cols` elements from shared memory to `to(row)`. Returns true if this
// thread has stored a value that is not finite.
template <typename E, typename To>
__device__ __forceinline__ bool store_rows(const Team& team, const E* from, uint32_t pitch,
                                           uint32_t rows, uint32_t cols, bool wide, To to) {
  bool found = false;
  if (wide) {
    constexpr uint32_t kRun = kWidest<E>;
    for (Walk at(team, cols / kRun); at.row < rows; at.next()) {
      const uint4 run = *reinterpret_cast<const uint4*>(from + at.row * pitch + at.unit * kRun);
      *reinterpret_cast<uint4*>(to(at.row) + at.unit * kRun) = run;
      found |= has_non_finite<E>(run);
    }
  } else {
    for (Walk at(team, cols); at.row < rows; at.next()) {
      const E value = from[at.row * pitch + at.unit];
      to(at.row)[at.unit] = value;
      found |= is_infinite_or_nan(value);
    }
  }
  return found;
}

__device__ __forceinline__ uint32_t round_up(uint32_t x, uint32_t to) {
  return (x + to - 1) / to * to;
}

// Returns the room for a row of `width` elements in shared memory, wherever it begins in global
// memory.
template <typename E>
__device__ __forceinline__ uint32_t row_room(uint32_t width) {
  return round_up(width + kWidest<E> - 1, kWidest<E>);
}

// Returns the place of an output row in shared memory, from `room` on. It has the same offset from
// a multiple of 16 bytes as the row in global memory, so that accesses on both sides are vectorised
// wherever the row begins.
template <typename E>
__device__ __forceinline__ E* place_beside(E* room, const E* row) {
  return room + reinterpret_cast<uintptr_t>(row) % 16 / sizeof(E);
}

// Calls `wide(column)` for the aligned runs of 16 bytes in a row, and `single(column)` for the
// columns before and behind them.
template <typename E, typename Wide, typename Single>
__device__ __forceinline__ void for_each_run(const Team& team, const E* row, uint32_t width,
                                             Wide wide, Single single) {
  constexpr uint32_t kRun = kWidest<E>;
  const uint32_t before = min(width, uint32_t(-reinterpret_cast<uintptr_t>(row) % 16 / sizeof(E))),
                 runs = (width - before) / kRun;
  for (uint32_t run = team.thread; run < runs; run += team.threads) wide(before + run * kRun);
  for (uint32_t k = team.thread; k < width - runs * kRun; k += team.threads)
    single(k < before ? k : k + runs * kRun);
}

// Starts the copy of a row of the output's gradient to its place in shared memory.
template <typename E>
__device__ __forceinline__ void stage_row(const Team& team, E* to, const E* from, uint32_t width) {
  for_each_run(
      team, from, width, [&](uint32_t column) { copy_async<16>(to + column, from + column); },
      [&](uint32_t column) { to[column] = from[column]; });
}

// Fills a row of the output in shared memory, except for its pairs.
template <typename E>
__device__ __forceinline__ void fill_row(const Team& team, E* to, const Columns<uint32_t>& columns,
                                         uint32_t width, const E* rows, uint32_t pitch) {
  for (uint32_t c = team.thread; c < columns.pairs_begin(); c += team.threads) to[c] = rows[c];
  if (columns.has(kAppendSparse)) {
    E* appended = to + columns.pairs_end();
    const uint32_t first = columns.first_sparse();
    for (Walk at(team, columns.dim); at.row + first < columns.num_features; at.next()) {
      appended[at.row * columns.dim + at.unit] = rows[(at.row + first) * pitch + at.unit];
    }
  }
  for (uint32_t c = columns.appended_end() + team.thread; c < width; c += team.threads)
    to[c] = E(0.0f);
}

// Stores a row of the output from its place in shared memory.
template <typename E>
__device__ __forceinline__ void store_row(const Team& team, E* to, const E* from, uint32_t width) {
  for_each_run(
      team, to, width,
      [&](uint32_t column) {
        *reinterpret_cast<uint4*>(to + column) = *reinterpret_cast<const uint4*>(from + column);
      },
      [&](uint32_t column) { to[column] = from[column]; });
}

__device__ __forceinline__ float4 read4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

template <typename E>
__device__ __forceinline__ float4 read4(const E* from) {
  const Vec<E, 4> run = load<4>(from);
  return make_float4(to_f32(run.at[0]), to_f32(run.at[1]), to_f32(run.at[2]), to_f32(run.at[3]));
}

// Computes sums[r][s] += <a[r], b[s]> over 4 columns.
__device__ __forceinline__ void multiply_tile(float (&sums)[kTile][kTile],
                                              const float* const (&a)[kTile],
                                              const float* const (&b)[kTile], uint32_t column) {
  float4 x[kTile], y[kTile];
#pragma unroll
  for (int r = 0; r < kTile; ++r) x[r] = read4(a[r] + column);
#pragma unroll
  for (int s = 0; s < kTile; ++s) y[s] = read4(b[s] + column);
#pragma unroll
  for (int r = 0; r < kTile; ++r) {
#pragma unroll
    for (int s = 0; s < kTile; ++s) {
      float sum = sums[r][s];
      sum = fmaf(x[r].x, y[s].x, sum);
      sum = fmaf(x[r].y, y[s].y, sum);
      sum = fmaf(x[r].z, y[s].z, sum);
      sums[r][s] = fmaf(x[r].w, y[s].w, sum);
    }
  }
}

// Returns the row of an entry in a triangle with rows of 1, 2, 3, ... entries.
__device__ __forceinline__ uint32_t triangle_row(uint32_t entry) {
  uint32_t row = uint32_t((sqrtf(8.0f * float(entry) + 1.0f) - 1.0f) * 0.5f);
  // The root is off by less than one.
  if (row * (row + 1) / 2 > entry) --row;
  if ((row + 1) * (row + 2) / 2 <= entry) ++row;
  return row;
}

// Returns a column of a thread's gradients. The four columns are neighbours for vectorised access;
// otherwise the same column of neighbouring threads is, for coalesced access.
template <bool kWide>
__device__ __forceinline__ uint32_t grad_column(uint32_t unit, uint32_t units, int m) {
  return kWide ? unit * 4 + m : unit + m * units;
}

// Computes sums += weights^T rows for kRows columns of `weights` [count, weights_pitch] and this
// thread's columns of `rows` [count, pitch].
template <bool kWide, int kRows>
__device__ __forceinline__ void multiply_grads(float (&sums)[kRows][4], const float* weights,
                                               uint32_t weights_pitch, const float* rows,
                                               uint32_t pitch, uint32_t count, uint32_t unit,
                                               uint32_t units) {
#pragma unroll 1
  for (uint32_t j = 0; j < count; ++j) {
    float x[4];
    const float* row = rows + j * pitch;
    if (kWide) {
      const float4 run = read4(row + unit * 4);
      x[0] = run.x, x[1] = run.y, x[2] = run.z, x[3] = run.w;
    } else {
#pragma unroll
      for (int m = 0; m < 4; ++m) x[m] = row[grad_column<false>(unit, units, m)];
    }
#pragma unroll
    for (int r = 0; r < kRows; r += 4) {
      const float4 run = read4(weights + j * weights_pitch + r);
      const float weight[4] = {run.x, run.y, run.z, run.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int m = 0; m < 4; ++m) sums[r + k][m] = fmaf(weight[k], x[m], sums[r + k][m]);
      }
    }
  }
}

// Adds a thread's columns of the output's gradient at a feature that is copied into the output.
template <bool kWide, typename E>
__device__ __forceinline__ void add_direct(float (&sum)[4], const E* direct, uint32_t unit,
                                           uint32_t units, uint32_t cols) {
  if (kWide && is_aligned(direct, 4 * sizeof(E))) {
    const float4 run = read4(direct + unit * 4);
    sum[0] += run.x, sum[1] += run.y, sum[2] += run.z, sum[3] += run.w;
  } else {
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const uint32_t column = grad_column<kWide>(unit, units, m);
      if (column < cols) sum[m] += to_f32(direct[column]);
    }
  }
}

// Stores a thread's columns of a gradient. Returns true if one of the values is not finite.
template <bool kWide, typename E>
__device__ __forceinline__ bool store_grad(E* grad, const float (&sum)[4], uint32_t unit,
                                           uint32_t units, uint32_t cols) {
  bool found = false;
  Vec<E, 4> run;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    run.at[m] = from_f32<E>(sum[m]);
    const uint32_t column = grad_column<kWide>(unit, units, m);
    if (!kWide && column >= cols) continue;
    found |= is_infinite_or_nan(run.at[m]);
    if (!kWide) grad[column] = run.at[m];
  }
  if (kWide) *reinterpret_cast<Vec<E, 4>*>(grad + unit * 4) = run;
  return found;
}

// Returns the gradient of the pair (i, j): the weight of x_j in the gradient of x_i.
template <typename Int, typename E>
__device__ __forceinline__ float pair_grad(const Columns<Int>& columns, const E* of_pairs, Int i,
                                           Int j) {
  if (i == j && !columns.has(kIncludeSelf)) return 0.0f;
  // Both members of (i, i) are x_i.
  return (i == j ? 2.0f : 1.0f) * to_f32(of_pairs[columns.pair_position(i, j)]);
}
