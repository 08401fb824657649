//! The settings of launches, and the grid of one launch.

/// How the threads of a warp run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Together as far as their branches allow, those that are behind first.
    #[default]
    Lockstep,
    /// In random subsets, as the independent threads of Volta and later may.
    Independent,
}

/// How launches are executed and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Decides every order that the hardware leaves open.
    pub seed: u64,
    /// How the threads of a warp run.
    pub schedule: Schedule,
    /// Whether races are looked for.
    pub races: bool,
    /// Whether reads of bytes that nobody has written are faults.
    pub uninitialised: bool,
    /// Whether shuffles, votes and matches order memory as `__syncwarp` does. CUDA says that they
    /// do not.
    pub shuffles_order_memory: bool,
    /// Whether several threads may store to one place if all store what is there already after the
    /// first.
    pub same_value_stores: bool,
    /// The most instructions of all warps together that one launch may take.
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
            step_limit: 1 << 27,
        }
    }
}

/// A grid of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in each direction.
    pub blocks: [u32; 3],
    /// Threads of a block in each direction.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
    /// Whether all blocks must be resident at once.
    pub cooperative: bool,
}
