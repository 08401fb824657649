//! `torch.nn.functional.embedding_bag`: output, and the gradients of the table and of the per-sample weights.

use bagdot::Cpu;
use bagdot::ops::embedding_bag::{Forward, WeightGrad};
use bagdot::ops::{Feature, MatrixMut, Pooling, Table};

use super::Case;
use crate::common::updates::{Backward, download_grad, poisoned_grad};
use crate::common::{Approx, BagCase, Id, assert_close, assert_close_within, exact, poisoned, reference};

/// Ours must lie within the bound of one evaluation; theirs, whose formulas may differ in the order of two operations, within twice that.
/// So the two are within three of each other.
pub(super) fn assert_both_close(what: &str, ours: &[f32], theirs: &[f32], want: &[Approx]) {
    assert_close(&format!("{what}: bagdot"), ours, want);
    assert_close_within(&format!("{what}: the golden vector"), theirs, want, 2.0);
}

pub(crate) fn replay(case: &Case<'_>) {
    let (indices, narrow) = case.integers("indices");
    let declared = match case.text("index_dtype").as_str() {
        "int32" => true,
        "int64" => false,
        _ => case.unknown("index_dtype"),
    };
    assert_eq!(narrow, declared, "{}: index_dtype", case.name());
    if narrow { replay_with::<i32>(case, indices) } else { replay_with::<i64>(case, indices) }
}

fn replay_with<I: Id>(case: &Case<'_>, indices: Vec<i64>) {
    let (rows, dim, batch_size) = (case.count("num_embeddings"), case.count("dim"), case.count("batch"));
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

    let cpu = Cpu::with_threads(2).unwrap();
    let on_device = bags.upload::<Cpu, I>(&cpu);
    let (want, sources) = reference::embedding_bag(&bags, &exact(&weight));
    let mut output = poisoned(batch_size * dim);
    let view = MatrixMut::packed(&mut output[..], batch_size, dim);
    let tables = &on_device.tables;
    Forward { tables, weights: &weight[..], bags: on_device.view(), output: view, argmax: None }.run(&cpu).unwrap();
    assert_both_close(&bags.name, &output, &case.floats("out", &[batch_size, dim]), &want);

    let backward = Backward::<Cpu, I>::with_sources(&cpu, &bags, &grad_output, None, &sources);
    let mut grad = poisoned_grad(&cpu, &bags, bags.indices.len());
    backward.reduce(&cpu, &mut grad).unwrap();
    let theirs = case.floats("grad_weight", &[rows, dim]);
    assert_rows_close(&bags.name, &download_grad(&cpu, &grad), &theirs, &backward.expected);

    if weighted {
        let want = reference::bag_weight_grad(&bags, &exact(&weight), &exact(&grad_output));
        let mut grads = poisoned(bags.indices.len());
        let op = WeightGrad {
            tables,
            weights: &weight[..],
            bags: on_device.view(),
            grad_output: bagdot::ops::Matrix::packed(&grad_output[..], batch_size, dim),
            grad_weights: &mut grads[..],
        };
        op.run(&cpu).unwrap();
        let theirs = case.floats("grad_per_sample_weights", &[grads.len()]);
        assert_both_close(&format!("{}, grad_per_sample_weights", bags.name), &grads, &theirs, &want);
    }
}

/// Compares the gradient of one table's rows, ours sparse and theirs dense. Rows without a gradient must be zeros there.
pub(super) fn assert_rows_close(what: &str, ours: &[(u64, Vec<f32>)], theirs: &[f32], want: &reference::RowGradients) {
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
