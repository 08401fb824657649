//! Recorded steps of training: the bits of steps that are not recorded, whatever the lengths of
//! bags, with nothing allocated, waited for, or sent but the batch.

use crate::common::cuda::{emulator, on_every_schedule, own, with_cublaslt};
use crate::common::engine::Batch;
use crate::common::*;
use bagdot::backend::cuda::Buffer;
use bagdot::nn::{
    ComputePrecision, Dlrm, DlrmConfig, GroupOptimizer, NamedTensor, Optimizers, Schedule, Staging,
};
use bagdot::ops::{Backend, Device, Optimizer, Pooling, Rounding, Stage, Table, WeightDecay};
use bagdot::{Cpu, Cuda, DType, Error};

const ROWS: [usize; 3] = [40, 7, 300];
const POOLINGS: [Pooling; 3] = [Pooling::Sum, Pooling::Mean, Pooling::Max];
const DIM: usize = 8;

/// A batch of `batch_size` samples, whose bags have lengths that are those of no other seed.
fn batch(batch_size: usize, seed: u64) -> Batch<i64> {
    let tables = ROWS.map(|rows| (rows, DIM));
    let features: Vec<_> =
        POOLINGS.iter().enumerate().map(|(table, &pooling)| feature(table, pooling)).collect();
    let lengths: Vec<usize> =
        (0..3 * batch_size).map(|k| (k * 7 + seed as usize * 5) % (4 + seed as usize)).collect();
    let name = format!("batch {seed}");
    let case =
        BagCase::new(name, (&tables, &features), &lengths, |random, rows| random.below(rows));
    let labels = draw(batch_size, seed + 50).iter().map(|x| f32::from(*x > 0.0)).collect();
    Batch::new(draw(batch_size * 3, seed), case, labels)
}

/// The last batch of an epoch is smaller.
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

/// How a model is optimized, what its tables are of, and what its layers compute in.
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

/// Everything that training changes.
fn state<B: Backend>(model: &mut Dlrm<B>) -> Vec<NamedTensor> {
    let mut all = model.tensors().unwrap();
    all.extend(model.optimizer_tensors().unwrap());
    all.extend(model.average_tensors().unwrap());
    all
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

/// Without waiting in between.
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

/// Once recorded, a step is one launch of a graph, a copy for each part of the batch, and the order
/// of both: whatever else the driver can do is not asked for. (What waits, waits for a copy of the
/// batch before last to have left the host.)
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
    // Both places have seen the largest batch: what follows has room.
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
    // Dense, ids, offsets, labels, and what changes from step to step.
    let wanted = [
        ("cuEventRecord", 2 * STEPS),
        ("cuEventSynchronize", STEPS),
        ("cuGraphLaunch", STEPS),
        ("cuMemcpyHtoDAsync_v2", 5 * STEPS),
        // This call asks whether ops are being recorded, and does not wait.
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

/// Bad ids keep all steps from changing anything until they are reported; then training goes on.
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

/// Buffers that are dropped while there is a recording about them stay until that is dropped, and
/// no longer.
#[test]
fn recordings_keep_what_they_name() {
    on_every_schedule(|cuda| {
        let mut first = model(cuda, SGD);
        let mut staging = Staging::new(cuda).unwrap();
        first.train_staged(&mut staging, batch(16, 4).view()).unwrap();
        // Places are replaced by larger ones, while there is a recording about the old ones.
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

/// A recording ends where it fails, even by a panic: ops that are called later run, and memory is
/// freed.
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

/// The CPU has nothing to record, and takes the same steps.
#[test]
fn staging_on_the_cpu_copies_at_once() {
    let cpu = Cpu::single_threaded();
    let mut staging = Staging::new(&cpu).unwrap();
    let host = batch(16, 2);
    let staged = staging.stage(host.view()).unwrap();
    assert_eq!(
        (staged.bags.indices, staged.bags.offsets),
        (host.view::<Cpu>().bags.indices, host.view::<Cpu>().bags.offsets)
    );
    assert!(!staged.bags.has_slack);
}
