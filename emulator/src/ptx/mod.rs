//! From the text of a PTX module to decoded kernels. Three steps: tokens, statements, and
//! instructions, with every call inlined.

mod arithmetic;
mod decode;
mod lexer;
mod lower;
mod memory;
mod names;
mod parts;
mod statement;
mod syntax;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::ir::Module;

/// Reads a module. Tests load the same ones over and over: each is read once.
pub(crate) fn load(source: &str) -> Result<Arc<Module>, LoadError> {
    /// More than a test program has of those that it loads often.
    const MOST: usize = 64;
    static KNOWN: LazyLock<Mutex<HashMap<String, Arc<Module>>>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = known().get(source) {
        return Ok(module.clone());
    }
    let module = Arc::new(lower::load(source)?);
    let mut known = known();
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(source.to_owned(), module.clone());
    Ok(module)
}

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
