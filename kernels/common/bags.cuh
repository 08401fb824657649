// The bags of a table-batched lookup on the device, and the records of faults in ids and offsets.
#pragma once

#include "dtype.cuh"
#include "params/bags.cuh"

constexpr int64_t kNoRow = -1;

// Returns the row that an id names, or kNoRow for padding and for an id outside the table, which
// also sets `bad`.
__device__ __forceinline__ int64_t row_of(int64_t id, const Feature& feature, bool& bad) {
  const bool in_table = uint64_t(id) < feature.num_embeddings;
  bad |= !in_table;
  return in_table && id != feature.padding_idx ? id : kNoRow;
}

// Notes a fault. Only a fault lower than all before it writes a record. Therefore the lowest fault
// always has a record, and the slots suffice however many faults there are.
__device__ __forceinline__ void note(Status* status, Fault fault) {
  atomicAdd(&status->count, 1u);
  const unsigned long long before = atomicMin(&status->first, (unsigned long long)fault.key);
  if (fault.key < before) status->faults[atomicAdd(&status->records, 1u) % kFaultSlots] = fault;
}

// The bounds of a bag, clamped to the ids whatever `offsets` holds.
struct Bounds {
  uint64_t start, end;
};

template <typename I>
__device__ __forceinline__ Bounds bounds_of(const I* offsets, uint64_t bag, uint64_t num_indices) {
  const int64_t start = offsets[bag], end = offsets[bag + 1];
  const uint64_t last = end < 0 ? 0 : min(uint64_t(end), num_indices);
  return {start < 0 ? 0 : min(uint64_t(start), last), last};
}

// Returns the number of ids. With slack this is the last offset, if it is within the capacity.
template <typename I>
__device__ __forceinline__ uint64_t used_indices(const I* offsets, uint64_t num_bags,
                                                 uint64_t num_indices, uint32_t has_slack) {
  if (!has_slack) return num_indices;
  const int64_t end = offsets[num_bags];
  return end < 0 ? num_indices : min(uint64_t(end), num_indices);
}

// Returns true if the last offset is not the number of ids or, with slack, exceeds the capacity.
__device__ __forceinline__ bool is_bad_end(int64_t end, uint64_t num_indices, uint32_t has_slack) {
  return has_slack ? end > int64_t(num_indices) : end != int64_t(num_indices);
}

// Returns true if the bounds of a bag break a rule: offsets do not decrease, the first is 0, the
// last is the number of ids.
template <typename I>
__device__ __forceinline__ bool has_bad_bounds(const I* offsets, uint64_t bag, uint64_t num_bags,
                                               uint64_t num_indices, uint32_t has_slack) {
  const int64_t start = offsets[bag], end = offsets[bag + 1];
  return (bag == 0 && start != 0) || end < start ||
         (bag + 1 == num_bags && is_bad_end(end, num_indices, has_slack));
}

// Notes all faults of a bag. One lane calls this after the work and only if there is a fault, so
// that a valid batch pays nothing.
template <typename I>
__device__ __forceinline__ void note_faults(const Feature& feature, const I* indices,
                                            const I* offsets, uint64_t bag, uint64_t num_bags,
                                            uint64_t num_indices, uint32_t has_slack,
                                            Status* status) {
  const int64_t start = offsets[bag], end = offsets[bag + 1];
  const Bounds bounds = bounds_of(offsets, bag, num_indices);
  // The first three rounds check the rules of the bounds, the others the ids.
#pragma unroll 1
  for (int64_t round = -3; round < int64_t(bounds.end - bounds.start); ++round) {
    Fault fault = {(bag + 1) << 32, end, num_indices, kLastNotEnd, feature.table};
    bool broken = bag + 1 == num_bags && is_bad_end(end, num_indices, has_slack);
    if (round == -3) {
      fault = {0, start, 0, kFirstNotZero, feature.table};
      broken = bag == 0 && start != 0;
    } else if (round == -2) {
      fault = {(bag + 1) << 32, end, uint64_t(start), kDecreasing, feature.table};
      broken = end < start;
    } else if (round >= 0) {
      const uint64_t position = bounds.start + round;
      const int64_t id = indices[position];
      fault = {position << 32 | bag, id, feature.num_embeddings, kBadId, feature.table};
      broken = uint64_t(id) >= feature.num_embeddings;
    }
    if (broken) note(status, fault);
  }
}
