//! What a step reads and writes besides the model itself.

use super::config::{DlrmConfig, Mlps};
use super::embedding::EmbeddingBagCollection;
use super::layers::Layers;
use super::mlp::padded;
use crate::dtype::Index;
use crate::error::Result;
use crate::ops::index_sort::{Sort, SortedIndices};
use crate::ops::sparse_update::Update;
use crate::ops::{Backend, Bags, Device, Matrix, TableBatch, Views, loss};
use crate::size::product;

/// A batch on a device, or on the [`Host`](crate::ops::Host).
pub struct BatchView<'a, D: Views, I: Index> {
    /// `[batch_size, num_dense]`.
    pub dense: Matrix<'a, D, f32>,
    /// The ids of all features.
    pub bags: Bags<'a, D, I>,
    /// `[batch_size]`, in [0, 1]. Not needed for predictions.
    pub labels: Option<D::Slice<'a, f32>>,
}

impl<D: Views, I: Index> Clone for BatchView<'_, D, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Views, I: Index> Copy for BatchView<'_, D, I> {}

/// Everything that a step writes besides the model itself.
pub(super) struct Buffers<D: Backend> {
    pub(super) batch_size: usize,
    pub(super) num_indices: usize,
    pub(super) layers: Layers<D>,
    pub(super) values: Seams<D>,
    /// The samples of the last batch whose logits have been computed, or are being.
    pub(super) samples: usize,
    pub(super) argmax: Option<D::Buffer<u32>>,
    pub(super) mean_loss: D::Buffer<f64>,
    pub(super) backward: Option<BackwardBuffers<D>>,
}

pub(super) struct BackwardBuffers<D: Backend> {
    pub(super) grads: Seams<D>,
    pub(super) sorted: SortedIndices<D>,
    pub(super) workspace: D::Buffer<u64>,
}

/// What goes from one part of a model to the next, or its gradient.
pub(super) struct Seams<D: Device> {
    /// The output of the bottom MLP.
    pub(super) bottom: D::Buffer<f32>,
    pub(super) pooled: D::Buffer<f32>,
    pub(super) interacted: D::Buffer<f32>,
    /// The output of the top MLP's last layer but one.
    pub(super) top: D::Buffer<f32>,
    pub(super) logits: D::Buffer<f32>,
}

impl<D: Device> Seams<D> {
    /// The columns of the room for each, in their order.
    pub(super) fn columns(config: &DlrmConfig, tables: &TableBatch) -> [usize; 5] {
        let width = config.interaction_width();
        let hidden = config.top_mlp.split_last().and_then(|(_, hidden)| hidden.last());
        let (interacted, top) = hidden.map_or((width, width), |&outputs| (padded(width), outputs));
        [config.bottom_mlp.last().copied().unwrap_or(0), tables.width(), interacted, top, 1]
    }

    fn new(device: &D, batch_size: usize, columns: [usize; 5]) -> Result<Self> {
        let [bottom, pooled, interacted, top, logits] =
            columns.map(|columns| device.alloc(product([batch_size, columns])));
        Ok(Self {
            bottom: bottom?,
            pooled: pooled?,
            interacted: interacted?,
            top: top?,
            logits: logits?,
        })
    }
}

impl<D: Backend> Buffers<D> {
    pub(super) fn new(
        device: &D,
        config: &DlrmConfig,
        (mlps, num_parameters): (&Mlps, usize),
        embedding: &EmbeddingBagCollection<D>,
        (batch_size, num_indices): (usize, usize),
        train: bool,
    ) -> Result<Self> {
        let tables = embedding.tables().as_ref();
        let columns = Seams::<D>::columns(config, tables);
        let argmax_len = product([batch_size, tables.width()]);
        let backward = || -> Result<BackwardBuffers<D>> {
            Ok(BackwardBuffers {
                grads: Seams::new(device, batch_size, columns)?,
                sorted: SortedIndices::new(
                    device,
                    num_indices,
                    product([batch_size, tables.features().len()]),
                )?,
                workspace: device.alloc(workspace_len(
                    device,
                    config,
                    mlps,
                    tables,
                    (batch_size, num_indices),
                ))?,
            })
        };
        Ok(Self {
            batch_size,
            num_indices,
            layers: Layers::new(
                device,
                config.precision,
                mlps.hidden(),
                num_parameters,
                batch_size,
                train,
            )?,
            values: Seams::new(device, batch_size, columns)?,
            samples: 0,
            argmax: if train && tables.has_max() { Some(device.alloc(argmax_len)?) } else { None },
            mean_loss: device.alloc(1)?,
            backward: if train { Some(backward()?) } else { None },
        })
    }
}

/// The words of workspace that the ops of a step need, which use it one after another.
pub(super) fn workspace_len<D: Backend>(
    device: &D,
    config: &DlrmConfig,
    mlps: &Mlps,
    tables: &TableBatch,
    (batch_size, num_indices): (usize, usize),
) -> usize {
    Sort::<D, i64>::workspace_len(device, tables, num_indices)
        .max(Update::<D, f32, i64>::workspace_len(device, tables, num_indices))
        .max(loss::Forward::workspace_len(device, batch_size))
        .max(Layers::workspace_len(device, config.precision, mlps.hidden(), batch_size))
        .max(mlps.logit.workspace_len::<D, f32>(device, batch_size))
}
