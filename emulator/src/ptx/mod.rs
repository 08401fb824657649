//! From the text of a PTX module to decoded kernels. Three steps: tokens, statements, and
//! instructions, with every call inlined.

mod arithmetic;
mod control;
mod decode;
mod decoder;
mod error;
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

pub use error::LoadError;

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
