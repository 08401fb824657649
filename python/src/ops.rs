//! The ops on arrays of Python. Each function borrows its arrays, finds their backend and types,
//! and calls the op of bagdot; `SAFETY` is the same for all of them:
//!
//! - The caller of a function keeps its arguments alive until it returns, and so the memory.
//! - [`Array`] has checked that the memory is what its shape says, and aligned.
//! - Outputs are writable and share no memory with other arguments ([`check_outputs`]).
//! - That no other thread of Python writes the memory meanwhile is up to the caller, as in NumPy.

use std::sync::Mutex;

use bagdot::ops::index_sort::Sort;
use bagdot::ops::interaction::{self as pairs, Features, FeaturesMut};
use bagdot::ops::pooled_interaction::{self as lookup_and_pairs, Interact};
use bagdot::ops::sparse_update::{PooledGrad, Update};
use bagdot::ops::{
    Bags, Device, Interaction, Matrix, MatrixMut, PairOrder, SeparateTables, SeparateTablesMut,
    Table, TableBatch, TableStateMut, TableValues, TableValuesMut, UpdateRule,
    embedding_bag as lookup,
};
use bagdot::{Element, Index, Scalar, bf16, f16};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::array::{Array, Kind};
use crate::device::{Target, Views, run};
use crate::error::{op_error, type_error, value_error};
use crate::output::empty;
use crate::tables::{Optimizer, Scratch, Tables};

/// Runs code for the type of elements.
macro_rules! by_element {
    ($op:expr, $name:expr, $kind:expr, $E:ident => $body:expr) => {
        match $kind {
            Kind::F32 => {
                type $E = f32;
                $body
            }
            Kind::F16 => {
                type $E = f16;
                $body
            }
            Kind::BF16 => {
                type $E = bf16;
                $body
            }
            kind => {
                let reason = format!("{}, but must be float32, float16 or bfloat16", kind.name());
                return Err(type_error($op, $name, reason));
            }
        }
    };
}

/// Runs code for the type of ids.
macro_rules! by_index {
    ($op:expr, $name:expr, $kind:expr, $I:ident => $body:expr) => {
        match $kind {
            Kind::I64 => {
                type $I = i64;
                $body
            }
            Kind::I32 => {
                type $I = i32;
                $body
            }
            Kind::U32 => {
                type $I = u32;
                $body
            }
            kind => {
                let reason = format!("{}, but must be int32, int64 or uint32", kind.name());
                return Err(type_error($op, $name, reason));
            }
        }
    };
}

/// Runs code on the backend of a call, with the tables there and the scratch of updates.
macro_rules! on_target {
    (
        $py:expr, $op:expr, $target:expr, $tables:expr,
        ($device:ident, $layout:ident, $scratch:ident) => $body:expr
    ) => {
        match $target {
            Target::Cpu(cpu) => {
                let ($device, $layout, $scratch) = (cpu, &$tables.cpu.tables, &$tables.cpu.scratch);
                $body
            }
            Target::Cuda { cuda, device, stream, waits } => {
                let there = $tables.on(cuda, (*device, *stream)).map_err(|e| op_error($py, e))?;
                let ($device, $layout, $scratch) = (cuda, &there.tables, &there.scratch);
                match ($body, *waits) {
                    (Ok(()), true) => cuda.synchronize(),
                    (result, _) => result,
                }
            }
        }
    };
}

/// A matrix of a call.
#[derive(Clone, Copy)]
struct Rows {
    data: *mut u8,
    rows: usize,
    cols: usize,
    ld: usize,
}

impl Rows {
    fn new(array: &Array, op: &str, name: &str) -> PyResult<Self> {
        let (rows, cols, ld) = array.matrix(op, name)?;
        Ok(Self { data: array.data, rows, cols, ld })
    }

    fn len(&self) -> usize {
        match self.rows {
            0 => 0,
            rows => (rows - 1) * self.ld + self.cols,
        }
    }

    /// # Safety
    /// As at the top of this file.
    unsafe fn of<'a, D: Views, T: Scalar>(&self) -> Matrix<'a, D, T> {
        // SAFETY: the caller's.
        let data = unsafe { D::of(self.data, self.len()) };
        Matrix { data, rows: self.rows, cols: self.cols, ld: self.ld }
    }

    /// # Safety
    /// As at the top of this file.
    unsafe fn of_mut<'a, D: Views, T: Scalar>(&self) -> MatrixMut<'a, D, T> {
        // SAFETY: the caller's.
        let data = unsafe { D::of_mut(self.data, self.len()) };
        MatrixMut { data, rows: self.rows, cols: self.cols, ld: self.ld }
    }
}

/// The values of all tables, weights or state of an optimizer: an array in which table follows
/// table, or a list with an array for each.
struct Values {
    arrays: Vec<Array>,
    /// The number of values, if they lie in one block.
    joined: Option<usize>,
    /// The matrix of each table, if they do not.
    matrices: Vec<Rows>,
}

impl Values {
    fn new(tables: &Tables, object: &Bound<'_, PyAny>, op: &str, name: &str) -> PyResult<Self> {
        let layout = tables.layout().tables();
        let items = match object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
            true => object.try_iter()?.collect::<PyResult<Vec<_>>>()?,
            false => {
                let array = Array::new(object, op, name)?;
                if layout.len() != 1 || array.shape().len() != 2 {
                    let len = array.flat(op, name)?;
                    let matrices = Vec::new();
                    return Ok(Self { arrays: vec![array], joined: Some(len), matrices });
                }
                vec![object.clone()]
            }
        };
        if items.is_empty() || items.len() != layout.len() {
            let reason = format!("{} of them, but there are {} tables", items.len(), layout.len());
            return Err(value_error(op, name, reason));
        }
        let mut arrays: Vec<Array> = Vec::with_capacity(layout.len());
        let mut matrices = Vec::with_capacity(layout.len());
        // The end of the last table, and whether they lie side by side so far.
        let (mut end, mut side_by_side, mut len) = (None, true, 0);
        for (number, (item, table)) in items.iter().zip(layout).enumerate() {
            let array = Array::new(item, op, name)?;
            if arrays.first().is_some_and(|first| first.kind != array.kind) {
                return Err(type_error(op, name, "tables of several types"));
            }
            let rows = match array.shape() {
                // State with a value for each row, or rows without gaps.
                [_] => {
                    let (len, rows) = (array.flat(op, name)?, table.num_embeddings);
                    let cols = if len == rows { 1 } else { table.embedding_dim };
                    let rows = if len == rows * cols { rows } else { len / cols };
                    Rows { data: array.data, rows, cols, ld: cols }
                }
                _ => Rows::new(&array, op, name)?,
            };
            let Table { num_embeddings, embedding_dim } = *table;
            if rows.rows != num_embeddings || (rows.cols != embedding_dim && rows.cols != 1) {
                let reason = format!(
                    "table {number} is [{}, {}], but must be [{num_embeddings}, {embedding_dim}]",
                    rows.rows, rows.cols
                );
                return Err(value_error(op, name, reason));
            }
            side_by_side &= rows.ld == rows.cols && end.is_none_or(|end| end == array.data);
            end = Some(array.data.wrapping_add(array.len() * array.kind.size()));
            len += array.len();
            arrays.push(array);
            matrices.push(rows);
        }
        Ok(Self { arrays, joined: side_by_side.then_some(len), matrices })
    }

    fn first(&self) -> &Array {
        &self.arrays[0]
    }

    /// # Safety
    /// As at the top of this file, and the values must be of this type.
    unsafe fn of<'a, D: Views, T: Scalar>(
        &self,
        device: &D,
        tables: &TableBatch,
    ) -> bagdot::Result<TableValues<'a, D, T>> {
        // SAFETY: the caller's.
        unsafe {
            match self.joined {
                Some(len) => Ok(TableValues::Joined(D::of(self.first().data, len))),
                None => {
                    let matrices = self.matrices.iter().map(|rows| rows.of()).collect();
                    SeparateTables::new(device, tables, matrices).map(TableValues::Separate)
                }
            }
        }
    }

    /// # Safety
    /// As at the top of this file, and the values must be of this type.
    unsafe fn of_mut<'a, D: Views, T: Scalar>(
        &self,
        device: &D,
        tables: &TableBatch,
    ) -> bagdot::Result<TableValuesMut<'a, D, T>> {
        // SAFETY: the caller's.
        unsafe {
            match self.joined {
                Some(len) => Ok(TableValuesMut::Joined(D::of_mut(self.first().data, len))),
                None => {
                    let matrices = self.matrices.iter().map(|rows| rows.of_mut()).collect();
                    SeparateTablesMut::new(device, tables, matrices).map(TableValuesMut::Separate)
                }
            }
        }
    }
}

/// The bounds of the bags.
enum Ends {
    Array(Array),
    Length(usize),
}

/// The bags of a call.
struct Batch {
    indices: Array,
    ends: Ends,
    factors: Option<Array>,
    batch_size: usize,
    has_last: bool,
}

impl Batch {
    fn new(
        tables: &Tables,
        op: &str,
        indices: &Bound<'_, PyAny>,
        offsets: Option<&Bound<'_, PyAny>>,
        factors: Option<&Bound<'_, PyAny>>,
        batch_size: Option<usize>,
        has_last: bool,
    ) -> PyResult<Self> {
        let indices = Array::new(indices, op, "indices")?;
        let ids = indices.flat(op, "indices")?;
        let features = tables.layout().features().len();
        let (ends, bags) = match offsets {
            Some(offsets) => {
                let offsets = Array::new(offsets, op, "offsets")?;
                let len = offsets.flat(op, "offsets")?;
                (Ends::Array(offsets), len.saturating_sub(usize::from(has_last)))
            }
            None if indices.shape().len() >= 2 => {
                let length = indices.shape()[indices.shape().len() - 1];
                (Ends::Length(length), ids.checked_div(length).unwrap_or(0))
            }
            None => {
                let reason = "needed, unless the indices are a matrix of bags of one length";
                return Err(value_error(op, "offsets", reason));
            }
        };
        let batch_size = match batch_size {
            Some(batch_size) => batch_size,
            None => bags.checked_div(features).unwrap_or(0),
        };
        if features.saturating_mul(batch_size) != bags {
            let reason = format!("{bags} bags, which are no multiple of the {features} features");
            return Err(value_error(op, "offsets", reason));
        }
        let factors =
            factors.map(|factors| Array::new(factors, op, "per_sample_weights")).transpose()?;
        if let Some(factors) = &factors {
            factors.expect(Kind::F32, op, "per_sample_weights")?;
            factors.flat(op, "per_sample_weights")?;
        }
        Ok(Self { indices, ends, factors, batch_size, has_last })
    }

    fn arrays(&self) -> impl Iterator<Item = &Array> + Clone {
        let ends = match &self.ends {
            Ends::Array(offsets) => Some(offsets),
            Ends::Length(_) => None,
        };
        [Some(&self.indices), ends, self.factors.as_ref()].into_iter().flatten()
    }

    /// Returns about the number of elements that a lookup of the bags reads and writes.
    fn work(&self, tables: &Tables) -> usize {
        let layout = tables.layout();
        let dim = layout.width() / layout.features().len().max(1);
        self.indices.len().saturating_mul(dim).saturating_add(self.batch_size * layout.width())
    }

    /// # Safety
    /// As at the top of this file, and the ids must be of this type.
    unsafe fn bags<'a, D: Views, I: Index>(&self) -> Bags<'a, D, I> {
        let ids = self.indices.len();
        // SAFETY: the caller's.
        unsafe {
            let indices = D::of::<I>(self.indices.data, ids);
            let bags = match &self.ends {
                Ends::Length(length) => Bags::of_length(self.batch_size, indices, *length),
                Ends::Array(offsets) => {
                    let (data, len) = (offsets.data, offsets.len());
                    match (offsets.kind, self.has_last) {
                        (Kind::I32, true) => {
                            Bags::new::<i32>(self.batch_size, indices, D::of(data, len))
                        }
                        (Kind::U32, true) => {
                            Bags::new::<u32>(self.batch_size, indices, D::of(data, len))
                        }
                        (_, true) => Bags::new::<i64>(self.batch_size, indices, D::of(data, len)),
                        (Kind::I32, false) => {
                            Bags::from_starts::<i32>(self.batch_size, indices, D::of(data, len))
                        }
                        (Kind::U32, false) => {
                            Bags::from_starts::<u32>(self.batch_size, indices, D::of(data, len))
                        }
                        (_, false) => {
                            Bags::from_starts::<i64>(self.batch_size, indices, D::of(data, len))
                        }
                    }
                }
            };
            match &self.factors {
                Some(factors) => bags.weighted(D::of::<f32>(factors.data, factors.len())),
                None => bags,
            }
        }
    }

    fn check_ends(&self, op: &str) -> PyResult<()> {
        match &self.ends {
            Ends::Array(offsets) if !matches!(offsets.kind, Kind::I64 | Kind::I32 | Kind::U32) => {
                let reason = format!("{}, but must be int32, int64 or uint32", offsets.kind.name());
                Err(type_error(op, "offsets", reason))
            }
            _ => Ok(()),
        }
    }
}

/// Checks that outputs may be written, and share no memory with each other or with inputs.
fn check_outputs<'a>(
    op: &str,
    outputs: &[(&str, &'a Array)],
    inputs: impl Iterator<Item = &'a Array> + Clone,
) -> PyResult<()> {
    for (k, (name, output)) in outputs.iter().enumerate() {
        output.expect_writable(op, name)?;
        let others = outputs[..k].iter().map(|(_, other)| *other);
        if inputs.clone().chain(others).any(|other| output.overlaps(other)) {
            return Err(value_error(op, name, "it shares memory with another argument"));
        }
    }
    Ok(())
}

/// An output: the caller's, or a new one.
struct Output<'py> {
    object: Bound<'py, PyAny>,
    array: Array,
}

impl<'py> Output<'py> {
    fn new(
        py: Python<'py>,
        (op, name): (&'static str, &str),
        given: Option<&Bound<'py, PyAny>>,
        like: &Array,
        kind: Kind,
        shape: &[usize],
    ) -> PyResult<Self> {
        let output = Self::of_any_kind(py, (op, name), given, like, kind, shape)?;
        output.array.expect(kind, op, name)?;
        Ok(output)
    }

    /// Takes an output of the caller, of whatever type, or makes one of this type.
    fn of_any_kind(
        py: Python<'py>,
        (op, name): (&'static str, &str),
        given: Option<&Bound<'py, PyAny>>,
        like: &Array,
        kind: Kind,
        shape: &[usize],
    ) -> PyResult<Self> {
        let object = match given {
            Some(object) => object.clone(),
            None => empty(py, op, like, kind, shape)?,
        };
        let array = Array::new(&object, op, name)?;
        Ok(Self { object, array })
    }
}

/// Returns the pooled vectors of all bags, `[batch_size, width]`: of the type of `out`, or of
/// float32.
#[pyfunction]
#[pyo3(signature = (
    tables, weights, indices, offsets=None, per_sample_weights=None, out=None, *, argmax=None,
    batch_size=None, include_last_offset=true
))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn embedding_bag<'py>(
    py: Python<'py>,
    tables: &Bound<'py, Tables>,
    weights: &Bound<'py, PyAny>,
    indices: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    per_sample_weights: Option<&Bound<'py, PyAny>>,
    out: Option<&Bound<'py, PyAny>>,
    argmax: Option<&Bound<'py, PyAny>>,
    batch_size: Option<usize>,
    include_last_offset: bool,
) -> PyResult<Bound<'py, PyAny>> {
    const OP: &str = "embedding_bag.forward";
    let tables = tables.get();
    let weights = Values::new(tables, weights, OP, "weights")?;
    let batch = Batch::new(
        tables,
        OP,
        indices,
        offsets,
        per_sample_weights,
        batch_size,
        include_last_offset,
    )?;
    batch.check_ends(OP)?;
    let shape = [batch.batch_size, tables.layout().width()];
    let output = Output::of_any_kind(py, (OP, "out"), out, weights.first(), Kind::F32, &shape)?;
    let rows = Rows::new(&output.array, OP, "output")?;
    let argmax = argmax.map(|argmax| Array::new(argmax, OP, "argmax")).transpose()?;
    let sources = argmax.as_ref().map(|argmax| sources_of(argmax, OP)).transpose()?;
    let inputs = weights.arrays.iter().chain(batch.arrays());
    let outputs: &[(&str, &Array)] = match &argmax {
        Some(argmax) => &[("out", &output.array), ("argmax", argmax)],
        None => &[("out", &output.array)],
    };
    check_outputs(OP, outputs, inputs.clone())?;
    let work = batch.work(tables);
    let target = Target::of(py, OP, inputs.chain(outputs.iter().map(|(_, array)| *array)), work)?;
    let result = by_element!(OP, "weights", weights.first().kind, E => {
        by_index!(OP, "indices", batch.indices.kind, I => {
            by_element!(OP, "out", output.array.kind, O => {
                on_target!(py, OP, &target, tables, (device, layout, _scratch) => {
                    run(py, work, || {
                        forward::<_, E, I, O>(device, layout, &weights, &batch, rows, sources)
                    })
                })
            })
        })
    });
    result.map_err(|error| op_error(py, error))?;
    Ok(output.object)
}

/// Returns the sources of maxima as a matrix: of 32-bit integers, of which -1 is "no source".
fn sources_of(argmax: &Array, op: &str) -> PyResult<Rows> {
    if argmax.kind != Kind::I32 {
        argmax.expect(Kind::U32, op, "argmax")?;
    }
    Rows::new(argmax, op, "argmax")
}

fn forward<D: Views, E: Element, I: Index, O: Element>(
    device: &D,
    tables: &D::Tables,
    weights: &Values,
    batch: &Batch,
    output: Rows,
    argmax: Option<Rows>,
) -> bagdot::Result<()> {
    // SAFETY: see the top of this file.
    unsafe {
        let bags = batch.bags::<D, I>();
        let weights = weights.of::<D, E>(device, tables.as_ref())?;
        let call = lookup::Forward::new(tables, weights, bags, output.of_mut::<D, O>());
        match argmax {
            Some(argmax) => call.argmax(argmax.of_mut()).run(device),
            None => call.run(device),
        }
    }
}

/// Returns the gradient of the per-sample weights, one float32 for each id.
#[pyfunction]
#[pyo3(signature = (
    tables, weights, indices, offsets, grad_output, out=None, *, batch_size=None,
    include_last_offset=true
))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn embedding_bag_weight_grad<'py>(
    py: Python<'py>,
    tables: &Bound<'py, Tables>,
    weights: &Bound<'py, PyAny>,
    indices: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    grad_output: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
    batch_size: Option<usize>,
    include_last_offset: bool,
) -> PyResult<Bound<'py, PyAny>> {
    const OP: &str = "embedding_bag.weight_grad";
    let tables = tables.get();
    let weights = Values::new(tables, weights, OP, "weights")?;
    let batch = Batch::new(tables, OP, indices, offsets, None, batch_size, include_last_offset)?;
    batch.check_ends(OP)?;
    let grad = Array::new(grad_output, OP, "grad_output")?;
    let grad_rows = Rows::new(&grad, OP, "grad_output")?;
    let shape = [batch.indices.len()];
    let output = Output::new(py, (OP, "out"), out, weights.first(), Kind::F32, &shape)?;
    let place = (output.array.data, output.array.flat(OP, "out")?);
    let inputs = weights.arrays.iter().chain(batch.arrays()).chain([&grad]);
    check_outputs(OP, &[("out", &output.array)], inputs.clone())?;
    let work = batch.work(tables);
    let target = Target::of(py, OP, inputs.chain([&output.array]), work)?;
    let result = by_element!(OP, "weights", weights.first().kind, E => {
        by_index!(OP, "indices", batch.indices.kind, I => {
            by_element!(OP, "grad_output", grad.kind, G => {
                on_target!(py, OP, &target, tables, (device, layout, _scratch) => {
                    run(py, work, || {
                        let (values, rows) = (&weights, grad_rows);
                        weight_grad::<_, E, I, G>(device, layout, values, &batch, rows, place)
                    })
                })
            })
        })
    });
    result.map_err(|error| op_error(py, error))?;
    Ok(output.object)
}

fn weight_grad<D: Views, E: Element, I: Index, G: Element>(
    device: &D,
    tables: &D::Tables,
    weights: &Values,
    batch: &Batch,
    grad: Rows,
    (place, values): (*mut u8, usize),
) -> bagdot::Result<()> {
    // SAFETY: see the top of this file.
    unsafe {
        let weights = weights.of::<D, E>(device, tables.as_ref())?;
        let bags = batch.bags::<D, I>();
        let output = D::of_mut::<f32>(place, values);
        lookup::WeightGrad::new(tables, weights, bags, grad.of::<D, G>(), output).run(device)
    }
}

/// Returns the interaction that the names mean.
fn interaction_of(
    kind: &str,
    pair_order: &str,
    include_self: bool,
    append_sparse: bool,
    pad_to: usize,
) -> PyResult<Interaction> {
    let order = match pair_order {
        "lower" => PairOrder::LowerTriangle,
        "upper" => PairOrder::UpperTriangle,
        _ => {
            let reason = format!("{pair_order:?}, but must be \"lower\" or \"upper\"");
            return Err(value_error("interaction", "pair_order", reason));
        }
    };
    match kind {
        "dot" => Ok(Interaction::Dot { order, include_self, append_sparse, pad_to }),
        "cat" => Ok(Interaction::Cat),
        _ => {
            let reason = format!("{kind:?}, but must be \"dot\" or \"cat\"");
            Err(value_error("interaction", "kind", reason))
        }
    }
}

/// Returns the number of columns of the output of an interaction.
#[pyfunction]
#[pyo3(signature = (
    has_dense, num_sparse, dim, *, kind="dot", pair_order="lower", include_self=false,
    append_sparse=false, pad_to=1
))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn interaction_width(
    has_dense: bool,
    num_sparse: usize,
    dim: usize,
    kind: &str,
    pair_order: &str,
    include_self: bool,
    append_sparse: bool,
    pad_to: usize,
) -> PyResult<usize> {
    let interaction = interaction_of(kind, pair_order, include_self, append_sparse, pad_to)?;
    Ok(interaction.width(has_dense, num_sparse, dim))
}

/// Returns the pairs of features in the order of the output.
#[pyfunction]
#[pyo3(signature = (num_features, *, pair_order="lower", include_self=false))]
pub(crate) fn interaction_pairs(
    num_features: usize,
    pair_order: &str,
    include_self: bool,
) -> PyResult<Vec<(usize, usize)>> {
    Ok(interaction_of("dot", pair_order, include_self, false, 1)?.pairs(num_features).collect())
}

/// The features of an interaction: a dense vector and pooled ones, or pooled ones alone.
struct Inputs {
    dense: Option<(Array, Rows)>,
    sparse: (Array, Rows),
    dim: usize,
}

impl Inputs {
    fn new(
        op: &str,
        dense: Option<&Bound<'_, PyAny>>,
        sparse: &Bound<'_, PyAny>,
        dim: Option<usize>,
    ) -> PyResult<Self> {
        let sparse = Array::new(sparse, op, "sparse")?;
        let rows = Rows::new(&sparse, op, "sparse")?;
        let dense = match dense {
            Some(dense) => {
                let dense = Array::new(dense, op, "dense")?;
                dense.expect(sparse.kind, op, "dense")?;
                let rows = Rows::new(&dense, op, "dense")?;
                Some((dense, rows))
            }
            None => None,
        };
        let dim = match (dim, sparse.shape(), &dense) {
            (Some(dim), _, _) => dim,
            (None, [_, _, dim], _) => *dim,
            (None, _, Some((_, rows))) => rows.cols,
            (None, _, None) => {
                return Err(value_error(op, "dim", "needed without a dense vector"));
            }
        };
        Ok(Self { dense, sparse: (sparse, rows), dim })
    }

    fn arrays(&self) -> impl Iterator<Item = &Array> + Clone {
        self.dense.iter().map(|(array, _)| array).chain([&self.sparse.0])
    }

    fn width(&self, interaction: Interaction) -> usize {
        let (dense, sparse) = (self.dense.as_ref().map_or(0, |(_, r)| r.cols), self.sparse.1.cols);
        match interaction {
            Interaction::Cat => dense + sparse,
            _ => {
                let num_sparse = sparse.checked_div(self.dim).unwrap_or(0);
                interaction.width(self.dense.is_some(), num_sparse, self.dim)
            }
        }
    }

    fn work(&self) -> usize {
        let features = 1 + self.sparse.1.cols / self.dim.max(1);
        self.sparse.1.rows.saturating_mul(self.sparse.1.cols.saturating_mul(features / 2 + 1))
    }

    /// # Safety
    /// As at the top of this file.
    unsafe fn features<'a, D: Views, E: Element>(&self) -> Features<'a, D, E> {
        // SAFETY: the caller's.
        unsafe {
            match &self.dense {
                Some((_, dense)) => {
                    Features::Split { dense: dense.of(), sparse: self.sparse.1.of() }
                }
                None => Features::Joined { block: self.sparse.1.of(), has_dense: false },
            }
        }
    }
}

/// Returns the interaction of the features of each sample.
#[pyfunction]
#[pyo3(signature = (
    dense, sparse, out=None, *, dim=None, kind="dot", pair_order="lower", include_self=false,
    append_sparse=false, pad_to=1
))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn interaction<'py>(
    py: Python<'py>,
    dense: Option<&Bound<'py, PyAny>>,
    sparse: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
    dim: Option<usize>,
    kind: &str,
    pair_order: &str,
    include_self: bool,
    append_sparse: bool,
    pad_to: usize,
) -> PyResult<Bound<'py, PyAny>> {
    const OP: &str = "interaction.forward";
    let interaction = interaction_of(kind, pair_order, include_self, append_sparse, pad_to)?;
    let inputs = Inputs::new(OP, dense, sparse, dim)?;
    let (array, rows) = &inputs.sparse;
    let shape = [rows.rows, inputs.width(interaction)];
    let output = Output::new(py, (OP, "out"), out, array, array.kind, &shape)?;
    let out_rows = Rows::new(&output.array, OP, "output")?;
    check_outputs(OP, &[("out", &output.array)], inputs.arrays())?;
    let work = inputs.work();
    let target = Target::of(py, OP, inputs.arrays().chain([&output.array]), work)?;
    let result = by_element!(OP, "sparse", array.kind, E => {
        let call = |device: &_| interact::<_, E>(device, interaction, &inputs, out_rows);
        let call_cuda = |device: &_| interact::<_, E>(device, interaction, &inputs, out_rows);
        run_dense(py, work, &target, call, call_cuda)
    });
    result.map_err(|error| op_error(py, error))?;
    Ok(output.object)
}

/// Runs an op without tables on the backend of a call.
fn run_dense(
    py: Python<'_>,
    work: usize,
    target: &Target,
    on_cpu: impl FnOnce(&bagdot::Cpu) -> bagdot::Result<()>,
    on_cuda: impl FnOnce(&bagdot::Cuda) -> bagdot::Result<()>,
) -> bagdot::Result<()> {
    match target {
        Target::Cpu(cpu) => run(py, work, || on_cpu(cpu)),
        Target::Cuda { cuda, waits, .. } => run(py, work, || {
            on_cuda(cuda)?;
            if *waits { cuda.synchronize() } else { Ok(()) }
        }),
    }
}

fn interact<D: Views, E: Element>(
    device: &D,
    interaction: Interaction,
    inputs: &Inputs,
    output: Rows,
) -> bagdot::Result<()> {
    // SAFETY: see the top of this file.
    unsafe {
        let features = inputs.features::<D, E>();
        pairs::Forward::new(interaction, inputs.dim, features, output.of_mut()).run(device)
    }
}

/// Returns the gradients of the dense and of the pooled vectors; without a dense vector the first
/// is None.
#[pyfunction]
#[pyo3(signature = (
    grad_output, dense, sparse, out_dense=None, out_sparse=None, *, dim=None, kind="dot",
    pair_order="lower", include_self=false, append_sparse=false, pad_to=1
))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn interaction_backward<'py>(
    py: Python<'py>,
    grad_output: &Bound<'py, PyAny>,
    dense: Option<&Bound<'py, PyAny>>,
    sparse: &Bound<'py, PyAny>,
    out_dense: Option<&Bound<'py, PyAny>>,
    out_sparse: Option<&Bound<'py, PyAny>>,
    dim: Option<usize>,
    kind: &str,
    pair_order: &str,
    include_self: bool,
    append_sparse: bool,
    pad_to: usize,
) -> PyResult<(Option<Bound<'py, PyAny>>, Bound<'py, PyAny>)> {
    const OP: &str = "interaction.backward";
    let interaction = interaction_of(kind, pair_order, include_self, append_sparse, pad_to)?;
    let inputs = Inputs::new(OP, dense, sparse, dim)?;
    let (array, _) = &inputs.sparse;
    let grad = Array::new(grad_output, OP, "grad_output")?;
    grad.expect(array.kind, OP, "grad_output")?;
    let grad_rows = Rows::new(&grad, OP, "grad_output")?;
    let to_sparse =
        Output::new(py, (OP, "out_sparse"), out_sparse, array, array.kind, array.shape())?;
    let sparse_rows = Rows::new(&to_sparse.array, OP, "grad_sparse")?;
    let to_dense = match &inputs.dense {
        Some((like, _)) => {
            let output =
                Output::new(py, (OP, "out_dense"), out_dense, like, like.kind, like.shape())?;
            let rows = Rows::new(&output.array, OP, "grad_dense")?;
            Some((output, rows))
        }
        None => None,
    };
    let dense_rows = to_dense.as_ref().map(|(_, rows)| *rows);
    let mut outputs = vec![("out_sparse", &to_sparse.array)];
    outputs.extend(to_dense.iter().map(|(output, _)| ("out_dense", &output.array)));
    let read = inputs.arrays().chain([&grad]);
    check_outputs(OP, &outputs, read.clone())?;
    let work = inputs.work().saturating_mul(2);
    let target = Target::of(py, OP, read.chain(outputs.iter().map(|(_, array)| *array)), work)?;
    let rows = (grad_rows, dense_rows, sparse_rows);
    let result = by_element!(OP, "sparse", array.kind, E => {
        let call = |device: &_| backward::<_, E>(device, interaction, &inputs, rows);
        let call_cuda = |device: &_| backward::<_, E>(device, interaction, &inputs, rows);
        run_dense(py, work, &target, call, call_cuda)
    });
    result.map_err(|error| op_error(py, error))?;
    Ok((to_dense.map(|(output, _)| output.object), to_sparse.object))
}

fn backward<D: Views, E: Element>(
    device: &D,
    interaction: Interaction,
    inputs: &Inputs,
    (grad, dense, sparse): (Rows, Option<Rows>, Rows),
) -> bagdot::Result<()> {
    // SAFETY: see the top of this file.
    unsafe {
        let features = inputs.features::<D, E>();
        let to = match dense {
            Some(dense) => FeaturesMut::Split { dense: dense.of_mut(), sparse: sparse.of_mut() },
            None => FeaturesMut::Joined { block: sparse.of_mut() },
        };
        pairs::Backward::new(interaction, inputs.dim, features, grad.of(), to).run(device)
    }
}

/// Looks up and lets features interact in one pass. Returns the interaction and the pooled vectors,
/// which are None unless they are kept; both are of the type of the dense vectors.
#[pyfunction]
#[pyo3(signature = (
    tables, weights, indices, offsets, dense, per_sample_weights=None, out=None, *, pooled=None,
    keep_pooled=false, batch_size=None, include_last_offset=true, kind="dot", pair_order="lower",
    include_self=false, append_sparse=false, pad_to=1
))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn pooled_interaction<'py>(
    py: Python<'py>,
    tables: &Bound<'py, Tables>,
    weights: &Bound<'py, PyAny>,
    indices: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    dense: &Bound<'py, PyAny>,
    per_sample_weights: Option<&Bound<'py, PyAny>>,
    out: Option<&Bound<'py, PyAny>>,
    pooled: Option<&Bound<'py, PyAny>>,
    keep_pooled: bool,
    batch_size: Option<usize>,
    include_last_offset: bool,
    kind: &str,
    pair_order: &str,
    include_self: bool,
    append_sparse: bool,
    pad_to: usize,
) -> PyResult<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
    const OP: &str = "pooled_interaction.forward";
    let tables = tables.get();
    let interaction = interaction_of(kind, pair_order, include_self, append_sparse, pad_to)?;
    let weights = Values::new(tables, weights, OP, "weights")?;
    let batch = Batch::new(
        tables,
        OP,
        indices,
        offsets,
        per_sample_weights,
        batch_size,
        include_last_offset,
    )?;
    batch.check_ends(OP)?;
    let dense = Array::new(dense, OP, "dense")?;
    let dense_rows = Rows::new(&dense, OP, "dense")?;
    let (layout, like) = (tables.layout(), weights.first());
    let width = match interaction {
        Interaction::Cat => dense_rows.cols + layout.width(),
        _ => interaction.width(true, layout.features().len(), dense_rows.cols),
    };
    let keeps_pooled = keep_pooled || pooled.is_some();
    let output = Output::new(py, (OP, "out"), out, like, dense.kind, &[batch.batch_size, width])?;
    let shape = [batch.batch_size, layout.width()];
    let pooled = Output::new(py, (OP, "pooled"), pooled, like, dense.kind, &shape)?;
    let rows = (
        dense_rows,
        Rows::new(&pooled.array, OP, "pooled")?,
        Rows::new(&output.array, OP, "output")?,
    );
    let inputs = weights.arrays.iter().chain(batch.arrays()).chain([&dense]);
    let outputs = [("out", &output.array), ("pooled", &pooled.array)];
    check_outputs(OP, &outputs, inputs.clone())?;
    let work = batch.work(tables).saturating_add(batch.batch_size.saturating_mul(width));
    let target = Target::of(py, OP, inputs.chain(outputs.iter().map(|(_, array)| *array)), work)?;
    let how = (interaction, keeps_pooled);
    let result = by_element!(OP, "weights", like.kind, E => {
        by_index!(OP, "indices", batch.indices.kind, I => {
            by_element!(OP, "dense", dense.kind, O => {
                on_target!(py, OP, &target, tables, (device, layout, _scratch) => {
                    run(py, work, || {
                        fused::<_, E, I, O>(device, layout, &weights, &batch, how, rows)
                    })
                })
            })
        })
    });
    result.map_err(|error| op_error(py, error))?;
    Ok((output.object, keeps_pooled.then_some(pooled.object)))
}

fn fused<D: Views, E: Element, I: Index, O: Element>(
    device: &D,
    tables: &D::Tables,
    weights: &Values,
    batch: &Batch,
    (interaction, keeps_pooled): (Interaction, bool),
    (dense, pooled, output): (Rows, Rows, Rows),
) -> bagdot::Result<()> {
    // SAFETY: see the top of this file.
    unsafe {
        let bags = batch.bags::<D, I>();
        let weights = weights.of::<D, E>(device, tables.as_ref())?;
        let lookup = lookup::Forward::new(tables, weights, bags, pooled.of_mut::<D, O>());
        let interact = Interact::new(interaction, dense.cols, dense.of(), output.of_mut());
        let interact = interact.keeps_pooled(keeps_pooled);
        lookup_and_pairs::Forward { lookup, interact }.run(device)
    }
}

/// Takes one step of an optimizer on each row that a batch looks up, in place. `grad_output` is the
/// gradient of `loss_scale` times the loss.
#[pyfunction]
#[pyo3(signature = (
    tables, weights, indices, offsets, grad_output, optimizer, state=None, *,
    per_sample_weights=None, argmax=None, loss_scale=1.0, learning_rate=None, step=None,
    batch_size=None, include_last_offset=true
))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn sparse_update<'py>(
    py: Python<'py>,
    tables: &Bound<'py, Tables>,
    weights: &Bound<'py, PyAny>,
    indices: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    grad_output: &Bound<'py, PyAny>,
    optimizer: &Bound<'py, Optimizer>,
    state: Option<Vec<Bound<'py, PyAny>>>,
    per_sample_weights: Option<&Bound<'py, PyAny>>,
    argmax: Option<&Bound<'py, PyAny>>,
    loss_scale: f32,
    learning_rate: Option<f32>,
    step: Option<u64>,
    batch_size: Option<usize>,
    include_last_offset: bool,
) -> PyResult<()> {
    const OP: &str = "sparse_update.update";
    let (tables, optimizer) = (tables.get(), optimizer.get());
    let weights = Values::new(tables, weights, OP, "weights")?;
    let batch = Batch::new(
        tables,
        OP,
        indices,
        offsets,
        per_sample_weights,
        batch_size,
        include_last_offset,
    )?;
    batch.check_ends(OP)?;
    let grad = Array::new(grad_output, OP, "grad_output")?;
    let grad_rows = Rows::new(&grad, OP, "grad_output")?;
    let argmax = argmax.map(|argmax| Array::new(argmax, OP, "argmax")).transpose()?;
    let sources = argmax.as_ref().map(|argmax| sources_of(argmax, OP)).transpose()?;
    let state = state.unwrap_or_default();
    let state = state.iter().map(|values| Values::new(tables, values, OP, "state"));
    let state = state.collect::<PyResult<Vec<Values>>>()?;
    for array in state.iter().flat_map(|values| &values.arrays) {
        array.expect(Kind::F32, OP, "state")?;
    }
    if state.len() > 2 {
        return Err(value_error(OP, "state", "more than two arrays"));
    }
    let mut outputs: Vec<(&str, &Array)> =
        weights.arrays.iter().map(|array| ("weights", array)).collect();
    outputs.extend(state.iter().flat_map(|values| &values.arrays).map(|array| ("state", array)));
    let inputs = batch.arrays().chain([&grad]).chain(&argmax);
    check_outputs(OP, &outputs, inputs.clone())?;
    let work = batch.work(tables).saturating_mul(4);
    let target = Target::of(py, OP, outputs.iter().map(|(_, array)| *array).chain(inputs), work)?;
    let how = (optimizer.rule(learning_rate, step), loss_scale, optimizer.max_gradient);
    let rows = (grad_rows, sources);
    let result = by_element!(OP, "weights", weights.first().kind, E => {
        by_index!(OP, "indices", batch.indices.kind, I => {
            by_element!(OP, "grad_output", grad.kind, G => {
                on_target!(py, OP, &target, tables, (device, layout, scratch) => {
                    run(py, work, || {
                        let values = (&weights, &state[..]);
                        update::<_, E, I, G>(device, layout, scratch, values, &batch, how, rows)
                    })
                })
            })
        })
    });
    result.map_err(|error| op_error(py, error))
}

#[allow(clippy::too_many_arguments)]
fn update<D: Views, E: Element, I: Index, G: Element>(
    device: &D,
    tables: &D::Tables,
    slot: &Mutex<Option<Scratch<D>>>,
    (weights, state): (&Values, &[Values]),
    batch: &Batch,
    (rule, loss_scale, max_gradient): (UpdateRule, f32, Option<f32>),
    (grad, argmax): (Rows, Option<Rows>),
) -> bagdot::Result<()> {
    // SAFETY: see the top of this file.
    unsafe {
        let bags = batch.bags::<D, I>();
        let mut scratch = Scratch::take::<E, I>(slot, device, tables.as_ref(), &bags)?;
        let Scratch { sorted, workspace } = &mut scratch;
        let sorted_all = Sort::new(tables, bags, sorted, D::view_mut(workspace)).run(device);
        let step = |_| {
            let grad = grad.of::<D, G>();
            let mut source = PooledGrad::new(tables, bags, sorted, grad).loss_scale(loss_scale);
            if let Some(argmax) = argmax {
                source = source.argmax(argmax.of());
            }
            if let Some(max) = max_gradient {
                source = source.max_gradient(max);
            }
            let layout = tables.as_ref();
            let state = match state {
                [] => TableStateMut::None,
                [sums] => TableStateMut::SumOfSquares(sums.of_mut(device, layout)?),
                [first, second, ..] => TableStateMut::Moments {
                    first: first.of_mut(device, layout)?,
                    second: second.of_mut(device, layout)?,
                },
            };
            let weights = weights.of_mut::<D, E>(device, layout)?;
            Update::new(source, rule, weights, state, D::view_mut(workspace)).run(device)
        };
        let result = sorted_all.and_then(step);
        scratch.keep(slot);
        result
    }
}
