//! A batch for the engine, and the engine's parameters by name.

use bagdot::Index;
use bagdot::nn::{BatchView, Dlrm, NamedTensor};
use bagdot::ops::{Accum, Backend, Device, Matrix, Optimizer, Views};

use super::cases::{BagCase, DeviceBags, Id};
use super::memory::upload;
use super::reference::{Layer, Model};
use super::tolerance::{Approx, exact};

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
    pub fn new(dense: Vec<f32>, case: BagCase, labels: Vec<f32>) -> Self {
        let num_dense = dense.len() / case.batch_size;
        let indices = case.indices.iter().map(|&id| I::id(id)).collect();
        let offsets = case.offsets.iter().map(|&offset| I::id(offset as i64)).collect();
        Self { dense, num_dense, case, labels, indices, offsets }
    }

    /// Views the batch for the CPU backend, or as a batch on the host.
    pub fn view<'a, V>(&'a self) -> BatchView<'a, V, I>
    where
        V: Views<Slice<'a, I> = &'a [I]> + Views<Slice<'a, f32> = &'a [f32]>,
    {
        BatchView {
            dense: Matrix::contiguous(&self.dense[..], self.case.batch_size, self.num_dense),
            bags: bagdot::ops::Bags {
                batch_size: self.case.batch_size,
                indices: &self.indices[..],
                has_slack: false,
                offsets: &self.offsets[..],
                per_sample_weights: self.case.per_sample_weights.as_deref(),
            },
            labels: Some(&self.labels[..]),
        }
    }

    /// Takes the batch to a device.
    pub fn upload<B: Device>(&self, device: &B) -> DeviceBatch<B, I> {
        DeviceBatch {
            dense: upload(device, &self.dense),
            num_dense: self.num_dense,
            bags: self.case.upload(device),
            labels: upload(device, &self.labels),
        }
    }

    /// The gradients of the layers, by name, and those of the table rows.
    pub fn gradients<B: Backend>(
        &self,
        model: &mut Dlrm<B>,
    ) -> (Vec<NamedTensor>, Vec<(u64, Vec<f32>)>) {
        let device = model.device().clone();
        let batch = self.upload(&device);
        model.loss_and_grad(batch.view(), Accum::Replace).unwrap();
        let mut grad = super::updates::poisoned_grad(&device, &self.case, self.case.indices.len());
        model.sparse_grad(batch.view(), &mut grad).unwrap();
        device.synchronize().unwrap();
        (model.layer_grads().unwrap(), super::updates::download_grad(&device, &grad))
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
    pub fn view(&self) -> BatchView<'_, B, I> {
        BatchView {
            dense: Matrix::contiguous(B::view(&self.dense), self.bags.batch_size, self.num_dense),
            bags: self.bags.view(),
            labels: Some(B::view(&self.labels)),
        }
    }
}

/// The elements of the tensor with this name.
pub fn tensor(tensors: &[NamedTensor], name: &str) -> Vec<f32> {
    tensors
        .iter()
        .find(|tensor| tensor.name == name)
        .unwrap_or_else(|| panic!("no tensor {name}"))
        .to_f32()
}

/// The layers of an MLP, with the parameters that the engine has for it.
pub fn layers(tensors: &[NamedTensor], mlp: &str, sizes: &[usize]) -> Vec<Layer> {
    let layer = |(k, pair): (usize, &[usize])| {
        let [weight, bias] =
            ["weight", "bias"].map(|kind| tensor(tensors, &format!("{mlp}.{k}.{kind}")));
        Layer::new(pair[0], pair[1], &weight, &bias)
    };
    sizes.windows(2).enumerate().map(layer).collect()
}

/// The reference with the parameters that an engine has now, before the first step of the
/// optimizer.
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

/// All values of tensors, in their order: of an engine's, those of layers first, then those of
/// tables.
pub fn flat(tensors: &[NamedTensor]) -> Vec<f32> {
    tensors.iter().flat_map(NamedTensor::to_f32).collect()
}
