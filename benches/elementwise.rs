//! The ops that pass once over their operands: `cast`, `dense_update`, `moving_average`,
//! `finite_check` and `loss`. Of two sizes the first is about that of the layers of a model, the
//! second one more than caches hold.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::cast::{Cast, CastOps};
use bagdot::ops::dense_update::{self, DenseUpdateOps};
use bagdot::ops::finite_check::{Check, FiniteCheckOps, NonFinite, Verdict};
use bagdot::ops::loss::{self, LossOps};
use bagdot::ops::moving_average::{self, MovingAverageOps};
use bagdot::ops::{Device, Loss, Matrix, MatrixMut, Optimizer, OptimizerStateMut, UpdateRule};
use bagdot::{Element, bf16};
use common::{Timed, drawn, elements, group, measure, sets_of, shapes, upload};
use criterion::Criterion;

common::benchmark_on_every_device!(casts, dense_updates, averages, checks, losses);

/// Returns the numbers of elements to measure.
fn lens() -> Vec<usize> {
    shapes(["n"], &[[1 << 21], [1 << 26]]).into_iter().map(|[n]| n).collect()
}

fn casts<B: Timed + CastOps>(criterion: &mut Criterion, device: &B) {
    for n in lens() {
        cast::<B, f32, bf16>(criterion, device, n);
        cast::<B, bf16, f32>(criterion, device, n);
    }
}

fn cast<B: Timed + CastOps, From: Element, To: Element>(
    criterion: &mut Criterion,
    device: &B,
    n: usize,
) {
    let bytes = n * (size_of::<From>() + size_of::<To>());
    let sets = sets_of(bytes);
    let name = format!("n{n} {} to {}", From::DTYPE, To::DTYPE);
    let mut buffers = None;
    measure(&mut group(criterion, device, "cast"), device, &name, sets, bytes, |set| {
        let buffers: &mut Vec<_> = buffers.get_or_insert_with(|| {
            let buffers =
                |set| (drawn::<B, From>(device, n, set as u64), device.alloc::<To>(n).unwrap());
            (0..sets).map(buffers).collect()
        });
        let (from, to) = &mut buffers[set];
        let op = Cast {
            factor: 1.0,
            from: Matrix::contiguous(B::view(from), 1, n),
            to: MatrixMut::contiguous(B::view_mut(to), 1, n),
        };
        op.run(device).unwrap();
        bytes
    });
}

fn dense_updates<B: Timed + DenseUpdateOps>(criterion: &mut Criterion, device: &B) {
    let adagrad = Optimizer::Adagrad { eps: 1e-8 };
    let adam = Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    for n in lens() {
        for (name, optimizer) in [("sgd", Optimizer::Sgd), ("adagrad", adagrad), ("adam", adam)] {
            // Without a rounded copy, and with one.
            dense_update::<B, f32>(criterion, device, n, (name, optimizer), false);
            dense_update::<B, bf16>(criterion, device, n, (name, optimizer), true);
        }
    }
}

fn dense_update<B: Timed + DenseUpdateOps, E: Element>(
    criterion: &mut Criterion,
    device: &B,
    n: usize,
    (name, optimizer): (&str, Optimizer),
    is_rounded: bool,
) {
    let lens = optimizer.state_len(n, n);
    let rounded_bytes = if is_rounded { n * size_of::<E>() } else { 0 };
    let bytes = n * 4 + 2 * (n + lens[0] + lens[1]) * 4 + rounded_bytes;
    let sets = sets_of(bytes);
    let name = format!("n{n} {} {name}", E::DTYPE);
    let mut buffers = None;
    measure(&mut group(criterion, device, "dense_update"), device, &name, sets, bytes, |set| {
        let buffers: &mut Vec<Dense<B, E>> = buffers.get_or_insert_with(|| {
            let buffers = |set: usize| Dense {
                grad: drawn(device, n, set as u64),
                parameters: drawn(device, n, 100 + set as u64),
                state: lens.map(|len| device.alloc(len).unwrap()),
                rounded: is_rounded.then(|| device.alloc(n).unwrap()),
            };
            (0..sets).map(buffers).collect()
        });
        let Dense { grad, parameters, state: [first, second], rounded } = &mut buffers[set];
        let state = match optimizer {
            Optimizer::Sgd => OptimizerStateMut::None,
            Optimizer::Adagrad { .. } | Optimizer::RowwiseAdagrad { .. } => {
                OptimizerStateMut::SumOfSquares(B::view_mut(first))
            }
            Optimizer::Adam { .. } => OptimizerStateMut::Moments {
                first: B::view_mut(first),
                second: B::view_mut(second),
            },
        };
        let rule = UpdateRule::new(optimizer, 1e-6).at_step(1);
        let mut op: dense_update::Update<'_, B, E> =
            dense_update::Update::new(rule, B::view(grad), B::view_mut(parameters), state);
        if let Some(rounded) = rounded {
            op = op.rounded(B::view_mut(rounded));
        }
        op.run(device).unwrap();
        bytes
    });
}

/// The buffers of an update of dense parameters.
struct Dense<B: Device, E: Element> {
    grad: B::Buffer<f32>,
    parameters: B::Buffer<f32>,
    state: [B::Buffer<f32>; 2],
    rounded: Option<B::Buffer<E>>,
}

fn averages<B: Timed + MovingAverageOps>(criterion: &mut Criterion, device: &B) {
    for n in lens() {
        let bytes = 3 * n * 4;
        let sets = sets_of(bytes);
        let name = format!("n{n} f32");
        let mut buffers = None;
        let mut group = group(criterion, device, "moving_average");
        measure(&mut group, device, &name, sets, bytes, |set| {
            let buffers: &mut Vec<_> = buffers.get_or_insert_with(|| {
                let buffers = |set: usize| {
                    let seed = set as u64;
                    (drawn::<B, f32>(device, n, seed), drawn::<B, f32>(device, n, 100 + seed))
                };
                (0..sets).map(buffers).collect()
            });
            let (values, average) = &mut buffers[set];
            let op = moving_average::Update::new(0.999, B::view(values), B::view_mut(average));
            op.run(device).unwrap();
            bytes
        });
    }
}

fn checks<B: Timed + FiniteCheckOps>(criterion: &mut Criterion, device: &B) {
    for n in lens() {
        let bytes = n * 4;
        let sets = sets_of(bytes);
        let name = format!("n{n} f32");
        let mut buffers = None;
        let mut group = group(criterion, device, "finite_check");
        measure(&mut group, device, &name, sets, bytes, |set| {
            let (grads, loss, verdict) = buffers.get_or_insert_with(|| {
                let grad = |set| drawn::<B, f32>(device, n, set as u64);
                let grads: Vec<_> = (0..sets).map(grad).collect();
                let verdict = device.alloc::<u64>(Verdict::WORDS).unwrap();
                (grads, upload(device, &[0.5_f64]), verdict)
            });
            let grad = &grads[set];
            let grads = [B::slice(grad, 0..n / 2), B::slice(grad, n / 2..n)];
            let op = Check::new(NonFinite::Error, 1, B::view(loss), grads, B::view_mut(verdict));
            op.run(device).unwrap();
            bytes
        });
    }
}

/// Measures the cross-entropy with its gradient.
fn losses<B: Timed + LossOps>(criterion: &mut Criterion, device: &B) {
    for [batch_size] in shapes(["n"], &[[2048], [65_536], [1 << 22]]) {
        let bytes = 3 * batch_size * 4;
        let sets = sets_of(bytes);
        let name = format!("n{batch_size} f32");
        let mut buffers = None;
        let mut group = group(criterion, device, "loss");
        measure(&mut group, device, &name, sets, bytes, |set| {
            let Losses { batches, mean, grad, workspace } =
                buffers.get_or_insert_with(|| Losses::new(device, batch_size, sets));
            let (logits, labels) = &batches[set];
            let op = loss::Forward::new(
                Loss::BceWithLogits,
                B::view(logits),
                B::view(labels),
                B::view_mut(mean),
                B::view_mut(workspace),
            )
            .grad_logits(B::view_mut(grad));
            op.run(device).unwrap();
            bytes
        });
    }
}

/// The logits and labels of each set, and the outputs.
struct Losses<B: Device> {
    batches: Vec<(B::Buffer<f32>, B::Buffer<f32>)>,
    mean: B::Buffer<f64>,
    grad: B::Buffer<f32>,
    workspace: B::Buffer<u64>,
}

impl<B: LossOps> Losses<B> {
    fn new(device: &B, batch_size: usize, sets: usize) -> Self {
        let batch = |set: usize| {
            let labels: Vec<f32> = elements::<f32>(batch_size, 100 + set as u64)
                .into_iter()
                .map(|value| if value < 0.0 { 0.0 } else { 1.0 })
                .collect();
            (drawn(device, batch_size, set as u64), upload(device, &labels))
        };
        let workspace = loss::Forward::<B>::workspace_len(device, batch_size);
        Self {
            batches: (0..sets).map(batch).collect(),
            mean: device.alloc(1).unwrap(),
            grad: device.alloc(batch_size).unwrap(),
            workspace: device.alloc(workspace).unwrap(),
        }
    }
}
