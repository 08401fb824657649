// interaction_mma.cu: pairwise dot products of the features of a sample on the tensor cores,
// forward and backward.
//
// Computes     as interaction.cu, for features of 16 bits, or with factors of f32 that are rounded
//              to tf32
// Rust         src/ops/interaction.rs, src/backend/cuda/interaction.rs
// Entries      interaction_mma_{forward,backward_few,backward_many}_{f32,f16,bf16}: few are up to
//              32 features, many up to 64
// Algorithm    1. A team, a warp or a block, works on one sample. It copies all features of the
//                 sample to shared memory with cp.async. The leading dimension is an odd number of
//                 16 bytes (backward in f32: 8 words more than a multiple of 16), so that ldmatrix
//                 has no bank conflicts.
//              2. The bytes in flight limit this kernel. Therefore a sample takes only the room of
//                 its features and its row of the output, and a multiprocessor has a dozen or two
//                 samples resident, each in its own phase.
//              3. Forward: a warp computes 16 x 16 pairs of the lower triangle. The tensor-core
//                 fragment of 16 features is factor A as it is, and also B of twice 8 features, two
//                 registers each, so that one layout serves both. Groups of 8 and 16 features are
//                 not padded: rows behind the last one read the last one, and their sums are not
//                 used.
//              4. The row of the output is assembled in shared memory and stored 16 bytes at a
//                 time.
//              5. Backward: the gradient of the pairs is unfolded to a symmetric matrix (A). A warp
//                 takes 16 columns of all features at a time (B, transposed by ldmatrix) and writes
//                 the result over them, since no other columns need them. Whole rows are then
//                 stored from there.
//              6. Samples too large for 48 KB of shared memory, and backward more than 64 features,
//                 go to interaction_tiled.cu.
// Mapping      forward, groups of 16 features, warp -> tile of the triangle, in a loop:
//                           group 0  1  2           lane l holds, in each 16 x 8 half tile:
//                group 0        w0                   rows i: l / 4, l / 4 + 8
//                group 1        w1 w2                columns j: 2 (l mod 4), + 1
//                group 2        w3 w0 w1   (4 warps)
//              backward:  warp w -> columns 16 w .. 16 w + 15 of all features, then + 16 * warps
//                [gradients: F x F] x [features: F x 16] -> the same 16 columns of shared memory
// Launch       grid (ceil(batch_size / teams per block)), block 32 to 128, dynamic shared memory
//              for the samples of a block
// Bytes        features (and gradient) read once, output written once: as bytes_moved()
// Requires     16-byte copies where features begin at multiples of 16 bytes and end there, else one
//              element at a time; any D from 1
// Numerics     exact products of 16-bit or tf32 factors, sums in f32 that the tensor cores may cut
//              off instead of rounding; rounded to the type once; the same bits for any batch, not
//              those of the CPU. Twice the gradient of <x_i, x_i> is a factor: beyond 32752 it is
//              infinite in f16
// Measured     NVIDIA H200, 2026-11-28, F 27 D 128 B 65536, bf16 forward 172 us, backward 374 us;
//              tf32 371 us and 612 us. Not yet measured: the share of stream (copy). Before a
//              sample of bf16 had one warp, forward took 201 us; before one had several, backward
//              took 535 and 1228 us

#include "common/mma_pairs.cuh"

extern __shared__ uint4 shared_memory[];

template <typename E>
__device__ __forceinline__ void forward(const InteractionMmaForward<E>& p) {
  const InteractionForwardMatrices<E>& m = p.matrices;
  const Features<const E> from = features_of(m);
  const Columns<uint32_t> columns = columns_of<uint32_t>(m);
  const Team team(p.team_threads);
  const uint64_t sample = uint64_t(blockIdx.x) * (blockDim.x / p.team_threads) + team.number;
  if (sample >= p.batch_size) return;
  const uint32_t features = m.num_features, dim = m.dim, width = uint32_t(m.width);
  const SampleRoom<E> room(features, dim, width);
  E* rows = reinterpret_cast<E*>(shared_memory) + team.number * room.all;
  E* output = m.output + sample * m.output_ld;
  E* row = place_beside(rows + room.rows, output);
  stage_rows(team, rows, room.pitch, features, dim, room.whole, from.is_wide(),
             [&](uint32_t i) { return from.row(sample, i); });
  wait_for_copies();
  team.wait();
  multiply_pairs(team, rows, room.pitch, columns, row + columns.pairs_begin());
  fill_row(team, row, columns, width, rows, room.pitch);
  team.wait();
  store_row(team, output, row, width);
}

// Loads the features from `first` on, 16 columns of them, as two fragments B.
__device__ __forceinline__ void load_columns(uint32_t (&b)[4], const float* rows, uint32_t pitch,
                                             uint32_t first, uint32_t num_rows) {
  const uint32_t lane = threadIdx.x % 32;
  const float* upper = rows + min(first + lane % 4, num_rows - 1) * pitch + lane / 4;
  const float* lower = rows + min(first + lane % 4 + 4, num_rows - 1) * pitch + lane / 4;
  b[0] = __float_as_uint(upper[0]), b[1] = __float_as_uint(lower[0]);
  b[2] = __float_as_uint(upper[8]), b[3] = __float_as_uint(lower[8]);
}

template <typename E>
__device__ __forceinline__ void load_columns(uint32_t (&b)[4], const E* rows, uint32_t pitch,
                                             uint32_t first, uint32_t num_rows) {
  load_transposed(b, lane_run(rows, pitch, first, num_rows));
}

// Unfolds the gradient of the pairs to a symmetric matrix, whose rows are padded with zeros to a
// multiple of kDepth. The loop follows the order of the matrix, though pairs are then read twice
// with bank conflicts: the order of the pairs needs a square root for each, and took 1.2 times as
// long.
template <typename E>
__device__ __forceinline__ void unfold(const Team& team, E* matrix, uint32_t pitch,
                                       const Columns<uint32_t>& columns, const E* pairs) {
  const uint32_t features = columns.num_features;
  for (Walk at(team, round_up(features, kDepth<E>)); at.row < features; at.next()) {
    const float grad = at.unit < features ? pair_grad(columns, pairs, at.row, at.unit) : 0.0f;
    matrix[at.row * pitch + at.unit] = from_f32<E>(sizeof(E) == 4 ? round_to_tf32(grad) : grad);
  }
}

// Replaces the features in `rows`, at most kMaxGroups times kSide, by their gradients, which a warp
// accumulates in registers. `grad` is the row of the output's gradient, `matrix` the unfolded
// gradient of the pairs.
template <uint32_t kMaxGroups, typename E>
__device__ __forceinline__ void multiply_grads(const Team& team, E* rows, uint32_t pitch,
                                               const E* matrix, uint32_t matrix_pitch,
                                               const Columns<uint32_t>& columns, const E* grad) {
  const uint32_t features = columns.num_features, dim = columns.dim,
                 groups = (features + kSide - 1) / kSide, lane = threadIdx.x % 32;
  // The feature and the column within 16 of this lane's sums, in pairs of sums.
  const auto feature_of = [&](uint32_t k) { return k / 4 * kSide + k / 2 % 2 * 8 + lane / 4; };
  const auto column_of = [&](uint32_t k) { return k % 2 * 8 + lane % 4 * 2; };
  const E* a_runs[kMaxGroups];
#pragma unroll
  for (uint32_t group = 0; group < kMaxGroups; ++group)
    a_runs[group] = lane_run(matrix, matrix_pitch, group * kSide, features);
#pragma unroll 1
  for (uint32_t first = team.thread / 32 * kSide; first < dim; first += team.threads / 32 * kSide) {
    float sums[kMaxGroups][2][4] = {};
    // Starts from the gradient of features that are copied into the output. Most often this is only
    // the dense vector, which is in the first rows.
#pragma unroll
    for (uint32_t k = 0; k < kMaxGroups * 4; ++k) {
      const uint32_t i = feature_of(k), column = first + column_of(k);
      if (!columns.has(k < 2 ? kHasDense | kAppendSparse : kAppendSparse) || i >= features ||
          !columns.has_direct(i))
        continue;
      float* sum = &sums[k / 4][k % 2][k / 2 % 2 * 2];
      const E* direct = grad + columns.direct(i) + column;
      if (column < dim) sum[0] = to_f32(direct[0]);
      if (column + 1 < dim) sum[1] = to_f32(direct[1]);
    }
#pragma unroll 1
    for (uint32_t j = 0; j < features; j += kDepth<E>) {
      uint32_t b[4];
      load_columns(b, rows + first, pitch, j, features);
      round_factors<E>(b);
#pragma unroll
      for (uint32_t group = 0; group < kMaxGroups; ++group) {
        if (group >= groups) continue;
        uint32_t a[4];
        load_matrices(a, a_runs[group] + j);
        multiply_add<E>(sums[group][0], a, b[0], b[1]);
        multiply_add<E>(sums[group][1], a, b[2], b[3]);
      }
    }
    // All lanes must have read these columns before they are overwritten.
    __syncwarp();
#pragma unroll
    for (uint32_t k = 0; k < kMaxGroups * 4; ++k) {
      const uint32_t i = feature_of(k), column = first + column_of(k);
      const float* sum = &sums[k / 4][k % 2][k / 2 % 2 * 2];
      if (i < features) store_two(rows + i * pitch + column, sum[0], sum[1]);
    }
  }
}

template <uint32_t kMaxGroups, typename E>
__device__ __forceinline__ void backward(const InteractionMmaBackward<E>& p) {
  const InteractionBackwardMatrices<E>& m = p.matrices;
  const Features<const E> from = features_of(m);
  const Features<E> grads = grads_of(m);
  const Columns<uint32_t> columns = columns_of<uint32_t>(m);
  const Team team(p.team_threads);
  const uint64_t sample = uint64_t(blockIdx.x) * (blockDim.x / p.team_threads) + team.number;
  if (sample >= p.batch_size) return;
  const uint32_t features = m.num_features, dim = m.dim, width = columns.appended_end();
  // The shared memory of a sample holds the features, the symmetric matrix of the pairs' gradients,
  // and the gradient of the output.
  const uint32_t whole = round_up(dim, kSide), pitch = whole + 8,
                 matrix_pitch = round_up(features, kDepth<E>) + kWidest<E>;
  const uint32_t rows_room = features * pitch, matrix_room = features * matrix_pitch;
  E* rows = reinterpret_cast<E*>(shared_memory) +
            team.number * (rows_room + matrix_room + row_room<E>(width));
  E* matrix = rows + rows_room;
  const E* grad_row = m.grad_output + sample * m.grad_output_ld;
  E* grad = place_beside(matrix + matrix_room, grad_row);
  stage_row(team, grad, grad_row, width);
  stage_rows(team, rows, pitch, features, dim, whole, from.is_wide(),
             [&](uint32_t i) { return from.row(sample, i); });
  wait_for_copies();
  team.wait();
  unfold(team, matrix, matrix_pitch, columns, grad + columns.pairs_begin());
  team.wait();
  multiply_grads<kMaxGroups>(team, rows, pitch, matrix, matrix_pitch, columns, grad);
  team.wait();
  const bool found = store_rows(team, rows, pitch, features, dim, grads.is_wide(),
                                [&](uint32_t i) { return grads.row(sample, i); });
  report_non_finite(m.non_finite, found);
}

#define INSTANTIATE(E)                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads)                                \
      interaction_mma_forward_##E(const __grid_constant__ InteractionMmaForward<E> p) { \
    forward(p);                                                                         \
  }                                                                                     \
  BACKWARD(few, kFewGroups, E)                                                          \
  BACKWARD(many, kManyGroups, E)
#define BACKWARD(name, groups, E)                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads)                                           \
      interaction_mma_backward_##name##_##E(const __grid_constant__ InteractionMmaBackward<E> p) { \
    backward<groups>(p);                                                                           \
  }
FOR_EACH_ELEMENT(INSTANTIATE)
