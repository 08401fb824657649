//! Messages on standard error, progress bars, numbers for people, and signals.
//!
//! Messages on standard error are for people only. A message that cannot be written is lost, since
//! it must not end a run.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::error::{CliError, CliResult};
use crate::data::{Coverage, Part, ReadReport, Shown, ShownLines};
use crate::train::Metrics;

/// Prints a line on standard error.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", ShownLines(line));
}

/// Prints a line on standard output.
pub(super) fn print_line(line: &str) -> CliResult {
    let written = writeln!(io::stdout().lock(), "{}", ShownLines(line));
    written.map_err(|source| CliError::Output { name: "standard output".into(), source })
}

/// Sends the library's messages to standard error, filtered by `BAGDOT_LOG` (default: warnings).
pub(super) fn log_to_stderr() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("BAGDOT_LOG").unwrap_or_else(|_| "warn".into());
    // This fails only if a subscriber is set already, which is as good. Without
    // `log_internal_errors`, a standard error that cannot be written ends nothing.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .log_internal_errors(false);
    let _ = log.try_init();
}

/// A progress bar on a terminal; it shows nothing elsewhere, or with `--quiet`.
pub(super) struct Bar {
    bar: ProgressBar,
    label: String,
    visible: bool,
}

impl Bar {
    pub(super) fn new(quiet: bool) -> Self {
        let visible = !quiet && io::stderr().is_terminal();
        let target = if visible {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self { bar: ProgressBar::with_draw_target(None, target), label: String::new(), visible }
    }

    /// Shows that `done` of `total` bytes or pieces are done.
    pub(super) fn show(&mut self, label: &str, done: u64, total: u64, bytes: bool) {
        if !self.visible {
            return;
        }
        if self.label != label {
            self.label = label.into();
            let counts =
                if bytes { "{bytes}/{total_bytes}, {bytes_per_sec}" } else { "{pos}/{len}" };
            let template = format!("{{prefix:>14}} {{bar:32}} {counts} {{msg}} eta {{eta}}");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                self.bar.set_style(style.progress_chars("=> "));
            }
            self.bar.reset();
            self.bar.set_prefix(label.to_owned());
        }
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
    }

    pub(super) fn message(&self, message: String) {
        if self.visible {
            self.bar.set_message(message);
        }
    }

    /// Prints a line above the bar.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    /// Prints a warning above the bar. `--quiet` does not silence it, since a warning may mean that
    /// the results are worth little.
    pub(super) fn warn(&self, warning: impl Display) {
        self.say(&format!("bagdot: warning: {warning}"));
    }

    /// Prints the warnings about the rows that were read.
    pub(super) fn report(&self, report: &ReadReport) {
        report.notes.iter().for_each(|note| self.warn(note));
        self.report_unknown(None, &report.coverage);
    }

    /// Warns of columns with many values that training has not seen, and of side tables that lack
    /// many keys. `part` names the rows if there are several parts.
    pub(super) fn report_unknown(&self, part: Option<Part>, coverage: &Coverage) {
        let part = part.map(|part| format!("{part} rows: ")).unwrap_or_default();
        coverage.notable().for_each(|share| self.warn(format_args!("{part}{share}")));
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// The signals that ask the program to end. Until [`Self::defer`] a signal ends it at once; from
/// then on the first one is a request, and the second one ends it. The exit status is 128 plus the
/// number of the signal, as in shells.
pub(super) struct Signals {
    received: Arc<AtomicUsize>,
    at_once: Arc<AtomicBool>,
}

impl Signals {
    pub(super) fn watch() -> Self {
        let signals = Self { received: Arc::default(), at_once: Arc::new(AtomicBool::new(true)) };
        for signal in
            [SIGINT, SIGTERM].into_iter().chain(HANGUP).filter(|&signal| !is_ignored(signal))
        {
            if let Err(error) = signals.register(signal) {
                tracing::warn!("signal {signal} will end the program at once: {error}");
            }
        }
        signals
    }

    /// Registers the handlers of a signal, which run in the order of their registration: the
    /// shutdown must read `at_once` before the last handler sets it.
    fn register(&self, signal: i32) -> io::Result<()> {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&self.at_once))?;
        flag::register_usize(signal, Arc::clone(&self.received), signal.unsigned_abs() as usize)?;
        flag::register(signal, Arc::clone(&self.at_once)).map(|_| ())
    }

    /// Makes the first signal a request, because there is work to finish first.
    pub(super) fn defer(&self) {
        self.at_once.store(false, Ordering::Relaxed);
    }

    /// Returns the signal that was received last.
    pub(super) fn received(&self) -> Option<u8> {
        u8::try_from(self.received.load(Ordering::Relaxed)).ok().filter(|&signal| signal > 0)
    }

    /// Returns an error if a signal was received.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let error =
            |signal| CliError::Signal { signal, said: "stopped; nothing was written".into() };
        self.received().map_or(Ok(()), |signal| Err(error(signal)))
    }
}

#[cfg(unix)]
const HANGUP: Option<i32> = Some(signal_hook::consts::SIGHUP);
#[cfg(not(unix))]
const HANGUP: Option<i32> = None;

/// Returns whether the program was started with a signal ignored, as by `nohup`. Only Linux tells
/// this; elsewhere the result is `false`.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Formats a figure; `-` stands for one that is not defined.
pub(super) fn figure(value: Option<f64>) -> String {
    // The sum turns -0.0 into 0.0.
    value.map_or_else(|| "-".into(), |value| format!("{:.4}", (value * 1e4).round() / 1e4 + 0.0))
}

/// Prints a table on standard output: the first column to the left, the others to the right.
pub(super) fn print_table(head: &[&str], rows: &[Vec<String>]) -> CliResult {
    let head = head.iter().map(|name| name.to_string()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(&head)
        .chain(rows)
        .map(|cells: &Vec<String>| cells.iter().map(|cell| Shown(cell).to_string()).collect())
        .collect();
    let width = |column: usize| {
        lines.iter().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    for cells in &lines {
        let cell = |(column, (text, width)): (usize, (&String, &usize))| match column {
            0 => format!("{text:<width$}"),
            _ => format!("{text:>width$}"),
        };
        let cells: Vec<String> = cells.iter().zip(&widths).enumerate().map(cell).collect();
        print_line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Formats the metrics of a set of rows in one line.
pub(super) fn metrics_line(metrics: &Metrics) -> String {
    let loss = metrics.loss.map(|loss| format!("  loss {loss:.4}")).unwrap_or_default();
    format!(
        "auc {}  logloss {:.4}{loss}  ne {}  calibration {}  accuracy {:.4}",
        figure(metrics.auc),
        metrics.logloss,
        figure(metrics.ne),
        figure(metrics.calibration),
        metrics.accuracy
    )
}
