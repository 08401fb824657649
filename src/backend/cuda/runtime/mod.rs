//! The layer below the ops: the driver, memory, launches, graphs, and reports of bad input.

pub(super) mod arrivals;
pub(super) mod buffer;
pub(super) mod cublaslt;
pub(super) mod driver;
pub(super) mod fault;
pub(super) mod images;
pub(super) mod launch;
pub(super) mod module;
pub(super) mod params;
pub(super) mod pointer;
pub(super) mod recording;
mod stage;
pub(super) mod tables;
pub(super) mod transfer;
