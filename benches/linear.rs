//! `linear`: the layers of published models, forward and backward; on CUDA by our own kernels, and
//! by cuBLASLt where it is there.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::linear::{Backward, Forward, LinearOps};
use bagdot::ops::{Accum, Activation, Matrix, MatrixMut, Precision};
use bagdot::{Cpu, Element, bf16};
use common::{Timed, arithmetic, group, measure, sets_of, upload, values};
use criterion::Criterion;

common::benchmark_on_every_device!(both);

fn both<B: Timed + LinearOps>(criterion: &mut Criterion, device: &B) {
    for (m, n, k) in [
        (2048, 512, 13),
        (2048, 512, 415),
        (2048, 1, 256),
        (16_384, 1024, 479),
        (16_384, 1024, 1024),
    ] {
        if B::NAME == Cpu::NAME && m > 2048 {
            continue;
        }
        for (device, gemm) in device.with_each_gemm() {
            both_of::<B, f32>(criterion, (&device, gemm), [m, n, k], Precision::Full, f32::from);
            both_of::<B, f32>(criterion, (&device, gemm), [m, n, k], Precision::Tf32, f32::from);
            both_of::<B, bf16>(
                criterion,
                (&device, gemm),
                [m, n, k],
                Precision::Full,
                bf16::from_f32,
            );
        }
    }
}

fn both_of<B: Timed + LinearOps, E: Element>(
    criterion: &mut Criterion,
    (device, gemm): (&B, &str),
    [m, n, k]: [usize; 3],
    precision: Precision,
    store: fn(f32) -> E,
) {
    let sets = sets_of(m * (n + k) * size_of::<E>());
    let of = |len: usize, seed: u64| {
        upload(device, &values(len, seed).into_iter().map(store).collect::<Vec<E>>())
    };
    let inputs: Vec<_> = (0..sets).map(|set| of(m * k, set as u64 + 1)).collect();
    let mut grads: Vec<_> = (0..sets).map(|set| of(m * n, set as u64 + 100)).collect();
    let (weight, bias) = (of(n * k, 7), upload(device, &values(n, 8)));
    let mut output = of(m * n, 9);
    let mut grad_input = device.alloc::<E>(m * k).unwrap();
    let (mut grad_weight, mut grad_bias) =
        (device.alloc::<f32>(n * k).unwrap(), device.alloc::<f32>(n).unwrap());
    let mut workspace = device.alloc(Backward::<B, E>::workspace_len(device, m, n, k)).unwrap();
    let shape = format!("m{m} n{n} k{k} {}{gemm}", arithmetic::<E>(precision));
    let activation = Activation::Relu;

    let forward = |set: usize| {
        let op = Forward {
            input: Matrix::contiguous(B::view(&inputs[set]), m, k),
            weight: Matrix::contiguous(B::view(&weight), n, k),
            packed_weight: None,
            bias: B::view(&bias),
            activation,
            precision,
            output: MatrixMut::contiguous(B::view_mut(&mut output), m, n),
        };
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    };
    measure(&mut group(criterion, device, "linear_forward"), device, &shape, sets, forward);

    let backward = |set: usize| {
        let op = Backward {
            input: Matrix::contiguous(B::view(&inputs[set]), m, k),
            weight: Matrix::contiguous(B::view(&weight), n, k),
            output: Matrix::contiguous(B::view(&output), m, n),
            activation,
            precision,
            grad_output: MatrixMut::contiguous(B::view_mut(&mut grads[set]), m, n),
            grad_input: Some(MatrixMut::contiguous(B::view_mut(&mut grad_input), m, k)),
            grad_weight: MatrixMut::contiguous(B::view_mut(&mut grad_weight), n, k),
            grad_bias: B::view_mut(&mut grad_bias),
            accum: Accum::Replace,
            workspace: B::view_mut(&mut workspace),
        };
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    };
    measure(&mut group(criterion, device, "linear_backward"), device, &shape, sets, backward);
}
