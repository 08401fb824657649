//! The stand-in driver: the part of the CUDA driver API that cudarc calls, on emulated devices, and
//! the part of cuBLASLt that bagdot calls. [`install`](crate::install()) loads its library in the
//! place of libcuda.so.
//!
//! It deliberately behaves as a driver does, also where that is inconvenient: work is done late,
//! errors of kernels appear at the next wait and stay, and captures refuse what a driver refuses.
//! It differs in these points:
//!
//! - Registers are not counted, so no launch fails for want of them.
//! - Memory that a capture allocates is allocated at once, and freeing it in the graph does
//!   nothing.
//! - A captured copy from pageable memory reads that memory at each replay.
//! - Freeing pinned memory waits for all work.
//! - Managed memory, 2D copies, textures and memory of other processes are missing.
//!
//! From the bottom up: `code` and `host` are results and pointers; `since` lists the functions that
//! old drivers lack; `work`, `transit`, `product` and `matmul` are data; `state` is the driver,
//! with its lock. `pinned`, `capture` and `queue` are what it does with work. On them stand the
//! functions of the C APIs, which `api` defines: `context`, `event`, `graph`, `launch`, `memory`,
//! `occupancy`, `pool`, `refused` and `stream`, `cublaslt`, and `control` for the tests.

mod api;
mod capture;
mod code;
mod context;
mod control;
mod cublaslt;
mod event;
mod graph;
mod host;
mod launch;
mod matmul;
mod memory;
mod occupancy;
mod pinned;
mod pool;
mod product;
mod queue;
mod refused;
mod since;
mod state;
mod stream;
mod transit;
mod work;

pub(crate) use control::Setting;
pub(crate) use since::{asked, lacking};
