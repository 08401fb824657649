//! Errors of bagdot as exceptions of Python.

use pyo3::exceptions::{
    PyKeyError, PyMemoryError, PyOSError, PyRuntimeError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Returns a `ValueError` in the words of bagdot's own: op, argument, reason.
pub(crate) fn value_error(op: &str, argument: &str, reason: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{op}: {argument}: {reason}"))
}

/// Returns a `TypeError` in the same words.
pub(crate) fn type_error(op: &str, argument: &str, reason: impl std::fmt::Display) -> PyErr {
    PyTypeError::new_err(format!("{op}: {argument}: {reason}"))
}

/// Returns the exception of an error of an op: `IndexOutOfRange` with its fields for a bad id,
/// else one of Python's own with bagdot's text.
pub(crate) fn op_error(py: Python<'_>, error: bagdot::Error) -> PyErr {
    use bagdot::Error;
    let text = error.to_string();
    match error {
        Error::IndexOutOfRange { op, table, bag, position, value, num_embeddings, count } => {
            let make = || -> PyResult<PyErr> {
                let fields = PyDict::new(py);
                fields.set_item("op", op)?;
                fields.set_item("table", table)?;
                fields.set_item("bag", bag)?;
                fields.set_item("position", position)?;
                fields.set_item("value", value)?;
                fields.set_item("num_embeddings", num_embeddings)?;
                fields.set_item("count", count)?;
                let class = py.import("bagdot._errors")?.getattr("IndexOutOfRange")?;
                Ok(PyErr::from_value(class.call((text,), Some(&fields))?))
            };
            make().unwrap_or_else(|error| error)
        }
        Error::OutOfMemory { .. } | Error::NotEnoughMemory { .. } => PyMemoryError::new_err(text),
        Error::TensorMissing { .. } => PyKeyError::new_err(text),
        Error::ShapeMismatch { .. }
        | Error::TooSmall { .. }
        | Error::InvalidArgument { .. }
        | Error::InvalidOffsets { .. }
        | Error::LabelOutOfRange { .. }
        | Error::TensorShape { .. }
        | Error::DTypeMismatch { .. } => PyValueError::new_err(text),
        _ => PyRuntimeError::new_err(text),
    }
}

/// Returns the exception of an error of training or predicting.
pub(crate) fn train_error(py: Python<'_>, error: bagdot::train::TrainError) -> PyErr {
    use bagdot::train::TrainError;
    let text = error.to_string();
    match error {
        TrainError::Engine(error) => op_error(py, error),
        TrainError::OutOfMemory { .. } => PyMemoryError::new_err(text),
        TrainError::Io { .. } => PyOSError::new_err(text),
        TrainError::NonFinite { .. } => pyo3::exceptions::PyFloatingPointError::new_err(text),
        TrainError::Interrupted { .. } => {
            pyo3::exceptions::PyKeyboardInterrupt::new_err("training was interrupted")
        }
        TrainError::Busy { .. } => PyRuntimeError::new_err(text),
        _ => PyValueError::new_err(text),
    }
}
