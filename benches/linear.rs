//! `linear`: the layers of published models, forward and backward; on CUDA by bagdot's own kernels,
//! and by cuBLASLt if it is installed.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::linear::{Backward, Forward, LinearOps};
use bagdot::ops::{Activation, Device, Matrix, MatrixMut, Precision};
use bagdot::{Element, bf16};
use common::{
    Timed, arithmetic, elements, for_device, group, measure, sets_of, shapes, upload, values,
};
use criterion::Criterion;

common::benchmark_on_every_device!(both);

/// A layer from `k` to `n` features on a batch of `m` samples.
#[derive(Clone, Copy)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    precision: Precision,
}

fn both<B: Timed + LinearOps>(criterion: &mut Criterion, device: &B) {
    let published = for_device::<B, 3>(
        &[
            [2048, 512, 13],
            [2048, 512, 415],
            [2048, 1, 256],
            [16_384, 1024, 479],
            [16_384, 1024, 1024],
        ],
        0,
    );
    for [m, n, k] in shapes(["m", "n", "k"], &published) {
        let full = Shape { m, n, k, precision: Precision::Full };
        for (device, gemm) in device.with_each_gemm() {
            both_of::<B, f32>(criterion, (&device, gemm), full);
            both_of::<B, f32>(
                criterion,
                (&device, gemm),
                Shape { precision: Precision::Tf32, ..full },
            );
            both_of::<B, bf16>(criterion, (&device, gemm), full);
        }
    }
}

fn both_of<B: Timed + LinearOps, E: Element>(
    criterion: &mut Criterion,
    (device, gemm): (&B, &str),
    shape: Shape,
) {
    let Shape { m, n, k, precision } = shape;
    let sets = sets_of(m * (n + k) * size_of::<E>());
    let name = format!("m{m} n{n} k{k} {}{gemm}", arithmetic::<E>(precision));
    let mut inputs = None;

    let bytes = (m * k + n * k + m * n) * size_of::<E>() + n * 4;
    let mut forward = group(criterion, device, "linear_forward");
    measure(&mut forward, device, &name, sets, bytes, |set| {
        inputs.get_or_insert_with(|| Inputs::<B, E>::new(device, shape, sets)).forward(device, set)
    });
    drop(forward);
    let bytes = (2 * m * k + 3 * m * n + n * k) * size_of::<E>() + (n * k + n) * 4;
    let mut backward = group(criterion, device, "linear_backward");
    measure(&mut backward, device, &name, sets, bytes, |set| {
        inputs.get_or_insert_with(|| Inputs::<B, E>::new(device, shape, sets)).backward(device, set)
    });
}

/// The sets of inputs, the parameters, and the outputs.
struct Inputs<B: Device, E: Element> {
    shape: Shape,
    inputs: Vec<B::Buffer<E>>,
    grads: Vec<B::Buffer<E>>,
    weight: B::Buffer<E>,
    bias: B::Buffer<f32>,
    output: B::Buffer<E>,
    grad_input: B::Buffer<E>,
    grad_weight: B::Buffer<f32>,
    grad_bias: B::Buffer<f32>,
    workspace: B::Buffer<u64>,
}

const ACTIVATION: Activation = Activation::Relu;

impl<B: Timed + LinearOps, E: Element> Inputs<B, E> {
    fn new(device: &B, shape: Shape, sets: usize) -> Self {
        let Shape { m, n, k, .. } = shape;
        let of = |len: usize, seed: u64| upload::<B, E>(device, &elements(len, seed));
        let workspace = Backward::<B, E>::workspace_len(device, m, n, k);
        Self {
            shape,
            inputs: (0..sets).map(|set| of(m * k, set as u64 + 1)).collect(),
            grads: (0..sets).map(|set| of(m * n, set as u64 + 100)).collect(),
            weight: of(n * k, 7),
            bias: upload(device, &values(n, 8)),
            output: of(m * n, 9),
            grad_input: device.alloc(m * k).unwrap(),
            grad_weight: device.alloc(n * k).unwrap(),
            grad_bias: device.alloc(n).unwrap(),
            workspace: device.alloc(workspace).unwrap(),
        }
    }

    fn forward(&mut self, device: &B, set: usize) -> usize {
        let Shape { m, n, k, precision } = self.shape;
        let op = Forward::new(
            Matrix::contiguous(B::view(&self.inputs[set]), m, k),
            Matrix::contiguous(B::view(&self.weight), n, k),
            B::view(&self.bias),
            MatrixMut::contiguous(B::view_mut(&mut self.output), m, n),
        )
        .activation(ACTIVATION)
        .precision(precision);
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    }

    fn backward(&mut self, device: &B, set: usize) -> usize {
        let Shape { m, n, k, precision } = self.shape;
        let op = Backward::new(
            Matrix::contiguous(B::view(&self.inputs[set]), m, k),
            Matrix::contiguous(B::view(&self.weight), n, k),
            Matrix::contiguous(B::view(&self.output), m, n),
            MatrixMut::contiguous(B::view_mut(&mut self.grads[set]), m, n),
            MatrixMut::contiguous(B::view_mut(&mut self.grad_weight), n, k),
            B::view_mut(&mut self.grad_bias),
            B::view_mut(&mut self.workspace),
        )
        .activation(ACTIVATION)
        .precision(precision)
        .grad_input(MatrixMut::contiguous(B::view_mut(&mut self.grad_input), m, k));
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    }
}
