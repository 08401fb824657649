//! `bagdot train`

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::device::{Common, on_device};
use super::error::{CliError, CliResult};
use super::init::{Syntax, draft};
use super::terminal::{Bar, Signals, metrics_line, print_line, say};
use crate::data::{Encoder, Note, Part, Splits};
use crate::ops::{Backend, Loss};
use crate::train::{
    Config, EvaluationRecord, EventFile, Observer, Outcome, ReportOptions, RunDir, TrainError,
    Trainer,
};

/// Train a model by a configuration file, and measure it on the test rows.
///
/// The model directory receives the model, `metrics.jsonl` with a line for each evaluation, and
/// `report.html` with curves. A model that is already there stays in use until the new one is
/// measured for the first time. It is then kept beside it as DIR~1, DIR~2, ….
#[derive(clap::Args, Debug)]
pub(super) struct Train {
    /// The configuration of data, model and training, as `bagdot init` writes it; see examples/.
    /// With --label, a file of data
    config: PathBuf,
    /// Train on a file of data, with the configuration that `bagdot init` would write for this
    /// label
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// The model directory [default: runs/NAME, with the NAME of the configuration file or of the
    /// data]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue from the last checkpoint in the model directory; the result is the same as without
    /// the interruption
    #[arg(long)]
    resume: bool,
    /// Go on from the model in this directory with the rows of the configuration: known values keep
    /// their rows, new ones get new rows, and statistics of numbers stay. Optimizer and schedule
    /// begin anew. With --resume, the run goes on from its own checkpoint
    #[arg(long, value_name = "MODEL")]
    from: Option<PathBuf>,
    /// The seed of the initial parameters and of the order of the rows
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The largest number of passes over the training rows
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// The number of rows of a step
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Also write the metrics of each evaluation for TensorBoard, into a file in this folder
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Measure at the end how much worse the model is if a column is shuffled, for the report
    #[arg(long)]
    importance: bool,
    /// Print one JSON object with the test figures on standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

impl Train {
    pub(super) fn run(&self) -> CliResult {
        let (mut config, folder, text) = self.config()?;
        let train = &mut config.train;
        train.seed = self.seed.unwrap_or(train.seed);
        train.epochs = self.epochs.unwrap_or(train.epochs);
        train.batch_size = self.batch_size.unwrap_or(train.batch_size);
        if train.epochs == 0 || train.batch_size == 0 {
            return Err(CliError::Usage("--epochs and --batch-size must be 1 or more".into()));
        }
        on_device!(self.common, device => self.train(device, config, &folder, text))
    }

    /// Reads the configuration, or drafts one for a file of data. Returns it with the folder at
    /// which its paths start, and with its text.
    fn config(&self) -> Result<(Config, PathBuf, String), CliError> {
        let Some(label) = &self.label else {
            return Config::load_with_text(&self.config).map_err(|error| match is_data(&error) {
                true => CliError::Usage(format!(
                    "{} is no configuration: to train on a file of data, name the column to \
                     predict with --label, or write a configuration with bagdot init",
                    self.config.display()
                )),
                false => error.into(),
            });
        };
        let folder = PathBuf::from(".");
        let data = std::slice::from_ref(&self.config);
        let draft = draft(data, Some(label), Syntax::default(), &folder, self.common.quiet)?;
        if !self.common.quiet {
            say(&draft.summary);
        }
        let mut config = Config::parse(&draft.text).map_err(CliError::Usage)?;
        config.data.find_files(&folder)?;
        Ok((config, folder, draft.text))
    }

    fn train<D: Backend>(
        &self,
        device: D,
        config: Config,
        folder: &Path,
        text: String,
    ) -> CliResult {
        let path =
            self.out.clone().unwrap_or_else(|| default_dir(&self.config, self.label.is_some()));
        let mut screen = Screen::new(self.common.quiet, &path, config.train.epochs);
        let loss = config.train.loss;
        let trainer = if self.resume {
            let (dir, manifest) = RunDir::resume(&path)?;
            if manifest.config != config {
                let reason = "it was trained with another configuration or other flags: use those, \
                              or start again without --resume";
                return Err(TrainError::Model { path, reason: reason.into() }.into());
            }
            screen.say(&format!(
                "resuming {} after {} steps",
                path.display(),
                manifest.progress.step
            ));
            Trainer::resume(device, dir, manifest, &mut screen)?
        } else {
            refuse_inputs_within(&path, &config.data.inputs(folder))?;
            let (dir, interrupted) = RunDir::create(&path)?;
            if let Some(interrupted) = interrupted {
                let (path, interrupted) = (path.display(), interrupted.display());
                screen.announce(&format!(
                    "the run that was interrupted in {path} is now in {interrupted}"
                ));
            }
            match &self.from {
                Some(from) => {
                    Trainer::continue_from(device, config, folder, dir, from, &mut screen)?
                }
                None => Trainer::new(device, config, folder, dir, &mut screen)?,
            }
        };
        let events = self.tensorboard.as_deref().map(|folder| {
            let step = trainer.manifest().progress.step;
            EventFile::create(folder, step).map_err(|source| CliError::Output {
                name: format!("events in {}", folder.display()),
                source,
            })
        });
        screen.events = events.transpose()?;
        let result = trainer.report_with(self.report(text)).run(&mut screen);
        screen.bar.clear();
        let outcome = result.map_err(|error| match (error, screen.signals.received()) {
            (error @ TrainError::Interrupted { .. }, Some(signal)) => {
                CliError::Signal { signal, said: error.to_string() }
            }
            (error, _) => error.into(),
        })?;
        screen.write_events(|events| events.outcome(&outcome));
        screen.say(&format!("model and report.html are in {}", path.display()));
        screen.warn_if_worthless(loss, &outcome);
        self.print(&outcome)
    }

    /// Returns the settings of the report: the configuration as it was written, in `text`, with the
    /// flags that override it.
    fn report(&self, text: String) -> ReportOptions {
        let flags = [
            ("--seed", self.seed),
            ("--epochs", self.epochs.map(u64::from)),
            ("--batch-size", self.batch_size.map(|size| size as u64)),
        ];
        let flags: String = flags
            .into_iter()
            .filter_map(|(flag, value)| Some(format!(" {flag} {}", value?)))
            .collect();
        let text = match flags.as_str() {
            "" => text,
            flags => format!("{}\n\n# and on the command line:{flags}", text.trim_end()),
        };
        ReportOptions { config_text: Some(text), importance: self.importance }
    }

    fn print(&self, outcome: &Outcome) -> CliResult {
        if self.json {
            print_line(&serde_json::to_string(outcome).unwrap_or_default())?;
        } else if let Some(test) = &outcome.test {
            print_line(&format!(
                "test: {}  (best epoch {}, step {})",
                metrics_line(test),
                outcome.best_epoch,
                outcome.best_step
            ))?;
        }
        Ok(())
    }
}

/// Returns whether a file that is no configuration is most likely one of data: no TOML, or packed.
fn is_data(error: &TrainError) -> bool {
    const NAMES: [&str; 6] = [".csv", ".tsv", ".psv", ".txt", ".gz", ".zst"];
    let path = match error {
        TrainError::Config { path, message } if message.contains("this is no TOML") => path,
        TrainError::Io { path, source, .. } if source.kind() == ErrorKind::InvalidData => path,
        _ => return false,
    };
    let path = path.to_string_lossy().to_lowercase();
    NAMES.iter().any(|end| path.ends_with(end))
}

/// Returns `runs/NAME`, with the name of the configuration file; with that of a file of data up to
/// its first dot, or of the folder of a pattern.
fn default_dir(config: &Path, is_data: bool) -> PathBuf {
    let name = match is_data {
        false => config.file_stem().map(|name| name.to_string_lossy().into_owned()),
        true => config
            .components()
            .rev()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .find(|part| !part.contains('*'))
            .and_then(|part| part.split('.').find(|part| !part.is_empty()).map(str::to_owned)),
    };
    Path::new("runs").join(name.unwrap_or_else(|| "model".into()))
}

/// Refuses inputs in the model directory: they could be mistaken for files of an earlier run, and
/// be moved or removed with them.
fn refuse_inputs_within(out: &Path, inputs: &[PathBuf]) -> CliResult {
    let Ok(out) = out.canonicalize() else { return Ok(()) };
    let is_within =
        |input: &&PathBuf| input.canonicalize().is_ok_and(|input| input.starts_with(&out));
    match inputs.iter().find(is_within) {
        Some(input) => {
            let (input, out) = (input.display(), out.display());
            Err(CliError::Usage(format!(
                "{input} is one of the inputs, and lies in {out}: choose another --out"
            )))
        }
        None => Ok(()),
    }
}

/// Shows the progress of training on standard error.
struct Screen {
    bar: Bar,
    quiet: bool,
    path: PathBuf,
    epochs: u32,
    signals: Signals,
    /// The events for TensorBoard.
    events: Option<EventFile>,
}

impl Screen {
    fn new(quiet: bool, path: &Path, epochs: u32) -> Self {
        let (bar, signals) = (Bar::new(quiet), Signals::watch());
        Self { bar, quiet, path: path.into(), epochs, signals, events: None }
    }

    /// Writes events. If that fails, there is a warning, and no further try: events are not worth
    /// the end of a run.
    fn write_events(&mut self, write: impl FnOnce(&mut EventFile) -> io::Result<()>) {
        if let Some(Err(error)) = self.events.as_mut().map(write) {
            self.events = None;
            self.bar.warn(format_args!("no more events for TensorBoard: {error}"));
        }
    }

    /// Warns of a model that is no better than one probability for all rows.
    fn warn_if_worthless(&self, loss: Loss, outcome: &Outcome) {
        let measured = [("validation", outcome.validation), ("test", outcome.test)];
        let Some((rows, metrics)) =
            measured.into_iter().find_map(|(rows, metrics)| Some((rows, metrics?)))
        else {
            return;
        };
        let (of_model, of_constant) = (metrics.minimised(), metrics.loss_of_a_constant(loss));
        if let Some(of_constant) = of_constant.filter(|of_constant| of_model >= *of_constant) {
            self.bar.warn(format_args!(
                "the model is no better than always predicting the same: its loss on the {rows} \
                 rows is {of_model:.4}, \
                 that of the best constant {of_constant:.4}"
            ));
        }
    }

    /// Prints a line that matters even with `--quiet`.
    fn announce(&self, line: &str) {
        self.bar.say(&format!("bagdot: {line}"));
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            self.bar.say(line);
        }
    }
}

impl Observer for Screen {
    fn reading(&mut self, what: &str, done: u64, total: u64) {
        self.bar.show(what, done, total, true);
    }

    fn note(&mut self, note: &Note) {
        self.bar.warn(note);
    }

    fn ready(&mut self, splits: &Splits, encoder: &Encoder, num_parameters: usize) {
        self.signals.defer();
        let [train, validation, test] =
            [&splits.train, &splits.validation, &splits.test].map(|part| part.len());
        self.say(&format!(
            "{train} training, {validation} validation, {test} test rows; {} dense and {} sparse \
             features; {num_parameters} parameters",
            encoder.num_dense(),
            encoder.features().len()
        ));
        let parts = [
            (Part::Train, &splits.train),
            (Part::Validation, &splits.validation),
            (Part::Test, &splits.test),
        ];
        for (part, rows) in parts {
            self.bar.report_unknown(Some(part), rows.coverage());
        }
    }

    fn batch(&mut self, epoch: u32, done: u64, total: u64, loss: f64) {
        self.bar.show(&format!("epoch {epoch}/{}", self.epochs), done, total, false);
        self.bar.message(format!("loss {loss:.4}"));
    }

    fn skipped(&mut self, epoch: u32, last: u64, count: u64) {
        self.say(&format!(
            "epoch {epoch}: loss or gradients were not finite in {count} batches, the last of \
             them batch {last}: skipped"
        ));
    }

    fn importance(&mut self, done: u64, total: u64) {
        self.bar.show("shuffling", done, total, false);
    }

    fn replaced(&mut self, kept: &Path) {
        let (path, kept) = (self.path.display(), kept.display());
        self.announce(&format!("the model that was in {path} is now in {kept}"));
    }

    fn evaluation(&mut self, record: &EvaluationRecord) {
        self.write_events(|events| events.evaluation(record));
        let (name, metrics) = match &record.validation {
            Some(validation) => ("validation", validation),
            None => ("training", &record.train),
        };
        let within = match record.ends_epoch() {
            true => String::new(),
            false => {
                format!(", {:.0} % (step {})", 100.0 * record.share_of_epoch, record.step)
            }
        };
        self.say(&format!(
            "epoch {}{within}: training logloss {:.4}; {name} {}; {:.0} rows/s{}",
            record.epoch,
            record.train.logloss,
            metrics_line(metrics),
            record.samples_per_second,
            if record.best { "  *" } else { "" }
        ));
    }

    fn stop_requested(&self) -> bool {
        let stops = self.signals.received().is_some();
        if stops {
            self.announce("writing a checkpoint; a second signal ends this at once");
        }
        stops
    }
}
