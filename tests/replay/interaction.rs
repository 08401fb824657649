//! `interact_features` of facebookresearch/dlrm, forward and backward.

use bagdot::Cpu;
use bagdot::ops::interaction::{Backward, Features, FeaturesMut, Forward};
use bagdot::ops::{Interaction, Matrix, MatrixMut, PairOrder};

use super::Case;
use super::embedding_bag::assert_both_close;
use crate::common::{Approx, exact, poisoned, reference};

/// The interaction that facebookresearch/dlrm calls by these names.
pub(super) fn kind(case: &Case<'_>) -> Interaction {
    let include_self = case.flag("itself");
    let order = match case.optional("order").map(|order| order.as_str().unwrap_or("")) {
        None => PairOrder::LowerTriangle,
        Some(order) if order.starts_with("row-major lower triangle") => PairOrder::LowerTriangle,
        Some(order) if order.starts_with("row-major upper triangle") => PairOrder::UpperTriangle,
        Some(_) => case.unknown("order"),
    };
    match case.text("op").as_str() {
        "dot" => Interaction::Dot { order, include_self, append_sparse: false, pad_to: 1 },
        "cat" => Interaction::Cat,
        _ => case.unknown("op"),
    }
}

pub(crate) fn replay(case: &Case<'_>) {
    let (batch_size, num_features, dim) = (case.count("batch"), case.count("features"), case.count("dim"));
    let (interaction, width, pooled) = (kind(case), case.count("out_cols"), num_features - 1);
    assert_eq!(interaction.width(true, pooled, dim), width, "{}: out_cols", case.name());
    let dense = case.floats("dense", &[batch_size, dim]);
    let sparse = case.floats("sparse", &[batch_size, pooled, dim]);
    let grad_output = case.floats("grad_out", &[batch_size, width]);

    let cpu = Cpu::with_threads(2).unwrap();
    let features = || -> Features<'_, Cpu> {
        Features::Split {
            dense: Matrix::packed(&dense[..], batch_size, dim),
            sparse: Matrix::packed(&sparse[..], batch_size, pooled * dim),
        }
    };
    let mut output = poisoned(batch_size * width);
    let view = MatrixMut::packed(&mut output[..], batch_size, width);
    Forward { interaction, dim, precision, features: features(), output: view }.run(&cpu).unwrap();
    let (mut grad_dense, mut grad_sparse) = (poisoned(dense.len()), poisoned(sparse.len()));
    let op = Backward {
        interaction,
        dim,
        features: features(),
        grad_output: Matrix::packed(&grad_output[..], batch_size, width),
        grad_features: FeaturesMut::Split {
            dense: MatrixMut::packed(&mut grad_dense[..], batch_size, dim),
            sparse: MatrixMut::packed(&mut grad_sparse[..], batch_size, pooled * dim),
        },
    };
    op.run(&cpu).unwrap();

    let (mut want, mut want_dense, mut want_sparse): (Vec<Approx>, Vec<Approx>, Vec<Approx>) = Default::default();
    for b in 0..batch_size {
        let row = pooled * dim;
        let sample = exact(&[&dense[b * dim..][..dim], &sparse[b * row..][..row]].concat());
        want.extend(reference::dots(interaction, &sample, dim, true));
        let grad = exact(&grad_output[b * width..][..width]);
        let grads = reference::dots_backward(interaction, &sample, dim, true, &grad);
        want_dense.extend(&grads[..dim]);
        want_sparse.extend(&grads[dim..]);
    }
    assert_both_close(&case.name(), &output, &case.floats("out", &[batch_size, width]), &want);
    let theirs = case.floats("grad_dense", &[batch_size, dim]);
    assert_both_close(&format!("{}, grad_dense", case.name()), &grad_dense, &theirs, &want_dense);
    let theirs = case.floats("grad_sparse", &[batch_size, pooled, dim]);
    assert_both_close(&format!("{}, grad_sparse", case.name()), &grad_sparse, &theirs, &want_sparse);
}
