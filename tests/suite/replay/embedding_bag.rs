//! Replays `torch.nn.functional.embedding_bag`: output, and the gradients of the table and of the
//! per-sample weights.

use bagdot::Cpu;
use bagdot::ops::embedding_bag::{EmbeddingBagOps, WeightGrad};
use bagdot::ops::index_sort::IndexSortOps;
use bagdot::ops::sparse_update::SparseUpdateOps;
use bagdot::ops::{Feature, Matrix, Pooling, Table};

use super::Case;
use crate::common::updates::{Backward, download_grad, poisoned_grad};
use crate::common::{
    Approx, BagCase, Id, assert_close, assert_close_within, download, exact, poisoned, reference,
    upload,
};

/// Fails unless our values are within the error bound, and theirs within twice the bound, since
/// their formulas may have two operations in another order. The two then differ by at most three
/// times the bound.
pub(super) fn assert_both_close(what: &str, ours: &[f32], theirs: &[f32], want: &[Approx]) {
    assert_close(&format!("{what}: bagdot"), ours, want);
    assert_close_within(&format!("{what}: the golden vector"), theirs, want, 2.0);
}

pub(crate) fn replay(case: &Case<'_>) {
    replay_on(&Cpu::with_threads(2).unwrap(), case);
    #[cfg(feature = "cuda")]
    crate::common::cuda::on_every_schedule(|cuda| replay_on(cuda, case));
}

fn replay_on<B: EmbeddingBagOps + IndexSortOps + SparseUpdateOps>(device: &B, case: &Case<'_>) {
    let (indices, narrow) = case.integers("indices");
    let declared = match case.text("index_dtype").as_str() {
        "int32" => true,
        "int64" => false,
        _ => case.unknown("index_dtype"),
    };
    assert_eq!(narrow, declared, "{}: index_dtype", case.name());
    if narrow {
        replay_with::<B, i32>(device, case, indices)
    } else {
        replay_with::<B, i64>(device, case, indices)
    }
}

fn replay_with<B, I>(device: &B, case: &Case<'_>, indices: Vec<i64>)
where
    B: EmbeddingBagOps + IndexSortOps + SparseUpdateOps,
    I: Id,
{
    let (rows, dim, batch_size) =
        (case.count("num_embeddings"), case.count("dim"), case.count("batch"));
    assert_eq!(indices.len(), case.count("nnz"), "{}: nnz", case.name());
    let pooling = match case.text("mode").as_str() {
        "sum" => Pooling::Sum,
        "mean" => Pooling::Mean,
        "max" => Pooling::Max,
        _ => case.unknown("mode"),
    };
    // PyTorch counts a negative padding index from the end.
    let padding_idx = case.optional("padding_idx").map(|value| match value.as_i64() {
        Some(padding) if padding < 0 => (rows as i64 + padding) as usize,
        Some(padding) => padding as usize,
        None => case.unknown("padding_idx"),
    });
    case.must_be_off(&["max_norm", "scale_grad_by_freq", "sparse"]);

    let (mut offsets, _) = case.integers("offsets");
    if !case.flag("include_last_offset") {
        offsets.push(indices.len() as i64);
    }
    assert_eq!(offsets.len(), batch_size + 1, "{}: offsets", case.name());
    let weighted = case.flag("weighted");
    let bags = BagCase {
        name: case.name(),
        tables: vec![Table { num_embeddings: rows, embedding_dim: dim }],
        features: vec![Feature { table: 0, pooling, padding_idx }],
        batch_size,
        per_sample_weights: weighted.then(|| case.floats("per_sample_weights", &[indices.len()])),
        indices,
        offsets: offsets.iter().map(|&offset| offset as usize).collect(),
        seed: 0,
    };
    let weight = case.floats("weight", &[rows, dim]);
    let grad_output = case.floats("grad_out", &[batch_size, dim]);

    let (want, sources) = reference::embedding_bag(&bags, &exact(&weight));
    let output = bags.pool::<B, I>(device, &weight);
    assert_both_close(&bags.name, &output, &case.floats("out", &[batch_size, dim]), &want);

    let backward = Backward::<B, I>::with_sources(device, &bags, &grad_output, None, &sources);
    let mut grad = poisoned_grad(device, &bags, bags.indices.len());
    backward.reduce(device, &mut grad).unwrap();
    let theirs = case.floats("grad_weight", &[rows, dim]);
    assert_rows_close(&bags.name, &download_grad(device, &grad), &theirs, &backward.expected);

    if weighted {
        let want = reference::bag_weight_grad(&bags, &exact(&weight), &exact(&grad_output));
        let on_device = bags.upload::<B, I>(device);
        let [weights, grad_output] = [&weight, &grad_output].map(|values| upload(device, values));
        let mut grads = upload(device, &poisoned::<f32>(bags.indices.len()));
        let op = WeightGrad::new(
            &on_device.tables,
            B::view(&weights),
            on_device.view(),
            Matrix::contiguous(B::view(&grad_output), batch_size, dim),
            B::view_mut(&mut grads),
        );
        op.run(device).unwrap();
        let theirs = case.floats("grad_per_sample_weights", &[bags.indices.len()]);
        let what = format!("{}, grad_per_sample_weights", bags.name);
        assert_both_close(&what, &download(device, &grads), &theirs, &want);
    }
}

/// Compares the gradient of the rows of one table: ours is sparse, and theirs dense. A row without
/// a gradient must be zeros in theirs.
pub(super) fn assert_rows_close(
    what: &str,
    ours: &[(u64, Vec<f32>)],
    theirs: &[f32],
    want: &reference::RowGradients,
) {
    let mut ours = ours.iter();
    let dim = want.values().next().map_or(1, Vec::len);
    for (row, theirs) in theirs.chunks(dim).enumerate() {
        match want.get(&(0, row)) {
            Some(want) => {
                let (number, values) = ours.next().unwrap();
                assert_eq!(*number, row as u64, "{what}: rows with a gradient");
                assert_both_close(&format!("{what}, gradient of row {row}"), values, theirs, want);
            }
            None => assert!(theirs.iter().all(|&g| g == 0.0), "{what}: row {row} has no gradient"),
        }
    }
    assert_eq!(ours.next(), None, "{what}: rows with a gradient");
}
