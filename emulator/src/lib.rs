//! Runs bagdot's compiled CUDA kernels on a machine without a GPU: the very PTX that ships,
//! interpreted, behind a library that takes the place of libcuda.so. For tests only.
//!
//! # In a test of bagdot
//!
//! [`install`] comes before anything else of CUDA. From then on cudarc works as it does on a GPU,
//! and [`Emulator`] sets the schedule and tells what went wrong:
//!
//! ```no_run
//! use bagdot_emulator::{Config, Schedule, install};
//!
//! if let Some(emulator) = install()? {
//!     // One of this test's own, with everything as at the start.
//!     let emulator = emulator.exclusive();
//!     emulator.configure(Config { seed: 7, schedule: Schedule::Independent, ..Config::default() });
//!     // ... CudaContext::new(0), load_module(Ptx::from_src(..)), launches, copies ...
//!     assert_eq!(emulator.report(), "");
//! }
//! # Ok::<(), &bagdot_emulator::InstallError>(())
//! ```
//!
//! Where there is a real device `install` answers `None`, and the same test runs on it.
//! `BAGDOT_EMULATE=1` asks for the emulator all the same, `BAGDOT_REQUIRE_CUDA=1` for the real
//! driver. A single kernel can also be run without any driver, on a [`Device`].
//!
//! # What is checked
//!
//! Every access: its bounds to the byte, its alignment, that its memory has not been freed, that
//! the bytes it reads have been written, and that it is ordered against every earlier access to the
//! same bytes of which one writes. That order is not the one in which the warps happened to run: it
//! is what barriers, `__syncwarp`, and fences with atomics or volatile accesses promise, so that a
//! missing one is found under every seed. Shuffles and votes order nothing, as CUDA says, unless
//! [`Config::shuffles_order_memory`] is set; two threads that store the same value to one place
//! race, unless [`Config::same_value_stores`] is set. A plain read does not race with a
//! compare-and-swap, since every loop of these begins with one.
//!
//! Barriers that some threads do not reach or reach elsewhere, warp instructions without a lane
//! that their mask names, asynchronous copies that nobody waited for, and launches without an end.
//! Pinned memory that the host frees, or writes, before it has waited for a copy from it, and
//! pinned memory that a graph reads after it was freed. A [`Fault`] names kernel, block, warp,
//! lane, PTX line, and file and line of the CUDA source (compile with `-lineinfo`); a race names
//! both sides.
//!
//! # What is counted
//!
//! [`KernelCounts`]: instructions, sectors of global memory and their least number, passes over the
//! banks of shared memory, bytes; per kernel, per source line and, for instructions, per block.
//!
//! # What is not there
//!
//! Results of `ex2`, `lg2`, `sin`, `cos`, `tanh`, `rsqrt` and of matrix products are rounded from
//! more precise ones, where the hardware's differ in the last bits. Not executed: `wgmma`, bulk
//! copies, `mbarrier`, clusters, `tcgen05`, textures, `printf`, recursion, calls through pointers,
//! `elect`, two floats at once (`f32x2`), directed rounding of doubles, saturation of integers. An
//! opcode of which any part is not known is a fault of the kernel that comes to it, and
//! [`Device::unsupported`] lists those of a module. Caches, latencies and registers are not
//! modelled. Races between kernels in different streams are not looked for, but streams run out of
//! step.
//!
//! # How it is built
//!
//! `ptx` reads a module into statements and lowers these to `ir`: names become registers and
//! offsets, calls are inlined. `exec` runs a launch: `mod` the blocks and warps, `step` one
//! instruction, `access`, `atomic`, `copy`, `barrier` and `collective` what its name says;
//! `memory`, `shared` and `known` hold bytes and which of them were written, `clock` and `shadow`
//! decide what is a race. `values` computes. `device` puts memory, modules and counters together;
//! `driver` makes the driver API of it, and `install` puts that in place. `cublaslt/` is a library
//! by the name of cuBLASLt, through which the loader finds those functions in the driver.

mod counters;
mod device;
mod driver;
mod exec;
mod fault;
mod install;
mod ir;
mod ptx;
mod values;

pub use counters::{Counts, KernelCounts, LineCounts};
pub use device::{AccessError, Device, KernelId, LaunchError, ModuleId};
pub use exec::{Config, Grid, Schedule};
pub use fault::{Fault, FaultKind};
pub use install::{Emulator, Exclusive, InstallError, cublaslt_path, install, library_path};
pub use ptx::LoadError;
