//! The opcodes of control flow, of barriers and fences, and of the lanes of a warp together.

use super::decoder::Decoder;
use super::error::Result;
use crate::ir::{Barrier, BarrierKind, Collective, Op, ShuffleMode, VoteMode};

/// Decodes the instruction, if its opcode is one of these.
pub(super) fn decode(d: &Decoder<'_, '_>) -> Result<Option<Op>> {
    Ok(Some(match d.raw.stem() {
        // The targets are filled in when all labels are known.
        "bra" => Op::Branch(0),
        "brx" => Op::BranchIndexed([].into(), d.operand(0)?),
        "ret" | "exit" => Op::Exit,
        "trap" | "brkpt" => Op::Trap,
        "bar" | "barrier" if d.has("warp") => {
            Op::Collective { what: Collective::SyncWarp, mask: d.operand(0)? }
        }
        "bar" | "barrier" if !d.has("cluster") => barrier(d)?,
        "shfl" => shuffle(d)?,
        "vote" => vote(d)?,
        "match" => matching(d)?,
        "redux" => redux(d)?,
        "activemask" => Op::ActiveMask(d.register(0)?),
        "membar" => Op::Fence,
        "fence" if !d.has("proxy") && !d.has("mbarrier_init") => Op::Fence,
        // Hints, which change no value.
        "prefetch" | "prefetchu" | "nanosleep" | "applypriority" | "discard" | "pmevent"
        | "griddepcontrol" | "setmaxnreg" => Op::Nothing,
        _ => return Ok(None),
    }))
}

fn shuffle(d: &Decoder<'_, '_>) -> Result<Op> {
    let mode = d.raw.one_of(&[
        ("up", ShuffleMode::Up),
        ("down", ShuffleMode::Down),
        ("bfly", ShuffleMode::Butterfly),
        ("idx", ShuffleMode::Index),
    ]);
    let (Some(mode), (Some(to), found)) = (mode, d.pair(0)?) else { return Ok(d.unsupported()) };
    let (value, lane, clamp) = (d.operand(1)?, d.operand(2)?, d.operand(3)?);
    let what = Collective::Shuffle { mode, d: to, found, value, lane, clamp };
    Ok(Op::Collective { what, mask: d.operand(4)? })
}

fn vote(d: &Decoder<'_, '_>) -> Result<Op> {
    let mode = d.raw.one_of(&[
        ("ballot", VoteMode::Ballot),
        ("any", VoteMode::Any),
        ("all", VoteMode::All),
        ("uni", VoteMode::Uniform),
    ]);
    let Some(mode) = mode else { return Ok(d.unsupported()) };
    let what = Collective::Vote { mode, d: d.register(0)?, predicate: d.operand(1)? };
    Ok(Op::Collective { what, mask: d.operand(2)? })
}

fn matching(d: &Decoder<'_, '_>) -> Result<Op> {
    let (Some(to), found) = d.pair(0)? else { return Ok(d.unsupported()) };
    let (all, mask) = (d.has("all"), d.ty()?.mask());
    let what = Collective::Match { all, mask, d: to, found, value: d.operand(1)? };
    Ok(Op::Collective { what, mask: d.operand(2)? })
}

fn redux(d: &Decoder<'_, '_>) -> Result<Op> {
    let (Some(op), ty) = (d.atomic_op(), d.ty()?) else { return Ok(d.unsupported()) };
    if ty.float() {
        return Ok(d.unsupported());
    }
    let what = Collective::Redux { op, ty, d: d.register(0)?, value: d.operand(1)? };
    Ok(Op::Collective { what, mask: d.operand(2)? })
}

fn barrier(d: &Decoder<'_, '_>) -> Result<Op> {
    let kind = d.raw.one_of(&[
        ("sync", BarrierKind::Sync),
        ("arrive", BarrierKind::Arrive),
        ("popc", BarrierKind::Count),
        ("and", BarrierKind::And),
        ("or", BarrierKind::Or),
    ]);
    let Some(kind) = kind else { return Ok(d.unsupported()) };
    if !d.has("red") {
        let count = if d.len() > 1 { Some(d.operand(1)?) } else { None };
        return Ok(Op::Barrier(Barrier { kind, id: d.operand(0)?, count, reduce: None }));
    }
    let count = if d.len() > 3 { Some(d.operand(2)?) } else { None };
    let predicate = d.operand(d.len() - 1)?;
    let reduce = Some((d.register(0)?, predicate));
    Ok(Op::Barrier(Barrier { kind, id: d.operand(1)?, count, reduce }))
}
