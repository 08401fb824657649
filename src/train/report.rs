//! Writes `report.html`: one self-contained file with metrics, curves and configuration.

use plotters::prelude::*;

use super::error::{Result, TrainError};
use super::manifest::Manifest;
use super::metrics::{Metrics, Predictions};
use super::model_dir::{REPORT, RunDir};
use super::record::{EvaluationRecord, Outcome};

const SIZE: (u32, u32) = (520, 360);
const TRAIN: RGBColor = RGBColor(31, 119, 180);
const VALIDATION: RGBColor = RGBColor(214, 96, 39);
const GUIDE: RGBColor = RGBColor(170, 170, 170);

/// The style sheet of the page.
const STYLE: &str = "\
body { font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .5em 0 }
td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd }
tr.best td { font-weight: bold }
svg { max-width: 100%; height: auto }
pre { background: #f6f6f6; padding: 1em; overflow: auto }
";

/// A line of a chart.
struct Line<'a> {
    label: &'a str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Writes the report of a run into its model directory.
///
/// # Errors
/// Returns [`TrainError::Io`] if the file cannot be written.
pub(super) fn write_report(
    run: &RunDir,
    manifest: &Manifest,
    outcome: &Outcome,
    test: &Predictions,
) -> Result<()> {
    let charts = charts(&manifest.progress.history, test).map_err(|error| TrainError::Io {
        doing: "draw the charts of",
        path: run.dir().file(REPORT),
        source: std::io::Error::other(error.to_string()),
    })?;
    let name = run
        .dir()
        .path()
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let html = page(&name, manifest, outcome, &charts);
    run.write_derived(REPORT, &html)
}

fn charts(
    history: &[EvaluationRecord],
    test: &Predictions,
) -> Result<Vec<String>, DrawingAreaErrorKind<std::io::Error>> {
    let per_epoch = |value: fn(&Metrics) -> Option<f64>| {
        let points = |metrics: &dyn Fn(&EvaluationRecord) -> Option<f64>| {
            history.iter().filter_map(|record| Some((record.passes(), metrics(record)?))).collect()
        };
        [
            Line {
                label: "training",
                color: TRAIN,
                points: points(&|record| value(&record.train)),
            },
            Line {
                label: "validation",
                color: VALIDATION,
                points: points(&|record| record.validation.as_ref().and_then(value)),
            },
        ]
    };
    let diagonal = || Line { label: "", color: GUIDE, points: vec![(0.0, 0.0), (1.0, 1.0)] };
    let line = |points| Line { label: "test", color: TRAIN, points };
    let mut charts = vec![
        chart("Log-loss per epoch", ("epoch", "log-loss"), &per_epoch(|m| Some(m.logloss)))?,
        chart("AUC per epoch", ("epoch", "AUC"), &per_epoch(|m| m.auc))?,
    ];
    if !test.is_empty() {
        let roc = [diagonal(), line(test.roc(400))];
        charts.push(chart(
            "ROC on the test rows",
            ("false positive rate", "true positive rate"),
            &roc,
        )?);
        let calibration = [diagonal(), line(test.calibration_curve(20))];
        charts.push(chart(
            "Calibration on the test rows",
            ("mean prediction", "share of positives"),
            &calibration,
        )?);
    }
    Ok(charts)
}

/// Returns the smallest interval that holds all values, with a margin.
fn range(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let (low, high) =
        (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return 0.0..1.0;
    }
    let margin = if high > low { (high - low) * 0.05 } else { high.abs().max(1.0) * 0.05 };
    low - margin..high + margin
}

fn chart(
    title: &str,
    (x_label, y_label): (&str, &str),
    lines: &[Line<'_>],
) -> Result<String, DrawingAreaErrorKind<std::io::Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || lines.iter().flat_map(|line| line.points.iter());
        let (x_range, y_range) = (range(points().map(|p| p.0)), range(points().map(|p| p.1)));
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(x_range, y_range)?;
        chart.configure_mesh().light_line_style(WHITE).x_desc(x_label).y_desc(y_label).draw()?;
        for line in lines {
            let style = ShapeStyle::from(&line.color).stroke_width(2);
            let series = chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(2))?;
            if !line.label.is_empty() {
                series
                    .label(line.label)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
            }
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(GUIDE)
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.4}"))
}

fn metric_cells(metrics: &Metrics) -> String {
    let cells = [
        metrics.auc,
        Some(metrics.logloss),
        metrics.ne,
        metrics.calibration,
        Some(metrics.accuracy),
    ];
    cells.iter().map(|value| format!("<td>{}</td>", number(*value))).collect()
}

fn page(name: &str, manifest: &Manifest, outcome: &Outcome, charts: &[String]) -> String {
    let head = "<th>AUC</th><th>log-loss</th><th>NE</th><th>calibration</th><th>accuracy</th>";
    let test = outcome.test.as_ref().map_or_else(
        || "<p>There were no test rows.</p>".to_owned(),
        |test| {
            format!(
                "<table><tr>{head}<th>rows</th></tr><tr>{}<td>{}</td></tr></table>",
                metric_cells(test),
                test.samples
            )
        },
    );
    let rows: String = manifest.progress.history.iter().map(epoch_rows).collect();
    let config = escape(&toml::to_string_pretty(&manifest.config).unwrap_or_default());
    let charts: String = charts.concat();
    let [train, validation, test_rows] = manifest.progress.rows;
    let name = escape(name);
    format!(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}: training report</title>
<style>
{STYLE}</style></head><body>
<h1>{name}</h1>
<p>{train} training, {validation} validation and {test_rows} test rows;
{steps} steps in {seconds:.1} s of training, {rate:.0} rows per second; best epoch {best}.
Written by {program}.</p>
<h2>Test</h2>{test}
<h2>Curves</h2><div>{charts}</div>
<h2>Epochs</h2>
<table><tr><th>epoch</th><th></th>{head}</tr>{rows}</table>
<p>Training rows are measured as the model meets them, just before it learns from them.</p>
<h2>Configuration</h2><pre>{config}</pre>
</body></html>
"#,
        steps = manifest.progress.step,
        seconds = outcome.train_seconds,
        rate = outcome.samples_per_second,
        best = outcome.best_epoch,
        program = escape(&manifest.created_by),
    )
}

fn epoch_rows(record: &EvaluationRecord) -> String {
    let class = if record.best { " class=\"best\"" } else { "" };
    let row = |epoch: &str, part: &str, metrics: &Metrics| {
        format!("<tr{class}><td>{epoch}</td><td>{part}</td>{}</tr>", metric_cells(metrics))
    };
    let validation = record
        .validation
        .as_ref()
        .map_or_else(String::new, |metrics| row("", "validation", metrics));
    row(&record.passes().to_string(), "training", &record.train) + &validation
}
