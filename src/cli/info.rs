//! `bagdot info`

use std::path::PathBuf;

use super::device::{Common, on_device};
use super::error::{CliError, CliResult};
use super::roofline;
use super::terminal::print_line;
use crate::data::Shown;
use crate::train::{Config, TrainedModel, memory_of};

/// Print the devices and kernels that this program can use, the contents of a model directory, or
/// the memory or the work of training.
#[derive(clap::Args, Debug)]
pub(super) struct Info {
    /// A model directory
    model: Option<PathBuf>,
    /// Read the data of a configuration file, and print the memory that training needs on the
    /// device, in bytes
    #[arg(long, value_name = "CONFIG", conflicts_with = "model")]
    memory: Option<PathBuf>,
    /// Print the least bytes and operations of each op of a training step and of a prediction, and
    /// the times that GPUs are predicted to take: for the data and the model of a configuration
    /// file, or for a published model: `kaggle`, `terabyte` or `mlperf`
    #[arg(long, value_name = "CONFIG|MODEL", conflicts_with_all = ["model", "memory"])]
    roofline: Option<String>,
    /// The precision of the published model [default: bf16]
    #[arg(long, value_enum, requires = "roofline")]
    precision: Option<roofline::Precision>,
    /// Compare with the times of the published model in a record, such as those of benches/record
    #[arg(long, value_name = "FILE", requires = "roofline")]
    record: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

impl Info {
    pub(super) fn run(&self) -> CliResult {
        if let Some(path) = &self.memory {
            let (config, folder) = Config::load(path)?;
            let plan = on_device!(self.common, device => {
                memory_of(&device, &config, &folder).map_err(CliError::from)
            })?;
            return print_line(&plan.to_string());
        }
        if let Some(model) = &self.roofline {
            return roofline::print(model, self.precision, self.record.as_deref());
        }
        let cpu = self.common.cpu()?;
        match &self.model {
            None => {
                print_line(concat!("bagdot ", env!("CARGO_PKG_VERSION")))?;
                print_line(&format!("cpu: {} threads, {}", cpu.num_threads(), cpu.simd()))?;
                print_cuda(&self.common)?;
            }
            Some(path) => {
                let model = TrainedModel::open(cpu, path)?;
                let (manifest, encoder) = (model.manifest(), model.encoder());
                print_line(&shown(&format!("{}: {}", path.display(), manifest.created_by)))?;
                for member in model.members() {
                    let config = member.config();
                    let (bottom, top) = (&config.bottom_mlp, &config.top_mlp);
                    let (number, precision) = (member.num_parameters(), config.precision);
                    print_line(&format!(
                        "{number} parameters; bottom {bottom:?}, top {top:?}; precision {precision}"
                    ))?;
                }
                print_line(&shown(&format!("dense: {}", encoder.dense_names().join(", "))))?;
                for feature in encoder.features() {
                    print_line(&shown(&format!(
                        "sparse: {} ({} rows, {:?})",
                        feature.name, feature.num_embeddings, feature.pooling
                    )))?;
                }
                let progress = &manifest.progress;
                let state = if progress.finished { "finished" } else { "unfinished" };
                let within = match progress.batches_done {
                    0 => String::new(),
                    steps => format!(" and {steps} steps"),
                };
                let best_step = progress.best().map_or(0, |record| record.step);
                print_line(&format!(
                    "{state}: {} epochs{within}, best {} (step {best_step})",
                    progress.epochs_done, progress.best_epoch
                ))?;
            }
        }
        Ok(())
    }
}

/// Escapes a line with names from a model for printing.
fn shown(line: &str) -> String {
    Shown(line).to_string()
}

/// Prints driver, devices and compiled kernels, or the reason why they cannot be used.
#[cfg(feature = "cuda")]
fn print_cuda(common: &Common) -> CliResult {
    use crate::backend::cuda::{devices, driver_version, image_for, images};
    match driver_version() {
        Err(error) => print_line(&format!("cuda: {error}"))?,
        Ok(version) => {
            print_line(&format!(
                "cuda: driver for CUDA {}.{}",
                version / 1000,
                version % 1000 / 10
            ))?;
            match devices() {
                Err(error) => print_line(&format!("  {error}"))?,
                Ok(devices) => {
                    for (number, device) in devices.iter().enumerate() {
                        let (major, minor) = device.capability;
                        let gib = device.memory as f64 / f64::from(1 << 30);
                        let name = &device.name;
                        let kernels = image_for(device)
                            .map_or_else(|error| error.to_string(), |image| image.to_string());
                        print_line(&format!(
                            "  device {number}: {name}, compute capability {major}.{minor}, \
                             {gib:.1} GiB; kernels: {kernels}"
                        ))?;
                    }
                }
            }
        }
    }
    print_line(&format!("  gemm: {}", gemm_in_use(common.gemm.into())))?;
    let images = images();
    if images.is_empty() {
        return print_line(&format!("  {}", crate::Error::KernelsNotBuilt));
    }
    let mut stems: Vec<_> = images.iter().map(|image| image.stem).collect();
    stems.dedup();
    for stem in stems {
        let targets: Vec<_> =
            images.iter().filter(|image| image.stem == stem).map(ToString::to_string).collect();
        print_line(&format!("  kernels of {stem}: {}", targets.join("; ")))?;
    }
    Ok(())
}

/// Returns the implementation of matrix products in use.
#[cfg(feature = "cuda")]
fn gemm_in_use(gemm: crate::backend::cuda::Gemm) -> String {
    use crate::backend::cuda::{Gemm, cublaslt_version};
    let cublaslt = || {
        cublaslt_version().map(|(major, minor, patch)| format!("cuBLASLt {major}.{minor}.{patch}"))
    };
    match gemm {
        Gemm::Own => "own kernels".into(),
        Gemm::Auto => cublaslt().map_or_else(
            |error| format!("own kernels; {error}"),
            |cublaslt| format!("{cublaslt} where it is faster, else own kernels"),
        ),
        Gemm::CublasLt => cublaslt().unwrap_or_else(|error| error.to_string()),
    }
}

#[cfg(not(feature = "cuda"))]
fn print_cuda(_: &Common) -> CliResult {
    print_line("cuda: built without it (feature `cuda`)")
}
