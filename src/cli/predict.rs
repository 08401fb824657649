//! `bagdot predict`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::device::{Common, on_device};
use super::error::CliResult;
use super::eval::{files, sources};
use super::output::Output;
use super::terminal::{Bar, Signals};
use crate::data::LabelUse;
use crate::ops::Backend;
use crate::train::{Scored, TrainedModel};

/// Print the probability of each row, one per line, in the order of the rows. The label's column
/// may be absent. `--columns id,user` writes these columns beside it.
#[derive(clap::Args, Debug)]
pub(super) struct Predict {
    /// A model directory
    model: PathBuf,
    /// Rows in the format that the model was trained on: files, folders or patterns; `-` is
    /// standard input
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write CSV with a header: these columns of the rows as they were read, and `probability`
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    columns: Vec<String>,
    #[command(flatten)]
    common: Common,
}

impl Predict {
    pub(super) fn run(&self) -> CliResult {
        on_device!(self.common, device => self.print(TrainedModel::open(device, &self.model)?))
    }

    fn print<D: Backend>(&self, mut model: TrainedModel<D>) -> CliResult {
        let signals = Signals::watch();
        let data = files(&self.data)?;
        let inputs = [
            data.clone(),
            model.manifest().config.data.inputs(&model.manifest().folder),
            files_in(&self.model),
        ]
        .concat();
        if self.output.is_some() {
            // Results go to a temporary file until they are complete. It is removed after a signal.
            signals.defer();
        }
        let mut out = Output::open(self.output.as_deref(), &inputs)?;
        let mut bar = Bar::new(self.common.quiet);
        let mut needs_header = !self.columns.is_empty();
        let result = model.predict_with(
            sources(&data),
            LabelUse::Optional,
            None,
            &self.columns,
            |scored: &Scored<'_>| {
                let (done, total) = scored.bytes_read;
                bar.show("predicting", done, total, true);
                signals.check()?;
                let header = std::mem::take(&mut needs_header);
                self.write(&mut out, header, scored).map_err(|error| out.fault(error))
            },
        );
        bar.clear();
        if result.is_err() && self.output.is_none() {
            // Keep the predictions made before an error.
            out.flush().map_err(|error| out.fault(error))?;
        }
        bar.report(&result?);
        out.finish()
    }

    /// Writes the rows of a batch.
    fn write(&self, out: &mut Output, header: bool, scored: &Scored<'_>) -> io::Result<()> {
        if header {
            self.columns.iter().try_for_each(|name| write_field(out, name))?;
            writeln!(out, "probability")?;
        }
        for (row, p) in scored.probabilities.iter().enumerate() {
            let mut texts = (0..self.columns.len()).filter_map(|k| scored.texts.get(row, k));
            texts.try_for_each(|text| write_field(out, text))?;
            writeln!(out, "{p}")?;
        }
        Ok(())
    }
}

/// Writes a field of CSV (RFC 4180) and the comma after it. A field with blanks at its ends is
/// quoted, too, since some readers remove them otherwise.
fn write_field(out: &mut impl Write, text: &str) -> io::Result<()> {
    let is_plain = !text.contains(['"', ',', '\n', '\r']) && text.trim() == text;
    match is_plain {
        true => write!(out, "{text},"),
        false => write!(out, "\"{}\",", text.replace('"', "\"\"")),
    }
}

/// Returns the entries of a model directory.
pub(super) fn files_in(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|e| e.path()).collect())
}
