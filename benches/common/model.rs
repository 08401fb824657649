//! Published models, and batches for them.

use std::collections::BTreeMap;

use bagdot::Philox;
use bagdot::nn::{BatchView, ComputePrecision, Dlrm, DlrmConfig, Optimizers};
use bagdot::ops::{Backend, Bags, Device, Feature, Host, Matrix, Optimizer, Pooling, Table};
use rayon::prelude::*;
use serde::Deserialize;

use super::{Ids, Timed, ids_of, upload, values};

/// What models.json says. gpu_compare.py reads it, too.
#[derive(Deserialize)]
struct Published {
    most_rows: usize,
    models: BTreeMap<String, Shape>,
}

#[derive(Deserialize)]
struct Shape {
    bottom: Vec<usize>,
    top: Vec<usize>,
    rows: Vec<usize>,
    batch_size: BTreeMap<String, usize>,
}

/// A published model with tables that are cut off.
pub struct Model {
    pub name: String,
    pub batch_size: usize,
    config: DlrmConfig,
}

/// A batch on the host: one id in each bag.
pub struct HostBatch {
    dense: Vec<f32>,
    indices: Vec<i64>,
    offsets: Vec<i64>,
    labels: Vec<f32>,
}

/// The same on a device.
pub struct DeviceBatch<B: Device> {
    dense: B::Buffer<f32>,
    indices: B::Buffer<i64>,
    offsets: B::Buffer<i64>,
    labels: B::Buffer<f32>,
}

/// All models, as they are measured on a device.
pub fn published<B: Timed>() -> Vec<Model> {
    let Published { most_rows, models } =
        serde_json::from_str(include_str!("models.json")).unwrap();
    let model = |(name, shape): (String, Shape)| {
        let dim = *shape.bottom.last().unwrap();
        let table = |rows: usize| Table { num_embeddings: rows.min(most_rows), embedding_dim: dim };
        let feature = |table| Feature { table, pooling: Pooling::Sum, padding_idx: None };
        let config = DlrmConfig {
            num_dense: shape.bottom[0],
            bottom_mlp: shape.bottom[1..].to_vec(),
            features: (0..shape.rows.len()).map(feature).collect(),
            tables: shape.rows.into_iter().map(table).collect(),
            top_mlp: shape.top,
            ..DlrmConfig::default()
        };
        Model { name, batch_size: shape.batch_size[B::NAME], config }
    };
    models.into_iter().map(model).collect()
}

impl Model {
    /// How benchmarks of it are called.
    pub fn shape(&self, ids: Ids, precision: ComputePrecision) -> String {
        format!("{} b{} {ids:?} {precision}", self.name, self.batch_size).to_lowercase()
    }

    /// The model with plain SGD, as it is published.
    pub fn build<B: Backend>(&self, device: &B, precision: ComputePrecision) -> Dlrm<B> {
        let config = DlrmConfig { precision, ..self.config.clone() };
        let mut model = Dlrm::new(device.clone(), config, 1).unwrap();
        model.optimize_with(Optimizers::same(Optimizer::Sgd, 1e-6)).unwrap();
        model
    }

    pub fn batch(&self, ids: Ids, set: usize) -> HostBatch {
        let (batch_size, tables) = (self.batch_size, &self.config.tables);
        let of_table = |(t, table): (usize, &Table)| {
            ids_of(ids, table.num_embeddings, batch_size, (set * 64 + t) as u64)
        };
        let indices: Vec<i64> = tables.par_iter().enumerate().flat_map_iter(of_table).collect();
        let mut random = Philox::new(set as u64, 3);
        HostBatch {
            dense: values(batch_size * self.config.num_dense, set as u64 + 1),
            offsets: (0..=indices.len() as i64).collect(),
            indices,
            labels: (0..batch_size).map(|_| random.below(2) as f32).collect(),
        }
    }
}

impl HostBatch {
    pub fn view(&self) -> BatchView<'_, Host, i64> {
        let batch_size = self.labels.len();
        BatchView {
            dense: Matrix::contiguous(&self.dense[..], batch_size, self.dense.len() / batch_size),
            bags: Bags {
                batch_size,
                indices: &self.indices[..],
                has_slack: false,
                offsets: &self.offsets[..],
                per_sample_weights: None,
            },
            labels: Some(&self.labels[..]),
        }
    }

    pub fn upload<B: Device>(&self, device: &B) -> DeviceBatch<B> {
        DeviceBatch {
            dense: upload(device, &self.dense),
            indices: upload(device, &self.indices),
            offsets: upload(device, &self.offsets),
            labels: upload(device, &self.labels),
        }
    }
}

impl<B: Device> DeviceBatch<B> {
    pub fn view(&self, model: &Model) -> BatchView<'_, B, i64> {
        let batch_size = model.batch_size;
        BatchView {
            dense: Matrix::contiguous(B::view(&self.dense), batch_size, model.config.num_dense),
            bags: Bags {
                batch_size,
                indices: B::view(&self.indices),
                has_slack: false,
                offsets: B::view(&self.offsets),
                per_sample_weights: None,
            },
            labels: Some(B::view(&self.labels)),
        }
    }
}
