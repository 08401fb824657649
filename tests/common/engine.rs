//! A batch for the engine, and the engine's parameters by name.

use bagdot::nn::{BatchView, Dlrm, NamedTensor};
use bagdot::ops::{Accum, Matrix};
use bagdot::{Cpu, Index};

use super::cases::{BagCase, Id};

/// A batch on the host, as the engine takes it on the CPU.
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

    pub fn view(&self) -> BatchView<'_, Cpu, I> {
        BatchView {
            dense: Matrix::packed(&self.dense[..], self.case.batch_size, self.num_dense),
            bags: bagdot::ops::Bags {
                batch_size: self.case.batch_size,
                indices: &self.indices[..],
                offsets: &self.offsets[..],
                per_sample_weights: self.case.per_sample_weights.as_deref(),
            },
            labels: Some(&self.labels[..]),
        }
    }

    /// The gradients of the layers, by name, and those of the table rows.
    pub fn gradients(&self, model: &mut Dlrm<Cpu>) -> (Vec<NamedTensor>, Vec<(u64, Vec<f32>)>) {
        model.loss_and_grad(self.view(), Accum::Replace).unwrap();
        let cpu = model.device().clone();
        let mut grad = super::updates::poisoned_grad(&cpu, &self.case, self.case.indices.len());
        model.sparse_grad(self.view(), &mut grad).unwrap();
        (model.layer_grads().unwrap(), super::updates::download_grad(&cpu, &grad))
    }
}

/// The elements of the tensor with this name.
pub fn tensor(tensors: &[NamedTensor], name: &str) -> Vec<f32> {
    tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no tensor {name}")).to_f32()
}
