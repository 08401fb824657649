//! `bagdot predict`

use std::io::Write;
use std::path::{Path, PathBuf};

use super::device::{Common, on_device};
use super::error::CliResult;
use super::eval::{files, sources};
use super::output::Output;
use super::terminal::{Bar, Signals};
use crate::data::LabelUse;
use crate::ops::Backend;
use crate::train::TrainedModel;

/// Print the probability of each row, one per line, in the order of the rows. The label's column
/// may be absent.
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
        let result = model.predict(
            sources(&data),
            LabelUse::Optional,
            None,
            |probabilities, _, (done, total)| {
                bar.show("predicting", done, total, true);
                signals.check()?;
                probabilities
                    .iter()
                    .try_for_each(|p| writeln!(out, "{p}"))
                    .map_err(|error| out.fault(error))
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
}

/// Returns the entries of a model directory.
pub(super) fn files_in(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|e| e.path()).collect())
}
