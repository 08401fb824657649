//! The error of a module that cannot be read.

/// The error of a module that cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct LoadError {
    /// The line of the PTX text, counted from 1.
    pub line: u32,
    /// The error, with the instruction or name that it is about.
    pub message: String,
}

impl LoadError {
    pub(super) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

pub(super) type Result<T> = std::result::Result<T, LoadError>;
