//! The opcodes that access memory, and the matrix product.

use super::decoder::Decoder;
use super::error::Result;
use super::syntax::Raw;
use crate::ir::{
    Access, Atomic, AtomicOp, Collective, CopyAsync, MmaShape, Op, Operand, Space, Transfer, Ty,
};

/// Decodes the instruction, if its opcode is one of these.
pub(super) fn decode(d: &Decoder<'_, '_>) -> Result<Option<Op>> {
    Ok(Some(match d.raw.stem() {
        "ld" | "ldu" => transfer(d, true)?,
        "st" => transfer(d, false)?,
        "atom" | "red" => atomic(d, d.raw.stem() == "atom")?,
        "cp" if d.has("commit_group") => Op::CopyCommit,
        "cp" if d.has("wait_group") => Op::CopyWait(Some(d.operand(0)?)),
        "cp" if d.has("wait_all") => Op::CopyWait(None),
        "cp" if d.has("async")
            && (d.has("ca") || d.has("cg"))
            && !d.has("bulk")
            && !d.has("mbarrier") =>
        {
            copy_async(d)?
        }
        "ldmatrix" => ldmatrix(d)?,
        "mma" => mma(d)?,
        _ => return Ok(None),
    }))
}

fn transfer(d: &Decoder<'_, '_>, load: bool) -> Result<Op> {
    let (values, address) = if load { (0, 1) } else { (1, 0) };
    let space = d.space(address)?;
    let strong =
        ["volatile", "relaxed", "acquire", "release", "mmio"].iter().any(|part| d.has(part));
    let access = Access { strong, release: d.has("release"), read_only: d.has("nc") };
    let wanted = d.raw.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    let ty = d.ty()?;
    let registers = if load {
        // An operand that is no register drops a value that is not wanted.
        d.sinks(values)?.into_iter().map(|r| r.map_or(Operand::Imm(0), Operand::Reg)).collect()
    } else {
        d.values(values)?
    };
    if registers.len() != wanted {
        return d.error(&format!("{} registers, but {wanted} elements", registers.len()));
    }
    let transfer =
        Transfer { space, ty, access, address: d.address(address)?, values: registers.into() };
    Ok(if load { Op::Load(transfer) } else { Op::Store(transfer) })
}

fn atomic(d: &Decoder<'_, '_>, returns: bool) -> Result<Op> {
    let first = usize::from(returns);
    let space = d.space(first)?;
    let Some(op) = d.atomic_op() else { return Ok(d.unsupported()) };
    let ty = d.ty()?;
    let values = d.values(first + 1)?;
    let old = if returns { d.sinks(0)? } else { vec![None; values.len()] };
    let swap = if op == AtomicOp::Cas { Some(d.operand(first + 2)?) } else { None };
    let release = ["release", "acq_rel"].iter().any(|part| d.has(part));
    if old.len() != values.len() {
        return d.error("as many old values as new ones expected");
    }
    let address = d.address(first)?;
    Ok(Op::Atomic(Atomic {
        space,
        ty,
        op,
        release,
        address,
        old: old.into(),
        values: values.into(),
        swap,
    }))
}

fn copy_async(d: &Decoder<'_, '_>) -> Result<Op> {
    let Operand::Imm(bytes) = d.operand(2)? else { return d.error("the size must be a number") };
    let (to, from) = (d.address(0)?, d.address(1)?);
    let fourth = if d.len() > 3 && !d.has("L2::cache_hint") { Some(d.operand(3)?) } else { None };
    // The fourth operand is a size in a 32-bit register, or a predicate.
    let predicate = match d.raw.operands.get(3) {
        Some(Raw::Name(name)) => name.starts_with("%p"),
        Some(Raw::Negated(_)) => true,
        _ => false,
    };
    let (from_bytes, ignore) = if predicate { (None, fourth) } else { (fourth, None) };
    Ok(Op::CopyAsync(CopyAsync { bytes: bytes as usize, to, from, from_bytes, ignore }))
}

fn ldmatrix(d: &Decoder<'_, '_>) -> Result<Op> {
    let count = d.raw.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]);
    let (Some(count), true, true) = (count, d.has("m8n8"), d.has("b16")) else {
        return Ok(d.unsupported());
    };
    let sinks = d.sinks(0)?;
    let mut registers = [0; 4];
    for (slot, sink) in registers.iter_mut().zip(&sinks) {
        let Some(register) = sink else { return d.error("a register expected") };
        *slot = *register;
    }
    if sinks.len() != count || !matches!(d.space(1)?, Space::Shared | Space::Generic) {
        return d.error("as many registers as matrices expected, from shared memory");
    }
    let what = Collective::LdMatrix {
        count,
        transposed: d.has("trans"),
        d: registers,
        address: d.address(1)?,
    };
    Ok(Op::Collective { what, mask: Operand::Imm(0xffff_ffff) })
}

fn mma(d: &Decoder<'_, '_>) -> Result<Op> {
    let k = d.raw.one_of(&[("m16n8k4", 4), ("m16n8k8", 8), ("m16n8k16", 16)]);
    let [to, a, b, c] = d.types[..] else { return Ok(d.unsupported()) };
    let half = to == Ty::F16;
    let elements = matches!((a, k), (Ty::F16 | Ty::BF16, Some(8 | 16)) | (Ty::Tf32, Some(4 | 8)));
    let accumulator = to == c && (to == Ty::F32 || (half && a == Ty::F16));
    let plain = d.has("row") && d.has("col") && d.has("sync");
    let (Some(k), true, true, true, true) = (k, elements, accumulator, plain, a == b) else {
        return Ok(d.unsupported());
    };
    let shape = MmaShape { ty: a, k, half };
    let mut registers = [0; 4];
    let sinks = d.sinks(0)?;
    for (slot, sink) in registers.iter_mut().zip(&sinks) {
        let Some(register) = sink else { return d.error("a register expected") };
        *slot = *register;
    }
    let (va, vb, vc) = (d.values(1)?, d.values(2)?, d.values(3)?);
    let per_register = 4 / a.size();
    let accumulators = if half { 2 } else { 4 };
    if va.len() * per_register * 32 != 16 * k
        || vb.len() * per_register * 32 != 8 * k
        || vc.len() != accumulators
        || sinks.len() != accumulators
    {
        return d.error("the fragments do not have the sizes of that shape");
    }
    let what = Collective::Mma { shape, d: registers, a: fill(&va), b: fill(&vb), c: fill(&vc) };
    Ok(Op::Collective { what, mask: Operand::Imm(0xffff_ffff) })
}

fn fill<const N: usize>(values: &[Operand]) -> [Operand; N] {
    std::array::from_fn(|k| values.get(k).copied().unwrap_or(Operand::Imm(0)))
}
