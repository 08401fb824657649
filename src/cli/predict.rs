//! `bagdot predict`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::eval::sources;
use super::terminal::Bar;
use super::{CliResult, Common, on_device};
use crate::data::LabelUse;
use crate::ops::Backend;
use crate::train::{TrainError, TrainedModel};

/// Print the probability of each row, one a line, in the order of the rows. The label's column need not be there.
#[derive(clap::Args, Debug)]
pub(super) struct Predict {
    /// A model directory
    model: PathBuf,
    /// Rows in the format that the model was trained on; `-` is standard input
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
        let mut out: Box<dyn Write> = match &self.output {
            Some(path) => Box::new(File::create(path)?),
            None => Box::new(std::io::stdout().lock()),
        };
        let mut out = BufWriter::new(&mut out);
        let mut bar = Bar::new(self.common.quiet);
        let mut written = Ok(());
        let result = model.predict(sources(&self.data), LabelUse::Optional, None, |probabilities, _, (done, total)| {
            bar.show("predicting", done, total, true);
            written = probabilities.iter().try_for_each(|p| writeln!(out, "{p}"));
            // The loop ends with an error of its own type; the real one is reported below.
            if written.is_err() { Err(TrainError::Interrupted { epoch: 0 }) } else { Ok(()) }
        });
        bar.clear();
        written?;
        // What was predicted before an error is not lost.
        out.flush()?;
        Ok(result?)
    }
}
