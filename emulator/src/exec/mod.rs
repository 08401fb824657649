//! Runs kernels. A few blocks are resident at once; their warps take turns in an order that a seed
//! decides.

mod access;
mod atomic;
mod barrier;
mod clock;
mod collective;
mod copy;
mod known;
mod memory;
mod shadow;
mod shared;
mod step;
mod warp;

use std::collections::HashMap;

use crate::counters::{Collected, Sectors};
use crate::fault::{Fault, FaultKind, Problem};
use crate::ir::{Kernel, Lanes, Special};

pub(crate) use memory::Memory;

use barrier::Barriers;
use clock::{Clock, Knowledge};
use shared::Shared;
use warp::Warp;

/// Where shared, local and parameter memory begin among the generic addresses.
pub(crate) const SHARED_WINDOW: u64 = 1 << 40;
pub(crate) const LOCAL_WINDOW: u64 = 2 << 40;
pub(crate) const PARAM_WINDOW: u64 = 3 << 40;
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;

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

/// A generator of the orders that are left open (xorshift).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..4).for_each(|_| _ = random.next());
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// A block that is resident.
struct Block {
    /// Its index among all blocks.
    index: u32,
    at: [u32; 3],
    warps: Vec<Warp>,
    shared: Shared,
    clock: Clock,
    barriers: Barriers,
    executed: u64,
}

impl Block {
    fn live_threads(&self) -> u32 {
        self.warps.iter().map(|warp| warp.live.count_ones()).sum()
    }
}

/// A launch while it runs.
struct Machine<'a> {
    kernel: &'a Kernel,
    grid: Grid,
    config: Config,
    memory: &'a mut Memory,
    params: Vec<u8>,
    /// The kernel's constants and the addresses of the module's variables, for all lanes.
    constants: Vec<Lanes>,
    variables: Vec<Lanes>,
    random: Random,
    /// Names this launch in the histories of global memory.
    run: u32,
    counts: &'a mut Collected,
    faults: Vec<Fault>,
    /// What has been released, by the address that it was released through.
    released: HashMap<(u32, u64), Knowledge>,
    sectors: Sectors,
}

/// The most findings that one launch reports.
const MAX_FINDINGS: usize = 8;

/// What a launch needs besides its kernel.
pub(crate) struct LaunchArgs<'a> {
    pub(crate) grid: Grid,
    pub(crate) config: Config,
    pub(crate) params: Vec<u8>,
    /// The addresses of the module's variables.
    pub(crate) variables: &'a [u64],
    pub(crate) run: u32,
}

/// Runs a kernel to its end, or to a fault that leaves no way to go on. Answers with what is wrong
/// with it, races first.
pub(crate) fn launch(
    kernel: &Kernel,
    memory: &mut Memory,
    args: LaunchArgs<'_>,
    counts: &mut Collected,
) -> Vec<Fault> {
    let LaunchArgs { grid, config, params, variables, run } = args;
    let blocks = grid.blocks.iter().map(|&n| u64::from(n)).product::<u64>() as usize;
    counts.launches += 1;
    counts.code.resize(kernel.code.len(), Default::default());
    counts.blocks.clear();
    counts.blocks.resize(blocks, 0);
    let mut machine = Machine {
        kernel,
        grid,
        config,
        memory,
        params,
        constants: kernel.constants.iter().map(|&value| [value; 32]).collect(),
        variables: variables.iter().map(|&address| [address; 32]).collect(),
        random: Random::new(config.seed),
        run,
        counts,
        faults: vec![],
        released: HashMap::new(),
        sectors: Sectors::default(),
    };
    machine.run_blocks(blocks);
    let mut faults = machine.faults;
    faults.sort_by_key(|fault| !fault.kind.is_race());
    faults
}

impl Machine<'_> {
    fn run_blocks(&mut self, count: usize) {
        let mut order: Vec<u32> = (0..count as u32).collect();
        (1..count).for_each(|k| order.swap(k, self.random.below(k + 1)));
        let resident = if self.grid.cooperative { count } else { 1 + self.random.below(6) };
        let mut waiting = order.into_iter();
        let mut blocks: Vec<Block> = vec![];
        let mut spare: Vec<Block> = vec![];
        let mut steps = 0;
        loop {
            while blocks.len() < resident
                && let Some(index) = waiting.next()
            {
                let block = self.begin(index, spare.pop());
                blocks.push(block);
            }
            if blocks.is_empty() {
                return;
            }
            let chosen = self.random.below(blocks.len());
            let block = &mut blocks[chosen];
            match self.turn(block, &mut steps) {
                Ok(true) => {}
                Ok(false) => {
                    self.counts.blocks[block.index as usize] = block.executed;
                    let done = blocks.swap_remove(chosen);
                    spare.push(done);
                }
                Err(()) => return,
            }
            if steps > self.config.step_limit {
                let block = &blocks[chosen.min(blocks.len().saturating_sub(1))];
                let (warp, pc) = block
                    .warps
                    .iter()
                    .enumerate()
                    .find_map(|(w, warp)| Some((w, warp.somewhere()?)))
                    .unwrap_or((0, 0));
                let detail = format!(
                    "the launch took more than {} warp instructions",
                    self.config.step_limit
                );
                self.report(block, warp, pc, Problem::new(FaultKind::StepLimit, 0, detail));
                return;
            }
        }
    }

    fn begin(&mut self, index: u32, spare: Option<Block>) -> Block {
        let [width, height, _] = self.grid.blocks;
        let at = [index % width, index / width % height, index / width / height];
        let threads: u32 = self.grid.threads.iter().product();
        let count = threads.div_ceil(32) as usize;
        let shared_bytes = self.kernel.static_shared + self.grid.dynamic_shared;
        let mut block = spare.unwrap_or_else(|| Block {
            index,
            at,
            warps: (0..count).map(|w| Warp::new(w, self.grid.threads, self.kernel)).collect(),
            shared: Shared::default(),
            clock: Clock::new(count),
            barriers: Barriers::default(),
            executed: 0,
        });
        block.index = index;
        block.at = at;
        block.executed = 0;
        block.clock = Clock::new(count);
        block.barriers = Barriers::default();
        block.shared.reset(shared_bytes);
        block.warps.iter_mut().for_each(|warp| warp.reset(threads));
        self.fill_special(&mut block);
        block
    }

    /// Lets one warp of a block run for a while; false when the block has ended.
    fn turn(&mut self, block: &mut Block, steps: &mut u64) -> Result<bool, ()> {
        let runnable = block.warps.iter().filter(|warp| warp.runnable()).count();
        if runnable == 0 {
            if block.live_threads() == 0 {
                return Ok(false);
            }
            let problem = self.explain_deadlock(block);
            self.report(block, 0, 0, problem);
            return Err(());
        }
        let chosen = self.random.below(runnable);
        let Some(w) = (0..block.warps.len()).filter(|&w| block.warps[w].runnable()).nth(chosen)
        else {
            return Ok(true);
        };
        // Clocks go by turns.
        block.warps[w].special[Special::Clock.index()] = [block.executed; 32];
        let quota = 1 + self.random.below(96) as u64;
        for _ in 0..quota {
            if !block.warps[w].runnable() {
                break;
            }
            *steps += 1;
            self.step(block, w)?;
        }
        Ok(true)
    }

    /// Adds where it happened.
    fn report(&mut self, block: &Block, warp: usize, pc: usize, problem: Problem) {
        let (warp, pc) = problem.place.unwrap_or((warp, pc));
        let fault = Fault {
            kind: problem.kind,
            kernel: self.kernel.name.clone(),
            block: block.at,
            warp: warp as u32,
            lane: problem.lane,
            ptx_line: self.kernel.code[pc].line,
            source: self.kernel.source(pc),
            instruction: self.kernel.code[pc].text.to_string(),
            detail: problem.detail,
        };
        self.faults.push(fault);
    }

    /// Adds what a kernel can run on after, once for each instruction.
    fn note(&mut self, block: &Block, warp: usize, pc: u32, finding: Option<Problem>) {
        let Some(problem) = finding else { return };
        let line = self.kernel.code[pc as usize].line;
        let known = |fault: &Fault| fault.kind == problem.kind && fault.ptx_line == line;
        if self.faults.len() < MAX_FINDINGS && !self.faults.iter().any(known) {
            self.report(block, warp, pc as usize, problem);
        }
    }
}
