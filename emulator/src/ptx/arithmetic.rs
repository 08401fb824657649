//! The opcodes that read and write registers only.

use super::decoder::Decoder;
use super::error::Result;
use super::syntax::Raw;
use crate::ir::{
    Alu, Carry, CarryOp, Cmp, Compare, Convert, FloatClass, Logic, Op, Operand, PrmtMode, Rounding,
    Space, Ty,
};

/// Decodes the instruction, if its opcode is one of these.
pub(super) fn decode(d: &Decoder<'_, '_>) -> Result<Option<Op>> {
    Ok(Some(match d.raw.stem() {
        "setp" => set_predicate(d)?,
        "set" => {
            let Some(compare) = compare(d, 1)? else { return Ok(Some(d.unsupported())) };
            Op::SetValue { compare, to: d.types[0], d: d.register(0)? }
        }
        "cvt" => convert(d)?,
        "mov" => moves(d)?,
        "cvta" => {
            let space = match d.raw.one_of(&[
                ("global", Space::Global),
                ("const", Space::Global),
                ("shared", Space::Shared),
                ("shared::cta", Space::Shared),
                ("local", Space::Local),
                ("param", Space::Param),
            ]) {
                Some(space) => space,
                None => return Ok(Some(d.unsupported())),
            };
            alu(d, if d.has("to") { Alu::AddressIn(space) } else { Alu::AddressOf(space) }, 1)?
        }
        // A cache hint, which has no effect.
        "createpolicy" => Op::Alu {
            op: Alu::Mov,
            ty: Ty::B64,
            mods: d.mods(),
            d: d.register(0)?,
            s: [Operand::Imm(0); 4],
        },
        "isspacep" => {
            let space = d.raw.one_of(&[
                ("global", Space::Global),
                ("shared", Space::Shared),
                ("shared::cta", Space::Shared),
                ("local", Space::Local),
            ]);
            let Some(space) = space else { return Ok(Some(d.unsupported())) };
            let s = [d.operand(1)?, Operand::Imm(0), Operand::Imm(0), Operand::Imm(0)];
            Op::Alu { op: Alu::IsSpace(space), ty: Ty::B64, mods: d.mods(), d: d.register(0)?, s }
        }
        "addc" | "subc" | "madc" => carry(d)?,
        "add" | "sub" | "mad" if d.has("cc") => carry(d)?,
        "lop3" if d.types.last() == Some(&Ty::B32) && !d.has("or") && !d.has("and") => {
            let Raw::Number(table) = d.raw(4)? else {
                return d.error("the table must be a number");
            };
            let s = [d.operand(1)?, d.operand(2)?, d.operand(3)?, Operand::Imm(0)];
            Op::Alu {
                op: Alu::Lop3(*table as u8),
                ty: Ty::B32,
                mods: d.mods(),
                d: d.register(0)?,
                s,
            }
        }
        stem => match simple(d, stem) {
            Some((op, operands)) if supported(d, op) => alu(d, op, operands)?,
            Some(_) => d.unsupported(),
            None => return Ok(None),
        },
    }))
}

/// Returns the operation with so many operands.
fn alu(d: &Decoder<'_, '_>, op: Alu, operands: usize) -> Result<Op> {
    let mut s = [Operand::Imm(0); 4];
    for (k, slot) in s.iter_mut().enumerate().take(operands) {
        *slot = d.operand(k + 1)?;
    }
    if d.len() > operands + 1 {
        return Ok(d.unsupported());
    }
    Ok(Op::Alu { op, ty: d.ty()?, mods: d.mods(), d: d.register(0)?, s })
}

/// Decodes an opcode with a carry: `addc` and the like read the flag, `.cc` writes it.
fn carry(d: &Decoder<'_, '_>) -> Result<Op> {
    let stem = d.raw.stem();
    let op = match (&stem[..3], d.has("hi")) {
        ("add", _) => CarryOp::Add,
        ("sub", _) => CarryOp::Sub,
        (_, false) => CarryOp::MadLo,
        (_, true) => CarryOp::MadHi,
    };
    let third = if stem.starts_with("mad") { d.operand(3)? } else { Operand::Imm(0) };
    let carry = Carry {
        op,
        ty: d.ty()?,
        flag: d.scope.flag,
        takes: stem.ends_with('c'),
        sets: d.has("cc"),
    };
    Ok(Op::Carry { carry, d: d.register(0)?, s: [d.operand(1)?, d.operand(2)?, third] })
}

/// Returns the operation that the stem of an opcode names, and the number of its operands.
fn simple(d: &Decoder<'_, '_>, stem: &str) -> Option<(Alu, usize)> {
    let wide = |lo, hi, wide| {
        if d.has("wide") {
            wide
        } else if d.has("hi") {
            hi
        } else {
            lo
        }
    };
    let float = d.types.last().is_some_and(|ty| ty.float() || matches!(ty, Ty::F16x2 | Ty::BF16x2));
    Some(match stem {
        "add" => (Alu::Add, 2),
        "sub" => (Alu::Sub, 2),
        "mul" => (wide(Alu::Mul, Alu::MulHi, Alu::MulWide), 2),
        "mad" if float => (Alu::Fma, 3),
        "mad" => (wide(Alu::Mad, Alu::MadHi, Alu::MadWide), 3),
        "mul24" if d.has("lo") => (Alu::Mul24, 2),
        "mad24" if d.has("lo") => (Alu::Mad24, 3),
        "fma" => (Alu::Fma, 3),
        "div" => (Alu::Div, 2),
        "rem" => (Alu::Rem, 2),
        "min" => (Alu::Min, 2),
        "max" => (Alu::Max, 2),
        "and" => (Alu::And, 2),
        "or" => (Alu::Or, 2),
        "xor" => (Alu::Xor, 2),
        "not" => (Alu::Not, 1),
        "cnot" => (Alu::Cnot, 1),
        "shl" => (Alu::Shl, 2),
        "shr" => (Alu::Shr, 2),
        "neg" => (Alu::Neg, 1),
        "abs" => (Alu::Abs, 1),
        "popc" => (Alu::Popc, 1),
        "clz" => (Alu::Clz, 1),
        "brev" => (Alu::Brev, 1),
        "bfind" => (if d.has("shiftamt") { Alu::BfindShift } else { Alu::Bfind }, 1),
        "bfe" => (Alu::Bfe, 3),
        "bfi" => (Alu::Bfi, 4),
        "bmsk" if !d.has("wrap") => (Alu::Bmsk, 2),
        "prmt" => {
            let mode = d.raw.one_of(&[
                ("f4e", PrmtMode::F4e),
                ("b4e", PrmtMode::B4e),
                ("rc8", PrmtMode::Rc8),
                ("ecl", PrmtMode::Ecl),
                ("ecr", PrmtMode::Ecr),
                ("rc16", PrmtMode::Rc16),
            ]);
            (Alu::Prmt(mode.unwrap_or(PrmtMode::Index)), 3)
        }
        "shf" => match (d.has("l"), d.has("clamp")) {
            (true, false) => (Alu::ShfL, 3),
            (true, true) => (Alu::ShfLClamp, 3),
            (false, false) => (Alu::ShfR, 3),
            (false, true) => (Alu::ShfRClamp, 3),
        },
        "selp" => (Alu::Selp, 3),
        "slct" if d.types.last() == Some(&Ty::S32) => (Alu::Slct, 3),
        "sad" => (Alu::Sad, 3),
        "dp4a" if d.types.first() == d.types.last() => (Alu::Dp4a, 3),
        "rcp" => (Alu::Rcp, 1),
        "sqrt" => (Alu::Sqrt, 1),
        "rsqrt" => (Alu::Rsqrt, 1),
        "ex2" => (Alu::Ex2, 1),
        "lg2" => (Alu::Lg2, 1),
        "sin" => (Alu::Sin, 1),
        "cos" => (Alu::Cos, 1),
        "tanh" => (Alu::Tanh, 1),
        "copysign" => (Alu::Copysign, 2),
        "testp" => {
            let class = d.raw.one_of(&[
                ("finite", FloatClass::Finite),
                ("infinite", FloatClass::Infinite),
                ("number", FloatClass::Number),
                ("notanumber", FloatClass::NotANumber),
                ("normal", FloatClass::Normal),
                ("subnormal", FloatClass::Subnormal),
            ])?;
            (Alu::Testp(class), 1)
        }
        _ => return None,
    })
}

/// Returns whether the emulator has this form of an operation. It lacks saturation of integers and
/// directed rounding of doubles.
fn supported(d: &Decoder<'_, '_>, op: Alu) -> bool {
    let ty = d.types.last().copied();
    let integer_sat =
        d.has("sat") && !ty.is_some_and(|ty| ty.float() || matches!(ty, Ty::F16x2 | Ty::BF16x2));
    let directed_f64 = ty == Some(Ty::F64) && d.mods().rounding != Rounding::Nearest;
    let mixed = matches!(op, Alu::Add | Alu::Sub | Alu::Fma) && d.types.len() > 1;
    !(d.has("xorsign") || integer_sat || directed_f64 || mixed) && ty.is_some()
}

/// Decodes a comparison whose first operand is number `first`.
fn compare(d: &Decoder<'_, '_>, first: usize) -> Result<Option<Compare>> {
    let choices = [
        ("eq", (Cmp::Eq, false)),
        ("ne", (Cmp::Ne, false)),
        ("lt", (Cmp::Lt, false)),
        ("lo", (Cmp::Lt, false)),
        ("le", (Cmp::Le, false)),
        ("ls", (Cmp::Le, false)),
        ("gt", (Cmp::Gt, false)),
        ("hi", (Cmp::Gt, false)),
        ("ge", (Cmp::Ge, false)),
        ("hs", (Cmp::Ge, false)),
        ("equ", (Cmp::Eq, true)),
        ("neu", (Cmp::Ne, true)),
        ("ltu", (Cmp::Lt, true)),
        ("leu", (Cmp::Le, true)),
        ("gtu", (Cmp::Gt, true)),
        ("geu", (Cmp::Ge, true)),
        ("num", (Cmp::Num, false)),
        ("nan", (Cmp::Nan, true)),
    ];
    let Some((cmp, unordered)) = d.raw.one_of(&choices) else { return Ok(None) };
    let logic = d.raw.one_of(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
    let join = match logic {
        Some(logic) => Some((logic, d.operand(first + 2)?)),
        None => None,
    };
    let (a, b) = (d.operand(first)?, d.operand(first + 1)?);
    Ok(Some(Compare { cmp, unordered, ty: d.ty()?, ftz: d.has("ftz"), a, b, join }))
}

fn set_predicate(d: &Decoder<'_, '_>) -> Result<Op> {
    let Some(compare) = compare(d, 1)? else { return Ok(d.unsupported()) };
    if compare.ty.half().is_some() {
        return Ok(d.unsupported());
    }
    let (d, opposite) = d.pair(0)?;
    Ok(Op::SetPredicate { compare, d, opposite })
}

fn convert(d: &Decoder<'_, '_>) -> Result<Op> {
    let [to, from] = d.types[..] else { return Ok(d.unsupported()) };
    let integer = d.raw.one_of(&[
        ("rni", Rounding::Nearest),
        ("rzi", Rounding::Zero),
        ("rmi", Rounding::Down),
        ("rpi", Rounding::Up),
    ]);
    let b = if to.half().is_some() { Some(d.operand(2)?) } else { None };
    let packs = matches!(to, Ty::F16x2 | Ty::BF16x2) && from == Ty::F32;
    let strange = (to.half().is_some() && !packs)
        || from.half().is_some()
        || d.has("satfinite")
        || d.has("pack");
    if strange || (to == Ty::F64 && d.mods().rounding != Rounding::Nearest) {
        return Ok(d.unsupported());
    }
    let convert = Convert { to, from, integer, mods: d.mods() };
    Ok(Op::Convert { convert, d: d.register(0)?, a: d.operand(1)?, b })
}

fn moves(d: &Decoder<'_, '_>) -> Result<Op> {
    let ty = d.ty()?;
    match (d.raw(0)?, d.raw(1)?) {
        (Raw::Vector(to), Raw::Vector(_)) => {
            d.error(&format!("a move of {} registers at once", to.len()))
        }
        (Raw::Vector(to), _) => {
            let bits = ty.bits() / to.len() as u32;
            Ok(Op::Unpack { bits, parts: d.sinks(0)?.into(), a: d.operand(1)? })
        }
        (_, Raw::Vector(from)) => {
            let bits = ty.bits() / from.len() as u32;
            Ok(Op::Pack { bits, d: d.register(0)?, parts: d.values(1)?.into() })
        }
        _ => alu(d, Alu::Mov, 1),
    }
}
