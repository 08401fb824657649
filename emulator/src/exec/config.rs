//! The settings of launches, and the grid of one launch.

/// The number of multiprocessors, which kernels see in `%nsmid`.
pub(crate) const SM_COUNT: u32 = 8;

/// The order in which the threads of a warp run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Lanes run together as far as their branches allow. The group with the lowest instruction
    /// runs first.
    #[default]
    Lockstep,
    /// Lanes run in random subsets, as the independent threads of Volta and later may.
    Independent,
}

/// The schedule and the checks of launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The seed of every order that the hardware leaves open.
    pub seed: u64,
    /// The order in which the threads of a warp run.
    pub schedule: Schedule,
    /// Set if races are detected.
    pub races: bool,
    /// Set if a read of bytes that nobody has written is a fault.
    pub uninitialised: bool,
    /// Set if shuffles, votes and matches order memory as `__syncwarp` does. CUDA does not promise
    /// that they do.
    pub shuffles_order_memory: bool,
    /// Set if a store of the value that is already there races with nothing. Several threads may
    /// then store the same value to one place.
    pub same_value_stores: bool,
    /// Set if the distinct sectors of each launch are counted: [`KernelCounts::footprint`].
    ///
    /// [`KernelCounts::footprint`]: crate::KernelCounts
    pub footprints: bool,
    /// The most warp instructions that one launch may execute.
    pub step_limit: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            schedule: Schedule::Lockstep,
            races: true,
            uninitialised: true,
            shuffles_order_memory: false,
            same_value_stores: false,
            footprints: false,
            step_limit: 1 << 27,
        }
    }
}

/// A grid of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The number of blocks in each direction.
    pub blocks: [u32; 3],
    /// The number of threads of a block in each direction.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
    /// Set if all blocks must be resident at once.
    pub cooperative: bool,
}
