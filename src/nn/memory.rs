//! What memory a model takes on a device, told before there is one.

use std::fmt;

use super::buffers::{Seams, workspace_len};
use super::config::DlrmConfig;
use super::layers::Layers;
use super::optimizer::Optimizers;
use crate::dtype::DType;
use crate::error::{AtLeast, Result};
use crate::ops::finite_check::Verdict;
use crate::ops::{Backend, Device, Optimizer, StepValues, TableBatch};
use crate::size::{product, sum};

/// How a model is to be trained, as far as memory depends on it.
#[derive(Clone, Copy, Debug)]
pub struct MemoryNeeds<'a> {
    /// The shape of the model.
    pub config: &'a DlrmConfig,
    /// How it is optimized.
    pub optimizers: &'a Optimizers,
    /// Whether averages of the parameters are kept.
    pub has_averages: bool,
    /// Whether the decay of table rows is scaled.
    pub has_decay_scale: bool,
    /// Whether ids have factors.
    pub has_weights: bool,
    /// The largest number of samples of a batch.
    pub batch_size: usize,
    /// The largest number of ids of a batch.
    pub num_indices: usize,
}

/// What memory training takes, part by part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// What it is for, and its bytes.
    pub parts: Vec<(&'static str, usize)>,
}

impl MemoryPlan {
    /// The memory of one model and of the batches on their way to it.
    ///
    /// # Errors
    /// Fails as [`Dlrm::new`](super::Dlrm::new) does for sizes that do not fit together.
    pub fn new<D: Backend>(device: &D, needs: MemoryNeeds<'_>) -> Result<Self> {
        let MemoryNeeds { config, optimizers, batch_size, num_indices, .. } = needs;
        let tables = config.check()?;
        let (mlps, len) = config.mlps();
        let layers = Layers::<D>::bytes(config.precision, mlps.hidden(), len, batch_size);
        let (weights, rows) = (tables.num_weights(), tables.num_rows());
        let words = |lens: &[usize]| product([sum(lens.iter().copied()), 4]);
        let if_any = |is_there: bool, bytes: usize| if is_there { bytes } else { 0 };
        let state =
            |optimizer: Optimizer, rows, elements| words(&optimizer.state_len(rows, elements));
        let columns = sum(Seams::<D>::columns(config, &tables));
        let seams = product([batch_size, columns, 4]);
        let argmax = if_any(tables.has_max(), product([batch_size, tables.width(), 4]));
        let bags = product([batch_size, tables.features().len()]);
        // As in SortedIndices.
        let order = sum([product([num_indices, 8 + 4 + 4 + 4]), words(&[bags, 1, 2])]);
        let workspace = workspace_len(device, config, &mlps, &tables, (batch_size, num_indices));
        let sample = words(&[config.num_dense, 1]);
        let id = 8 + if_any(needs.has_weights, 4);
        let batch = [
            product([batch_size, sample]),
            product([sum([bags, 1]), 8]),
            product([num_indices, id]),
        ];
        let tables_state = state(optimizers.tables.optimizer, rows, weights);
        let decay_scale = if_any(needs.has_decay_scale, words(&[rows]));
        let parts = vec![
            ("tables", product([weights, config.table_dtype.size()])),
            ("optimizer of the tables", sum([tables_state, decay_scale])),
            ("layers and their gradients", sum([words(&[len, len]), layers.parameters])),
            ("optimizer of the layers", state(optimizers.dense.optimizer.for_dense(), len, len)),
            ("averages of all parameters", if_any(needs.has_averages, words(&[len, weights]))),
            ("activations", sum([seams, layers.values, argmax, 8])),
            ("gradients of activations", sum([seams, layers.grads])),
            ("order of the ids", order),
            ("workspace", product([sum([workspace, Verdict::WORDS]), 8])),
            ("batches on their way", product([2, sum([sum(batch), 2 * size_of::<StepValues>()])])),
        ];
        Ok(Self { parts })
    }

    /// The memory of so many models that only predict, but for what batches take.
    ///
    /// # Errors
    /// Fails as [`Dlrm::new`](super::Dlrm::new) does for sizes that do not fit together.
    pub fn for_predictions(config: &DlrmConfig, members: usize) -> Result<Self> {
        let tables = config.check()?;
        let (_, len) = config.mlps();
        Ok(Self::of_parameters(config, (&tables, len), members))
    }

    /// The same for what `config` amounts to: tables, and the length of the buffer of the layers'
    /// parameters.
    pub(super) fn of_parameters(
        config: &DlrmConfig,
        (tables, len): (&TableBatch, usize),
        members: usize,
    ) -> Self {
        let layer_bytes = DType::F32.size() + config.precision.bytes_of_copy();
        let parts = vec![
            ("tables", product([members, tables.num_weights(), config.table_dtype.size()])),
            ("layers", product([members, len, layer_bytes])),
        ];
        Self { parts }
    }

    /// The memory of all of them. What is more than the largest number is that number, here as in
    /// the parts.
    pub fn total(&self) -> usize {
        sum(self.parts.iter().map(|(_, bytes)| *bytes))
    }

    /// The memory of as many models, which share what is on its way to them.
    pub fn of_members(mut self, members: usize) -> Self {
        if let Some((_shared, own)) = self.parts.split_last_mut() {
            own.iter_mut().for_each(|(_, bytes)| *bytes = product([*bytes, members]));
        }
        self
    }

    /// Compares it with what a device can still give.
    ///
    /// # Errors
    /// [`Error::NotEnoughMemory`](crate::Error::NotEnoughMemory).
    pub fn check<D: Device>(&self, device: &D) -> Result<()> {
        device.expect_free_memory(self.total())
    }
}

/// A table with a line for each part, and one for their sum.
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
