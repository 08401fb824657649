//! Tests of training runs on a slice of the clothing reviews, on CUDA and on the CPU: both give the
//! same model, checkpoints move from one to the other, and interrupted runs end in the same bits.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::common::cuda::{emulator, on_every_schedule};
use bagdot::data::{LabelUse, Source};
use bagdot::ops::Backend;
use bagdot::train::{
    Config, ModelDir, Observer, Outcome, RunDir, TrainError, TrainedModel, Trainer, memory_of,
};
use bagdot::{Cpu, Cuda};
use bagdot_emulator::Emulator;

const REVIEWS: &[u8] = include_bytes!("../../data/clothing/reviews.csv.gz");
const ROWS: usize = 120;
/// The configuration. The last batch of an epoch has fewer rows.
const CONFIG: &str = r#"
[data]
train = "reviews.csv"
label = "recommended"
dense = [{ column = "age", transform = "zscore", bins = 4 }]
categorical = [{ column = "department" }, { column = "words", separator = " ", min_count = 2 }]

[model]
bottom_mlp = [8, 4]
top_mlp = [8]

[train]
epochs = 2
batch_size = 32
optimizer = { kind = "sgd", learning_rate = 0.1 }
"#;
/// The largest difference of losses and probabilities of two devices at the end of a run. It is
/// chosen, since error bounds would be too large after a run; `dlrm_clothing` checks those of each
/// step. The devices sum in different orders, which makes each value differ by some `u = 2⁻²⁴` of
/// its terms, and a few steps of SGD amplify that little. A wrong step changes the second digit.
const APART: f64 = 1e-5;

/// Returns a folder with the first reviews.
fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let lines = BufReader::new(flate2::read::GzDecoder::new(REVIEWS)).lines().take(1 + ROWS);
    let text: String = lines.map(|line| line.unwrap() + "\n").collect();
    std::fs::write(folder.path().join("reviews.csv"), text).unwrap();
    folder
}

/// An observer that notes the loss of every batch and stops the run after some batches.
#[derive(Default)]
struct Losses {
    losses: Vec<f64>,
    stop_after: Option<usize>,
    asked: Cell<usize>,
}

impl Observer for Losses {
    fn batch(&mut self, _epoch: u32, _done: u64, _total: u64, loss: f64) {
        self.losses.push(loss);
    }

    fn stop_requested(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.stop_after == Some(self.asked.get())
    }
}

/// Checks that a run allocates as much memory as was planned. Each bag has one id, so that all
/// batches have as many. The plan then lacks only the descriptions of the tables and the room to
/// which the buffers of batches are rounded up.
#[test]
fn memory_is_what_was_planned() {
    ["f32", "bf16"].into_iter().for_each(memory_in_a_precision_is_what_was_planned);
}

fn memory_in_a_precision_is_what_was_planned(precision: &str) {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    let folder = project();
    let text = CONFIG.replace(
        r#", { column = "words", separator = " ", min_count = 2 }"#,
        r#", { column = "class" }"#,
    );
    let text = text.replace("[model]", &format!("[model]\nprecision = \"{precision}\""));
    let config = Config::parse(&text.replace("sgd", "adam")).unwrap();
    let cuda = Cuda::new(0).unwrap();
    let before = alone.used_bytes(0);
    let plan = memory_of(&cuda, &config, folder.path()).unwrap();
    assert_eq!(alone.used_bytes(0), before, "a plan allocates nothing");
    assert_eq!(plan.parts.iter().map(|(_, bytes)| bytes).sum::<usize>(), plan.total());
    let path = folder.path().join("planned");
    let observer = &mut Peak { emulator: &alone, most: Cell::new(0) };
    let (dir, _) = RunDir::create(&path).unwrap();
    Trainer::new(cuda.clone(), config, folder.path(), dir, observer)
        .unwrap()
        .run(observer)
        .unwrap();
    let taken = observer.most.get() - before;
    let of_batches = plan.parts.last().unwrap().1;
    assert!(
        plan.total() <= taken && taken <= plan.total() + 2 * of_batches + 4096,
        "{taken} bytes were allocated, not\n{plan}"
    );
}

/// An observer that notes the peak of the memory in use, at each batch.
struct Peak<'a> {
    emulator: &'a Emulator,
    most: Cell<usize>,
}

impl Observer for Peak<'_> {
    fn stop_requested(&self) -> bool {
        self.most.set(self.most.get().max(self.emulator.used_bytes(0)));
        false
    }
}

#[test]
fn no_memory_left_is_told_with_the_plan() {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    let folder = project();
    let cuda = Cuda::new(0).unwrap();
    alone.set_memory(alone.used_bytes(0) + 8_000);
    let error = train(&cuda, folder.path(), "small", &mut Losses::default()).unwrap_err();
    assert!(matches!(error, TrainError::OutOfMemory { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("what takes memory is about\ntables ") && text.contains("\nall "),
        "{text}"
    );
}

/// Starts a run, or resumes it if it was stopped.
fn train<D: Backend>(
    device: &D,
    folder: &Path,
    name: &str,
    losses: &mut Losses,
) -> Result<Outcome, TrainError> {
    train_in("f32", device, folder, name, losses)
}

/// Does what [`train`] does, with layers of this precision.
fn train_in<D: Backend>(
    precision: &str,
    device: &D,
    folder: &Path,
    name: &str,
    losses: &mut Losses,
) -> Result<Outcome, TrainError> {
    let config = CONFIG.replace("[model]", &format!("[model]\nprecision = \"{precision}\""));
    let path = folder.join(name);
    let trainer = match RunDir::resume(&path) {
        Ok((dir, manifest)) => Trainer::resume(device.clone(), dir, manifest, losses)?,
        Err(_) => {
            let (dir, _) = RunDir::create(&path)?;
            Trainer::new(device.clone(), Config::parse(&config).unwrap(), folder, dir, losses)?
        }
    };
    trainer.run(losses)
}

/// Stops a run in the first epoch and resumes it on another device.
fn train_in_two_parts<A: Backend, B: Backend>(
    first: &A,
    then: &B,
    folder: &Path,
    name: &str,
) -> Losses {
    let mut losses = Losses { stop_after: Some(2), ..Losses::default() };
    let stopped = train(first, folder, name, &mut losses);
    assert!(matches!(stopped, Err(TrainError::Interrupted { epoch: 1 })), "{stopped:?}");
    losses.stop_after = None;
    train(then, folder, name, &mut losses).unwrap();
    losses
}

/// Returns the checksum of the best model.
fn model_crc(folder: &Path, name: &str) -> u32 {
    ModelDir::open(&folder.join(name)).unwrap().1.files["best"].crc32
}

fn predict<D: Backend>(device: &D, folder: &Path, name: &str) -> Vec<f64> {
    let mut model = TrainedModel::open(device.clone(), &folder.join(name)).unwrap();
    let mut all = vec![];
    let source = Source::from(folder.join("reviews.csv"));
    let visit = |probabilities: &[f32], _: &[f32], _| {
        all.extend(probabilities.iter().map(|&p| f64::from(p)));
        Ok::<(), TrainError>(())
    };
    model.predict([source], LabelUse::Optional, None, visit).unwrap();
    assert_eq!(all.len(), ROWS);
    all
}

#[track_caller]
fn assert_near(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let off = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
    assert!(off <= APART, "{what}: {off:e} apart");
}

#[test]
fn losses_and_predictions_are_those_of_the_cpu() {
    on_every_schedule(|cuda| {
        let (folder, cpu) = (project(), Cpu::on_current_thread());
        let folder = folder.path();
        let [mut on_cpu, mut on_cuda] = [Losses::default(), Losses::default()];
        train(&cpu, folder, "cpu", &mut on_cpu).unwrap();
        train(cuda, folder, "cuda", &mut on_cuda).unwrap();
        assert_near("losses", &on_cuda.losses, &on_cpu.losses);
        assert!(
            (on_cpu.losses[0] - on_cpu.losses[5]).abs() > 100.0 * APART,
            "{:?}: the losses hardly changed",
            on_cpu.losses
        );
        let want = predict(&cpu, folder, "cpu");
        assert_near("predictions", &predict(cuda, folder, "cuda"), &want);
        assert_near(
            "predictions on CUDA by the model of the CPU",
            &predict(cuda, folder, "cpu"),
            &want,
        );
        assert_near(
            "predictions on the CPU by the model of CUDA",
            &predict(&cpu, folder, "cuda"),
            &want,
        );
    });
}

#[test]
fn a_run_that_was_stopped_ends_in_the_same_bits() {
    on_every_schedule(|cuda| {
        let folder = project();
        let folder = folder.path();
        let mut straight = Losses::default();
        train(cuda, folder, "straight", &mut straight).unwrap();
        let resumed = train_in_two_parts(cuda, cuda, folder, "resumed");
        assert_eq!(resumed.losses, straight.losses);
        assert_eq!(model_crc(folder, "resumed"), model_crc(folder, "straight"));
    });
}

/// Compares runs in bf16. Both devices round each value between layers to 8 bits, at times to
/// different neighbours, which changes the loss by some tenths of a percent. The tolerance is ten
/// times that, and a tenth of the change by training.
#[test]
fn runs_in_bf16_are_those_of_the_cpu_about_and_can_be_resumed() {
    on_every_schedule(|cuda| {
        let (folder, cpu) = (project(), Cpu::on_current_thread());
        let folder = folder.path();
        let run = |stop_after, name| {
            let mut losses = Losses { stop_after, ..Losses::default() };
            while train_in("bf16", cuda, folder, name, &mut losses).is_err() {
                losses.stop_after = None;
            }
            losses.losses
        };
        let straight = run(None, "straight");
        assert_eq!(run(Some(2), "resumed"), straight);
        assert_eq!(model_crc(folder, "resumed"), model_crc(folder, "straight"));
        let mut on_cpu = Losses::default();
        train_in("bf16", &cpu, folder, "cpu", &mut on_cpu).unwrap();
        let apart =
            straight.iter().zip(&on_cpu.losses).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 0.01 && straight.len() == on_cpu.losses.len(), "{apart} apart");
        assert_ne!(straight, on_cpu.losses, "equal losses: the layers did not compute in bf16");
    });
}

#[test]
fn a_run_can_move_between_cpu_and_cuda() {
    on_every_schedule(|cuda| {
        let (folder, cpu) = (project(), Cpu::on_current_thread());
        let folder = folder.path();
        let mut straight = Losses::default();
        train(&cpu, folder, "straight", &mut straight).unwrap();
        let there = train_in_two_parts(&cpu, cuda, folder, "there");
        assert_near("from the CPU to CUDA", &there.losses, &straight.losses);
        let back = train_in_two_parts(cuda, &cpu, folder, "back");
        assert_near("from CUDA to the CPU", &back.losses, &straight.losses);
    });
}
