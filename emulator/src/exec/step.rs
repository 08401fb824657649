//! Executes one instruction of one warp.

use super::block::Block;
use super::config::Schedule;
use super::machine::{Machine, write};
use super::warp::{Group, lanes_of};
use crate::fault::{FaultKind, Problem};
use crate::ir::{Convert, Lanes, Logic, Op, Ty};
use crate::values::{compare, compare_packed, convert, evaluate, with_carry};

impl Machine<'_> {
    /// Executes the next instruction of a warp, for the lanes that the schedule chooses. An error
    /// has been reported, and ends the launch.
    pub(super) fn step(&mut self, block: &mut Block, w: usize) -> Result<(), ()> {
        let warp = &mut block.warps[w];
        let group = match self.config.schedule {
            Schedule::Lockstep => warp.behind(),
            Schedule::Independent => warp.random(&mut self.random),
        };
        let pc = group.pc as usize;
        let instruction = &self.kernel.code[pc];
        let mut active = group.lanes;
        if let Some(guard) = instruction.guard {
            let predicate = &warp.registers[guard.reg as usize];
            for lane in lanes_of(group.lanes) {
                if (predicate[lane] & 1 == 1) == guard.negated {
                    active &= !(1 << lane);
                }
            }
        }
        let counts = &mut self.counts.code[pc];
        counts.instructions += 1;
        counts.lane_instructions += u64::from(active.count_ones());
        block.executed += 1;
        if active == 0 {
            block.warps[w].advance(group);
            return Ok(());
        }
        match self.execute(block, w, group, active, &instruction.op) {
            Ok(()) => Ok(()),
            Err(problem) => {
                self.report(block, w, pc, problem);
                Err(())
            }
        }
    }

    fn execute(
        &mut self,
        block: &mut Block,
        w: usize,
        group: Group,
        active: u32,
        op: &Op,
    ) -> Result<(), Problem> {
        let first = active.trailing_zeros() as usize;
        match op {
            Op::Branch(target) => {
                let warp = &mut block.warps[w];
                warp.remove(group.lanes);
                warp.insert(group.pc + 1, group.lanes & !active);
                warp.insert(*target, active);
                return Ok(());
            }
            Op::BranchIndexed(targets, index) => {
                let index = *self.value(block, w, index);
                let warp = &mut block.warps[w];
                warp.remove(group.lanes);
                warp.insert(group.pc + 1, group.lanes & !active);
                for lane in lanes_of(active) {
                    let Some(&target) = targets.get(index[lane] as u32 as usize) else {
                        let detail = format!(
                            "index {} of a table of {} labels",
                            index[lane] as u32,
                            targets.len()
                        );
                        return Err(Problem::new(FaultKind::OutOfBounds, lane, detail));
                    };
                    warp.insert(target, 1 << lane);
                }
                return Ok(());
            }
            Op::Exit => {
                let warp = &mut block.warps[w];
                warp.remove(group.lanes);
                warp.insert(group.pc + 1, group.lanes & !active);
                warp.live &= !active;
                self.lanes_ended(block, w)?;
                return Ok(());
            }
            Op::Barrier(barrier) => return self.barrier(block, w, group, active, barrier),
            Op::Collective { mask, .. } => return self.collective(block, w, group, active, mask),
            Op::Trap => {
                return Err(Problem::new(FaultKind::Trap, first, "the kernel stopped itself"));
            }
            Op::Unsupported(name) => {
                let detail = format!("the emulator does not know {name}");
                return Err(Problem::new(FaultKind::UnknownOpcode, first, detail));
            }
            Op::Load(load) => self.transfer(block, w, load, active, group.pc, false)?,
            Op::Store(store) => self.transfer(block, w, store, active, group.pc, true)?,
            Op::Atomic(atomic) => self.atomic(block, w, atomic, active, group.pc)?,
            Op::CopyAsync(copy) => self.copy_async(block, w, copy, active, group.pc)?,
            Op::CopyCommit => self.copy_commit(block, w, active),
            Op::CopyWait(keep) => self.copy_wait(block, w, *keep, active)?,
            Op::Fence => self.fence(block, w, active),
            Op::ActiveMask(d) => {
                write(&mut block.warps[w].registers[*d as usize], &[u64::from(active); 32], active)
            }
            Op::Nothing => {}
            _ => self.compute(block, w, op, active)?,
        }
        block.warps[w].advance(group);
        Ok(())
    }

    /// Executes an operation that reads and writes registers only.
    fn compute(
        &mut self,
        block: &mut Block,
        w: usize,
        op: &Op,
        active: u32,
    ) -> Result<(), Problem> {
        let unknown = || {
            let detail = "the emulator does not have this operation for this type";
            Problem::new(FaultKind::UnknownOpcode, active.trailing_zeros() as usize, detail)
        };
        match op {
            Op::Alu { op, ty, mods, d, s } => {
                let s = s.each_ref().map(|operand| self.value(block, w, operand));
                let out = evaluate(*op, *ty, *mods, s, active).ok_or_else(unknown)?;
                write(&mut block.warps[w].registers[*d as usize], &out, active);
            }
            Op::Carry { carry: c, d, s } => {
                let [x, y, z] = s.each_ref().map(|operand| self.value(block, w, operand));
                let flags = &block.warps[w].registers[c.flag as usize];
                let (mut out, mut after) = ([0; 32], *flags);
                for lane in lanes_of(active) {
                    (out[lane], after[lane]) =
                        with_carry(c, x[lane], y[lane], z[lane], flags[lane]);
                }
                let registers = &mut block.warps[w].registers;
                write(&mut registers[*d as usize], &out, active);
                if c.sets {
                    write(&mut registers[c.flag as usize], &after, active);
                }
            }
            Op::SetPredicate { compare: c, d, opposite } => {
                let holds = compare(c, self.value(block, w, &c.a), self.value(block, w, &c.b));
                let (yes, no) = match &c.join {
                    Some((logic, with)) => {
                        let with = self.predicate(block, w, with);
                        (join(*logic, holds, with), join(*logic, !holds, with))
                    }
                    None => (holds, !holds),
                };
                let registers = &mut block.warps[w].registers;
                for (register, set) in [(d, yes), (opposite, no)] {
                    if let Some(register) = register {
                        write(&mut registers[*register as usize], &spread(set, 1), active);
                    }
                }
            }
            Op::SetValue { compare: c, to, d } => {
                let (x, y) = (self.value(block, w, &c.a), self.value(block, w, &c.b));
                let halves = match c.ty.half() {
                    Some(part) => compare_packed(c, part, x, y),
                    None => [compare(c, x, y), 0],
                };
                let with =
                    c.join.as_ref().map(|(logic, with)| (*logic, self.predicate(block, w, with)));
                let joined =
                    halves.map(|set| with.map_or(set, |(logic, with)| join(logic, set, with)));
                let yes = match to {
                    Ty::F32 => 0x3f80_0000,
                    Ty::F16 | Ty::F16x2 => 0x3c00,
                    Ty::BF16 | Ty::BF16x2 => 0x3f80,
                    _ if c.ty.half().is_some() => 0xffff,
                    _ => to.mask(),
                };
                let high = if c.ty.half().is_some() { yes << 16 } else { 0 };
                let (low, high) = (spread(joined[0], yes), spread(joined[1], high));
                write(
                    &mut block.warps[w].registers[*d as usize],
                    &std::array::from_fn(|i| low[i] | high[i]),
                    active,
                );
            }
            Op::Convert { convert: c, d, a, b } => {
                let a = self.value(block, w, a);
                let mut out = [0; 32];
                match b {
                    Some(b) => {
                        let b = self.value(block, w, b);
                        let part = Convert { to: c.to.half().unwrap_or(c.to), ..*c };
                        for lane in lanes_of(active) {
                            out[lane] = (convert(&part, a[lane]) << 16) | convert(&part, b[lane]);
                        }
                    }
                    None => lanes_of(active).for_each(|lane| out[lane] = convert(c, a[lane])),
                }
                write(&mut block.warps[w].registers[*d as usize], &out, active);
            }
            Op::Pack { bits, d, parts } => {
                let mask = u64::MAX >> (64 - bits);
                let mut out = [0; 32];
                for (k, part) in parts.iter().enumerate() {
                    let part = self.value(block, w, part);
                    out.iter_mut()
                        .zip(part)
                        .for_each(|(out, v)| *out |= (v & mask) << (bits * k as u32));
                }
                write(&mut block.warps[w].registers[*d as usize], &out, active);
            }
            Op::Unpack { bits, parts, a } => {
                let mask = u64::MAX >> (64 - bits);
                let a = *self.value(block, w, a);
                for (k, part) in parts.iter().enumerate() {
                    if let Some(register) = part {
                        let out = a.map(|v| (v >> (bits * k as u32)) & mask);
                        write(&mut block.warps[w].registers[*register as usize], &out, active);
                    }
                }
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

/// Returns `yes` in the lanes of a mask, and 0 in the others.
fn spread(set: u32, yes: u64) -> Lanes {
    std::array::from_fn(|lane| u64::from(set >> lane & 1) * yes)
}

/// Joins the outcome of a comparison with a predicate, both given as masks of lanes.
fn join(logic: Logic, holds: u32, with: u32) -> u32 {
    match logic {
        Logic::And => holds & with,
        Logic::Or => holds | with,
        Logic::Xor => holds ^ with,
    }
}
