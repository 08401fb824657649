//! Batches on their way from the host to a device.

use super::buffers::BatchView;
use super::optimizer::PerGroup;
use crate::dtype::{Index, Scalar};
use crate::error::{Error, OffsetRule, Result, expect_size, invalid};
use crate::ops::bags::{End, OffsetsOf};
use crate::ops::matrix::matrix_name;
use crate::ops::{Backend, Bags, Extent, Host, Matrix, StagingOnly, StepValues, View};

const OP: &str = "Staging";

/// A batch on the host.
type HostBatch<'a, I> = BatchView<'a, Host, I>;

/// A double buffer on a device for batches: while ops read one slot, the next batch is sent into
/// the other.
///
/// On a backend that records ops, batches with fewer ids than the largest so far come with
/// [slack](Bags::has_slack), so that their sizes are the same. A batch whose bags have one id each
/// comes without slack, and without offsets, which would be as many bytes as its ids.
///
/// Ids of 32 bits (`u32`, `i32`) are half as many bytes as those of 64. Parts of more than 256 KiB
/// are copied to memory that the device reads by the threads of rayon's pool.
///
/// A batch that does not fit together is refused before anything of it is sent, and so is one while
/// ops are recorded ([`Error::Recording`]). After any error the last batch is still the one before.
pub struct Staging<D: Backend, I: Index = i64> {
    device: D,
    slots: [Slot<D, I>; 2],
    /// The slot of the last batch.
    current: usize,
    /// The number of ids that both slots have room for.
    room: usize,
}

/// One half of the double buffer.
struct Slot<D: Backend, I: Index> {
    transfer: D::Transfer,
    dense: D::Buffer<f32>,
    indices: D::Buffer<I>,
    offsets: D::Buffer<i64>,
    /// The offsets on the host, if the batch has them in another form.
    host_offsets: Vec<i64>,
    labels: D::Buffer<f32>,
    weights: D::Buffer<f32>,
    /// The values of a step: one for the tables, then one for the layers.
    values: D::Buffer<StepValues>,
    sizes: Sizes,
}

/// The sizes of the batch in a slot.
#[derive(Clone, Copy)]
struct Sizes {
    batch_size: usize,
    num_dense: usize,
    /// The number of ids, slack included.
    indices: usize,
    has_slack: bool,
    /// The number of offsets, 0 if every bag has one id.
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

    /// Returns the sizes of a batch in a slot with room for `room` ids.
    fn new<D: Backend, I: Index>(batch: &HostBatch<'_, I>, room: usize) -> Self {
        let BatchView { dense, bags, labels } = batch;
        let num_bags = bags.offsets.num_bags(bags.num_indices()).unwrap_or(0);
        // The number of such bags is that of their ids, so these come without slack.
        let is_single = num_bags > 0 && bags.offsets.are_of_one_id();
        let (indices, has_slack) = match (is_single, D::RECORDS) {
            (true, _) => (num_bags, false),
            (false, true) => (room, true),
            (false, false) => (bags.indices.len(), bags.has_slack),
        };
        Self {
            batch_size: dense.rows,
            num_dense: dense.cols,
            indices,
            has_slack,
            offsets: if is_single { 0 } else { num_bags + 1 },
            has_labels: labels.is_some(),
            has_weights: bags.per_sample_weights.is_some(),
        }
    }
}

impl<D: Backend, I: Index> Staging<D, I> {
    /// Makes empty slots, which grow with the largest batch.
    ///
    /// # Errors
    /// Propagates errors of [`Device::alloc`](crate::ops::Device::alloc) and of the backend.
    pub fn new(device: &D) -> Result<Self> {
        let slots = [Slot::new(device)?, Slot::new(device)?];
        Ok(Self { device: device.clone(), slots, current: 0, room: 0 })
    }

    /// Sends a batch to the device. Ops that are called with the view wait for the batch by
    /// themselves. All ops that read the batch before the last one must have been called.
    ///
    /// # Errors
    /// Returns an error if the sizes of the batch do not fit together. Propagates errors of
    /// [`Device::alloc`](crate::ops::Device::alloc) and of the backend.
    pub fn stage(&mut self, batch: BatchView<'_, Host, I>) -> Result<BatchView<'_, D, I>> {
        self.receive(batch, None)?;
        Ok(self.view())
    }

    /// Sends a batch to the device, and with it the values of a step.
    pub(super) fn receive(
        &mut self,
        batch: BatchView<'_, Host, I>,
        values: Option<PerGroup<StepValues>>,
    ) -> Result<()> {
        check(&batch)?;
        D::release(&mut self.slots[self.current].transfer)?;
        let next = 1 - self.current;
        let num_indices = batch.bags.indices.len();
        if num_indices > self.room {
            // Batches that are all of one size need no more room than the first.
            let spare = if self.room == 0 { 0 } else { num_indices / 16 };
            self.room = num_indices + spare;
        }
        let slot = &mut self.slots[next];
        let sizes = Sizes::new::<D, I>(&batch, self.room);
        if slot.grow(&self.device, &sizes)? {
            // New memory is cleared behind the ops that were called before.
            D::release(&mut slot.transfer)?;
        }
        D::begin(&mut slot.transfer)?;
        slot.send_dense(&batch.dense)?;
        slot.send(&batch, &sizes, values)?;
        D::arrive(&mut slot.transfer)?;
        slot.sizes = sizes;
        self.current = next;
        Ok(())
    }

    /// Returns whether the ops of `device` run in a defined order with the batches that are sent
    /// here.
    pub(super) fn is_on(&self, device: &D) -> bool {
        self.device.is_same(device)
    }

    /// Views the last batch. Before the first batch it views one without samples.
    pub fn view(&self) -> BatchView<'_, D, I> {
        self.slots[self.current].view()
    }

    /// Views the values that came with the last batch, one for each group.
    pub(super) fn values(&self) -> PerGroup<View<'_, D, StepValues>> {
        let values = &self.slots[self.current].values;
        PerGroup { tables: D::slice(values, 0..1), layers: D::slice(values, 1..2) }
    }
}

impl<D: Backend, I: Index> Slot<D, I> {
    /// Makes a slot that holds a batch without samples.
    fn new(device: &D) -> Result<Self> {
        let (mut transfer, values) = (device.transfer(StagingOnly::new())?, device.alloc(2)?);
        D::release(&mut transfer)?;
        Ok(Self {
            transfer,
            dense: device.alloc(0)?,
            indices: device.alloc(0)?,
            offsets: device.alloc(Sizes::EMPTY.offsets)?,
            host_offsets: Vec::new(),
            labels: device.alloc(0)?,
            weights: device.alloc(0)?,
            values,
            sizes: Sizes::EMPTY,
        })
    }

    /// Makes room for a batch of these sizes. Returns whether a buffer has been replaced.
    fn grow(&mut self, device: &D, sizes: &Sizes) -> Result<bool> {
        let Self { dense, indices, offsets, labels, weights, .. } = self;
        let num_labels = if sizes.has_labels { sizes.batch_size } else { 0 };
        let num_weights = if sizes.has_weights { sizes.indices } else { 0 };
        Ok(make_room(device, sizes.batch_size * sizes.num_dense, dense)?
            | make_room(device, sizes.indices, indices)?
            | make_room(device, sizes.offsets, offsets)?
            | make_room(device, num_labels, labels)?
            | make_room(device, num_weights, weights)?)
    }

    /// Sends the dense features. The matrix on the host may have gaps between its rows, and data
    /// behind the last row; the one on the device has neither.
    fn send_dense(&mut self, source: &Matrix<'_, Host, f32>) -> Result<()> {
        let Self { transfer, dense, .. } = self;
        let Matrix { data, rows, cols, ld } = *source;
        if ld == cols || rows * cols == 0 {
            let len = rows * cols;
            return D::send(transfer, &data[..len], D::slice_mut(dense, 0..len));
        }
        (0..rows).try_for_each(|row| {
            let target = D::slice_mut(dense, row * cols..(row + 1) * cols);
            D::send(transfer, &data[row * ld..][..cols], target)
        })
    }

    /// Sends everything but the dense features.
    fn send(
        &mut self,
        batch: &HostBatch<'_, I>,
        sizes: &Sizes,
        values: Option<PerGroup<StepValues>>,
    ) -> Result<()> {
        let transfer = &mut self.transfer;
        let BatchView { bags, labels, .. } = batch;
        let sent = bags.indices.len().min(sizes.indices);
        send_all::<D, _>(transfer, &bags.indices[..sent], &mut self.indices)?;
        let offsets = match bags.offsets.0 {
            _ if sizes.offsets == 0 => &[],
            OffsetsOf::I64(offsets, End::Given) => offsets.as_slice(),
            _ => {
                let ids = bags.num_indices();
                let bounds = 0..=bags.offsets.num_bags(ids).unwrap_or(0);
                self.host_offsets.clear();
                self.host_offsets.extend(bounds.map(|k| bags.offsets.value(k, ids)));
                &self.host_offsets
            }
        };
        send_all::<D, _>(transfer, offsets, &mut self.offsets)?;
        if let Some(labels) = labels {
            send_all::<D, _>(transfer, labels, &mut self.labels)?;
        }
        if let Some(weights) = bags.per_sample_weights {
            send_all::<D, _>(transfer, &weights[..sent], &mut self.weights)?;
        }
        if let Some(PerGroup { tables, layers }) = values {
            send_all::<D, _>(transfer, &[tables, layers], &mut self.values)?;
        }
        Ok(())
    }

    /// Views the batch.
    fn view(&self) -> BatchView<'_, D, I> {
        let Sizes { batch_size, num_dense, indices, has_slack, .. } = self.sizes;
        let Sizes { offsets, has_labels, has_weights, .. } = self.sizes;
        let dense = D::slice(&self.dense, 0..batch_size * num_dense);
        let ids = D::slice(&self.indices, 0..indices);
        let mut bags = match offsets {
            0 => Bags::of_length(batch_size, ids, 1),
            _ => Bags::new(batch_size, ids, D::slice(&self.offsets, 0..offsets)),
        };
        bags.has_slack = has_slack;
        bags.per_sample_weights = has_weights.then(|| D::slice(&self.weights, 0..indices));
        BatchView {
            dense: Matrix::contiguous(dense, batch_size, num_dense),
            bags,
            labels: has_labels.then(|| D::slice(&self.labels, 0..batch_size)),
        }
    }
}

/// Sends `source` into the first elements of `target`.
fn send_all<D: Backend, T: Scalar>(
    transfer: &mut D::Transfer,
    source: &[T],
    target: &mut D::Buffer<T>,
) -> Result<()> {
    D::send(transfer, source, D::slice_mut(target, 0..source.len()))
}

/// Checks the sizes of a batch against each other, and the end of the last bag: ids behind it are
/// not its own. The ops that read offsets and ids find whatever else is wrong with them.
pub(super) fn check<I: Index>(batch: &BatchView<'_, Host, I>) -> Result<()> {
    let BatchView { dense, bags, labels } = batch;
    let Bags { batch_size, indices, has_slack, offsets, per_sample_weights, .. } = *bags;
    expect_size(OP, "batch.bags.batch_size", batch_size, dense.rows)?;
    dense.check(OP, matrix_name!("batch.dense"), batch_size, dense.cols)?;
    if let Some(labels) = labels {
        expect_size(OP, "batch.labels", labels.len(), batch_size)?;
    }
    if let Some(weights) = per_sample_weights {
        expect_size(OP, "bags.per_sample_weights", weights.len(), indices.len())?;
    }
    let num_bags = offsets.num_bags(indices.len());
    let Some(num_bags) = num_bags.filter(|bags| bags.is_multiple_of(batch_size)) else {
        let reason = format!(
            "{} are not one more than a multiple of the {batch_size} samples",
            offsets.len()
        );
        return Err(invalid(OP, "bags.offsets", reason));
    };
    let end = offsets.end(num_bags, indices.len());
    if end.is_some_and(|end| end == indices.len() || (has_slack && end < indices.len())) {
        return Ok(());
    }
    let value = offsets.value(num_bags, indices.len());
    let rule = OffsetRule::LastIs(indices.len());
    Err(Error::InvalidOffsets { op: OP, position: num_bags, value, rule })
}

/// Replaces a buffer of fewer than `len` elements by a larger one. Returns whether it has done so.
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
