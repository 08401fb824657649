//! `bagdot encode`

use std::path::PathBuf;

use super::error::CliResult;
use super::eval::{files, sources};
use super::export::Watched;
use super::output::Output;
use super::predict::files_in;
use super::terminal::{Bar, Signals};
use crate::data::{Batch, LabelUse, RowStream};
use crate::train::{EncodedRows, ModelDir, TrainError};

/// The number of rows that are encoded at a time.
const BATCH_SIZE: usize = 2048;

/// Write rows as the numbers that a model reads: the inputs of its ONNX model, or batches for
/// training it in PyTorch.
///
/// The file is a safetensors file. It has `dense` ([rows, columns], f32), and for each sparse
/// feature NAME the ids `NAME` ([rows], i64), or, if a row may have any number of ids,
/// `NAME.values` and `NAME.offsets` ([rows + 1], i64): row `r` has the ids
/// `values[offsets[r] .. offsets[r + 1]]`. A number between knots is a position among the rows of
/// its table, `NAME` ([rows], f32). With `--labels` it also has `label` ([rows], f32).
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  bagdot encode runs/clothing new.csv --output rows.safetensors

Python reads it with safetensors.numpy.load_file(FILE); docs/interchange.md goes on from there.")]
pub(super) struct Encode {
    /// A model directory
    model: PathBuf,
    /// Rows in the format that the model was trained on: files, folders or patterns; `-` is
    /// standard input
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// The file to write; an older one is replaced when the new one is complete
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Write the labels, too; a row without one is an error
    #[arg(long)]
    labels: bool,
    /// Print only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

impl Encode {
    pub(super) fn run(&self) -> CliResult {
        let signals = Signals::watch();
        let (manifest, encoder) = ModelDir::open_with_encoder(&self.model)?;
        let data = files(&self.data)?;
        let inputs =
            [data.clone(), manifest.config.data.inputs(&manifest.folder), files_in(&self.model)]
                .concat();
        // Results go to a temporary file until they are complete. It is removed after a signal.
        signals.defer();
        let mut out = Output::open(Some(&self.output), &inputs)?;
        let mut encoded = EncodedRows::new(&encoder)
            .map_err(|reason| TrainError::Model { path: self.model.clone(), reason })?;
        let labels = if self.labels { LabelUse::Required } else { LabelUse::Optional };
        let mut rows = RowStream::open(&encoder, sources(&data), labels, None)?;
        let (mut bar, mut batch) = (Bar::new(self.quiet), Batch::default());
        let mut read = || -> CliResult {
            while rows.next_batch(BATCH_SIZE, &mut batch)? {
                let (done, total) = rows.bytes_read();
                bar.show("encoding", done, total, true);
                signals.check()?;
                encoded.push(&batch)?;
            }
            Ok(())
        };
        let result = read();
        bar.clear();
        bar.report(&rows.report());
        result?;
        let written = encoded.write(Watched { out: &mut out, signals: &signals });
        signals.check()?;
        written.map_err(|error: std::io::Error| out.fault(error))?;
        out.finish()
    }
}
