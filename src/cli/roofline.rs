//! `bagdot info --roofline`

use std::path::Path;

use serde::Deserialize;

use super::error::{CliError, CliResult};
use super::terminal::print_line;
use crate::data::Shown;
use crate::nn::{BatchSizes, ComputePrecision, DlrmConfig, GPUS, Optimizers, StepWork};
use crate::ops::{Optimizer, Table};
use crate::train::{Config, PublishedModel, Workload};

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
    let (workload, shape) = match published(model, precision.unwrap_or_default()) {
        Some((workload, shape)) => (workload, Some(shape)),
        None if precision.is_some() || record.is_some() => {
            return Err(CliError::Usage(format!(
                "`--precision` and `--record` go with {} only; a configuration has a precision of \
                 its own",
                names()
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
fn published(name: &str, precision: Precision) -> Option<(Workload, String)> {
    let model = PublishedModel::all().into_iter().find(|model| model.name == name)?;
    let batch_size = model.batch_size.get("cuda").copied().unwrap_or(0);
    // The expected number of rows that uniform ids name.
    let distinct = |table: &Table| {
        let rows = table.num_embeddings as f64;
        rows * (1.0 - (1.0 - 1.0 / rows).powf(batch_size as f64))
    };
    let config = DlrmConfig { precision: precision.of_model(), ..model.config };
    let batch = BatchSizes {
        batch_size,
        num_indices: config.features.len() * batch_size,
        distinct_rows: config.tables.iter().map(distinct).sum::<f64>() as usize,
    };
    let shape = format!("{name} b{batch_size} uniform {}", config.precision);
    let optimizers = Optimizers::same(Optimizer::Sgd, 1e-6);
    Some((Workload { config, optimizers, batch }, shape))
}

/// Returns the names of the published models, for a message.
fn names() -> String {
    let names: Vec<_> =
        PublishedModel::all().iter().map(|model| format!("`{}`", model.name)).collect();
    names.join(", ")
}

/// Reads a record of benchmarks.
fn read(path: &Path) -> Result<Record, CliError> {
    let failed = |error: &dyn std::fmt::Display| {
        CliError::Usage(format!("{}: {error}", Shown(&path.display().to_string())))
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| failed(&error))
}
