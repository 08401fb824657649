//! Batches and models for tests of the engine, and the parameters of a model by name.

use bagdot::Index;
use bagdot::nn::{BatchView, Dlrm, DlrmConfig, NamedTensor, Optimizers};
use bagdot::ops::{
    Accum, Backend, Bags, Device, Loss, Matrix, Memory, Optimizer, Pooling, Table, View,
};

use super::cases::{BagCase, DeviceBags, Id, draw, feature, uniform};
use super::memory::upload;
use super::reference::{Layer, Model};
use super::tolerance::{Approx, exact};
use super::updates::{download_grad, poisoned_grad};

/// The rows and columns of the table of [`small_model`].
const SMALL_TABLE: (usize, usize) = (5, 2);
/// Adam with a fast decay, so that a few steps already change its state much.
pub const FAST_ADAM: Optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.9, eps: 1e-8 };

/// Returns a model of one table and two layers, of which `small_batch` gives the batches.
pub fn small_model<B: Backend>(device: &B, loss: Loss, optimizers: Optimizers) -> Dlrm<B> {
    let (num_embeddings, embedding_dim) = SMALL_TABLE;
    let config = DlrmConfig {
        num_dense: 1,
        bottom_mlp: vec![embedding_dim],
        tables: vec![Table { num_embeddings, embedding_dim }],
        features: vec![feature(0, Pooling::Sum)],
        top_mlp: vec![1],
        loss,
        ..DlrmConfig::default()
    };
    let mut model = Dlrm::new(device.clone(), config, 1).unwrap();
    model.optimize_with(optimizers).unwrap();
    model
}

/// Returns a batch for [`small_model`], with one dense value, one bag and one label per sample.
pub fn small_batch(dense: Vec<f32>, lengths: &[usize], labels: Vec<f32>) -> Batch<i64> {
    Batch::new(dense, BagCase::one_table("batch", SMALL_TABLE, lengths, uniform), labels)
}

/// The widths of the bottom MLP of [`three_tables`], the number of dense values first.
pub const BOTTOM: [usize; 3] = [5, 7, 4];
/// The rows of the tables of [`three_tables`].
const ROWS: [usize; 3] = [9, 30, 2];

/// Returns the configuration of a model of three tables, pooled by sum, without a top MLP.
pub fn three_tables() -> DlrmConfig {
    let [num_dense, bottom @ ..] = BOTTOM;
    let embedding_dim = BOTTOM[2];
    DlrmConfig {
        num_dense,
        bottom_mlp: bottom.to_vec(),
        tables: ROWS.map(|num_embeddings| Table { num_embeddings, embedding_dim }).to_vec(),
        features: [0, 1, 2].map(|table| feature(table, Pooling::Sum)).to_vec(),
        ..DlrmConfig::default()
    }
}

/// Draws a batch for [`three_tables`], with labels 0 and 1.
pub fn three_table_batch(batch_size: usize, seed: u64) -> Batch<i32> {
    let tables = ROWS.map(|rows| (rows, BOTTOM[2]));
    let features = three_tables().features;
    let lengths: Vec<usize> = (0..3 * batch_size).map(|k| (k * 5 + seed as usize) % 4).collect();
    let case = BagCase::new(format!("batch {seed}"), (&tables, &features), &lengths, uniform);
    let labels = draw(batch_size, seed + 50).iter().map(|x| f32::from(*x > 0.0)).collect();
    Batch::new(draw(batch_size * BOTTOM[0], seed), case, labels)
}

/// Returns all that training changes, apart from the number of steps: parameters, state of the
/// optimizers, and averages.
pub fn state<B: Backend>(model: &mut Dlrm<B>) -> Vec<NamedTensor> {
    let averages = model.average_tensors().unwrap();
    [model.tensors().unwrap(), model.optimizer_tensors().unwrap(), averages].concat()
}

/// A batch on the host.
pub struct Batch<I: Index> {
    pub dense: Vec<f32>,
    pub num_dense: usize,
    pub case: BagCase,
    pub labels: Vec<f32>,
    indices: Vec<I>,
    offsets: Vec<I>,
}

impl<I: Id> Batch<I> {
    /// Joins dense values, row after row, with bags and labels.
    pub fn new(dense: Vec<f32>, case: BagCase, labels: Vec<f32>) -> Self {
        let num_dense = dense.len() / case.batch_size;
        let indices = case.indices.iter().map(|&id| I::id(id)).collect();
        let offsets = case.offsets.iter().map(|&offset| I::id(offset as i64)).collect();
        Self { dense, num_dense, case, labels, indices, offsets }
    }

    /// Views the batch for the CPU backend, or as a batch on the host.
    pub fn view<M: Memory<Address = ()>>(&self) -> BatchView<'_, M, I> {
        let rows = self.case.batch_size;
        let mut bags = Bags::new(rows, &self.indices, &self.offsets);
        bags.per_sample_weights = self.case.per_sample_weights.as_ref().map(View::from);
        BatchView::new(Matrix::contiguous(&self.dense, rows, self.num_dense), bags)
            .labels(&self.labels)
    }

    /// Uploads the batch.
    pub fn upload<B: Device>(&self, device: &B) -> DeviceBatch<B, I> {
        DeviceBatch {
            dense: upload(device, &self.dense),
            num_dense: self.num_dense,
            bags: self.case.upload(device),
            labels: upload(device, &self.labels),
        }
    }

    /// Returns the gradients of the layers, by name, and of the table rows, by linear row number.
    pub fn gradients<B: Backend>(
        &self,
        model: &mut Dlrm<B>,
    ) -> (Vec<NamedTensor>, Vec<(u64, Vec<f32>)>) {
        let device = model.device().clone();
        let batch = self.upload(&device);
        model.loss_and_grad(batch.view(), Accum::Replace).unwrap();
        let mut grad = poisoned_grad(&device, &self.case, self.case.indices.len());
        model.sparse_grad(batch.view(), &mut grad).unwrap();
        device.synchronize().unwrap();
        (model.layer_grads().unwrap(), download_grad(&device, &grad))
    }
}

/// A [`Batch`] on a device.
pub struct DeviceBatch<B: Device, I: Index> {
    pub dense: B::Buffer<f32>,
    num_dense: usize,
    pub bags: DeviceBags<B, I>,
    pub labels: B::Buffer<f32>,
}

impl<B: Device, I: Index> DeviceBatch<B, I> {
    /// Views the batch.
    pub fn view(&self) -> BatchView<'_, B, I> {
        BatchView::new(
            Matrix::contiguous(B::view(&self.dense), self.bags.batch_size, self.num_dense),
            self.bags.view(),
        )
        .labels(B::view(&self.labels))
    }
}

/// Returns the elements of the tensor with this name.
pub fn tensor(tensors: &[NamedTensor], name: &str) -> Vec<f32> {
    tensors
        .iter()
        .find(|tensor| tensor.name == name)
        .unwrap_or_else(|| panic!("no tensor {name}"))
        .to_f32()
}

/// Returns the layers of the MLP called `mlp` as the reference has them. `sizes` gives its input
/// width and the output widths of its layers.
pub fn layers(tensors: &[NamedTensor], mlp: &str, sizes: &[usize]) -> Vec<Layer> {
    let layer = |(k, pair): (usize, &[usize])| {
        let [weight, bias] =
            ["weight", "bias"].map(|kind| tensor(tensors, &format!("{mlp}.{k}.{kind}")));
        Layer::new(pair[0], pair[1], &weight, &bias)
    };
    sizes.windows(2).enumerate().map(layer).collect()
}

/// Returns the reference model with the parameters of an engine whose optimizer has taken no step
/// yet.
pub fn reference_of<B: Backend>(engine: &Dlrm<B>, optimizer: Optimizer) -> Model {
    let (tensors, config) = (engine.tensors().unwrap(), engine.config());
    let table = |t: usize| tensor(&tensors, &format!("tables.{t}.weight"));
    let tables: Vec<f32> = (0..config.tables.len()).flat_map(table).collect();
    let num_rows = config.tables.iter().map(|table| table.num_embeddings).sum();
    Model {
        bottom: layers(
            &tensors,
            "bottom_mlp",
            &[&[config.num_dense], &config.bottom_mlp[..]].concat(),
        ),
        top: layers(
            &tensors,
            "top_mlp",
            &[&[config.interaction_width()], &config.top_mlp[..]].concat(),
        ),
        tables: exact(&tables),
        table_state: optimizer.state_len(num_rows, tables.len()).map(|len| vec![Approx::ZERO; len]),
        interaction: config.interaction,
        loss: config.loss,
        threshold: config.loss_threshold,
    }
}

/// Returns the values of all tensors, one tensor after another. An engine lists layers before
/// tables.
pub fn flat(tensors: &[NamedTensor]) -> Vec<f32> {
    tensors.iter().flat_map(NamedTensor::to_f32).collect()
}
