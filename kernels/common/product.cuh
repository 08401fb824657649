// What a matrix product is made of, on whatever cores: operands in global memory, and how their
// rows lie.
#pragma once

#include <stdint.h>

// What a row of an operand is in global memory: the terms of one row (column) of the output, or one
// term for all of them.
enum class Row { kOutput, kTerm };

// An operand: `outputs` rows (columns) of the output.
template <typename E>
struct Operand {
  const E* data;
  uint64_t ld;
  uint64_t outputs;

  // How many outputs of a tile that begins at `first` there are, `most` at most.
  __device__ __forceinline__ int outputs_from(uint64_t first, int most) const {
    return first < outputs ? int(min(outputs - first, uint64_t(most))) : 0;
  }
};

// The tile of this block. Columns vary fastest, so that the blocks that read the same rows run at
// the same time.
struct TileIndex {
  uint32_t row, col;
};

__device__ __forceinline__ TileIndex tile_of_block(uint64_t cols, int tile_cols) {
  const uint32_t col_tiles = uint32_t((cols + tile_cols - 1) / tile_cols);
  return {blockIdx.x / col_tiles, blockIdx.x % col_tiles};
}
