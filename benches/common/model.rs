//! Published models, and batches for them.

use bagdot::nn::{BatchView, ComputePrecision, Dlrm, DlrmConfig, Optimizers};
use bagdot::ops::{Backend, Bags, Device, Host, Matrix, Optimizer, Table};
use bagdot::train::PublishedModel;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use super::{Ids, Timed, ids_of, shapes, upload, values};

/// A published model with the batch size that is measured.
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
    let model = |PublishedModel { name, config, batch_size }| {
        let sizes = shapes(["b"], &[[batch_size[B::NAME]]]);
        sizes.into_iter().map(move |[batch_size]| Model {
            name: name.clone(),
            batch_size,
            config: config.clone(),
        })
    };
    PublishedModel::all().into_iter().flat_map(model).collect()
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
