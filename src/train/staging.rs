//! A batch on its way from the host to a device.

use crate::data::Batch;
use crate::error::Result;
use crate::nn::BatchView;
use crate::ops::{Bags, Device, Extent, Matrix};

/// Buffers on a device that take one batch after another, and grow with the largest.
pub(super) struct Staging<D: Device> {
    dense: D::Buffer<f32>,
    indices: D::Buffer<i64>,
    offsets: D::Buffer<i64>,
    labels: D::Buffer<f32>,
    weights: D::Buffer<f32>,
    sizes: Sizes,
}

#[derive(Default)]
struct Sizes {
    batch_size: usize,
    num_dense: usize,
    indices: usize,
    offsets: usize,
    has_weights: bool,
}

impl<D: Device> Staging<D> {
    pub(super) fn new(device: &D) -> Result<Self> {
        let (dense, labels, weights) = (device.alloc(0)?, device.alloc(0)?, device.alloc(0)?);
        let (indices, offsets) = (device.alloc(0)?, device.alloc(0)?);
        Ok(Self { dense, indices, offsets, labels, weights, sizes: Sizes::default() })
    }

    /// Copies a batch to the device, with or without a factor for every id.
    pub(super) fn upload(
        &mut self,
        device: &D,
        batch: &Batch,
        num_dense: usize,
        weights: Option<&[f32]>,
    ) -> Result<BatchView<'_, D, i64>> {
        put(device, &batch.dense, &mut self.dense)?;
        put(device, &batch.indices, &mut self.indices)?;
        put(device, &batch.offsets, &mut self.offsets)?;
        put(device, &batch.labels, &mut self.labels)?;
        if let Some(weights) = weights {
            put(device, weights, &mut self.weights)?;
        }
        let (indices, offsets, has_weights) = (batch.indices.len(), batch.offsets.len(), weights.is_some());
        self.sizes = Sizes { batch_size: batch.batch_size, num_dense, indices, offsets, has_weights };
        Ok(self.view())
    }

    fn view(&self) -> BatchView<'_, D, i64> {
        let Sizes { batch_size, num_dense, indices, offsets, has_weights } = self.sizes;
        BatchView {
            dense: Matrix::packed(D::slice(&self.dense, 0..batch_size * num_dense), batch_size, num_dense),
            bags: Bags {
                batch_size,
                indices: D::slice(&self.indices, 0..indices),
                offsets: D::slice(&self.offsets, 0..offsets),
                per_sample_weights: has_weights.then(|| D::slice(&self.weights, 0..indices)),
            },
            labels: Some(D::slice(&self.labels, 0..batch_size)),
        }
    }
}

fn put<D: Device, T: crate::Scalar>(device: &D, values: &[T], buffer: &mut D::Buffer<T>) -> Result<()> {
    if buffer.extent() < values.len() {
        *buffer = device.alloc(values.len().next_power_of_two())?;
    }
    device.upload(values, D::slice_mut(buffer, 0..values.len()))
}
