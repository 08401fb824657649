//! Models of data frames: the training loop of the program, and the models in its directories.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bagdot::data::{DataConfig, LabelUse, Note, Source};
use bagdot::ops::Backend;
use bagdot::train::{
    Config, EvaluationRecord, Manifest, Observer, RunDir, TrainError, TrainedModel, Trainer,
};
use bagdot::{Cpu, Cuda};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::device::{cpu, own_cuda};
use crate::error::{op_error, train_error};
use crate::frame::{Column, Frame};
use crate::output::Owned;

/// The time between two looks at pending signals.
const TICK: Duration = Duration::from_millis(100);

/// The device that a text names.
enum Device {
    Cpu(Cpu),
    Cuda(Cuda),
}

fn device_of(py: Python<'_>, name: &str, threads: Option<usize>) -> PyResult<Device> {
    let failed = |error| op_error(py, error);
    let number = match name.split_once(':') {
        None if name == "cpu" => {
            let cpu = threads.map_or_else(cpu, Cpu::with_threads);
            return Ok(Device::Cpu(cpu.map_err(failed)?));
        }
        None if name == "cuda" => Some(0),
        Some(("cuda", number)) => number.parse().ok(),
        _ => None,
    };
    let number = number.ok_or_else(|| {
        PyValueError::new_err(format!("device is {name:?}, but must be `cpu`, `cuda` or `cuda:N`"))
    })?;
    Ok(Device::Cuda(own_cuda(number).map_err(failed)?))
}

/// An event of training.
enum Event {
    Evaluation(Box<EvaluationRecord>),
    Note(String),
}

/// Sends the events of training to the thread of Python.
struct Sender {
    events: mpsc::Sender<Event>,
    stop: Arc<AtomicBool>,
}

impl Observer for Sender {
    fn note(&mut self, note: &Note) {
        // Nobody listens any more if Python has stopped waiting.
        let _ = self.events.send(Event::Note(note.to_string()));
    }

    fn evaluation(&mut self, record: &EvaluationRecord) {
        let _ = self.events.send(Event::Evaluation(Box::new(record.clone())));
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Reads a configuration that was written as JSON.
fn config_of(json: &str) -> PyResult<Config> {
    let invalid = |error: String| PyValueError::new_err(error);
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|error| invalid(error.to_string()))?;
    let text = toml::to_string(&value).map_err(|error| invalid(error.to_string()))?;
    Config::parse(&text).map_err(invalid)
}

fn fit<D: Backend>(
    device: D,
    config: Config,
    folder: &Path,
    out: &Path,
    mut sender: Sender,
) -> Result<(), TrainError> {
    let (dir, _) = RunDir::create(out)?;
    Trainer::new(device, config, folder, dir, &mut sender)?.run(&mut sender).map(drop)
}

/// Trains a model by a configuration, a JSON text, and writes it to the directory `out`.
/// `on_evaluation` receives the record of each evaluation as JSON. Returns the notes on the data.
#[pyfunction]
#[pyo3(signature = (config, folder, out, *, device="cpu", threads=None, on_evaluation=None))]
pub(crate) fn train(
    py: Python<'_>,
    config: &str,
    folder: PathBuf,
    out: PathBuf,
    device: &str,
    threads: Option<usize>,
    on_evaluation: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<String>> {
    let config = config_of(config)?;
    let device = device_of(py, device, threads)?;
    let (events, received) = mpsc::channel();
    let (received, stop) = (Mutex::new(received), Arc::new(AtomicBool::new(false)));
    let sender = Sender { events, stop: Arc::clone(&stop) };
    // Signals are seen by the main thread alone, so that training runs on another one.
    let work = move || match device {
        Device::Cpu(cpu) => cpu.clone().install(|| fit(cpu, config, &folder, &out, sender)),
        Device::Cuda(cuda) => fit(cuda, config, &folder, &out, sender),
    };
    let thread = std::thread::Builder::new().name("bagdot-train".into()).spawn(work);
    let thread = thread.map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    let (mut notes, mut failed) = (Vec::new(), None);
    loop {
        let event = py.detach(|| match received.lock() {
            Ok(received) => received.recv_timeout(TICK),
            Err(_) => Err(mpsc::RecvTimeoutError::Disconnected),
        });
        let heard = match event {
            Ok(Event::Note(note)) => {
                notes.push(note);
                Ok(())
            }
            Ok(Event::Evaluation(record)) => on_evaluation.map_or(Ok(()), |call| {
                let json = serde_json::to_string(&record).unwrap_or_default();
                call.call1((json,)).map(drop)
            }),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(()),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
        if let Err(error) = heard.and_then(|()| py.check_signals()) {
            stop.store(true, Ordering::Relaxed);
            failed.get_or_insert(error);
        }
    }
    let result = py.detach(|| thread.join());
    match (failed, result) {
        (Some(error), _) => Err(error),
        (None, Ok(result)) => result.map(|()| notes).map_err(|error| train_error(py, error)),
        (None, Err(_)) => Err(PyRuntimeError::new_err("training ended unexpectedly")),
    }
}

/// A model on its device.
enum Loaded {
    Cpu(Cpu, TrainedModel<Cpu>),
    Cuda(TrainedModel<Cuda>),
}

impl Loaded {
    fn manifest(&self) -> &Manifest {
        match self {
            Self::Cpu(_, model) => model.manifest(),
            Self::Cuda(model) => model.manifest(),
        }
    }
}

/// A trained model, opened from a directory of the program or of `train`.
#[pyclass(frozen, name = "Model", module = "bagdot._bagdot")]
pub(crate) struct Model {
    loaded: Mutex<Loaded>,
    config: DataConfig,
    /// The manifest, as JSON.
    #[pyo3(get)]
    manifest: String,
}

#[pymethods]
impl Model {
    #[new]
    #[pyo3(signature = (path, *, device="cpu", threads=None))]
    fn new(py: Python<'_>, path: PathBuf, device: &str, threads: Option<usize>) -> PyResult<Self> {
        let device = device_of(py, device, threads)?;
        let open = || match device {
            Device::Cpu(cpu) => {
                let model = cpu.clone().install(|| TrainedModel::open(cpu.clone(), &path));
                Ok(Loaded::Cpu(cpu, model?))
            }
            Device::Cuda(cuda) => Ok(Loaded::Cuda(TrainedModel::open(cuda, &path)?)),
        };
        let loaded = py.detach(open).map_err(|error| train_error(py, error))?;
        let manifest = serde_json::to_string(loaded.manifest()).unwrap_or_default();
        let config = loaded.manifest().config.data.clone();
        Ok(Self { loaded: Mutex::new(loaded), config, manifest })
    }

    /// Returns the probability of each row, and a warning for each column with many unknown values.
    fn predict(&self, py: Python<'_>, frame: &Bound<'_, Frame>) -> PyResult<(Owned, Vec<String>)> {
        let frame = frame.get();
        let text = frame.text(self.columns(frame), None)?;
        let reader = Box::new(BufReader::new(text));
        let source = || [Source::Reader { name: "X".into(), reader }];
        let mut probabilities = Vec::new();
        let mut keep = |batch: &[f32]| -> Result<(), TrainError> {
            probabilities.extend_from_slice(batch);
            Ok(())
        };
        let predict = || {
            let Ok(mut loaded) = self.loaded.lock() else { return Ok(None) };
            let use_labels = LabelUse::Optional;
            match &mut *loaded {
                Loaded::Cpu(cpu, model) => cpu.clone().install(|| {
                    model.predict(source(), use_labels, None, |batch, _, _| keep(batch))
                }),
                Loaded::Cuda(model) => {
                    model.predict(source(), use_labels, None, |batch, _, _| keep(batch))
                }
            }
            .map(Some)
        };
        let report = py.detach(predict).map_err(|error| train_error(py, error))?;
        let report =
            report.ok_or_else(|| PyRuntimeError::new_err("another thread lost the model"))?;
        let warnings = report.coverage.notable().map(ToString::to_string).collect();
        let owned = Owned::of_f32(&probabilities).map_err(|e| op_error(py, e))?;
        Ok((owned, warnings))
    }
}

impl Model {
    /// Returns the columns of a frame that the encoder reads.
    fn columns(&self, frame: &Frame) -> Vec<Column> {
        let config = &self.config;
        let plain = config.dense.iter().map(|dense| (dense.column.clone(), None));
        let sparse = config
            .categorical
            .iter()
            .map(|column| (column.column.clone(), column.separator.clone()));
        let derived = config.derive.iter().flat_map(|derive| &derive.from);
        let keys = config.join.iter().map(|join| join.on.left());
        let others = derived.map(String::as_str).chain(keys).map(|name| (name.to_owned(), None));
        let mut taken = BTreeSet::new();
        sparse
            .chain(plain)
            .chain(others)
            .filter(|(name, _)| frame.has(name) && taken.insert(name.clone()))
            .collect()
    }
}
