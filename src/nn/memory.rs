//! What memory a model takes on a device, told before there is one.

use std::fmt;

use super::buffers::{Seams, workspace_len};
use super::config::DlrmConfig;
use super::layers::Layers;
use super::optimizer::Optimizers;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::finite_check::Verdict;
use crate::ops::{Backend, StepValues};

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
    /// As [`Dlrm::new`](super::Dlrm::new), for sizes that do not fit together.
    pub fn new<D: Backend>(device: &D, needs: MemoryNeeds<'_>) -> Result<Self> {
        let MemoryNeeds { config, optimizers, batch_size, num_indices, .. } = needs;
        let tables = config.check()?;
        let (mlps, len) = config.mlps();
        let layers = Layers::<D>::bytes(config.precision, mlps.hidden(), len, batch_size);
        let (weights, rows) = (tables.num_weights(), tables.num_rows());
        let element = match config.table_dtype {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        };
        let state = |lens: [usize; 2]| lens.iter().sum::<usize>() * 4;
        let seams = batch_size * Seams::<D>::columns(config, &tables).iter().sum::<usize>() * 4;
        let argmax = if tables.has_max() { batch_size * tables.width() * 4 } else { 0 };
        let bags = batch_size * tables.features().len();
        // As in SortedIndices.
        let order = num_indices * (8 + 4 + 4 + 4) + 4 + bags * 4 + 2 * 4;
        let workspace = workspace_len(device, config, &mlps, &tables, (batch_size, num_indices));
        let per_id = 8 + if needs.has_weights { 4 } else { 0 };
        let batch = batch_size * (config.num_dense * 4 + 4) + (bags + 1) * 8 + num_indices * per_id;
        let averages = if needs.has_averages { (len + weights) * 4 } else { 0 };
        let decay_scale = if needs.has_decay_scale { rows * 4 } else { 0 };
        let parts = vec![
            ("tables", weights * element),
            ("optimizer of the tables", state(optimizers.tables.optimizer.state_len(rows, weights)) + decay_scale),
            ("layers and their gradients", 2 * len * 4 + layers.parameters),
            ("optimizer of the layers", state(optimizers.dense.optimizer.for_dense().state_len(len, len))),
            ("averages of all parameters", averages),
            ("activations", seams + layers.values + argmax + 8),
            ("gradients of activations", seams + layers.grads),
            ("order of the ids", order),
            ("workspace", workspace * 8 + Verdict::WORDS * 8),
            ("batches on their way", 2 * (batch + 2 * size_of::<StepValues>())),
        ];
        Ok(Self { parts })
    }

    /// The memory of all of them.
    pub fn total(&self) -> usize {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The memory of as many models, which share what is on its way to them.
    pub fn of_members(mut self, members: usize) -> Self {
        if let Some((_shared, own)) = self.parts.split_last_mut() {
            own.iter_mut().for_each(|(_, bytes)| *bytes *= members);
        }
        self
    }
}

/// A table with a line for each part, and one for their sum.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &str, bytes: usize| {
            write!(f, "{what:<28} {bytes:>16} bytes {:>12.1} MiB", bytes as f64 / f64::from(1 << 20))
        };
        for (what, bytes) in &self.parts {
            line(f, what, *bytes)?;
            writeln!(f)?;
        }
        line(f, "all", self.total())
    }
}
