//! Reads the text of a PTX module in three steps: `lexer` makes tokens of it, `statement` makes
//! statements of these, and `lower` makes kernels of these, with every call inlined. `decode`
//! decodes each instruction for it: `arithmetic`, `memory` and `control` know the opcodes.

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

/// Reads a module. Tests load the same modules again and again, so that each is read once and kept.
pub(crate) fn load(source: &str) -> Result<Arc<Module>, LoadError> {
    /// The most modules that are kept: more than one test program loads often.
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
