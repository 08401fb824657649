//! One instruction with the names that it may use: its operands, types and modifiers.

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
    pub(super) fn error<T>(&self, message: &str) -> Result<T> {
        Err(LoadError::new(self.raw.line, format!("{}: {message}", self.raw.text)))
    }

    /// An opcode that is read but not executed: an error only if a kernel gets there.
    pub(super) fn unsupported(&self) -> Op {
        Op::Unsupported(self.raw.opcode.into())
    }

    pub(super) fn has(&self, part: &str) -> bool {
        self.raw.has(part)
    }

    pub(super) fn len(&self) -> usize {
        self.raw.operands.len()
    }

    pub(super) fn raw(&self, index: usize) -> Result<&Raw<'a>> {
        match self.raw.operands.get(index) {
            Some(raw) => Ok(raw),
            None => self.error(&format!("operand {} is missing", index + 1)),
        }
    }

    pub(super) fn ty(&self) -> Result<Ty> {
        match self.types.last() {
            Some(&ty) => Ok(ty),
            None => self.error("no type that is supported"),
        }
    }

    pub(super) fn name_register(&self, raw: &Raw<'_>) -> Result<u32> {
        match raw {
            Raw::Name(name) => match self.scope.register(name) {
                Some(register) => Ok(register),
                None => self.error(&format!("unknown register {name}")),
            },
            other => self.error(&format!("a register expected, not {other:?}")),
        }
    }

    /// A register to write, or none for `_`.
    pub(super) fn sink(&self, raw: &Raw<'_>) -> Result<Option<u32>> {
        if *raw == Raw::Name("_") { Ok(None) } else { self.name_register(raw).map(Some) }
    }

    pub(super) fn register(&self, index: usize) -> Result<u32> {
        self.name_register(self.raw(index)?)
    }

    pub(super) fn value(&self, raw: &Raw<'_>) -> Result<Operand> {
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

    pub(super) fn operand(&self, index: usize) -> Result<Operand> {
        self.value(self.raw(index)?)
    }

    /// The values in braces, or the one without.
    pub(super) fn values(&self, index: usize) -> Result<Vec<Operand>> {
        match self.raw(index)? {
            Raw::Vector(all) => all.iter().map(|raw| self.value(raw)).collect(),
            raw => Ok(vec![self.value(raw)?]),
        }
    }

    /// The registers in braces, or the one without.
    pub(super) fn sinks(&self, index: usize) -> Result<Vec<Option<u32>>> {
        match self.raw(index)? {
            Raw::Vector(all) => all.iter().map(|raw| self.sink(raw)).collect(),
            raw => Ok(vec![self.sink(raw)?]),
        }
    }

    /// Both registers of `%r1|%p1`.
    pub(super) fn pair(&self, index: usize) -> Result<(Option<u32>, Option<u32>)> {
        match self.raw(index)? {
            Raw::Pair(first, second) => Ok((self.sink(first)?, self.sink(second)?)),
            raw => Ok((self.sink(raw)?, None)),
        }
    }

    pub(super) fn address(&self, index: usize) -> Result<Address> {
        match self.raw(index)? {
            Raw::Address(base, offset) => Ok(Address { base: self.value(base)?, offset: *offset }),
            raw => self.error(&format!("an address expected, not {raw:?}")),
        }
    }

    /// The space of an access; a `.param` may be the kernel's or that of an inlined call.
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
