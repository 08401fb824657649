//! The state of a launch while it runs, its operands and its reports.

use std::collections::HashMap;

use super::block::Block;
use super::clock::Knowledge;
use super::config::{Config, Grid};
use super::memory::Memory;
use super::random::Random;
use super::shadow::Run;
use crate::counters::{Collected, Sectors};
use crate::fault::{Fault, Problem};
use crate::ir::{Address, Kernel, Lanes, Operand, Space};

/// The most problems that one launch reports without ending.
pub(super) const MAX_FINDINGS: usize = 8;

/// The state of a launch while it runs.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) grid: Grid,
    pub(super) config: Config,
    pub(super) memory: &'a mut Memory,
    pub(super) params: Vec<u8>,
    /// The kernel's constants, each in all lanes.
    pub(super) constants: Vec<Lanes>,
    /// The addresses of the module's variables, each in all lanes.
    pub(super) variables: Vec<Lanes>,
    pub(super) random: Random,
    /// This launch in the histories of global memory.
    pub(super) run: Run<'a>,
    pub(super) counts: &'a mut Collected,
    pub(super) faults: Vec<Fault>,
    /// The knowledge that has been released, by the place that it was released through.
    pub(super) released: HashMap<(u32, u64), Knowledge>,
    pub(super) sectors: Sectors,
}

impl Machine<'_> {
    /// Reports a problem with the place where it happened.
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

    /// Reports a problem after which the kernel can run on, once for each instruction.
    pub(super) fn note(&mut self, block: &Block, warp: usize, pc: u32, finding: Option<Problem>) {
        let Some(problem) = finding else { return };
        let line = self.kernel.code[pc as usize].line;
        let known = |fault: &Fault| fault.kind == problem.kind && fault.ptx_line == line;
        if self.faults.len() < MAX_FINDINGS && !self.faults.iter().any(known) {
            self.report(block, warp, pc as usize, problem);
        }
    }

    /// Returns the lanes of an operand that is not a predicate.
    #[inline]
    pub(super) fn value<'b>(&'b self, block: &'b Block, w: usize, operand: &Operand) -> &'b Lanes {
        let warp = &block.warps[w];
        match *operand {
            Operand::Reg(register) | Operand::Not(register) => &warp.registers[register as usize],
            Operand::Const(index) => &self.constants[index as usize],
            Operand::Variable(index) => &self.variables[index as usize],
            Operand::Special(special) => &warp.special[special.index()],
            // Lowering has made a constant of every number.
            Operand::Imm(_) => &ZEROS,
        }
    }

    /// Returns the lanes in which a predicate is set.
    #[inline]
    pub(super) fn predicate(&self, block: &Block, w: usize, operand: &Operand) -> u32 {
        let set = bits(self.value(block, w, operand));
        match operand {
            Operand::Not(_) => !set,
            Operand::Imm(value) => 0u32.wrapping_sub((value & 1) as u32),
            _ => set,
        }
    }

    /// Returns the addresses of an access. In shared and local memory they have 32 bits, and wrap.
    #[inline]
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
#[inline]
pub(super) fn write(register: &mut Lanes, values: &Lanes, active: u32) {
    if active == u32::MAX {
        *register = *values;
        return;
    }
    for (lane, slot) in register.iter_mut().enumerate() {
        *slot = if active >> lane & 1 == 1 { values[lane] } else { *slot };
    }
}

/// Returns the lanes in which a predicate is set.
fn bits(predicate: &Lanes) -> u32 {
    predicate.iter().enumerate().fold(0, |all, (lane, v)| all | (u32::from(v & 1 == 1) << lane))
}
