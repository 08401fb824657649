//! From the text of a PTX module to decoded kernels. Three steps: tokens, statements, and instructions, with every call inlined.

mod arithmetic;
mod decode;
mod lexer;
mod lower;
mod memory;
mod statement;
mod syntax;

pub(crate) use lower::load;

/// Why a module cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct LoadError {
    /// The line of the PTX text, counted from 1.
    pub line: u32,
    /// What is wrong there, with the instruction or name it is about.
    pub message: String,
}

impl LoadError {
    fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}
