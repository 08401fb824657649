// The features of a sample, their pairs, and the threads that work on them: what all kernels of the
// interaction share.
#pragma once

#include "params/pairs.cuh"
#include "ptx.cuh"
#include "vec.cuh"

// The features of a batch: the first one of each sample, and those that follow, side by side.
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

  // Whether all features begin at a multiple of 16 bytes and end there.
  __device__ __forceinline__ bool is_wide() const {
    return (dim | head_ld | tail_ld) % kWidest<T> == 0 && is_aligned(head, 16) &&
           is_aligned(tail, 16);
  }
};

// What stands where in a row of the output: the dense vector, the pairs, the appended features,
// zeros. `Int` holds a number of columns.
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

  // Whether a feature stands in the output itself, and from which column on.
  __device__ __forceinline__ bool has_direct(Int i) const {
    return has(i == 0 && has(kHasDense) ? kHasDense : kAppendSparse);
  }
  __device__ __forceinline__ Int direct(Int i) const {
    return i == 0 && has(kHasDense) ? 0 : pairs_end() + (i - first_sparse()) * dim;
  }

  // The position among the pairs of a pair of features.
  __device__ __forceinline__ Int pair_position(Int i, Int j) const {
    const Int low = min(i, j), high = max(i, j);
    // The rows above have 0 + diagonal, 1 + diagonal, ... entries, or F - 1 + diagonal, F - 2 +
    // diagonal, ...
    return has(kUpper)
               ? low * (2 * (num_features + diagonal()) - low - 1) / 2 + high + diagonal() - low - 1
               : high * (high + 2 * diagonal() - 1) / 2 + low;
  }
};

// The features that a pass reads.
template <typename E>
__device__ __forceinline__ Features<const E> features_of(const InteractionForwardMatrices<E>& m) {
  return {m.head, m.tail, m.head_ld, m.tail_ld, m.num_features, m.dim};
}
template <typename E>
__device__ __forceinline__ Features<const E> features_of(const InteractionBackwardMatrices<E>& m) {
  return {m.head, m.tail, m.head_ld, m.tail_ld, m.num_features, m.dim};
}

// The gradients of the features.
template <typename E>
__device__ __forceinline__ Features<E> grads_of(const InteractionBackwardMatrices<E>& m) {
  return {m.grad_head, m.grad_tail, m.grad_head_ld, m.grad_tail_ld, m.num_features, m.dim};
}

// The columns of the output, or of its gradient.
template <typename Int, typename Matrices>
__device__ __forceinline__ Columns<Int> columns_of(const Matrices& m) {
  return {m.flags, m.num_features, m.dim};
}

// Threads that work together: a warp, or a whole block.
struct Team {
  uint32_t thread;   // within it
  uint32_t threads;  // 32, or those of the block
  uint32_t number;   // within the block

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

// A thread's way through rows of `units`, all threads of a team side by side: no division but at
// its start.
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

// Begins to copy `rows` rows of `cols` elements to shared memory, `pitch` apart; `from(row)` tells
// where one begins. Columns up to `whole` are set to zero.
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
  if (whole == cols) return;
  for (Walk at(team, whole - cols); at.row < rows; at.next())
    to[at.row * pitch + cols + at.unit] = E(0.0f);
}

// The way back: stores `rows` rows of `cols` elements.
template <typename E, typename To>
__device__ __forceinline__ void store_rows(const Team& team, const E* from, uint32_t pitch,
                                           uint32_t rows, uint32_t cols, bool wide, To to) {
  if (wide) {
    constexpr uint32_t kRun = kWidest<E>;
    for (Walk at(team, cols / kRun); at.row < rows; at.next()) {
      *reinterpret_cast<uint4*>(to(at.row) + at.unit * kRun) =
          *reinterpret_cast<const uint4*>(from + at.row * pitch + at.unit * kRun);
    }
  } else {
    for (Walk at(team, cols); at.row < rows; at.next())
      to(at.row)[at.unit] = from[at.row * pitch + at.unit];
  }
}

__device__ __forceinline__ uint32_t round_up(uint32_t x, uint32_t to) {
  return (x + to - 1) / to * to;
}

// The elements that a row of `width` may take, wherever it begins.
template <typename E>
__device__ __forceinline__ uint32_t row_room(uint32_t width) {
  return round_up(width + kWidest<E> - 1, kWidest<E>);
}

// The place for a row of the output in shared memory, from `room` on, where it lies to a multiple
// of 16 bytes as it does in global memory: so both move 16 bytes at a time, wherever it begins.
template <typename E>
__device__ __forceinline__ E* place_beside(E* room, const E* row) {
  return room + reinterpret_cast<uintptr_t>(row) % 16 / sizeof(E);
}

// Calls `wide(column)` for runs of 16 bytes of a row that begin at multiples of 16 bytes,
// `single(column)` for columns before and behind.
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

// Begins to copy a row of the gradient of the output to its place in shared memory.
template <typename E>
__device__ __forceinline__ void stage_row(const Team& team, E* to, const E* from, uint32_t width) {
  for_each_run(
      team, from, width, [&](uint32_t column) { copy_async<16>(to + column, from + column); },
      [&](uint32_t column) { to[column] = from[column]; });
}

// Puts what is no pair into a row of the output in shared memory.
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

// sums[r][s] += <a[r], b[s]> over 4 columns.
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

// The row of a triangle (1, 2, 3, ... entries) that an entry is in.
__device__ __forceinline__ uint32_t triangle_row(uint32_t entry) {
  uint32_t row = uint32_t((sqrtf(8.0f * float(entry) + 1.0f) - 1.0f) * 0.5f);
  // The root is off by less than one.
  if (row * (row + 1) / 2 > entry) --row;
  if ((row + 1) * (row + 2) / 2 <= entry) ++row;
  return row;
}

// The columns of a thread's gradients: side by side where they move at once, else so that those of
// neighbouring threads lie side by side.
template <bool kWide>
__device__ __forceinline__ uint32_t grad_column(uint32_t unit, uint32_t units, int m) {
  return kWide ? unit * 4 + m : unit + m * units;
}

// sums += `weights` [count, weights_pitch], kRows of its columns, transposed, by this thread's
// columns of `rows` [count, pitch].
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

// Adds a thread's columns of a vector that stands in the output itself: its gradient is that of the
// output there.
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

template <bool kWide, typename E>
__device__ __forceinline__ void store_grad(E* grad, const float (&sum)[4], uint32_t unit,
                                           uint32_t units, uint32_t cols) {
  if (kWide) {
    Vec<E, 4> run;
#pragma unroll
    for (int m = 0; m < 4; ++m) run.at[m] = from_f32<E>(sum[m]);
    *reinterpret_cast<Vec<E, 4>*>(grad + unit * 4) = run;
  } else {
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      if (grad_column<false>(unit, units, m) < cols)
        grad[grad_column<false>(unit, units, m)] = from_f32<E>(sum[m]);
    }
  }
}

// The gradient of a pair of features, whose sum over j of its products with x_j is the gradient of
// x_i.
template <typename Int, typename E>
__device__ __forceinline__ float pair_grad(const Columns<Int>& columns, const E* of_pairs, Int i,
                                           Int j) {
  if (i == j && !columns.has(kIncludeSelf)) return 0.0f;
  // Both members of (i, i) are x_i.
  return (i == j ? 2.0f : 1.0f) * to_f32(of_pairs[columns.pair_position(i, j)]);
}
