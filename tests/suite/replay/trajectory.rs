//! Replays training runs of facebookresearch/dlrm's `DLRM_Net`: the gradients of the first step,
//! then every loss and probability, then the final parameters.
//!
//! The gradients of the first step are compared element by element, with bounds that are derived
//! through the whole model like those of single ops. Over many steps such bounds grow too large to
//! be useful. Therefore the reference replays the run in `f64`, and the distance of PyTorch's `f32`
//! run from this replay shows how much rounding matters. Our run may be [`SIDES`] times as far from
//! the replay. In either run no loss may be further from it than [`LOSS`] and no parameter than
//! [`PARAMETER`], relative to the value or, below 1, absolute. These three numbers are chosen, not
//! derived: in the known runs losses are off by at most 1e-7 and parameters by 1e-6, on either
//! side, and a wrong step changes the third digit.

use bagdot::DType;
use bagdot::nn::{ComputePrecision, Dlrm, DlrmConfig, NamedTensor, Optimizers, TableInit};
use bagdot::ops::{Backend, Interaction, Loss, Optimizer, Pooling, Table, UpdateRule};
use serde_json::Value;

use super::Case;
use super::embedding_bag::{assert_both_close, assert_rows_close};
use super::interaction::kind;
use crate::common::engine::{Batch, layers, tensor};
use crate::common::reference::{Model, RowGradients};
use crate::common::{BagCase, exact, feature};

const SIDES: f64 = 4.0;
const LOSS: f64 = 1e-6;
const PARAMETER: f64 = 2e-5;
/// The smallest distance of PyTorch's run from the replay that shows how much rounding matters.
const FLOOR: f64 = 5e-7;

/// The description of a run.
pub(crate) struct Run<'a> {
    case: &'a Case<'a>,
    batch_size: usize,
    pub(crate) bottom: Vec<usize>,
    top: Vec<usize>,
    pub(crate) rows: Vec<usize>,
    pub(crate) dim: usize,
    pub(crate) interaction: Interaction,
    loss: Loss,
    threshold: f32,
    one_hot: bool,
}

/// Our name, their name, and the shape of a parameter of a layer.
type Named = (String, String, Vec<usize>);

pub(crate) fn replay<B: Backend>(case: &Case<'_>, device: &B) {
    case.must_begin("pooling", "sum");
    case.must_begin("activations", "ReLU after every layer, sigmoid after last top layer");
    let run = Run::new(case);
    let (steps, rule) = (case.count("steps"), rule(case));
    let batches: Vec<Batch<i32>> = (0..steps).map(|step| run.batch(step)).collect();
    let (mut ours, mut reference) = run.models(device, rule);

    let first = reference.clone().pass(&batches[0].dense, &batches[0].case, &batches[0].labels);
    let (layers, rows) = batches[0].gradients(&mut ours);
    for ((our_name, their_name, shape), want) in
        run.layers().iter().zip(first.layers.iter().flatten())
    {
        let theirs = case.floats(&format!("grad0.{their_name}"), shape);
        assert_both_close(
            &format!("{}, grad0.{their_name}", case.name()),
            &tensor(&layers, our_name),
            &theirs,
            want,
        );
    }
    run.compare_row_gradients(&rows, &first.rows);

    let their_losses = case.doubles("losses", &[steps]);
    let their_probabilities = case.floats("preds", &[steps, run.batch_size]);
    let [mut losses, mut probabilities] = [Deviation::new(LOSS), Deviation::new(PARAMETER)];
    for (step, batch) in batches.iter().enumerate() {
        let rule = UpdateRule { step: step as u64 + 1, ..rule };
        let pass = reference.train_step(&rule, &batch.dense, &batch.case, &batch.labels);
        reference.forget_errors();
        ours.train_step(batch.upload(device).view()).unwrap();
        losses.note(pass.mean_loss.value, ours.last_loss().unwrap(), their_losses[step]);
        let mut our_probabilities = vec![f32::NAN; run.batch_size];
        ours.last_probabilities(&mut our_probabilities).unwrap();
        let theirs = &their_probabilities[step * run.batch_size..][..run.batch_size];
        // Their probabilities are clamped, since the loss clamps them.
        let clamp = |p: f64| p.max(f64::from(run.threshold)).min(1.0 - f64::from(run.threshold));
        for ((ours, theirs), logit) in our_probabilities.iter().zip(theirs).zip(&pass.logits) {
            let exactly = 1.0 / (1.0 + (-logit.value).exp());
            probabilities.note(clamp(exactly), clamp(f64::from(*ours)), clamp(f64::from(*theirs)));
        }
    }
    losses.check(&format!("{}, losses", case.name()));
    probabilities.check(&format!("{}, probabilities", case.name()));
    run.compare_final(&ours.tensors().unwrap(), &reference);
}

/// The largest distances of our values and theirs from those of the replay.
struct Deviation {
    limit: f64,
    ours: f64,
    theirs: f64,
}

impl Deviation {
    fn new(limit: f64) -> Self {
        Self { limit, ours: 0.0, theirs: 0.0 }
    }

    fn note(&mut self, exactly: f64, ours: f64, theirs: f64) {
        assert!(ours.is_finite() && theirs.is_finite() && exactly.is_finite());
        let off = |value: f64| (value - exactly).abs() / exactly.abs().max(1.0);
        self.ours = self.ours.max(off(ours));
        self.theirs = self.theirs.max(off(theirs));
    }

    fn check(&self, what: &str) {
        let Self { limit, ours, theirs } = *self;
        assert!(
            theirs <= limit,
            "{what}: the golden values are {theirs:.2e} off the replay, more than {limit:.0e}"
        );
        assert!(ours <= limit, "{what}: ours are {ours:.2e} off the replay, more than {limit:.0e}");
        let bound = SIDES * theirs.max(FLOOR);
        assert!(
            ours <= bound,
            "{what}: ours are {ours:.2e} off the replay, the golden values only {theirs:.2e}"
        );
        println!("{what}: ours {ours:.2e} off the replay, the golden values {theirs:.2e}");
    }
}

impl<'a> Run<'a> {
    pub(crate) fn new(case: &'a Case<'a>) -> Self {
        let loss = match case.text("loss").as_str() {
            "bce" => Loss::BceWithLogits,
            "mse" => Loss::Mse,
            "wbce" => {
                let [negative, positive] = label_weights(case);
                Loss::WeightedBce { negative, positive }
            }
            _ => case.unknown("loss"),
        };
        Self {
            case,
            batch_size: case.count("batch"),
            bottom: case.counts("bot"),
            top: case.counts("top"),
            rows: case.counts("rows"),
            dim: case.count("dim"),
            interaction: kind(case),
            loss,
            threshold: case.number("loss_threshold"),
            one_hot: case.flag("onehot"),
        }
    }

    fn layers(&self) -> Vec<Named> {
        let mlp = |ours: &str, theirs: &str, sizes: &[usize]| -> Vec<Named> {
            let layer = |(k, pair): (usize, &[usize])| {
                [("weight", vec![pair[1], pair[0]]), ("bias", vec![pair[1]])].map(
                    |(kind, shape)| {
                        (format!("{ours}.{k}.{kind}"), format!("{theirs}{k}.{kind}"), shape)
                    },
                )
            };
            sizes.windows(2).enumerate().flat_map(layer).collect()
        };
        [mlp("bottom_mlp", "bot", &self.bottom), mlp("top_mlp", "top", &self.top)].concat()
    }

    fn tables(&self) -> impl Iterator<Item = (usize, [usize; 2])> {
        self.rows.iter().enumerate().map(|(table, &rows)| (table, [rows, self.dim]))
    }

    /// Returns our model and the reference, with the initial parameters.
    fn models<B: Backend>(&self, device: &B, rule: UpdateRule) -> (Dlrm<B>, Model) {
        let config = DlrmConfig {
            num_dense: self.bottom[0],
            bottom_mlp: self.bottom[1..].to_vec(),
            tables: self
                .tables()
                .map(|(_, [num_embeddings, embedding_dim])| Table { num_embeddings, embedding_dim })
                .collect(),
            features: (0..self.rows.len()).map(|table| feature(table, Pooling::Sum)).collect(),
            table_dtype: DType::F32,
            precision: ComputePrecision::F32,
            table_init: TableInit::InverseRoot,
            interaction: self.interaction,
            top_mlp: self.top[1..].to_vec(),
            loss: self.loss,
            loss_threshold: self.threshold,
        };
        assert_eq!(config.interaction_width(), self.top[0], "{}: top", self.case.name());
        let initial =
            |name: &str, shape: &[usize]| self.case.floats(&format!("init.{name}"), shape);
        let mut tensors: Vec<NamedTensor> = (self.layers().iter())
            .map(|(ours, theirs, shape)| {
                NamedTensor::new(ours.clone(), shape.clone(), &initial(theirs, shape))
            })
            .collect();
        let of_table = |(t, shape): (usize, [usize; 2])| initial(&format!("emb{t}"), &shape);
        for (table, shape) in self.tables() {
            let values = of_table((table, shape));
            tensors.push(NamedTensor::new(
                format!("tables.{table}.weight"),
                shape.to_vec(),
                &values,
            ));
        }
        let mut ours = Dlrm::new(device.clone(), config, 0).unwrap();
        ours.load(&tensors[..]).unwrap();
        ours.optimize_with(Optimizers::same(rule.optimizer, rule.learning_rate)).unwrap();

        let tables: Vec<f32> = self.tables().flat_map(of_table).collect();
        let num_rows = self.rows.iter().sum();
        let state =
            rule.optimizer.state_len(num_rows, tables.len()).map(|len| exact(&vec![0f32; len]));
        let reference = Model {
            bottom: layers(&tensors, "bottom_mlp", &self.bottom),
            top: layers(&tensors, "top_mlp", &self.top),
            tables: exact(&tables),
            table_state: state,
            interaction: self.interaction,
            loss: self.loss,
            threshold: self.threshold,
        };
        (ours, reference)
    }

    /// Returns the batch of a step. The file has the offsets of each table, without the last one.
    pub(crate) fn batch(&self, step: usize) -> Batch<i32> {
        let field = |name: &str| format!("s{step:02}.{name}");
        let (mut indices, mut offsets) = (vec![], vec![0]);
        for table in 0..self.rows.len() {
            let (ids, _) = self.case.integers(&field(&format!("idx{table}")));
            let (starts, _) = self.case.integers(&field(&format!("off{table}")));
            assert_eq!(
                (starts.len(), starts.first()),
                (self.batch_size, Some(&0)),
                "{}: offsets",
                self.case.name()
            );
            let first = indices.len();
            offsets.extend(starts[1..].iter().map(|&start| first + start as usize));
            indices.extend(ids);
            offsets.push(indices.len());
        }
        if self.one_hot {
            assert!(offsets.iter().copied().eq(0..offsets.len()), "{}: onehot", self.case.name());
        }
        let tables: Vec<_> = self.rows.iter().map(|&rows| (rows, self.dim)).collect();
        let features: Vec<_> =
            (0..tables.len()).map(|table| feature(table, Pooling::Sum)).collect();
        let empty = BagCase::new(self.case.name(), (&tables, &features), &[], |_, _| 0);
        let bags = BagCase { batch_size: self.batch_size, indices, offsets, ..empty };
        let dense = self.case.floats(&field("dense"), &[self.batch_size, self.bottom[0]]);
        Batch::new(dense, bags, self.case.floats(&field("label"), &[self.batch_size, 1]))
    }

    fn compare_row_gradients(&self, ours: &[(u64, Vec<f32>)], want: &RowGradients) {
        let mut first_row = 0;
        for (table, shape) in self.tables() {
            let rows = first_row..first_row + shape[0] as u64;
            let of_table = ours.iter().filter(|(row, _)| rows.contains(row));
            let ours: Vec<_> =
                of_table.map(|(row, values)| (row - first_row, values.clone())).collect();
            let want = want
                .iter()
                .filter(|((t, _), _)| *t == table)
                .map(|((_, row), g)| ((0, *row), g.clone()))
                .collect();
            let name = format!("grad0.emb{table}");
            let theirs = self.case.floats(&name, &shape);
            assert_rows_close(&format!("{}, {name}", self.case.name()), &ours, &theirs, &want);
            first_row = rows.end;
        }
    }

    fn compare_final(&self, ours: &[NamedTensor], reference: &Model) {
        let mut deviation = Deviation::new(PARAMETER);
        let mut note = |our_name: &str, their_name: &str, shape: &[usize], exactly: &[f64]| {
            let (ours, theirs) =
                (tensor(ours, our_name), self.case.floats(&format!("final.{their_name}"), shape));
            assert_eq!((ours.len(), theirs.len()), (exactly.len(), exactly.len()), "{our_name}");
            for ((exactly, ours), theirs) in exactly.iter().zip(ours).zip(theirs) {
                deviation.note(*exactly, f64::from(ours), f64::from(theirs));
            }
        };
        let layers = reference
            .bottom
            .iter()
            .chain(&reference.top)
            .flat_map(|layer| [&layer.weight, &layer.bias]);
        for ((our_name, their_name, shape), exactly) in self.layers().iter().zip(layers) {
            note(our_name, their_name, shape, &exactly.iter().map(|x| x.value).collect::<Vec<_>>());
        }
        let mut tables = reference.tables.iter().map(|x| x.value);
        for (table, shape) in self.tables() {
            let exactly: Vec<f64> = tables.by_ref().take(shape[0] * shape[1]).collect();
            note(&format!("tables.{table}.weight"), &format!("emb{table}"), &shape, &exactly);
        }
        deviation.check(&format!("{}, final parameters", self.case.name()));
    }
}

/// Returns the weights of the labels 0 and 1. They are a list, or a text like `1.0-2.0`, as on the
/// command line of facebookresearch/dlrm.
fn label_weights(case: &Case<'_>) -> [f32; 2] {
    let weights: Option<Vec<f32>> = match case.optional("loss_weights") {
        Some(Value::Array(weights)) => {
            weights.iter().map(|w| w.as_f64().map(|w| w as f32)).collect()
        }
        Some(Value::String(weights)) => weights.split('-').map(|w| w.parse().ok()).collect(),
        _ => panic!("{}: a weighted loss needs its \"loss_weights\"", case.name()),
    };
    weights
        .and_then(|weights| weights.try_into().ok())
        .unwrap_or_else(|| case.unknown("loss_weights"))
}

/// Returns the optimizer by its name in facebookresearch/dlrm. `rwsadagrad` is row-wise Adagrad for
/// the tables and Adagrad for the layers.
pub(crate) fn rule(case: &Case<'_>) -> UpdateRule {
    let (eps, learning_rate) = (case.number("eps"), case.number("lr"));
    case.must_be_off(&["weight_decay", "lr_decay"]);
    let optimizer = match case.text("optimizer").as_str() {
        "sgd" => Optimizer::Sgd,
        "adagrad" => Optimizer::Adagrad { eps },
        "rwsadagrad" => Optimizer::RowwiseAdagrad { eps },
        _ => case.unknown("optimizer"),
    };
    UpdateRule::new(optimizer, learning_rate)
}
