//! [`index_sort`](crate::ops::index_sort) on the CPU: a radix sort, least significant digit first, of only the bits that row numbers have.

use bytemuck::cast_slice_mut;

use super::Cpu;
use super::fault::{FaultLog, Lookup, Place};
use crate::dtype::Index;
use crate::error::Result;
use crate::jagged::check_offsets;
use crate::ops::TableBatch;
use crate::ops::index_sort::{IndexSortOps, Sort};

/// The bits of a digit: its counters fit the first-level cache.
const DIGIT_BITS: u32 = 11;

impl IndexSortOps for Cpu {
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()> {
        let Sort { tables, bags, sorted, workspace } = args;
        let bags = bags.without_spare();
        check_offsets(bags.offsets, bags.indices.len())?;
        let n = bags.indices.len();
        let (keys, rest) = workspace.split_at_mut(2 * n);
        let (positions, rest) = rest.split_at_mut(n);
        let bag_of = &mut cast_slice_mut::<u64, u32>(rest)[..n];
        let (rows_a, rows_b) = keys.split_at_mut(n);
        let (positions_a, positions_b) = cast_slice_mut::<u64, u32>(positions).split_at_mut(n);

        let faults = FaultLog::default();
        let mut len = 0;
        for (f, spec) in tables.features().iter().enumerate() {
            let first_row = tables.row_offsets()[spec.table];
            let num_embeddings = tables.table_of(f).num_embeddings;
            for bag in f * bags.batch_size..(f + 1) * bags.batch_size {
                let place = Place { feature: f, spec, num_embeddings, bag };
                let bound = |k: usize| bags.offsets[k].to_row().unwrap_or(0);
                let before = len;
                let (start, end) = (bound(bag), bound(bag + 1));
                bag_of[start..end].fill(bag as u32);
                for (k, &id) in bags.indices[start..end].iter().enumerate() {
                    if let Lookup::Row(row) = faults.lookup(id, place, start + k) {
                        rows_a[len] = (first_row + row) as u64;
                        positions_a[len] = (start + k) as u32;
                        len += 1;
                    }
                }
                sorted.counted[bag] = (len - before) as u32;
            }
        }

        let bits = usize::BITS - tables.num_rows().saturating_sub(1).leading_zeros();
        let mut from = (&mut rows_a[..len], &mut positions_a[..len]);
        let mut to = (&mut rows_b[..len], &mut positions_b[..len]);
        for shift in (0..bits).step_by(DIGIT_BITS as usize) {
            scatter_by_digit(&from, &mut to, shift);
            std::mem::swap(&mut from, &mut to);
        }

        let (rows, positions) = from;
        let mut unique = 0;
        for (k, (&row, &position)) in rows.iter().zip(positions.iter()).enumerate() {
            if k == 0 || rows[k - 1] != row {
                sorted.rows[unique] = row;
                sorted.segments[unique] = k as u32;
                unique += 1;
            }
            sorted.positions[k] = position;
            sorted.bags[k] = bag_of[position as usize];
        }
        sorted.segments[unique] = len as u32;
        sorted.counts.copy_from_slice(&[len as u32, unique as u32]);
        faults.into_result(tables)
    }

    fn index_sort_workspace_len(&self, _tables: &TableBatch, num_indices: usize) -> usize {
        // Row numbers and positions twice, and the bag of each position.
        2 * num_indices + num_indices + num_indices.div_ceil(2)
    }
}

/// One stable pass of the sort.
fn scatter_by_digit(from: &(&mut [u64], &mut [u32]), to: &mut (&mut [u64], &mut [u32]), shift: u32) {
    let digit = |row: u64| (row >> shift) as usize & ((1 << DIGIT_BITS) - 1);
    let mut next = [0u32; 1 << DIGIT_BITS];
    from.0.iter().for_each(|&row| next[digit(row)] += 1);
    let mut start = 0;
    for slot in &mut next {
        start += std::mem::replace(slot, start);
    }
    for (&row, &position) in from.0.iter().zip(from.1.iter()) {
        let slot = &mut next[digit(row)];
        to.0[*slot as usize] = row;
        to.1[*slot as usize] = position;
        *slot += 1;
    }
}
