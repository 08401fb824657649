// interaction_tiled.cu: the interaction of samples that are too large for interaction.cu and
// interaction_mma.cu.
//
// Computes     as interaction.cu
// Rust         src/ops/interaction.rs, src/backend/cuda/interaction.rs
// Entries      interaction_tiled_{forward,backward}_{f32,f16,bf16}
// Algorithm    1. A sample is cut into tiles of 64 features (cache blocking), so that its size is
//                 not bounded by shared memory.
//              2. Forward: a block computes 64 x 64 pairs, 4 x 4 per thread in registers, over
//                 chunks of 32 columns that cp.async copies to shared memory.
//              3. The pairs go back through shared memory, so that runs of them are stored
//                 coalesced.
//              4. Backward: a block computes 64 features x 64 columns, 4 x 4 per thread, over
//                 chunks of 64 features and of the symmetric matrix of the pairs' gradients.
//              5. Elements of 16 bits become f32 on their way to shared memory, so that all types
//                 share the arithmetic. The kernel is simple rather than fast, since samples in
//                 training fit the other kernels.
// Mapping      blockIdx.x -> sample; blockIdx.y -> tile, in a loop; thread (y, x) of 16 x 16:
//                forward   pairs of features y, y + 16, y + 32, y + 48 of one group of 64
//                                with    x, x + 16, x + 32, x + 48 of another or the same
//                backward  gradients of features 4 y .. 4 y + 3 at columns 4 x .. 4 x + 3,
//                          or x, x + u, x + 2 u, x + 3 u for u = ceil(cols / 4) if not aligned
// Launch       grid (batch_size, tiles, at most 65535), block 256
// Bytes        each feature read ceil(F / 64) times: once up to 64 of them; dense vector and
//              appended features once more; the gradient of the pairs for each 64 columns again
// Requires     as interaction.cu
// Numerics     f32 multiply-add in the order of the columns forward, of the features backward;
//              rounded to the type once
// Measured     compiled and emulated, tests pass on an NVIDIA H100; not yet measured

#include "common/pairs.cuh"
#include "params/interaction_tiled.cuh"

constexpr int kDepth = 32;  // The number of columns of a tile in shared memory.
// The leading dimension of rows in shared memory: 4 more than a multiple of 32, so that rows begin
// in different banks.
constexpr int kDepthPitch = kDepth + 4;

// Copies `rows` rows of `cols` elements to shared memory as f32, and pads them with zeros to a
// multiple of four columns. Other threads see them after `wait_for_copies` and a barrier.
template <typename E, typename From>
__device__ __forceinline__ void stage_f32(const Team& team, float* to, uint32_t pitch,
                                          uint32_t rows, uint32_t cols, bool wide, From from) {
  const uint32_t whole = (cols + 3) / 4 * 4;
  if constexpr (sizeof(E) == 4) {
    stage_rows(team, to, pitch, rows, cols, whole, wide, from);
  } else {
    for (Walk at(team, whole); at.row < rows; at.next()) {
      to[at.row * pitch + at.unit] = at.unit < cols ? to_f32(from(at.row)[at.unit]) : 0.0f;
    }
  }
}

// Computes tiles of kSide x kSide pairs of a sample.
template <typename E>
__device__ __forceinline__ void forward(const InteractionForwardMatrices<E>& m) {
  const Features<const E> features = features_of(m);
  const Columns<uint64_t> columns = columns_of<uint64_t>(m);
  E* const output = m.output + blockIdx.x * m.output_ld;
  const uint64_t width = m.width;
  constexpr uint32_t kResultPitch = kSide + 1;
  __shared__ float4 shared[2 * kSide * kDepthPitch / 4];
  static_assert(sizeof(shared) >= kSide * kResultPitch * sizeof(float),
                "the results take the place of the features");
  const Team team(kThreads);
  const uint64_t sample = blockIdx.x;
  const uint32_t num_features = features.num_features, dim = features.dim;
  const bool wide = features.is_wide(), upper = columns.has(kUpper);
  const uint32_t sides = (num_features + kSide - 1) / kSide, row = team.thread / (kSide / kTile),
                 other = team.thread % (kSide / kTile);
#pragma unroll 1
  for (uint32_t tile = blockIdx.y; tile < sides * (sides + 1) / 2; tile += gridDim.y) {
    const uint32_t tile_row = triangle_row(tile), first_i = tile_row * kSide,
                   first_j = (tile - tile_row * (tile_row + 1) / 2) * kSide;
    const uint32_t rows_i = min(uint32_t(kSide), num_features - first_i),
                   rows_j = min(uint32_t(kSide), num_features - first_j);
    const bool on_diagonal = first_i == first_j, works = !on_diagonal || row >= other;
    float* staged_i = reinterpret_cast<float*>(shared);
    float* staged_j = on_diagonal ? staged_i : staged_i + kSide * kDepthPitch;
    const float *a[kTile], *b[kTile];
#pragma unroll
    for (int r = 0; r < kTile; ++r) {
      a[r] = staged_i + min(row + r * (kSide / kTile), rows_i - 1) * kDepthPitch;
      b[r] = staged_j + min(other + r * (kSide / kTile), rows_j - 1) * kDepthPitch;
    }
    float sums[kTile][kTile] = {};
#pragma unroll 1
    for (uint32_t first = 0; first < dim; first += kDepth) {
      const uint32_t cols = min(uint32_t(kDepth), dim - first);
      stage_f32<E>(team, staged_i, kDepthPitch, rows_i, cols, wide,
                   [&](uint32_t i) { return features.row(sample, first_i + i) + first; });
      if (!on_diagonal) {
        stage_f32<E>(team, staged_j, kDepthPitch, rows_j, cols, wide,
                     [&](uint32_t j) { return features.row(sample, first_j + j) + first; });
      }
      wait_for_copies();
      team.wait();
#pragma unroll 1
      for (uint32_t column = 0; works && column < cols; column += 4)
        multiply_tile(sums, a, b, column);
      team.wait();
    }
    // Writes the pairs to shared memory, so that runs of them are stored coalesced.
    float* results = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int r = 0; r < kTile; ++r) {
#pragma unroll
      for (int s = 0; s < kTile; ++s) {
        const uint32_t i = row + r * (kSide / kTile), j = other + s * (kSide / kTile);
        const uint32_t high = on_diagonal ? max(i, j) : i, low = on_diagonal ? min(i, j) : j;
        // A thread on the diagonal has each pair twice.
        if (works && (!on_diagonal || row != other || r >= s))
          results[upper ? low * kResultPitch + high : high * kResultPitch + low] = sums[r][s];
      }
    }
    team.wait();
#pragma unroll 1
    for (Walk at(team, kSide); at.row < kSide; at.next()) {
      const uint32_t high = first_i + (upper ? at.unit : at.row),
                     low = first_j + (upper ? at.row : at.unit);
      if (high < num_features && low < high + columns.diagonal()) {
        output[columns.pairs_begin() + columns.pair_position(high, low)] =
            from_f32<E>(results[at.row * kResultPitch + at.unit]);
      }
    }
    team.wait();
  }
  // Fills the columns that are no pairs.
  const uint64_t thread = uint64_t(blockIdx.y) * kThreads + team.thread,
                 threads = uint64_t(gridDim.y) * kThreads;
  for (uint64_t c = thread; c < columns.pairs_begin(); c += threads)
    output[c] = features.row(sample, 0)[c];
  for (uint64_t c = columns.pairs_end() + thread; c < width; c += threads) {
    const uint64_t place = c - columns.pairs_end();
    output[c] =
        c < columns.appended_end()
            ? features.row(sample, uint32_t(place / dim + columns.first_sparse()))[place % dim]
            : E(0.0f);
  }
}

// Computes gradients in tiles of kSide features x kSide columns of a sample.
template <typename E>
__device__ __forceinline__ void backward(const InteractionBackwardMatrices<E>& m) {
  const Features<const E> features = features_of(m);
  const Features<E> grads = grads_of(m);
  const Columns<uint64_t> columns = columns_of<uint64_t>(m);
  const E* const grad = m.grad_output + blockIdx.x * m.grad_output_ld;
  constexpr int kRows = 4;
  __shared__ float4 shared[2 * kSide * kSide / 4];
  float* rows = reinterpret_cast<float*>(shared);
  float* matrix = rows + kSide * kSide;
  const Team team(kThreads);
  const uint64_t sample = blockIdx.x;
  const uint32_t num_features = features.num_features, dim = features.dim;
  const uint32_t chunks = (dim + kSide - 1) / kSide,
                 tiles = (num_features + kSide - 1) / kSide * chunks;
  const uint32_t group = team.thread / (kSide / 4), unit = team.thread % (kSide / 4);
  bool found = false;
  const auto work = [&](auto wide) {
    constexpr bool kWide = decltype(wide)::value;
#pragma unroll 1
    for (uint32_t tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
      const uint32_t first_i = tile / chunks * kSide, first = tile % chunks * kSide;
      const uint32_t cols = min(uint32_t(kSide), dim - first), units = (cols + 3) / 4;
      float sums[kRows][4] = {};
#pragma unroll 1
      for (uint32_t first_j = 0; first_j < num_features; first_j += kSide) {
        const uint32_t count = min(uint32_t(kSide), num_features - first_j);
        stage_f32<E>(team, rows, kSide, count, cols, kWide,
                     [&](uint32_t j) { return features.row(sample, first_j + j) + first; });
        for (Walk at(team, kSide); at.row < count; at.next()) {
          const uint64_t i = first_i + at.unit, j = first_j + at.row;
          matrix[at.row * kSide + at.unit] =
              i < num_features ? pair_grad(columns, grad + columns.pairs_begin(), i, j) : 0.0f;
        }
        wait_for_copies();
        team.wait();
        if (unit < units)
          multiply_grads<kWide>(sums, matrix + group * kRows, kSide, rows, kSide, count, unit,
                                units);
        team.wait();
      }
      if (unit >= units) continue;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const uint32_t i = first_i + group * kRows + r;
        if (i >= num_features) continue;
        if (columns.has_direct(i))
          add_direct<kWide>(sums[r], grad + columns.direct(i) + first, unit, units, cols);
        found |= store_grad<kWide>(grads.row(sample, i) + first, sums[r], unit, units, cols);
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

#define INSTANTIATE(E)                                                                        \
  extern "C" __global__ void __launch_bounds__(kThreads, 2)                                   \
      interaction_tiled_forward_##E(const __grid_constant__ InteractionTiledForward<E> p) {   \
    forward(p.matrices);                                                                      \
  }                                                                                           \
  extern "C" __global__ void __launch_bounds__(kThreads, 2)                                   \
      interaction_tiled_backward_##E(const __grid_constant__ InteractionTiledBackward<E> p) { \
    backward(p.matrices);                                                                     \
  }
FOR_EACH_ELEMENT(INSTANTIATE)
