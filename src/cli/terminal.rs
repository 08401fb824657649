//! Progress bars, numbers for people, and Ctrl-C.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::train::Metrics;

/// The library's messages go to standard error, as `BAGDOT_LOG` says (default: warnings).
pub(super) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BAGDOT_LOG").unwrap_or_else(|_| "warn".into());
    // Fails only if a subscriber is there already, which is as good.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// A progress bar on a terminal; nothing elsewhere, or if it shall be quiet.
pub(super) struct Bar {
    bar: ProgressBar,
    label: String,
    visible: bool,
}

impl Bar {
    pub(super) fn new(quiet: bool) -> Self {
        let visible = !quiet && std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        Self { bar: ProgressBar::with_draw_target(None, target), label: String::new(), visible }
    }

    /// Shows that `done` of `total` are over, in bytes or in pieces.
    pub(super) fn show(&mut self, label: &str, done: u64, total: u64, bytes: bool) {
        if !self.visible {
            return;
        }
        if self.label != label {
            self.label = label.into();
            let counts = if bytes { "{bytes}/{total_bytes}, {bytes_per_sec}" } else { "{pos}/{len}" };
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
        self.bar.suspend(|| eprintln!("{line}"));
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Set by the first Ctrl-C; a second one ends the program at once.
pub(super) fn watch_ctrl_c() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let handler = move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("bagdot: writing a checkpoint; press Ctrl-C again to leave without");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!("Ctrl-C will not write a checkpoint: {error}");
    }
    stop
}

/// The measures of a set of rows, in one line.
pub(super) fn metrics_line(metrics: &Metrics) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.4}"));
    format!(
        "auc {}  logloss {:.4}  ne {}  calibration {}  accuracy {:.4}",
        number(metrics.auc),
        metrics.logloss,
        number(metrics.ne),
        number(metrics.calibration),
        metrics.accuracy
    )
}
