//! Tables, features and optimizers, as Python makes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::sparse_update::Update;
use bagdot::ops::{
    Bags, Device, Extent, Feature, Optimizer as Kind, Pooling, Rounding, Table, TableBatch,
    UpdateRule, WeightDecay,
};
use bagdot::{Cpu, Cuda, Element, Index};
use pyo3::prelude::*;

use crate::device::Views;
use crate::error::{op_error, value_error};

/// The order and the workspace of an update. They grow with the largest batch so far.
pub(crate) struct Scratch<D: Device> {
    pub(crate) sorted: SortedIndices<D>,
    pub(crate) workspace: D::Buffer<u64>,
}

impl<D: Views> Scratch<D> {
    /// Takes the scratch out of its place, with room for a batch. Another call at the same time
    /// makes one of its own.
    pub(crate) fn take<E: Element, I: Index>(
        slot: &Mutex<Option<Self>>,
        device: &D,
        tables: &TableBatch,
        bags: &Bags<'_, D, I>,
    ) -> bagdot::Result<Self> {
        let roomy = |len: usize| len.saturating_add(len / 8);
        let num_bags = tables.features().len().saturating_mul(bags.batch_size);
        let ids = bags.num_indices();
        let words = Sort::<D, I>::workspace_len(device, tables, ids)
            .max(Update::<D, E, I>::workspace_len(device, tables, ids));
        let old = slot.lock().ok().and_then(|mut slot| slot.take());
        let has_room =
            |s: &Self| s.sorted.capacity() >= ids && s.sorted.bag_lengths().len() >= num_bags;
        Ok(match old {
            Some(old) if has_room(&old) && old.workspace.extent() >= words => old,
            _ => Self {
                sorted: SortedIndices::new(device, roomy(ids), roomy(num_bags))?,
                workspace: device.alloc(roomy(words))?,
            },
        })
    }

    /// Puts the scratch back for the next call.
    pub(crate) fn keep(self, slot: &Mutex<Option<Self>>) {
        if let Ok(mut slot) = slot.lock() {
            *slot = Some(self);
        }
    }
}

/// The tables on a device, with the scratch of updates there.
pub(crate) struct OnDevice<D: Device> {
    pub(crate) tables: D::Tables,
    pub(crate) scratch: Mutex<Option<Scratch<D>>>,
}

/// The tables on the streams of CUDA devices.
type OnStreams = HashMap<(i32, usize), Arc<OnDevice<Cuda>>>;

/// The sizes of some tables, and the features that look them up. All ops on tables take one; make
/// it once.
#[pyclass(frozen, name = "Tables", module = "bagdot")]
pub(crate) struct Tables {
    pub(crate) cpu: OnDevice<Cpu>,
    cuda: Mutex<OnStreams>,
}

impl Tables {
    pub(crate) fn layout(&self) -> &TableBatch {
        &self.cpu.tables
    }

    /// Returns the tables on a stream of a CUDA device.
    pub(crate) fn on(
        &self,
        cuda: &Cuda,
        place: (i32, usize),
    ) -> bagdot::Result<Arc<OnDevice<Cuda>>> {
        let Ok(mut streams) = self.cuda.lock() else { return Err(bagdot::Error::NoDriver) };
        if let Some(there) = streams.get(&place) {
            return Ok(Arc::clone(there));
        }
        let there = Arc::new(OnDevice {
            tables: cuda.tables(self.layout().clone())?,
            scratch: Mutex::new(None),
        });
        streams.insert(place, Arc::clone(&there));
        Ok(there)
    }
}

/// A value for every feature, or one for all of them.
#[derive(FromPyObject)]
pub(crate) enum Each<T> {
    All(T),
    Many(Vec<T>),
}

impl<T: Clone> Each<T> {
    fn of(&self, feature: usize) -> Option<T> {
        match self {
            Self::All(value) => Some(value.clone()),
            Self::Many(values) => values.get(feature).cloned(),
        }
    }

    fn check(&self, name: &str, features: usize) -> PyResult<()> {
        match self {
            Self::Many(values) if values.len() != features => {
                let reason = format!("{} of them, but there are {features} features", values.len());
                Err(value_error("Tables", name, reason))
            }
            _ => Ok(()),
        }
    }
}

fn pooling_of(name: &str) -> PyResult<Pooling> {
    match name {
        "sum" => Ok(Pooling::Sum),
        "mean" => Ok(Pooling::Mean),
        "max" => Ok(Pooling::Max),
        _ => {
            let reason = format!("{name:?}, but must be \"sum\", \"mean\" or \"max\"");
            Err(value_error("Tables", "pooling", reason))
        }
    }
}

fn name_of(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Sum => "sum",
        Pooling::Mean => "mean",
        Pooling::Max => "max",
    }
}

#[pymethods]
impl Tables {
    #[new]
    #[pyo3(signature = (shapes, *, pooling=None, features=None, padding_idx=None))]
    fn new(
        py: Python<'_>,
        shapes: Vec<(usize, usize)>,
        pooling: Option<Each<String>>,
        features: Option<Vec<usize>>,
        padding_idx: Option<Each<Option<usize>>>,
    ) -> PyResult<Self> {
        let numbers = features.unwrap_or_else(|| (0..shapes.len()).collect());
        let pooling = pooling.unwrap_or_else(|| Each::All("sum".to_owned()));
        let padding_idx = padding_idx.unwrap_or(Each::All(None));
        pooling.check("pooling", numbers.len())?;
        padding_idx.check("padding_idx", numbers.len())?;
        let table = |(num_embeddings, embedding_dim)| Table { num_embeddings, embedding_dim };
        let features = numbers
            .iter()
            .enumerate()
            .map(|(feature, &table)| {
                Ok(Feature {
                    table,
                    pooling: pooling_of(&pooling.of(feature).unwrap_or_default())?,
                    padding_idx: padding_idx.of(feature).flatten(),
                })
            })
            .collect::<PyResult<Vec<_>>>()?;
        let tables = TableBatch::new(shapes.into_iter().map(table).collect(), features)
            .map_err(|error| op_error(py, error))?;
        let cpu = OnDevice { tables, scratch: Mutex::new(None) };
        Ok(Self { cpu, cuda: Mutex::default() })
    }

    /// The rows and the dimension of each table.
    #[getter]
    fn shapes(&self) -> Vec<(usize, usize)> {
        let tables = self.layout().tables().iter();
        tables.map(|table| (table.num_embeddings, table.embedding_dim)).collect()
    }

    /// The table of each feature.
    #[getter]
    fn features(&self) -> Vec<usize> {
        self.layout().features().iter().map(|feature| feature.table).collect()
    }

    /// The pooling of each feature.
    #[getter]
    fn pooling(&self) -> Vec<&'static str> {
        self.layout().features().iter().map(|feature| name_of(feature.pooling)).collect()
    }

    /// The padding id of each feature, or None.
    #[getter]
    fn padding_idx(&self) -> Vec<Option<usize>> {
        self.layout().features().iter().map(|feature| feature.padding_idx).collect()
    }

    /// The number of elements of all tables.
    #[getter]
    fn num_weights(&self) -> usize {
        self.layout().num_weights()
    }

    /// The number of rows of all tables.
    #[getter]
    fn num_rows(&self) -> usize {
        self.layout().num_rows()
    }

    /// The number of columns of the pooled output.
    #[getter]
    fn width(&self) -> usize {
        self.layout().width()
    }

    /// The position of the first element of each table, and the end.
    #[getter]
    fn weight_offsets(&self) -> Vec<usize> {
        self.layout().weight_offsets().to_vec()
    }

    /// The first column of each feature in the pooled output, and the end.
    #[getter]
    fn column_offsets(&self) -> Vec<usize> {
        self.layout().column_offsets().to_vec()
    }

    /// Set if any feature is pooled by max.
    #[getter]
    fn has_max(&self) -> bool {
        self.layout().has_max()
    }

    fn __repr__(&self) -> String {
        let (tables, features) = (self.layout().tables().len(), self.layout().features().len());
        format!("bagdot.Tables({tables} tables, {features} features)")
    }
}

/// The rule of a step on the rows that a batch looks up.
#[pyclass(frozen, name = "Optimizer", module = "bagdot")]
pub(crate) struct Optimizer {
    rule: UpdateRule,
    pub(crate) max_gradient: Option<f32>,
}

impl Optimizer {
    pub(crate) fn rule(&self, learning_rate: Option<f32>, step: Option<u64>) -> UpdateRule {
        let rule = self.rule.at_step(step.unwrap_or(0));
        UpdateRule { learning_rate: learning_rate.unwrap_or(rule.learning_rate), ..rule }
    }
}

#[pymethods]
impl Optimizer {
    #[new]
    #[pyo3(signature = (
        kind, learning_rate, *, eps=None, beta1=0.9, beta2=0.999, weight_decay=0.0,
        decoupled=false, max_gradient=None, stochastic_rounding=None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        kind: &str,
        learning_rate: f32,
        eps: Option<f32>,
        beta1: f32,
        beta2: f32,
        weight_decay: f32,
        decoupled: bool,
        max_gradient: Option<f32>,
        stochastic_rounding: Option<u64>,
    ) -> PyResult<Self> {
        let eps = eps.unwrap_or(1e-8);
        let optimizer = match kind {
            "sgd" => Kind::Sgd,
            "adagrad" => Kind::Adagrad { eps },
            "rowwise_adagrad" => Kind::RowwiseAdagrad { eps },
            "adam" => Kind::Adam { beta1, beta2, eps },
            _ => {
                let reason = format!(
                    "{kind:?}, but must be \"sgd\", \"adagrad\", \"rowwise_adagrad\" or \"adam\""
                );
                return Err(value_error("Optimizer", "kind", reason));
            }
        };
        let weight_decay = match (weight_decay, decoupled) {
            (0.0, _) => WeightDecay::None,
            (rate, false) => WeightDecay::L2(rate),
            (rate, true) => WeightDecay::Decoupled(rate),
        };
        let rounding =
            stochastic_rounding.map_or(Rounding::Nearest, |seed| Rounding::Stochastic { seed });
        let rule = UpdateRule::new(optimizer, learning_rate);
        Ok(Self { rule: UpdateRule { weight_decay, rounding, ..rule }, max_gradient })
    }

    /// Returns the number of f32 values of each array of state, for these tables: none for SGD,
    /// one array for Adagrad, two for Adam. All are zeros before the first step.
    fn state_sizes(&self, tables: &Tables) -> Vec<usize> {
        let layout = tables.layout();
        let [first, second] =
            self.rule.optimizer.state_len(layout.num_rows(), layout.num_weights());
        [first, second].into_iter().filter(|size| *size > 0).collect()
    }

    /// The learning rate.
    #[getter]
    fn learning_rate(&self) -> f32 {
        self.rule.learning_rate
    }

    fn __repr__(&self) -> String {
        format!(
            "bagdot.Optimizer({:?}, learning_rate={})",
            self.rule.optimizer, self.rule.learning_rate
        )
    }
}
