//! `bagdot eval`

use std::io::BufReader;
use std::path::PathBuf;

use super::device::{Common, on_device};
use super::error::{CliError, CliResult};
use super::terminal::{Bar, figure, metrics_line, print_line, print_table};
use crate::data::{Coverage, LabelUse, Part, Shown, Source, Split, find_files, shortened};
use crate::ops::Backend;
use crate::train::{
    ColumnImportance, GroupAuc, Groups, Metrics, Predictions, Scored, Segment, TrainedModel,
};

/// Measure a model on rows with labels. The rows are streamed; only the prediction and the label of
/// each row stay in memory.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  bagdot eval runs/clothing                        the test rows
  bagdot eval runs/clothing new.csv more.csv       other rows
  bagdot eval runs/clothing --by department        the metrics of each department
  bagdot eval runs/clothing --group-by clothing_id the AUC within each garment
  bagdot eval runs/clothing --importance           the columns, the most important first")]
pub(super) struct Eval {
    /// A model directory
    model: PathBuf,
    /// Files, folders or patterns to read instead of the files that the model was trained on; `-`
    /// is standard input
    files: Vec<PathBuf>,
    /// The earlier form of FILES
    #[arg(long, value_name = "FILE", num_args = 1.., hide = true, conflicts_with = "files")]
    data: Vec<PathBuf>,
    /// The part of the rows [default: test; with FILES, all]
    #[arg(long, value_enum, conflicts_with_all = ["files", "data"])]
    split: Option<PartChoice>,
    /// Print the AUC within the groups of rows that have the same text in a column, such as a user:
    /// the mean over the groups with both labels, weighted by their rows
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    group_by: Vec<String>,
    /// Print the metrics of each value of a column, such as a country
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    by: Vec<String>,
    /// Print how much worse the model is if a column is shuffled, for each column; this keeps the
    /// encoded rows in memory, and predicts all of them once for each column
    #[arg(long)]
    importance: bool,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupAuc>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    segments: Vec<SegmentsOf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    importance: Option<Vec<ColumnImportance>>,
}

/// The metrics of the values of a column.
#[derive(serde::Serialize)]
struct SegmentsOf {
    column: String,
    values: Vec<Segment>,
}

/// The number of values of a column whose metrics are printed; the others share a line.
const SEGMENTS: usize = 20;

impl Measured {
    fn print(&self) -> CliResult {
        print_line(&format!("{}  ({} rows)", metrics_line(&self.metrics), self.metrics.samples))?;
        for GroupAuc { column, auc, groups, groups_with_both, rows_with_both } in &self.groups {
            print_line(&format!(
                "auc within {}: {}  ({groups_with_both} of {groups} groups have both labels, with \
                 {rows_with_both} rows)",
                Shown(column),
                figure(*auc)
            ))?;
        }
        for SegmentsOf { column, values } in &self.segments {
            let head = [column.as_str(), "rows", "base rate", "auc", "logloss", "calibration"];
            let row = |segment: &Segment| {
                let Segment { value, values, base_rate, metrics } = segment;
                let name = match value.as_deref() {
                    Some("") => "(empty)".to_owned(),
                    Some(value) => shortened(value),
                    None => format!("({values} others)"),
                };
                let [rate, auc, logloss, calibration] =
                    [Some(*base_rate), metrics.auc, Some(metrics.logloss), metrics.calibration]
                        .map(figure);
                vec![name, metrics.samples.to_string(), rate, auc, logloss, calibration]
            };
            print_table(&head, &values.iter().map(row).collect::<Vec<_>>())?;
        }
        let Some(importance) = &self.importance else { return Ok(()) };
        let row = |of: &ColumnImportance| {
            vec![of.column.clone(), figure(of.auc_drop), figure(Some(of.logloss_rise))]
        };
        let rows: Vec<_> = importance.iter().map(row).collect();
        print_table(&["shuffled", "auc drop", "logloss rise"], &rows)
    }
}

impl Eval {
    pub(super) fn run(&self) -> CliResult {
        on_device!(self.common, device => self.measure(TrainedModel::open(device, &self.model)?))
    }

    fn measure<D: Backend>(&self, mut model: TrainedModel<D>) -> CliResult {
        let given = [self.files.as_slice(), &self.data].concat();
        let (sources, part) = if given.is_empty() {
            self.own_rows(&model)?
        } else {
            (sources(&files(&given)?), None)
        };
        let columns = [self.group_by.as_slice(), &self.by].concat();
        let mut groups = vec![Groups::default(); columns.len()];
        let mut rows = model.encoder().dataset();
        let mut predictions = Predictions::default();
        let mut bar = Bar::new(self.common.quiet);
        let result = model.predict_with(
            sources,
            LabelUse::Required,
            part,
            &columns,
            |scored: &Scored<'_>| {
                predictions.extend(scored.probabilities, &scored.batch.labels);
                for texts in scored.texts.rows() {
                    groups.iter_mut().zip(texts).for_each(|(groups, text)| groups.push(text));
                }
                if self.importance {
                    rows.append(scored.batch);
                }
                let (done, total) = scored.bytes_read;
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
        let (by_group, by_segment) = groups.split_at(self.group_by.len());
        let by_group = self.group_by.iter().zip(by_group);
        let segments_of = |(column, groups): (&String, &Groups)| SegmentsOf {
            column: column.clone(),
            values: groups.segments(&predictions, SEGMENTS, loss),
        };
        let importance = || {
            let progress = |done, total| bar.show("shuffling", done, total, false);
            let found = model.importance(&rows, progress);
            bar.clear();
            found
        };
        let measured = Measured {
            metrics,
            unknown: report.coverage,
            groups: by_group.map(|(column, groups)| groups.auc(column, &predictions)).collect(),
            segments: self.by.iter().zip(by_segment).map(segments_of).collect(),
            importance: self.importance.then(importance).transpose()?,
        };
        if self.json {
            return print_line(&serde_json::to_string(&measured).unwrap_or_default());
        }
        measured.print()
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
