//! Writes `report.html`: one file, without references to others, that people can share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::chart::{Chart, Ink, Line, escape, grouped};
use super::error::Result;
use super::importance::ColumnImportance;
use super::manifest::Manifest;
use super::metrics::{Metrics, Predictions};
use super::model_dir::{REPORT, RunDir};
use super::record::{EvaluationRecord, Outcome};
use crate::data::{Dataset, Part, Splits, UnknownShare};
use crate::ops::Loss;

/// The style sheet of the page.
const STYLE: &str = include_str!("report.css");
/// The largest number of points of a curve.
const POINTS: usize = 300;
/// The number of intervals of the distribution of predictions, and of groups in the calibration.
const BINS: usize = 40;
const GROUPS: usize = 20;

/// The settings of a run's report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportOptions {
    /// The text of the configuration file, which the report shows as it was written. Without it,
    /// the report shows all settings.
    pub config_text: Option<String>,
    /// Set if the importance of the columns is measured at the end; see
    /// [`TrainedModel::importance`](super::TrainedModel::importance).
    pub importance: bool,
}

/// The contents of a report.
pub(super) struct Report<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) outcome: &'a Outcome,
    pub(super) splits: &'a Splits,
    /// The predictions of the test rows.
    pub(super) test: &'a Predictions,
    pub(super) config_text: Option<&'a str>,
}

impl Report<'_> {
    /// Writes the report of a run into its model directory.
    ///
    /// # Errors
    /// Returns [`TrainError::Io`](super::TrainError::Io) if the file cannot be written.
    pub(super) fn write(&self, run: &RunDir) -> Result<()> {
        let path = run.dir().path().components().next_back();
        let name =
            path.map_or_else(String::new, |name| name.as_os_str().to_string_lossy().into_owned());
        run.write_derived(REPORT, &self.page(&name))
    }

    fn page(&self, name: &str) -> String {
        let Self { manifest, outcome, .. } = self;
        let (name, progress) = (escape(name), &manifest.progress);
        let measured = [("test", outcome.test), ("validation", outcome.validation)];
        let figures = measured.into_iter().find_map(|(part, metrics)| Some((part, metrics?)));
        let figures = figures.map_or_else(String::new, |(part, metrics)| cards(part, &metrics));
        let sections: String = [
            figures,
            section("Training", &self.curves()),
            section("The test rows in detail", &self.test_charts()),
            section("Importance of the columns", &self.importance()),
            section("Data", &self.data()),
            self.evaluations(),
            section("Configuration", &self.configuration()),
        ]
        .concat();
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{name}: training report</title>\n<style>\n{STYLE}</style></head>\n\
             <body><main>\n<h1>{name}</h1>\n\
             <p class=\"note\">Written {date} by {program}. Seed {seed}; {epochs} epochs, {steps} \
             steps, {samples} rows in {seconds:.1} s of training ({rate} rows per second). The \
             model is that of step {best}, in epoch {best_epoch}.</p>\n{sections}\
             </main></body></html>\n",
            date = date_of(SystemTime::now()),
            program = escape(&manifest.created_by),
            seed = manifest.config.train.seed,
            epochs = passes(progress.history.last().map_or(0.0, EvaluationRecord::passes)),
            steps = count(progress.step),
            samples = count(progress.samples),
            seconds = outcome.train_seconds,
            rate = count(outcome.samples_per_second as u64),
            best = count(outcome.best_step),
            best_epoch = outcome.best_epoch,
        )
    }

    /// Returns the curves of log-loss and AUC by step.
    fn curves(&self) -> String {
        let history = &self.manifest.progress.history;
        let best = self.manifest.progress.best();
        let of_validation = |record: &EvaluationRecord| record.validation;
        let last = history.last().and_then(of_validation);
        let chart = |title, y, value: fn(&Metrics) -> Option<f64>, base: Option<f64>| {
            let points = |metrics: &dyn Fn(&EvaluationRecord) -> Option<Metrics>| {
                let point = |record: &EvaluationRecord| {
                    Some((record.step as f64, value(&metrics(record)?)?))
                };
                history.iter().filter_map(point).collect::<Vec<_>>()
            };
            let training = points(&|record| Some(record.train));
            let measured = |record: &EvaluationRecord| record.validation.unwrap_or(record.train);
            let mark = best.and_then(|record| {
                let value = value(&measured(record))?;
                Some(((record.step as f64, value), format!("best {value:.4}")))
            });
            let ends = [history.first(), history.last()].map(|r| r.map_or(0.0, |r| r.step as f64));
            let mut lines = Vec::new();
            if let Some(base) = base {
                let label = format!("base rate {}", short(base));
                lines.push(Line::new(label, Ink::Guide, ends.map(|at| (at, base)).to_vec()));
            }
            lines.push(Line::new("training", Ink::First, training));
            let validation = points(&of_validation);
            if !validation.is_empty() {
                lines.push(Line::new("validation", Ink::Second, validation));
            }
            let (is_square, from_zero) = (false, false);
            Chart { title, x: "step", y, lines, mark, is_square, from_zero }.svg()
        };
        let base = last.or(history.last().map(|record| record.train));
        let base = base.and_then(|metrics| metrics.loss_of_a_constant(Loss::BceWithLogits));
        let charts = [
            chart("Log-loss by step", "log-loss", |metrics| Some(metrics.logloss), base),
            chart("AUC by step", "AUC", |metrics| metrics.auc, Some(0.5)),
        ];
        format!(
            "<div class=\"charts\">{}</div><p class=\"note\">Training rows are measured as the \
             model meets them, just before it learns from them. The base rate is the best that one \
             probability for all validation rows can reach.</p>",
            charts.concat()
        )
    }

    /// Returns the charts of the test rows; none without test rows.
    fn test_charts(&self) -> String {
        let Some(metrics) = self.outcome.test else { return String::new() };
        let (test, line) = (self.test, |label: &str, points| Line::new(label, Ink::First, points));
        let guide = |label: String, from, to| Line::new(label, Ink::Guide, vec![from, to]);
        let base_rate = metrics.positives as f64 / metrics.samples as f64;
        let square = |title, x, y, lines| {
            Chart { title, x, y, lines, mark: None, is_square: true, from_zero: false }.svg()
        };
        let chart = |title, x, y, lines| {
            Chart { title, x, y, lines, mark: None, is_square: false, from_zero: true }.svg()
        };
        let auc = metrics.auc.map_or_else(|| "model".into(), |auc| format!("AUC {auc:.4}"));
        let roc =
            vec![guide("by chance".into(), (0.0, 0.0), (1.0, 1.0)), line(&auc, test.roc(POINTS))];
        let precision = vec![
            guide(format!("base rate {}", short(base_rate)), (0.0, base_rate), (1.0, base_rate)),
            line("model", test.precision_recall(POINTS)),
        ];
        let lift =
            vec![guide("by chance".into(), (0.0, 1.0), (1.0, 1.0)), line("model", test.lift(100))];
        let calibration = test.calibration_curve(GROUPS);
        let end = calibration.iter().fold(0.0, |end, point| f64::max(end, point.0.max(point.1)));
        let calibration =
            vec![guide("ideal".into(), (0.0, 0.0), (end, end)), line("model", calibration)];
        let charts = [
            square("ROC", "false positive rate", "true positive rate", roc),
            square("Precision and recall", "recall", "precision", precision),
            chart("Lift", "share of the rows, best first", "times the base rate", lift),
            chart("Predictions by class", "prediction", "share of the class", self.distribution()),
            chart("Calibration", "mean prediction", "share of positives", calibration),
        ];
        format!(
            "<div class=\"charts\">{}</div><p class=\"note\">Lift: how many times as many of the \
             rows with the highest predictions are positive as of all. Calibration: {GROUPS} \
             groups of equally many rows, by prediction.</p>",
            charts.concat()
        )
    }

    /// Returns the distribution of the predictions, as a line of steps for each class.
    fn distribution(&self) -> Vec<Line> {
        let (end, classes) = self.test.histograms(BINS);
        let names = [("negative", Ink::First), ("positive", Ink::Second)];
        let steps = |shares: Vec<f64>| -> Vec<(f64, f64)> {
            let width = end / shares.len() as f64;
            let step = |(k, share): (usize, f64)| {
                [(k as f64 * width, share), ((k + 1) as f64 * width, share)]
            };
            shares.into_iter().enumerate().flat_map(step).collect()
        };
        let line = |((name, ink), shares): ((&str, Ink), Vec<f64>)| Line {
            filled: true,
            ..Line::new(name, ink, steps(shares))
        };
        names.into_iter().zip(classes).map(line).collect()
    }

    /// Returns the importance of the columns; none if it was not measured.
    fn importance(&self) -> String {
        let Some(columns) = &self.outcome.importance else { return String::new() };
        let most = columns.iter().map(|column| column.logloss_rise).fold(0.0, f64::max);
        let row = |ColumnImportance { column, auc_drop, logloss_rise }: &ColumnImportance| {
            let share = if most > 0.0 { (100.0 * logloss_rise / most).max(0.0) } else { 0.0 };
            format!(
                "<tr><td class=\"text\">{}</td><td>{}</td><td>{}</td>\
                 <td class=\"bar\"><i style=\"width:{share:.1}%\"></i></td></tr>",
                escape(column),
                number(*auc_drop),
                number(Some(*logloss_rise))
            )
        };
        let rows: String = columns.iter().map(row).collect();
        format!(
            "<p class=\"note\">How much worse the model is if the values of a column are \
             shuffled.</p><div class=\"scroll\"><table><tr><th>column</th><th>AUC drop</th>\
             <th>log-loss rise</th><th></th></tr>{rows}</table></div>"
        )
    }

    /// Returns the files, the rows of each part, and the values that training has not seen.
    fn data(&self) -> String {
        let data = &self.manifest.config.data;
        let parts = [
            (Part::Train, &self.splits.train, &data.train),
            (Part::Validation, &self.splits.validation, &data.validation),
            (Part::Test, &self.splits.test, &data.test),
        ];
        let row = |(part, rows, files): (Part, &Dataset, &Vec<std::path::PathBuf>)| {
            let positives = rows.labels().iter().filter(|&&label| label >= 0.5).count();
            let rate = (!rows.is_empty()).then(|| positives as f64 / rows.len() as f64);
            let files: Vec<String> =
                files.iter().map(|file| escape(&file.display().to_string())).collect();
            let files =
                if files.is_empty() { "of the training files".into() } else { files.join(", ") };
            format!(
                "<tr><td>{part}</td><td>{}</td><td>{}</td>\
                 <td class=\"text long\">{files}</td></tr>",
                count(rows.len() as u64),
                number(rate)
            )
        };
        let rows: String = parts.into_iter().map(row).collect();
        let label = escape(data.label.as_deref().unwrap_or("label"));
        format!(
            "<p>The label is <code>{label}</code>.</p><div class=\"scroll\"><table><tr>\
             <th>part</th><th>rows</th><th>base rate</th><th class=\"text\">files</th></tr>{rows}\
             </table></div>{}",
            self.unknown()
        )
    }

    /// Returns the shares of unknown values by column; none if all values are known.
    fn unknown(&self) -> String {
        let parts = [(Part::Validation, &self.splits.validation), (Part::Test, &self.splits.test)];
        let shares = parts.into_iter().flat_map(|(part, rows)| {
            let coverage = rows.coverage();
            coverage.columns.iter().chain(&coverage.joins).map(move |share| (part, share))
        });
        let row = |(part, share): (Part, &UnknownShare)| {
            let column = match &share.side_table {
                Some(table) => format!("{} (keys of {})", escape(&share.column), escape(table)),
                None => escape(&share.column),
            };
            format!(
                "<tr><td class=\"text\">{column}</td><td class=\"text\">{part}</td><td>{}</td>\
                 <td>{} of {}</td><td class=\"text\">{}</td></tr>",
                percent(share.share()),
                count(share.unknown),
                count(share.values),
                escape(share.first.as_deref().unwrap_or(""))
            )
        };
        let rows: String = shares.filter(|(_, share)| share.unknown > 0).map(row).collect();
        if rows.is_empty() {
            return "<p class=\"note\">Training has seen all values of the other parts.</p>".into();
        }
        format!(
            "<p class=\"note\">Values that training has not seen, or less than <code>min_count\
             </code> times:</p><div class=\"scroll\"><table><tr><th>column</th>\
             <th class=\"text\">part</th><th>share</th><th>values</th>\
             <th class=\"text\">such as</th></tr>{rows}</table></div>"
        )
    }

    /// Returns the table of all evaluations, folded.
    fn evaluations(&self) -> String {
        let history = &self.manifest.progress.history;
        let best = self.manifest.progress.best().map(|record| record.step);
        let row = |record: &EvaluationRecord| {
            let class = if Some(record.step) == best { " class=\"best\"" } else { "" };
            let validation = record.validation;
            let of =
                |value: fn(&Metrics) -> Option<f64>| number(validation.as_ref().and_then(value));
            let cells = [
                passes(record.passes()),
                count(record.step),
                number(Some(record.train.logloss)),
                number(record.train.auc),
                of(|metrics| Some(metrics.logloss)),
                of(|metrics| metrics.auc),
                of(|metrics| metrics.ne),
                of(|metrics| metrics.calibration),
                of(|metrics| Some(metrics.accuracy)),
                count(record.samples_per_second as u64),
            ];
            format!("<tr{class}><td>{}</td></tr>", cells.join("</td><td>"))
        };
        let rows: String = history.iter().map(row).collect();
        format!(
            "<details><summary>{} evaluations</summary><div class=\"scroll\"><table>\
             <tr><th colspan=\"2\"></th><th colspan=\"2\">training</th><th colspan=\"5\">validation\
             </th><th></th></tr><tr><th>epoch</th><th>step</th><th>log-loss</th><th>AUC</th>\
             <th>log-loss</th><th>AUC</th><th>NE</th><th>calibration</th><th>accuracy</th>\
             <th>rows/s</th></tr>{rows}</table></div></details>",
            history.len()
        )
    }

    fn configuration(&self) -> String {
        let all = || toml::to_string_pretty(&self.manifest.config).unwrap_or_default();
        let text = self.config_text.map_or_else(all, str::to_owned);
        format!("<pre>{}</pre>", escape(text.trim_end()))
    }
}

fn section(title: &str, contents: &str) -> String {
    match contents {
        "" => String::new(),
        contents => format!("<h2>{title}</h2>{contents}\n"),
    }
}

/// Returns the headline figures of a part, each with its meaning and beside a constant prediction.
fn cards(part: &str, metrics: &Metrics) -> String {
    let base_rate = metrics.positives as f64 / metrics.samples as f64;
    let constant = metrics.loss_of_a_constant(Loss::BceWithLogits);
    let figures = [
        (
            "AUC",
            number(metrics.auc),
            "a positive row is ranked above a negative one this often; by chance 0.5".to_owned(),
        ),
        (
            "Log-loss",
            number(Some(metrics.logloss)),
            format!("lower is better; always predicting the base rate: {}", number(constant)),
        ),
        (
            "Normalised entropy",
            number(metrics.ne),
            "the log-loss as a share of that of the base rate; below 1 is better than it"
                .to_owned(),
        ),
        (
            "Calibration",
            number(metrics.calibration),
            "predicted positives for each real one; 1 is ideal".to_owned(),
        ),
        (
            "Accuracy",
            number(Some(metrics.accuracy)),
            format!(
                "right at a threshold of 0.5; always the larger class: {}",
                number(Some(base_rate.max(1.0 - base_rate)))
            ),
        ),
        (
            "Base rate",
            number(Some(base_rate)),
            format!(
                "{} of {} {part} rows are positive",
                count(metrics.positives),
                count(metrics.samples)
            ),
        ),
    ];
    let card = |(name, value, meaning): &(&str, String, String)| {
        format!("<div class=\"card\">{name}<b>{value}</b><small>{meaning}</small></div>")
    };
    let cards: String = figures.iter().map(card).collect();
    section(&format!("Result on the {part} rows"), &format!("<div class=\"cards\">{cards}</div>"))
}

fn number(value: Option<f64>) -> String {
    // The sum turns -0.0 into 0.0.
    value.map_or_else(|| "–".into(), |value| format!("{:.4}", (value * 1e4).round() / 1e4 + 0.0))
}

/// Formats a number with as few of four digits as it needs.
fn short(value: f64) -> String {
    format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn passes(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn count(value: u64) -> String {
    grouped(&value.to_string())
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Formats a time as a date and time in UTC.
fn date_of(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    // The algorithm `civil_from_days` (Hinnant, chrono-compatible date algorithms, 2021): years
    // begin in March, so that a leap day is the last day of one.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month_number) =
        (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = 400 * era + year + u64::from(month_number <= 2);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year}-{month_number:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_200, "2024-03-01 00:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date_of(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn numbers_have_the_digits_that_they_need() {
        assert_eq!([0.5, 0.12340, 1.0].map(short), ["0.5", "0.1234", "1"]);
        assert_eq!([0.25, 3.0].map(passes), ["0.25", "3"]);
        assert_eq!(number(Some(-0.00001)), "0.0000");
        assert_eq!((number(None), count(45_840_617)), ("–".into(), "45,840,617".into()));
    }
}
