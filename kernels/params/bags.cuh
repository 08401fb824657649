// The tables, features and bags of a batch on the device, and the faults that kernels note.
#pragma once

#include <stdint.h>

// The number of columns in a lane's vectorised load of a wide row; see `Table`.
constexpr int kWideColumns = 4;
// The value of `padding_idx` of a feature without padding.
constexpr int64_t kNoPadding = -1;

// The poolings of the rows of a bag.
enum Pooling : uint32_t {
  kSum = 0,
  kMean = 1,
  kMax = 2,
};

// A feature and its table.
struct Feature {
  uint64_t num_embeddings;
  // The id of the padding, which names no row, or kNoPadding.
  int64_t padding_idx;
  uint32_t embedding_dim;
  // The first column in the pooled output.
  uint32_t column;
  uint32_t table;
  // A `Pooling`.
  uint32_t pooling;
};

// A table. One more entry marks the end of the last table.
struct Table {
  // The table's first row, counted through all tables.
  uint64_t first_row;
  uint32_t embedding_dim;
  // Set if the columns of a row, and their first one in the pooled output, are multiples of
  // kWideColumns.
  uint32_t is_wide;
};

// The rows of a table, or of its optimizer state, in memory: row `r` begins at element `start + r *
// stride`.
struct TableRows {
  uint64_t start;
  uint32_t stride;
  // Set if all rows begin at multiples of kWideColumns elements.
  uint32_t is_wide;
};

// The types of offsets. The offsets of bags of equal length are not in memory.
enum OffsetType : uint32_t {
  kI32 = 0,
  kI64 = 1,
  kU32 = 2,
  kEqual = 3,
};

// The bags of a batch.
struct Bags {
  // The bounds of the bags among the ids: `num_offsets` values. The one behind them, if a bag has
  // it as its end, is the number of ids.
  const void* offsets;
  uint64_t num_offsets;
  // The length of each bag for kEqual.
  uint64_t length;
  // The capacity for ids: their number with slack.
  uint64_t num_indices;
  uint32_t num_bags;
  // An `OffsetType`.
  uint32_t offset_type;
  // Set if there may be slack behind the ids.
  uint32_t has_slack;
  // Set if ids of 32 bits are unsigned. Tables have at most 2^31 rows then, so that the bits name
  // the same row as those of a signed id.
  uint32_t has_unsigned_ids;
  // The `FaultyOp` that reads the bags.
  uint32_t op;
  uint32_t reserved;
};

// The ops that report faults.
enum FaultyOp : uint32_t {
  kEmbeddingBagForward = 0,
  kEmbeddingBagWeightGrad = 1,
  kIndexSort = 2,
  kLoss = 3,
  kHead = 4,
};

// The rules that an id, an offset or a label can break.
enum FaultKind : uint32_t {
  kBadId = 1,
  kFirstNotZero = 2,
  kDecreasing = 3,
  kLastNotEnd = 4,
  kBadLabel = 5,
};

// The record of a fault that a kernel found.
struct Fault {
  // The position of the id (or of the offset) in the high half and the bag in the low one, or
  // kLabels and the sample.
  uint64_t key;
  // The id or offset itself, or the bits of the label.
  int64_t value;
  // The number of rows for kBadId, else the right value or the least valid one.
  uint64_t limit;
  // A `FaultKind`.
  uint32_t kind;
  uint32_t table;
  // A `FaultyOp`.
  uint32_t op;
  uint32_t reserved;
};

// The high half of the key of a label. It is greater than the position of any id or offset, whose
// faults come first, as on the CPU, where the lookup comes before the loss.
constexpr uint64_t kLabels = 0xffffffff;
// The number of records.
constexpr int kFaultSlots = 64;

// The status words of a backend, zero (and `first` all ones) after each synchronisation.
struct Status {
  // The lowest key so far.
  unsigned long long first;
  // The number of faults so far.
  uint32_t count;
  // The number of records so far.
  uint32_t records;
  Fault faults[kFaultSlots];
};
