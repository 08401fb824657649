// A batch of tables as the device sees it, and the faults that kernels note.
#pragma once

#include <stdint.h>

// Columns that a lane takes at once of rows that are wide: see `Table`.
constexpr int kWideColumns = 4;
// The padding of a feature that has none.
constexpr int64_t kNoPadding = -1;

// How the rows of a bag are pooled.
enum Pooling : uint32_t {
  kSum = 0,
  kMean = 1,
  kMax = 2,
};

// A feature with its table.
struct Feature {
  // The table's first element.
  uint64_t weight_offset;
  uint64_t num_embeddings;
  // The id that stands for no row, or kNoPadding.
  int64_t padding_idx;
  uint32_t embedding_dim;
  // The first column in the pooled output.
  uint32_t column;
  uint32_t table;
  // A `Pooling`.
  uint32_t pooling;
};

// A table; one more entry stands for the end of the last one.
struct Table {
  // The table's first row, counted through all tables.
  uint64_t first_row;
  // The table's first element.
  uint64_t weight_offset;
  uint32_t embedding_dim;
  // Set if the table's rows, and their columns in the pooled output, begin at multiples of
  // kWideColumns elements.
  uint32_t is_wide;
};

// The rules that an id, an offset or a label breaks.
enum FaultKind : uint32_t {
  kBadId = 1,
  kFirstNotZero = 2,
  kDecreasing = 3,
  kLastNotEnd = 4,
  kBadLabel = 5,
};

// Something that a call found wrong.
struct Fault {
  // The position of the id (or of the offset) in the high half and the bag in the low one, or
  // kLabels and the sample.
  uint64_t key;
  // The value that stands there; of a label its bits.
  int64_t value;
  // The number of rows for kBadId, else the value that would be right, or the least one.
  uint64_t limit;
  // A `FaultKind`.
  uint32_t kind;
  uint32_t table;
};

// The high half of a label's key: behind the positions of all ids and offsets, whose faults come
// first, as on the CPU, where the lookup comes before the loss.
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
