//! The least work of a step or of a prediction, op by op, and the time that it takes GPUs.

use super::buffers::{BatchView, Capacity};
use super::config::DlrmConfig;
use super::dlrm::Dlrm;
use super::optimizer::Optimizers;
use super::roofline::Gpu;
use crate::backend::tally::Tally;
pub use crate::backend::tally::{Unit, Work};
use crate::error::{Result, invalid};
use crate::ops::{Bags, Matrix, Table};
use crate::size::product;

/// The sizes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSizes {
    /// The number of samples.
    pub batch_size: usize,
    /// The number of ids of all features.
    pub num_indices: usize,
    /// The number of distinct table rows that these ids name.
    pub distinct_rows: usize,
}

impl BatchSizes {
    fn capacity(&self) -> Capacity {
        Capacity { batch_size: self.batch_size, num_indices: self.num_indices }
    }
}

/// The least work of all ops of a step or of a prediction, in their order.
///
/// The ops are those that the engine calls. A row of a table is counted once, however many ids name
/// it.
///
/// ```
/// use bagdot::nn::{BatchSizes, DlrmConfig, GPUS, StepWork};
/// use bagdot::ops::{Feature, Pooling, Table};
///
/// let config = DlrmConfig {
///     num_dense: 13,
///     bottom_mlp: vec![64, 16],
///     tables: vec![Table { num_embeddings: 1_000_000, embedding_dim: 16 }],
///     features: vec![Feature { table: 0, pooling: Pooling::Sum, padding_idx: None }],
///     top_mlp: vec![64, 1],
///     ..DlrmConfig::default()
/// };
/// let batch = BatchSizes { batch_size: 2048, num_indices: 2048, distinct_rows: 2046 };
/// let work = StepWork::of_prediction(&config, batch)?;
/// assert_eq!(work.ops.last().map(|work| work.op), Some("head"));
/// let seconds = work.least_seconds(&GPUS[0]);
/// assert!(seconds > 0.0 && seconds < 1e-3);
/// # Ok::<(), bagdot::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepWork {
    /// The work of each op.
    pub ops: Vec<Work>,
}

impl StepWork {
    /// Returns the work of a training step.
    ///
    /// # Errors
    /// Returns [`Error::InvalidArgument`](crate::Error::InvalidArgument) for sizes that do not fit
    /// together, as [`Dlrm::new`] and [`Dlrm::train_step`] do.
    pub fn of_training(
        config: &DlrmConfig,
        optimizers: Optimizers,
        batch: BatchSizes,
    ) -> Result<Self> {
        Self::of(config, batch, |model, view| {
            model.optimize_with(optimizers)?;
            // The copy of the parameters is made before the first step only.
            model.grow(batch.capacity(), true)?;
            model.device().take();
            model.train_step(view.labels(Tally::nothing(batch.batch_size)))
        })
    }

    /// Returns the work of a prediction with weights that the prediction before has used, too.
    ///
    /// # Errors
    /// Returns [`Error::InvalidArgument`](crate::Error::InvalidArgument) for sizes that do not fit
    /// together, as [`Dlrm::new`] and [`Dlrm::logits`] do.
    pub fn of_prediction(config: &DlrmConfig, batch: BatchSizes) -> Result<Self> {
        Self::of(config, batch, |model, view| {
            model.grow(batch.capacity(), false)?;
            model.device().take();
            model.logits(view, &mut vec![0.0; batch.batch_size])
        })
    }

    fn of(
        config: &DlrmConfig,
        batch: BatchSizes,
        run: impl FnOnce(&mut Dlrm<Tally>, BatchView<'_, Tally, i64>) -> Result<()>,
    ) -> Result<Self> {
        let BatchSizes { batch_size, num_indices, distinct_rows } = batch;
        if distinct_rows > num_indices {
            let reason = format!("{distinct_rows}, of {num_indices} ids");
            return Err(invalid("StepWork", "distinct_rows", reason));
        }
        // The number of rows changes no op, but the model would draw the values of all of them.
        let one_row = |table: &Table| Table { num_embeddings: 1, ..*table };
        let config =
            DlrmConfig { tables: config.tables.iter().map(one_row).collect(), ..config.clone() };
        let num_bags = product([config.features.len(), batch_size]);
        let tally = Tally::new(distinct_rows);
        let indices = Tally::nothing(num_indices);
        let bags = if num_indices == num_bags {
            Bags::of_length(batch_size, indices, 1)
        } else {
            Bags::new(batch_size, indices, Tally::nothing::<i64>(num_bags.saturating_add(1)))
        };
        let num_dense = config.num_dense;
        let dense = Tally::nothing(product([batch_size, num_dense]));
        let dense = Matrix::contiguous(dense, batch_size, num_dense);
        let mut model = Dlrm::new(tally.clone(), config, 0)?;
        run(&mut model, BatchView::new(dense, bags))?;
        Ok(Self { ops: tally.take() })
    }

    /// Returns the sum of the ops' least times on a GPU, in seconds.
    pub fn least_seconds(&self, gpu: &Gpu) -> f64 {
        self.ops.iter().map(|work| gpu.least_seconds(work)).sum()
    }

    /// Returns the sum of the ops' predicted times on a GPU, in seconds: without what runs beside
    /// other ops, this is the time of the step.
    pub fn predicted_seconds(&self, gpu: &Gpu) -> f64 {
        self.ops.iter().map(|work| gpu.predicted_seconds(work)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ComputePrecision;
    use crate::ops::{Feature, Optimizer, Pooling};

    /// A step in 16 bits calls each op once where its values are, and casts nothing but the dense
    /// features; a prediction does not write the pooled vectors.
    #[test]
    fn no_op_comes_twice() {
        let (batch_size, dim, distinct_rows) = (64, 8, 50);
        let config = DlrmConfig {
            num_dense: 5,
            bottom_mlp: vec![16, dim],
            tables: vec![Table { num_embeddings: 100, embedding_dim: dim }; 3],
            features: (0..3)
                .map(|table| Feature { table, pooling: Pooling::Sum, padding_idx: None })
                .collect(),
            top_mlp: vec![24, 16, 1],
            precision: ComputePrecision::BF16,
            ..DlrmConfig::default()
        };
        let batch = BatchSizes { batch_size, num_indices: 3 * batch_size, distinct_rows };
        let optimizers = Optimizers::same(Optimizer::Sgd, 0.1);
        let step = StepWork::of_training(&config, optimizers, batch).unwrap();
        let prediction = StepWork::of_prediction(&config, batch).unwrap();
        let names = |work: &StepWork| work.ops.iter().map(|op| op.op).collect::<Vec<_>>();
        let forward = [
            "cast",
            "linear_forward",
            "linear_forward",
            "pooled_interaction",
            "linear_forward",
            "linear_forward",
        ];
        let backward = [
            "index_sort",
            "head",
            "linear_input_grad",
            "linear_weight_grad",
            "linear_input_grad",
            "linear_weight_grad",
            "interaction_backward",
            "linear_activation_grad",
            "linear_input_grad",
            "linear_weight_grad",
            "linear_weight_grad",
            "finite_check",
            "dense_update",
            "sparse_update",
        ];
        assert_eq!(names(&step), [&forward[..], &backward].concat());
        assert_eq!(names(&prediction), [&forward[..], &["head"]].concat());

        // Rows of f32, ids of 64 bits, dense vectors, and the vector of pairs behind the dense one.
        let read = distinct_rows * dim * 4 + 3 * batch_size * 8 + batch_size * dim * 2;
        let interacted = batch_size * config.interaction_width() * 2;
        let pooled = batch_size * 3 * dim * 2;
        assert_eq!(prediction.ops[3].bytes, read + interacted);
        assert_eq!(step.ops[3].bytes, read + interacted + pooled);
        // SGD reads and writes rows; the order has a place and a bag for each id, and 12 bytes for
        // each row.
        let order = 3 * batch_size * 8 + distinct_rows * 12;
        let Some(update) = step.ops.last() else { panic!("no op") };
        assert_eq!(update.bytes, 2 * distinct_rows * dim * 4 + pooled + order);
    }
}
