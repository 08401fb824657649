//! A test of training on real data against the reference, step by step, on each backend from one
//! seed. Each backend is within the bound, so two backends differ by at most twice the bound.

use std::io::{BufRead, BufReader, Cursor};

use bagdot::data;
use bagdot::data::{Encoder, LabelUse, RowStream, Source};
use bagdot::nn::{Dlrm, DlrmConfig, Optimizers};
use bagdot::ops::{Backend, Interaction, Loss, Optimizer, PairOrder, Pooling, Table, UpdateRule};

use crate::common::engine::{Batch, flat, reference_of};
use crate::common::*;

backend_suite!(cuda: steps_are_within_their_bounds);

const REVIEWS: &[u8] = include_bytes!("../../data/clothing/reviews.csv.gz");
const DATA: &str = r#"
train = "reviews.csv"
label = "recommended"
dense = [{ column = "age", transform = "zscore", bins = 4 }]
categorical = [{ column = "department" }, { column = "words", separator = " ", min_count = 2 }]
"#;
const BATCH_SIZE: usize = 16;
const STEPS: usize = 3;
const DIM: usize = 4;
const BOTTOM: [usize; 2] = [8, DIM];
const TOP: [usize; 2] = [8, 1];
const LEARNING_RATE: f32 = 0.125;

/// Returns the tables for the first reviews, and batches of them.
fn reviews() -> (Vec<Table>, Vec<Batch<i64>>) {
    let lines =
        BufReader::new(flate2::read::GzDecoder::new(REVIEWS)).lines().take(1 + STEPS * BATCH_SIZE);
    let text: String = lines.map(|line| line.unwrap() + "\n").collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reviews.csv"), &text).unwrap();
    let encoder =
        Encoder::fit(&toml::from_str(DATA).unwrap(), folder.path(), &mut |_, _| ()).unwrap();
    let table = |num_embeddings| Table { num_embeddings, embedding_dim: DIM };
    let tables: Vec<Table> =
        encoder.features().iter().map(|feature| table(feature.num_embeddings)).collect();
    let source = Source::Reader { name: "reviews".into(), reader: Box::new(Cursor::new(text)) };
    let mut stream = RowStream::open(&encoder, [source], LabelUse::Required, None).unwrap();
    let mut next = || {
        let mut batch = data::Batch::default();
        assert!(stream.next_batch(BATCH_SIZE, &mut batch).unwrap());
        let case = BagCase {
            name: "reviews".into(),
            tables: tables.clone(),
            features: (0..tables.len()).map(|table| feature(table, Pooling::Sum)).collect(),
            batch_size: batch.batch_size,
            offsets: batch.offsets.iter().map(|&offset| offset as usize).collect(),
            indices: batch.indices.into_iter().map(i64::from).collect(),
            per_sample_weights: None,
            seed: 0,
        };
        Batch::new(batch.dense, case, batch.labels)
    };
    let batches = (0..STEPS).map(|_| next()).collect();
    (tables, batches)
}

fn steps_are_within_their_bounds<B: Backend>(device: &B) {
    let (tables, batches) = reviews();
    let interaction = Interaction::Dot {
        order: PairOrder::LowerTriangle,
        include_self: false,
        append_sparse: false,
        pad_to: 1,
    };
    let config = DlrmConfig {
        num_dense: 1,
        bottom_mlp: BOTTOM.to_vec(),
        features: batches[0].case.features.clone(),
        interaction,
        top_mlp: TOP.to_vec(),
        loss: Loss::BceWithLogits,
        tables,
        ..DlrmConfig::default()
    };
    let mut engine = Dlrm::new(device.clone(), config, 1).unwrap();
    engine.optimize_with(Optimizers::same(Optimizer::Sgd, LEARNING_RATE)).unwrap();
    let mut model = reference_of(&engine, Optimizer::Sgd);
    let before = flat(&engine.tensors().unwrap());
    for (step, batch) in (1..).zip(&batches) {
        let rule = UpdateRule { step, ..UpdateRule::new(Optimizer::Sgd, LEARNING_RATE) };
        let want = model.train_step(&rule, &batch.dense, &batch.case, &batch.labels).mean_loss;
        engine.train_step(batch.upload(device).view()).unwrap();
        let off = (engine.last_loss().unwrap() - want.value).abs();
        assert!(
            off <= want.error,
            "step {step}: the loss is {off:e} off, the bound is {:e}",
            want.error
        );
        let of_layers =
            model.bottom.iter().chain(&model.top).flat_map(|layer| [&layer.weight, &layer.bias]);
        let want: Vec<Approx> = of_layers.chain([&model.tables]).flatten().copied().collect();
        let got = flat(&engine.tensors().unwrap());
        assert_close(&format!("parameters after step {step}"), &got, &want);
        let moved = got
            .iter()
            .zip(&before)
            .map(|(got, before)| f64::from((got - before).abs()))
            .fold(0.0, f64::max);
        let bound = want.iter().map(|x| x.error).fold(0.0, f64::max);
        assert!(
            bound < 0.01 * moved,
            "step {step}: the bound, {bound:e}, is not small beside the change, {moved:e}"
        );
    }
}
