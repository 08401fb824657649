//! Pairwise dot products, forward, and forward and backward.

use std::error::Error;

use bagdot::ops::interaction::{Backward, Features, FeaturesMut, Forward};
use bagdot::ops::{Device, Interaction, Matrix, MatrixMut, Precision};
use bagdot::{Cpu, DType, Element, bf16, f16};
use rand::SeedableRng;
use rand::distr::{Distribution, Uniform};
use rand::rngs::SmallRng;
use serde::Deserialize;

/// A dense vector and `num_sparse` pooled ones for each sample.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shape {
    num_sparse: usize,
    dim: usize,
    batch_size: usize,
    dtype: DType,
    backward: bool,
}

pub(crate) fn prepare(cpu: Cpu, shape: &Shape) -> Result<super::Run, Box<dyn Error>> {
    match shape.dtype {
        DType::F32 => prepare_for::<f32>(cpu, shape),
        DType::F16 => prepare_for::<f16>(cpu, shape),
        DType::BF16 => prepare_for::<bf16>(cpu, shape),
    }
}

fn prepare_for<E: Element>(cpu: Cpu, shape: &Shape) -> Result<super::Run, Box<dyn Error>> {
    const SETS: usize = 4;
    let Shape { num_sparse, dim, batch_size, backward, .. } = *shape;
    let (interaction, precision) = (Interaction::default(), Precision::Full);
    let (width, pooled) = (interaction.width(true, num_sparse, dim), num_sparse * dim);
    let uniform = Uniform::new(-1.0, 1.0)?;
    let fill = |len: usize, set: usize| -> bagdot::Result<_> {
        let mut buffer = cpu.alloc::<E>(len)?;
        let values = uniform.sample_iter(SmallRng::seed_from_u64(set as u64));
        buffer.iter_mut().zip(values).for_each(|(x, value)| *x = E::from_f32(value));
        Ok(buffer)
    };
    let (mut dense, mut sparse) = (vec![], vec![]);
    for set in 0..SETS {
        dense.push(fill(batch_size * dim, set)?);
        sparse.push(fill(batch_size * pooled, set)?);
    }
    let grad = fill(batch_size * width, SETS)?;
    let mut output = cpu.alloc::<E>(batch_size * width)?;
    let (mut grad_dense, mut grad_sparse) =
        (cpu.alloc::<E>(batch_size * dim)?, cpu.alloc::<E>(batch_size * pooled)?);
    Ok(super::Run::without_floor(move |set| {
        let features: Features<'_, Cpu, E> = Features::Split {
            dense: Matrix::contiguous(&dense[set % SETS][..], batch_size, dim),
            sparse: Matrix::contiguous(&sparse[set % SETS][..], batch_size, pooled),
        };
        let output = MatrixMut::contiguous(&mut output[..], batch_size, width);
        Forward::new(interaction, dim, features, output).precision(precision).run(&cpu)?;
        if backward {
            let grad_output = Matrix::contiguous(&grad[..], batch_size, width);
            let grad_features = FeaturesMut::Split {
                dense: MatrixMut::contiguous(&mut grad_dense[..], batch_size, dim),
                sparse: MatrixMut::contiguous(&mut grad_sparse[..], batch_size, pooled),
            };
            Backward::new(interaction, dim, features, grad_output, grad_features)
                .precision(precision)
                .run(&cpu)?;
        }
        Ok(())
    }))
}
