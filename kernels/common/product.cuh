// The operands of a matrix product in global memory, and the tile of a block, for products on the
// CUDA cores and on the tensor cores.
#pragma once

#include <stdint.h>

// The meaning of an operand's row in global memory: all terms of one row (column) of the output, or
// one term of all of them.
enum class Row { kOutput, kTerm };

// An operand of a product, for `outputs` rows (columns) of the output.
template <typename E>
struct Operand {
  const E* data;
  uint64_t ld;
  uint64_t outputs;

  // Returns the number of outputs that exist from `first` on, at most `most`.
  __device__ __forceinline__ int outputs_from(uint64_t first, int most) const {
    return first < outputs ? int(min(outputs - first, uint64_t(most))) : 0;
  }
};

// The tile of a block. Columns vary fastest, so that blocks that read the same rows run at the same
// time and find them in L2.
struct TileIndex {
  uint32_t row, col;
};

__device__ __forceinline__ TileIndex tile_of_block(uint64_t cols, int tile_cols) {
  const uint32_t col_tiles = uint32_t((cols + tile_cols - 1) / tile_cols);
  return {blockIdx.x / col_tiles, blockIdx.x % col_tiles};
}
