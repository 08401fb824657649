// The parameters of index_sort.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"

// The number of threads in a block.
constexpr int kThreads = 256;
// The number of keys per thread in large tiles.
constexpr int kLarge = 8;
// The number of keys per thread in small tiles.
constexpr int kSmall = 4;
// The number of bits in the largest digit.
constexpr uint32_t kMaxDigitBits = 8;
// The number of values of the largest digit.
constexpr int kDigits = 1 << kMaxDigitBits;
// The largest number of passes: that of a 64-bit key.
constexpr int kMaxPasses = 8;

// The parameters of the kernel that writes the keys of all ids and counts their digits.
template <typename I>
struct IndexSortRows {
  const Feature* features;
  const Table* tables;
  const I* indices;
  // The keys, of `key_bytes` bytes each.
  void* keys;
  uint32_t* bag_of;
  uint32_t* bag_lengths;
  // The number of keys by pass and digit.
  uint32_t* histograms;
  Status* status;
  Bags bags;
  uint64_t end_key;
  uint32_t batch_size;
  uint32_t lanes;
  uint32_t passes;
  uint32_t digit_bits;
  uint32_t key_bytes;
};

// The parameters of a pass of the sort by one digit.
template <typename K>
struct IndexSortPass {
  const K* keys;
  // The positions of the keys. Null in the first pass, in which the position of a key is its index.
  const uint32_t* positions;
  K* keys_out;
  uint32_t* positions_out;
  const uint32_t* histograms;
  // The status words of the look-back, one for each tile and digit; see common/scan.cuh.
  unsigned long long* words;
  // The ticket counter of each pass.
  uint32_t* tickets;
  uint64_t num_keys;
  uint32_t pass;
  uint32_t digit_bits;
};

// The parameters of the kernel that numbers the rows among sorted keys and looks up the bags of
// their occurrences.
template <typename K>
struct IndexSortSegments {
  const K* keys;
  // The positions of the keys, or null if `bags` is null.
  const uint32_t* positions;
  // The bag of each position, or null if `bags` is null.
  const uint32_t* bag_of;
  uint64_t* rows;
  uint32_t* segments;
  // The bags of the occurrences, or null if they are not needed.
  uint32_t* bags;
  // The number of occurrences and the number of rows.
  uint32_t* counts;
  // The status words of the look-back, one for each tile.
  unsigned long long* words;
  uint32_t* ticket;
  uint64_t num_keys;
  uint64_t end_key;
};
