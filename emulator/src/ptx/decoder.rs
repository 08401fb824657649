//! Decodes the parts of an instruction: its operands, types and modifiers.

use super::error::{LoadError, Result};
use super::names::{Place, Scope, cluster_of_one, special};
use super::syntax::{Raw, RawInstruction};
use crate::ir::{Address, AtomicOp, Mods, Op, Operand, Rounding, Space, Special, Ty};

/// An instruction and the scope that its names are looked up in.
pub(super) struct Decoder<'m, 'a> {
    pub(super) raw: &'m RawInstruction<'a>,
    pub(super) scope: &'m Scope<'a>,
    pub(super) types: Vec<Ty>,
}

impl<'a> Decoder<'_, 'a> {
    /// Returns an error about the instruction.
    pub(super) fn error<T>(&self, message: &str) -> Result<T> {
        Err(LoadError::new(self.raw.line, format!("{}: {message}", self.raw.text)))
    }

    /// Returns the operation of an opcode that the emulator lacks. It is a fault only if a kernel
    /// executes it.
    pub(super) fn unsupported(&self) -> Op {
        Op::Unsupported(self.raw.opcode.into())
    }

    /// Returns whether the opcode has this part.
    pub(super) fn has(&self, part: &str) -> bool {
        self.raw.has(part)
    }

    /// Returns the number of operands.
    pub(super) fn len(&self) -> usize {
        self.raw.operands.len()
    }

    /// Returns an operand as it was parsed.
    pub(super) fn raw(&self, index: usize) -> Result<&Raw<'a>> {
        match self.raw.operands.get(index) {
            Some(raw) => Ok(raw),
            None => self.error(&format!("operand {} is missing", index + 1)),
        }
    }

    /// Returns the last type in the opcode, which is the type of the operands.
    pub(super) fn ty(&self) -> Result<Ty> {
        match self.types.last() {
            Some(&ty) => Ok(ty),
            None => self.error("no type that is supported"),
        }
    }

    /// Returns the register that an operand names.
    fn name_register(&self, raw: &Raw<'_>) -> Result<u32> {
        match raw {
            Raw::Name(name) => match self.scope.register(name) {
                Some(register) => Ok(register),
                None => self.error(&format!("unknown register {name}")),
            },
            other => self.error(&format!("a register expected, not {other:?}")),
        }
    }

    /// Returns a register that is written, or `None` for `_`.
    fn sink(&self, raw: &Raw<'_>) -> Result<Option<u32>> {
        if *raw == Raw::Name("_") { Ok(None) } else { self.name_register(raw).map(Some) }
    }

    /// Returns the register that operand `index` names.
    pub(super) fn register(&self, index: usize) -> Result<u32> {
        self.name_register(self.raw(index)?)
    }

    /// Returns an operand that is read.
    fn value(&self, raw: &Raw<'_>) -> Result<Operand> {
        match raw {
            Raw::Number(value) => Ok(Operand::Imm(*value)),
            Raw::Negated(name) => Ok(Operand::Not(self.name_register(&Raw::Name(name))?)),
            Raw::Name(name) => {
                if let Some(register) = self.scope.register(name) {
                    return Ok(Operand::Reg(register));
                }
                if let Some(special) = special(name) {
                    return Ok(Operand::Special(special));
                }
                if let Some(constant) = cluster_of_one(name) {
                    return Ok(Operand::Imm(constant));
                }
                match self.scope.place(name) {
                    Some(Place::Shared(at) | Place::Local(at) | Place::KernelParam(at)) => {
                        Ok(Operand::Imm(at))
                    }
                    Some(Place::DynamicShared) => Ok(Operand::Special(Special::DynamicStart)),
                    Some(Place::Variable(index)) => Ok(Operand::Variable(index)),
                    None => self.error(&format!("unknown name {name}")),
                }
            }
            Raw::Sum(name, offset) => match self.value(&Raw::Name(name))? {
                Operand::Imm(at) => Ok(Operand::Imm(at.wrapping_add(*offset))),
                _ => self.error("a sum that is no constant"),
            },
            other => self.error(&format!("a value expected, not {other:?}")),
        }
    }

    /// Returns operand `index`, which is read.
    pub(super) fn operand(&self, index: usize) -> Result<Operand> {
        self.value(self.raw(index)?)
    }

    /// Returns the operands in the braces of operand `index`, or the one without braces.
    pub(super) fn values(&self, index: usize) -> Result<Vec<Operand>> {
        match self.raw(index)? {
            Raw::Vector(all) => all.iter().map(|raw| self.value(raw)).collect(),
            raw => Ok(vec![self.value(raw)?]),
        }
    }

    /// Returns the registers in the braces of operand `index`, or the one without braces.
    pub(super) fn sinks(&self, index: usize) -> Result<Vec<Option<u32>>> {
        match self.raw(index)? {
            Raw::Vector(all) => all.iter().map(|raw| self.sink(raw)).collect(),
            raw => Ok(vec![self.sink(raw)?]),
        }
    }

    /// Returns both registers of an operand such as `%r1|%p1`.
    pub(super) fn pair(&self, index: usize) -> Result<(Option<u32>, Option<u32>)> {
        match self.raw(index)? {
            Raw::Pair(first, second) => Ok((self.sink(first)?, self.sink(second)?)),
            raw => Ok((self.sink(raw)?, None)),
        }
    }

    /// Returns operand `index`, which is an address.
    pub(super) fn address(&self, index: usize) -> Result<Address> {
        match self.raw(index)? {
            Raw::Address(base, offset) => Ok(Address { base: self.value(base)?, offset: *offset }),
            raw => self.error(&format!("an address expected, not {raw:?}")),
        }
    }

    /// Returns the space of an access to operand `address`. A `.param` belongs to the kernel or to
    /// an inlined call; in a call it is local memory.
    pub(super) fn space(&self, address: usize) -> Result<Space> {
        let named = self.raw.opcode.split('.').skip(1).find_map(|part| {
            Some(match part.split("::").next()? {
                "global" | "const" => Space::Global,
                "shared" => Space::Shared,
                "local" => Space::Local,
                "param" => Space::Param,
                _ => return None,
            })
        });
        if named == Some(Space::Param)
            && let Raw::Address(base, _) = self.raw(address)?
            && let Raw::Name(name) = **base
            && let Some(Place::Local(_)) = self.scope.place(name)
        {
            return Ok(Space::Local);
        }
        Ok(named.unwrap_or(Space::Generic))
    }

    /// Returns the arithmetic modifiers.
    pub(super) fn mods(&self) -> Mods {
        let rounding = self.raw.one_of(&[
            ("rn", Rounding::Nearest),
            ("rna", Rounding::NearestAway),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
        ]);
        Mods {
            rounding: rounding.unwrap_or_default(),
            ftz: self.has("ftz"),
            sat: self.has("sat"),
            nan: self.has("NaN"),
            relu: self.has("relu"),
        }
    }

    /// Returns the operation of an atomic instruction or a warp reduction.
    pub(super) fn atomic_op(&self) -> Option<AtomicOp> {
        self.raw.one_of(&[
            ("add", AtomicOp::Add),
            ("min", AtomicOp::Min),
            ("max", AtomicOp::Max),
            ("and", AtomicOp::And),
            ("or", AtomicOp::Or),
            ("xor", AtomicOp::Xor),
            ("exch", AtomicOp::Exchange),
            ("cas", AtomicOp::Cas),
            ("inc", AtomicOp::Inc),
            ("dec", AtomicOp::Dec),
        ])
    }
}
