//! [`index_sort`](crate::ops::index_sort) on the CPU: tables are sorted apart from each other, each by a radix sort of only the bits that its row
//! numbers have.

use std::ops::Range;

use bytemuck::{Pod, Zeroable, cast_slice_mut};

use super::Cpu;
use super::fault::{FaultLog, Lookup, Place, pooled_row};
use crate::dtype::Index;
use crate::error::Result;
use crate::jagged::check_offsets;
use crate::ops::index_sort::{IndexSortOps, Sort};
use crate::ops::{Bags, TableBatch};

/// The most bits of a digit: its counters fit the first-level cache.
const DIGIT_BITS: u32 = 11;
/// So few occurrences are sorted faster by comparison than counters are summed.
const FEW: usize = 128;
/// The most bits of a row number that stand in one word with a position.
const PACKED_BITS: u32 = 32;

impl IndexSortOps for Cpu {
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()> {
        let Sort { tables, bags, sorted, workspace } = args;
        let bags = bags.without_spare();
        check_offsets(bags.offsets, bags.indices.len())?;
        let n = bags.indices.len();
        let (occurrences, rest) = workspace.split_at_mut(2 * words_of_one(tables) * n);
        let (of_tables, rest) = rest.split_at_mut(tables.tables().len());
        let of_tables = &mut cast_slice_mut::<u64, OfTable>(of_tables)[..];
        let bag_of = &mut cast_slice_mut::<u64, u32>(rest)[..n];

        let faults = FaultLog::default();
        let ids = Ids { tables, bags, faults: &faults };
        self.run(|| {
            ids.count(self, 0..tables.features().len(), &mut sorted.counted, bag_of);
            let all = 0..tables.tables().len();
            let out = Sorted {
                rows: &mut sorted.rows,
                segments: &mut sorted.segments,
                positions: &mut sorted.positions,
                bags: &mut sorted.bags,
            };
            if words_of_one(tables) == 1 {
                ids.sort::<u64>(self, all.clone(), occurrences, of_tables);
                ids.write::<u64>(self, all, (occurrences, of_tables, bag_of), out, 0);
            } else {
                let occurrences = cast_slice_mut::<u64, Wide>(occurrences);
                ids.sort(self, all.clone(), occurrences, of_tables);
                ids.write(self, all, (occurrences, of_tables, bag_of), out, 0);
            }
        });
        let OfTable { ids, rows } = OfTable::sum(of_tables);
        sorted.segments[rows as usize] = ids;
        sorted.counts.copy_from_slice(&[ids, rows]);
        faults.into_result(tables)
    }

    fn index_sort_workspace_len(&self, tables: &TableBatch, num_indices: usize) -> usize {
        // The occurrences twice, what is counted of each table, and the bag of each position.
        2 * words_of_one(tables) * num_indices + tables.tables().len() + num_indices.div_ceil(2)
    }
}

/// The words that a row number and a position take.
fn words_of_one(tables: &TableBatch) -> usize {
    let fits = |rows: usize| bits_of(rows) <= PACKED_BITS;
    if tables.tables().iter().all(|table| fits(table.num_embeddings)) { 1 } else { 2 }
}

/// The bits that row numbers of a table have.
fn bits_of(rows: usize) -> u32 {
    usize::BITS - rows.saturating_sub(1).leading_zeros()
}

/// A row of a table and a position in the ids; they are ordered by both.
trait Occurrence: Pod + Ord + Send + Sync {
    fn new(row: usize, position: usize) -> Self;
    fn row(self) -> u64;
    fn position(self) -> u32;
}

impl Occurrence for u64 {
    #[inline(always)]
    fn new(row: usize, position: usize) -> Self {
        (row as u64) << PACKED_BITS | position as u64
    }
    #[inline(always)]
    fn row(self) -> u64 {
        self >> PACKED_BITS
    }
    #[inline(always)]
    fn position(self) -> u32 {
        self as u32
    }
}

/// For tables with more rows than fit a word together with a position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
struct Wide {
    row: u64,
    position: u64,
}

impl Occurrence for Wide {
    #[inline(always)]
    fn new(row: usize, position: usize) -> Self {
        Self { row: row as u64, position: position as u64 }
    }
    #[inline(always)]
    fn row(self) -> u64 {
        self.row
    }
    #[inline(always)]
    fn position(self) -> u32 {
        self.position as u32
    }
}

/// What a table's part of the order has.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct OfTable {
    /// Counted ids.
    ids: u32,
    /// Rows that they name.
    rows: u32,
}

/// The ids of a batch.
struct Ids<'a, 'f, I: Index> {
    tables: &'a TableBatch,
    bags: Bags<'a, Cpu, I>,
    faults: &'f FaultLog,
}

/// The part of the order that is some tables'.
struct Sorted<'a> {
    rows: &'a mut [u64],
    segments: &'a mut [u32],
    positions: &'a mut [u32],
    bags: &'a mut [u32],
}

impl<I: Index> Ids<'_, '_, I> {
    fn bound(&self, bag: usize) -> usize {
        // Offsets have been checked.
        self.bags.offsets[bag].to_row().unwrap_or(0)
    }

    /// The positions of the ids of some features.
    fn positions(&self, features: Range<usize>) -> Range<usize> {
        self.bound(features.start * self.bags.batch_size)..self.bound(features.end * self.bags.batch_size)
    }

    fn num_ids(&self, tables: Range<usize>) -> usize {
        let features = tables.flat_map(|table| self.tables.features_of(table));
        features.map(|&f| self.positions(f..f + 1).len()).sum()
    }

    /// Counts the ids of each bag of some features, and notes bad ones and the bag of each position.
    fn count(&self, cpu: &Cpu, features: Range<usize>, counted: &mut [u32], bag_of: &mut [u32]) {
        let batch_size = self.bags.batch_size;
        if features.len() > 1 {
            let middle = features.start + features.len() / 2;
            let (counted_left, counted_right) = counted.split_at_mut((middle - features.start) * batch_size);
            let (left, right) = bag_of.split_at_mut(self.positions(features.start..middle).len());
            return cpu.join(
                || self.count(cpu, features.start..middle, counted_left, left),
                || self.count(cpu, middle..features.end, counted_right, right),
            );
        }
        let first = self.positions(features.clone()).start;
        for feature in features {
            let spec = &self.tables.features()[feature];
            let num_embeddings = self.tables.table_of(feature).num_embeddings;
            for (counted, bag) in counted.iter_mut().zip(feature * batch_size..(feature + 1) * batch_size) {
                let place = Place { feature, spec, num_embeddings, bag };
                let positions = self.bound(bag)..self.bound(bag + 1);
                bag_of[positions.start - first..positions.end - first].fill(bag as u32);
                let rows = positions.filter(|&position| {
                    matches!(self.faults.lookup(self.bags.indices[position], place, position), Lookup::Row(_))
                });
                *counted = rows.count() as u32;
            }
        }
    }

    /// Sorts the occurrences of each of some tables, with room for twice as many. Those of a table stand at the beginning of its room.
    fn sort<O: Occurrence>(&self, cpu: &Cpu, tables: Range<usize>, room: &mut [O], of_tables: &mut [OfTable]) {
        if tables.len() > 1 {
            let middle = tables.start + tables.len() / 2;
            let (left, right) = room.split_at_mut(2 * self.num_ids(tables.start..middle));
            let (of_left, of_right) = of_tables.split_at_mut(middle - tables.start);
            return cpu.join(
                || self.sort(cpu, tables.start..middle, left, of_left),
                || self.sort(cpu, middle..tables.end, right, of_right),
            );
        }
        for (table, of_table) in tables.zip(of_tables) {
            let (occurrences, other) = room.split_at_mut(self.num_ids(table..table + 1));
            let num_embeddings = self.tables.tables()[table].num_embeddings;
            let mut len = 0;
            for &feature in self.tables.features_of(table) {
                let spec = &self.tables.features()[feature];
                for position in self.positions(feature..feature + 1) {
                    if let Some(row) = pooled_row(self.bags.indices[position], spec, num_embeddings) {
                        occurrences[len] = O::new(row, position);
                        len += 1;
                    }
                }
            }
            let occurrences = &mut occurrences[..len];
            sort_by_row(occurrences, &mut other[..len], bits_of(num_embeddings));
            let starts = occurrences.windows(2).filter(|pair| pair[0].row() != pair[1].row()).count();
            *of_table = OfTable { ids: len as u32, rows: (starts + usize::from(len > 0)) as u32 };
        }
    }

    /// Writes the order of some tables, the first occurrence of which has the number `first`.
    fn write<O: Occurrence>(
        &self,
        cpu: &Cpu,
        tables: Range<usize>,
        (room, of_tables, bag_of): (&[O], &[OfTable], &[u32]),
        out: Sorted<'_>,
        first: u32,
    ) {
        if tables.len() > 1 {
            let middle = tables.start + tables.len() / 2;
            let (of_left, of_right) = of_tables.split_at(middle - tables.start);
            let (left, right) = room.split_at(2 * self.num_ids(tables.start..middle));
            let OfTable { ids, rows } = OfTable::sum(of_left);
            let (out_left, out_right) = out.split_at(rows as usize, ids as usize);
            return cpu.join(
                || self.write(cpu, tables.start..middle, (left, of_left, bag_of), out_left, first),
                || self.write(cpu, middle..tables.end, (right, of_right, bag_of), out_right, first + ids),
            );
        }
        for (table, of_table) in tables.zip(of_tables) {
            let first_row = self.tables.row_offsets()[table] as u64;
            let mut rows = out.rows.iter_mut().zip(out.segments.iter_mut());
            let mut last = None;
            let targets = out.positions.iter_mut().zip(out.bags.iter_mut());
            for ((occurrence, number), (position, bag)) in
                room[..of_table.ids as usize].iter().zip(first..).zip(targets)
            {
                *position = occurrence.position();
                *bag = bag_of[occurrence.position() as usize];
                if last != Some(occurrence.row()) {
                    last = Some(occurrence.row());
                    if let Some((row, segment)) = rows.next() {
                        (*row, *segment) = (first_row + occurrence.row(), number);
                    }
                }
            }
        }
    }
}

impl OfTable {
    fn sum(of_tables: &[Self]) -> Self {
        let add = |sum: Self, table: &Self| Self { ids: sum.ids + table.ids, rows: sum.rows + table.rows };
        of_tables.iter().fold(Self { ids: 0, rows: 0 }, add)
    }
}

impl<'a> Sorted<'a> {
    /// Cuts after so many rows and ids.
    fn split_at(self, rows: usize, ids: usize) -> (Self, Self) {
        let (rows_left, rows_right) = self.rows.split_at_mut(rows);
        let (segments_left, segments_right) = self.segments.split_at_mut(rows);
        let (positions_left, positions_right) = self.positions.split_at_mut(ids);
        let (bags_left, bags_right) = self.bags.split_at_mut(ids);
        let left = Self { rows: rows_left, segments: segments_left, positions: positions_left, bags: bags_left };
        (left, Self { rows: rows_right, segments: segments_right, positions: positions_right, bags: bags_right })
    }
}

/// Sorts occurrences, which stand in the order of their positions, by row.
fn sort_by_row<O: Occurrence>(occurrences: &mut [O], other: &mut [O], bits: u32) {
    if occurrences.len() <= FEW {
        // No two are equal, so that the order is the same as a stable one's.
        return occurrences.sort_unstable();
    }
    let passes = bits.div_ceil(DIGIT_BITS);
    let digit_bits = bits.div_ceil(passes.max(1));
    let (mut from, mut to) = (&mut *occurrences, other);
    for pass in 0..passes {
        scatter_by_digit(from, to, pass * digit_bits, digit_bits);
        (from, to) = (to, from);
    }
    if passes % 2 == 1 {
        to.copy_from_slice(from);
    }
}

/// One stable pass of the sort.
fn scatter_by_digit<O: Occurrence>(from: &[O], to: &mut [O], shift: u32, bits: u32) {
    let digit = |occurrence: O| (occurrence.row() >> shift) as usize & ((1 << bits) - 1);
    let mut counters = [0u32; 1 << DIGIT_BITS];
    let next = &mut counters[..1 << bits];
    from.iter().for_each(|&occurrence| next[digit(occurrence)] += 1);
    let mut start = 0;
    for slot in &mut *next {
        start += std::mem::replace(slot, start);
    }
    for &occurrence in from {
        let slot = &mut next[digit(occurrence)];
        to[*slot as usize] = occurrence;
        *slot += 1;
    }
}
