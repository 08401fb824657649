//! A device: memory, modules and counters. The driver has one for each ordinal. A test of a single
//! kernel can use one without the driver.

use std::sync::Arc;

use crate::counters::{Collected, KernelCounts};
use crate::exec::{Config, Grid, LaunchArgs, Memory, Run, launch};
use crate::fault::{Fault, FaultKind};
use crate::ir::{Kernel, Module, Op};
use crate::ptx::{LoadError, load};

/// The error of a launch: it was refused, or its kernel is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The module has no kernel of that name.
    #[error("there is no kernel {0}")]
    UnknownKernel(String),
    /// The arguments do not have the sizes of the parameters.
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
        /// The reason why the grid is refused.
        reason: String,
        /// Set if a block has more threads than the launch bounds of the kernel.
        resources: bool,
    },
    /// The kernel ran, and has these faults.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
}

/// The error of an access by the host to device memory that is not allocated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", .kind.name())]
pub struct AccessError {
    /// The kind of the error.
    pub kind: FaultKind,
    /// The address, and the allocation that is nearest to it.
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

/// A module that has been loaded, live or unloaded.
struct Loaded {
    module: Arc<Module>,
    /// The addresses of its variables.
    variables: Vec<u64>,
    counts: Vec<Collected>,
    live: bool,
}

/// The most threads of a block.
pub(crate) const MAX_THREADS: u32 = 1024;
/// The most bytes of shared memory of a block.
const MAX_SHARED: usize = 227 * 1024;

/// A device.
///
/// ```
/// use bagdot_emulator::{Config, Device, Grid};
///
/// let ptx = "
///     .version 9.0
///     .target sm_80
///     .address_size 64
///     .visible .entry seven(.param .u64 out)
///     {
///         .reg .b64 %rd<2>;
///         ld.param.u64 %rd1, [out];
///         st.global.u32 [%rd1], 7;
///         ret;
///     }";
/// let mut device = Device::new(Config::default());
/// let module = device.load(ptx)?;
/// let kernel = device.kernel(module, "seven").ok_or("no such kernel")?;
/// let out = device.allocate(4);
/// let one = Grid { blocks: [1; 3], threads: [1; 3], dynamic_shared: 0, cooperative: false };
/// device.launch(kernel, one, &[&out.to_le_bytes()])?;
/// let mut bytes = [0; 4];
/// device.read(out, &mut bytes)?;
/// assert_eq!(u32::from_le_bytes(bytes), 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Device {
    /// The schedule and the checks of launches. Each launch uses another seed, derived from this
    /// one and the number of the launch.
    pub config: Config,
    memory: Memory,
    modules: Vec<Loaded>,
    launches: u32,
    /// The launches that nothing orders with the next one; see [`Run`].
    beside: Vec<u32>,
}

fn access_error((kind, detail): (FaultKind, String)) -> AccessError {
    AccessError { kind, detail }
}

impl Device {
    /// Returns a device without allocations.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// Loads a PTX module, and allocates its variables.
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

    /// Unloads a module. Returns false if it was unloaded before.
    pub fn unload(&mut self, module: ModuleId) -> bool {
        let Some(loaded) = self.modules.get_mut(module.0).filter(|m| m.live) else { return false };
        loaded.live = false;
        loaded.variables.iter().for_each(|&address| _ = self.memory.free(address));
        true
    }

    /// Returns the kernel of a name.
    pub fn kernel(&self, module: ModuleId, name: &str) -> Option<KernelId> {
        let loaded = self.modules.get(module.0).filter(|m| m.live)?;
        let kernel = loaded.module.kernels.iter().position(|kernel| kernel.name == name)?;
        Some(KernelId { module: module.0, kernel })
    }

    /// Returns the names of the kernels of a module.
    pub fn kernel_names(&self, module: ModuleId) -> Vec<String> {
        let kernels = self.modules.get(module.0).map(|m| &m.module.kernels);
        kernels.into_iter().flatten().map(|kernel| kernel.name.clone()).collect()
    }

    /// Returns the sizes of the parameters of a kernel in bytes, in their order.
    pub fn parameter_sizes(&self, kernel: KernelId) -> Vec<usize> {
        self.definition(kernel)
            .map_or_else(Vec::new, |kernel| kernel.params.iter().map(|p| p.size).collect())
    }

    /// Returns the opcodes of a module that the emulator cannot execute. A kernel that executes one
    /// ends with a fault.
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

    /// Returns the decoded kernel.
    pub(crate) fn definition(&self, id: KernelId) -> Option<Arc<Kernel>> {
        self.modules.get(id.module)?.module.kernels.get(id.kernel).cloned()
    }

    /// Returns the version of PTX of a module.
    pub(crate) fn version(&self, module: ModuleId) -> (u32, u32) {
        self.modules.get(module.0).map_or((0, 0), |m| m.module.version)
    }

    /// Returns the target of a module, such as `sm_90a`, if it does not run on a device of this
    /// compute capability, times ten.
    pub(crate) fn other_target(&self, module: ModuleId, capability: u32) -> Option<String> {
        let module = &self.modules.get(module.0)?.module;
        let (target, is_exact) = (module.target, module.is_exact);
        let runs = if is_exact { capability == target } else { capability >= target };
        (!runs).then(|| format!("sm_{target}{}", if is_exact { "a" } else { "" }))
    }

    /// Returns the address and the bytes of a variable of a module.
    pub fn variable(&self, module: ModuleId, name: &str) -> Option<(u64, usize)> {
        let loaded = self.modules.get(module.0).filter(|m| m.live)?;
        let index = loaded.module.variables.iter().position(|v| v.name == name)?;
        Some((loaded.variables[index], loaded.module.variables[index].size))
    }

    /// Allocates memory. Its bytes count as not written.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        self.memory.allocate(bytes)
    }

    /// Frees the allocation that begins at an address. Returns false if there is none.
    pub fn free(&mut self, address: u64) -> bool {
        self.memory.free(address)
    }

    /// Returns the bytes in use.
    pub fn used(&self) -> usize {
        self.memory.used()
    }

    /// Returns the bytes of the allocation that begins at an address.
    pub fn size_of(&self, address: u64) -> Option<usize> {
        self.memory.size_of(address)
    }

    /// Checks that all of `bytes` bytes at an address are in one allocation.
    pub(crate) fn holds(&mut self, address: u64, bytes: usize) -> Result<(), AccessError> {
        self.memory.find(address, bytes).map(|_| ()).map_err(access_error)
    }

    /// Copies from the host.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.memory.write(address, bytes).map_err(access_error)
    }

    /// Copies to the host. The bits of bytes that nobody has written are all set.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), AccessError> {
        self.memory.read(address, bytes).map_err(access_error)
    }

    /// Copies within the device.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), AccessError> {
        self.memory.copy(to, from, bytes).map_err(access_error)
    }

    /// Writes a pattern `count` times.
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: usize) -> Result<(), AccessError> {
        self.memory.fill(address, pattern, count).map_err(access_error)
    }

    /// Returns the kernel of a launch, if its grid can be launched.
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

    /// Runs a kernel to its end. `args` are the bytes of each parameter, in their order.
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
            run: Run { number: self.launches, beside: &self.beside },
        };
        let faults = launch(&kernel, &mut self.memory, args, &mut counts[id.kernel]);
        if faults.is_empty() { Ok(()) } else { Err(LaunchError::Faults(faults)) }
    }

    /// Says which launches nothing orders with the next one. Returns the number of the last one.
    pub(crate) fn set_beside(&mut self, beside: Vec<u32>) -> u32 {
        self.beside = beside;
        self.launches
    }

    /// Returns the counters of the kernels that were launched since the last reset.
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
