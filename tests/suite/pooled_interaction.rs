//! Tests that `pooled_interaction` gives the same bits as its two ops, one after the other.

use crate::common::*;
use bagdot::ops::embedding_bag;
use bagdot::ops::interaction::{self, Features};
use bagdot::ops::pooled_interaction::{Forward, Interact, PooledInteractionOps};
use bagdot::ops::{Interaction, PairOrder, Pooling, Precision};
use bagdot::{Error, Result, bf16, f16};

backend_suite!(
    cuda: dots_are_those_of_both_ops,
    cat_takes_any_pooled_vectors,
    bad_ids_are_reported,
    wrong_shapes_are_errors,
);

/// A slack between rows that makes a CPU take few samples at a time.
const FAR: usize = 40_000;

/// The results of both ops.
#[derive(Debug)]
struct Got<O> {
    pooled: Vec<O>,
    argmax: Option<Vec<u32>>,
    output: Vec<O>,
}

struct Case {
    bags: BagCase,
    interaction: Interaction,
    dim: usize,
    /// The slack behind each row of the pooled vectors, in elements.
    gap: usize,
    with_argmax: bool,
}

impl Case {
    /// Runs `pooled_interaction`, which keeps the pooled vectors or not, or runs one op after the
    /// other if `keeps` is none.
    fn run<B: PooledInteractionOps, E: Stored, O: Stored + Poison>(
        &self,
        device: &B,
        keeps: Option<bool>,
    ) -> (Got<O>, Result<()>) {
        let Self { bags: case, interaction, dim, gap, with_argmax } = self;
        let (interaction, dim, precision) = (*interaction, *dim, Precision::Full);
        let (batch_size, cols) = (case.batch_size, case.width());
        let width = match interaction {
            Interaction::Cat => dim + cols,
            Interaction::Dot { .. } => interaction.width(true, cols / dim, dim),
        };
        let bags = case.upload::<B, i64>(device);
        let weights = upload(device, &case.weights::<E>());
        let dense: Vec<O> = draw(batch_size * dim, 3).iter().map(|&x| O::from_f32(x)).collect();
        let dense = Grid::new(batch_size, dim, 2, &dense);
        let (pooled, output) = (
            Grid::<O>::poisoned(batch_size, cols, *gap),
            Grid::<O>::poisoned(batch_size, width, 3),
        );
        let argmax = Grid::<u32>::poisoned(batch_size, cols, 1);
        let dense_buffer = dense.upload(device);
        let [mut pooled_buffer, mut output_buffer] = [pooled.upload(device), output.upload(device)];
        let mut argmax_buffer = argmax.upload(device);
        let mut lookup = embedding_bag::Forward::new(
            &bags.tables,
            B::view(&weights),
            bags.view(),
            pooled.view_mut(&mut pooled_buffer),
        );
        lookup.argmax = with_argmax.then(|| argmax.view_mut(&mut argmax_buffer));
        let result = match keeps {
            Some(keeps_pooled) => {
                let (dense, output) =
                    (dense.view(&dense_buffer), output.view_mut(&mut output_buffer));
                let interact = Interact::new(interaction, dim, dense, output)
                    .precision(precision)
                    .keeps_pooled(keeps_pooled);
                Forward { lookup, interact }.run(device)
            }
            None => lookup.run(device).and_then(|()| {
                let features = Features::Split {
                    dense: dense.view(&dense_buffer),
                    sparse: pooled.view(&pooled_buffer),
                };
                let output = output.view_mut(&mut output_buffer);
                interaction::Forward::new(interaction, dim, features, output)
                    .precision(precision)
                    .run(device)
            }),
        };
        let result = outcome(device, result);
        let got = Got {
            pooled: pooled.download(device, &pooled_buffer),
            argmax: with_argmax.then(|| argmax.download(device, &argmax_buffer)),
            output: output.download(device, &output_buffer),
        };
        (got, result)
    }

    fn check<B: PooledInteractionOps, E: Stored, O: Stored + Poison>(&self, device: &B) {
        let (want, result) = self.run::<B, E, O>(device, None);
        assert_eq!(result, Ok(()));
        for keeps_pooled in [true, false] {
            let (got, result) = self.run::<B, E, O>(device, Some(keeps_pooled));
            let what = format!("{}, {:?}, kept: {keeps_pooled}", self.bags.name, self.interaction);
            assert_eq!(result, Ok(()), "{what}");
            assert_same_bits(&what, &got.output, &want.output);
            assert_eq!(got.argmax, want.argmax, "{what}");
            if keeps_pooled {
                assert_same_bits(&what, &got.pooled, &want.pooled);
            }
        }
    }
}

/// Returns bags of five features with 8 columns for 33 samples. The first and the third feature
/// share a table.
fn five_features(pooling: Pooling) -> BagCase {
    let features = [0, 1, 0, 2, 3].map(|table| feature(table, pooling));
    let lengths: Vec<usize> = (0..features.len() * 33).map(|k| k * 3 % 5).collect();
    let tables = [(30, 8), (9, 8), (200, 8), (1, 8)];
    BagCase::new(format!("{pooling:?}"), (&tables, &features), &lengths, uniform)
}

fn dots_are_those_of_both_ops<B: PooledInteractionOps>(device: &B) {
    let appended = Interaction::Dot {
        order: PairOrder::UpperTriangle,
        include_self: true,
        append_sparse: true,
        pad_to: 8,
    };
    for pooling in POOLINGS {
        for (interaction, gap, with_argmax) in [
            (Interaction::default(), 0, false),
            (Interaction::default(), FAR, true),
            (appended, FAR, false),
        ] {
            Case { bags: five_features(pooling), interaction, dim: 8, gap, with_argmax }
                .check::<B, f32, f32>(device);
        }
    }
    let weighted = || five_features(Pooling::Sum).weighted();
    Case { bags: weighted(), interaction: appended, dim: 8, gap: 1, with_argmax: false }
        .check::<B, f16, f32>(device);
    for gap in [0, FAR] {
        let case =
            || Case { bags: weighted(), interaction: appended, dim: 8, gap, with_argmax: false };
        case().check::<B, f32, bf16>(device);
        case().check::<B, bf16, f16>(device);
    }
}

fn cat_takes_any_pooled_vectors<B: PooledInteractionOps>(device: &B) {
    let case =
        |bags| Case { bags, interaction: Interaction::Cat, dim: 3, gap: FAR, with_argmax: false };
    BagCase::all(Pooling::Mean)
        .into_iter()
        .for_each(|bags| case(bags).check::<B, f32, f32>(device));
}

fn bad_ids_are_reported<B: PooledInteractionOps>(device: &B) {
    let mut bags = five_features(Pooling::Sum);
    let position = bags.offsets[2 * 33 + 8];
    // This id is of table 0, which has 30 rows. The later one is of another table and an earlier
    // sample.
    bags.indices[position] = 30;
    let later = bags.offsets[3 * 33 + 1];
    bags.indices[later] = -1;
    let error = Error::IndexOutOfRange {
        op: "embedding_bag.forward",
        table: 0,
        bag: 2 * 33 + 8,
        position,
        value: 30,
        num_embeddings: 30,
        count: 2,
    };
    for gap in [0, FAR] {
        let case = Case {
            bags: bags.clone(),
            interaction: Interaction::default(),
            dim: 8,
            gap,
            with_argmax: false,
        };
        assert_out_of_range(case.run::<B, f32, f32>(device, Some(false)).1, error.clone());
        assert_eq!(device.synchronize(), Ok(()), "an error is reported once");
    }
}

/// Checks that nothing is written if the dimension of the interaction is wrong.
fn wrong_shapes_are_errors<B: PooledInteractionOps>(device: &B) {
    let case = Case {
        bags: five_features(Pooling::Sum),
        interaction: Interaction::default(),
        dim: 7,
        gap: 0,
        with_argmax: false,
    };
    let (got, result) = case.run::<B, f32, f32>(device, Some(true));
    let message = result.unwrap_err().to_string();
    assert!(message.contains("40 is no multiple of the dimension 7"), "{message}");
    assert!(got.pooled.iter().chain(&got.output).all(|x| x.is_nan()), "nothing is written");
}
