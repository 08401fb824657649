//! `bagdot eval`

use std::io::BufReader;
use std::path::PathBuf;

use super::device::{Common, on_device};
use super::error::{CliError, CliResult};
use super::terminal::{Bar, metrics_line, print_line};
use crate::data::{Coverage, LabelUse, Part, Source, Split, find_files};
use crate::ops::Backend;
use crate::train::{Metrics, Predictions, TrainedModel};

/// Measure a model on rows with labels. The rows are streamed; only the prediction and the label of
/// each row stay in memory.
#[derive(clap::Args, Debug)]
pub(super) struct Eval {
    /// A model directory
    model: PathBuf,
    /// Files, folders or patterns to read instead of the files that the model was trained on; `-`
    /// is standard input
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// The part of the rows [default: test; with --data, all]
    #[arg(long, value_enum, conflicts_with = "data")]
    split: Option<PartChoice>,
    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum PartChoice {
    Train,
    Validation,
    Test,
    All,
}

/// The output of `--json`.
#[derive(serde::Serialize)]
struct Measured {
    #[serde(flatten)]
    metrics: Metrics,
    /// For each column and side table, the number of values and keys that the model does not know.
    unknown: Coverage,
}

impl Eval {
    pub(super) fn run(&self) -> CliResult {
        on_device!(self.common, device => self.measure(TrainedModel::open(device, &self.model)?))
    }

    fn measure<D: Backend>(&self, mut model: TrainedModel<D>) -> CliResult {
        let (sources, part) = if self.data.is_empty() {
            self.own_rows(&model)?
        } else {
            (sources(&files(&self.data)?), None)
        };
        let mut predictions = Predictions::default();
        let mut bar = Bar::new(self.common.quiet);
        let result = model.predict(
            sources,
            LabelUse::Required,
            part,
            |probabilities, labels, (done, total)| {
                predictions.extend(probabilities, labels);
                bar.show("evaluating", done, total, true);
                CliResult::Ok(())
            },
        );
        bar.clear();
        let report = result?;
        bar.report(&report);
        let loss = model.manifest().config.train.loss;
        let metrics = predictions
            .metrics_of(loss)
            .ok_or_else(|| CliError::Usage("there are no such rows".into()))?;
        if self.json {
            print_line(
                &serde_json::to_string(&Measured { metrics, unknown: report.coverage })
                    .unwrap_or_default(),
            )?;
        } else {
            print_line(&format!("{}  ({} rows)", metrics_line(&metrics), metrics.samples))?;
        }
        Ok(())
    }

    /// Returns the files that the model was trained on, and the part of their rows to read.
    fn own_rows<D: Backend>(
        &self,
        model: &TrainedModel<D>,
    ) -> Result<(Vec<Source>, Option<Part>), CliError> {
        let manifest = model.manifest();
        let data = &manifest.config.data;
        let part = match self.split.unwrap_or(PartChoice::Test) {
            PartChoice::Train => Some(Part::Train),
            PartChoice::Validation => Some(Part::Validation),
            PartChoice::Test => Some(Part::Test),
            PartChoice::All => None,
        };
        let parts = match (part, &data.split) {
            (Some(part), Split::File {}) => vec![part],
            (None, Split::File {}) => vec![Part::Train, Part::Validation, Part::Test],
            _ => vec![Part::Train],
        };
        let paths = parts.into_iter().flat_map(|part| data.files(part, &manifest.folder));
        Ok((paths.map(Source::from).collect(), part))
    }
}

/// Returns the files that `paths` mean: files, the files in folders, and those that match patterns;
/// `-` stays.
pub(super) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let mut files = Vec::new();
    for path in paths {
        match path.to_str() {
            Some("-") => files.push(path.clone()),
            _ => files.extend(find_files(path)?),
        }
    }
    Ok(files)
}

/// Returns the sources at `paths`; `-` is standard input.
pub(super) fn sources(paths: &[PathBuf]) -> Vec<Source> {
    let source = |path: &PathBuf| match path.to_str() {
        Some("-") => Source::Reader {
            name: "standard input".into(),
            reader: Box::new(BufReader::new(std::io::stdin())),
        },
        _ => Source::from(path.clone()),
    };
    paths.iter().map(source).collect()
}
