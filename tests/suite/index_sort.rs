//! Tests of `index_sort` against an order that the standard library sorted.

use crate::common::*;
use bagdot::ops::Pooling;
use bagdot::ops::index_sort::{IndexSortOps, Sort, SortedIndices};
use bagdot::{Cpu, Error, OffsetRule, Result};

backend_suite!(
    cuda:
    orders_i32,
    orders_i64,
    orders_rows_of_many_bits,
    orders_many_ids,
    orders_tables_of_any_size,
    orders_ids_for_large_tiles,
    room_for_more_ids_is_room_for_fewer,
    bad_ids_are_left_out_and_reported,
    wrong_shapes_are_errors,
);

/// A sorted order on the host, without the slack behind the lengths that `counts` gives.
#[derive(Debug, PartialEq)]
struct Order {
    rows: Vec<u64>,
    segments: Vec<u32>,
    positions: Vec<u32>,
    bags: Vec<u32>,
    bag_lengths: Vec<u32>,
}

/// Returns an order whose buffers are poisoned, with `spare` elements more than are needed.
fn poisoned_order<B: IndexSortOps>(device: &B, case: &BagCase, spare: usize) -> SortedIndices<B> {
    let (n, bags) = (case.indices.len() + spare, case.features.len() * case.batch_size);
    let words = |len| upload(device, &poisoned(len));
    let rows = upload(device, &poisoned(n));
    let counted = [words(n), words(n), words(bags)];
    SortedIndices::with_buffers(device, rows, words(n + 1), counted, words(2)).unwrap()
}

fn sort<B: IndexSortOps, I: Id>(device: &B, case: &BagCase, spare: usize) -> (Order, Result<()>) {
    let bags = case.upload::<B, I>(device);
    let mut sorted = poisoned_order(device, case, spare);
    let words = Sort::<B, I>::workspace_len(device, &case.layout(), case.indices.len());
    let mut workspace = upload(device, &poisoned::<u64>(words + spare));
    let op = Sort::new(&bags.tables, bags.view(), &mut sorted, B::view_mut(&mut workspace));
    let result = outcome(device, op.run(device));
    let counts = download_view(device, sorted.counts());
    let (n, unique) = (counts[0] as usize, counts[1] as usize);
    let cut = |view, len: usize| download_view(device, view)[..len].to_vec();
    let order = Order {
        rows: download_view(device, sorted.rows())[..unique].to_vec(),
        segments: cut(sorted.segments(), unique + 1),
        positions: cut(sorted.positions(), n),
        bags: cut(sorted.bags(), n),
        bag_lengths: download_view(device, sorted.bag_lengths()),
    };
    (order, result)
}

fn expected(case: &BagCase) -> Order {
    let (rows, bag_lengths) = reference::sorted_order(case);
    let mut order =
        Order { rows: vec![], segments: vec![0], positions: vec![], bags: vec![], bag_lengths };
    for (row, occurrences) in rows {
        order.rows.push(row);
        order.positions.extend(occurrences.iter().map(|(position, _)| position));
        order.bags.extend(occurrences.iter().map(|(_, bag)| bag));
        order.segments.push(order.positions.len() as u32);
    }
    order
}

fn orders<B: IndexSortOps, I: Id>(device: &B) {
    for case in BagCase::all(Pooling::Mean) {
        for spare in [0, 3] {
            let (got, result) = sort::<B, I>(device, &case, spare);
            assert_eq!(result, Ok(()), "{}", case.name);
            assert_eq!(got, expected(&case), "{}", case.name);
        }
    }
}

fn orders_i32<B: IndexSortOps>(device: &B) {
    orders::<B, i32>(device);
}

fn orders_i64<B: IndexSortOps>(device: &B) {
    orders::<B, i64>(device);
}

/// Checks row numbers of up to 35 bits: keys of several digits, and of more than 32 bits. The
/// tables are not allocated. Many tables without a feature make a backend sort all tables together
/// that sorts a few of them one by one.
fn orders_rows_of_many_bits<B: IndexSortOps>(device: &B) {
    let all_rows = [1, 2, 511, 512, 2047, 2048, 2049, 1 << 22, (1 << 22) + 1, 1 << 31, 1 << 34];
    for (rows, unused) in all_rows.into_iter().flat_map(|rows| [(rows, 0), (rows, 600)]) {
        let mut tables = vec![(3, 1), (rows, 1), (5, 1)];
        tables.resize(tables.len() + unused, (1, 1));
        let layout = (&tables[..], &[1, 0, 2, 1].map(|table| feature(table, Pooling::Sum))[..]);
        let lengths: Vec<usize> = (0..4 * 9).map(|k| k % 4 * 13).collect();
        let draw_id = |random: &mut bagdot::Philox, rows: u64| match random.below(3) {
            // Draws rows that differ in their highest digit alone, and neighbours.
            0 => rows - 1,
            1 => random.below(rows) & !0x7ff,
            _ => random.below(rows),
        };
        let case = BagCase::new(format!("{rows} rows"), layout, &lengths, draw_id);
        let (got, result) = sort::<B, i64>(device, &case, 0);
        assert_eq!(result, Ok(()));
        assert_eq!(got, expected(&case), "{rows} rows");
    }
}

/// Checks batches that are too large for one block: ids spread over all rows, with padding; ids
/// that are all equal, so that every digit is the same; and whole blocks.
fn orders_many_ids<B: IndexSortOps>(device: &B) {
    let layout =
        (&[(70_000, 1), (3, 1)][..], &[0, 1, 0].map(|table| feature(table, Pooling::Sum))[..]);
    let mut spread = BagCase::new("spread", layout, &[300; 3 * 11], zipf);
    spread.features[2].padding_idx = Some(0);
    let equal = BagCase::new("equal", layout, &[410; 3 * 5], |_, _| 2);
    let full = BagCase::new("whole blocks", layout, &[2048; 3], uniform);
    for case in [spread, equal, full] {
        let (got, result) = sort::<B, i32>(device, &case, 0);
        assert_eq!(result, Ok(()));
        assert_eq!(got, expected(&case), "{}", case.name);
    }
}

/// Checks tables that have no ids, one id, or far more than the others, in one feature or in
/// several that are apart.
fn orders_tables_of_any_size<B: IndexSortOps>(device: &B) {
    let features: Vec<_> = [1, 2, 0, 1, 4].map(|table| feature(table, Pooling::Sum)).into();
    let tables = [(1 << 20, 1), (300, 1), (1, 1), (7, 1), (512, 1)];
    for lengths in [[30, 1, 17_000, 0, 20], [8191, 300, 0, 1, 100], [8190, 300, 0, 3, 100]] {
        let bags: Vec<usize> = lengths.into_iter().flat_map(|length| [length, 0, 1]).collect();
        let mut case = BagCase::new("tables of any size", (&tables, &features), &bags, zipf);
        for (feature, padding) in [(2, 1), (3, 0), (4, 2)] {
            case.features[feature].padding_idx = Some(padding);
        }
        let (got, result) = sort::<B, i32>(device, &case, 0);
        assert_eq!(result, Ok(()));
        assert_eq!(got, expected(&case), "{lengths:?}");
    }
}

/// Checks batches that are large enough for a backend's largest tiles, with keys of 32 and 64 bits.
fn orders_ids_for_large_tiles<B: IndexSortOps>(device: &B) {
    // Rows of 2⁴⁰ leave no room for the bag in the words that the CPU sorts.
    for rows in [70_000, 1 << 34, 1 << 40] {
        let layout = (&[(rows, 1)][..], &[0, 0].map(|table| feature(table, Pooling::Sum))[..]);
        let case = BagCase::new("large tiles", layout, &[128; 2 * 513], |random, rows| {
            random.below(rows) & !0x3f
        });
        let (got, result) = sort::<B, i64>(device, &case, 0);
        assert_eq!(result, Ok(()));
        assert_eq!(got, expected(&case), "{rows} rows");
    }
}

/// Checks that a row number and a position of more than 64 bits together are refused.
#[test]
fn too_many_ids_of_too_many_rows_are_an_error_on_the_cpu() {
    for (ids, fits) in [(1 << 16, true), ((1 << 16) + 1, false)] {
        let case = BagCase::one_table("many rows", (1 << 48, 1), &[ids], uniform);
        let bags = case.upload::<Cpu, i64>(&Cpu::on_current_thread());
        let mut sorted = poisoned_order(&Cpu::on_current_thread(), &case, 0);
        let mut workspace =
            vec![
                0;
                Sort::<Cpu, i64>::workspace_len(&Cpu::on_current_thread(), &case.layout(), ids)
            ];
        let op = Sort::new(&bags.tables, bags.view(), &mut sorted, &mut workspace);
        let result = op.run(&Cpu::on_current_thread());
        assert_eq!(result.is_ok(), fits, "{result:?}");
        assert!(
            fits || matches!(result, Err(Error::InvalidArgument { argument: "indices", .. })),
            "{result:?}"
        );
    }
}

/// Checks that a workspace for the largest batch is long enough for all smaller ones.
fn room_for_more_ids_is_room_for_fewer<B: IndexSortOps>(device: &B) {
    let layout = BagCase::mixed(Pooling::Sum).layout();
    let len = |ids: usize| Sort::<B, i64>::workspace_len(device, &layout, ids);
    for bits in 0..24 {
        let ids = 1 << bits;
        assert!(len(ids - 1) <= len(ids) && len(ids) <= len(ids + 1), "{ids} ids");
    }
}

fn bad_ids_are_left_out_and_reported<B: IndexSortOps>(device: &B) {
    let mut case = BagCase::mixed(Pooling::Mean);
    let (bag, later) = (33 + 1, case.offsets[3 * 33 + 2]);
    let position = case.offsets[bag];
    case.indices[position] = -7;
    case.indices[later] = 9;
    let (got, result) = sort::<B, i32>(device, &case, 0);
    let error = Error::IndexOutOfRange {
        op: "index_sort",
        table: 0,
        bag,
        position,
        value: -7,
        num_embeddings: 30,
        count: 2,
    };
    assert_out_of_range(result, error);
    assert_eq!(got, expected(&case));
}

fn wrong_shapes_are_errors<B: IndexSortOps>(device: &B) {
    let case = BagCase::mixed(Pooling::Sum);
    let (n, num_bags) = (case.indices.len(), 5 * 33);
    let bags = case.upload::<B, i64>(device);
    let words = Sort::<B, i64>::workspace_len(device, &case.layout(), n);
    let run = |words: usize, capacity: usize, num_bags: usize| {
        let buffer = |len| upload(device, &poisoned(len));
        let counted = [buffer(capacity), buffer(capacity), buffer(num_bags)];
        let rows = upload(device, &poisoned(capacity));
        let mut sorted =
            SortedIndices::with_buffers(device, rows, buffer(capacity + 1), counted, buffer(2))
                .unwrap();
        let mut workspace = upload(device, &poisoned::<u64>(words));
        let op = Sort::new(&bags.tables, bags.view(), &mut sorted, B::view_mut(&mut workspace));
        let text = message(op.run(device));
        assert_same_bits(&text, &download_view(device, sorted.rows()), &poisoned(capacity));
        text
    };
    let small = |name: &str, got: usize, needed: usize| {
        format!("index_sort: {name} holds {got} elements, but {needed} are needed")
    };
    assert_eq!(run(words, n - 1, num_bags), small("sorted.capacity", n - 1, n));
    assert_eq!(run(words, n, 1), small("sorted.bag_lengths", 1, num_bags));
    if words > 0 {
        assert_eq!(run(words - 1, n, num_bags), small("workspace", words - 1, words));
    }
    for (k, name) in ["segments", "positions", "bags"].into_iter().enumerate() {
        let mut lens = [9, 8, 8];
        lens[k] -= 1;
        let [segments, positions, bags] = lens.map(|len| device.alloc(len).unwrap());
        let (rows, counted) = (device.alloc(8).unwrap(), device.alloc(1).unwrap());
        let (of_ids, counts) = ([positions, bags, counted], device.alloc(2).unwrap());
        let made = SortedIndices::with_buffers(device, rows, segments, of_ids, counts);
        let want = format!(
            "SortedIndices: {name} holds {} elements, but {} are needed",
            lens[k],
            lens[k] + 1
        );
        assert_eq!(message(made.map(|_| ())), want);
    }

    for (position, offset, rule) in
        [(0, 2, OffsetRule::FirstIsZero), (num_bags, 4, OffsetRule::NotBelow(n as i64 - 4))]
    {
        let mut wrong = case.clone();
        wrong.offsets[position] = offset;
        let rule = match rule {
            OffsetRule::NotBelow(_) => OffsetRule::NotBelow(wrong.offsets[position - 1] as i64),
            rule => rule,
        };
        let mut sorted = SortedIndices::new(device, n, num_bags).unwrap();
        let bags = wrong.upload::<B, i64>(device);
        let mut workspace = upload(device, &poisoned::<u64>(words));
        let op = Sort::new(&bags.tables, bags.view(), &mut sorted, B::view_mut(&mut workspace));
        let error =
            Error::InvalidOffsets { op: "index_sort", position, value: offset as i64, rule };
        assert_eq!(outcome(device, op.run(device)), Err(error));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let lengths: Vec<usize> = (0..66).map(|k| k * 11).collect();
    let layout = (&[(1 << 14, 4)][..], &[feature(0, Pooling::Sum), feature(0, Pooling::Mean)][..]);
    let case = BagCase::new("many ids", layout, &lengths, zipf);
    assert_deterministic(&case.name, |cpu| {
        let Order { rows, segments, positions, bags, bag_lengths } =
            sort::<_, i64>(cpu, &case, 0).0;
        [bytes(&rows), bytes(&segments), bytes(&positions), bytes(&bags), bytes(&bag_lengths)]
            .concat()
    });
}
