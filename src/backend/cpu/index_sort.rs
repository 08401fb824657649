//! [`index_sort`](crate::ops::index_sort) on the CPU: tables are sorted apart from each other, each
//! by a radix sort of only the bits that its row numbers have. What is sorted are words of row, bag
//! and position, in room that the tables of a task use in turn, so that it stays in the cache.

use std::ops::Range;

use super::Cpu;
use super::runtime::fault::{FaultLog, Place, pooled_row};
use crate::dtype::Index;
use crate::error::{Result, invalid};
use crate::jagged::check_offsets;
use crate::ops::index_sort::{IndexSortOps, Sort};
use crate::ops::{Bags, TableBatch};
use crate::simd::prefetch_row;
use crate::size::product;

/// The most bits of a digit: the counters of two of them fit the first-level cache.
const DIGIT_BITS: u32 = 11;
/// A counter for each value of a digit.
type Counters = [u32; 1 << DIGIT_BITS];
/// Ids that are asked for ahead of their use.
const IDS_AHEAD: usize = 512;
/// Tasks for each thread, of whole tables.
const TASKS_PER_THREAD: usize = 2;
/// So few occurrences are sorted faster by comparison than counters are summed.
const FEW: usize = 128;

impl IndexSortOps for Cpu {
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()> {
        let Sort { tables, bags, sorted, workspace } = args;
        let bags = bags.without_slack();
        check_offsets(bags.offsets, bags.indices.len())?;
        let faults = FaultLog::default();
        let ids = Ids { tables, bags, faults: &faults };
        let all = 0..tables.tables().len();
        if let Some(table) = all.clone().find(|&table| ids.layout(table).is_none()) {
            let reason =
                format!("more than can be sorted for a table of as many rows as table {table} has");
            return Err(invalid("index_sort", "indices", reason));
        }
        let mut len = Len::default();
        self.run(|| {
            let out = Order {
                rows: &mut sorted.rows,
                segments: &mut sorted.segments,
                positions: &mut sorted.positions,
                bags: &mut sorted.bags,
            };
            len = ids.sort(self, all, workspace, out, 0);
            let are_all = len.ids == bags.indices.len();
            ids.count(self, 0..tables.features().len(), are_all, &mut sorted.bag_lengths);
        });
        sorted.segments[len.rows] = len.ids as u32;
        sorted.counts.copy_from_slice(&[len.ids as u32, len.rows as u32]);
        faults.into_result(tables)
    }

    fn index_sort_workspace_len(&self, _tables: &TableBatch, num_indices: usize) -> usize {
        // The words, twice.
        product([2, num_indices])
    }
}

/// The bits that numbers below `count` have, at least one.
fn bits_of(count: usize) -> u32 {
    usize::BITS - (count.saturating_sub(1) | 1).leading_zeros()
}

/// The length of the order of some tables.
#[derive(Clone, Copy, Default)]
struct Len {
    /// Pooled ids.
    ids: usize,
    /// Rows that they name.
    rows: usize,
}

/// An id that names a row of a table.
struct Occurrence {
    row: usize,
    bag: usize,
    position: usize,
}

/// How the occurrences of a table stand in words, which order them as they are to be: row, bag and
/// position, the two last counted from the table's first ones.
#[derive(Clone, Copy)]
struct Layout {
    row_bits: u32,
    /// 0 where a word has no room for the bag, which is looked for by the position then.
    bag_bits: u32,
    position_bits: u32,
    first_bag: usize,
    first_position: usize,
}

/// The ids of a batch.
struct Ids<'a, 'f, I: Index> {
    tables: &'a TableBatch,
    bags: Bags<'a, Cpu, I>,
    faults: &'f FaultLog,
}

/// Where the order of some tables goes.
struct Order<'a> {
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

    fn bags(&self, features: Range<usize>) -> Range<usize> {
        features.start * self.bags.batch_size..features.end * self.bags.batch_size
    }

    fn positions(&self, bags: Range<usize>) -> Range<usize> {
        self.bound(bags.start)..self.bound(bags.end)
    }

    /// The bags of a feature, and the positions of each.
    #[inline(always)]
    fn each_bag(&self, feature: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let bags = self.bags(feature..feature + 1);
        let bound = |offset: I| offset.to_i64() as usize;
        let positions = self.bags.offsets[bags.start..=bags.end]
            .windows(2)
            .map(move |ends| bound(ends[0])..bound(ends[1]));
        bags.zip(positions)
    }

    fn num_ids(&self, tables: Range<usize>) -> usize {
        let features = tables.flat_map(|table| self.tables.features_of(table));
        features.map(|&feature| self.positions(self.bags(feature..feature + 1)).len()).sum()
    }

    /// None if a row and a position together take more bits than a word has.
    fn layout(&self, table: usize) -> Option<Layout> {
        let (first, end) = match self.tables.features_of(table) {
            [] => (0, 0),
            [first, .., last] | [first @ last] => (*first, last + 1),
        };
        let bags = self.bags(first..end);
        let positions = self.positions(bags.clone());
        let layout = Layout {
            row_bits: bits_of(self.tables.tables()[table].num_embeddings),
            bag_bits: bits_of(bags.len()),
            position_bits: bits_of(positions.len()),
            first_bag: bags.start,
            first_position: positions.start,
        };
        let fits = |layout: &Layout| layout.row_shift() + layout.row_bits <= u64::BITS;
        [layout, Layout { bag_bits: 0, ..layout }].into_iter().find(fits)
    }

    /// The row of each id of a table that is pooled. Bad ones are noted.
    #[inline(always)]
    fn rows(&self, table: usize) -> impl Iterator<Item = usize> {
        let num_embeddings = self.tables.tables()[table].num_embeddings;
        self.tables.features_of(table).iter().flat_map(move |&feature| {
            let (spec, bags) = (&self.tables.features()[feature], self.bags(feature..feature + 1));
            self.positions(bags.clone()).filter_map(move |position| {
                prefetch_row(self.bags.indices, position + IDS_AHEAD, 1);
                let id = self.bags.indices[position];
                let row = pooled_row(id, spec, num_embeddings);
                if row.is_none() {
                    let bag = self.bag_of(position, bags.clone());
                    self.faults.lookup(id, Place { feature, spec, num_embeddings, bag }, position);
                }
                row
            })
        })
    }

    /// Each of these as a word, in the order of the positions.
    #[inline(always)]
    fn words(&self, table: usize, layout: Layout) -> impl Iterator<Item = u64> {
        let num_embeddings = self.tables.tables()[table].num_embeddings;
        self.tables.features_of(table).iter().flat_map(move |&feature| {
            let spec = &self.tables.features()[feature];
            self.each_bag(feature).flat_map(move |(bag, positions)| {
                positions.filter_map(move |position| {
                    let row = pooled_row(self.bags.indices[position], spec, num_embeddings)?;
                    Some(layout.word(Occurrence { row, bag, position }))
                })
            })
        })
    }

    /// Which of some bags a position is in.
    #[cold]
    fn bag_of(&self, position: usize, bags: Range<usize>) -> usize {
        let ends = &self.bags.offsets[bags.start + 1..=bags.end];
        bags.start + ends.partition_point(|end| end.to_row().is_some_and(|end| end <= position))
    }

    /// The order of some tables, of which the first occurrence has the number `first`. The room is
    /// for twice their ids.
    fn sort(
        &self,
        cpu: &Cpu,
        tables: Range<usize>,
        room: &mut [u64],
        mut out: Order<'_>,
        first: usize,
    ) -> Len {
        let mut len = Len::default();
        if tables.len() > self.tables_of_task(cpu) {
            let middle = tables.start + tables.len() / 2;
            let most = self.num_ids(tables.start..middle);
            let (left, right) = room.split_at_mut(2 * most);
            let (out_left, out_right) = out.split_at_mut(most);
            let mut of_right = Len::default();
            cpu.join(
                || len = self.sort(cpu, tables.start..middle, left, out_left, first),
                || of_right = self.sort(cpu, middle..tables.end, right, out_right, first + most),
            );
            out.close_up(&mut len, most, of_right);
            return len;
        }
        for table in tables {
            let (words, other) = room.split_at_mut(self.num_ids(table..table + 1));
            if let Some(layout) = self.layout(table) {
                let words = self.sort_table(table, layout, words, other);
                self.write(table, layout, words, &mut out, &mut len, first);
            }
        }
        len
    }

    fn tables_of_task(&self, cpu: &Cpu) -> usize {
        match (cpu.num_threads(), self.tables.tables().len()) {
            (1, tables) => tables,
            (threads, tables) => (tables / (threads * TASKS_PER_THREAD)).max(1),
        }
    }

    /// The occurrences of a table, sorted, at the beginning of the room for them.
    fn sort_table<'w>(
        &self,
        table: usize,
        layout: Layout,
        words: &'w mut [u64],
        other: &mut [u64],
    ) -> &'w [u64] {
        let passes = layout.row_bits.div_ceil(DIGIT_BITS);
        let bits = layout.row_bits.div_ceil(passes);
        let mut counters = [[0; 1 << DIGIT_BITS]; 2];
        let [mut slots, mut next] = counters.each_mut();
        let mut len = 0;
        self.rows(table).for_each(|row| {
            slots[row & ((1 << bits) - 1)] += 1;
            len += 1;
        });
        let (words, mut other) = (&mut words[..len], &mut other[..len]);
        if len <= FEW {
            words.iter_mut().zip(self.words(table, layout)).for_each(|(to, word)| *to = word);
            // No two are equal, so that the order is the same as a stable one's.
            words.sort_unstable();
            return words;
        }
        let mut to = &mut *words;
        // The last pass ends in `words`.
        if passes.is_multiple_of(2) {
            (to, other) = (other, to);
        }
        for pass in 0..passes {
            let digit = Digit {
                shift: layout.row_shift() + pass * bits,
                bits,
                is_last: pass + 1 == passes,
            };
            match pass {
                0 => digit.scatter(self.words(table, layout), to, slots, next),
                _ => {
                    (to, other) = (other, to);
                    digit.scatter(other.iter().copied(), to, slots, next);
                }
            }
            (slots, next) = (next, slots);
        }
        words
    }

    /// Writes the order of a table behind that of others, of which the first occurrence has the
    /// number `first`.
    fn write(
        &self,
        table: usize,
        layout: Layout,
        words: &[u64],
        out: &mut Order<'_>,
        len: &mut Len,
        first: usize,
    ) {
        let first_row = self.tables.row_offsets()[table];
        let (rows, segments) = (&mut out.rows[len.rows..], &mut out.segments[len.rows..]);
        let targets = out.positions[len.ids..].iter_mut().zip(&mut out.bags[len.ids..]);
        // Each occurrence writes its row, and where that begins, once more: cheaper than to guess
        // wrong which one is the first.
        let (mut num_rows, mut last, mut start) = (0, usize::MAX, 0);
        for ((&word, number), (position, bag)) in words.iter().zip(first + len.ids..).zip(targets) {
            let occurrence = layout.occurrence(word);
            *position = occurrence.position as u32;
            *bag = match layout.bag_bits {
                0 => self.bag_of(occurrence.position, 0..self.bags.offsets.len() - 1) as u32,
                _ => occurrence.bag as u32,
            };
            let is_first = occurrence.row != last;
            start = if is_first { number as u32 } else { start };
            num_rows += usize::from(is_first);
            last = occurrence.row;
            rows[num_rows - 1] = (first_row + occurrence.row) as u64;
            segments[num_rows - 1] = start;
        }
        len.ids += words.len();
        len.rows += num_rows;
    }

    /// Counts the pooled ids of each bag of some features: all there are, if that is known.
    fn count(&self, cpu: &Cpu, features: Range<usize>, are_all: bool, bag_lengths: &mut [u32]) {
        if features.len() > 1 {
            let middle = features.start + features.len() / 2;
            let (left, right) =
                bag_lengths.split_at_mut((middle - features.start) * self.bags.batch_size);
            return cpu.join(
                || self.count(cpu, features.start..middle, are_all, left),
                || self.count(cpu, middle..features.end, are_all, right),
            );
        }
        for feature in features {
            let (spec, table) = (&self.tables.features()[feature], self.tables.table_of(feature));
            let is_pooled = |&position: &usize| {
                pooled_row(self.bags.indices[position], spec, table.num_embeddings).is_some()
            };
            for (length, (_, positions)) in bag_lengths.iter_mut().zip(self.each_bag(feature)) {
                *length =
                    if are_all { positions.len() } else { positions.filter(is_pooled).count() }
                        as u32;
            }
        }
    }
}

impl Layout {
    fn row_shift(self) -> u32 {
        self.bag_bits + self.position_bits
    }

    #[inline(always)]
    fn word(self, of: Occurrence) -> u64 {
        let bag = if self.bag_bits == 0 { 0 } else { of.bag - self.first_bag };
        (of.row as u64) << self.row_shift()
            | (bag as u64) << self.position_bits
            | (of.position - self.first_position) as u64
    }

    #[inline(always)]
    fn row(self, word: u64) -> usize {
        (word >> self.row_shift()) as usize
    }

    /// The bag is of no meaning if it is not in the word.
    #[inline(always)]
    fn occurrence(self, word: u64) -> Occurrence {
        let low = |word: u64, bits: u32| word as usize & ((1 << bits) - 1);
        Occurrence {
            row: self.row(word),
            bag: self.first_bag + low(word >> self.position_bits, self.bag_bits),
            position: self.first_position + low(word, self.position_bits),
        }
    }
}

/// A digit of the rows of words.
#[derive(Clone, Copy)]
struct Digit {
    shift: u32,
    bits: u32,
    is_last: bool,
}

impl Digit {
    /// A stable pass of the sort. `slots` are how many words have each value of the digit, and
    /// `next` becomes that of the next one.
    #[inline(always)]
    fn scatter(
        self,
        words: impl Iterator<Item = u64>,
        to: &mut [u64],
        slots: &mut Counters,
        next: &mut Counters,
    ) {
        let mut start = 0;
        for slot in &mut slots[..1 << self.bits] {
            start += std::mem::replace(slot, start);
        }
        next.fill(0);
        match self.is_last {
            false => words.for_each(|word| {
                self.put(word, to, slots);
                next[self.next().of(word)] += 1;
            }),
            true => words.for_each(|word| self.put(word, to, slots)),
        }
    }

    #[inline(always)]
    fn put(self, word: u64, to: &mut [u64], slots: &mut Counters) {
        let slot = &mut slots[self.of(word)];
        to[*slot as usize] = word;
        *slot += 1;
    }

    #[inline(always)]
    fn of(self, word: u64) -> usize {
        // The second mask tells the compiler what the first one is at most.
        (word >> self.shift) as usize & ((1 << self.bits) - 1) & ((1 << DIGIT_BITS) - 1)
    }

    #[inline(always)]
    fn next(self) -> Self {
        Self { shift: self.shift + self.bits, ..self }
    }
}

impl Order<'_> {
    /// Cuts behind the room for so many ids.
    fn split_at_mut(&mut self, ids: usize) -> (Order<'_>, Order<'_>) {
        let (rows, rows_right) = self.rows.split_at_mut(ids);
        let (segments, segments_right) = self.segments.split_at_mut(ids);
        let (positions, positions_right) = self.positions.split_at_mut(ids);
        let (bags, bags_right) = self.bags.split_at_mut(ids);
        let right = Order {
            rows: rows_right,
            segments: segments_right,
            positions: positions_right,
            bags: bags_right,
        };
        (Order { rows, segments, positions, bags }, right)
    }

    /// Moves what stands behind the room for `most` ids up to the end of what stands before it.
    fn close_up(&mut self, left: &mut Len, most: usize, right: Len) {
        let left_out = most - left.ids;
        if left_out > 0 {
            self.positions.copy_within(most..most + right.ids, left.ids);
            self.bags.copy_within(most..most + right.ids, left.ids);
            self.segments[most..most + right.rows]
                .iter_mut()
                .for_each(|start| *start -= left_out as u32);
        }
        self.rows.copy_within(most..most + right.rows, left.rows);
        self.segments.copy_within(most..most + right.rows, left.rows);
        *left = Len { ids: left.ids + right.ids, rows: left.rows + right.rows };
    }
}
