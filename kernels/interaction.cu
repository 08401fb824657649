// interaction.cu: pairwise dot products of the features of a sample, and concatenation; forward and
// backward.
//
// Computes     output[b] = dense vector, <x_i, x_j> for all pairs, appended features, zeros; its
//              gradient; see the Rust side for the maths
// Rust         src/ops/interaction.rs, src/backend/cuda/interaction.rs
// Entries      interaction_{forward,backward}_f32, interaction_copy_{f32,f16,bf16}
// Algorithm    1. A team, a warp or a block, works on one sample. It copies all features of the
//                 sample to shared memory with cp.async, so that each is read once from global
//                 memory.
//              2. Forward: each thread computes 4 x 4 pairs in registers (register blocking), and
//                 reads 8 runs of 16 bytes for 64 multiplications. Its rows are a quarter of all
//                 rows apart: neighbouring threads then read neighbouring rows, which begin in
//                 different banks, so that there are no bank conflicts.
//              3. Tiles cover only one triangle, since pairs are symmetric. Where there are fewer
//                 tiles than threads, 2 to 32 threads share one, each with a slice of the columns,
//                 and warp shuffles reduce their sums.
//              4. The row of the output is assembled in shared memory and stored 16 bytes at a
//                 time, since pairs by themselves would be stored one by one.
//              5. Backward: the gradient of the pairs is unfolded to a symmetric matrix, so that
//                 the gradient of the features is one product of this matrix and the features. Each
//                 thread has 16 features x 4 columns in registers.
//              6. Gradients that are not finite are noticed as they are stored, and each warp that
//                 has found one sets a word, so that no pass reads them again only for that.
//              7. Concatenation is a copy, as is its gradient. Samples too large for 48 KB of
//                 shared memory, which every device has without opting in, go to
//                 interaction_tiled.cu; other types, and tf32, to the tensor cores of
//                 interaction_mma.cu.
// Mapping      forward, S = ceil(F / 4), thread -> tile (r, c) with c <= r < S, and a slice:
//                         c=0  1  2                rows of tile r:  r, r + S, r + 2 S, r + 3 S
//                r = 0     t0                      slice s of n: columns 4 s .. 4 s + 3, then + 4 n
//                r = 1     t1 t2
//                r = 2     t3 t4 t5
//              backward: thread -> features 16 g .. 16 g + 15, columns 4 u .. 4 u + 3 (g, u)
//              copy: grid-stride loop, thread -> 16 bytes, or one element
// Launch       forward, backward: grid (ceil(batch_size / teams per block)), block 32 to 128,
//              dynamic shared memory for the samples of a block; copy: grid (as many blocks as
//              there are runs of 256, at most 4096), block 256
// Bytes        features (and gradient) read once, output written once: as bytes_moved()
// Requires     16-byte copies where features begin at multiples of 16 bytes and end there, else
//              4-byte ones; any F and D from 1
// Numerics     f32 multiply-add, each dot product in 1 to 32 parts that a reduction tree of warp
//              shuffles adds: within the bound of the Rust side; the same bits for any batch, not
//              those of the CPU
// Measured     NVIDIA H200, 2026-11-27, F 27 D 128 B 65536: forward 467 us, backward 638 us. Not
//              yet measured: the share of stream (copy)

#include "common/pairs.cuh"
#include "params/interaction.cuh"

extern __shared__ float4 shared_memory[];

// Writes the dot products of all pairs of the features in `rows` to `pairs`.
__device__ __forceinline__ void multiply_pairs(const Team& team, const float* rows, uint32_t pitch,
                                               const Columns<uint32_t>& columns, uint32_t slices,
                                               float* pairs) {
  const uint32_t features = columns.num_features, side = (features + kTile - 1) / kTile,
                 items = side * (side + 1) / 2 * slices;
  const uint32_t slice = team.thread % slices;
#pragma unroll 1
  for (uint32_t first = 0; first < items; first += team.threads) {
    const bool exists = first + team.thread < items;
    // Threads without a tile only take part in the warp shuffles.
    const uint32_t tile = exists ? (first + team.thread) / slices : 0;
    const uint32_t tile_row = triangle_row(tile),
                   tile_column = tile - tile_row * (tile_row + 1) / 2;
    const float *a[kTile], *b[kTile];
#pragma unroll
    for (int r = 0; r < kTile; ++r) {
      // Rows behind the last one read the last one again; their sums are not used.
      a[r] = rows + min(tile_row + r * side, features - 1) * pitch;
      b[r] = rows + min(tile_column + r * side, features - 1) * pitch;
    }
    float sums[kTile][kTile] = {};
    const uint32_t end = exists ? columns.dim : 0;
#pragma unroll 1
    for (uint32_t column = slice * 4; column < end; column += slices * 4)
      multiply_tile(sums, a, b, column);
#pragma unroll
    for (int r = 0; r < kTile; ++r) {
#pragma unroll
      for (int s = 0; s < kTile; ++s) {
        for (uint32_t step = slices / 2; step > 0; step /= 2)
          sums[r][s] += __shfl_xor_sync(0xffffffffu, sums[r][s], step);
        const uint32_t i = tile_row + r * side, j = tile_column + s * side;
        // A tile on the diagonal has each pair twice.
        const bool wanted = i < features && j < features && (tile_row != tile_column || r >= s) &&
                            (i != j || columns.diagonal());
        if (exists && slice == 0 && wanted) pairs[columns.pair_position(i, j)] = sums[r][s];
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 4)
    interaction_forward_f32(const __grid_constant__ InteractionForward p) {
  const InteractionForwardMatrices<float>& m = p.matrices;
  const Features<const float> features = features_of(m);
  const Columns<uint32_t> columns = columns_of<uint32_t>(m);
  const Team team(p.team_threads);
  const uint64_t sample = uint64_t(blockIdx.x) * (blockDim.x / p.team_threads) + team.number;
  if (sample >= p.batch_size) return;
  // The shared memory of a sample holds the features and the row of the output.
  const uint32_t whole_dim = (m.dim + 3) / 4 * 4, rows_room = m.num_features * p.pitch,
                 output_room = row_room<float>(uint32_t(m.width));
  float* rows = reinterpret_cast<float*>(shared_memory) + team.number * (rows_room + output_room);
  float* output = m.output + sample * m.output_ld;
  float* row = place_beside(rows + rows_room, output);
  stage_rows(team, rows, p.pitch, m.num_features, m.dim, whole_dim, features.is_wide(),
             [&](uint32_t i) { return features.row(sample, i); });
  wait_for_copies();
  team.wait();
  fill_row(team, row, columns, uint32_t(m.width), rows, p.pitch);
  multiply_pairs(team, rows, p.pitch, columns, p.slices, row + columns.pairs_begin());
  team.wait();
  store_row(team, output, row, uint32_t(m.width));
}

extern "C" __global__ void __launch_bounds__(kThreads)
    interaction_backward_f32(const __grid_constant__ InteractionBackward p) {
  const InteractionBackwardMatrices<float>& m = p.matrices;
  const uint32_t num_features = m.num_features, dim = m.dim;
  const Features<const float> features = features_of(m);
  const Features<float> grads = grads_of(m);
  const Columns<uint32_t> columns = columns_of<uint32_t>(m);
  const Team team(p.team_threads);
  const uint64_t sample = uint64_t(blockIdx.x) * (blockDim.x / p.team_threads) + team.number;
  if (sample >= p.batch_size) return;
  // The shared memory of a sample holds the features, the symmetric matrix of the pairs' gradients,
  // and the gradient of the output.
  const uint32_t units = (dim + 3) / 4, pitch = units * 4,
                 groups = (num_features + kGradRows - 1) / kGradRows,
                 matrix_pitch = groups * kGradRows;
  const uint32_t rows_room = num_features * pitch, matrix_room = num_features * matrix_pitch,
                 grad_room = row_room<float>(columns.appended_end());
  float* rows =
      reinterpret_cast<float*>(shared_memory) + team.number * (rows_room + matrix_room + grad_room);
  float* matrix = rows + rows_room;
  const float* from = m.grad_output + sample * m.grad_output_ld;
  float* grad = place_beside(matrix + matrix_room, from);
  stage_row(team, grad, from, columns.appended_end());
  stage_rows(team, rows, pitch, num_features, dim, pitch, features.is_wide(),
             [&](uint32_t row) { return features.row(sample, row); });
  wait_for_copies();
  team.wait();
  for (Walk at(team, matrix_pitch); at.row < num_features; at.next()) {
    const bool exists = at.unit < num_features;
    matrix[at.row * matrix_pitch + at.unit] =
        exists ? pair_grad(columns, grad + columns.pairs_begin(), at.unit, at.row) : 0.0f;
  }
  team.wait();
  bool found = false;
  const auto work = [&](auto wide) {
    constexpr bool kWide = decltype(wide)::value;
#pragma unroll 1
    for (Walk at(team, units); at.row < groups; at.next()) {
      float sums[kGradRows][4] = {};
      multiply_grads<kWide>(sums, matrix + at.row * kGradRows, matrix_pitch, rows, pitch,
                            num_features, at.unit, units);
#pragma unroll
      for (int r = 0; r < kGradRows; ++r) {
        const uint32_t i = at.row * kGradRows + r;
        if (i >= num_features) continue;
        if (columns.has_direct(i))
          add_direct<kWide>(sums[r], grad + columns.direct(i), at.unit, units, dim);
        found |= store_grad<kWide>(grads.row(sample, i), sums[r], at.unit, units, dim);
      }
    }
  };
  if (features.is_wide() && grads.is_wide()) {
    work(Bool<true>{});
  } else {
    work(Bool<false>{});
  }
  report_non_finite(m.non_finite, found);
}

// Computes to[r][c] = from[r][c], for concatenation and its gradient.
template <typename E>
__device__ __forceinline__ void copy_matrix(const InteractionCopy<E>& p) {
  constexpr int kRun = kWidest<E>;
  const bool wide =
      (p.cols | p.from_ld | p.to_ld) % kRun == 0 && is_aligned(p.from, 16) && is_aligned(p.to, 16);
  const uint64_t units = wide ? p.cols / kRun : p.cols;
  bool found = false;
  for (uint64_t k = uint64_t(blockIdx.x) * kCopyThreads + threadIdx.x; k < p.rows * units;
       k += uint64_t(gridDim.x) * kCopyThreads) {
    const uint64_t row = k / units, unit = k % units;
    if (wide) {
      const uint4 run = *reinterpret_cast<const uint4*>(p.from + row * p.from_ld + unit * kRun);
      *reinterpret_cast<uint4*>(p.to + row * p.to_ld + unit * kRun) = run;
      found |= has_non_finite<E>(run);
    } else {
      const E value = p.from[row * p.from_ld + unit];
      p.to[row * p.to_ld + unit] = value;
      found |= is_infinite_or_nan(value);
    }
  }
  report_non_finite(p.non_finite, found);
}

#define INSTANTIATE(E)                                                     \
  extern "C" __global__ void __launch_bounds__(kCopyThreads)               \
      interaction_copy_##E(const __grid_constant__ InteractionCopy<E> p) { \
    copy_matrix(p);                                                        \
  }
FOR_EACH_ELEMENT(INSTANTIATE)
