//! Replays `interact_features` of facebookresearch/dlrm, forward and backward.

use bagdot::Cpu;
use bagdot::ops::interaction::{Backward, Features, FeaturesMut, Forward, InteractionOps};
use bagdot::ops::{Interaction, Matrix, MatrixMut, PairOrder, Precision};

use super::Case;
use super::embedding_bag::assert_both_close;
use crate::common::{Approx, download, exact, poisoned, reference, upload};

/// Returns the interaction by its names in facebookresearch/dlrm.
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
    replay_on(&Cpu::with_threads(2).unwrap(), case);
    #[cfg(feature = "cuda")]
    crate::common::cuda::on_every_schedule(|cuda| replay_on(cuda, case));
}

fn replay_on<B: InteractionOps>(device: &B, case: &Case<'_>) {
    let (batch_size, num_features, dim) =
        (case.count("batch"), case.count("features"), case.count("dim"));
    let (interaction, width, pooled) = (kind(case), case.count("out_cols"), num_features - 1);
    assert_eq!(interaction.width(true, pooled, dim), width, "{}: out_cols", case.name());
    let dense = case.floats("dense", &[batch_size, dim]);
    let sparse = case.floats("sparse", &[batch_size, pooled, dim]);
    let grad_output = case.floats("grad_out", &[batch_size, width]);

    let buffers = [&dense, &sparse, &grad_output].map(|values| upload(device, values));
    let features = Features::Split {
        dense: Matrix::contiguous(B::view(&buffers[0]), batch_size, dim),
        sparse: Matrix::contiguous(B::view(&buffers[1]), batch_size, pooled * dim),
    };
    let [mut output, mut grad_dense, mut grad_sparse] =
        [&grad_output, &dense, &sparse].map(|like| upload(device, &poisoned(like.len())));
    let view = MatrixMut::contiguous(B::view_mut(&mut output), batch_size, width);
    let precision = Precision::Full;
    Forward::new(interaction, dim, features, view).precision(precision).run(device).unwrap();
    let op = Backward::new(
        interaction,
        dim,
        features,
        Matrix::contiguous(B::view(&buffers[2]), batch_size, width),
        FeaturesMut::Split {
            dense: MatrixMut::contiguous(B::view_mut(&mut grad_dense), batch_size, dim),
            sparse: MatrixMut::contiguous(B::view_mut(&mut grad_sparse), batch_size, pooled * dim),
        },
    )
    .precision(precision);
    op.run(device).unwrap();
    let [output, grad_dense, grad_sparse] =
        [output, grad_dense, grad_sparse].each_ref().map(|buffer| download(device, buffer));

    let (mut want, mut want_dense, mut want_sparse): (Vec<Approx>, Vec<Approx>, Vec<Approx>) =
        Default::default();
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
    assert_both_close(
        &format!("{}, grad_sparse", case.name()),
        &grad_sparse,
        &theirs,
        &want_sparse,
    );
}
