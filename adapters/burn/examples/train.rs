//! A DLRM that trains with the adapter, and the same in burn alone, side by side.
//!
//! `cargo run --release --example train -- rows=100000 batch=2048`
//!
//! Both begin with the same weights, and see the same clicks. Every id has a hidden taste for or
//! against a click; a click is a sum of tastes above 0, which the tables can learn.

use std::time::{Duration, Instant};

use bagdot_burn::EmbeddingBagCollection;
use bagdot_burn::bagdot::ops::{Interaction, Optimizer, Pooling, Table, TableBatch, UpdateRule};
use bagdot_burn::bagdot::{Error, Philox, Result, philox4x32};
use burn::module::{Module, Param};
use burn::nn::loss::BinaryCrossEntropyLossConfig;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{AdaGradConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu};

const NUM_DENSE: usize = 4;
const LEARNING_RATE: f64 = 0.05;
const EPS: f32 = 1e-8;

/// The sizes of the run, which arguments `name=value` change.
struct Sizes {
    tables: usize,
    rows: usize,
    dim: usize,
    batch: usize,
    bag: usize,
    steps: usize,
}

impl Sizes {
    fn from_args() -> Result<Self> {
        let mut sizes = Self { tables: 8, rows: 20_000, dim: 16, batch: 512, bag: 2, steps: 300 };
        for arg in std::env::args().skip(1) {
            let wrong = || Error::InvalidArgument {
                op: "train",
                argument: "arguments",
                reason: format!("{arg}: tables, rows, dim, batch, bag or steps = 1 or more"),
            };
            let (name, value) = arg.split_once('=').ok_or_else(wrong)?;
            let field = match name {
                "tables" => &mut sizes.tables,
                "rows" => &mut sizes.rows,
                "dim" => &mut sizes.dim,
                "batch" => &mut sizes.batch,
                "bag" => &mut sizes.bag,
                "steps" => &mut sizes.steps,
                _ => return Err(wrong()),
            };
            *field = value.parse().ok().filter(|&value| value > 0).ok_or_else(wrong)?;
        }
        Ok(sizes)
    }
}

/// A batch of clicks. The ids are feature after feature, and bag after bag.
struct Clicks {
    dense: Tensor<2>,
    ids: Tensor<1, Int>,
    offsets: Tensor<1, Int>,
    labels: Tensor<1, Int>,
}

impl Clicks {
    fn draw(sizes: &Sizes, step: u64, device: &Device) -> Self {
        let Sizes { tables, rows, batch, bag, .. } = *sizes;
        let mut random = Philox::new(7, step);
        let mut tastes = vec![0_i32; batch];
        let mut ids = Vec::with_capacity(tables * batch * bag);
        for table in 0..tables {
            for taste in &mut tastes {
                for _ in 0..bag {
                    // Low ids are frequent, as in data of clicks.
                    let id = (random.uniform().powi(4) * rows as f64) as usize;
                    let hash = philox4x32([0, table as u32], [id as u32, 0, 0, 0])[0];
                    *taste += if hash.is_multiple_of(2) { 1 } else { -1 };
                    ids.push(id as i32);
                }
            }
        }
        let dense: Vec<f32> = (0..batch * NUM_DENSE).map(|_| random.uniform() as f32).collect();
        let offsets: Vec<i32> = (0..=tables * batch).map(|k| (k * bag) as i32).collect();
        let labels: Vec<i32> = tastes.iter().map(|&taste| i32::from(taste > 0)).collect();
        Self {
            dense: Tensor::from_data(TensorData::new(dense, [batch, NUM_DENSE]), device),
            ids: Tensor::from_data(&ids[..], device),
            offsets: Tensor::from_data(&offsets[..], device),
            labels: Tensor::from_data(&labels[..], device),
        }
    }
}

/// A model that gives a logit for each sample.
trait Dlrm: Module {
    fn logits(&self, clicks: &Clicks) -> Result<Tensor<1>>;
}

/// Layers with a ReLU after each but the last.
fn mlp(layers: &[Linear], mut x: Tensor<2>) -> Tensor<2> {
    for (k, layer) in layers.iter().enumerate() {
        x = layer.forward(if k == 0 { x } else { relu(x) });
    }
    x
}

/// The model with the adapter. Its tables are no parameters of the module.
#[derive(Module, Debug)]
struct WithAdapter {
    bottom: Vec<Linear>,
    #[module(skip)]
    embeddings: EmbeddingBagCollection,
    top: Vec<Linear>,
}

impl Dlrm for WithAdapter {
    fn logits(&self, clicks: &Clicks) -> Result<Tensor<1>> {
        let dense = relu(mlp(&self.bottom, clicks.dense.clone()));
        let (ids, offsets) = (clicks.ids.clone(), clicks.offsets.clone());
        let kind = Interaction::default();
        let pairs = self.embeddings.pooled_interaction(kind, dense, ids, offsets)?;
        Ok(mlp(&self.top, pairs).flatten(0, 1))
    }
}

/// The model in burn alone.
#[derive(Module, Debug)]
struct InBurn {
    bottom: Vec<Linear>,
    embeddings: Vec<Embedding>,
    top: Vec<Linear>,
}

impl Dlrm for InBurn {
    fn logits(&self, clicks: &Clicks) -> Result<Tensor<1>> {
        let dense = relu(mlp(&self.bottom, clicks.dense.clone()));
        let ([batch, dim], tables) = (dense.dims(), self.embeddings.len());
        let bag = clicks.ids.dims()[0] / (tables * batch);
        let ids: Tensor<3, Int> = clicks.ids.clone().reshape([tables, batch, bag]);
        let pooled = self.embeddings.iter().enumerate().map(|(table, embedding)| {
            let ids: Tensor<2, Int> = ids.clone().slice(table..table + 1).reshape([batch, bag]);
            embedding.forward(ids).sum_dim(1)
        });
        let dense_vector: Tensor<3> = dense.clone().reshape([batch, 1, dim]);
        let vectors = Tensor::cat(std::iter::once(dense_vector).chain(pooled).collect(), 1);
        let products = vectors.clone().matmul(vectors.swap_dims(1, 2));
        let features = tables + 1;
        let place = |(i, j)| (i * features + j) as i32;
        let pairs: Vec<i32> = Interaction::default().pairs(features).map(place).collect();
        let pairs = Tensor::<1, Int>::from_data(&pairs[..], &dense.device());
        let flat: Tensor<2> = products.reshape([batch, features * features]);
        let output = Tensor::cat(vec![dense, flat.select(1, pairs)], 1);
        Ok(mlp(&self.top, output).flatten(0, 1))
    }
}

/// A model with the optimizer of its parameters, and the time of its steps.
struct Trainer<M> {
    model: M,
    optimizer: ModuleOptimizer,
    time: Duration,
    losses: Vec<f32>,
}

impl<M: Dlrm> Trainer<M> {
    fn new(model: M) -> Self {
        let optimizer = AdaGradConfig::new().with_epsilon(EPS).init();
        Self { model, optimizer, time: Duration::ZERO, losses: Vec::new() }
    }

    fn step(mut self, clicks: &Clicks) -> Result<Self> {
        let start = Instant::now();
        let loss = BinaryCrossEntropyLossConfig::new().with_logits(true);
        let loss = loss.init(&clicks.dense.device());
        let loss = loss.forward(self.model.logits(clicks)?, clicks.labels.clone());
        let grads = GradientsParams::from_grads(loss.backward(), &self.model);
        self.model = self.optimizer.step(LEARNING_RATE, self.model, grads);
        self.losses.push(loss.into_scalar::<f32>());
        self.time += start.elapsed();
        Ok(self)
    }

    /// Returns the mean loss of the last steps, and the time of a step in milliseconds.
    fn report(&self, last: usize) -> (f32, f64) {
        let losses = &self.losses[self.losses.len().saturating_sub(last)..];
        let time = self.time.as_secs_f64() * 1e3 / self.losses.len() as f64;
        (losses.iter().sum::<f32>() / losses.len() as f32, time)
    }
}

fn main() -> Result<()> {
    let sizes = Sizes::from_args()?;
    let device = Device::flex().autodiff();
    device.seed(1);

    let table = Table { num_embeddings: sizes.rows, embedding_dim: sizes.dim };
    let tables = TableBatch::one_feature_each(vec![table; sizes.tables], Pooling::Sum)?;
    let rule = UpdateRule::new(Optimizer::Adagrad { eps: EPS }, LEARNING_RATE as f32);
    let embeddings = EmbeddingBagCollection::new(tables, rule, 42)?;
    let layers = |sizes: &[usize]| -> Vec<Linear> {
        sizes.windows(2).map(|s| LinearConfig::new(s[0], s[1]).init(&device)).collect()
    };
    let width = Interaction::default().width(true, sizes.tables, sizes.dim);
    let bottom = layers(&[NUM_DENSE, 32, sizes.dim]);
    let top = layers(&[width, 64, 1]);
    let copies = (0..sizes.tables).map(|table| {
        let mut copy = EmbeddingConfig::new(sizes.rows, sizes.dim).init(&device);
        copy.weight = Param::from_tensor(embeddings.table(table)?.autodiff());
        Ok(copy)
    });
    let in_burn = InBurn {
        bottom: bottom.clone(),
        embeddings: copies.collect::<Result<_>>()?,
        top: top.clone(),
    };
    let mut ours = Trainer::new(WithAdapter { bottom, embeddings, top });
    let mut theirs = Trainer::new(in_burn);

    println!("{} tables of {} rows of {}", sizes.tables, sizes.rows, sizes.dim);
    println!("{} samples, bags of {} ids", sizes.batch, sizes.bag);
    println!("        bagdot-burn            burn alone");
    println!("step    loss      ms a step    loss      ms a step");
    let every = sizes.steps.div_ceil(5);
    for step in 1..=sizes.steps {
        let clicks = Clicks::draw(&sizes, step as u64, &device);
        ours = ours.step(&clicks)?;
        theirs = theirs.step(&clicks)?;
        if step % every == 0 || step == sizes.steps {
            let ((loss, time), (other, other_time)) = (ours.report(every), theirs.report(every));
            println!("{step:<8}{loss:<10.4}{time:<13.2}{other:<10.4}{other_time:.2}");
        }
    }
    ours.model.embeddings.check()?;

    // Ids in no graph are only looked up, and `valid` is a model in no graph.
    let test = Clicks::draw(&sizes, 0, &device.without_autodiff());
    let logits = ours.model.valid().logits(&test)?;
    let right = logits.greater_elem(0.0).int().equal(test.labels).int().sum();
    println!("{} of {} new clicks are predicted", right.into_scalar::<i64>(), sizes.batch);
    Ok(())
}
