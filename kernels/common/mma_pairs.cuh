// Dot products of pairs of features on the tensor cores.
#pragma once

#include "pairs.cuh"
#include "params/interaction_mma.cuh"

// The number of elements of a row in one step of the tensor cores: 32 bytes.
template <typename E>
constexpr uint32_t kDepth = kDepthBytes / sizeof(E);

// The shared memory of a sample of a forward pass: its features, in rows that are padded with zeros
// to a multiple of kDepth, and behind them the row of the output. The pitch is an odd number of 16
// bytes, so that ldmatrix has no bank conflicts.
template <typename E>
struct SampleRoom {
  uint32_t whole, pitch, rows, all;

  __device__ __forceinline__ SampleRoom(uint32_t features, uint32_t dim, uint32_t width)
      : whole(round_up(dim, kDepth<E>)),
        pitch(whole + kWidest<E>),
        rows(features * pitch),
        all(rows + row_room<E>(width)) {}
};

// Returns the run of 16 bytes whose address this lane passes to ldmatrix, for 16 rows of a matrix
// in shared memory. Rows behind the last one read the last one again.
template <typename E>
__device__ __forceinline__ const E* lane_run(const E* rows, uint32_t pitch, uint32_t first,
                                             uint32_t num_rows) {
  const uint32_t lane = threadIdx.x % 32;
  return rows + min(first + lane % 16, num_rows - 1) * pitch + lane / 16 * kWidest<E>;
}

// Writes the dot products of all pairs of the features in `rows` to `pairs`. Rows are padded with
// zeros to a multiple of kDepth.
template <typename E>
__device__ __forceinline__ void multiply_pairs(const Team& team, const E* rows, uint32_t pitch,
                                               const Columns<uint32_t>& columns, E* pairs) {
  const uint32_t features = columns.num_features, groups = (features + kSide - 1) / kSide,
                 lane = threadIdx.x % 32;
#pragma unroll 1
  for (uint32_t tile = team.thread / 32; tile < groups * (groups + 1) / 2;
       tile += team.threads / 32) {
    const uint32_t group = triangle_row(tile), other = tile - group * (group + 1) / 2;
    const E *a_run = lane_run(rows, pitch, group * kSide, features),
            *b_run = lane_run(rows, pitch, other * kSide, features);
    float sums[2][4] = {};
#pragma unroll 4
    for (uint32_t column = 0; column < columns.dim; column += kDepth<E>) {
      uint32_t a[4], b[4];
      load_matrices(a, a_run + column);
      load_matrices(b, b_run + column);
      round_factors<E>(a);
      round_factors<E>(b);
      multiply_add<E>(sums[0], a, b[0], b[2]);
      multiply_add<E>(sums[1], a, b[1], b[3]);
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const uint32_t i = group * kSide + lane / 4 + k / 2 % 2 * 8,
                     j = other * kSide + k / 4 * 8 + lane % 4 * 2 + k % 2;
      if (i < features && j < i + columns.diagonal())
        pairs[columns.pair_position(i, j)] = from_f32<E>(sums[k / 4][k % 4]);
    }
  }
}
