//! Batches on their way from the host to a device.

use super::buffers::BatchView;
use crate::dtype::Scalar;
use crate::error::{Error, OffsetRule, Result, expect_size, invalid};
use crate::ops::matrix::matrix_name;
use crate::ops::{Backend, Bags, Extent, Host, Matrix, StagingOnly, StepValues};

const OP: &str = "Staging";

/// Two places on a device that take batches in turn: while ops read the one, the next batch travels
/// into the other.
///
/// On a backend that records ops, batches with fewer ids than the largest so far come with
/// [slack](Bags::has_slack), so that their sizes are the same.
///
/// A batch that does not fit together is refused before anything of it is sent, and so is one while
/// ops are recorded ([`Error::Recording`]). After any error the last batch is the one of before.
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

struct Sizes {
    batch_size: usize,
    num_dense: usize,
    indices: usize,
    has_slack: bool,
    offsets: usize,
    has_labels: bool,
    has_weights: bool,
}

impl Sizes {
    /// The sizes of a batch without samples. Its one offset is 0, because new memory is all zeros.
    const EMPTY: Self = Self {
        batch_size: 0,
        num_dense: 0,
        indices: 0,
        has_slack: false,
        offsets: 1,
        has_labels: false,
        has_weights: false,
    };
}

impl<D: Backend> Staging<D> {
    /// Places that grow with the largest batch.
    ///
    /// # Errors
    /// Those of [`Device::alloc`](crate::ops::Device::alloc).
    pub fn new(device: &D) -> Result<Self> {
        let place = || -> Result<Place<D>> {
            let (mut transfer, values) = (device.transfer(StagingOnly::new())?, device.alloc(2)?);
            D::release(&mut transfer)?;
            Ok(Place {
                transfer,
                dense: device.alloc(0)?,
                indices: device.alloc(0)?,
                offsets: device.alloc(Sizes::EMPTY.offsets)?,
                labels: device.alloc(0)?,
                weights: device.alloc(0)?,
                values,
                sizes: Sizes::EMPTY,
            })
        };
        Ok(Self { device: device.clone(), places: [place()?, place()?], now: 0, room: 0 })
    }

    /// Sends a batch to the device. Ops that are called with the view wait for it by themselves;
    /// all that have to do with the batch before last must have been called.
    ///
    /// # Errors
    /// Returns an error if the sizes of the batch do not fit together, and the errors of
    /// [`Device::alloc`](crate::ops::Device::alloc) and of the backend.
    pub fn stage(&mut self, batch: BatchView<'_, Host, i64>) -> Result<BatchView<'_, D, i64>> {
        self.receive(batch, None)?;
        Ok(self.view())
    }

    pub(super) fn receive(
        &mut self,
        batch: BatchView<'_, Host, i64>,
        values: Option<&[StepValues; 2]>,
    ) -> Result<()> {
        check(&batch)?;
        let Self { device, places, now, room } = self;
        D::release(&mut places[*now].transfer)?;
        let next = 1 - *now;
        let Place { transfer, dense, indices, offsets, labels, weights, values: to_values, sizes } =
            &mut places[next];
        let bags = batch.bags;
        let num_indices = bags.indices.len();
        if num_indices > *room {
            // Batches that are all alike need no more than the first.
            *room = if *room == 0 { num_indices } else { num_indices + num_indices / 16 };
        }
        let len = |exactly: usize| if D::RECORDS { *room } else { exactly };
        let Matrix { data, rows, cols, ld } = batch.dense;
        let num_dense = rows * cols;
        let weights_len = bags.per_sample_weights.map_or(0, |_| len(num_indices));
        let grown = make_room(device, num_dense, dense)?
            | make_room(device, len(num_indices), indices)?
            | make_room(device, bags.offsets.len(), offsets)?
            | make_room(device, batch.labels.map_or(0, <[f32]>::len), labels)?
            | make_room(device, weights_len, weights)?;
        if grown {
            // New memory is cleared behind the ops that were called before.
            D::release(transfer)?;
        }
        D::begin(transfer)?;
        // The matrix may have gaps, and reach beyond its rows; what is sent has neither.
        match ld == cols || num_dense == 0 {
            true => D::send(transfer, &data[..num_dense], D::slice_mut(dense, 0..num_dense))?,
            false => (0..rows).try_for_each(|row| {
                let target = D::slice_mut(dense, row * cols..(row + 1) * cols);
                D::send(transfer, &data[row * ld..][..cols], target)
            })?,
        }
        D::send(transfer, bags.indices, D::slice_mut(indices, 0..num_indices))?;
        D::send(transfer, bags.offsets, D::slice_mut(offsets, 0..bags.offsets.len()))?;
        if let Some(given) = batch.labels {
            D::send(transfer, given, D::slice_mut(labels, 0..given.len()))?;
        }
        if let Some(given) = bags.per_sample_weights {
            D::send(transfer, given, D::slice_mut(weights, 0..given.len()))?;
        }
        if let Some(values) = values {
            D::send(transfer, values, D::view_mut(to_values))?;
        }
        D::arrive(transfer)?;
        *sizes = Sizes {
            batch_size: rows,
            num_dense: cols,
            indices: len(num_indices),
            has_slack: D::RECORDS || bags.has_slack,
            offsets: bags.offsets.len(),
            has_labels: batch.labels.is_some(),
            has_weights: bags.per_sample_weights.is_some(),
        };
        *now = next;
        Ok(())
    }

    /// Returns whether the ops of `device` run in a defined order with the batches that are sent
    /// here.
    pub(super) fn is_on(&self, device: &D) -> bool {
        self.device.is_same(device)
    }

    /// The last batch; one without samples before the first.
    pub fn view(&self) -> BatchView<'_, D, i64> {
        let Place { dense, indices, offsets, labels, weights, sizes, .. } = &self.places[self.now];
        let Sizes { batch_size, num_dense, indices: num_indices, offsets: num_offsets, .. } =
            *sizes;
        BatchView {
            dense: Matrix::contiguous(
                D::slice(dense, 0..batch_size * num_dense),
                batch_size,
                num_dense,
            ),
            bags: Bags {
                batch_size,
                indices: D::slice(indices, 0..num_indices),
                has_slack: sizes.has_slack,
                offsets: D::slice(offsets, 0..num_offsets),
                per_sample_weights: sizes.has_weights.then(|| D::slice(weights, 0..num_indices)),
            },
            labels: sizes.has_labels.then(|| D::slice(labels, 0..batch_size)),
        }
    }

    /// The values that came with the last batch, for tables and layers.
    pub(super) fn values(&self) -> [D::Slice<'_, StepValues>; 2] {
        [0, 1].map(|group| D::slice(&self.places[self.now].values, group..group + 1))
    }
}

/// Checks the sizes of a batch against each other, and where the last bag ends: behind it lie other
/// ids than its own. What else is wrong with offsets and ids is found by the ops that read them.
pub(super) fn check(batch: &BatchView<'_, Host, i64>) -> Result<()> {
    let BatchView { dense, bags, labels } = batch;
    let Bags { batch_size, indices, has_slack, offsets, per_sample_weights } = *bags;
    expect_size(OP, "batch.bags.batch_size", batch_size, dense.rows)?;
    dense.check(OP, matrix_name!("batch.dense"), batch_size, dense.cols)?;
    if let Some(labels) = labels {
        expect_size(OP, "batch.labels", labels.len(), batch_size)?;
    }
    if let Some(weights) = per_sample_weights {
        expect_size(OP, "bags.per_sample_weights", weights.len(), indices.len())?;
    }
    let Some((&end, firsts)) =
        offsets.split_last().filter(|(_, firsts)| firsts.len().is_multiple_of(batch_size))
    else {
        let reason = format!(
            "{} are not one more than a multiple of the {batch_size} samples",
            offsets.len()
        );
        return Err(invalid(OP, "bags.offsets", reason));
    };
    match usize::try_from(end)
        .is_ok_and(|end| end == indices.len() || (has_slack && end < indices.len()))
    {
        true => Ok(()),
        false => {
            let rule = OffsetRule::LastIs(indices.len());
            Err(Error::InvalidOffsets { position: firsts.len(), value: end, rule })
        }
    }
}

/// Whether the buffer has been replaced by a larger one.
fn make_room<D: Backend, T: Scalar>(
    device: &D,
    len: usize,
    buffer: &mut D::Buffer<T>,
) -> Result<bool> {
    let is_short = buffer.extent() < len;
    if is_short {
        *buffer = device.alloc(len.next_power_of_two())?;
    }
    Ok(is_short)
}
