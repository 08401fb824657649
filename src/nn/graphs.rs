//! The recorded steps of a model.

use super::buffers::BatchView;
use super::optimizer::PerGroup;
use crate::ops::{Backend, Extent, StepValues};

/// The largest number of recordings that a model keeps. It needs several: the last batch of an
/// epoch has another size than the others, and batches arrive in two slots.
const MAX_RECORDINGS: usize = 8;

/// The identity of a recorded step: the addresses of its batch and of the parameters, the number of
/// samples, and the room for ids.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct GraphKey {
    addresses: [u64; 7],
    batch_size: usize,
    num_indices: usize,
}

impl GraphKey {
    /// Returns the key of a step with this batch, these values on the device, and these parameters.
    pub(super) fn new<D: Backend>(
        batch: &BatchView<'_, D, i64>,
        values: &PerGroup<D::Slice<'_, StepValues>>,
        parameters: &D::Buffer<f32>,
    ) -> Self {
        let BatchView { dense, bags, labels } = batch;
        let addresses = [
            D::address(&dense.data),
            D::address(&bags.indices),
            D::address(&bags.offsets),
            bags.per_sample_weights.as_ref().map_or(0, D::address),
            labels.as_ref().map_or(0, D::address),
            D::address(&values.tables),
            // Parameters and averages may have been exchanged.
            D::address(&D::view(parameters)),
        ];
        Self { addresses, batch_size: dense.rows, num_indices: bags.indices.extent() }
    }
}

/// The recordings of a model, the oldest first.
pub(super) struct Graphs<D: Backend> {
    recordings: Vec<(GraphKey, D::Recording)>,
}

impl<D: Backend> Default for Graphs<D> {
    fn default() -> Self {
        Self { recordings: Vec::new() }
    }
}

impl<D: Backend> Graphs<D> {
    /// Returns the recording of a step, if there is one.
    pub(super) fn find(&self, key: &GraphKey) -> Option<&D::Recording> {
        self.recordings.iter().find(|(known, _)| known == key).map(|(_, recording)| recording)
    }

    /// Keeps a recording, and drops the oldest one if there are too many.
    pub(super) fn push(&mut self, key: GraphKey, recording: D::Recording) {
        if self.recordings.len() == MAX_RECORDINGS {
            self.recordings.remove(0);
        }
        self.recordings.push((key, recording));
    }

    /// Drops all recordings, as a caller must before anything changes that they have recorded: a
    /// buffer that they name, or a setting.
    pub(super) fn clear(&mut self) {
        self.recordings.clear();
    }
}
