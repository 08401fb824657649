//! Tests of bags with slack behind the ids: results do not depend on its contents.

use crate::common::*;
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::{Backend, Bags, MatrixMut, Pooling, embedding_bag};
use bagdot::{Error, OffsetRule, Result};

backend_suite!(cuda: slack_is_not_read, bags_must_end_within_the_room);

/// The pooled output, and the order of the ids.
#[derive(Debug, PartialEq)]
struct Outcome {
    pooled: Vec<u32>,
    counts: Vec<u32>,
    rows: Vec<u64>,
    positions: Vec<u32>,
    bag_lengths: Vec<u32>,
}

/// Runs both ops on the ids of a case, followed by `spare` ids that name no row, with per-sample
/// weights that are NaN.
fn run<B: Backend>(
    device: &B,
    case: &BagCase,
    spare: usize,
    has_slack: bool,
) -> (Outcome, [Result<()>; 2]) {
    let mut ids = case.indices.clone();
    ids.resize(ids.len() + spare, i64::MIN);
    let mut factors = case.per_sample_weights.clone();
    factors.iter_mut().for_each(|factors| factors.resize(ids.len(), f32::NAN));
    let offsets: Vec<i64> = case.offsets.iter().map(|&offset| offset as i64).collect();
    let tables = device.tables(case.layout()).unwrap();
    let (indices, offsets, weights) =
        (upload(device, &ids), upload(device, &offsets), upload(device, &case.weights::<f32>()));
    let factors = factors.map(|factors| upload(device, &factors));
    let bags = || {
        let mut bags = Bags::new(case.batch_size, B::view(&indices), B::view(&offsets));
        bags.per_sample_weights = factors.as_ref().map(B::view);
        bags.has_slack = has_slack;
        bags
    };
    let mut pooled = upload(device, &poisoned::<f32>(case.batch_size * case.width()));
    let forward = embedding_bag::Forward::new(
        &tables,
        B::view(&weights),
        bags(),
        MatrixMut::contiguous(B::view_mut(&mut pooled), case.batch_size, case.width()),
    );
    let forward = outcome(device, forward.run(device));
    let mut sorted =
        SortedIndices::new(device, ids.len(), case.features.len() * case.batch_size).unwrap();
    let words = Sort::<B, i64>::workspace_len(device, &case.layout(), ids.len());
    let mut workspace = upload(device, &poisoned::<u64>(words));
    let sort = Sort::new(&tables, bags(), &mut sorted, B::view_mut(&mut workspace));
    let sort = outcome(device, sort.run(device));
    let counts = download_view(device, sorted.counts());
    let found = Outcome {
        pooled: download(device, &pooled).iter().map(|x| x.to_bits()).collect(),
        rows: download_view(device, sorted.rows())[..counts[1] as usize].to_vec(),
        positions: download_view(device, sorted.positions())[..counts[0] as usize].to_vec(),
        bag_lengths: download_view(device, sorted.bag_lengths()),
        counts,
    };
    (found, [forward, sort])
}

fn slack_is_not_read<B: Backend>(device: &B) {
    let cases = BagCase::all(Pooling::Mean).into_iter().filter(|case| case.batch_size > 0);
    for case in cases.map(BagCase::weighted) {
        let (want, results) = run(device, &case, 0, false);
        assert_eq!(results, [Ok(()), Ok(())], "{}", case.name);
        for spare in [0, 1, 70, 3000] {
            let (got, results) = run(device, &case, spare, true);
            assert_eq!(results, [Ok(()), Ok(())], "{}, {spare} spare", case.name);
            assert_eq!(got, want, "{}, {spare} spare", case.name);
        }
    }
}

/// The names of the ops in errors.
const FORWARD: &str = "embedding_bag.forward";
const SORT: &str = "index_sort";

fn bags_must_end_within_the_room<B: Backend>(device: &B) {
    let mut case = BagCase::one_table("offsets", (4, 2), &[1, 2, 1], uniform);
    let fault = |op, value, room| {
        Err(Error::InvalidOffsets { op, position: 3, value, rule: OffsetRule::LastIs(room) })
    };
    // Without slack the last bag must end at the last id.
    assert_eq!(run(device, &case, 2, false).1, [fault(FORWARD, 4, 6), fault(SORT, 4, 6)]);
    case.offsets[3] = 7;
    assert_eq!(run(device, &case, 2, true).1, [fault(FORWARD, 7, 6), fault(SORT, 7, 6)]);
}
