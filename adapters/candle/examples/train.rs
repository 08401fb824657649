//! A small DLRM written in candle, with the tables in bagdot and with the tables in candle: the
//! same model, batches and steps of SGD, so that the losses agree. Prints losses and times.
//!
//! `cargo run --release --example train -- rows=100000 batch=512`

use std::time::{Duration, Instant};

use bagdot_candle::bagdot::ops::{Interaction, Optimizer, Pooling, UpdateRule};
use bagdot_candle::{EmbeddingBagCollection, Ops};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{Linear, Module, Optimizer as _, SGD, loss::binary_cross_entropy_with_logit};

const TABLES: usize = 8;
const DIM: usize = 32;
const DENSE: usize = 13;
const LEARNING_RATE: f64 = 0.5;

/// The layers of one model, with the variables that candle's optimizer steps.
struct Layers {
    bottom: [Linear; 2],
    top: [Linear; 2],
    vars: Vec<Var>,
}

impl Layers {
    /// Copies layers from weights `[outputs, inputs]`.
    fn new(weights: &[Tensor; 4]) -> Result<Self> {
        let mut vars = Vec::new();
        let mut layer = |weight: &Tensor| -> Result<Linear> {
            let bias = Var::zeros(weight.dim(0)?, DType::F32, weight.device())?;
            let weight = Var::from_tensor(&weight.copy()?)?;
            let linear = Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()));
            vars.extend([weight, bias]);
            Ok(linear)
        };
        let [a, b, c, d] = weights;
        let (bottom, top) = ([layer(a)?, layer(b)?], [layer(c)?, layer(d)?]);
        Ok(Self { bottom, top, vars })
    }

    fn dense(&self, inputs: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.bottom;
        second.forward(&first.forward(inputs)?.relu()?)?.relu()
    }

    fn loss(&self, features: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.top;
        let logits = second.forward(&first.forward(features)?.relu()?)?;
        binary_cross_entropy_with_logit(&logits.squeeze(1)?, labels)
    }
}

/// The dense vectors and all pairwise dot products, from pooled vectors `[batch, TABLES * DIM]`.
fn interaction_by_candle(dense: &Tensor, pooled: &[Tensor], pairs: &Tensor) -> Result<Tensor> {
    let vectors = [std::slice::from_ref(dense), pooled].concat();
    let vectors = Tensor::stack(&vectors, 1)?;
    let dots = vectors.matmul(&vectors.t()?)?.flatten_from(1)?.index_select(pairs, D::Minus1)?;
    Tensor::cat(&[dense, &dots], 1)
}

/// Returns the sizes, which arguments `name=value` change.
fn sizes() -> Result<[usize; 3]> {
    let mut sizes = [("steps", 200), ("batch", 512), ("rows", 100_000)];
    for argument in std::env::args().skip(1) {
        let size = argument.split_once('=').and_then(|(name, value)| {
            let size = sizes.iter_mut().find(|size| size.0 == name)?;
            size.1 = value.parse().ok().filter(|&value| value > 0)?;
            Some(())
        });
        if size.is_none() {
            candle_core::bail!("{argument}: steps, batch or rows = 1 or more");
        }
    }
    Ok(sizes.map(|(_, value)| value))
}

fn main() -> Result<()> {
    let [steps, batch, rows] = sizes()?;

    let device = Device::Cpu;
    let random = |rows: usize, cols: usize| {
        let scale = (1.0 / cols as f32).sqrt();
        Tensor::rand(-scale, scale, (rows, cols), &device)
    };
    let vectors = TABLES + 1;
    let pairs: Vec<u32> =
        (1..vectors).flat_map(|i| (0..i).map(move |j| (i * vectors + j) as u32)).collect();
    let weights =
        [random(64, DENSE)?, random(DIM, 64)?, random(64, DIM + pairs.len())?, random(1, 64)?];
    let pairs = Tensor::new(pairs, &device)?;
    let tables = (0..TABLES).map(|_| random(rows, DIM)).collect::<Result<Vec<_>>>()?;
    // A sample is positive if the sum of four of its inputs and of an effect of each id is.
    let effects = Tensor::randn(0_f32, 1.0, (TABLES, rows), &device)?;

    // The model with its tables in bagdot.
    let ops = Ops::new(&device)?;
    let rule = UpdateRule::new(Optimizer::Sgd, LEARNING_RATE as f32);
    let bags = EmbeddingBagCollection::from_tables(&ops, &tables, Pooling::Sum, rule)?;
    let ours = Layers::new(&weights)?;
    let mut our_sgd = SGD::new(ours.vars.clone(), LEARNING_RATE)?;
    let offsets = Tensor::arange(0, (TABLES * batch + 1) as u32, &device)?;

    // The model with its tables in candle.
    let theirs = Layers::new(&weights)?;
    let their_tables = tables.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let vars = [theirs.vars.clone(), their_tables.clone()].concat();
    let mut their_sgd = SGD::new(vars, LEARNING_RATE)?;

    let (mut of_ours, mut of_theirs) = (Duration::ZERO, Duration::ZERO);
    println!("{:>6} {:>14} {:>14}", "step", "bagdot: loss", "candle: loss");
    for step in 1..=steps {
        let inputs = Tensor::randn(0_f32, 1.0, (batch, DENSE), &device)?;
        // Low ids occur often and high ones seldom, as in logs.
        let ids = Tensor::rand(0_f32, 1.0, (TABLES, batch), &device)?.powf(6.0)?;
        let ids = (ids * (rows - 1) as f64)?.to_dtype(DType::U32)?;
        let of_ids = effects.gather(&ids, 1)?.sum(0)?;
        let of_inputs = inputs.narrow(1, 0, 4)?.sum(1)?.affine(2.0, 0.0)?;
        let labels = (of_ids + of_inputs)?.gt(0_f32)?.to_dtype(DType::F32)?;

        let start = Instant::now();
        let dense = ours.dense(&inputs)?;
        let features =
            bags.pooled_interaction(Interaction::default(), &dense, &ids.flatten_all()?, &offsets)?;
        let our_loss = ours.loss(&features, &labels)?;
        our_sgd.backward_step(&our_loss)?;
        of_ours += start.elapsed();

        let start = Instant::now();
        let dense = theirs.dense(&inputs)?;
        let pooled = their_tables.iter().enumerate();
        let pooled = pooled.map(|(t, table)| table.index_select(&ids.get(t)?, 0));
        let pooled = pooled.collect::<Result<Vec<_>>>()?;
        let features = interaction_by_candle(&dense, &pooled, &pairs)?;
        let their_loss = theirs.loss(&features, &labels)?;
        their_sgd.backward_step(&their_loss)?;
        of_theirs += start.elapsed();

        if step == 1 || step == steps || step % (steps / 5).max(1) == 0 {
            let (ours, theirs) = (our_loss.to_scalar::<f32>()?, their_loss.to_scalar::<f32>()?);
            println!("{step:>6} {ours:>14.5} {theirs:>14.5}");
            // Sums are taken in another order, and SGD carries the difference on.
            if (ours - theirs).abs() > 0.01 {
                candle_core::bail!("the losses differ by more than rounding explains");
            }
        }
    }
    let per_step = |time: Duration| time.as_secs_f64() * 1e3 / steps as f64;
    let (ours, theirs) = (per_step(of_ours), per_step(of_theirs));
    println!(
        "{ours:.2} ms a step with bagdot, {theirs:.2} ms with candle alone: {:.1} times as fast \
         ({TABLES} tables of {rows} x {DIM}, batch {batch})",
        theirs / ours
    );
    Ok(())
}
