//! Atomic operations.

use super::access::{
    Accessor, Touch, by_space, check_aligned, mark, pending, race, read_number, unknown,
};
use super::block::Block;
use super::machine::Machine;
use super::warp::lanes_of;
use crate::fault::{FaultKind, Problem};
use crate::ir::{Alu, Atomic, AtomicOp, Lanes, Mods, Space, Ty};
use crate::values::evaluate;

impl Machine<'_> {
    /// Executes an atomic operation.
    pub(super) fn atomic(
        &mut self,
        block: &mut Block,
        w: usize,
        a: &Atomic,
        active: u32,
        pc: u32,
    ) -> Result<(), Problem> {
        let addresses = self.addresses(block, w, &a.address, a.space);
        for (space, lanes, addresses) in by_space(a.space, active, addresses) {
            if a.release {
                self.fence(block, w, lanes);
            }
            self.atomic_in(block, w, a, (space, lanes, &addresses), pc)?;
        }
        Ok(())
    }

    /// Executes an atomic operation in one space.
    fn atomic_in(
        &mut self,
        block: &mut Block,
        w: usize,
        a: &Atomic,
        (space, lanes, addresses): (Space, u32, &Lanes),
        pc: u32,
    ) -> Result<(), Problem> {
        let size = a.ty.size();
        let bytes = size * a.values.len();
        let by = Accessor { warp: w, pc, strong: true, swap: a.op == AtomicOp::Cas };
        let values: Vec<Lanes> =
            a.values.iter().map(|value| *self.value(block, w, value)).collect();
        let swap = a.swap.map(|swap| *self.value(block, w, &swap));
        // The hardware does not define the order of the lanes.
        let mut order: Vec<usize> = lanes_of(lanes).collect();
        (1..order.len()).for_each(|k| order.swap(k, self.random.below(k + 1)));
        let reads = a.op != AtomicOp::Exchange;
        let mut finding = None;
        self.sectors.clear();
        for lane in order {
            let address = addresses[lane];
            check_aligned(address, bytes, lane)?;
            let problem = |(kind, detail)| Problem::new(kind, lane, detail);
            let me = mark(block, by, lane);
            let (data, known, waited, conflict): (&mut [u8], bool, bool, _) = match space {
                Space::Shared => {
                    let at = block.shared.place(address, bytes).map_err(problem)?;
                    let Block { shared, clock, .. } = &mut *block;
                    let known = shared.is_known(at, bytes);
                    shared.set_known(at, bytes);
                    let races = self.config.races;
                    let run = shared.run;
                    let conflict = races
                        .then(|| shared.shadow.touch(at, bytes, true, me, run, clock))
                        .flatten();
                    let waited = !shared.is_pending(at, bytes);
                    (&mut shared.data[at..at + bytes], known, waited, conflict)
                }
                Space::Global | Space::Generic => {
                    self.sectors.add(address, bytes);
                    let (allocation, at) = self.memory.find(address, bytes).map_err(problem)?;
                    let known = allocation.known.all(at, bytes);
                    allocation.known.set(at, bytes, true);
                    let races = self.config.races;
                    let shadow = &mut allocation.shadow;
                    let conflict = races
                        .then(|| shadow.touch(at, bytes, true, me, self.run, &block.clock))
                        .flatten();
                    (&mut allocation.data[at..at + bytes], known, true, conflict)
                }
                Space::Local | Space::Param => {
                    return Err(Problem::new(
                        FaultKind::OutOfBounds,
                        lane,
                        "an atomic operation on local memory",
                    ));
                }
            };
            if let Some(conflict) = conflict {
                let touch = Touch { space, address, bytes, lane, write: true };
                finding.get_or_insert_with(|| race(self.kernel, me.block, touch, conflict));
            } else if !waited {
                finding.get_or_insert_with(|| pending(address, bytes, lane));
            } else if reads && self.config.uninitialised && !known {
                let name = if space == Space::Shared { "shared" } else { "global" };
                finding.get_or_insert_with(|| unknown(name, address, bytes, lane));
            }
            let mut old = [0; 8];
            for (k, part) in data.chunks_exact_mut(size).enumerate() {
                old[k] = read_number(part);
                let new = combine(
                    a.op,
                    a.ty,
                    space,
                    old[k],
                    values[k][lane],
                    swap.map_or(0, |s| s[lane]),
                );
                let missing = || {
                    Problem::new(
                        FaultKind::UnknownOpcode,
                        lane,
                        "no such atomic operation for this type",
                    )
                };
                part.copy_from_slice(&new.ok_or_else(missing)?.to_le_bytes()[..size]);
            }
            for (to, old) in a.old.iter().zip(old) {
                if let Some(register) = to {
                    block.warps[w].registers[*register as usize][lane] = a.ty.extend(old);
                }
            }
        }
        self.count(space, lanes, addresses, bytes, pc, true);
        self.note(block, w, pc, finding);
        self.acquire(block, w, space, lanes, addresses);
        self.release(block, w, space, lanes, addresses);
        Ok(())
    }
}

/// Returns the value that an atomic operation stores.
fn combine(op: AtomicOp, ty: Ty, space: Space, old: u64, value: u64, swap: u64) -> Option<u64> {
    let (old, value) = (old & ty.mask(), value & ty.mask());
    let signed = |v: u64| ty.extend(v) as i64;
    let alu = match op {
        AtomicOp::Add if !ty.float() && ty.half().is_none() => {
            return Some(old.wrapping_add(value) & ty.mask());
        }
        AtomicOp::Min if ty.signed() => {
            return Some(signed(old).min(signed(value)) as u64 & ty.mask());
        }
        AtomicOp::Max if ty.signed() => {
            return Some(signed(old).max(signed(value)) as u64 & ty.mask());
        }
        AtomicOp::And => return Some(old & value),
        AtomicOp::Or => return Some(old | value),
        AtomicOp::Xor => return Some(old ^ value),
        AtomicOp::Exchange => return Some(value),
        AtomicOp::Cas => return Some(if old == value { swap & ty.mask() } else { old }),
        AtomicOp::Inc => return Some(if old >= value { 0 } else { old + 1 }),
        AtomicOp::Dec => return Some(if old == 0 || old > value { value } else { old - 1 }),
        AtomicOp::Add => Alu::Add,
        AtomicOp::Min => Alu::Min,
        AtomicOp::Max => Alu::Max,
    };
    // Additions of single precision in global memory flush denormals to zero.
    let mods = Mods { ftz: ty == Ty::F32 && space != Space::Shared, ..Mods::default() };
    let all = |v| [v; 32];
    evaluate(alu, ty, mods, [&all(old), &all(value), &all(0), &all(0)], 1).map(|out| out[0])
}
