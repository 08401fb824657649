//! The cache of a model's recorded steps, such as CUDA graphs.

use super::buffers::BatchView;
use super::optimizer::PerGroup;
use crate::dtype::Index;
use crate::ops::bags::with_offsets;
use crate::ops::{Backend, StepValues, View};

/// The largest number of recordings that a model keeps. It needs several: the last batch of an
/// epoch has another size than the others, and batches arrive in two slots.
const MAX_RECORDINGS: usize = 8;

/// The cache key of a recorded step. A recording repeats its ops with the addresses and sizes that
/// they were called with, so it fits only a step whose addresses and sizes are the same.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct GraphKey {
    /// The addresses of the parts of the batch (0 for a part that it lacks), the values of the
    /// step, and the parameters.
    addresses: [u64; 7],
    batch_size: usize,
    /// The number of ids, slack included.
    num_indices: usize,
    /// The largest id of their type, which no other type has.
    max_id: u64,
}

impl GraphKey {
    /// Returns the key of a step with this batch, these values on the device, and these parameters.
    pub(super) fn new<D: Backend, I: Index>(
        batch: &BatchView<'_, D, I>,
        values: &PerGroup<View<'_, D, StepValues>>,
        parameters: &D::Buffer<f32>,
    ) -> Self {
        let BatchView { dense, bags, labels } = batch;
        let addresses = [
            D::address(&dense.data),
            D::address(&bags.indices),
            with_offsets!(
                bags.offsets,
                (values, _end) => D::address(&values),
                length => length as u64
            ),
            bags.per_sample_weights.as_ref().map_or(0, D::address),
            labels.as_ref().map_or(0, D::address),
            // The values of both groups lie in one buffer.
            D::address(&values.tables),
            // Exchanging the parameters with their averages changes the address, and that of the
            // weights of the tables with it.
            D::address(&D::view(parameters)),
        ];
        let (batch_size, num_indices, max_id) = (dense.rows, bags.num_indices(), I::MAX);
        Self { addresses, batch_size, num_indices, max_id }
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
