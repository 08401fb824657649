//! [`index_sort`](crate::ops::index_sort) on the CPU.
//!
//! Each table is sorted on its own, by an LSD radix sort of the bits that its row numbers have. The
//! keys are 64-bit words of row, bag and position. The tables of a task use the same part of the
//! workspace in turn, so that it stays in the cache.

use std::ops::Range;

use super::Cpu;
use super::runtime::erased::{AnyBags, ByIndex, with_indices};
use super::runtime::fault::{FaultLog, IdOrigin, pooled_row};
use crate::dtype::Index;
use crate::error::{Result, invalid};
use crate::ops::index_sort::{IndexSortOps, OP, Sort, SortedIndices};
use crate::ops::{Bags, TableBatch};
use crate::simd::prefetch_row;
use crate::size::product;

/// The most bits of a digit: the counters of two digits fit the first-level cache.
const DIGIT_BITS: u32 = 11;
/// A counter for each value of a digit.
type Counters = [u32; 1 << DIGIT_BITS];
/// The prefetch distance in ids.
const PREFETCH_IDS: usize = 512;
/// The number of tasks per thread; a task is some whole tables.
const TASKS_PER_THREAD: usize = 2;
/// The most occurrences of a table that are sorted by comparison, which is faster than the prefix
/// sum over the counters of a radix sort.
const MAX_COMPARISON_SORT: usize = 128;

impl IndexSortOps for Cpu {
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()> {
        // The passes of a radix sort move the word of each id some ten times.
        let cpu = &self.for_bytes(product([args.bags.num_indices(), 10 * size_of::<u64>()]));
        let Sort { tables, bags, sorted, workspace } = args;
        sort(cpu, tables, ByIndex::of(bags), sorted, workspace.into_slice())
    }

    fn index_sort_workspace_len(&self, _tables: &TableBatch, num_indices: usize) -> usize {
        // A radix sort moves the words back and forth between two arrays.
        product([2, num_indices])
    }
}

/// Restores the index type, and runs the op.
fn sort<'a>(
    cpu: &Cpu,
    tables: &'a TableBatch,
    bags: AnyBags<'a>,
    sorted: &'a mut SortedIndices<Cpu>,
    workspace: &'a mut [u64],
) -> Result<()> {
    with_indices!(bags => typed_sort(cpu, tables, bags, sorted, workspace))
}

fn typed_sort<I: Index>(
    cpu: &Cpu,
    tables: &TableBatch,
    bags: Bags<'_, Cpu, I>,
    sorted: &mut SortedIndices<Cpu>,
    workspace: &mut [u64],
) -> Result<()> {
    let bags = bags.without_slack(bags.num_bags(tables));
    bags.offsets.check_values(OP, bags.num_indices())?;
    let faults = FaultLog::new(OP, bags.has_unsigned_ids);
    let ids = BatchIds { tables, bags, faults: &faults };
    let all = 0..tables.tables().len();
    if let Some(table) = all.clone().find(|&table| ids.layout(table).is_none()) {
        let reason =
            format!("more than can be sorted for a table of as many rows as table {table} has");
        return Err(invalid("index_sort", "indices", reason));
    }
    let mut len = OrderLen::default();
    cpu.run(|| {
        let out = OrderMut {
            rows: &mut sorted.rows,
            segments: &mut sorted.segments,
            positions: &mut sorted.positions,
            bags: &mut sorted.bags,
        };
        len = ids.sort(cpu, all, workspace, out, 0);
        let are_all_pooled = len.ids == bags.indices.len();
        let features = 0..tables.features().len();
        ids.write_bag_lengths(cpu, features, are_all_pooled, &mut sorted.bag_lengths);
    });
    sorted.segments[len.rows] = len.ids as u32;
    sorted.counts.copy_from_slice(&[len.ids as u32, len.rows as u32]);
    faults.into_result(tables)
}

/// Returns the bits that the numbers below `count` need, at least 1.
fn bits_of(count: usize) -> u32 {
    usize::BITS - (count.saturating_sub(1) | 1).leading_zeros()
}

/// The length of the sorted order of some tables.
#[derive(Clone, Copy, Default)]
struct OrderLen {
    /// The number of pooled ids.
    ids: usize,
    /// The number of different rows that they name.
    rows: usize,
}

/// An id that names a row of a table.
struct Occurrence {
    row: usize,
    bag: usize,
    position: usize,
}

/// The bit fields of the words that stand for a table's occurrences: row, bag and position, from
/// the highest bits down, so that words sort as the occurrences do. Bags and positions count from
/// the table's first ones.
#[derive(Clone, Copy)]
struct WordLayout {
    row_bits: u32,
    /// 0 if the bag does not fit the word; a binary search by the position then finds it.
    bag_bits: u32,
    position_bits: u32,
    first_bag: usize,
    first_position: usize,
}

/// The ids of a batch, with offsets that have been checked.
struct BatchIds<'a, 'f, I: Index> {
    tables: &'a TableBatch,
    bags: Bags<'a, Cpu, I>,
    faults: &'f FaultLog,
}

/// The part of the sorted order that belongs to some tables, for writing.
struct OrderMut<'a> {
    rows: &'a mut [u64],
    segments: &'a mut [u32],
    positions: &'a mut [u32],
    bags: &'a mut [u32],
}

impl<I: Index> BatchIds<'_, '_, I> {
    /// Returns the position of the first id of a bag, or the end of the last bag.
    fn bound(&self, bag: usize) -> usize {
        self.bags.offsets.at(bag, self.bags.indices.len())
    }

    /// Returns the bags of some features.
    fn bags(&self, features: Range<usize>) -> Range<usize> {
        features.start * self.bags.batch_size..features.end * self.bags.batch_size
    }

    /// Returns the positions of the ids of some bags.
    fn positions(&self, bags: Range<usize>) -> Range<usize> {
        self.bound(bags.start)..self.bound(bags.end)
    }

    /// Iterates over the bags of a feature, with the positions of each.
    #[inline(always)]
    fn each_bag(&self, feature: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let bags = self.bags(feature..feature + 1);
        let each_bag = self.bags.offsets.each_bag(bags.clone(), self.bags.indices.len());
        bags.zip(each_bag)
    }

    /// Returns the number of ids that the features of some tables have, pooled or not.
    fn num_ids(&self, tables: Range<usize>) -> usize {
        let features = tables.flat_map(|table| self.tables.features_of(table));
        features.map(|&feature| self.positions(self.bags(feature..feature + 1)).len()).sum()
    }

    /// Returns the layout of a table's words, with the bag if it fits. Returns `None` if a row and
    /// a position together need more bits than a word has.
    fn layout(&self, table: usize) -> Option<WordLayout> {
        let (first, end) = match self.tables.features_of(table) {
            [] => (0, 0),
            [first, .., last] | [first @ last] => (*first, last + 1),
        };
        let bags = self.bags(first..end);
        let positions = self.positions(bags.clone());
        let layout = WordLayout {
            row_bits: bits_of(self.tables.tables()[table].num_embeddings),
            bag_bits: bits_of(bags.len()),
            position_bits: bits_of(positions.len()),
            first_bag: bags.start,
            first_position: positions.start,
        };
        let fits = |layout: &WordLayout| layout.row_shift() + layout.row_bits <= u64::BITS;
        [layout, WordLayout { bag_bits: 0, ..layout }].into_iter().find(fits)
    }

    /// Iterates over the rows of a table's pooled ids, in the order of the positions, and notes bad
    /// ids.
    #[inline(always)]
    fn rows(&self, table: usize) -> impl Iterator<Item = usize> {
        let num_embeddings = self.tables.tables()[table].num_embeddings;
        self.tables.features_of(table).iter().flat_map(move |&feature| {
            let (spec, bags) = (&self.tables.features()[feature], self.bags(feature..feature + 1));
            self.positions(bags.clone()).filter_map(move |position| {
                prefetch_row(&self.bags.indices, position + PREFETCH_IDS, 1);
                let id = self.bags.indices[position];
                let row = pooled_row(id, spec, num_embeddings);
                if row.is_none() {
                    let bag = self.bag_of(position, bags.clone());
                    let origin = IdOrigin { feature, spec, num_embeddings, bag };
                    self.faults.lookup(id, origin, position);
                }
                row
            })
        })
    }

    /// Iterates over the words of a table's pooled ids, in the order of the positions.
    #[inline(always)]
    fn words(&self, table: usize, layout: WordLayout) -> impl Iterator<Item = u64> {
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

    /// Returns the bag, among `bags`, that a position belongs to.
    #[cold]
    fn bag_of(&self, position: usize, bags: Range<usize>) -> usize {
        // A binary search for the first bag that ends behind the position.
        let (mut first, mut end) = (bags.start, bags.end);
        while first < end {
            let middle = first.midpoint(end);
            match self.bound(middle + 1) <= position {
                true => first = middle + 1,
                false => end = middle,
            }
        }
        first
    }

    /// Writes the sorted order of some tables, whose first occurrence has the number `first`. The
    /// workspace has two words for each of their ids.
    fn sort(
        &self,
        cpu: &Cpu,
        tables: Range<usize>,
        workspace: &mut [u64],
        mut out: OrderMut<'_>,
        first: usize,
    ) -> OrderLen {
        let mut len = OrderLen::default();
        if tables.len() > self.tables_per_task(cpu) {
            let middle = tables.start + tables.len() / 2;
            let left_ids = self.num_ids(tables.start..middle);
            let (left, right) = workspace.split_at_mut(2 * left_ids);
            let (out_left, out_right) = out.split_at_mut(left_ids);
            let mut right_len = OrderLen::default();
            cpu.join(
                || len = self.sort(cpu, tables.start..middle, left, out_left, first),
                || {
                    right_len =
                        self.sort(cpu, middle..tables.end, right, out_right, first + left_ids)
                },
            );
            out.close_gap(&mut len, left_ids, right_len);
            return len;
        }
        for table in tables {
            let (words, other) = workspace.split_at_mut(self.num_ids(table..table + 1));
            if let Some(layout) = self.layout(table) {
                let words = self.sort_table(table, layout, words, other);
                self.write(table, layout, words, &mut out, &mut len, first);
            }
        }
        len
    }

    /// Returns the number of tables of a task.
    fn tables_per_task(&self, cpu: &Cpu) -> usize {
        match (cpu.num_threads(), self.tables.tables().len()) {
            (1, tables) => tables,
            (threads, tables) => (tables / (threads * TASKS_PER_THREAD)).max(1),
        }
    }

    /// Sorts the words of a table's occurrences, and returns them: the first ones of `words`.
    fn sort_table<'w>(
        &self,
        table: usize,
        layout: WordLayout,
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
        if len <= MAX_COMPARISON_SORT {
            words.iter_mut().zip(self.words(table, layout)).for_each(|(to, word)| *to = word);
            // No two words are equal, so that an unstable sort gives the order of a stable one.
            words.sort_unstable();
            return words;
        }
        let mut to = &mut *words;
        // The target of the last pass must be `words`.
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

    /// Appends the order of a table to the `len` entries that are written. The first occurrence of
    /// `out` has the number `first`.
    fn write(
        &self,
        table: usize,
        layout: WordLayout,
        words: &[u64],
        out: &mut OrderMut<'_>,
        len: &mut OrderLen,
        first: usize,
    ) {
        let first_row = self.tables.row_offsets()[table];
        let (rows, segments) = (&mut out.rows[len.rows..], &mut out.segments[len.rows..]);
        let targets = out.positions[len.ids..].iter_mut().zip(&mut out.bags[len.ids..]);
        // Each occurrence stores its row and the row's segment again: a store costs less than a
        // mispredicted branch on whether the row is new.
        let (mut num_rows, mut last, mut start) = (0, usize::MAX, 0);
        for ((&word, number), (position, bag)) in words.iter().zip(first + len.ids..).zip(targets) {
            let occurrence = layout.occurrence(word);
            *position = occurrence.position as u32;
            *bag = match layout.bag_bits {
                0 => self.bag_of(occurrence.position, 0..self.bags.num_bags(self.tables)) as u32,
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

    /// Writes the number of pooled ids of each bag of some features, which is the number of all its
    /// ids if all of the batch are pooled.
    fn write_bag_lengths(
        &self,
        cpu: &Cpu,
        features: Range<usize>,
        are_all_pooled: bool,
        bag_lengths: &mut [u32],
    ) {
        if features.len() > 1 {
            let middle = features.start + features.len() / 2;
            let (left, right) =
                bag_lengths.split_at_mut((middle - features.start) * self.bags.batch_size);
            return cpu.join(
                || self.write_bag_lengths(cpu, features.start..middle, are_all_pooled, left),
                || self.write_bag_lengths(cpu, middle..features.end, are_all_pooled, right),
            );
        }
        for feature in features {
            let (spec, table) = (&self.tables.features()[feature], self.tables.table_of(feature));
            let is_pooled = |&position: &usize| {
                pooled_row(self.bags.indices[position], spec, table.num_embeddings).is_some()
            };
            for (bag_len, (_, positions)) in bag_lengths.iter_mut().zip(self.each_bag(feature)) {
                *bag_len = if are_all_pooled {
                    positions.len()
                } else {
                    positions.filter(is_pooled).count()
                } as u32;
            }
        }
    }
}

impl WordLayout {
    /// Returns the number of bits below the row.
    fn row_shift(self) -> u32 {
        self.bag_bits + self.position_bits
    }

    #[inline(always)]
    fn word(self, occurrence: Occurrence) -> u64 {
        let Occurrence { row, bag, position } = occurrence;
        let bag = if self.bag_bits == 0 { 0 } else { bag - self.first_bag };
        (row as u64) << self.row_shift()
            | (bag as u64) << self.position_bits
            | (position - self.first_position) as u64
    }

    #[inline(always)]
    fn row(self, word: u64) -> usize {
        (word >> self.row_shift()) as usize
    }

    /// Returns the occurrence of a word. Its bag has no meaning if `bag_bits` is 0.
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

/// A digit of the row in a word.
#[derive(Clone, Copy)]
struct Digit {
    /// The number of bits of the word below the digit.
    shift: u32,
    /// The number of bits of the digit.
    bits: u32,
    /// Set if no digit of the row lies above this one.
    is_last: bool,
}

impl Digit {
    /// Runs one stable pass of the sort. `slots` holds the histogram of this digit, which becomes
    /// the slots of the words; `next` becomes the histogram of the next digit.
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
                self.store(word, to, slots);
                next[self.next().value(word)] += 1;
            }),
            true => words.for_each(|word| self.store(word, to, slots)),
        }
    }

    /// Stores a word in the next slot of its digit's value.
    #[inline(always)]
    fn store(self, word: u64, to: &mut [u64], slots: &mut Counters) {
        let slot = &mut slots[self.value(word)];
        to[*slot as usize] = word;
        *slot += 1;
    }

    /// Returns the value of this digit.
    #[inline(always)]
    fn value(self, word: u64) -> usize {
        // The second mask tells the compiler an upper bound of the first one.
        (word >> self.shift) as usize & ((1 << self.bits) - 1) & ((1 << DIGIT_BITS) - 1)
    }

    #[inline(always)]
    fn next(self) -> Self {
        Self { shift: self.shift + self.bits, ..self }
    }
}

impl OrderMut<'_> {
    /// Splits the arrays behind the entries of so many ids.
    fn split_at_mut(&mut self, ids: usize) -> (OrderMut<'_>, OrderMut<'_>) {
        let (rows, rows_right) = self.rows.split_at_mut(ids);
        let (segments, segments_right) = self.segments.split_at_mut(ids);
        let (positions, positions_right) = self.positions.split_at_mut(ids);
        let (bags, bags_right) = self.bags.split_at_mut(ids);
        let right = OrderMut {
            rows: rows_right,
            segments: segments_right,
            positions: positions_right,
            bags: bags_right,
        };
        (OrderMut { rows, segments, positions, bags }, right)
    }

    /// Closes the gap behind the `left` entries: moves to their end the `right` entries, which
    /// begin at `left_ids`, the number of the left part's ids, pooled or not.
    fn close_gap(&mut self, left: &mut OrderLen, left_ids: usize, right: OrderLen) {
        let gap = left_ids - left.ids;
        if gap > 0 {
            self.positions.copy_within(left_ids..left_ids + right.ids, left.ids);
            self.bags.copy_within(left_ids..left_ids + right.ids, left.ids);
            self.segments[left_ids..left_ids + right.rows]
                .iter_mut()
                .for_each(|start| *start -= gap as u32);
        }
        self.rows.copy_within(left_ids..left_ids + right.rows, left.rows);
        self.segments.copy_within(left_ids..left_ids + right.rows, left.rows);
        *left = OrderLen { ids: left.ids + right.ids, rows: left.rows + right.rows };
    }
}
