//! Decodes one instruction of any group of opcodes.

use super::decoder::Decoder;
use super::error::Result;
use super::names::Scope;
use super::parts::all_known;
use super::syntax::{Raw, RawInstruction};
use super::{arithmetic, control, memory};
use crate::ir::Op;

/// Returns the operation of an instruction; [`Op::Unsupported`] if the emulator lacks its opcode.
pub(super) fn decode(raw: &RawInstruction<'_>, scope: &Scope<'_>) -> Result<Op> {
    let d = Decoder { raw, scope, types: raw.types() };
    if !all_known(raw.opcode) {
        return Ok(d.unsupported());
    }
    // The emulator does not fill these registers.
    let unfilled = raw.operands.iter().find(
        |o| matches!(o, Raw::Name(name) if name.starts_with("%envreg") || name.starts_with("%pm")),
    );
    if let Some(Raw::Name(name)) = unfilled
        && scope.register(name).is_none()
    {
        return Ok(Op::Unsupported(format!("{} of {name}", raw.opcode).into()));
    }
    for group in [arithmetic::decode, memory::decode, control::decode] {
        if let Some(op) = group(&d)? {
            return Ok(op);
        }
    }
    Ok(d.unsupported())
}
