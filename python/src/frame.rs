//! Data frames, taken over as a stream of Arrow without a copy, and written as the delimited text
//! that the program reads. So a model of a data frame is a model of the program.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::ffi_stream::{FFI_ArrowArrayStream, RecordBatchStreamReader};
use arrow_array::types::{
    Date32Type, Date64Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use pyo3::exceptions::{PyKeyError, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::array;

/// The number of rows that become text at a time.
const ROWS_AT_A_TIME: usize = 4096;

/// A data frame: columns of one length.
#[pyclass(frozen, name = "Frame", module = "bagdot._bagdot")]
pub(crate) struct Frame {
    schema: Arc<Schema>,
    batches: Vec<RecordBatch>,
}

/// A column to be written, and the separator of its lists.
pub(crate) type Column = (String, Option<String>);

/// The labels to be written: the name of their column, the texts of both classes, and the class of
/// each row.
type Labels = (String, (String, String), Vec<u8>);

#[pymethods]
impl Frame {
    /// Takes over a data frame by its `__arrow_c_stream__`.
    #[staticmethod]
    fn from_arrow(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let Some(export) = object.getattr_opt(pyo3::intern!(py, "__arrow_c_stream__"))? else {
            let class = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "a {class} is no data frame: it has no `__arrow_c_stream__`"
            )));
        };
        let capsule = export.call0()?;
        let capsule = capsule.cast::<PyCapsule>()?;
        let stream = capsule.pointer_checked(Some(c"arrow_array_stream"))?;
        // SAFETY: a capsule of this name points to such a stream. It is moved out, which leaves one
        // behind that is released.
        let reader = unsafe {
            RecordBatchStreamReader::from_raw(stream.as_ptr().cast::<FFI_ArrowArrayStream>())
        };
        let mut reader = reader.map_err(|error| PyValueError::new_err(error.to_string()))?;
        let schema = arrow_array::RecordBatchReader::schema(&reader);
        let batches = reader.by_ref().collect::<Result<Vec<_>, _>>();
        let batches = batches.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { schema, batches })
    }

    /// Makes a data frame of the columns of a matrix of numbers.
    #[staticmethod]
    fn from_matrix(names: Vec<String>, matrix: &Bound<'_, PyAny>) -> PyResult<Self> {
        let matrix = array::Array::new(matrix, "Classifier", "X")?;
        let [rows, cols] = *matrix.shape() else {
            return Err(PyValueError::new_err("X must be a data frame, or a matrix of numbers"));
        };
        if cols != names.len() {
            let reason = format!("X has {cols} columns, but there are {} names", names.len());
            return Err(PyValueError::new_err(reason));
        }
        matrix.expect(array::Kind::F64, "Classifier", "X")?;
        let column = |col: usize| -> ArrayRef {
            let value = |row: usize| {
                let place = row as isize * matrix.stride(0) + col as isize * matrix.stride(1);
                // SAFETY: the place is an element of the matrix, by its sizes and strides.
                unsafe { matrix.data.cast::<f64>().offset(place).read_unaligned() }
            };
            Arc::new(Float64Array::from_iter_values((0..rows).map(value)))
        };
        let fields: Vec<Field> =
            names.into_iter().map(|name| Field::new(name, DataType::Float64, true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let columns = (0..cols).map(column).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns);
        let batch = batch.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { schema, batches: vec![batch] })
    }

    /// Returns the names of the columns with what they hold: "number", "text", "list", or the name
    /// of a type that features cannot have.
    fn columns(&self) -> Vec<(String, String)> {
        let kind = |field: &Arc<Field>| (field.name().clone(), kind_of(field.data_type()));
        self.schema.fields().iter().map(kind).collect()
    }

    fn __len__(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Writes these columns as delimited text, with a column of labels if there are some.
    #[pyo3(signature = (path, columns, labels=None))]
    fn write(
        &self,
        py: Python<'_>,
        path: PathBuf,
        columns: Vec<Column>,
        labels: Option<Labels>,
    ) -> PyResult<()> {
        if let Some((name, _, classes)) = &labels
            && classes.len() != self.__len__()
        {
            let reason = format!("{} labels {name:?} for {} rows", classes.len(), self.__len__());
            return Err(PyValueError::new_err(reason));
        }
        let mut text = self.text(columns, labels)?;
        py.detach(|| {
            let mut file = BufWriter::new(File::create(&path)?);
            io::copy(&mut text, &mut file)?;
            file.flush()
        })
        .map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => PyValueError::new_err(error.to_string()),
            _ => PyOSError::new_err(error.to_string()),
        })
    }
}

impl Frame {
    /// Returns whether there is a column of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.schema.fields().iter().any(|field| field.name() == name)
    }

    /// Returns these columns as delimited text, which is made as it is read.
    pub(crate) fn text(&self, columns: Vec<Column>, labels: Option<Labels>) -> PyResult<Text> {
        let mut places = Vec::with_capacity(columns.len());
        for (name, _) in &columns {
            let place = self.schema.index_of(name);
            let place = place.map_err(|_| PyKeyError::new_err(format!("no column {name:?}")))?;
            let kind = kind_of(self.schema.field(place).data_type());
            if !["number", "text", "list"].contains(&kind.as_str()) {
                return Err(PyTypeError::new_err(format!(
                    "column {name:?} is of type {kind}: convert it to numbers, texts or lists"
                )));
            }
            places.push(place);
        }
        let mut ready = Vec::new();
        let names = columns.iter().map(|(name, _)| name).chain(labels.iter().map(|l| &l.0));
        for (k, name) in names.enumerate() {
            if k > 0 {
                ready.push(b',');
            }
            quote(&mut ready, name);
        }
        ready.push(b'\n');
        let batches = self.batches.clone().into_iter();
        let mut text = Text {
            batches,
            batch: None,
            row: 0,
            total: 0,
            places,
            columns,
            labels,
            ready,
            read: 0,
        };
        text.next_batch().map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(text)
    }
}

/// Returns what a column of this type holds.
fn kind_of(of: &DataType) -> String {
    match of {
        DataType::Null | DataType::Boolean | DataType::Date32 | DataType::Date64 => "number".into(),
        DataType::Timestamp(..) => "number".into(),
        of if of.is_numeric() && !is_decimal(of) => "number".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        // A dictionary is a category, whatever its values are.
        DataType::Dictionary(_, value) if is_scalar(value) => "text".into(),
        DataType::List(item) | DataType::LargeList(item) if is_scalar(item.data_type()) => {
            "list".into()
        }
        DataType::FixedSizeList(item, _) if is_scalar(item.data_type()) => "list".into(),
        other => other.to_string(),
    }
}

fn is_decimal(of: &DataType) -> bool {
    matches!(
        of,
        DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
    )
}

fn is_scalar(of: &DataType) -> bool {
    ["number", "text"].contains(&kind_of(of).as_str())
}

/// A column of a batch, with the keys of a dictionary.
struct Cells {
    values: ArrayRef,
    keys: Option<(Vec<usize>, ArrayRef)>,
}

impl Cells {
    fn new(array: &ArrayRef) -> Self {
        let keys = array.as_any_dictionary_opt().map(|dictionary| {
            let keys = match dictionary.values().is_empty() {
                true => vec![0; array.len()],
                false => dictionary.normalized_keys(),
            };
            (keys, Arc::clone(dictionary.values()))
        });
        Self { values: Arc::clone(array), keys }
    }

    /// Appends the text of a cell: nothing if it is missing.
    fn write(&self, out: &mut Vec<u8>, row: usize) -> io::Result<()> {
        if self.values.is_null(row) {
            return Ok(());
        }
        match &self.keys {
            Some((keys, values)) => write_value(out, values, keys[row]),
            None => write_value(out, &self.values, row),
        }
    }
}

/// Delimited text, made of the rows of a frame as it is read.
pub(crate) struct Text {
    batches: std::vec::IntoIter<RecordBatch>,
    /// The columns of the current batch, and the number of its rows.
    batch: Option<(Vec<Cells>, usize)>,
    row: usize,
    total: usize,
    places: Vec<usize>,
    columns: Vec<Column>,
    labels: Option<Labels>,
    ready: Vec<u8>,
    read: usize,
}

impl Text {
    fn next_batch(&mut self) -> io::Result<()> {
        self.row = 0;
        self.batch = self.batches.next().map(|batch| {
            let cells = self.places.iter().map(|&place| Cells::new(batch.column(place)));
            (cells.collect(), batch.num_rows())
        });
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.read = 0;
        let mut cell = Vec::new();
        for _ in 0..ROWS_AT_A_TIME {
            while self.batch.as_ref().is_some_and(|(_, rows)| self.row >= *rows) {
                self.next_batch()?;
            }
            let Some((cells, _)) = &self.batch else { return Ok(()) };
            for (k, (cells, (name, separator))) in cells.iter().zip(&self.columns).enumerate() {
                if k > 0 {
                    self.ready.push(b',');
                }
                cell.clear();
                let is_list = match list_at(&cells.values, self.row) {
                    Some(items) => {
                        let separator = separator.as_deref().unwrap_or("|");
                        let place = (self.total, name.as_str());
                        write_list(&mut cell, items, separator, place)?;
                        true
                    }
                    None => {
                        cells.write(&mut cell, self.row)?;
                        false
                    }
                };
                if is_list || !is_plain(&cell) {
                    let text = std::str::from_utf8(&cell)
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    quote(&mut self.ready, text);
                } else {
                    self.ready.extend_from_slice(&cell);
                }
            }
            if let Some((_, (negative, positive), classes)) = &self.labels {
                if !self.columns.is_empty() {
                    self.ready.push(b',');
                }
                let is_positive = classes.get(self.total).is_some_and(|class| *class != 0);
                quote(&mut self.ready, if is_positive { positive } else { negative });
            }
            self.ready.push(b'\n');
            self.row += 1;
            self.total += 1;
        }
        Ok(())
    }
}

impl Read for Text {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.read == self.ready.len() {
            self.fill()?;
        }
        let len = out.len().min(self.ready.len() - self.read);
        out[..len].copy_from_slice(&self.ready[self.read..self.read + len]);
        self.read += len;
        Ok(len)
    }
}

/// Returns whether a text needs no quotes.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.+".contains(byte))
}

fn quote(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Returns the items of a list; `None` if the column has no lists. A missing list has no items.
fn list_at(array: &ArrayRef, row: usize) -> Option<Option<ArrayRef>> {
    let there = !array.is_null(row);
    match array.data_type() {
        DataType::List(_) => Some(there.then(|| array.as_list::<i32>().value(row))),
        DataType::LargeList(_) => Some(there.then(|| array.as_list::<i64>().value(row))),
        DataType::FixedSizeList(..) => Some(there.then(|| array.as_fixed_size_list().value(row))),
        _ => None,
    }
}

fn write_list(
    out: &mut Vec<u8>,
    items: Option<ArrayRef>,
    separator: &str,
    (row, name): (usize, &str),
) -> io::Result<()> {
    let Some(items) = items else { return Ok(()) };
    let cells = Cells::new(&items);
    let mut item = Vec::new();
    for k in 0..items.len() {
        item.clear();
        cells.write(&mut item, k)?;
        let text = String::from_utf8_lossy(&item);
        if text.contains(separator) {
            let reason = format!(
                "row {row}, column {name:?}: the item {text:?} contains the separator \
                 {separator:?}: choose another one by `separator`"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if k > 0 {
            out.extend_from_slice(separator.as_bytes());
        }
        out.extend_from_slice(&item);
    }
    Ok(())
}

/// Appends a value that is there.
fn write_value(out: &mut Vec<u8>, array: &ArrayRef, k: usize) -> io::Result<()> {
    if array.is_null(k) {
        return Ok(());
    }
    macro_rules! number {
        ($Type:ty) => {
            write!(out, "{}", array.as_primitive::<$Type>().value(k))
        };
    }
    macro_rules! seconds {
        ($Type:ty, $per_second:expr) => {
            write_float(out, array.as_primitive::<$Type>().value(k) as f64 / $per_second)
        };
    }
    match array.data_type() {
        DataType::Null => Ok(()),
        DataType::Boolean => write!(out, "{}", u8::from(array.as_boolean().value(k))),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float16 => {
            write_float(out, f64::from(array.as_primitive::<Float16Type>().value(k)))
        }
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(k);
            // The shortest text of an f32 has fewer digits than that of the f64 of its value.
            match value.is_finite() && value.fract() != 0.0 {
                true => write!(out, "{value}"),
                false => write_float(out, f64::from(value)),
            }
        }
        DataType::Float64 => write_float(out, array.as_primitive::<Float64Type>().value(k)),
        DataType::Utf8 => text(out, array.as_string::<i32>().value(k)),
        DataType::LargeUtf8 => text(out, array.as_string::<i64>().value(k)),
        DataType::Utf8View => text(out, array.as_string_view().value(k)),
        DataType::Date32 => {
            let days = i64::from(array.as_primitive::<Date32Type>().value(k));
            write!(out, "{}", days * 86_400)
        }
        DataType::Date64 => seconds!(Date64Type, 1e3),
        DataType::Timestamp(TimeUnit::Second, _) => number!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => seconds!(TimestampMillisecondType, 1e3),
        DataType::Timestamp(TimeUnit::Microsecond, _) => seconds!(TimestampMicrosecondType, 1e6),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => seconds!(TimestampNanosecondType, 1e9),
        other => {
            let reason = format!("values of type {other} are no features");
            Err(io::Error::new(io::ErrorKind::InvalidData, reason))
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Appends a number: nothing for NaN, which stands for a missing one, and an integer without a
/// fraction, so that a column of ids has the same texts where missing ones made it one of floats.
fn write_float(out: &mut Vec<u8>, value: f64) -> io::Result<()> {
    match value {
        value if value.is_nan() => Ok(()),
        value if value.fract() == 0.0 && value.abs() < 9e15 => write!(out, "{}", value as i64),
        value => write!(out, "{value}"),
    }
}
