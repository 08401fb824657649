//! The buffers that a step reads and writes besides the model itself.

use super::config::{DlrmConfig, Mlps};
use super::embedding::EmbeddingBagCollection;
use super::layers::Layers;
use super::matrix::BatchMatrix;
use crate::dtype::Index;
use crate::error::Result;
use crate::ops::index_sort::{Sort, SortedIndices};
use crate::ops::sparse_update::Update;
use crate::ops::{Backend, Bags, Matrix, Memory, TableBatch, View};
use crate::size::product;

/// A batch on a device, or on the [`Host`](crate::ops::Host).
#[non_exhaustive]
pub struct BatchView<'a, D: Memory, I: Index> {
    /// The dense features, `[batch_size, num_dense]`.
    pub dense: Matrix<'a, D, f32>,
    /// The ids of all sparse features: `num_features * batch_size` bags.
    pub bags: Bags<'a, D, I>,
    /// The labels, `[batch_size]`, in [0, 1]; `None` for predictions.
    pub labels: Option<View<'a, D, f32>>,
}

impl<D: Memory, I: Index> Clone for BatchView<'_, D, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Memory, I: Index> Copy for BatchView<'_, D, I> {}

impl<'a, D: Memory, I: Index> BatchView<'a, D, I> {
    /// Makes a batch without labels from dense features `[batch_size, num_dense]` and the bags of
    /// the same samples.
    pub fn new(dense: Matrix<'a, D, f32>, bags: Bags<'a, D, I>) -> Self {
        Self { dense, bags, labels: None }
    }

    /// Gives every sample a label, `[batch_size]`. By default there are none, as for predictions.
    pub fn labels(self, labels: impl Into<View<'a, D, f32>>) -> Self {
        Self { labels: Some(labels.into()), ..self }
    }
}

/// The size of the largest batch that buffers have room for.
#[derive(Clone, Copy)]
pub(super) struct Capacity {
    /// The number of samples.
    pub(super) batch_size: usize,
    /// The number of ids of all features, slack included.
    pub(super) num_indices: usize,
}

/// All buffers that a step writes besides the model itself.
pub(super) struct Buffers<D: Backend> {
    pub(super) capacity: Capacity,
    pub(super) layers: Layers<D>,
    /// The output of the top MLP, one column.
    pub(super) logits: BatchMatrix<D, f32>,
    /// The number of samples of the last batch, 0 if its logits have not all been computed.
    pub(super) samples: usize,
    /// The argmax of the lookup, `Some` if a feature is pooled by max and the model has been
    /// trained.
    pub(super) argmax: Option<BatchMatrix<D, u32>>,
    pub(super) mean_loss: D::Buffer<f64>,
    /// The buffers of the backward pass, `None` until the model is trained.
    pub(super) backward: Option<BackwardBuffers<D>>,
}

/// The buffers of the backward pass.
pub(super) struct BackwardBuffers<D: Backend> {
    /// The gradient of the logits.
    pub(super) grad_logits: BatchMatrix<D, f32>,
    pub(super) sorted: SortedIndices<D>,
    /// The workspace of the branch beside the backward pass.
    pub(super) branch_workspace: D::Buffer<u64>,
    /// The workspace of the other ops of a step, which use it one after another.
    pub(super) workspace: D::Buffer<u64>,
}

impl Capacity {
    /// Returns the least capacity that is no less than either.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            batch_size: self.batch_size.max(other.batch_size),
            num_indices: self.num_indices.max(other.num_indices),
        }
    }

    /// Returns whether there is room for a batch of the size `batch`.
    pub(super) fn covers(self, batch: Self) -> bool {
        batch.batch_size <= self.batch_size && batch.num_indices <= self.num_indices
    }
}

impl<D: Backend> Buffers<D> {
    /// Allocates buffers for batches within `capacity`, with those of the backward pass if `train`
    /// is set.
    pub(super) fn new(
        device: &D,
        config: &DlrmConfig,
        (mlps, num_parameters): (&Mlps, usize),
        embedding: &EmbeddingBagCollection<D>,
        capacity: Capacity,
        train: bool,
    ) -> Result<Self> {
        let Capacity { batch_size, .. } = capacity;
        let tables = embedding.tables().as_ref();
        let argmax = || BatchMatrix::new(device, batch_size, tables.width());
        let backward = || BackwardBuffers::new(device, config, mlps, tables, capacity);
        Ok(Self {
            capacity,
            layers: Layers::new(device, config, (mlps, num_parameters), tables, batch_size, train)?,
            logits: BatchMatrix::new(device, batch_size, 1)?,
            samples: 0,
            argmax: if train && tables.has_max() { Some(argmax()?) } else { None },
            mean_loss: device.alloc(1)?,
            backward: if train { Some(backward()?) } else { None },
        })
    }
}

impl<D: Backend> BackwardBuffers<D> {
    fn new(
        device: &D,
        config: &DlrmConfig,
        mlps: &Mlps,
        tables: &TableBatch,
        capacity: Capacity,
    ) -> Result<Self> {
        let Capacity { batch_size, num_indices } = capacity;
        let num_bags = product([batch_size, tables.features().len()]);
        let workspace = WorkspaceLens::new(device, config, mlps, tables, capacity);
        Ok(Self {
            grad_logits: BatchMatrix::new(device, batch_size, 1)?,
            sorted: SortedIndices::new(device, num_indices, num_bags)?,
            branch_workspace: device.alloc(workspace.branch)?,
            workspace: device.alloc(workspace.others)?,
        })
    }
}

/// The workspace that a step needs, in words of 8 bytes.
pub(super) struct WorkspaceLens {
    /// The words of the branch beside the backward pass: the sort and the gradients of weights.
    pub(super) branch: usize,
    /// The words of the other ops, which use them one after another.
    pub(super) others: usize,
}

impl WorkspaceLens {
    /// Returns the workspace of steps with batches within a capacity.
    pub(super) fn new<D: Backend>(
        device: &D,
        config: &DlrmConfig,
        mlps: &Mlps,
        tables: &TableBatch,
        Capacity { batch_size, num_indices }: Capacity,
    ) -> Self {
        let layers = Layers::workspace_lens(device, config.precision, mlps, batch_size);
        Self {
            branch: Sort::<D, i64>::workspace_len(device, tables, num_indices).max(layers.hidden),
            others: Update::<D, f32, i64>::workspace_len(device, tables, num_indices)
                .max(layers.head)
                .max(layers.hidden),
        }
    }
}
