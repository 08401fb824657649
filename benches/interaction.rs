//! `interaction`: dot products of the features of a sample, forward and backward.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::interaction::{
    Backward, Features, FeaturesMut, Forward, Interaction, InteractionOps,
};
use bagdot::ops::{Device, Matrix, MatrixMut, Precision};
use bagdot::{Element, bf16};
use common::{Timed, arithmetic, elements, for_device, group, measure, sets_of, shapes, upload};
use criterion::Criterion;

common::benchmark_on_every_device!(both);

/// The sizes of an interaction, and the precision of its products.
#[derive(Clone, Copy)]
struct Shape {
    num_sparse: usize,
    dim: usize,
    batch_size: usize,
    precision: Precision,
}

fn both<B: Timed + InteractionOps>(criterion: &mut Criterion, device: &B) {
    // The last shape is for interaction_tiled.cu, in every type and in both directions.
    let published = for_device::<B, 3>(
        &[[27, 64, 2048], [27, 128, 2048], [27, 128, 65_536], [192, 128, 4096]],
        2,
    );
    for [features, dim, batch_size] in shapes(["f", "d", "b"], &published) {
        let full = Shape {
            num_sparse: features.checked_sub(1).unwrap(),
            dim,
            batch_size,
            precision: Precision::Full,
        };
        both_of::<B, f32>(criterion, device, full);
        both_of::<B, f32>(criterion, device, Shape { precision: Precision::Tf32, ..full });
        both_of::<B, bf16>(criterion, device, full);
    }
}

fn both_of<B: Timed + InteractionOps, E: Element>(
    criterion: &mut Criterion,
    device: &B,
    shape: Shape,
) {
    let Shape { num_sparse, dim, batch_size, precision } = shape;
    let features = (num_sparse + 1) * dim;
    let width = Interaction::default().width(true, num_sparse, dim);
    let sets = sets_of(batch_size * features * size_of::<E>());
    let bytes = |columns: usize| batch_size * columns * size_of::<E>();
    let arithmetic = arithmetic::<E>(precision);
    let name = format!("f{} d{dim} b{batch_size} {arithmetic}", num_sparse + 1);
    let mut inputs = None;

    let mut forward = group(criterion, device, "interaction_forward");
    measure(&mut forward, device, &name, sets, bytes(features + width), |set| {
        inputs.get_or_insert_with(|| Inputs::<B, E>::new(device, shape, sets)).forward(device, set)
    });
    drop(forward);
    let mut backward = group(criterion, device, "interaction_backward");
    measure(&mut backward, device, &name, sets, bytes(2 * features + width), |set| {
        inputs.get_or_insert_with(|| Inputs::<B, E>::new(device, shape, sets)).backward(device, set)
    });
}

/// The sets of inputs, and the outputs.
struct Inputs<B: Device, E: Element> {
    shape: Shape,
    width: usize,
    dense: Vec<B::Buffer<E>>,
    sparse: Vec<B::Buffer<E>>,
    grads: Vec<B::Buffer<E>>,
    output: B::Buffer<E>,
    grad_dense: B::Buffer<E>,
    grad_sparse: B::Buffer<E>,
}

impl<B: Timed + InteractionOps, E: Element> Inputs<B, E> {
    fn new(device: &B, shape: Shape, sets: usize) -> Self {
        let Shape { num_sparse, dim, batch_size, .. } = shape;
        let width = Interaction::default().width(true, num_sparse, dim);
        let buffers = |columns: usize| -> Vec<B::Buffer<E>> {
            let of_set = |set| elements(batch_size * columns, set as u64 + 1);
            (0..sets).map(|set| upload::<B, E>(device, &of_set(set))).collect()
        };
        Self {
            shape,
            width,
            dense: buffers(dim),
            sparse: buffers(num_sparse * dim),
            grads: buffers(width),
            output: device.alloc(batch_size * width).unwrap(),
            grad_dense: device.alloc(batch_size * dim).unwrap(),
            grad_sparse: device.alloc(batch_size * num_sparse * dim).unwrap(),
        }
    }

    fn forward(&mut self, device: &B, set: usize) -> usize {
        let Shape { dim, batch_size, precision, .. } = self.shape;
        let op = Forward::new(
            Interaction::default(),
            dim,
            features(self.shape, &self.dense[set], &self.sparse[set]),
            MatrixMut::contiguous(B::view_mut(&mut self.output), batch_size, self.width),
        )
        .precision(precision);
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    }

    fn backward(&mut self, device: &B, set: usize) -> usize {
        let Shape { num_sparse, dim, batch_size, precision } = self.shape;
        let (grad_dense, grad_sparse) =
            (B::view_mut(&mut self.grad_dense), B::view_mut(&mut self.grad_sparse));
        let op = Backward::new(
            Interaction::default(),
            dim,
            features(self.shape, &self.dense[set], &self.sparse[set]),
            Matrix::contiguous(B::view(&self.grads[set]), batch_size, self.width),
            FeaturesMut::Split {
                dense: MatrixMut::contiguous(grad_dense, batch_size, dim),
                sparse: MatrixMut::contiguous(grad_sparse, batch_size, num_sparse * dim),
            },
        )
        .precision(precision);
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    }
}

fn features<'a, B: Device, E: Element>(
    Shape { num_sparse, dim, batch_size, .. }: Shape,
    dense: &'a B::Buffer<E>,
    sparse: &'a B::Buffer<E>,
) -> Features<'a, B, E> {
    Features::Split {
        dense: Matrix::contiguous(B::view(dense), batch_size, dim),
        sparse: Matrix::contiguous(B::view(sparse), batch_size, num_sparse * dim),
    }
}
