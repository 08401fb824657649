//! The services that all ops of the CPU use: memory, threads, erased types, and reports of bad
//! input.

mod buffer;
pub(super) mod erased;
pub(super) mod fault;
pub(super) mod free_memory;
mod huge_pages;
mod parallel;
pub(super) mod scratch;
mod stage;
pub(super) mod threads;

pub use buffer::Buffer;
