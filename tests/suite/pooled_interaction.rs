//! Tests that `pooled_interaction` gives the same bits as its two ops, one after the other.

use crate::common::*;
use bagdot::ops::embedding_bag;
use bagdot::ops::interaction::{self, Features};
use bagdot::ops::pooled_interaction::{Forward, Interact, PooledInteractionOps};
use bagdot::ops::{Feature, Interaction, PairOrder, Pooling, Precision};
use bagdot::{Error, Result, bf16, f16};

backend_suite!(
    cuda: dots_are_those_of_both_ops,
    dots_of_16_bits_and_tf32_are_those_of_both_ops,
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
    precision: Precision,
}

impl Case {
    /// Makes a case without gaps or sources of maxima, with exact products.
    fn new(bags: BagCase, interaction: Interaction, dim: usize) -> Self {
        Self { bags, interaction, dim, gap: 0, with_argmax: false, precision: Precision::Full }
    }

    /// Runs `pooled_interaction`, which keeps the pooled vectors or not, or runs one op after the
    /// other if `keeps` is none.
    fn run<B: PooledInteractionOps, E: Stored, O: Stored + Poison>(
        &self,
        device: &B,
        keeps: Option<bool>,
    ) -> (Got<O>, Result<()>) {
        let Self { bags: case, interaction, dim, gap, with_argmax, precision } = self;
        let (interaction, dim, precision) = (*interaction, *dim, *precision);
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

const APPENDED: Interaction = Interaction::Dot {
    order: PairOrder::UpperTriangle,
    include_self: true,
    append_sparse: true,
    pad_to: 8,
};

fn dots_are_those_of_both_ops<B: PooledInteractionOps>(device: &B) {
    for pooling in POOLINGS {
        for (interaction, gap, with_argmax) in [
            (Interaction::default(), 0, false),
            (Interaction::default(), FAR, true),
            (APPENDED, FAR, false),
        ] {
            let case = Case::new(five_features(pooling), interaction, 8);
            Case { gap, with_argmax, ..case }.check::<B, f32, f32>(device);
        }
    }
    let weighted = Case::new(five_features(Pooling::Sum).weighted(), APPENDED, 8);
    Case { gap: 1, ..weighted }.check::<B, f16, f32>(device);
}

/// Returns `num_features` features with `dim` columns, each of a table of its own. Sample `b` has
/// `length(b)` ids of each.
fn features(
    num_features: usize,
    dim: usize,
    batch_size: usize,
    length: fn(usize) -> usize,
) -> BagCase {
    let tables: Vec<_> = (0..num_features).map(|k| (3 + 7 * k, dim)).collect();
    let features: Vec<_> = (0..num_features)
        .map(|table| Feature {
            padding_idx: (table % 3 == 0).then_some(1),
            ..feature(table, if table % 2 == 0 { Pooling::Sum } else { Pooling::Mean })
        })
        .collect();
    let lengths: Vec<usize> = (0..num_features * batch_size).map(length).collect();
    let name = format!("F {num_features}, D {dim}, B {batch_size}");
    BagCase::new(name, (&tables, &features), &lengths, uniform)
}

/// Checks what one kernel of a device may take: rows of 16 bytes, of more columns than a warp loads
/// at once and of fewer, and others; samples for a warp and for a block; bags of one id and of
/// several.
fn dots_of_16_bits_and_tf32_are_those_of_both_ops<B: PooledInteractionOps>(device: &B) {
    let single: fn(usize) -> usize = |k| usize::from(k % 7 > 0);
    let several: fn(usize) -> usize = |k| k * 5 % 11;
    for (num_features, dim, batch_size, length) in [
        (3, 8, 5, single),
        (26, 16, 3, several),
        (40, 24, 3, single),
        (5, 136, 4, several),
        (4, 264, 2, single),
        (6, 6, 4, several),
        (3, 8, 1030, single),
    ] {
        let bags = || features(num_features, dim, batch_size, length);
        for (bags, interaction) in [(bags(), Interaction::default()), (bags().weighted(), APPENDED)]
        {
            let case = Case { gap: 8, ..Case::new(bags, interaction, dim) };
            case.check::<B, f32, bf16>(device);
            case.check::<B, f16, f16>(device);
            case.check::<B, bf16, bf16>(device);
            case.check::<B, bf16, f16>(device);
            Case { precision: Precision::Tf32, ..case }.check::<B, f32, f32>(device);
        }
    }
    for gap in [0, FAR] {
        let case = Case::new(five_features(Pooling::Mean).weighted(), APPENDED, 8);
        Case { gap, ..case }.check::<B, f32, f16>(device);
    }
}

fn cat_takes_any_pooled_vectors<B: PooledInteractionOps>(device: &B) {
    for bags in BagCase::all(Pooling::Mean) {
        Case { gap: FAR, ..Case::new(bags, Interaction::Cat, 3) }.check::<B, f32, f32>(device);
    }
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
        let case = Case { gap, ..Case::new(bags.clone(), Interaction::default(), 8) };
        assert_out_of_range(case.run::<B, f32, f32>(device, Some(false)).1, error.clone());
        assert_eq!(device.synchronize(), Ok(()), "an error is reported once");
        assert_out_of_range(case.run::<B, f32, bf16>(device, Some(false)).1, error.clone());
        assert_eq!(device.synchronize(), Ok(()), "an error is reported once");
    }
}

/// Checks that nothing is written if the dimension of the interaction is wrong.
fn wrong_shapes_are_errors<B: PooledInteractionOps>(device: &B) {
    let case = Case::new(five_features(Pooling::Sum), Interaction::default(), 7);
    let (got, result) = case.run::<B, f32, f32>(device, Some(true));
    let message = result.unwrap_err().to_string();
    assert!(message.contains("40 is no multiple of the dimension 7"), "{message}");
    assert!(got.pooled.iter().chain(&got.output).all(|x| x.is_nan()), "nothing is written");
}
