//! A launch while it runs: what all instructions need of it.

use std::collections::HashMap;

use super::block::Block;
use super::clock::Knowledge;
use super::config::{Config, Grid};
use super::memory::Memory;
use super::random::Random;
use crate::counters::{Collected, Sectors};
use crate::fault::{Fault, Problem};
use crate::ir::{Address, Kernel, Lanes, Operand, Space};

/// The most findings that one launch reports.
pub(super) const MAX_FINDINGS: usize = 8;

/// A launch while it runs.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) grid: Grid,
    pub(super) config: Config,
    pub(super) memory: &'a mut Memory,
    pub(super) params: Vec<u8>,
    /// The kernel's constants and the addresses of the module's variables, for all lanes.
    pub(super) constants: Vec<Lanes>,
    pub(super) variables: Vec<Lanes>,
    pub(super) random: Random,
    /// Names this launch in the histories of global memory.
    pub(super) run: u32,
    pub(super) counts: &'a mut Collected,
    pub(super) faults: Vec<Fault>,
    /// What has been released, by the address that it was released through.
    pub(super) released: HashMap<(u32, u64), Knowledge>,
    pub(super) sectors: Sectors,
}

impl Machine<'_> {
    /// Adds where it happened.
    pub(super) fn report(&mut self, block: &Block, warp: usize, pc: usize, problem: Problem) {
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
    pub(super) fn note(&mut self, block: &Block, warp: usize, pc: u32, finding: Option<Problem>) {
        let Some(problem) = finding else { return };
        let line = self.kernel.code[pc as usize].line;
        let known = |fault: &Fault| fault.kind == problem.kind && fault.ptx_line == line;
        if self.faults.len() < MAX_FINDINGS && !self.faults.iter().any(known) {
            self.report(block, warp, pc as usize, problem);
        }
    }

    /// The lanes of an operand that is no predicate.
    pub(super) fn value<'b>(&'b self, block: &'b Block, w: usize, operand: &Operand) -> &'b Lanes {
        let warp = &block.warps[w];
        match *operand {
            Operand::Reg(register) | Operand::Not(register) => &warp.registers[register as usize],
            Operand::Const(index) => &self.constants[index as usize],
            Operand::Variable(index) => &self.variables[index as usize],
            Operand::Special(special) => &warp.special[special.index()],
            // Every number has become a constant.
            Operand::Imm(_) => &ZEROS,
        }
    }

    /// The lanes whose predicate is set.
    pub(super) fn predicate(&self, block: &Block, w: usize, operand: &Operand) -> u32 {
        let set = bits(self.value(block, w, operand));
        match operand {
            Operand::Not(_) => !set,
            Operand::Imm(value) => 0u32.wrapping_sub((value & 1) as u32),
            _ => set,
        }
    }

    /// Addresses in shared and local memory have 32 bits, and wrap there.
    pub(super) fn addresses(
        &self,
        block: &Block,
        w: usize,
        address: &Address,
        space: Space,
    ) -> Lanes {
        let base = self.value(block, w, &address.base);
        match space {
            Space::Shared | Space::Local => base.map(|v| {
                let sum = v.wrapping_add(address.offset);
                if v <= u64::from(u32::MAX) { sum & 0xffff_ffff } else { sum }
            }),
            _ => base.map(|v| v.wrapping_add(address.offset)),
        }
    }
}

static ZEROS: Lanes = [0; 32];

/// Writes the active lanes of a register.
pub(super) fn write(register: &mut Lanes, values: &Lanes, active: u32) {
    if active == u32::MAX {
        *register = *values;
        return;
    }
    for (lane, slot) in register.iter_mut().enumerate() {
        *slot = if active >> lane & 1 == 1 { values[lane] } else { *slot };
    }
}

/// The lanes whose predicate is set.
pub(super) fn bits(predicate: &Lanes) -> u32 {
    predicate.iter().enumerate().fold(0, |all, (lane, v)| all | (u32::from(v & 1 == 1) << lane))
}
