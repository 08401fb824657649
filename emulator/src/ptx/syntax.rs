//! The statements of a PTX module, names still unresolved.

use crate::ir::Ty;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw<'a> {
    Name(&'a str),
    /// A name and an offset, outside of brackets.
    Sum(&'a str, u64),
    Negated(&'a str),
    Number(u64),
    Vector(Vec<Raw<'a>>),
    Address(Box<Raw<'a>>, u64),
    Pair(Box<Raw<'a>>, Box<Raw<'a>>),
    Group(Vec<Raw<'a>>),
}

#[derive(Clone, Debug)]
pub(super) struct Declaration<'a> {
    pub(super) space: &'a str,
    pub(super) name: &'a str,
    pub(super) line: u32,
    pub(super) align: usize,
    pub(super) ty: Ty,
    /// Elements; none for an array without a length.
    pub(super) count: Option<usize>,
    pub(super) array: bool,
    /// A `%r<5>`: the number of registers.
    pub(super) range: Option<u32>,
    pub(super) bytes: Vec<u8>,
}

impl Declaration<'_> {
    pub(super) fn size(&self) -> usize {
        self.ty.size() * self.count.unwrap_or(0)
    }
}

/// File and line of a `.loc`, and of the call that was inlined there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Loc {
    pub(super) file: u32,
    pub(super) line: u32,
    pub(super) caller: Option<(u32, u32)>,
}

#[derive(Clone, Debug)]
pub(super) struct RawInstruction<'a> {
    pub(super) line: u32,
    pub(super) text: &'a str,
    /// The predicate, and whether it is negated.
    pub(super) guard: Option<(&'a str, bool)>,
    pub(super) opcode: &'a str,
    pub(super) operands: Vec<Raw<'a>>,
}

impl<'a> RawInstruction<'a> {
    pub(super) fn has(&self, part: &str) -> bool {
        self.opcode.split('.').skip(1).any(|p| p == part)
    }

    pub(super) fn stem(&self) -> &'a str {
        self.opcode.split('.').next().unwrap_or(self.opcode)
    }

    /// The first of these that is a part of the opcode, and what it stands for.
    pub(super) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        self.opcode
            .split('.')
            .skip(1)
            .find_map(|p| choices.iter().find(|(name, _)| *name == p))
            .map(|&(_, value)| value)
    }

    /// The types in the opcode, in their order.
    pub(super) fn types(&self) -> Vec<Ty> {
        self.opcode.split('.').skip(1).filter_map(Ty::parse).collect()
    }
}

#[derive(Clone, Debug)]
pub(super) enum Statement<'a> {
    Open,
    Close,
    Label(&'a str),
    Targets(&'a str, Vec<&'a str>),
    Declare(Declaration<'a>),
    Loc(Loc),
    Instruction(RawInstruction<'a>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) line: u32,
    pub(super) entry: bool,
    pub(super) returns: Vec<Declaration<'a>>,
    pub(super) params: Vec<Declaration<'a>>,
    pub(super) max_threads: Option<[u32; 3]>,
    pub(super) exact_threads: Option<[u32; 3]>,
    /// Absent where the module only declares it.
    pub(super) body: Option<Vec<Statement<'a>>>,
}

#[derive(Debug, Default)]
pub(super) struct RawModule<'a> {
    pub(super) target: u32,
    pub(super) version: (u32, u32),
    pub(super) files: Vec<(u32, &'a str)>,
    pub(super) variables: Vec<Declaration<'a>>,
    pub(super) functions: Vec<Function<'a>>,
}
