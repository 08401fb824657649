//! What a step reads and writes besides the model itself.

use super::config::DlrmConfig;
use super::embedding::EmbeddingBagCollection;
use super::mlp::{Activations, Mlp};
use crate::dtype::{Index, Scalar};
use crate::error::Result;
use crate::ops::index_sort::{Sort, SortedIndices};
use crate::ops::sparse_update::Update;
use crate::ops::{Backend, Bags, Device, Matrix, MatrixMut, TableBatch, loss};

/// A batch on a device.
pub struct BatchView<'a, D: Device, I: Index> {
    /// `[batch_size, num_dense]`.
    pub dense: Matrix<'a, D, f32>,
    /// The ids of all features.
    pub bags: Bags<'a, D, I>,
    /// `[batch_size]`, in [0, 1]. Not needed for predictions.
    pub labels: Option<D::Slice<'a, f32>>,
}

impl<D: Device, I: Index> Clone for BatchView<'_, D, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Device, I: Index> Copy for BatchView<'_, D, I> {}

/// Everything that a step writes besides the model itself.
pub(super) struct Buffers<D: Backend> {
    pub(super) batch_size: usize,
    pub(super) num_indices: usize,
    pub(super) bottom: Activations<D>,
    pub(super) top: Activations<D>,
    pub(super) pooled: D::Buffer<f32>,
    pub(super) interacted: D::Buffer<f32>,
    pub(super) argmax: Option<D::Buffer<u32>>,
    pub(super) mean_loss: D::Buffer<f64>,
    pub(super) backward: Option<BackwardBuffers<D>>,
}

pub(super) struct BackwardBuffers<D: Backend> {
    pub(super) bottom: Activations<D>,
    pub(super) top: Activations<D>,
    pub(super) pooled: D::Buffer<f32>,
    pub(super) interacted: D::Buffer<f32>,
    pub(super) sorted: SortedIndices<D>,
    pub(super) workspace: D::Buffer<u64>,
}

impl<D: Backend> Buffers<D> {
    pub(super) fn new(
        device: &D,
        config: &DlrmConfig,
        (bottom, top): (&Mlp, &Mlp),
        embedding: &EmbeddingBagCollection<D>,
        (batch_size, num_indices): (usize, usize),
        train: bool,
    ) -> Result<Self> {
        let tables = embedding.tables().as_ref();
        let (pooled_len, interacted_len) = (batch_size * tables.width(), batch_size * config.interaction_width());
        let backward = || -> Result<BackwardBuffers<D>> {
            let sort = Sort::<D, i64>::workspace_len(device, tables, num_indices);
            let update = Update::<D, f32, i64>::workspace_len(device, tables, num_indices);
            let loss = loss::Forward::workspace_len(device, batch_size);
            let layers = bottom.workspace_len(device, batch_size).max(top.workspace_len(device, batch_size));
            Ok(BackwardBuffers {
                bottom: bottom.activations(device, batch_size)?,
                top: top.activations(device, batch_size)?,
                pooled: device.alloc(pooled_len)?,
                interacted: device.alloc(interacted_len)?,
                sorted: SortedIndices::new(device, num_indices, batch_size * tables.features().len())?,
                workspace: device.alloc(sort.max(update).max(loss).max(layers))?,
            })
        };
        Ok(Self {
            batch_size,
            num_indices,
            bottom: bottom.activations(device, batch_size)?,
            top: top.activations(device, batch_size)?,
            pooled: device.alloc(pooled_len)?,
            interacted: device.alloc(interacted_len)?,
            argmax: if train && tables.has_max() { Some(device.alloc(pooled_len)?) } else { None },
            mean_loss: device.alloc(1)?,
            backward: if train { Some(backward()?) } else { None },
        })
    }
}

pub(super) fn logits<D: Device>(top: &Activations<D>, rows: usize) -> D::Slice<'_, f32> {
    // A model has at least one layer in its top MLP, and the last one has one output.
    D::slice(&top[top.len() - 1], 0..rows)
}

pub(super) fn pooled_matrix<'a, D: Device, T: Scalar>(
    buffer: &'a D::Buffer<T>,
    rows: usize,
    tables: &TableBatch,
) -> Matrix<'a, D, T> {
    Matrix::packed(D::slice(buffer, 0..rows * tables.width()), rows, tables.width())
}

pub(super) fn pooled_matrix_mut<'a, D: Device, T: Scalar>(
    buffer: &'a mut D::Buffer<T>,
    rows: usize,
    tables: &TableBatch,
) -> MatrixMut<'a, D, T> {
    MatrixMut::packed(D::slice_mut(buffer, 0..rows * tables.width()), rows, tables.width())
}
