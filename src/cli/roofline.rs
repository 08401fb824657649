//! `bagdot info --roofline`

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::error::{CliError, CliResult};
use super::terminal::print_line;
use crate::data::Shown;
use crate::nn::{BatchSizes, ComputePrecision, DlrmConfig, GPUS, Optimizers, StepWork};
use crate::ops::{Feature, Optimizer, Pooling, Table};
use crate::train::{Config, Workload};

/// The published models that benchmarks measure.
const PUBLISHED: &str = include_str!("../../benches/common/models.json");

#[derive(Deserialize)]
struct Published {
    most_rows: usize,
    models: BTreeMap<String, Shape>,
}

#[derive(Deserialize)]
struct Shape {
    bottom: Vec<usize>,
    top: Vec<usize>,
    rows: Vec<usize>,
    batch_size: BTreeMap<String, usize>,
}

/// A record of benchmarks, as in benches/record.
#[derive(Deserialize)]
struct Record {
    date: String,
    device: String,
    benchmarks: Vec<Benchmark>,
}

#[derive(Deserialize)]
struct Benchmark {
    op: String,
    shape: String,
    ns: f64,
}

/// The precisions in which a published model can be computed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub(super) enum Precision {
    F32,
    Tf32,
    #[default]
    Bf16,
}

impl Precision {
    fn of_model(self) -> ComputePrecision {
        match self {
            Self::F32 => ComputePrecision::F32,
            Self::Tf32 => ComputePrecision::Tf32,
            Self::Bf16 => ComputePrecision::BF16,
        }
    }
}

/// Prints the work of a step and of a prediction, of a published model or of a configuration, and
/// the times of a record.
pub(super) fn print(model: &str, precision: Option<Precision>, record: Option<&Path>) -> CliResult {
    let (workload, shape) = match published(model, precision.unwrap_or_default())? {
        Some((workload, shape)) => (workload, Some(shape)),
        None if precision.is_some() || record.is_some() => {
            return Err(CliError::Usage(format!(
                "`--precision` and `--record` go with {} only; a configuration has a precision of \
                 its own",
                names()?
            )));
        }
        None => {
            let (config, folder) = Config::load(Path::new(model))?;
            (Workload::of(&config, &folder)?, None)
        }
    };
    let record = record.map(read).transpose()?;
    let BatchSizes { batch_size, num_indices, distinct_rows } = workload.batch;
    print_line(&format!(
        "{batch_size} samples, {num_indices} ids of {distinct_rows} distinct rows; precision {}; \
         predicted times in microseconds, not measured",
        workload.config.precision
    ))?;
    let [step, prediction] = workload.work()?;
    for (name, op, work) in [("step", "train_step", step), ("prediction", "predict", prediction)] {
        print_work(name, &work)?;
        if let (Some(record), Some(shape)) = (&record, &shape) {
            print_recorded(record, op, shape, &work)?;
        }
    }
    Ok(())
}

/// Prints a line for each op: bytes and operations, and the times on each GPU.
fn print_work(name: &str, work: &StepWork) -> CliResult {
    let gpus: String = GPUS.iter().map(|gpu| format!("{:>10}", gpu.name)).collect();
    print_line(&format!("\n{name:<24}{:>10}{:>10}{gpus}", "MB", "Gflop"))?;
    let line = |name: &str, bytes: usize, flops: usize, seconds: &[f64]| {
        let times: String = seconds.iter().map(|time| format!("{:>10.1}", time * 1e6)).collect();
        let (bytes, flops) = (bytes as f64 / 1e6, flops as f64 / 1e9);
        print_line(&format!("{name:<24}{bytes:>10.2}{flops:>10.2}{times}"))
    };
    for op in &work.ops {
        let seconds = GPUS.map(|gpu| gpu.predicted_seconds(op));
        line(op.op, op.bytes, op.flops, &seconds)?;
    }
    let bytes = work.ops.iter().map(|op| op.bytes).sum();
    let flops = work.ops.iter().map(|op| op.flops).sum();
    line("all", bytes, flops, &GPUS.map(|gpu| work.predicted_seconds(&gpu)))?;
    line("at the peaks", bytes, flops, &GPUS.map(|gpu| work.least_seconds(&gpu)))
}

/// Prints the times of a record beside those that are predicted for its GPU.
fn print_recorded(record: &Record, op: &str, shape: &str, work: &StepWork) -> CliResult {
    let is_it = |benchmark: &&Benchmark| benchmark.op == op && benchmark.shape == shape;
    let gpu = GPUS.iter().find(|gpu| record.device.contains(gpu.name));
    for benchmark in record.benchmarks.iter().filter(is_it) {
        let measured = benchmark.ns / 1e3;
        let error = gpu.map_or_else(String::new, |gpu| {
            let predicted = work.predicted_seconds(gpu) * 1e6;
            let error = (predicted / measured - 1.0) * 100.0;
            format!("; predicted {predicted:.1}, {error:+.0} %")
        });
        print_line(&format!(
            "measured on {} on {}: {measured:.1}{error}",
            Shown(&record.device),
            Shown(&record.date)
        ))?;
    }
    Ok(())
}

/// Returns the workload of a published model with plain SGD on uniform ids, and the name of its
/// benchmarks; `None` if there is no model of this name.
fn published(name: &str, precision: Precision) -> Result<Option<(Workload, String)>, CliError> {
    let Published { most_rows, mut models } = published_models()?;
    let Some(Shape { bottom, top, rows, batch_size }) = models.remove(name) else {
        return Ok(None);
    };
    let batch_size = batch_size.get("cuda").copied().unwrap_or(0);
    let (num_dense, embedding_dim) = (bottom[0], bottom[bottom.len() - 1]);
    let rows: Vec<usize> = rows.into_iter().map(|rows| rows.min(most_rows)).collect();
    // The expected number of rows that uniform ids name.
    let distinct = |&rows: &usize| {
        let rows = rows as f64;
        rows * (1.0 - (1.0 - 1.0 / rows).powf(batch_size as f64))
    };
    let batch = BatchSizes {
        batch_size,
        num_indices: rows.len() * batch_size,
        distinct_rows: rows.iter().map(distinct).sum::<f64>() as usize,
    };
    let table = |num_embeddings| Table { num_embeddings, embedding_dim };
    let feature = |table| Feature { table, pooling: Pooling::Sum, padding_idx: None };
    let config = DlrmConfig {
        num_dense,
        bottom_mlp: bottom[1..].to_vec(),
        features: (0..rows.len()).map(feature).collect(),
        tables: rows.into_iter().map(table).collect(),
        top_mlp: top,
        precision: precision.of_model(),
        ..DlrmConfig::default()
    };
    let shape = format!("{name} b{batch_size} uniform {}", config.precision);
    let optimizers = Optimizers::same(Optimizer::Sgd, 1e-6);
    Ok(Some((Workload { config, optimizers, batch }, shape)))
}

fn published_models() -> Result<Published, CliError> {
    serde_json::from_str(PUBLISHED).map_err(|error| CliError::Usage(error.to_string()))
}

/// Returns the names of the published models, for a message.
fn names() -> Result<String, CliError> {
    let names: Vec<_> =
        published_models()?.models.into_keys().map(|name| format!("`{name}`")).collect();
    Ok(names.join(", "))
}

/// Reads a record of benchmarks.
fn read(path: &Path) -> Result<Record, CliError> {
    let failed = |error: &dyn std::fmt::Display| {
        CliError::Usage(format!("{}: {error}", Shown(&path.display().to_string())))
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| failed(&error))
}
