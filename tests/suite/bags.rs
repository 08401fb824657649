//! Tests of the forms of a batch: types of ids and offsets, offsets without the last one, bags of
//! equal length. Results are the same bits in every form.

use crate::common::*;
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::sparse_update::{PooledGrad, Update};
use bagdot::ops::{
    Backend, Bags, Matrix, MatrixMut, Optimizer, OptimizerStateMut, Pooling, UpdateRule,
    embedding_bag,
};
use bagdot::{Error, Index, OffsetRule, Result};

backend_suite!(cuda:
    all_types_give_the_same_bits,
    starts_give_the_same_bits,
    equal_lengths_give_the_same_bits,
    bad_unsigned_ids_are_named,
    starts_behind_the_ids_are_errors,
    wrong_numbers_are_explained,
);

/// The pooled output, the order of the ids, and the weights after a step of SGD, as bits.
type Outcome = (Vec<u32>, Vec<u64>, Vec<u32>, Vec<u32>);

/// Returns the result of a sort as that of a lookup, whose errors have its name.
fn of_lookup(mut result: Result<()>) -> Result<()> {
    if let Err(Error::IndexOutOfRange { op, .. } | Error::InvalidOffsets { op, .. }) = &mut result {
        *op = "embedding_bag.forward";
    }
    result
}

/// Looks up, sorts and updates the rows of a batch that `bags` gives in some form.
fn run<B: Backend, I: Index>(
    device: &B,
    case: &BagCase,
    bags: Bags<'_, B, I>,
) -> (Outcome, Result<()>) {
    let (layout, rows, width) = (case.layout(), case.batch_size, case.width());
    let n = bags.num_indices();
    let mut weights = upload(device, &case.weights::<f32>());
    let grad = upload(device, &case.grad_output());
    let mut pooled = upload(device, &poisoned::<f32>(rows * width));
    let mut argmax = upload(device, &poisoned::<u32>(rows * width));
    let words = Sort::<B, I>::workspace_len(device, &layout, n)
        .max(Update::<B, f32, I>::workspace_len(device, &layout, n));
    let mut workspace = upload(device, &poisoned::<u64>(words));
    let mut sorted = SortedIndices::new(device, n, rows * case.features.len()).unwrap();
    let tables = device.tables(layout).unwrap();
    let output = MatrixMut::contiguous(B::view_mut(&mut pooled), rows, width);
    let lookup = embedding_bag::Forward::new(&tables, B::view(&weights), bags, output)
        .argmax(MatrixMut::contiguous(B::view_mut(&mut argmax), rows, width));
    let mut result = outcome(device, lookup.run(device));
    let sort = Sort::new(&tables, bags, &mut sorted, B::view_mut(&mut workspace));
    let sorting = outcome(device, sort.run(device));
    assert_eq!(of_lookup(sorting), result, "both ops find the same fault");
    if result.is_ok() {
        let grad_output = Matrix::contiguous(B::view(&grad), rows, width);
        let source = PooledGrad::new(&tables, bags, &sorted, grad_output)
            .argmax(Matrix::contiguous(B::view(&argmax), rows, width));
        let rule = UpdateRule::new(Optimizer::Sgd, 0.5);
        let (weights, words) = (B::view_mut(&mut weights), B::view_mut(&mut workspace));
        let update = Update::new(source, rule, weights, OptimizerStateMut::None, words);
        result = outcome(device, update.run(device));
    }
    let counts = download_view(device, sorted.counts());
    let bits = |values: Vec<f32>| values.iter().map(|x| x.to_bits()).collect();
    let found = (
        bits(download(device, &pooled)),
        download_view(device, sorted.rows())[..counts[1] as usize].to_vec(),
        download_view(device, sorted.positions())[..counts[0] as usize].to_vec(),
        bits(download(device, &weights)),
    );
    (found, result)
}

/// Returns the ids or offsets of a case in another type.
fn typed<I: Id>(values: impl IntoIterator<Item = i64>) -> Vec<I> {
    values.into_iter().map(I::id).collect()
}

/// Runs a case with ids of `I` and offsets of `O`.
fn run_as<B: Backend, I: Id, O: Id>(device: &B, case: &BagCase) -> (Outcome, Result<()>) {
    let ids = upload(device, &typed::<I>(case.indices.iter().copied()));
    let offsets = case.offsets.iter().map(|&offset| offset as i64);
    let offsets = upload(device, &typed::<O>(offsets));
    let weights = case.per_sample_weights.as_ref().map(|weights| upload(device, weights));
    let mut bags = Bags::new(case.batch_size, B::view(&ids), B::view(&offsets));
    bags.per_sample_weights = weights.as_ref().map(B::view);
    run(device, case, bags)
}

fn all_types_give_the_same_bits<B: Backend>(device: &B) {
    for pooling in [Pooling::Mean, Pooling::Max] {
        for case in BagCase::all(pooling) {
            let want = run_as::<B, i64, i64>(device, &case);
            assert_eq!(want.1, Ok(()));
            assert!(run_as::<B, i64, i32>(device, &case) == want, "{}", case.name);
            assert!(run_as::<B, i32, u32>(device, &case) == want, "{}", case.name);
            assert!(run_as::<B, u32, i64>(device, &case) == want, "{}", case.name);
            assert!(run_as::<B, u32, u32>(device, &case) == want, "{}", case.name);
        }
    }
}

fn starts_give_the_same_bits<B: Backend>(device: &B) {
    for case in BagCase::all(Pooling::Max) {
        let want = run_as::<B, i64, i64>(device, &case);
        let ids = upload(device, &case.indices);
        let starts = &case.offsets[..case.offsets.len() - 1];
        let starts: Vec<i32> = typed(starts.iter().map(|&start| start as i64));
        let starts = upload(device, &starts);
        let bags = Bags::from_starts(case.batch_size, B::view(&ids), B::view(&starts));
        assert!(run(device, &case, bags) == want, "{}", case.name);
    }
}

/// Returns a case with two features and bags of three ids.
fn equal() -> BagCase {
    let mut case = BagCase::all(Pooling::Max).swap_remove(0);
    let bags = case.features.len() * case.batch_size;
    case.offsets = (0..=bags).map(|bag| 3 * bag).collect();
    case.indices = (0..3 * bags as i64).map(|k| k % 5 % case.num_rows() as i64).collect();
    let least = case.tables.iter().map(|table| table.num_embeddings as i64).min().unwrap();
    case.indices.iter_mut().for_each(|id| *id %= least);
    case.per_sample_weights = None;
    case
}

fn equal_lengths_give_the_same_bits<B: Backend>(device: &B) {
    let case = equal();
    let want = run_as::<B, i64, i64>(device, &case);
    assert_eq!(want.1, Ok(()));
    let ids = upload(device, &case.indices);
    assert!(run(device, &case, Bags::of_length(case.batch_size, B::view(&ids), 3)) == want);
    // With slack there may be more ids, which are not read.
    let ids = upload(device, &[&case.indices[..], &[i64::MIN; 2]].concat());
    let bags = Bags::of_length(case.batch_size, B::view(&ids), 3);
    assert!(run(device, &case, bags.with_slack()) == want);
}

fn bad_unsigned_ids_are_named<B: Backend>(device: &B) {
    let case = equal();
    let mut ids: Vec<u32> = typed(case.indices.iter().copied());
    ids[4] = 4_000_000_000;
    let ids = upload(device, &ids);
    let bags = Bags::of_length(case.batch_size, B::view(&ids), 3);
    match run(device, &case, bags).1 {
        Err(Error::IndexOutOfRange {
            position: 4, bag: 1, value: 4_000_000_000, count: 1, ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

fn starts_behind_the_ids_are_errors<B: Backend>(device: &B) {
    let case = equal();
    let n = case.indices.len();
    let mut starts: Vec<i64> = case.offsets.iter().map(|&offset| offset as i64).collect();
    starts.pop();
    let bags = starts.len();
    starts[bags - 1] = n as i64 + 2;
    let (ids, starts) = (upload(device, &case.indices), upload(device, &starts));
    let bags_of = Bags::from_starts(case.batch_size, B::view(&ids), B::view(&starts));
    let rule = OffsetRule::NotBelow(n as i64 + 2);
    let want = Error::InvalidOffsets {
        op: "embedding_bag.forward",
        position: bags,
        value: n as i64,
        rule,
    };
    assert_eq!(run(device, &case, bags_of).1, Err(want));
}

fn wrong_numbers_are_explained<B: Backend>(device: &B) {
    let case = equal();
    let (features, samples) = (case.features.len(), case.batch_size);
    let (ids, offsets) = (upload(device, &case.indices), upload(device, &[0_i64, 3]));
    let tables = device.tables(case.layout()).unwrap();
    let weights = upload(device, &case.weights::<f32>());
    let text = |bags: Bags<'_, B, i64>| {
        let mut pooled = upload(device, &poisoned::<f32>(samples * case.width()));
        let output = MatrixMut::contiguous(B::view_mut(&mut pooled), samples, case.width());
        let lookup = embedding_bag::Forward::new(&tables, B::view(&weights), bags, output);
        message(lookup.run(device)).replace("embedding_bag.forward: bags.", "")
    };
    let (ids, offsets) = (B::view(&ids), B::view(&offsets));
    let bags = features * samples;
    assert_eq!(
        text(Bags::new(samples, ids, offsets)),
        format!(
            "offsets: 2 of them, but {features} features x {samples} samples need {} offsets, one \
             more than bags",
            bags + 1
        )
    );
    assert_eq!(
        text(Bags::from_starts(samples, ids, offsets)),
        format!(
            "offsets: 2 of them, but {features} features x {samples} samples need {bags} offsets, \
             one for each bag"
        )
    );
    assert_eq!(
        text(Bags::of_length(samples, ids, 7)),
        format!(
            "indices: {} of them, but {features} features x {samples} samples of 7 ids each need \
             {}",
            3 * bags,
            7 * bags
        )
    );
}
