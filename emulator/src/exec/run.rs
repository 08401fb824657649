//! Runs a grid. A few blocks are resident at once, and their warps take turns in an order that the
//! seed decides.

use std::collections::HashMap;

use super::block::{Barriers, Block};
use super::clock::Clock;
use super::config::{Config, Grid};
use super::machine::Machine;
use super::memory::Memory;
use super::random::Random;
use super::shadow::Run;
use super::shared::Shared;
use super::warp::Warp;
use crate::counters::{Collected, Sectors};
use crate::fault::{Fault, FaultKind, Problem};
use crate::ir::{Kernel, Special};

/// The arguments of a launch besides its kernel.
pub(crate) struct LaunchArgs<'a> {
    pub(crate) grid: Grid,
    pub(crate) config: Config,
    pub(crate) params: Vec<u8>,
    /// The addresses of the module's variables.
    pub(crate) variables: &'a [u64],
    /// The launch, whose number no other one of the device has.
    pub(crate) run: Run<'a>,
}

/// Runs a kernel to its end, or to a fault that it cannot run on after. Returns its faults, races
/// first.
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
        sectors: Sectors::new(config.footprints),
    };
    machine.run_blocks(blocks);
    machine.sectors.add_footprint(&mut machine.counts.footprint);
    let mut faults = machine.faults;
    faults.sort_by_key(|fault| !fault.kind.is_race());
    faults
}

impl Machine<'_> {
    /// Runs all blocks, in random order.
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

    /// Begins a block, in the memory of one that has ended if there is one.
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

    /// Lets one warp of a block run for a while. Returns false when the block has ended.
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
        // The clock register advances at the beginning of each turn.
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
}
