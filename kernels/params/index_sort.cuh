// The parameters of index_sort.cu.
#pragma once

#include <stdint.h>

#include "params/bags.cuh"

// The number of threads in a block that sorts a tile of the batch.
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

// The number of threads in a block that sorts a table.
constexpr int kTableThreads = 512;
// The number of keys per thread of such a block.
constexpr int kTableItems = 16;
// The number of keys that such a block sorts in shared memory.
constexpr int kTableTile = kTableThreads * kTableItems;
// The number of bits in the largest digit of a table's rows.
constexpr uint32_t kMaxTableDigitBits = 9;
// Bytes of shared memory of such a block: key and position of each id of a tile, and a counter for
// each warp and digit.
constexpr int kTableShared = kTableTile * 8 + kTableThreads / 32 * (4 << kMaxTableDigitBits);
// The most tables that are sorted by a block each.
constexpr int kMaxTables = 512;

// The ids of a batch, and the results that do not depend on their order.
template <typename I>
struct IndexSortIds {
  const Feature* features;
  const Table* tables;
  const I* indices;
  // The bag of each position.
  uint32_t* bag_of;
  uint32_t* bag_lengths;
  Status* status;
  Bags bags;
  uint32_t batch_size;
  uint32_t reserved;
};

// The counters of `index_sort_tables`: zeros before and after each launch.
struct IndexSortCounters {
  uint32_t arrivals;
  uint32_t ticket;
  // The number of keys for which large tables have taken memory.
  uint32_t taken;
  uint32_t reserved;
  // The status words of the look-back by table: of the counted ids, and of the rows.
  unsigned long long ids[kMaxTables];
  unsigned long long rows[kMaxTables];
};

// The parameters of the kernel that sorts the ids of each table in a block.
template <typename I>
struct IndexSortTables {
  IndexSortIds<I> ids;
  // The number of features of all tables before each table, with one more entry.
  const uint32_t* feature_offsets;
  // The features, by table.
  const uint32_t* features_by_table;
  IndexSortCounters* counters;
  // Memory for the tables that have more than `kTableTile` ids: keys and positions, twice.
  uint32_t* keys;
  uint32_t* keys_out;
  uint32_t* key_positions;
  uint32_t* key_positions_out;
  uint64_t* rows;
  uint32_t* segments;
  uint32_t* positions;
  uint32_t* bags;
  // The number of occurrences and the number of rows.
  uint32_t* counts;
};

// The parameters of the kernel that writes the keys of all ids and counts their digits.
template <typename I>
struct IndexSortRows {
  IndexSortIds<I> ids;
  // The keys, of `key_bytes` bytes each.
  void* keys;
  // The number of keys by pass and digit.
  uint32_t* histograms;
  uint64_t end_key;
  // The number of lanes that read a bag together.
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
