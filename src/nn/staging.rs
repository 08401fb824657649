//! Batches on their way from the host to a device.

use super::buffers::BatchView;
use crate::error::Result;
use crate::ops::{Backend, Bags, Extent, Matrix, StepValues};
use crate::{Cpu, Scalar};

/// Two places on a device that take batches in turn: while ops read the one, the next batch travels into the other.
///
/// On a backend that records ops, batches with fewer ids than the largest so far come with [spare room](Bags::has_spare), so that their sizes are
/// the same.
pub struct Staging<D: Backend> {
    device: D,
    places: [Place<D>; 2],
    /// The place of the last batch.
    now: usize,
    /// Ids that there is room for, in both places.
    room: usize,
}

struct Place<D: Backend> {
    transfer: D::Transfer,
    dense: D::Buffer<f32>,
    indices: D::Buffer<i64>,
    offsets: D::Buffer<i64>,
    labels: D::Buffer<f32>,
    weights: D::Buffer<f32>,
    values: D::Buffer<StepValues>,
    sizes: Sizes,
}

#[derive(Default)]
struct Sizes {
    batch_size: usize,
    num_dense: usize,
    indices: usize,
    offsets: usize,
    has_labels: bool,
    has_weights: bool,
}

impl<D: Backend> Staging<D> {
    /// Places that grow with the largest batch.
    ///
    /// # Errors
    /// Those of [`Device::alloc`](crate::ops::Device::alloc).
    pub fn new(device: &D) -> Result<Self> {
        let place = || -> Result<Place<D>> {
            let (mut transfer, values) = (device.transfer()?, device.alloc(2)?);
            device.release(&mut transfer)?;
            Ok(Place {
                transfer,
                dense: device.alloc(0)?,
                indices: device.alloc(0)?,
                offsets: device.alloc(0)?,
                labels: device.alloc(0)?,
                weights: device.alloc(0)?,
                values,
                sizes: Sizes::default(),
            })
        };
        Ok(Self { device: device.clone(), places: [place()?, place()?], now: 0, room: 0 })
    }

    /// Sends a batch to the device. Ops that are called with the view wait for it by themselves; all that have to do with the batch before last
    /// must have been called.
    ///
    /// # Errors
    /// Those of [`Device::alloc`](crate::ops::Device::alloc), and what the backend reports.
    pub fn stage(&mut self, batch: BatchView<'_, Cpu, i64>) -> Result<BatchView<'_, D, i64>> {
        self.receive(batch, None)?;
        Ok(self.view())
    }

    pub(super) fn receive(&mut self, batch: BatchView<'_, Cpu, i64>, values: Option<&[StepValues; 2]>) -> Result<()> {
        let Self { device, places, now, room } = self;
        device.release(&mut places[*now].transfer)?;
        *now = 1 - *now;
        let Place { transfer, dense, indices, offsets, labels, weights, values: to_values, sizes } = &mut places[*now];
        let bags = batch.bags;
        let num_indices = bags.indices.len();
        if num_indices > *room {
            // Batches that are all alike need no more than the first.
            *room = if *room == 0 { num_indices } else { num_indices + num_indices / 16 };
        }
        let len = |exactly: usize| if D::RECORDS { *room } else { exactly };
        let Matrix { data, rows, cols, ld } = batch.dense;
        let weights_len = bags.per_sample_weights.map_or(0, |_| len(num_indices));
        let grown = make_room(device, rows * cols, dense)?
            | make_room(device, len(num_indices), indices)?
            | make_room(device, bags.offsets.len(), offsets)?
            | make_room(device, batch.labels.map_or(0, <[f32]>::len), labels)?
            | make_room(device, weights_len, weights)?;
        if grown {
            // New memory is cleared behind the ops that were called before.
            device.release(transfer)?;
        }
        device.begin(transfer)?;
        // The matrix may have gaps, and reach beyond its rows; what is sent has neither.
        match ld == cols {
            true => device.send(transfer, &data[..rows * cols], D::slice_mut(dense, 0..rows * cols))?,
            false => (0..rows).try_for_each(|row| {
                let target = D::slice_mut(dense, row * cols..(row + 1) * cols);
                device.send(transfer, &data[row * ld..][..cols], target)
            })?,
        }
        device.send(transfer, bags.indices, D::slice_mut(indices, 0..num_indices))?;
        device.send(transfer, bags.offsets, D::slice_mut(offsets, 0..bags.offsets.len()))?;
        if let Some(given) = batch.labels {
            device.send(transfer, given, D::slice_mut(labels, 0..given.len()))?;
        }
        if let Some(given) = bags.per_sample_weights {
            device.send(transfer, given, D::slice_mut(weights, 0..given.len()))?;
        }
        if let Some(values) = values {
            device.send(transfer, values, D::view_mut(to_values))?;
        }
        device.arrive(transfer)?;
        *sizes = Sizes {
            batch_size: rows,
            num_dense: cols,
            indices: len(num_indices),
            offsets: bags.offsets.len(),
            has_labels: batch.labels.is_some(),
            has_weights: bags.per_sample_weights.is_some(),
        };
        Ok(())
    }

    /// The last batch.
    pub fn view(&self) -> BatchView<'_, D, i64> {
        let Place { dense, indices, offsets, labels, weights, sizes, .. } = &self.places[self.now];
        let Sizes { batch_size, num_dense, indices: num_indices, offsets: num_offsets, has_labels, has_weights } =
            *sizes;
        BatchView {
            dense: Matrix::packed(D::slice(dense, 0..batch_size * num_dense), batch_size, num_dense),
            bags: Bags {
                batch_size,
                indices: D::slice(indices, 0..num_indices),
                has_spare: D::RECORDS,
                offsets: D::slice(offsets, 0..num_offsets),
                per_sample_weights: has_weights.then(|| D::slice(weights, 0..num_indices)),
            },
            labels: has_labels.then(|| D::slice(labels, 0..batch_size)),
        }
    }

    /// The values that came with the last batch, for tables and layers.
    pub(super) fn values(&self) -> [D::Slice<'_, StepValues>; 2] {
        [0, 1].map(|group| D::slice(&self.places[self.now].values, group..group + 1))
    }
}

/// Whether the buffer has been replaced by a larger one.
fn make_room<D: Backend, T: Scalar>(device: &D, len: usize, buffer: &mut D::Buffer<T>) -> Result<bool> {
    let is_short = buffer.extent() < len;
    if is_short {
        *buffer = device.alloc(len.next_power_of_two())?;
    }
    Ok(is_short)
}
