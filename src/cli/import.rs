//! `bagdot import`

use std::path::PathBuf;

use super::error::CliResult;
use super::terminal::say;
use crate::train::{self, Dialect, RunDir};

/// Make a model directory of the parameters in a safetensors file of facebookresearch/dlrm or of
/// TorchRec.
///
/// The file has parameters alone. How text becomes numbers, the names and sizes of the features,
/// and the settings come from another model directory, such as the one that was exported, or one
/// that was trained for an epoch. All shapes and types must be those of that model.
///
/// The order of the pairs is that of the other library; columns are moved to where the model reads
/// them, so that the logits are the same. Names may have a prefix, such as `model.`.
///
/// Predict with the result, measure it, or train it on with `bagdot train CONFIG --out DIR
/// --resume`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  bagdot import tuned.safetensors --format torchrec --like runs/clicks --out runs/tuned
  bagdot import a.safetensors b.safetensors --format dlrm --like runs/clicks --out runs/both

PyTorch writes such a file with safetensors.torch.save_file(model.state_dict(), FILE).")]
pub(super) struct Import {
    /// A safetensors file; several files become the members of one model
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The library whose names the file has
    #[arg(long, value_enum)]
    format: Format,
    /// The model directory that has all but the parameters
    #[arg(long, value_name = "DIR")]
    like: PathBuf,
    /// The model directory to write; a model that is already there is kept as DIR~1, DIR~2, …
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Format {
    /// The names of facebookresearch/dlrm
    Dlrm,
    /// The names of TorchRec
    Torchrec,
}

impl Import {
    pub(super) fn run(&self) -> CliResult {
        let dialect = match self.format {
            Format::Dlrm => Dialect::Dlrm,
            Format::Torchrec => Dialect::TorchRec,
        };
        let import = train::Import::read(dialect, &self.files, &self.like)?;
        let (mut dir, interrupted) = RunDir::create(&self.out)?;
        let out = self.out.display();
        if let Some(interrupted) = interrupted {
            let interrupted = interrupted.display();
            say(&format!("bagdot: the run that was interrupted in {out} is now in {interrupted}"));
        }
        if let Some(kept) = import.write(&mut dir)? {
            say(&format!("bagdot: the model that was in {out} is now in {}", kept.display()));
        }
        if !self.quiet {
            say(&format!("the model is in {out}"));
        }
        Ok(())
    }
}
