//! Tests of recorded steps of training: they give the bits of steps that are not recorded, for bags
//! of any length. They allocate nothing, wait for nothing, and send nothing but the batch.

use crate::common::cuda::{emulator, on_every_schedule, own, with_cublaslt};
use crate::common::engine::{Batch, state};
use crate::common::*;
use bagdot::backend::cuda::{Buffer, Gemm};
use bagdot::nn::{
    ComputePrecision, Dlrm, DlrmConfig, GroupOptimizer, NamedTensor, Optimizers, Schedule, Staging,
};
use bagdot::ops::{Backend, Device, Optimizer, Pooling, Rounding, Stage, Table, WeightDecay};
use bagdot::{Cpu, Cuda, DType, Error};

const ROWS: [usize; 3] = [40, 7, 300];
const DIM: usize = 8;

/// Returns a batch of `batch_size` samples. The lengths of its bags differ from those of any other
/// seed.
fn batch(batch_size: usize, seed: u64) -> Batch<i64> {
    let tables = ROWS.map(|rows| (rows, DIM));
    let features: Vec<_> =
        POOLINGS.iter().enumerate().map(|(table, &pooling)| feature(table, pooling)).collect();
    let lengths: Vec<usize> =
        (0..3 * batch_size).map(|k| (k * 11 + seed as usize * 5) % (4 + seed as usize)).collect();
    let name = format!("batch {seed}");
    let case = BagCase::new(name, (&tables, &features), &lengths, uniform);
    let labels = draw(batch_size, seed + 50).iter().map(|x| f32::from(*x > 0.0)).collect();
    Batch::new(draw(batch_size * 3, seed), case, labels)
}

/// Returns the batches of two epochs. The last batch of an epoch is smaller.
fn batches() -> Vec<Batch<i64>> {
    [(16, 1), (16, 3), (16, 2), (5, 1), (16, 4), (16, 1), (5, 3)]
        .map(|(size, seed)| batch(size, seed))
        .into()
}

fn model<B: Backend>(device: &B, (optimizer, table_dtype, precision): Kind) -> Dlrm<B> {
    let config = DlrmConfig {
        num_dense: 3,
        bottom_mlp: vec![16, DIM],
        tables: ROWS.map(|num_embeddings| Table { num_embeddings, embedding_dim: DIM }).to_vec(),
        features: POOLINGS
            .iter()
            .enumerate()
            .map(|(table, &pooling)| feature(table, pooling))
            .collect(),
        table_dtype,
        precision,
        top_mlp: vec![8, 1],
        ..DlrmConfig::default()
    };
    let mut model = Dlrm::new(device.clone(), config, 11).unwrap();
    let (weight_decay, rounding) = (WeightDecay::Decoupled(0.01), Rounding::Stochastic { seed: 5 });
    let group = GroupOptimizer { weight_decay, rounding, ..GroupOptimizer::new(optimizer, 0.05) };
    let schedule =
        Schedule { warmup_steps: 4, decay_start: 5, decay_steps: 9, ..Schedule::default() };
    model.optimize_with(Optimizers { tables: group, dense: group, schedule }).unwrap();
    if table_dtype == DType::F32 {
        model.average_with(0.9).unwrap();
    }
    model
}

/// The optimizer of a model, the type of its tables, and the precision of its layers.
type Kind = (Optimizer, DType, ComputePrecision);

const SGD: Kind = (Optimizer::Sgd, DType::F32, ComputePrecision::F32);
const ADAM: Optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.99, eps: 1e-6 };

fn kinds() -> [Kind; 4] {
    [
        (ADAM, DType::F32, ComputePrecision::F32),
        (ADAM, DType::F32, ComputePrecision::BF16),
        (Optimizer::RowwiseAdagrad { eps: 1e-6 }, DType::BF16, ComputePrecision::Tf32),
        (Optimizer::Sgd, DType::F16, ComputePrecision::F16 { loss_scale: 256.0 }),
    ]
}

#[track_caller]
fn assert_same(what: &str, got: &[NamedTensor], want: &[NamedTensor]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert_same_bits(&format!("{what}: {}", want.name), &got.bytes, &want.bytes);
    }
}

fn train_at_once<B: Backend>(device: &B, kind: Kind) -> (Vec<f64>, Vec<NamedTensor>) {
    let mut model = model(device, kind);
    let step = |batch: &Batch<i64>| {
        model.train_step(batch.upload(device).view()).unwrap();
        model.last_loss().unwrap()
    };
    (batches().iter().map(step).collect(), state(&mut model))
}

/// Trains by staged steps, without waiting between them.
fn train_staged<B: Backend>(device: &B, kind: Kind) -> (Vec<f64>, Vec<NamedTensor>) {
    let mut model = model(device, kind);
    let mut staging = Staging::new(device).unwrap();
    let batches = batches();
    let mut losses = device.alloc::<f64>(batches.len()).unwrap();
    for (k, batch) in batches.iter().enumerate() {
        model.train_staged(&mut staging, batch.view()).unwrap();
        model.copy_last_loss(B::slice_mut(&mut losses, k..k + 1)).unwrap();
    }
    device.synchronize().unwrap();
    (device.to_vec(&losses).unwrap(), state(&mut model))
}

fn staged_steps_are_steps_at_once<B: Backend>(device: &B) {
    for kind in kinds() {
        let (want_losses, want) = train_at_once(device, kind);
        let (losses, got) = train_staged(device, kind);
        assert_same_bits(&format!("{kind:?}: losses"), &losses, &want_losses);
        assert_same(&format!("{kind:?}"), &got, &want);
    }
}

backend_suite!(cuda: staged_steps_are_steps_at_once);

/// Trains by staged steps with SGD, which gives the losses of the CPU.
pub fn trains_as_on_the_cpu(cuda: &Cuda) {
    let (losses, _) = train_staged(cuda, SGD);
    let (want, _) = train_staged(&Cpu::on_current_thread(), SGD);
    for (got, want) in losses.iter().zip(&want) {
        assert!((got - want).abs() <= 1e-5 * want.abs(), "{losses:?}, on the CPU {want:?}");
    }
}

#[test]
fn staged_steps_are_steps_at_once_with_cublaslt() {
    let alone = emulator().map(|emulator| emulator.exclusive());
    let Some(cuda) = with_cublaslt() else { return };
    staged_steps_are_steps_at_once(&cuda);
    assert!(
        alone
            .is_none_or(|alone| alone.report().is_empty() && alone.calls()["cublasLtMatmul"] > 100)
    );
}

/// Checks the driver calls of a recorded step: the launch of one graph, a copy for each part of the
/// batch, and events that order them. The host waits only until the copy of the batch before the
/// last one has left its memory.
#[test]
fn a_recorded_step_does_nothing_else() {
    kinds().into_iter().for_each(|kind| a_recorded_step_of_a_kind_does_nothing_else(kind, own));
    kinds().into_iter().for_each(|kind| {
        a_recorded_step_of_a_kind_does_nothing_else(kind, || with_cublaslt().unwrap())
    });
}

fn a_recorded_step_of_a_kind_does_nothing_else(kind: Kind, device: impl Fn() -> Cuda) {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    let cuda = device();
    let mut model = model(&cuda, kind);
    let mut staging = Staging::new(&cuda).unwrap();
    // Both buffers of the staging have held the largest batch, so later ones fit.
    for seed in [4, 4] {
        model.train_staged(&mut staging, batch(16, seed).view()).unwrap();
    }
    cuda.synchronize().unwrap();
    let used = alone.used_bytes(0);
    alone.reset_counters();
    const STEPS: u64 = 5;
    for seed in 0..STEPS {
        model.train_staged(&mut staging, batch(16, seed % 4).view()).unwrap();
    }
    let calls = alone.calls();
    // The copies are dense values, ids, offsets, labels, and the values of the step.
    let wanted = [
        ("cuEventRecord", 2 * STEPS),
        ("cuEventSynchronize", STEPS),
        ("cuGraphLaunch", STEPS),
        ("cuMemcpyHtoDAsync_v2", 5 * STEPS),
        // This call queries whether ops are being recorded, and does not wait.
        ("cuStreamIsCapturing", 2 * STEPS),
        ("cuStreamWaitEvent", 2 * STEPS),
    ];
    let binding = ["cuCtxGetCurrent", "cuCtxSetCurrent"];
    let calls: Vec<_> = calls
        .iter()
        .map(|(name, &n)| (name.as_str(), n))
        .filter(|(name, _)| !binding.contains(name))
        .collect();
    assert_eq!(calls, wanted, "{kind:?}");
    cuda.synchronize().unwrap();
    assert_eq!(alone.used_bytes(0), used);
    assert_eq!(alone.report(), "");
}

/// Checks that no step changes anything from a bad id until it is reported, and that training goes
/// on after that.
#[test]
fn a_bad_id_changes_nothing() {
    on_every_schedule(|cuda| {
        for is_staged in [false, true] {
            let mut model = model(cuda, kinds()[0]);
            let mut staging = Staging::new(cuda).unwrap();
            let mut step = |model: &mut Dlrm<Cuda>, batch: &Batch<i64>| match is_staged {
                true => model.train_staged(&mut staging, batch.view()).unwrap(),
                false => model.train_step(batch.upload(cuda).view()).unwrap(),
            };
            step(&mut model, &batch(16, 4));
            cuda.synchronize().unwrap();
            let before = state(&mut model);
            let mut case = batch(16, 3).case;
            case.indices[20] = 40;
            let bad = Batch::new(draw(16 * 3, 3), case, vec![1.0; 16]);
            step(&mut model, &bad);
            step(&mut model, &batch(16, 3));
            let error = cuda.synchronize().unwrap_err();
            assert!(
                matches!(error, Error::IndexOutOfRange { position: 20, value: 40, .. }),
                "{error}"
            );
            assert_same("after a bad id", &state(&mut model), &before);
            step(&mut model, &batch(16, 3));
            cuda.synchronize().unwrap();
            let after = state(&mut model);
            assert!(
                after.iter().zip(&before).any(|(after, before)| after != before),
                "training must go on"
            );
        }
    });
}

/// Records a step of a model with the layers of Criteo's Kaggle benchmark, of fewer units, and
/// counts its nodes and those of the longest path: a small model takes as long as these do. The
/// sort of the ids, the gradients of weights and the update of the layers are branches.
#[test]
fn a_step_is_a_short_graph() {
    let Some(emulator) = emulator() else { return };
    let of = |precision, gemm| {
        let alone = emulator.exclusive();
        let cuda = Cuda::with_gemm(0, gemm).unwrap();
        let config = DlrmConfig {
            num_dense: 3,
            bottom_mlp: vec![64, 32, 16, DIM],
            tables: ROWS.map(|num_embeddings| Table { num_embeddings, embedding_dim: DIM }).into(),
            features: (0..3).map(|table| feature(table, Pooling::Sum)).collect(),
            precision,
            top_mlp: vec![64, 32, 1],
            ..DlrmConfig::default()
        };
        let mut model = Dlrm::new(cuda.clone(), config, 11).unwrap();
        let sgd = GroupOptimizer::new(Optimizer::Sgd, 0.05);
        model
            .optimize_with(Optimizers { tables: sgd, dense: sgd, schedule: Schedule::default() })
            .unwrap();
        let mut staging = Staging::new(&cuda).unwrap();
        model.train_staged(&mut staging, batch(16, 1).view()).unwrap();
        cuda.synchronize().unwrap();
        let [shape] = alone.graphs()[..] else { panic!("one step is one graph") };
        assert_eq!(alone.report(), "");
        (shape.nodes, shape.longest_path)
    };
    let all = [
        of(ComputePrecision::F32, Gemm::Own),
        of(ComputePrecision::BF16, Gemm::Own),
        of(ComputePrecision::BF16, Gemm::CublasLt),
    ];
    assert_eq!(all, [(27, 20), (27, 20), (31, 24)]);
}

/// Checks that a recording keeps the buffers that it names, and that all memory is freed in the
/// end.
#[test]
fn recordings_keep_what_they_name() {
    on_every_schedule(|cuda| {
        let mut first = model(cuda, SGD);
        let mut staging = Staging::new(cuda).unwrap();
        first.train_staged(&mut staging, batch(16, 4).view()).unwrap();
        // Larger buffers replace those of the staging, which a recording names.
        let mut second = model(cuda, SGD);
        second.train_staged(&mut staging, batch(64, 9).view()).unwrap();
        second.train_staged(&mut staging, batch(64, 8).view()).unwrap();
        drop(staging);
        let mut staging = Staging::new(cuda).unwrap();
        first.train_staged(&mut staging, batch(16, 4).view()).unwrap();
        cuda.synchronize().unwrap();
        drop((first, second));
    });
    if let Some(emulator) = emulator() {
        let alone = emulator.exclusive();
        let cuda = Cuda::new(0).unwrap();
        let before = alone.used_bytes(0);
        let mut model = model(&cuda, SGD);
        let mut staging = Staging::new(&cuda).unwrap();
        for seed in 1..6 {
            model.train_staged(&mut staging, batch(16, seed).view()).unwrap();
        }
        drop(staging);
        drop(model);
        assert_eq!(alone.used_bytes(0), before, "all memory is freed in the end");
    }
}

/// Checks that a failure or a panic ends a recording: later ops run, and memory is freed.
#[test]
fn a_recording_that_fails_ends() {
    on_every_schedule(|cuda| {
        let fails: [fn() -> bagdot::Result<()>; 2] =
            [|| Err(Error::Recording { op: "test" }), || panic!("on purpose")];
        for fail in fails {
            let (source, mut target) = (upload(cuda, &[2.0f32; 4]), cuda.alloc::<f32>(4).unwrap());
            let copy =
                |target: &mut Buffer<f32>| cuda.copy(Cuda::view(&source), Cuda::view_mut(target));
            let record = std::panic::AssertUnwindSafe(|| {
                cuda.record(|| copy(&mut target).and_then(|()| fail())).is_err()
            });
            assert!(std::panic::catch_unwind(record).unwrap_or(true));
            assert_eq!(cuda.to_vec(&target).unwrap(), [0.0; 4]);
            copy(&mut target).unwrap();
            assert_eq!(cuda.to_vec(&target).unwrap(), [2.0; 4]);
        }
    });
}

/// Checks that the CPU, which records nothing, copies a staged batch at once.
#[test]
fn staging_on_the_cpu_copies_at_once() {
    let cpu = Cpu::on_current_thread();
    let mut staging = Staging::new(&cpu).unwrap();
    let host = batch(16, 2);
    let staged = staging.stage(host.view()).unwrap();
    let (staged, host) = (staged.bags, host.view::<Cpu>().bags);
    assert_eq!(*staged.indices, *host.indices);
    assert_eq!(*staged.offsets.as_i64().unwrap(), *host.offsets.as_i64().unwrap());
    assert!(!staged.has_slack);
}
