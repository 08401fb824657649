//! A device: memory, modules and counters. The driver has one per ordinal; a test of a single
//! kernel can use one directly.

use std::sync::Arc;

use crate::counters::{Collected, KernelCounts};
use crate::exec::{Config, Grid, LaunchArgs, Memory, launch};
use crate::fault::{Fault, FaultKind};
use crate::ir::{Kernel, Module, Op};
use crate::ptx::{LoadError, load};

/// Why a launch was not begun, or what went wrong in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The module has no kernel of that name.
    #[error("there is no kernel {0}")]
    UnknownKernel(String),
    /// The arguments are not those of the kernel.
    #[error("{kernel} takes {expected}, but was given {got}")]
    Arguments {
        /// The kernel's name.
        kernel: String,
        /// The parameters' sizes in bytes.
        expected: String,
        /// The arguments' sizes in bytes.
        got: String,
    },
    /// The grid is empty, or larger than a device takes.
    #[error("{kernel} cannot be launched: {reason}")]
    Grid {
        /// The kernel's name.
        kernel: String,
        /// What is wrong with the grid.
        reason: String,
        /// Whether the blocks need more than the device or the kernel's bounds have.
        resources: bool,
    },
    /// The kernel is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
}

/// An access of the host that names no memory, or memory that was freed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", .kind.name())]
pub struct AccessError {
    /// What is wrong with it.
    pub kind: FaultKind,
    /// The address and what lies there.
    pub detail: String,
}

/// A kernel of a module that a device has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelId {
    module: usize,
    kernel: usize,
}

/// A module that a device has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(usize);

struct Loaded {
    module: Arc<Module>,
    /// Where its variables lie.
    variables: Vec<u64>,
    counts: Vec<Collected>,
    live: bool,
}

/// What a block may have at most.
pub(crate) const MAX_THREADS: u32 = 1024;
pub(crate) const MAX_SHARED: usize = 227 * 1024;

/// A device.
#[derive(Default)]
pub struct Device {
    /// How launches are executed and checked. The seed changes with every launch, in a way that
    /// depends on it alone.
    pub config: Config,
    memory: Memory,
    modules: Vec<Loaded>,
    launches: u32,
}

fn access_error((kind, detail): (FaultKind, String)) -> AccessError {
    AccessError { kind, detail }
}

impl Device {
    /// A device without any memory in use.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// Reads a module, and places its variables.
    pub fn load(&mut self, ptx: &str) -> Result<ModuleId, LoadError> {
        let module = load(ptx)?;
        let mut variables = vec![];
        for variable in &module.variables {
            let address = self.memory.allocate(variable.size);
            if self.memory.write(address, &variable.bytes).is_err() {
                return Err(LoadError {
                    line: 0,
                    message: format!("{} has no memory", variable.name),
                });
            }
            variables.push(address);
        }
        let counts = vec![Collected::default(); module.kernels.len()];
        self.modules.push(Loaded { module, variables, counts, live: true });
        Ok(ModuleId(self.modules.len() - 1))
    }

    /// Forgets a module; false if it was forgotten before.
    pub fn unload(&mut self, module: ModuleId) -> bool {
        let Some(loaded) = self.modules.get_mut(module.0).filter(|m| m.live) else { return false };
        loaded.live = false;
        loaded.variables.iter().for_each(|&address| _ = self.memory.free(address));
        true
    }

    /// A kernel by its name.
    pub fn kernel(&self, module: ModuleId, name: &str) -> Option<KernelId> {
        let loaded = self.modules.get(module.0).filter(|m| m.live)?;
        let kernel = loaded.module.kernels.iter().position(|kernel| kernel.name == name)?;
        Some(KernelId { module: module.0, kernel })
    }

    /// The names of a module's kernels.
    pub fn kernel_names(&self, module: ModuleId) -> Vec<String> {
        let kernels = self.modules.get(module.0).map(|m| &m.module.kernels);
        kernels.into_iter().flatten().map(|kernel| kernel.name.clone()).collect()
    }

    /// The sizes of a kernel's parameters in bytes, in their order.
    pub fn parameter_sizes(&self, kernel: KernelId) -> Vec<usize> {
        self.definition(kernel)
            .map_or_else(Vec::new, |kernel| kernel.params.iter().map(|p| p.size).collect())
    }

    /// The opcodes of a module that the emulator reads but cannot execute: a kernel that comes to
    /// one ends with a fault.
    pub fn unsupported(&self, module: ModuleId) -> Vec<String> {
        let kernels = self.modules.get(module.0).map(|m| &m.module.kernels);
        let code = kernels.into_iter().flatten().flat_map(|kernel| &kernel.code);
        let mut names: Vec<String> = code
            .filter_map(|i| {
                if let Op::Unsupported(name) = &i.op { Some(name.to_string()) } else { None }
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    pub(crate) fn definition(&self, id: KernelId) -> Option<Arc<Kernel>> {
        self.modules.get(id.module)?.module.kernels.get(id.kernel).cloned()
    }

    /// What a module needs of a device and a driver: compute capability, times ten, and version of
    /// PTX.
    pub(crate) fn requirements(&self, module: ModuleId) -> (u32, (u32, u32)) {
        self.modules.get(module.0).map_or((0, (0, 0)), |m| (m.module.target, m.module.version))
    }

    /// Address and size of a variable of a module.
    pub fn variable(&self, module: ModuleId, name: &str) -> Option<(u64, usize)> {
        let loaded = self.modules.get(module.0).filter(|m| m.live)?;
        let index = loaded.module.variables.iter().position(|v| v.name == name)?;
        Some((loaded.variables[index], loaded.module.variables[index].size))
    }

    /// Fresh memory, whose bytes count as not written.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        self.memory.allocate(bytes)
    }

    /// Frees an allocation; false if there is none at that address.
    pub fn free(&mut self, address: u64) -> bool {
        self.memory.free(address)
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.memory.used()
    }

    /// The size of the allocation that begins at an address.
    pub fn size_of(&self, address: u64) -> Option<usize> {
        self.memory.size_of(address)
    }

    /// Whether all of `bytes` bytes at an address belong to one allocation.
    pub(crate) fn holds(&mut self, address: u64, bytes: usize) -> Result<(), AccessError> {
        self.memory.find(address, bytes).map(|_| ()).map_err(access_error)
    }

    /// Copies from the host.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.memory.write(address, bytes).map_err(access_error)
    }

    /// Copies to the host. Bytes that nobody has written are all ones.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), AccessError> {
        self.memory.read(address, bytes).map_err(access_error)
    }

    /// Copies within the device.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), AccessError> {
        self.memory.copy(to, from, bytes).map_err(access_error)
    }

    /// Writes a pattern over and over.
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: usize) -> Result<(), AccessError> {
        self.memory.fill(address, pattern, count).map_err(access_error)
    }

    /// Whether a launch could begin: its grid and the sizes of its arguments.
    pub(crate) fn check(&self, id: KernelId, grid: &Grid) -> Result<Arc<Kernel>, LaunchError> {
        let unknown = || LaunchError::UnknownKernel("(of an unloaded module)".into());
        let live = self.modules.get(id.module).is_some_and(|m| m.live);
        let kernel = self.definition(id).filter(|_| live).ok_or_else(unknown)?;
        let threads =
            grid.threads.iter().try_fold(1u32, |n, &k| n.checked_mul(k)).unwrap_or(u32::MAX);
        let shared = kernel.static_shared + grid.dynamic_shared;
        let limit = kernel.max_threads.map_or(MAX_THREADS, |n| n as u32);
        let (reason, resources) = if threads == 0 || grid.blocks.contains(&0) {
            ("the grid is empty".to_owned(), false)
        } else if grid.blocks[1] > 65535 || grid.blocks[2] > 65535 || grid.threads[2] > 64 {
            ("the grid is larger than a device takes".to_owned(), false)
        } else if threads > MAX_THREADS {
            (format!("{threads} threads in a block of at most {MAX_THREADS}"), false)
        } else if threads > limit {
            (format!("{threads} threads, but its launch bounds are {limit}"), true)
        } else if kernel.exact_threads.is_some_and(|exact| exact != grid.threads) {
            ("the block does not have the size that the kernel requires".to_owned(), false)
        } else if shared > MAX_SHARED {
            (format!("{shared} bytes of shared memory, of {MAX_SHARED}"), false)
        } else {
            return Ok(kernel);
        };
        Err(LaunchError::Grid { kernel: kernel.name.clone(), reason, resources })
    }

    /// Runs a kernel to its end. Arguments are the bytes of the parameters, in their order.
    pub fn launch(&mut self, id: KernelId, grid: Grid, args: &[&[u8]]) -> Result<(), LaunchError> {
        let kernel = self.check(id, &grid)?;
        let sizes =
            |sizes: &mut dyn Iterator<Item = usize>| format!("{:?}", sizes.collect::<Vec<_>>());
        if !kernel.params.iter().map(|p| p.size).eq(args.iter().map(|a| a.len())) {
            return Err(LaunchError::Arguments {
                kernel: kernel.name.clone(),
                expected: sizes(&mut kernel.params.iter().map(|p| p.size)),
                got: sizes(&mut args.iter().map(|a| a.len())),
            });
        }
        let mut params = vec![0; kernel.param_bytes];
        for (param, bytes) in kernel.params.iter().zip(args) {
            params[param.offset..param.offset + param.size].copy_from_slice(bytes);
        }
        self.launches += 1;
        let seed = self.config.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(self.launches));
        let Loaded { variables, counts, .. } = &mut self.modules[id.module];
        let args = LaunchArgs {
            grid,
            config: Config { seed, ..self.config },
            params,
            variables,
            run: self.launches,
        };
        let faults = launch(&kernel, &mut self.memory, args, &mut counts[id.kernel]);
        if faults.is_empty() { Ok(()) } else { Err(LaunchError::Faults(faults)) }
    }

    /// What the kernels that were launched did since the last reset.
    pub fn counters(&self) -> Vec<KernelCounts> {
        let of = |loaded: &Loaded| -> Vec<KernelCounts> {
            let pairs = loaded.module.kernels.iter().zip(&loaded.counts);
            pairs
                .filter(|(_, counts)| counts.launches > 0)
                .map(|(kernel, counts)| counts.summary(kernel))
                .collect()
        };
        self.modules.iter().flat_map(of).collect()
    }

    /// Sets all counters to zero.
    pub fn reset_counters(&mut self) {
        self.modules
            .iter_mut()
            .flat_map(|m| &mut m.counts)
            .for_each(|counts| *counts = Collected::default());
    }
}
