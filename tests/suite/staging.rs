//! Tests of batches that are sent to a device. A batch whose parts do not fit together is refused
//! before any part is sent, and the results of the step before it stay.

use crate::common::engine::state;
use crate::common::*;
use bagdot::nn::{BatchView, Dlrm, DlrmConfig, Optimizers, Staging};
use bagdot::ops::{Backend, Bags, Device, Feature, Host, Matrix, Optimizer, Pooling, Table};
use bagdot::{Error, OffsetRule, Result};

backend_suite!(cuda:
    misfits_are_refused,
    the_next_step_is_that_of_a_good_batch,
    slack_of_the_host_is_kept,
    offsets_of_bags_of_one_id_stay_on_the_host,
    a_new_staging_holds_an_empty_batch,
    ids_of_any_type_make_the_same_steps,
    large_batches_arrive,
);

const DIM: usize = 4;
/// The ids of two features: for each sample one of the first, then for each two of the second.
const IDS: &[i64] = &[1, 2, 3, 4, 0, 5, 1, 2, 3, 0, 1, 5];
const OFFSETS: &[i64] = &[0, 1, 2, 3, 4, 6, 8, 10, 12];
const DENSE: &[f32] = &[0.5, -1.0, 2.0, 0.25, 1.0, -0.5, 3.0, 0.125, -2.0, 0.75, 1.5, -0.25];
const LABELS: &[f32] = &[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
const WEIGHTS: &[f32] =
    &[1.0, 0.5, 2.0, 1.0, 0.25, 1.0, 1.5, 1.0, 0.5, 1.0, 2.0, 1.0, 9.0, 9.0, 9.0, 9.0];

type HostBatch<'a> = BatchView<'a, Host, i64>;

/// The offsets of a batch of three features.
const THREE_FEATURES: [i64; 13] = [0, 1, 2, 3, 4, 6, 8, 10, 12, 12, 12, 12, 12];

/// Returns a batch of four samples.
fn good<'a>() -> HostBatch<'a> {
    let bags = Bags::new(4, IDS, OFFSETS).weighted(&WEIGHTS[..12]);
    BatchView::new(Matrix::contiguous(&DENSE[..8], 4, 2), bags).labels(&LABELS[..4])
}

/// Returns the good batch with a change.
fn but(change: impl FnOnce(&mut HostBatch<'static>)) -> HostBatch<'static> {
    let mut batch = good();
    change(&mut batch);
    batch
}

fn model<B: Backend>(device: &B, pooling: Pooling) -> Dlrm<B> {
    let feature = |table| Feature { table, pooling, padding_idx: None };
    let config = DlrmConfig {
        num_dense: 2,
        bottom_mlp: vec![DIM],
        tables: vec![Table { num_embeddings: 6, embedding_dim: DIM }; 2],
        features: vec![feature(0), feature(1)],
        top_mlp: vec![3, 1],
        ..DlrmConfig::default()
    };
    let mut model = Dlrm::new(device.clone(), config, 3).unwrap();
    model.optimize_with(Optimizers::same(Optimizer::Adagrad { eps: 1e-6 }, 0.1)).unwrap();
    model
}

/// Steps with bags of one id are those with their offsets, which the device does not get, whether
/// the host has offsets, slack behind them, or only the length.
fn offsets_of_bags_of_one_id_stay_on_the_host<B: Backend>(device: &B) {
    let offsets: Vec<i64> = (0..=8).collect();
    let ids: Vec<i64> = (0..11).map(|k| k * 5 % 6).collect();
    let dense = Matrix::contiguous(&DENSE[..8], 4, 2);
    let batch = |bags| BatchView::new(dense, bags).labels(&LABELS[..4]);
    let mut staged = model(device, Pooling::Mean);
    let mut staging = Staging::new(device).unwrap();
    let (given, known) = (Bags::new(4, &ids[..8], &offsets), Bags::of_length(4, &ids[..8], 1));
    for bags in [given, known, Bags::new(4, &ids, &offsets).with_slack()] {
        staged.train_staged(&mut staging, batch(bags)).unwrap();
        let bags = staging.view().bags;
        assert_eq!(format!("{:?}", bags.offsets), "Offsets(bags of 1)");
        assert_eq!((bags.num_indices(), bags.has_slack), (8, false));
    }
    let mut at_once = model(device, Pooling::Mean);
    let case = (upload(device, &ids[..8]), upload(device, &offsets));
    let (on_device, labels) = (upload(device, &DENSE[..8]), upload(device, &LABELS[..4]));
    for _ in 0..3 {
        let bags = Bags::new(4, B::view(&case.0), B::view(&case.1));
        let dense = Matrix::contiguous(B::view(&on_device), 4, 2);
        at_once.train_step(BatchView::new(dense, bags).labels(B::view(&labels))).unwrap();
    }
    assert_eq!(state(&mut staged), state(&mut at_once));

    // Bags of three features do not become those of two, with a surplus of ids.
    let wider: Vec<i64> = (0..=12).collect();
    let bags = Bags::new(4, IDS, &wider);
    let view = staging.stage(BatchView::new(dense, bags)).unwrap();
    let error = staged.logits(view, &mut [0.0; 4]).unwrap_err();
    assert_eq!(argument(&error), "bags.indices");

    // The last bag has an id more.
    let unequal: [i64; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 9];
    staged.train_staged(&mut staging, batch(Bags::new(4, &ids[..9], &unequal))).unwrap();
    assert_eq!(staging.view().bags.offsets.as_i64().unwrap().len(), 9);
}

/// Returns the argument that an error names.
fn argument(error: &Error) -> &'static str {
    match error {
        Error::ShapeMismatch { argument, .. }
        | Error::TooSmall { argument, .. }
        | Error::InvalidArgument { argument, .. } => argument,
        Error::InvalidOffsets { rule: OffsetRule::LastIs(12), position: 8, .. } => {
            "the last offset"
        }
        error => panic!("{error}"),
    }
}

/// Returns batches whose parts do not fit together, for any model, each with the argument that its
/// error must name.
fn misfits() -> Vec<(&'static str, HostBatch<'static>)> {
    fn dense(rows: usize, cols: usize, ld: usize, len: usize) -> Matrix<'static, Host, f32> {
        Matrix { data: (&DENSE[..len]).into(), rows, cols, ld }
    }
    let (last_is_before, last_is_behind, last_is_negative): (&[i64], &[i64], &[i64]) = (
        &[0, 1, 2, 3, 4, 6, 8, 10, 11],
        &[0, 1, 2, 3, 4, 6, 8, 10, 13],
        &[0, 1, 2, 3, 4, 6, 8, 10, -1],
    );
    vec![
        ("batch.labels", but(|b| b.labels = Some((&LABELS[..2]).into()))),
        ("batch.labels", but(|b| b.labels = Some(LABELS.into()))),
        ("batch.labels", but(|b| b.labels = Some((&[]).into()))),
        ("batch.dense.data", but(|b| b.dense = dense(4, 2, 2, 7))),
        // The last row starts at 9 and has two columns.
        ("batch.dense.data", but(|b| b.dense = dense(4, 2, 3, 10))),
        ("batch.dense.ld", but(|b| b.dense = dense(4, 2, 1, 8))),
        ("batch.dense.ld", but(|b| b.dense = dense(4, 2, usize::MAX, 8))),
        ("batch.bags.batch_size", but(|b| b.dense = dense(3, 2, 2, 8))),
        ("batch.bags.batch_size", but(|b| b.dense = dense(1 << 63, 2, 2, 8))),
        ("batch.bags.batch_size", but(|b| b.bags.batch_size = 2)),
        ("bags.offsets", but(|b| b.bags.offsets = (&OFFSETS[..8]).into())),
        ("bags.offsets", but(|b| b.bags.offsets = (&OFFSETS[..0]).into())),
        // The bags end before or behind the last id.
        ("the last offset", but(|b| b.bags.offsets = last_is_before.into())),
        ("the last offset", but(|b| b.bags.offsets = last_is_behind.into())),
        ("the last offset", but(|b| b.bags.offsets = last_is_negative.into())),
        (
            "the last offset",
            but(|b| (b.bags.offsets, b.bags.has_slack) = (last_is_behind.into(), true)),
        ),
        (
            "bags.per_sample_weights",
            but(|b| b.bags.per_sample_weights = Some((&WEIGHTS[..5]).into())),
        ),
        ("bags.per_sample_weights", but(|b| b.bags.per_sample_weights = Some(WEIGHTS.into()))),
        ("bags.per_sample_weights", but(|b| b.bags.per_sample_weights = Some((&[]).into()))),
    ]
}

/// Returns batches that fit together, but do not fit the model.
fn misfits_of_the_model() -> Vec<(&'static str, HostBatch<'static>)> {
    vec![
        ("batch.labels", but(|b| b.labels = None)),
        ("batch.dense.cols", but(|b| b.dense = Matrix::contiguous(DENSE, 4, 3))),
        ("batch.dense.cols", but(|b| b.dense = Matrix::contiguous(&DENSE[..0], 4, 0))),
        // These batches have one feature, and three.
        (
            "bags.offsets",
            but(|b| {
                (b.bags.offsets, b.bags.indices, b.bags.per_sample_weights) =
                    ((&OFFSETS[..5]).into(), (&IDS[..4]).into(), None)
            }),
        ),
        ("bags.offsets", but(|b| b.bags.offsets = (&THREE_FEATURES[..]).into())),
        (
            "bags.offsets",
            but(|b| {
                (b.dense, b.labels) =
                    (Matrix::contiguous(&DENSE[..0], 0, 2), Some((&LABELS[..0]).into()));
                (b.bags.batch_size, b.bags.offsets, b.bags.indices, b.bags.per_sample_weights) =
                    (0, (&OFFSETS[..0]).into(), (&IDS[..0]).into(), None);
            }),
        ),
    ]
}

/// Checks that misfits are refused, as the first batch and after good ones, whose labels, weights
/// and ids must not take the place of missing ones.
fn misfits_are_refused<B: Backend>(device: &B) {
    for steps_before in [0, 2] {
        let mut model = model(device, Pooling::Sum);
        let mut staging = Staging::new(device).unwrap();
        for _ in 0..steps_before {
            model.train_staged(&mut staging, good()).unwrap();
        }
        let (before, rows) = (state(&mut model), staging.view().dense.rows);
        let both = misfits().into_iter().chain(misfits_of_the_model());
        for (k, (name, batch)) in both.enumerate() {
            let check = |what: &str, got: Result<()>| {
                let error = got.expect_err(&format!("{what} {k}: {name}"));
                assert_eq!(argument(&error), name, "{what} {k}: {error}");
            };
            check("train_staged", model.train_staged(&mut staging, batch));
            if k < misfits().len() {
                check("stage", staging.stage(batch).map(|_| ()));
            }
            assert_eq!(
                (model.step(), staging.view().dense.rows),
                (steps_before, rows),
                "{k}: {name}"
            );
        }
        device.synchronize().unwrap();
        assert!(state(&mut model) == before, "a batch that is refused changes nothing");
    }
    let weighted =
        model(device, Pooling::Max).train_staged(&mut Staging::new(device).unwrap(), good());
    assert_eq!(argument(&weighted.unwrap_err()), "bags.per_sample_weights");
}

fn the_next_step_is_that_of_a_good_batch<B: Backend>(device: &B) {
    let train = |bad: &[(&str, HostBatch<'_>)]| {
        let (mut model, mut staging) = (model(device, Pooling::Sum), Staging::new(device).unwrap());
        for _ in 0..4 {
            for (_, batch) in bad {
                model.train_staged(&mut staging, *batch).unwrap_err();
            }
            model.train_staged(&mut staging, good()).unwrap();
        }
        device.synchronize().unwrap();
        (model.last_loss().unwrap().to_bits(), state(&mut model))
    };
    assert!(train(&misfits()) == train(&[]), "refused batches change the steps between them");
}

/// Checks that ids behind the last bag of a host batch are not read.
fn slack_of_the_host_is_kept<B: Backend>(device: &B) {
    let ids = [IDS, &[i64::MIN; 4]].concat();
    let (mut tight, mut spare) = (model(device, Pooling::Sum), model(device, Pooling::Sum));
    let (mut first, mut second) = (Staging::new(device).unwrap(), Staging::new(device).unwrap());
    let mut roomy = good();
    (roomy.bags.indices, roomy.bags.has_slack, roomy.bags.per_sample_weights) =
        ((&ids).into(), true, Some(WEIGHTS.into()));
    for _ in 0..3 {
        tight.train_staged(&mut first, good()).unwrap();
        spare.train_staged(&mut second, roomy).unwrap();
    }
    device.synchronize().unwrap();
    assert!(state(&mut tight) == state(&mut spare));
}

/// Steps with ids of 32 bits, with a sign or without, are those with ids of 64 bits. One model
/// takes batches of all three types in turn, and again, so that each recording is that of its type.
fn ids_of_any_type_make_the_same_steps<B: Backend>(device: &B) {
    let unsigned: Vec<u32> = IDS.iter().map(|&id| id as u32).collect();
    let signed: Vec<i32> = IDS.iter().map(|&id| id as i32).collect();
    let (dense, labels) = (Matrix::contiguous(&DENSE[..8], 4, 2), &LABELS[..4]);
    let new = || model(device, Pooling::Mean);
    let (mut mixed, mut same) = (new(), new());
    let mut of_64 = Staging::new(device).unwrap();
    let (mut of_32, mut with_sign) = (Staging::new(device).unwrap(), Staging::new(device).unwrap());
    for _ in 0..2 {
        let batch = BatchView::new(dense, Bags::new(4, IDS, OFFSETS)).labels(labels);
        mixed.train_staged(&mut of_64, batch).unwrap();
        let batch = BatchView::new(dense, Bags::new(4, &unsigned, OFFSETS)).labels(labels);
        mixed.train_staged(&mut of_32, batch).unwrap();
        let batch = BatchView::new(dense, Bags::new(4, &signed, OFFSETS)).labels(labels);
        mixed.train_staged(&mut with_sign, batch).unwrap();
        for _ in 0..3 {
            let batch = BatchView::new(dense, Bags::new(4, IDS, OFFSETS)).labels(labels);
            same.train_staged(&mut of_64, batch).unwrap();
        }
    }
    assert_eq!(state(&mut mixed), state(&mut same));
    // An id above 2^31 is one, and not a negative number.
    let large: Vec<u32> = [u32::MAX - 2, 1].repeat(2);
    let bags = Bags::of_length(2, &large, 1);
    let view = of_32.stage(BatchView::new(Matrix::contiguous(&DENSE[..4], 2, 2), bags)).unwrap();
    let mut logits = [0.0; 2];
    let error = same.logits(view, &mut logits).unwrap_err();
    assert!(matches!(error, Error::IndexOutOfRange { value: 4_294_967_293, .. }), "{error:?}");
}

/// A batch of which several threads copy parts arrives as it is.
fn large_batches_arrive<B: Backend>(device: &B) {
    let ids: Vec<u32> = (0..300_000).map(|k: u32| k.wrapping_mul(2_654_435_761)).collect();
    let mut staging = Staging::new(device).unwrap();
    let batch =
        BatchView::new(Matrix::contiguous(&[], 300_000, 0), Bags::of_length(300_000, &ids, 1));
    let view = staging.stage(batch).unwrap();
    let mut arrived = vec![0; ids.len()];
    device.download(view.bags.indices, &mut arrived).unwrap();
    assert!(arrived == ids);
}

fn a_new_staging_holds_an_empty_batch<B: Backend>(device: &B) {
    let staging = Staging::<_, i64>::new(device).unwrap();
    let view = staging.view();
    assert_eq!((view.dense.rows, view.bags.batch_size, view.bags.num_indices()), (0, 0, 0));
    assert!(view.labels.is_none() && view.bags.per_sample_weights.is_none());
    let mut offsets = [7];
    device.download(view.bags.offsets.as_i64().unwrap(), &mut offsets).unwrap();
    assert_eq!(offsets, [0], "no bags have one offset");
    // The empty batch has no dense columns, unlike the model.
    model(device, Pooling::Sum).logits(view, &mut []).unwrap_err();
}

#[cfg(feature = "cuda")]
mod on_a_device {
    use super::*;
    use crate::common::cuda::{capture, on_every_schedule, own};

    /// Checks that nothing is sent during a recording: a recorded copy would read pinned memory at
    /// each replay, after its contents have changed.
    #[test]
    fn batches_do_not_travel_while_ops_are_recorded() {
        on_every_schedule(|cuda| {
            use bagdot::ops::Stage;
            let mut model = model(cuda, Pooling::Sum);
            let mut staging = Staging::new(cuda).unwrap();
            let refused = Err(Error::Recording { op: "Staging" });
            for steps in 1..4 {
                assert_eq!(cuda.record(|| staging.stage(good()).map(|_| ())).map(|_| ()), refused);
                assert_eq!(
                    cuda.record(|| model.train_staged(&mut staging, good())).map(|_| ()),
                    refused
                );
                // A capture of the stream that the backend did not begin. Ops may be launched into
                // it.
                let mut target = cuda.alloc::<f32>(4).unwrap();
                let source = upload(cuda, &[1.0f32; 4]);
                let graph = capture(cuda, || {
                    assert_eq!(staging.stage(good()).map(|_| ()), refused);
                    cuda.copy(bagdot::Cuda::view(&source), bagdot::Cuda::view_mut(&mut target))
                        .unwrap();
                });
                graph.replay();
                assert_eq!(cuda.to_vec(&target).unwrap(), [1.0; 4]);
                model.train_staged(&mut staging, good()).unwrap();
                assert_eq!(model.step(), steps);
            }
            // A recording keeps memory that is dropped during it until it is dropped itself.
            cuda.record(|| {
                drop(staging);
                Ok(())
            })
            .unwrap_or(None);
            cuda.synchronize().unwrap();
        });
    }

    #[test]
    fn batches_are_sent_to_the_backend_of_the_model() {
        on_every_schedule(|cuda| {
            let other = own();
            let (mut model, mut staging) =
                (model(cuda, Pooling::Sum), Staging::new(&other).unwrap());
            let error = model.train_staged(&mut staging, good()).unwrap_err();
            assert_eq!(
                (argument(&error), staging.view().dense.rows, model.step()),
                ("staging", 0, 0)
            );
            model.train_staged(&mut Staging::new(&cuda.clone()).unwrap(), good()).unwrap();
        });
    }
}
