// index_sort.cu: the order of a batch's ids by the rows that they name.
//
// Computes     linear rows of all counted ids, sorted stably with their positions; where each row's
//              occurrences begin; counted ids of each bag
// Rust         src/ops/index_sort.rs, src/backend/cuda/index_sort.rs
// Entries      index_sort_tables_{i32,i64}; index_sort_rows_{i32,i64},
//              index_sort_{pass,segments}_{large,small}_{u32,u64}
// Algorithm    1. `tables` sorts a small batch in one launch, since there latency is what counts.
//                 Bags are key-major, so that a block finds the ids of a table side by side, one
//                 run for each of its features. It reads them into shared memory, padding and bad
//                 ids with a key behind all rows of the table, and sorts them by the bits that the
//                 table's rows have. A decoupled look-back over the tables then numbers the ids,
//                 and another one the rows. The last block clears the words of both, so that no
//                 other launch must.
//              2. The host does not know how many ids a table has. The block of a table that does
//                 not fit shared memory sorts it in global memory, tile by tile: correct, but
//                 slower.
//              3. The other kernels sort large batches, in several launches. `rows`: a group of
//                 lanes per bag writes the key of each id, its linear row, and counts the digits of
//                 all passes at once, so that no pass needs a histogram of its own. Padding and bad
//                 ids get a key behind all rows, so that the host knows every later size. Wrong
//                 offsets leave no position without a key. Slack is sorted like padding.
//              4. `pass` is one pass of a least-significant-digit radix sort in a single launch. A
//                 tile ranks its keys by votes on the bits of their digits, gets the counts of the
//                 tiles before it by decoupled look-back, reorders its keys in shared memory, and
//                 writes runs of equal digits, coalesced. Three launches per pass would read the
//                 keys twice.
//              5. `segments`: a row begins where a key differs from the one before it. The same
//                 look-back numbers the rows; a warp looks back, one lane per tile.
//              6. Few keys are cut into smaller tiles, so that more multiprocessors have work. Keys
//                 have as many digits as the tables have rows, and 32 bits where these suffice,
//                 since each pass and each byte costs time.
// Mapping      pass, tile of 8 warps x 32 lanes x kItems keys (large: kItems 8):
//                keys of the tile   | warp 0 | warp 1 | ... | warp 7 |
//                keys of a warp     | step 0: lanes 0 .. 31 | step 1: lanes 0 .. 31 | ... |
//                counts             thread t -> digit t: sum over warps, look-back over tiles
//                shared memory      | digit 0 | digit 1 | ... |   slot s -> output place[digit] + s
//              tables: block -> table, else as in pass, 16 warps and as many steps as there are
//              rows, tables: group of lanes -> bag; lane l -> ids l, l + lanes, .. of the bag
// Launch       tables: a block of 512 for each table; rows: enough blocks of 256 for the bags, at
//              most 528; pass, segments: a block of 256 for each tile of 2048 ids, or of 1024
// Bytes        ids read once; tables: bags and order written once, bags read once; each pass reads
//              and writes key and position: 16 bytes an id (24 with 64-bit keys); 2 KB of status
//              words a tile
// Requires     tables: at most 512 tables, 512 features of a table and 2^32 - 1 rows of one; zero
//              counters. The others: the status words of the tiles, the tickets and the histograms
//              are zero before `rows`. At most 2^32 - 2 ids
// Numerics     integers: the same results for any schedule
// Measured     NVIDIA H200, 2026-11-27, without `tables`: 28 us for 53,248 ids, 155 us for 1.7
//              million; far from what memory allows. `tables`: compiled and emulated, not yet
//              measured. Predicted for these 53,248 ids of 26 tables: 9 us, of which 2 are the
//              launch and 4 some ten dependent accesses of L2 and atomics; two passes take 1.5

#include "common/arrivals.cuh"
#include "common/bags.cuh"
#include "common/reduce.cuh"
#include "common/scan.cuh"
#include "params/index_sort.cuh"

constexpr int kWarps = kThreads / 32;
static_assert(kThreads == kDigits, "a thread takes care of a digit");
constexpr uint32_t kTableWarps = kTableThreads / 32, kTableDigits = 1 << kMaxTableDigitBits;
static_assert(kTableThreads == kTableDigits, "a thread takes care of a digit");

template <typename K>
__device__ __forceinline__ uint32_t digit_of(K key, uint32_t pass, uint32_t digit_bits) {
  return uint32_t(key >> (pass * digit_bits)) & ((1u << digit_bits) - 1);
}

// Returns the mask of the warp's lanes below the calling one.
__device__ __forceinline__ uint32_t lanes_below() { return (1u << (threadIdx.x % 32)) - 1; }

// Returns the mask of the lanes that have the same digit as the calling one, or that have no key if
// it has none. A warp votes on each bit: votes overlap in the pipeline, unlike __match_any_sync.
template <uint32_t kBits>
__device__ __forceinline__ uint32_t lanes_alike(uint32_t digit, bool exists) {
  const uint32_t existing = __ballot_sync(kWarp, exists);
  uint32_t alike = exists ? existing : ~existing;
#pragma unroll
  for (uint32_t bit = 0; bit < kBits; ++bit) {
    const bool is_set = digit >> bit & 1;
    const uint32_t set = __ballot_sync(kWarp, is_set);
    alike &= is_set ? set : ~set;
  }
  return alike;
}

// Counts the keys of a warp by their digits, given those of `lanes_alike`. Returns the number of
// earlier keys of the warp that have the same digit as the calling lane's.
__device__ __forceinline__ uint32_t count_alike(uint32_t* counts, uint32_t digit, uint32_t alike,
                                                bool exists) {
  // The lowest lane with a digit counts all lanes with it, and broadcasts the number of earlier
  // keys of this digit.
  const uint32_t leader = __ffs(alike) - 1;
  uint32_t before = 0;
  if (threadIdx.x % 32 == leader && exists) before = atomicAdd(&counts[digit], __popc(alike));
  return __shfl_sync(kWarp, before, leader) + __popc(alike & lanes_below());
}

// Returns an offset as a position, clamped to the first `num_indices`.
__device__ __forceinline__ uint64_t position_at(const Bags& bags, uint64_t number,
                                                uint64_t num_indices) {
  const int64_t offset = offset_at(bags, number);
  return offset < 0 ? 0 : min(uint64_t(offset), num_indices);
}

// Returns the bounds of a bag, stretched so that the bags cover every position even if the first
// offset is not 0 or the last one is not the number of ids.
__device__ __forceinline__ Bounds covering_bounds(const Bags& bags, uint64_t bag,
                                                  uint64_t num_indices) {
  return {bag == 0 ? 0 : position_at(bags, bag, num_indices),
          bag + 1 == bags.num_bags ? num_indices : position_at(bags, bag + 1, num_indices)};
}

// Reads the ids of a bag, one group of lanes for each bag: calls `take(position, row)` for each of
// them, with kNoRow for padding and bad ids, notes the faults, and writes the number of rows as the
// length of the bag. Returns true if the bounds are wrong. A lane reads kAtOnce ids at once, so
// that the latencies overlap. The groups of a warp stay converged, and those without a bag pass
// false: votes with a partial mask run once for each group.
template <int kAtOnce, typename I, typename Take>
__device__ __forceinline__ bool read_bag(const IndexSortIds<I>& p, uint32_t lanes, bool exists,
                                         uint32_t bag, Bounds bounds, Take take) {
  const uint32_t lane = threadIdx.x % lanes;
  const bool is_wrong = exists && has_bad_bounds(p.bags, bag);
  uint32_t rows = 0;
  bool bad = is_wrong;
  if (exists) {
    const Feature& feature = p.features[bag / p.batch_size];
#pragma unroll 1
    for (uint64_t first = bounds.start + lane; first < bounds.end; first += kAtOnce * lanes) {
      I ids[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        ids[j] = first + j * lanes < bounds.end ? p.indices[first + j * lanes] : 0;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const uint64_t position = first + j * lanes;
        if (position >= bounds.end) break;
        const int64_t row = row_of(ids[j], feature, bad);
        rows += row != kNoRow;
        p.bag_of[position] = bag;
        take(position, row);
      }
    }
  }
  rows = group_sum(rows, lanes);
  bad = group_any(bad, lanes);
  if (lane == 0 && exists) {
    p.bag_lengths[bag] = rows;
    if (bad) note_faults(p.features[bag / p.batch_size], p.indices, p.bags, bag, p.status);
  }
  return is_wrong;
}

// Writes the key of every id, its linear row, and counts digits.
template <typename I>
__device__ __forceinline__ void name_rows(const IndexSortRows<I>& p) {
  __shared__ uint32_t counts[kMaxPasses * kDigits];
  for (uint32_t k = threadIdx.x; k < p.passes * kDigits; k += kThreads) counts[k] = 0;
  __syncthreads();
  const Bags& bags = p.ids.bags;
  const uint64_t threads = uint64_t(gridDim.x) * kThreads,
                 thread = uint64_t(blockIdx.x) * kThreads + threadIdx.x;
  const uint64_t num_indices = used_indices(bags);
  const auto store_key = [&](uint64_t position, uint64_t key) {
    if (p.key_bytes == 8) {
      static_cast<uint64_t*>(p.keys)[position] = key;
    } else {
      static_cast<uint32_t*>(p.keys)[position] = uint32_t(key);
    }
  };
  // Slack gets the key of padding.
#pragma unroll 1
  for (uint64_t position = num_indices + thread; position < bags.num_indices; position += threads)
    store_key(position, p.end_key);
  if (thread < p.passes)
    atomicAdd(&counts[thread * kDigits + digit_of(p.end_key, uint32_t(thread), p.digit_bits)],
              uint32_t(bags.num_indices - num_indices));
#pragma unroll 1
  for (uint64_t first = thread / 32 * 32 / p.lanes; first < bags.num_bags;
       first += threads / p.lanes) {
    const uint64_t bag = first + threadIdx.x % 32 / p.lanes;
    const bool exists = bag < bags.num_bags;
    const uint32_t table = exists ? p.ids.features[bag / p.ids.batch_size].table : 0;
    const uint64_t first_row = p.ids.tables[table].first_row;
    const Bounds bounds = exists ? covering_bounds(bags, bag, num_indices) : Bounds{};
    read_bag<1>(p.ids, p.lanes, exists, uint32_t(bag), bounds, [&](uint64_t position, int64_t row) {
      const uint64_t key = row == kNoRow ? p.end_key : first_row + row;
      store_key(position, key);
#pragma unroll 1
      for (uint32_t pass = 0; pass < p.passes; ++pass)
        atomicAdd(&counts[pass * kDigits + digit_of(key, pass, p.digit_bits)], 1u);
    });
  }
  __syncthreads();
  for (uint32_t k = threadIdx.x; k < p.passes * kDigits; k += kThreads) {
    if (counts[k] > 0) atomicAdd(&p.histograms[k], counts[k]);
  }
}

#define INSTANTIATE_ROWS(I)                                             \
  extern "C" __global__ void __launch_bounds__(kThreads, 6)             \
      index_sort_rows_##I(const __grid_constant__ IndexSortRows<I> p) { \
    name_rows(p);                                                       \
  }
INSTANTIATE_ROWS(i32)
INSTANTIATE_ROWS(i64)

// Makes one stable pass of the sort, by digit number `pass`. `positions` is null in the first pass,
// in which the position of a key is its index.
template <int kItems, typename K>
__device__ __forceinline__ void sort_by_digit(const IndexSortPass<K>& p) {
  constexpr int kTile = kThreads * kItems;
  __shared__ uint32_t counts[kWarps][kDigits];
  // The output index of the tile's first key of each digit, minus its slot.
  __shared__ uint32_t place[kDigits];
  __shared__ K ordered_keys[kTile];
  __shared__ uint32_t ordered_positions[kTile];
  const uint32_t tile = take_tile(p.tickets + p.pass), warp = threadIdx.x / 32,
                 lane = threadIdx.x % 32, thread = threadIdx.x;
  const uint64_t tile_start = uint64_t(tile) * kTile;
  const uint32_t tile_size = uint32_t(min(uint64_t(kTile), p.num_keys - tile_start));

  // A warp loads a contiguous run of keys, coalesced: warps, steps and lanes follow the order of
  // the keys, which makes the ranks stable.
  const uint32_t first = warp * 32 * kItems + lane;
  K key[kItems];
  uint32_t position[kItems], within[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint32_t k = first + 32 * j;
    key[j] = k < tile_size ? p.keys[tile_start + k] : 0;
    position[j] = k >= tile_size ? 0
                  : p.positions  ? p.positions[tile_start + k]
                                 : uint32_t(tile_start + k);
  }
  for (uint32_t w = 0; w < kWarps; ++w) counts[w][thread] = 0;
  __syncthreads();
  uint32_t alike[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    alike[j] = lanes_alike<kMaxDigitBits>(digit_of(key[j], p.pass, p.digit_bits),
                                          first + 32 * j < tile_size);
  }
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    within[j] = count_alike(counts[warp], digit_of(key[j], p.pass, p.digit_bits), alike[j],
                            first + 32 * j < tile_size);
  }
  __syncthreads();

  // Up to the next barrier, thread t works on digit t.
  uint32_t count = 0;
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) {
    const uint32_t of_warp = counts[w][thread];
    counts[w][thread] = count;
    count += of_warp;
  }
  TileWord* word = p.words + uint64_t(tile) * kDigits + thread;
  publish(word, p.pass, tile == 0, count);
  // One prefix sum computes two: over all keys of the batch in the high half, over those of the
  // tile in the low half.
  const uint64_t smaller = sum_of_threads_before<kThreads>(
      uint64_t(p.histograms[p.pass * kDigits + thread]) << 32 | count);
  const uint32_t start = uint32_t(smaller);
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) counts[w][thread] += start;
  const uint32_t in_tiles_before = sum_of_tiles_before(p.words + thread, tile, kDigits, p.pass);
  if (tile > 0) publish(word, p.pass, true, in_tiles_before + count);
  place[thread] = uint32_t(smaller >> 32) + in_tiles_before - start;
  __syncthreads();

#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    if (first + 32 * j >= tile_size) continue;
    const uint32_t slot = counts[warp][digit_of(key[j], p.pass, p.digit_bits)] + within[j];
    ordered_keys[slot] = key[j];
    ordered_positions[slot] = position[j];
  }
  __syncthreads();
  for (uint32_t slot = thread; slot < tile_size; slot += kThreads) {
    const K moved = ordered_keys[slot];
    const uint32_t to = place[digit_of(moved, p.pass, p.digit_bits)] + slot;
    // Wrong offsets may let bags overlap, so that ids are counted twice.
    if (to >= p.num_keys) continue;
    p.keys_out[to] = moved;
    p.positions_out[to] = ordered_positions[slot];
  }
}

// Numbers the rows among sorted keys, and looks up the bags of their occurrences unless `bags` is
// null. One virtual key `end_key` follows the stored ones: the first key equal to `end_key` ends
// the last segment.
template <int kItems, typename K>
__device__ __forceinline__ void number_rows(const IndexSortSegments<K>& p) {
  // Loading the pointers first keeps fewer registers live in the stores at the end.
  uint64_t* const rows = p.rows;
  uint32_t *const segments = p.segments, *const counts = p.counts;
  __shared__ uint32_t rows_of_tiles_before;
  const uint32_t tile = take_tile(p.ticket);
  const uint64_t first =
      uint64_t(tile) * (kThreads * kItems) + threadIdx.x / 32 * (32 * kItems) + threadIdx.x % 32;
  const auto key_at = [&](uint64_t k) { return k < p.num_keys ? p.keys[k] : K(p.end_key); };
  K key[kItems];
  bool begins[kItems];
  uint32_t number[kItems], of_warp = 0;
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint64_t k = first + 32 * j;
    key[j] = key_at(k);
    begins[j] = k <= p.num_keys && (k == 0 || key_at(k - 1) != key[j]);
    const uint32_t beginning = __ballot_sync(kWarp, begins[j] && key[j] != K(p.end_key));
    number[j] = of_warp + __popc(beginning & lanes_below());
    of_warp += __popc(beginning);
  }
  if (p.bags) {
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const uint64_t k = first + 32 * j;
      if (key[j] == K(p.end_key)) continue;
      const uint32_t position = p.positions[k];
      if (position < p.num_keys) p.bags[k] = p.bag_of[position];
    }
  }
  // The last lane of a warp contributes the warp's sum.
  const uint32_t before = sum_of_threads_before<kThreads>(threadIdx.x % 32 == 31 ? of_warp : 0);
  if (threadIdx.x >= kThreads - 32) {
    const bool is_last = threadIdx.x == kThreads - 1;
    const uint32_t of_tile = before + of_warp;
    if (is_last) publish(p.words + tile, 0, tile == 0, of_tile);
    const uint32_t of_tiles_before = sum_of_tiles_before(p.words, tile, 0);
    if (is_last && tile > 0) publish(p.words + tile, 0, true, of_tiles_before + of_tile);
    if (is_last) rows_of_tiles_before = of_tiles_before;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const uint64_t k = first + 32 * j;
    const uint32_t row = rows_of_tiles_before + before + number[j];
    if (begins[j]) segments[row] = uint32_t(k);
    if (key[j] != K(p.end_key)) {
      if (begins[j]) rows[row] = key[j];
    } else if (begins[j]) {
      counts[0] = uint32_t(k);
      counts[1] = row;
    }
  }
}

// Numbers and positions of some rows of a table: keys that are sorted with their values.
struct Keys {
  uint32_t* keys;
  uint32_t* positions;
};

// Sorts `count` keys of at most `bits` bits stably, with their positions. A whole block calls this
// together. Keys that fit a tile may be sorted in place, since a pass reads a tile before it writes
// any of it. Returns where the sorted keys are: at `keys` or at `other`.
__device__ __forceinline__ Keys sort_keys(Keys keys, Keys other, uint32_t* counts, uint32_t count,
                                          uint32_t bits) {
  const bool fits = count <= kTableTile;
  const uint32_t thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  uint32_t* const of_warp = counts + warp * kTableDigits;
  const uint32_t passes = (bits + kMaxTableDigitBits - 1) / kMaxTableDigitBits,
                 digit_bits = passes > 0 ? (bits + passes - 1) / passes : 0;
#pragma unroll 1
  for (uint32_t pass = 0; pass < passes; ++pass) {
    // Thread t knows the place of the next key whose digit is t. In a table of one tile the counts
    // of that tile give it.
    uint32_t place = 0;
    if (!fits) {
      counts[thread] = 0;
      __syncthreads();
      constexpr uint32_t kAtOnce = 8;
#pragma unroll 1
      for (uint32_t first = thread; first < count; first += kAtOnce * kTableThreads) {
        uint32_t key[kAtOnce];
#pragma unroll
        for (uint32_t j = 0; j < kAtOnce; ++j)
          key[j] = first + j * kTableThreads < count ? keys.keys[first + j * kTableThreads] : 0;
#pragma unroll
        for (uint32_t j = 0; j < kAtOnce; ++j) {
          if (first + j * kTableThreads >= count) break;
          atomicAdd(&counts[digit_of(key[j], pass, digit_bits)], 1u);
        }
      }
      __syncthreads();
      place = sum_of_threads_before<kTableThreads>(counts[thread]);
      __syncthreads();
    }
#pragma unroll 1
    for (uint32_t tile = 0; tile < count; tile += kTableTile) {
      // A warp takes a contiguous run of the tile, which makes the ranks stable.
      const uint32_t size = min(count - tile, kTableTile),
                     steps = (size + kTableThreads - 1) / kTableThreads,
                     first = warp * 32 * steps + lane;
      const uint32_t* const from = keys.keys + tile + first;
      const uint32_t* const from_positions = keys.positions + tile + first;
      uint32_t key[kTableItems], to[kTableItems];
#pragma unroll
      for (uint32_t w = 0; w < kTableWarps; ++w) counts[w * kTableDigits + thread] = 0;
      __syncthreads();
#pragma unroll
      for (uint32_t j = 0; j < kTableItems; ++j) {
        if (j >= steps) break;
        const bool exists = first + 32 * j < size;
        key[j] = exists ? from[32 * j] : 0;
        const uint32_t digit = digit_of(key[j], pass, digit_bits);
        const uint32_t alike = lanes_alike<kMaxTableDigitBits>(digit, exists);
        to[j] = count_alike(of_warp, digit, alike, exists);
      }
      __syncthreads();
      uint32_t of_digit = 0;
#pragma unroll
      for (uint32_t w = 0; w < kTableWarps; ++w) {
        const uint32_t of_warp_and_digit = counts[w * kTableDigits + thread];
        counts[w * kTableDigits + thread] = of_digit;
        of_digit += of_warp_and_digit;
      }
      if (fits) place = sum_of_threads_before<kTableThreads>(of_digit);
#pragma unroll
      for (uint32_t w = 0; w < kTableWarps; ++w) counts[w * kTableDigits + thread] += place;
      place += of_digit;
      __syncthreads();
#pragma unroll
      for (uint32_t j = 0; j < kTableItems; ++j) {
        if (j >= steps) break;
        if (first + 32 * j >= size) continue;
        to[j] += of_warp[digit_of(key[j], pass, digit_bits)];
        other.keys[to[j]] = key[j];
      }
      // The positions follow in a step of their own, in the registers of the keys.
#pragma unroll
      for (uint32_t j = 0; j < kTableItems; ++j) {
        if (j >= steps) break;
        if (first + 32 * j < size) key[j] = from_positions[32 * j];
      }
      __syncthreads();
#pragma unroll
      for (uint32_t j = 0; j < kTableItems; ++j) {
        if (j >= steps) break;
        if (first + 32 * j < size) other.positions[to[j]] = key[j];
      }
      __syncthreads();
    }
    const Keys sorted = other;
    other = keys;
    keys = sorted;
  }
  return keys;
}

// A feature of a table, whose ids lie at other places among those of the table than in the batch.
struct TableFeature {
  uint32_t number;
  // The place of an id among those of the table, minus its position.
  uint32_t shift;
};

// Sorts the ids of a table, and numbers its rows.
template <typename I>
__device__ __forceinline__ void sort_table(const IndexSortTables<I>& p) {
  extern __shared__ uint32_t shared[];
  __shared__ uint32_t num_keys, taken, num_counted, ids_before, rows_before;
  const Bags& bags = p.ids.bags;
  const uint32_t thread = threadIdx.x, warp = thread / 32, lane = thread % 32,
                 batch_size = p.ids.batch_size, num_tables = gridDim.x;
  const uint32_t table = take_tile(&p.counters->ticket);
  const uint64_t first_row = p.ids.tables[table].first_row;
  const uint32_t num_rows = uint32_t(p.ids.tables[table + 1].first_row - first_row);

  // The ids of the table follow each other feature by feature, as they do in the batch.
  const uint32_t first_feature = p.feature_offsets[table],
                 num_features = p.feature_offsets[table + 1] - first_feature;
  uint32_t* const counts = shared + 2 * kTableTile;
  TableFeature* const features = reinterpret_cast<TableFeature*>(counts);
  uint32_t number = 0;
  uint64_t start = 0, end = 0;
  if (thread < num_features) {
    number = p.features_by_table[first_feature + thread];
    end = position_at(bags, uint64_t(number + 1) * batch_size, bags.num_indices);
    start = min(end, position_at(bags, uint64_t(number) * batch_size, bags.num_indices));
  }
  const uint32_t before = sum_of_threads_before<kTableThreads>(uint32_t(end - start));
  if (thread < num_features) features[thread] = {number, before - uint32_t(start)};
  if (thread == kTableThreads - 1) {
    const uint32_t count = before + uint32_t(end - start);
    // A table that does not fit shared memory takes a part of global memory. Only wrong offsets
    // count ids twice, so that there is none left. A table with more ids than there are takes
    // nothing, so that the sum of all parts does not overflow.
    const bool takes = count > kTableTile && count <= bags.num_indices;
    taken = takes ? atomicAdd(&p.counters->taken, count) : 0;
    num_keys = taken + uint64_t(count) <= bags.num_indices ? count : 0;
    num_counted = 0;
  }
  __syncthreads();
  const uint32_t count = num_keys;
  Keys keys = {shared, shared + kTableTile}, other = keys;
  if (count > kTableTile) {
    keys = {p.keys + taken, p.key_positions + taken};
    other = {p.keys_out + taken, p.key_positions_out + taken};
  }

  // Padding and bad ids get a key behind all rows.
  const uint32_t num_bags = num_features * batch_size;
  uint32_t counted = 0, lanes = 1;
#pragma unroll 1
  while (lanes < 32 && uint64_t(lanes) * num_bags < count) lanes *= 2;
  bool is_wrong = false;
#pragma unroll 1
  for (uint64_t first = thread / 32 * 32 / lanes; first < num_bags;
       first += kTableThreads / lanes) {
    const uint32_t k = uint32_t(first) + lane / lanes;
    const bool exists = k < num_bags;
    const TableFeature feature = exists ? features[k / batch_size] : TableFeature{};
    const uint32_t bag = feature.number * batch_size + k % batch_size;
    const Bounds bounds = exists ? bounds_of(bags, bag) : Bounds{};
    is_wrong |= read_bag<4>(p.ids, lanes, exists, bag, bounds, [&](uint64_t position, int64_t row) {
      const uint32_t place = uint32_t(position) + feature.shift;
      if (place >= count) return;
      counted += row != kNoRow;
      keys.keys[place] = row == kNoRow ? num_rows : uint32_t(row);
      keys.positions[place] = uint32_t(position);
    });
  }
  counted = __reduce_add_sync(kWarp, counted);
  if (lane == 0) atomicAdd(&num_counted, counted);
  // Wrong offsets may count ids twice. Then the table has none.
  counted = __syncthreads_or(is_wrong) ? 0 : num_counted;
  if (thread == 0) publish(p.counters->ids + table, 0, table == 0, counted);

  const uint32_t largest = counted == count ? num_rows - 1 : num_rows;
  keys = sort_keys(keys, other, counts, count, 32 - __clz(largest));

  // A row begins where a key differs from the one before it. Each warp takes a contiguous part.
  const uint32_t part = (counted + kTableThreads - 1) / kTableThreads * 32,
                 part_end = min((warp + 1) * part, counted);
  const auto begins = [&](uint32_t k) {
    return k < part_end && (k == 0 || keys.keys[k] != keys.keys[k - 1]);
  };
  uint32_t rows_of_warp = 0;
#pragma unroll 1
  for (uint32_t first = warp * part; first < part_end; first += 32)
    rows_of_warp += __popc(__ballot_sync(kWarp, begins(first + lane)));
  if (warp == 0) {
    const uint32_t of_tables_before = sum_of_tiles_before(p.counters->ids, table, 0);
    if (thread == 0 && table > 0)
      publish(p.counters->ids + table, 0, true, of_tables_before + counted);
    if (thread == 0) ids_before = of_tables_before;
  }
  const uint32_t of_warps_before =
      sum_of_threads_before<kTableThreads>(lane == 31 ? rows_of_warp : 0);
  if (warp == kTableWarps - 1) {
    const bool is_last = lane == 31;
    const uint32_t of_table = of_warps_before + rows_of_warp;
    if (is_last) publish(p.counters->rows + table, 0, table == 0, of_table);
    const uint32_t of_tables_before = sum_of_tiles_before(p.counters->rows, table, 0);
    if (is_last && table > 0)
      publish(p.counters->rows + table, 0, true, of_tables_before + of_table);
    if (is_last) rows_before = of_tables_before;
    if (is_last && table == num_tables - 1) {
      // Wrong offsets may let bags of different tables overlap.
      const uint64_t all_ids = min(uint64_t(ids_before) + counted, bags.num_indices),
                     all_rows = min(uint64_t(of_tables_before) + of_table, bags.num_indices);
      p.counts[0] = uint32_t(all_ids);
      p.counts[1] = uint32_t(all_rows);
      p.segments[all_rows] = uint32_t(all_ids);
    }
  }

  // Several bags are looked up at once, so that the latencies overlap.
  constexpr uint32_t kAtOnce = 4;
#pragma unroll 1
  for (uint32_t first = thread; first < counted; first += kAtOnce * kTableThreads) {
    uint32_t position[kAtOnce], bag[kAtOnce];
#pragma unroll
    for (uint32_t j = 0; j < kAtOnce; ++j) {
      const uint32_t k = first + j * kTableThreads;
      if (k >= counted) continue;
      position[j] = keys.positions[k];
      bag[j] = p.ids.bag_of[position[j]];
    }
#pragma unroll
    for (uint32_t j = 0; j < kAtOnce; ++j) {
      const uint32_t k = first + j * kTableThreads;
      const uint64_t to = uint64_t(ids_before) + k;
      if (k >= counted || to >= bags.num_indices) continue;
      p.positions[to] = position[j];
      p.bags[to] = bag[j];
    }
  }
  __syncthreads();
  uint32_t number_of_row = rows_before + of_warps_before;
#pragma unroll 1
  for (uint32_t first = warp * part; first < part_end; first += 32) {
    const uint32_t k = first + lane;
    const bool is_first = begins(k);
    const uint32_t beginning = __ballot_sync(kWarp, is_first);
    const uint64_t row = uint64_t(number_of_row) + __popc(beginning & lanes_below());
    if (is_first && row < bags.num_indices) {
      p.rows[row] = first_row + keys.keys[k];
      p.segments[row] = ids_before + k;
    }
    number_of_row += __popc(beginning);
  }
  if (!arrives_last(&p.counters->arrivals, num_tables)) return;
  for (uint32_t k = thread; k < num_tables; k += kTableThreads)
    p.counters->ids[k] = p.counters->rows[k] = 0;
  if (thread == 0) p.counters->ticket = p.counters->taken = 0;
}

#define INSTANTIATE_TABLES(I)                                               \
  extern "C" __global__ void __launch_bounds__(kTableThreads)               \
      index_sort_tables_##I(const __grid_constant__ IndexSortTables<I> p) { \
    sort_table(p);                                                          \
  }
INSTANTIATE_TABLES(i32)
INSTANTIATE_TABLES(i64)

#define INSTANTIATE_KEYS(K, size, kItems)                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads, 2)                                  \
      index_sort_pass_##size##_##K(const __grid_constant__ IndexSortPass<K##_t> p) {         \
    sort_by_digit<kItems>(p);                                                                \
  }                                                                                          \
  extern "C" __global__ void __launch_bounds__(kThreads)                                     \
      index_sort_segments_##size##_##K(const __grid_constant__ IndexSortSegments<K##_t> p) { \
    number_rows<kItems>(p);                                                                  \
  }
using u32_t = uint32_t;
using u64_t = uint64_t;
INSTANTIATE_KEYS(u32, large, kLarge)
INSTANTIATE_KEYS(u32, small, kSmall)
INSTANTIATE_KEYS(u64, large, kLarge)
INSTANTIATE_KEYS(u64, small, kSmall)
