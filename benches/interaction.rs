//! `interaction`: dot products of the features of a sample, forward and backward.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::ops::interaction::{
    Backward, Features, FeaturesMut, Forward, Interaction, InteractionOps,
};
use bagdot::ops::{Matrix, MatrixMut, Precision};
use bagdot::{Cpu, Element, bf16};
use common::{Timed, arithmetic, group, measure, sets_of, upload, values};
use criterion::Criterion;

common::benchmark_on_every_device!(both);

const NUM_SPARSE: usize = 26;

fn both<B: Timed + InteractionOps>(criterion: &mut Criterion, device: &B) {
    for (dim, batch_size) in [(64, 2048), (128, 2048), (128, 65_536)] {
        if B::NAME == Cpu::NAME && batch_size > 2048 {
            continue;
        }
        both_of::<B, f32>(criterion, device, dim, batch_size, Precision::Full, f32::from);
        both_of::<B, f32>(criterion, device, dim, batch_size, Precision::Tf32, f32::from);
        both_of::<B, bf16>(criterion, device, dim, batch_size, Precision::Full, bf16::from_f32);
    }
}

fn both_of<B: Timed + InteractionOps, E: Element>(
    criterion: &mut Criterion,
    device: &B,
    dim: usize,
    batch_size: usize,
    precision: Precision,
    store: fn(f32) -> E,
) {
    let interaction = Interaction::default();
    let (width, sparse_width) = (interaction.width(true, NUM_SPARSE, dim), NUM_SPARSE * dim);
    let sets = sets_of(batch_size * (sparse_width + dim) * size_of::<E>());
    let buffers = |cols: usize| -> Vec<B::Buffer<E>> {
        let of_set = |set| {
            values(batch_size * cols, set as u64 + 1).into_iter().map(store).collect::<Vec<E>>()
        };
        (0..sets).map(|set| upload(device, &of_set(set))).collect()
    };
    let (dense, sparse, grads) = (buffers(dim), buffers(sparse_width), buffers(width));
    let mut output = device.alloc::<E>(batch_size * width).unwrap();
    let (mut grad_dense, mut grad_sparse) = (
        device.alloc::<E>(batch_size * dim).unwrap(),
        device.alloc::<E>(batch_size * sparse_width).unwrap(),
    );
    let shape = format!("f{} d{dim} b{batch_size} {}", NUM_SPARSE + 1, arithmetic::<E>(precision));

    let forward = |set: usize| {
        let output = MatrixMut::contiguous(B::view_mut(&mut output), batch_size, width);
        let op = Forward {
            interaction,
            dim,
            precision,
            features: features(&dense[set], &sparse[set], dim, batch_size),
            output,
        };
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    };
    measure(&mut group(criterion, device, "interaction_forward"), device, &shape, sets, forward);

    let backward = |set: usize| {
        let op = Backward {
            interaction,
            dim,
            precision,
            features: features(&dense[set], &sparse[set], dim, batch_size),
            grad_output: Matrix::contiguous(B::view(&grads[set]), batch_size, width),
            grad_features: FeaturesMut::Split {
                dense: MatrixMut::contiguous(B::view_mut(&mut grad_dense), batch_size, dim),
                sparse: MatrixMut::contiguous(
                    B::view_mut(&mut grad_sparse),
                    batch_size,
                    sparse_width,
                ),
            },
        };
        let bytes = op.bytes_moved();
        op.run(device).unwrap();
        bytes
    };
    measure(&mut group(criterion, device, "interaction_backward"), device, &shape, sets, backward);
}

fn features<'a, B: Timed, E: Element>(
    dense: &'a B::Buffer<E>,
    sparse: &'a B::Buffer<E>,
    dim: usize,
    batch_size: usize,
) -> Features<'a, B, E> {
    Features::Split {
        dense: Matrix::contiguous(B::view(dense), batch_size, dim),
        sparse: Matrix::contiguous(B::view(sparse), batch_size, NUM_SPARSE * dim),
    }
}
