//! The memory that a model takes on a device, worked out before there is one.

use std::fmt;

use super::buffers::{Capacity, WorkspaceLens};
use super::config::DlrmConfig;
use super::layers::Layers;
use super::optimizer::Optimizers;
use crate::dtype::DType;
use crate::error::{AtLeast, Result};
use crate::ops::finite_check::Verdict;
use crate::ops::{Backend, Device, Optimizer, StepValues, TableBatch};
use crate::size::{product, sum};

/// The settings of a training run on which its memory depends.
#[derive(Clone, Copy, Debug)]
pub struct MemoryNeeds<'a> {
    /// The shape of the model.
    pub config: &'a DlrmConfig,
    /// The optimizers of tables and layers.
    pub optimizers: &'a Optimizers,
    /// Set if averages of the parameters are kept.
    pub has_averages: bool,
    /// Set if the weight decay of table rows is scaled.
    pub has_decay_scale: bool,
    /// Set if ids have weights.
    pub has_weights: bool,
    /// The largest number of samples of a batch.
    pub batch_size: usize,
    /// The largest number of ids of a batch, those of all features together, slack included.
    pub num_indices: usize,
    /// The bytes of an id.
    pub id_bytes: usize,
}

/// The memory that a model takes, part by part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The purpose of each part, and its bytes.
    pub parts: Vec<(&'static str, usize)>,
}

impl MemoryPlan {
    /// Returns the memory of one model in training and of the batches on their way to it.
    ///
    /// # Errors
    /// Returns [`Error::InvalidArgument`](crate::Error::InvalidArgument) for sizes that do not fit
    /// together, as [`Dlrm::new`](crate::nn::Dlrm::new) does.
    pub fn new<D: Backend>(device: &D, needs: MemoryNeeds<'_>) -> Result<Self> {
        let MemoryNeeds { config, optimizers, batch_size, num_indices, .. } = needs;
        let capacity = Capacity { batch_size, num_indices };
        let tables = config.check()?;
        let (mlps, len) = config.mlps();
        let layers = Layers::<D>::bytes(config, (&mlps, len), &tables, batch_size);
        let (weights, rows) = (tables.num_weights(), tables.num_rows());
        let state =
            |optimizer: Optimizer, rows, elements| words(&optimizer.state_len(rows, elements));
        let logits = words(&[batch_size]);
        let argmax = if_any(tables.has_max(), product([batch_size, tables.width(), 4]));
        let bags = product([batch_size, tables.features().len()]);
        // The buffers of SortedIndices.
        let order = sum([product([num_indices, 8 + 4 + 4 + 4]), words(&[bags, 1, 2])]);
        let WorkspaceLens { branch, others } =
            WorkspaceLens::new(device, config, &mlps, &tables, capacity);
        let workspace = sum([branch, others]);
        let slot = sum([batch_bytes(&needs, bags), 2 * size_of::<StepValues>()]);
        let tables_state = state(optimizers.tables.optimizer, rows, weights);
        let decay_scale = if_any(needs.has_decay_scale, words(&[rows]));
        let parts = vec![
            ("tables", product([weights, config.table_dtype.size()])),
            ("optimizer of the tables", sum([tables_state, decay_scale])),
            ("layers and their gradients", sum([words(&[len, len]), layers.parameters])),
            ("optimizer of the layers", state(optimizers.dense.optimizer.for_dense(), len, len)),
            ("averages of all parameters", if_any(needs.has_averages, words(&[len, weights]))),
            ("activations", sum([layers.activations, logits, argmax, 8])),
            ("gradients of activations", sum([layers.grads, logits])),
            ("order of the ids", order),
            ("workspace", product([sum([workspace, Verdict::WORDS]), 8])),
            ("batches on their way", product([2, slot])),
        ];
        Ok(Self { parts })
    }

    /// Returns the memory of `members` models that only predict, without what batches take.
    ///
    /// # Errors
    /// Returns [`Error::InvalidArgument`](crate::Error::InvalidArgument) for sizes that do not fit
    /// together, as [`Dlrm::new`](crate::nn::Dlrm::new) does.
    pub fn for_predictions(config: &DlrmConfig, members: usize) -> Result<Self> {
        let tables = config.check()?;
        let (_, len) = config.mlps();
        Ok(Self::of_parameters(config, (&tables, len), members))
    }

    /// Returns the memory of the parameters of `members` models, which have these tables and a
    /// buffer of `len` parameters of the layers each.
    pub(super) fn of_parameters(
        config: &DlrmConfig,
        (tables, len): (&TableBatch, usize),
        members: usize,
    ) -> Self {
        let layer_bytes = DType::F32.size() + config.precision.copy_bytes();
        let parts = vec![
            ("tables", product([members, tables.num_weights(), config.table_dtype.size()])),
            ("layers", product([members, len, layer_bytes])),
        ];
        Self { parts }
    }

    /// Returns the bytes of all parts. They saturate at the largest number, as each part does.
    pub fn total(&self) -> usize {
        sum(self.parts.iter().map(|(_, bytes)| *bytes))
    }

    /// Returns the memory of `members` such models, which share the last part: in training, the
    /// batches on their way to them.
    pub fn of_members(mut self, members: usize) -> Self {
        if let Some((_shared, own)) = self.parts.split_last_mut() {
            own.iter_mut().for_each(|(_, bytes)| *bytes = product([*bytes, members]));
        }
        self
    }

    /// Compares the total with the memory that a device has left.
    ///
    /// # Errors
    /// Returns [`Error::NotEnoughMemory`](crate::Error::NotEnoughMemory) if that is less.
    pub fn check<D: Device>(&self, device: &D) -> Result<()> {
        device.expect_free_memory(self.total())
    }
}

/// Returns the bytes of a batch with `bags` bags on its way to the device.
fn batch_bytes(needs: &MemoryNeeds<'_>, bags: usize) -> usize {
    let sample = words(&[needs.config.num_dense, 1]);
    let id = sum([needs.id_bytes, if_any(needs.has_weights, 4)]);
    sum([
        product([needs.batch_size, sample]),
        product([sum([bags, 1]), 8]),
        product([needs.num_indices, id]),
    ])
}

/// Returns the bytes of as many 4-byte elements as the sum of `lens`.
fn words(lens: &[usize]) -> usize {
    product([sum(lens.iter().copied()), 4])
}

fn if_any(is_there: bool, bytes: usize) -> usize {
    if is_there { bytes } else { 0 }
}

/// Writes a table with a line for each part, and one for their sum.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &str, bytes: usize| {
            write!(
                f,
                "{what:<28} {:>16} bytes {:>12.1} MiB",
                AtLeast(bytes),
                bytes as f64 / f64::from(1 << 20)
            )
        };
        for (what, bytes) in &self.parts {
            line(f, what, *bytes)?;
            writeln!(f)?;
        }
        line(f, "all", self.total())
    }
}
