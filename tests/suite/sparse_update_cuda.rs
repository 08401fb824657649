//! Tests of `index_sort` and `sparse_update` on CUDA: the bits of the CPU, replayed graphs, memory
//! traffic, and load balance.

use std::collections::BTreeMap;
use std::iter;

use crate::common::cuda::{capture, emulator, on_every_schedule, on_every_schedule_with_overlaps};
use crate::common::updates::{Backward, State, download_grad, poisoned_grad, rules, state_values};
use crate::common::*;
use bagdot::ops::index_sort::{IndexSortOps, Sort};
use bagdot::ops::sparse_update::{SparseUpdateOps, Update};
use bagdot::ops::{Device, Optimizer, Pooling, Rounding, UpdateRule, WeightDecay};
use bagdot::ops::{View, ViewMut};
use bagdot::{Cpu, Cuda, Error, OffsetRule, bf16, f16};

/// Returns bags that look up one row very often, and other rows at times. One of the two tables has
/// 4 columns.
fn case(dim: usize, pooling: Pooling) -> BagCase {
    let lengths = [&[90, 70][..], &[5; 14]].concat();
    let layout = (&[(12, dim), (9, 4)][..], &[feature(0, pooling), feature(1, Pooling::Sum)][..]);
    BagCase::new(format!("D = {dim}, {pooling:?}"), layout, &lengths, |random, rows| {
        match random.below(3) {
            0 => random.below(rows),
            _ => 3,
        }
    })
}

/// The weights, state and gradient of a step.
struct Outcome {
    weights: Vec<u8>,
    state: [Vec<f32>; 2],
    grad: Vec<(u64, Vec<f32>)>,
}

fn step<B: IndexSortOps + SparseUpdateOps, E: Stored, G: Stored + Poison>(
    device: &B,
    case: &BagCase,
    rule: UpdateRule,
) -> Outcome {
    let grad_output = draw_stored::<G>(case.batch_size * case.width(), case.seed + 5);
    let backward = Backward::<B, i64, G>::new(device, case, &grad_output, Some(1.5));
    let state = state_values(rule.optimizer, case.num_rows(), case.num_weights());
    let scale: Vec<f32> = (0..case.num_rows()).map(|row| (row % 5) as f32 / 3.0).collect();
    let (weights, state) =
        backward.update_scaled(device, case, (rule, Some(&scale)), &case.weights::<E>(), &state);
    let mut grad = poisoned_grad(device, case, case.indices.len());
    backward.reduce(device, &mut grad).unwrap();
    Outcome { weights: bytes(&weights), state, grad: download_grad(device, &grad) }
}

#[track_caller]
fn assert_same_step<E: Stored, G: Stored + Poison>(case: &BagCase, rule: UpdateRule) {
    let want = step::<_, E, G>(&Cpu::on_current_thread(), case, rule);
    on_every_schedule(|cuda| {
        let (types, of) = ((E::DTYPE, G::DTYPE), (rule.optimizer, rule.weight_decay));
        let what = format!("{}, {types:?}, {of:?}", case.name);
        let got = step::<_, E, G>(cuda, case, rule);
        assert!(got.weights == want.weights, "{what}: weights");
        for (got, want) in got.state.iter().zip(&want.state) {
            assert_same_bits(&format!("{what}: state"), got, want);
        }
        for ((got_row, got), (row, want)) in got.grad.iter().zip(&want.grad) {
            assert_eq!(got_row, row, "{what}");
            assert_same_bits(&format!("{what}: gradient of row {row}"), got, want);
        }
        assert_eq!(got.grad.len(), want.grad.len(), "{what}");
    });
}

/// Compares steps of every optimizer, storage type and kind of decay. Every second one rounds
/// stochastically.
fn assert_same_steps(case: &BagCase) {
    for (k, mut rule) in rules().into_iter().enumerate() {
        if k % 2 == 0 {
            rule.rounding = Rounding::Stochastic { seed: 0x1234_5678_9abc };
        }
        match (k + case.seed as usize) % 3 {
            0 => assert_same_step::<f32, f32>(case, rule),
            1 => assert_same_step::<f16, f32>(case, rule),
            _ => assert_same_step::<bf16, f32>(case, rule),
        }
    }
}

#[test]
fn steps_are_those_of_the_cpu_to_the_bit() {
    for dim in [1, 3, 4, 16, 63, 64, 129] {
        assert_same_steps(&case(dim, POOLINGS[dim % 3]));
    }
    for pooling in POOLINGS {
        assert_same_steps(&case(12, pooling));
    }
    assert_same_steps(&case(20, Pooling::Mean).weighted());
}

#[test]
fn steps_on_long_rows_are_those_of_the_cpu_to_the_bit() {
    assert_same_steps(&case(1024, Pooling::Mean));
}

/// A warp that holds a narrow row loads one column per lane, for its wide rows, too: these must fit
/// the lanes that one column per lane needs, else row-wise Adagrad sums their squares in another
/// order. The gradient has 20 or 36 columns, so that wide loads are possible at all.
#[test]
fn wide_rows_beside_narrow_ones_are_those_of_the_cpu_to_the_bit() {
    for dim in [16, 32] {
        let features = [0, 1, 2].map(|table| feature(table, Pooling::Sum));
        let layout = (&[(40, dim), (40, 3), (40, 1)][..], &features[..]);
        let lengths = [7; 3 * 8];
        let name = format!("D = {dim}, 3, 1");
        let case = BagCase::new(name, layout, &lengths, |random, rows| random.below(rows));
        assert_same_step::<f32, f32>(
            &case,
            UpdateRule::new(Optimizer::RowwiseAdagrad { eps: 0.25 }, 0.1),
        );
    }
}

/// Returns bags of two features of one table of which row `k` occurs `counts[k]` times, in a random
/// order, and a row behind them once or more. A bag has two ids.
fn with_counts(name: &str, dim: usize, poolings: [Pooling; 2], counts: &[usize]) -> BagCase {
    let rows = counts.len() as u64;
    let mut ids: Vec<u64> =
        (0..rows).zip(counts).flat_map(|(row, &count)| iter::repeat_n(row, count)).collect();
    ids.resize((ids.len() + 1).next_multiple_of(4), rows);
    let mut random = bagdot::Philox::new(rows, 7);
    for k in (1..ids.len()).rev() {
        ids.swap(k, random.below(k as u64 + 1) as usize);
    }
    let (lengths, features) = (vec![2; ids.len() / 2], poolings.map(|pooling| feature(0, pooling)));
    let mut next = ids.into_iter();
    let name = format!("{name}, D = {dim}, {poolings:?}");
    BagCase::new(name, (&[(counts.len() + 1, dim)], &features), &lengths, |_, _| {
        next.next().unwrap()
    })
}

/// Checks rows of few occurrences, of up to a chunk and of more, which different kernels sum, at
/// every place of a window: many short rows before a long one, and 17 chunks in the second window,
/// which are as many as can begin in one.
#[test]
fn rows_of_every_length_are_those_of_the_cpu_to_the_bit() {
    let long = [2, 63, 64, 65, 66, 127, 128, 129, 3, 8, 31, 32, 33, 200, 1];
    let counts =
        [&[65][..], &[4; 40], &[1, 3], &long, &[1; 130], &[70], &[1; 64], &[5], &[1; 63], &[66]]
            .concat();
    let of = |dim, poolings| with_counts("every length", dim, poolings, &counts);
    let [sgd, adagrad, rowwise, adam] = [0, 4, 8, 9].map(|k| rules()[k]);
    let (sum, mean, max) = (Pooling::Sum, Pooling::Mean, Pooling::Max);
    assert_same_step::<f32, f32>(&of(4, [sum, mean]).weighted(), rowwise);
    assert_same_step::<f16, bf16>(&of(16, [mean, sum]), adagrad);
    assert_same_step::<f32, f16>(&of(64, [sum, max]), adam);
    assert_same_step::<bf16, f32>(&of(64, [max, mean]), rowwise);
    assert_same_step::<f32, f32>(&of(128, [sum, sum]).weighted(), sgd);
    assert_same_step::<f32, bf16>(&of(5, [max, sum]), rowwise);
    assert_same_step::<f32, bf16>(&of(132, [mean, mean]), rowwise);
}

#[test]
fn steps_on_zipf_batches_are_those_of_the_cpu_to_the_bit() {
    let features = [0, 1, 1].map(|table| feature(table, Pooling::Sum));
    let layout = (&[(3000, 32), (500, 64)][..], &features[..]);
    let case = BagCase::new("Zipf", layout, &[1; 3 * 2048], zipf);
    assert_same_step::<f32, f32>(&case, ROWWISE);
    assert_same_step::<f16, bf16>(&case, UpdateRule::new(Optimizer::Sgd, 0.1));
}

/// Checks one row of about 100,000 occurrences among others: its sum has three levels.
#[test]
fn a_step_on_a_large_hot_row_is_that_of_the_cpu_to_the_bit() {
    let case = BagCase::one_table("hot", (40, 4), &[100; 1001], |random, rows| {
        if random.below(100) == 0 { random.below(rows) } else { 3 }
    });
    assert_same_step::<f32, f32>(&case, ROWWISE);
}

#[test]
fn a_row_of_many_chunks_is_summed_as_on_the_cpu() {
    for length in [64, 65, 128, 64 * 21 + 1] {
        let case = BagCase::one_table(format!("{length} equal ids"), (3, 8), &[length], |_, _| 1)
            .weighted();
        assert_same_step::<f32, f32>(
            &case,
            UpdateRule::new(Optimizer::RowwiseAdagrad { eps: 0.25 }, 0.1),
        );
    }
}

/// The buffers of a sort and a step, on a device.
struct Step<I: Id> {
    case: BagCase,
    backward: Backward<Cuda, I>,
    weights: bagdot::backend::cuda::Buffer<f32>,
    state: State<Cuda>,
    workspace: bagdot::backend::cuda::Buffer<u64>,
}

const ROWWISE: UpdateRule = UpdateRule {
    optimizer: Optimizer::RowwiseAdagrad { eps: 0.25 },
    learning_rate: 0.1,
    step: 5,
    weight_decay: WeightDecay::None,
    rounding: Rounding::Nearest,
};

impl<I: Id> Step<I> {
    fn new(cuda: &Cuda, case: BagCase) -> Self {
        let backward = Backward::new(cuda, &case, &case.grad_output(), None);
        let (n, tables) = (case.indices.len(), case.layout());
        let sort = Sort::<Cuda, I>::workspace_len(cuda, &tables, n);
        let update = Update::<Cuda, f32, I>::workspace_len(cuda, &tables, n);
        Self {
            backward,
            weights: upload(cuda, &case.weights::<f32>()),
            state: State::new(
                cuda,
                &state_values(ROWWISE.optimizer, case.num_rows(), case.num_weights()),
            ),
            workspace: upload(cuda, &poisoned(sort.max(update))),
            case,
        }
    }

    fn sort(&mut self, cuda: &Cuda) {
        let Backward { bags, sorted, .. } = &mut self.backward;
        let workspace = Cuda::view_mut(&mut self.workspace);
        Sort::new(&bags.tables, bags.view(), sorted, workspace).run(cuda).unwrap();
    }

    fn update(&mut self, cuda: &Cuda) {
        let update = self.update_op();
        update.run(cuda).unwrap();
    }

    fn update_op(&mut self) -> Update<'_, Cuda, f32, I> {
        Update::new(
            self.backward.source(),
            ROWWISE,
            Cuda::view_mut(&mut self.weights),
            self.state.view_mut(ROWWISE.optimizer),
            Cuda::view_mut(&mut self.workspace),
        )
    }
}

/// Checks bags that overlap. The sort has no meaning, but neither it nor a step with its order may
/// access memory outside of the buffers. There are few ids, or more than there are in the batch of
/// one table, or more than are sorted by table.
#[test]
fn overlapping_bags_are_an_error() {
    let few = case(16, Pooling::Mean);
    let features = [0, 1, 0, 1, 0].map(|table| feature(table, Pooling::Sum));
    let of_tables = |tables| BagCase::new("many", (tables, &features), &[300; 5 * 8], uniform);
    let (three, two) = (of_tables(&[(12, 16), (9, 4), (1, 1)]), of_tables(&[(12, 16), (9, 4)]));
    let end = three.indices.len();
    on_every_schedule_with_overlaps(|cuda| {
        let three_times = [(8, end), (16, 0), (24, end), (32, 0)];
        for (case, changes) in [
            (&few, &[(7, 3), (11, few.offsets[11] + 1000)][..]),
            (&three, &three_times),
            (&two, &three_times),
        ] {
            let mut step = Step::<i64>::new(cuda, case.clone());
            let mut offsets: Vec<_> = case.offsets.iter().map(|&offset| offset as i64).collect();
            changes.iter().for_each(|&(position, offset)| offsets[position] = offset as i64);
            cuda.upload(&offsets, Cuda::view_mut(&mut step.backward.bags.offsets)).unwrap();
            step.sort(cuda);
            let position = (1..).find(|&k| offsets[k] < offsets[k - 1]).unwrap();
            let (value, rule) = (offsets[position], OffsetRule::NotBelow(offsets[position - 1]));
            assert_eq!(
                cuda.synchronize(),
                Err(Error::InvalidOffsets { op: "index_sort", position, value, rule })
            );
            step.update(cuda);
            assert_eq!(cuda.synchronize(), Ok(()));
        }
    });
}

/// Writes into an order, as a faulty op would.
fn overwrite<T: bagdot::Scalar>(cuda: &Cuda, view: View<'_, Cuda, T>, values: &[T]) {
    // SAFETY: the memory is alive and holds as many elements, and nothing reads it meanwhile.
    cuda.upload(values, unsafe { ViewMut::from_raw(view.pointer(), view.len()) }).unwrap();
}

/// Checks that a step with random words for an order accesses nothing outside of its buffers.
#[test]
fn a_random_order_does_no_harm() {
    on_every_schedule_with_overlaps(|cuda| {
        let mut random = bagdot::Philox::new(3, 1);
        let mut step = Step::<i32>::new(cuda, case(12, Pooling::Mean));
        let n = step.case.indices.len();
        for most in [1 << 4, 1 << 9, 1 << 32] {
            let mut draw =
                |len: usize| -> Vec<u32> { (0..len).map(|_| random.below(most) as u32).collect() };
            let sorted = &step.backward.sorted;
            for view in [sorted.segments(), sorted.positions(), sorted.bags(), sorted.counts()] {
                overwrite(cuda, view, &draw(view.len()));
            }
            let rows: Vec<u64> = draw(n).into_iter().map(u64::from).collect();
            overwrite(cuda, sorted.rows(), &rows);
            step.update(cuda);
            let mut grad = poisoned_grad(cuda, &step.case, n);
            step.backward.reduce(cuda, &mut grad).unwrap();
            assert_eq!(cuda.synchronize(), Ok(()));
        }
    });
}

/// Checks a sort and a step in one graph that is replayed with other ids in the same buffers: each
/// time the results are those of the CPU.
#[test]
fn a_captured_sort_and_step_is_replayed() {
    on_every_schedule(|cuda| {
        let first = case(16, Pooling::Mean);
        let mut second = first.clone();
        second.indices.iter_mut().for_each(|id| *id = (*id * 5 + 1) % 9);
        let mut step = Step::<i64>::new(cuda, first.clone());
        let graph = capture(cuda, || {
            step.sort(cuda);
            step.update(cuda);
        });
        for case in [&first, &second, &first] {
            let state = state_values(ROWWISE.optimizer, case.num_rows(), case.num_weights());
            cuda.upload(&case.indices, Cuda::view_mut(&mut step.backward.bags.indices)).unwrap();
            cuda.upload(&case.weights::<f32>(), Cuda::view_mut(&mut step.weights)).unwrap();
            cuda.upload(&state[0], Cuda::view_mut(&mut step.state.first)).unwrap();
            graph.replay();
            cuda.synchronize().unwrap();
            let cpu = Cpu::on_current_thread();
            let on_cpu = Backward::<Cpu, i64>::new(&cpu, case, &case.grad_output(), None);
            let (want, want_state) =
                on_cpu.update(&cpu, case, ROWWISE, &case.weights::<f32>(), &state);
            assert_same_bits("replayed weights", &download(cuda, &step.weights), &want);
            assert_same_bits("replayed state", &download(cuda, &step.state.first), &want_state[0]);
        }
    });
}

/// Returns the counters of the kernel with this name.
fn counted(alone: &bagdot_emulator::Exclusive, name: &str) -> bagdot_emulator::KernelCounts {
    let counters = alone.counters();
    counters
        .into_iter()
        .find(|kernel| kernel.name == name)
        .unwrap_or_else(|| panic!("{name} was not launched"))
}

/// Checks that gradients, weights and state of rows that occur once move once. Besides, a step
/// reads a sector each of a row's number, segment (twice), position and bag; most come from a
/// cache, since the rows of a warp are far apart and other warps need the rest of each sector. Each
/// warp reads 36 sectors of tables, their places, features and counts.
#[test]
fn a_step_moves_each_row_once() {
    let Some(emulator) = emulator() else { return };
    for dim in [16, 64, 128] {
        let alone = emulator.exclusive();
        let cuda = Cuda::new(0).unwrap();
        let mut ids = 0..512;
        let mut step = Step::<i32>::new(
            &cuda,
            BagCase::one_table("once", (512, dim), &[1; 512], |_, _| ids.next().unwrap()),
        );
        alone.reset_counters();
        step.update(&cuda);
        cuda.synchronize().unwrap();
        let total = counted(&alone, "sparse_update_update_rows_f32").total;
        let (bytes, least) = (total.sectors as usize * 32, step.update_op().bytes_moved());
        let warps = 512 * (dim / 4) / 32;
        assert!(
            bytes <= least + (512 * 5 + warps * 36) * 32,
            "D = {dim}: {bytes} bytes, {least} at least, {warps} warps: {total:?}"
        );
    }
}

/// Checks that a step on a skewed batch moves little more than it must: each gradient once, with
/// the position and the bag of its occurrence; weights and state of each row, and the sums of the
/// chunks of hot rows, once each way. Besides, sectors are read as `a_step_moves_each_row_once`
/// says, by the warps that have rows. A window of 64 occurrences reads 37 sectors in the search for
/// its first row, 20 of segments, and 18 of counts and of runs that begin within a sector; each
/// chunk eight: the row's number, its table in three steps, two places and two of its feature.
#[test]
fn a_step_on_a_skewed_batch_moves_little_more_than_it_must() {
    let Some(emulator) = emulator() else { return };
    for dim in [16, 64, 128] {
        let alone = emulator.exclusive();
        let cuda = Cuda::new(0).unwrap();
        let case = BagCase::one_table("skewed", (2000, dim), &[1; 4096], zipf);
        let mut counts = BTreeMap::<i64, usize>::new();
        case.indices.iter().for_each(|&id| *counts.entry(id).or_default() += 1);
        let mut step = Step::<i32>::new(&cuda, case);
        alone.reset_counters();
        step.update(&cuda);
        cuda.synchronize().unwrap();
        let sectors = |part| {
            counted(&alone, &format!("sparse_update_update_{part}_f32")).total.sectors as usize
        };
        let sum = |of: fn(usize) -> usize| counts.values().map(|&count| of(count)).sum::<usize>();
        let (rows, stored) = (counts.len(), sum(|n| if n > 64 { n.div_ceil(64) } else { 0 }));
        let few = sum(|n| if n > 3 { 0 } else { n });
        let chunks = sum(|n| if n > 3 { n.div_ceil(64) } else { 0 });
        let least = (4096 * (dim * 4 + 8) + (rows + stored) * dim * 8) / 32 + rows * 2;
        let of_rows = rows * 3 + few * 2 + 36 * rows.min(4096 * (dim / 4) / 32);
        let (most, moved) = (
            least + of_rows + 4096 / 64 * (37 + 20 + 18) + chunks * 8,
            sectors("rows") + sectors("chunks"),
        );
        assert!(stored > 20 && chunks > 100, "{counts:?}");
        assert!(moved <= most, "D = {dim}: {moved} sectors, {least} at least, {most} at most");
    }
}

/// Checks that a pass over 32-bit keys in large tiles reads and writes each key and position once,
/// with equal digits side by side: 16 bytes an id. The rest is the look-back, in which each tile
/// writes 256 words twice and reads those of eight tiles at once, of sixteen at most on average;
/// and runs that start within a sector.
#[test]
fn a_pass_of_the_sort_moves_each_id_once() {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    let cuda = Cuda::new(0).unwrap();
    // Row numbers have 21 bits, since one number more stands for no row.
    let case = BagCase::one_table("random", (1 << 20, 4), &[128; 1024], uniform);
    let n = case.indices.len();
    let mut step = Step::<i64>::new(&cuda, case);
    alone.reset_counters();
    step.sort(&cuda);
    cuda.synchronize().unwrap();
    let pass = counted(&alone, "index_sort_pass_large_u32");
    assert_eq!(pass.launches, 3, "21 bits are three digits of 7");
    let launches: u64 = alone.counters().iter().map(|kernel| kernel.launches).sum();
    assert_eq!(launches, 3 + 2, "three passes, a kernel before and one after them");
    let bytes = pass.total.sectors as usize * 32 / 3;
    let most = n * 16 + n.div_ceil(2048) * (2 + 16) * 256 * 8;
    assert!(bytes <= most, "{bytes} bytes a pass, {} at least: {:?}", n * 16, pass.total);
}

/// Checks that the sort of a small batch is one launch, and moves each id as often as it must. It
/// reads the id, and each offset four times, from a cache except for the first time. It writes the
/// bag of the id to a position and reads it from there, a sector for each id. It writes the length
/// of the bag and the order. A warp of 32 ids reads six sectors more: features, and offsets that
/// begin within a sector.
#[test]
fn a_small_sort_is_one_launch() {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    let cuda = Cuda::new(0).unwrap();
    let features = [0, 1, 2].map(|table| feature(table, Pooling::Sum));
    let layout = (&[(1 << 20, 4); 3][..], &features[..]);
    let case = BagCase::new("small", layout, &[1; 3 * 2048], uniform);
    let n = case.indices.len();
    let mut step = Step::<i64>::new(&cuda, case);
    alone.reset_counters();
    step.sort(&cuda);
    cuda.synchronize().unwrap();
    let launches: u64 = alone.counters().iter().map(|kernel| kernel.launches).sum();
    assert_eq!(launches, 1);
    let total = counted(&alone, "index_sort_tables_i64").total;
    let (bytes, order) = (total.sectors as usize * 32, 8 + 4 + 4 + 4);
    let most = n * (8 + 4 * 8 + (4 + 32) + 4 + order) + n / 32 * 6 * 32;
    assert!(bytes <= most, "{bytes} bytes, {most} at most: {total:?}");
}

/// Returns the instructions of the longest block of each kernel in a step on `n` ids of `rows`
/// rows, 64 in a bag.
fn longest_blocks(
    emulator: &'static bagdot_emulator::Emulator,
    (n, rows): (usize, usize),
    draw_id: impl FnMut(&mut bagdot::Philox, u64) -> u64,
) -> BTreeMap<String, u64> {
    let alone = emulator.exclusive();
    let cuda = Cuda::new(0).unwrap();
    let case = BagCase::one_table("hot", (rows, 32), &vec![64; n / 64], draw_id);
    let mut step = Step::<i32>::new(&cuda, case);
    alone.reset_counters();
    step.update(&cuda);
    cuda.synchronize().unwrap();
    let longest = |kernel: bagdot_emulator::KernelCounts| {
        (kernel.launches > 0)
            .then(|| (kernel.name, kernel.block_instructions.into_iter().max().unwrap()))
    };
    alone.counters().into_iter().filter_map(longest).collect()
}

/// Checks that the longest blocks of a step on 16,384 equal ids take no longer than with as many
/// ids spread over 256 rows, which have a chunk each. If one block summed the row, it would take
/// 256 times as long.
#[test]
fn a_hot_row_is_shared_between_blocks() {
    let Some(emulator) = emulator() else { return };
    let n = 64 * 256;
    let of = |draw_id: fn(&mut _, _) -> _| longest_blocks(emulator, (n, 256), draw_id);
    let (even, hot) = (of(uniform), of(|_, _| 3));
    assert!(
        hot.values().sum::<u64>() <= even.values().sum(),
        "instructions of the longest blocks: {hot:?} hot, {even:?} even"
    );
}

/// Checks that skew makes no block longer. With as many rows as ids no row of a warp waits for
/// another one; a Zipf batch has fewer rows, some of which take sums of chunks. If each row has one
/// chunk, a window has 64 occurrences; in a Zipf batch it has up to 127.
#[test]
fn skew_makes_no_block_longer() {
    let Some(emulator) = emulator() else { return };
    let n = 64 * 256;
    let of = |skew: fn(&mut _, _) -> _| longest_blocks(emulator, (n, n), skew);
    let in_order = |each: u64| {
        let mut ids = 0..;
        longest_blocks(emulator, (n, n), move |_, _| ids.next().unwrap_or(0) / each)
    };
    let (zipf, once, chunk) = (of(zipf), in_order(1), in_order(64));
    let [rows, chunks] = ["rows", "chunks"].map(|part| format!("sparse_update_update_{part}_f32"));
    assert!(zipf[&rows] <= once[&rows], "{zipf:?}, {once:?}");
    assert!(zipf[&chunks] <= 2 * chunk[&chunks], "{zipf:?}, {chunk:?}");
}

/// Checks that no block takes longer for a hotter row: the longest block on 65,536 equal ids is
/// that on 4,096 ids, apart from the 15 sums of longer runs that it adds with 10 instructions each.
#[test]
fn no_block_is_longer_for_a_hotter_row() {
    let Some(emulator) = emulator() else { return };
    let [warm, hot] = [1 << 12, 1 << 16].map(|n| longest_blocks(emulator, (n, 256), |_, _| 3));
    assert_eq!((warm.len(), hot.len()), (2, 3), "{warm:?}, {hot:?}");
    for (kernel, hot) in &hot {
        let most = warm.get(kernel).unwrap_or(&warm["sparse_update_update_chunks_f32"]);
        let sums = if kernel.starts_with("sparse_update_update_rows") { 15 } else { 0 };
        assert!(
            *hot as f64 <= 1.05 * *most as f64 + 10.0 * f64::from(sums),
            "{kernel}: {hot} instructions in the longest block, not {most}"
        );
    }
}
