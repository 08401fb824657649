//! `bagdot export`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::{CliError, CliResult};
use super::output::Output;
use super::predict::files_in;
use super::terminal::Signals;
use crate::train::{Dialect, Onnx, OnnxWeights, StoredModel};

/// Write a model in a format that other programs read: safetensors with the names of
/// facebookresearch/dlrm or of TorchRec, or ONNX.
///
/// ONNX has the whole model, with all members: lookups, interaction, layers, and the mean
/// probability. The inputs are those that `bagdot encode` writes. Layers compute in f32.
///
/// The safetensors formats have the parameters of one member under the names of the state dict of
/// `DLRM_Net` or `torchrec.models.dlrm.DLRM`; PyTorch loads them with
/// `model.load_state_dict(safetensors.torch.load_file(FILE))`. Settings that these modules do not
/// know are errors: `append_sparse`, max pooling and others.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  bagdot export runs/clothing --format onnx --output clothing.onnx
  bagdot export runs/clicks --format torchrec --output clicks.safetensors

docs/interchange.md shows how PyTorch and onnxruntime run these files.")]
pub(super) struct Export {
    /// A model directory
    model: PathBuf,
    /// The format
    #[arg(long, value_enum)]
    format: Format,
    /// The file to write; an older one is replaced when the new one is complete
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The member to write, from 1, of a model that has several; ONNX has all of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    member: Option<u32>,
    /// Write the weights into FILE.data, which must stay beside FILE; ONNX models of more than
    /// 2 GB are always written so
    #[arg(long)]
    external_data: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Safetensors with the names of facebookresearch/dlrm
    Dlrm,
    /// Safetensors with the names of TorchRec
    Torchrec,
    /// ONNX, for onnxruntime and others
    Onnx,
}

impl Export {
    pub(super) fn run(&self) -> CliResult {
        let dialect = match self.format {
            Format::Dlrm => Some(Dialect::Dlrm),
            Format::Torchrec => Some(Dialect::TorchRec),
            Format::Onnx => None,
        };
        let usage = |said: &str| Err(CliError::Usage(said.into()));
        if dialect.is_none() && self.member.is_some() {
            return usage("--member is for safetensors: ONNX has all members");
        }
        if dialect.is_some() && self.external_data {
            return usage("--external-data is for --format onnx");
        }
        let signals = Signals::watch();
        let model = StoredModel::open(&self.model)?;
        // Files are temporary until they are complete. They are removed after a signal.
        signals.defer();
        match dialect {
            Some(dialect) => self.write_dialect(&model, dialect, &signals),
            None => self.write_onnx(&model, &signals),
        }
    }

    fn write_dialect(&self, model: &StoredModel, dialect: Dialect, signals: &Signals) -> CliResult {
        let member = match (self.member, model.members()) {
            (Some(number), _) => number as usize - 1,
            (None, 1) => 0,
            (None, members) => {
                return Err(CliError::Usage(format!(
                    "the model has {members} members, and a file holds one: choose it with \
                     --member 1 to {members}, or train a model with `members = 1`"
                )));
            }
        };
        let parameters = model.to_dialect(dialect, member)?;
        let mut out = Output::open(Some(&self.output), &files_in(&self.model))?;
        let written = parameters.write(Watched { out: &mut out, signals });
        signals.check()?;
        written.map_err(|error| out.fault(error))?;
        out.finish()
    }

    fn write_onnx(&self, model: &StoredModel, signals: &Signals) -> CliResult {
        let mut name = self.output.file_name().unwrap_or_default().to_owned();
        name.push(".data");
        let beside = self.output.with_file_name(&name);
        let mut onnx = model.to_onnx(OnnxWeights::Inside)?;
        let is_large = onnx.model_bytes() > Onnx::MAX_BYTES;
        let mut outputs = Vec::new();
        if self.external_data || is_large {
            let Some(name) = name.to_str() else {
                let said = "ONNX needs the name of the file with the weights in UTF-8: choose \
                            another --output";
                return Err(CliError::Usage(said.into()));
            };
            if !is_file_or_nothing(&self.output) {
                let said = "weights stand beside the model, so --output must be a regular file";
                return Err(CliError::Usage(said.into()));
            }
            onnx = model.to_onnx(OnnxWeights::Beside(name))?;
            // The weights take effect first, since the model names them.
            outputs.push((beside, true));
        }
        outputs.push((self.output.clone(), false));
        let mut complete = Vec::new();
        for (path, is_data) in outputs {
            let mut out = Output::open(Some(&path), &files_in(&self.model))?;
            let mut watched = Watched { out: &mut out, signals };
            let written = match is_data {
                true => onnx.write_data(&mut watched),
                false => onnx.write_model(&mut watched),
            };
            signals.check()?;
            written.map_err(|error| out.fault(error))?;
            complete.push(out.complete()?);
        }
        complete.into_iter().try_for_each(|out| out.take_effect())
    }
}

fn is_file_or_nothing(path: &Path) -> bool {
    path.metadata().map_or(true, |metadata| metadata.is_file())
}

/// A writer that fails after a signal. The caller then reports the signal.
pub(super) struct Watched<'a> {
    pub(super) out: &'a mut Output,
    pub(super) signals: &'a Signals,
}

impl Write for Watched<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.signals.received().is_some() {
            return Err(io::Error::other("stopped by a signal"));
        }
        // A signal must not wait until gigabytes are written.
        self.out.write(&data[..data.len().min(1 << 24)])
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
