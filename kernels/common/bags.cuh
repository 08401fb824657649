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
// always has a record, and the slots suffice however many faults there are. The kind is written
// last, so that a reader that does not wait for the kernel knows a complete record.
__device__ __forceinline__ void note(Status* status, Fault fault) {
  atomicAdd(&status->count, 1u);
  const unsigned long long before = atomicMin(&status->first, (unsigned long long)fault.key);
  if (fault.key >= before) return;
  Fault& record = status->faults[atomicAdd(&status->records, 1u) % kFaultSlots];
  const uint32_t kind = fault.kind;
  fault.kind = 0;
  record = fault;
  __threadfence();
  record.kind = kind;
}

// Returns the offset with this number: the first position of a bag, or the end of the last one.
__device__ __forceinline__ int64_t offset_at(const Bags& bags, uint64_t number) {
  if (bags.offset_type == kEqual) return int64_t(number * bags.length);
  if (number >= bags.num_offsets) return int64_t(bags.num_indices);
  if (bags.offset_type == kI64) return static_cast<const int64_t*>(bags.offsets)[number];
  const int32_t offset = static_cast<const int32_t*>(bags.offsets)[number];
  return bags.offset_type == kU32 ? int64_t(uint32_t(offset)) : offset;
}

// The bounds of a bag, clamped to the ids whatever the offsets hold.
struct Bounds {
  uint64_t start, end;
};

__device__ __forceinline__ Bounds bounds_of(const Bags& bags, uint64_t bag) {
  const int64_t start = offset_at(bags, bag), end = offset_at(bags, bag + 1);
  const uint64_t last = end < 0 ? 0 : min(uint64_t(end), bags.num_indices);
  return {start < 0 ? 0 : min(uint64_t(start), last), last};
}

// Returns the number of ids. With slack this is the last offset, if it is within the capacity.
__device__ __forceinline__ uint64_t used_indices(const Bags& bags) {
  if (!bags.has_slack) return bags.num_indices;
  const int64_t end = offset_at(bags, bags.num_bags);
  return end < 0 ? bags.num_indices : min(uint64_t(end), bags.num_indices);
}

// Returns true if the last offset is not the number of ids or, with slack, exceeds the capacity.
__device__ __forceinline__ bool is_bad_end(const Bags& bags, int64_t end) {
  return bags.has_slack ? end > int64_t(bags.num_indices) : end != int64_t(bags.num_indices);
}

// Returns true if the bounds of a bag break a rule: offsets do not decrease, the first is 0, the
// last is the number of ids.
__device__ __forceinline__ bool has_bad_bounds(const Bags& bags, uint64_t bag) {
  const int64_t start = offset_at(bags, bag), end = offset_at(bags, bag + 1);
  return (bag == 0 && start != 0) || end < start ||
         (bag + 1 == bags.num_bags && is_bad_end(bags, end));
}

// Notes all faults of a bag. One lane calls this after the work and only if there is a fault, so
// that a valid batch pays nothing.
template <typename I>
__device__ __forceinline__ void note_faults(const Feature& feature, const I* indices,
                                            const Bags& bags, uint64_t bag, Status* status) {
  const int64_t start = offset_at(bags, bag), end = offset_at(bags, bag + 1);
  const Bounds bounds = bounds_of(bags, bag);
  // The first three rounds check the rules of the bounds, the others the ids.
#pragma unroll 1
  for (int64_t round = -3; round < int64_t(bounds.end - bounds.start); ++round) {
    Fault fault = {(bag + 1) << 32, end, bags.num_indices, kLastNotEnd, feature.table, bags.op, 0};
    bool broken = bag + 1 == bags.num_bags && is_bad_end(bags, end);
    if (round == -3) {
      fault = {0, start, 0, kFirstNotZero, feature.table, bags.op, 0};
      broken = bag == 0 && start != 0;
    } else if (round == -2) {
      fault = {(bag + 1) << 32, end, uint64_t(start), kDecreasing, feature.table, bags.op, 0};
      broken = end < start;
    } else if (round >= 0) {
      const uint64_t position = bounds.start + round;
      const int64_t id = indices[position];
      const int64_t value = bags.has_unsigned_ids ? int64_t(uint32_t(id)) : id;
      fault = {
          position << 32 | bag, value, feature.num_embeddings, kBadId, feature.table, bags.op, 0};
      broken = uint64_t(id) >= feature.num_embeddings;
    }
    if (broken) note(status, fault);
  }
}
