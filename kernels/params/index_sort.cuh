// The parameters of index_sort.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"

// Threads of a block.
constexpr int kThreads = 256;
// Keys of a thread in large tiles.
constexpr int kLarge = 8;
// Keys of a thread in small tiles.
constexpr int kSmall = 4;
// Bits of the largest digit.
constexpr uint32_t kMaxDigitBits = 8;
// The number of digits.
constexpr int kDigits = 1 << kMaxDigitBits;
// The most passes: those over a key of 64 bits.
constexpr int kMaxPasses = 8;

// The keys of all ids, and the numbers of their digits.
template <typename I>
struct IndexSortRows {
  const Feature* features;
  const Table* tables;
  const I* indices;
  const I* offsets;
  // Of `key_bytes` each.
  void* keys;
  uint32_t* bag_of;
  uint32_t* bag_lengths;
  // The number of keys by pass and digit.
  uint32_t* histograms;
  Status* status;
  // The room for ids.
  uint64_t num_indices;
  uint64_t end_key;
  uint32_t num_bags;
  uint32_t batch_size;
  uint32_t lanes;
  uint32_t passes;
  uint32_t digit_bits;
  uint32_t key_bytes;
  // Set if there may be room behind the ids.
  uint32_t has_slack;
};

// A pass of the sort, by one digit.
template <typename K>
struct IndexSortPass {
  const K* keys;
  // Null in the first pass, in which each key's position is its place.
  const uint32_t* positions;
  K* keys_out;
  uint32_t* positions_out;
  const uint32_t* histograms;
  // A word for each tile and digit: see common/scan.cuh.
  unsigned long long* words;
  // A ticket for each pass.
  uint32_t* tickets;
  uint64_t num_keys;
  uint32_t pass;
  uint32_t digit_bits;
};

// The numbers of the rows among sorted keys, and the bags of their occurrences.
template <typename K>
struct IndexSortSegments {
  const K* keys;
  // Null if `bags` is.
  const uint32_t* positions;
  // Null if `bags` is.
  const uint32_t* bag_of;
  uint64_t* rows;
  uint32_t* segments;
  // Null if the bags are not wanted.
  uint32_t* bags;
  // The occurrences and the rows.
  uint32_t* counts;
  // A word for each tile.
  unsigned long long* words;
  uint32_t* ticket;
  uint64_t num_keys;
  uint64_t end_key;
};
