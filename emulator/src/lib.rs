//! Runs compiled CUDA kernels on a machine without a GPU: the same PTX that ships, interpreted
//! behind a library that takes the place of libcuda.so. It is meant for tests.
//!
//! The file README.md of this crate says what is checked, how another project uses it, and what is
//! missing.
//!
//! [`install()`] must come before any other use of CUDA. From then on cudarc works as it does on a
//! GPU. An [`Emulator`] sets the schedule and returns reports and counters:
//!
//! ```no_run
//! use bagdot_emulator::{Config, Schedule, install};
//!
//! if let Some(emulator) = install()? {
//!     // An emulator for this test alone, in its initial state.
//!     let emulator = emulator.exclusive();
//!     let schedule = Schedule::Independent;
//!     emulator.configure(Config { seed: 7, schedule, ..Config::default() });
//!     // ... CudaContext::new(0), load_module(Ptx::from_src(..)), launches, copies ...
//!     assert_eq!(emulator.report(), "");
//! }
//! # Ok::<(), &bagdot_emulator::InstallError>(())
//! ```
//!
//! If there is a real device, `install` returns `None`, and the same test runs there. A single
//! kernel can also run without a driver, on a [`Device`].
//!
//! # Where to find things
//!
//! | to | look at |
//! |---|---|
//! | choose the schedule, the seed and the checks | [`Config`], [`Schedule`] |
//! | read what is wrong with a kernel | [`Fault`], [`FaultKind`], [`Emulator::report`] |
//! | assert instructions, memory traffic and bank conflicts | [`KernelCounts`], [`Counts`] |
//! | run one kernel without a driver | [`Device`], [`Grid`] |
//! | list the opcodes of a module that are missing | [`Device::unsupported`] |
//!
//! # The code
//!
//! `ptx` reads a module and lowers it to `ir`: names become registers and offsets, and calls are
//! inlined. `exec` runs a launch, and `values` computes the results of instructions. `device` joins
//! memory, modules and counters; `driver` makes the driver API of devices, and `install` puts it in
//! place. The folder `cublaslt` is a library with the name of cuBLASLt, through which the loader
//! finds the functions of cuBLASLt in the driver. The modules use each other in this order only:
//! `install`, `driver`, `device`, then `exec` and `ptx`, `values`, `ir`. `counters` and `fault` are
//! their common types.

mod counters;
mod device;
mod driver;
mod exec;
mod fault;
mod install;
mod ir;
mod ptx;
mod values;

pub use counters::{Counts, Footprint, KernelCounts, LineCounts};
pub use device::{AccessError, Device, KernelId, LaunchError, ModuleId};
pub use exec::{Config, Grid, Schedule};
pub use fault::{Fault, FaultKind};
pub use install::{
    Emulator, Exclusive, GraphShape, InstallError, cublaslt_path, install, library_path,
};
pub use ptx::LoadError;
