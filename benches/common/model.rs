//! Published models, and batches for them.

use std::collections::BTreeMap;

use bagdot::nn::{BatchView, ComputePrecision, Dlrm, DlrmConfig, Optimizers};
use bagdot::ops::{Backend, Bags, Device, Feature, Host, Matrix, Optimizer, Pooling, Table};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use serde::Deserialize;

use super::{Ids, Timed, ids_of, shapes, upload, values};

/// The contents of models.json, which gpu_compare.py reads, too.
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

/// A published model whose tables are cut off.
pub struct Model {
    pub name: String,
    pub batch_size: usize,
    pub config: DlrmConfig,
}

/// A batch on the host with one id in each bag.
pub struct HostBatch {
    dense: Vec<f32>,
    /// As the program has them: half as many bytes as on the device, where peers have 64 bits.
    indices: Vec<u32>,
    offsets: Vec<i64>,
    labels: Vec<f32>,
}

/// A batch on a device.
pub struct DeviceBatch<B: Device> {
    dense: B::Buffer<f32>,
    indices: B::Buffer<i64>,
    offsets: B::Buffer<i64>,
    labels: B::Buffer<f32>,
}

/// Returns all models as they are measured on a device. `BAGDOT_BENCH_SHAPE` can replace their
/// batch size, `b`.
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
        let sizes = shapes(["b"], &[[shape.batch_size[B::NAME]]]);
        sizes.into_iter().map(move |[batch_size]| Model {
            name: name.clone(),
            batch_size,
            config: config.clone(),
        })
    };
    models.into_iter().flat_map(model).collect()
}

impl Model {
    /// Returns the name of its benchmarks.
    pub fn shape(&self, ids: Ids, precision: ComputePrecision) -> String {
        format!("{} b{} {ids:?} {precision}", self.name, self.batch_size).to_lowercase()
    }

    /// Builds the model with plain SGD, as it is published.
    pub fn build<B: Backend>(&self, device: &B, precision: ComputePrecision) -> Dlrm<B> {
        let config = DlrmConfig { precision, ..self.config.clone() };
        let mut model = Dlrm::new(device.clone(), config, 1).unwrap();
        model.optimize_with(Optimizers::same(Optimizer::Sgd, 1e-6)).unwrap();
        model
    }
}

impl HostBatch {
    /// Draws a batch; another `set` has other ids.
    pub fn new(model: &Model, ids: Ids, set: usize) -> Self {
        let (batch_size, tables) = (model.batch_size, &model.config.tables);
        let of_table = |(t, table): (usize, &Table)| {
            let ids = ids_of(ids, table.num_embeddings, batch_size, (set * 64 + t) as u64);
            ids.into_iter().map(|id| id as u32)
        };
        let indices: Vec<u32> = tables.par_iter().enumerate().flat_map_iter(of_table).collect();
        let mut random = SmallRng::seed_from_u64(set as u64);
        Self {
            dense: values(batch_size * model.config.num_dense, set as u64 + 1),
            offsets: (0..=indices.len() as i64).collect(),
            indices,
            labels: (0..batch_size).map(|_| f32::from(random.random_bool(0.5) as u8)).collect(),
        }
    }

    pub fn view(&self) -> BatchView<'_, Host, u32> {
        let batch_size = self.labels.len();
        BatchView::new(
            Matrix::contiguous(&self.dense[..], batch_size, self.dense.len() / batch_size),
            Bags::new(batch_size, &self.indices[..], &self.offsets[..]),
        )
        .labels(&self.labels[..])
    }

    pub fn upload<B: Device>(&self, device: &B) -> DeviceBatch<B> {
        DeviceBatch {
            dense: upload(device, &self.dense),
            indices: upload(
                device,
                &self.indices.iter().copied().map(i64::from).collect::<Vec<_>>(),
            ),
            offsets: upload(device, &self.offsets),
            labels: upload(device, &self.labels),
        }
    }
}

impl<B: Device> DeviceBatch<B> {
    pub fn view(&self, model: &Model) -> BatchView<'_, B, i64> {
        let batch_size = model.batch_size;
        BatchView::new(
            Matrix::contiguous(B::view(&self.dense), batch_size, model.config.num_dense),
            Bags::new(batch_size, B::view(&self.indices), B::view(&self.offsets)),
        )
        .labels(B::view(&self.labels))
    }
}
