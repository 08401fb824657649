//! The instructions that the lanes of a warp execute together. A lane waits until all lanes that
//! its mask names, and that have not ended, are there.

use super::access::{Accessor, Touch, check_aligned, mark, pending, race, unknown};
use super::block::Block;
use super::machine::{Machine, write};
use super::warp::{Group, Wait, lanes_of};
use crate::counters::bank_passes;
use crate::fault::{FaultKind, Problem};
use crate::ir::{
    Address, Alu, AtomicOp, Collective, Lanes, Mods, Op, Operand, SHARED_WINDOW, ShuffleMode,
    Space, VoteMode,
};
use crate::values::{evaluate, multiply, transpose_rows};

impl Machine<'_> {
    /// Lets the active lanes wait at an instruction with their masks.
    pub(super) fn collective(
        &mut self,
        block: &mut Block,
        w: usize,
        group: Group,
        active: u32,
        mask: &Operand,
    ) -> Result<(), Problem> {
        let masks = *self.value(block, w, mask);
        // Lanes whose guard is not set go on.
        let warp = &mut block.warps[w];
        warp.remove(group.lanes);
        warp.insert(group.pc + 1, group.lanes & !active);
        let mut left = active;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let mask = masks[lane] as u32;
            let same = lanes_of(left)
                .filter(|&l| masks[l] as u32 == mask)
                .fold(0, |all, l| all | (1 << l));
            left &= !same;
            if same & !mask != 0 {
                let lane = (same & !mask).trailing_zeros() as usize;
                let detail = format!("the lane is not in its own mask {mask:#010x}");
                return Err(Problem::new(FaultKind::DivergedCollective, lane, detail));
            }
            let waits = &mut block.warps[w].waits;
            match waits.iter_mut().find(|wait| wait.pc == group.pc && wait.mask == mask) {
                Some(wait) => wait.lanes |= same,
                None => waits.push(Wait { pc: group.pc, mask, lanes: same }),
            }
        }
        self.retry_waits(block, w)
    }

    /// Executes the instructions at which all lanes of a mask wait.
    pub(super) fn retry_waits(&mut self, block: &mut Block, w: usize) -> Result<(), Problem> {
        let is_sync = |pc: u32| {
            matches!(
                self.kernel.code[pc as usize].op,
                Op::Collective { what: Collective::SyncWarp, .. }
            )
        };
        let mut k = 0;
        while k < block.warps[w].waits.len() {
            let warp = &block.warps[w];
            let wait = warp.waits[k];
            // Lanes may meet at different warp barriers, but must be at the same other instruction.
            let together =
                |other: &Wait| other.mask == wait.mask && is_sync(other.pc) && is_sync(wait.pc);
            let there =
                warp.waits.iter().filter(|o| together(o)).fold(wait.lanes, |all, o| all | o.lanes);
            if wait.mask & warp.live & !there != 0 {
                k += 1;
                continue;
            }
            if is_sync(wait.pc) {
                let live = warp.live;
                block.clock.synchronise_lanes(w, there, live);
                let warp = &mut block.warps[w];
                let (done, rest): (Vec<Wait>, Vec<Wait>) =
                    warp.waits.iter().copied().partition(together);
                warp.waits = rest;
                done.iter().for_each(|wait| warp.insert(wait.pc + 1, wait.lanes));
            } else {
                block.warps[w].waits.remove(k);
                self.perform(block, w, wait)?;
                block.warps[w].insert(wait.pc + 1, wait.lanes);
            }
            k = 0;
        }
        Ok(())
    }

    /// Executes an instruction for the lanes that wait there.
    fn perform(&mut self, block: &mut Block, w: usize, wait: Wait) -> Result<(), Problem> {
        let lanes = wait.lanes;
        let Op::Collective { what, .. } = &self.kernel.code[wait.pc as usize].op else {
            return Ok(());
        };
        match *what {
            Collective::Shuffle { mode, d, found, value, lane, clamp } => {
                let value = *self.value(block, w, &value);
                let (lane, clamp) = (self.value(block, w, &lane), self.value(block, w, &clamp));
                let (out, valid) = shuffle(mode, &value, lane, clamp, lanes);
                write(&mut block.warps[w].registers[d as usize], &out, lanes);
                if let Some(found) = found {
                    write(&mut block.warps[w].registers[found as usize], &valid, lanes);
                }
            }
            Collective::Vote { mode, d, predicate } => {
                let holds = self.predicate(block, w, &predicate) & lanes;
                let out = match mode {
                    VoteMode::Ballot => u64::from(holds),
                    VoteMode::Any => u64::from(holds != 0),
                    VoteMode::All => u64::from(holds == lanes),
                    VoteMode::Uniform => u64::from(holds == 0 || holds == lanes),
                };
                write(&mut block.warps[w].registers[d as usize], &[out; 32], lanes);
            }
            Collective::Match { all, mask, d, found, value } => {
                let value = self.value(block, w, &value).map(|v| v & mask);
                let equal = |lane: usize| {
                    lanes_of(lanes)
                        .filter(|&l| value[l] == value[lane])
                        .fold(0u64, |set, l| set | (1 << l))
                };
                let mut out: Lanes =
                    std::array::from_fn(
                        |lane| if lanes >> lane & 1 == 1 { equal(lane) } else { 0 },
                    );
                let same = out[lanes.trailing_zeros() as usize] == u64::from(lanes);
                if all && !same {
                    out = [0; 32];
                }
                write(&mut block.warps[w].registers[d as usize], &out, lanes);
                if let Some(found) = found {
                    write(
                        &mut block.warps[w].registers[found as usize],
                        &[u64::from(same); 32],
                        lanes,
                    );
                }
            }
            Collective::Redux { op, ty, d, value } => {
                let value = *self.value(block, w, &value);
                let alu = match op {
                    AtomicOp::Add => Alu::Add,
                    AtomicOp::Min => Alu::Min,
                    AtomicOp::Max => Alu::Max,
                    AtomicOp::And => Alu::And,
                    AtomicOp::Or => Alu::Or,
                    _ => Alu::Xor,
                };
                let step = |all: Option<u64>, lane: usize| {
                    let Some(all) = all else { return Some(value[lane] & ty.mask()) };
                    let zero = [0; 32];
                    evaluate(
                        alu,
                        ty,
                        Mods::default(),
                        [&[all; 32], &[value[lane]; 32], &zero, &zero],
                        1,
                    )
                    .map(|o| o[0])
                };
                let out = lanes_of(lanes).fold(None, step).unwrap_or(0);
                write(&mut block.warps[w].registers[d as usize], &[out; 32], lanes);
            }
            Collective::LdMatrix { count, transposed, d, address } => {
                return self.load_matrices(block, w, wait, (count, transposed, d), &address);
            }
            Collective::Mma { shape, d, a, b, c } => {
                self.need_all(block, w, wait)?;
                let get = |operand: Operand| *self.value(block, w, &operand);
                let (a, b, c) = (a.map(get), b.map(get), c.map(get));
                let out = multiply(shape, &a, &b, &c);
                let used = if shape.half { 2 } else { 4 };
                for (d, out) in d.iter().zip(&out).take(used) {
                    write(&mut block.warps[w].registers[*d as usize], out, lanes);
                }
            }
            Collective::SyncWarp => {}
        }
        if self.config.shuffles_order_memory {
            let live = block.warps[w].live;
            block.clock.synchronise_lanes(w, lanes, live);
        }
        Ok(())
    }

    /// Checks that the whole warp takes part, as matrix instructions need it.
    fn need_all(&self, block: &Block, w: usize, wait: Wait) -> Result<(), Problem> {
        if wait.lanes == u32::MAX {
            return Ok(());
        }
        let missing = !wait.lanes;
        let detail = format!(
            "lanes {missing:#010x} do not take part (lanes {:#010x} have ended)",
            !block.warps[w].live
        );
        Err(Problem::new(FaultKind::DivergedCollective, missing.trailing_zeros() as usize, detail))
    }

    /// Executes `ldmatrix`.
    fn load_matrices(
        &mut self,
        block: &mut Block,
        w: usize,
        wait: Wait,
        (count, transposed, d): (usize, bool, [u32; 4]),
        address: &Address,
    ) -> Result<(), Problem> {
        self.need_all(block, w, wait)?;
        let by = Accessor { warp: w, pc: wait.pc, strong: false, swap: false };
        let addresses = self
            .addresses(block, w, address, Space::Shared)
            .map(|a| if a >= SHARED_WINDOW { a - SHARED_WINDOW } else { a });
        let mut finding = None;
        for (matrix, &register) in d.iter().enumerate().take(count) {
            let mut rows = [[0; 16]; 8];
            for (row, data) in rows.iter_mut().enumerate() {
                let lane = matrix * 8 + row;
                check_aligned(addresses[lane], 16, lane)?;
                let problem = |(kind, detail)| Problem::new(kind, lane, detail);
                let at = block.shared.place(addresses[lane], 16).map_err(problem)?;
                data.copy_from_slice(&block.shared.data[at..at + 16]);
                for part in (0..4).filter(|_| self.config.races) {
                    // The lane that receives these four bytes, or half of them.
                    let reader = if transposed { part * 8 + row / 2 } else { row * 4 + part };
                    let me = mark(block, by, reader);
                    let Block { shared, clock, .. } = &mut *block;
                    if let Some(conflict) =
                        shared.shadow.touch(at + 4 * part, 4, false, me, shared.run, clock)
                    {
                        let address = addresses[lane] + 4 * part as u64;
                        let touch = Touch {
                            space: Space::Shared,
                            address,
                            bytes: 4,
                            lane: reader,
                            write: false,
                        };
                        finding.get_or_insert_with(|| race(self.kernel, me.block, touch, conflict));
                    }
                }
                if block.shared.is_pending(at, 16) {
                    finding.get_or_insert_with(|| pending(addresses[lane], 16, lane));
                } else if self.config.uninitialised && !block.shared.is_known(at, 16) {
                    finding.get_or_insert_with(|| unknown("shared", addresses[lane], 16, lane));
                }
            }
            write(
                &mut block.warps[w].registers[register as usize],
                &transpose_rows(&rows, transposed),
                u32::MAX,
            );
            let counts = &mut self.counts.code[wait.pc as usize];
            counts.shared_requests += 1;
            counts.bank_passes +=
                bank_passes(addresses[matrix * 8..matrix * 8 + 8].iter().copied(), 16);
            counts.ideal_passes += 1;
            counts.shared_read += 128;
        }
        self.note(block, w, wait.pc, finding);
        Ok(())
    }
}

/// Returns the values that a shuffle gives to the lanes, and whether their source lane was in
/// range. A source lane that does not take part gives all bits set.
fn shuffle(
    mode: ShuffleMode,
    value: &Lanes,
    from: &Lanes,
    clamp: &Lanes,
    lanes: u32,
) -> (Lanes, Lanes) {
    let (mut out, mut valid) = ([0; 32], [0; 32]);
    for lane in lanes_of(lanes) {
        let (by, c) = (from[lane] as i64 & 31, clamp[lane] as i64);
        let (clamp, segment) = (c & 31, (c >> 8) & 31);
        let me = lane as i64;
        let most = (me & segment) | (clamp & !segment & 31);
        let (source, in_range) = match mode {
            ShuffleMode::Up => (me - by, me - by >= most),
            ShuffleMode::Down => (me + by, me + by <= most),
            ShuffleMode::Butterfly => (me ^ by, (me ^ by) <= most),
            ShuffleMode::Index => {
                let source = (me & segment) | (by & !segment & 31);
                (source, source <= most)
            }
        };
        let source = if in_range { source as usize } else { lane };
        out[lane] =
            if lanes >> source & 1 == 1 { value[source] & 0xffff_ffff } else { 0xffff_ffff };
        valid[lane] = u64::from(in_range);
    }
    (out, valid)
}
