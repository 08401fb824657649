//! Whole models: training steps, and predictions.

use std::error::Error;
use std::path::PathBuf;

use bagdot::Cpu;
use bagdot::nn::{BatchView, ComputePrecision, Dlrm, DlrmConfig, Optimizers};
use bagdot::ops::{Bags, Device, Feature, Matrix, Optimizer, Pooling, Table, View};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;

/// A model over equal tables, each looked up by one feature that is pooled by sum.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shape {
    num_dense: usize,
    bottom_mlp: Vec<usize>,
    top_mlp: Vec<usize>,
    num_tables: usize,
    num_embeddings: usize,
    batch_size: usize,
    pooling_factor: usize,
    /// The precision of the layers.
    #[serde(default)]
    precision: ComputePrecision,
    /// The optimizer of training steps. Without it, predictions are measured.
    optimizer: Option<Optimizer>,
    /// A file of sets of ids: `i64`, `[sets, num_tables, batch_size, pooling_factor]`.
    ids: PathBuf,
}

pub(crate) fn prepare(cpu: Cpu, shape: Shape) -> Result<super::Run, Box<dyn Error>> {
    let Shape { num_dense, num_tables, num_embeddings, batch_size, pooling_factor, .. } = shape;
    let embedding_dim = shape.bottom_mlp.last().copied().unwrap_or(1);
    let config = DlrmConfig {
        num_dense,
        bottom_mlp: shape.bottom_mlp,
        tables: vec![Table { num_embeddings, embedding_dim }; num_tables],
        features: (0..num_tables)
            .map(|table| Feature { table, pooling: Pooling::Sum, padding_idx: None })
            .collect(),
        top_mlp: shape.top_mlp,
        precision: shape.precision,
        ..DlrmConfig::default()
    };
    let mut model = Dlrm::new(cpu.clone(), config, 0)?;
    if let Some(optimizer) = shape.optimizer {
        model.optimize_with(Optimizers::same(optimizer, 0.01))?;
    }
    let num_bags = num_tables * batch_size;
    let num_indices = num_bags * pooling_factor;
    let ids: Vec<i64> =
        std::fs::read(&shape.ids)?.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
    let sets = ids.len() / num_indices;
    let offsets: Vec<i64> = (0..=num_bags).map(|bag| (bag * pooling_factor) as i64).collect();
    let mut random = SmallRng::seed_from_u64(1);
    let mut dense = cpu.alloc::<f32>(sets * batch_size * num_dense)?;
    dense.iter_mut().for_each(|x| *x = random.random());
    let labels: Vec<f32> =
        (0..batch_size).map(|_| f32::from(u8::from(random.random_bool(0.25)))).collect();
    let mut probabilities = vec![0f32; batch_size];
    let is_training = shape.optimizer.is_some();
    Ok(super::Run::without_floor(move |set| {
        let set = set % sets;
        let bags: Bags<'_, Cpu, i64> =
            Bags::new(batch_size, &ids[set * num_indices..][..num_indices], &offsets);
        let dense = Matrix::contiguous(
            &dense[set * batch_size * num_dense..][..batch_size * num_dense],
            batch_size,
            num_dense,
        );
        let mut batch = BatchView::new(dense, bags);
        batch.labels = is_training.then(|| View::from(&labels));
        match is_training {
            true => model.train_step(batch),
            false => model.predict(batch, &mut probabilities),
        }
    }))
}
