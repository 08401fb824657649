//! The statements of a PTX module. Names are not resolved yet.

use crate::ir::Ty;

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw<'a> {
    Name(&'a str),
    /// A name and an offset outside of brackets.
    Sum(&'a str, u64),
    /// A negated predicate, `!%p1`.
    Negated(&'a str),
    Number(u64),
    /// Operands in braces.
    Vector(Vec<Raw<'a>>),
    /// An address in brackets.
    Address(Box<Raw<'a>>, u64),
    /// Two registers, `%r1|%p1`.
    Pair(Box<Raw<'a>>, Box<Raw<'a>>),
    /// Operands in parentheses.
    Group(Vec<Raw<'a>>),
}

/// A declaration of registers, of a variable or of a parameter.
#[derive(Clone, Debug)]
pub(super) struct Declaration<'a> {
    pub(super) space: &'a str,
    pub(super) name: &'a str,
    pub(super) line: u32,
    pub(super) align: usize,
    pub(super) ty: Ty,
    /// The number of elements; `None` for an array without a length.
    pub(super) count: Option<usize>,
    pub(super) array: bool,
    /// The number of registers of a declaration such as `%r<5>`.
    pub(super) range: Option<u32>,
    /// The initial value.
    pub(super) bytes: Vec<u8>,
}

impl Declaration<'_> {
    /// Returns the bytes of the variable.
    pub(super) fn size(&self) -> usize {
        self.ty.size() * self.count.unwrap_or(0)
    }
}

/// The file and line of a `.loc`, and those of the call if the function was inlined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Loc {
    pub(super) file: u32,
    pub(super) line: u32,
    pub(super) caller: Option<(u32, u32)>,
}

/// An instruction.
#[derive(Clone, Debug)]
pub(super) struct RawInstruction<'a> {
    pub(super) line: u32,
    pub(super) text: &'a str,
    /// The predicate of the instruction, and whether it is negated.
    pub(super) guard: Option<(&'a str, bool)>,
    pub(super) opcode: &'a str,
    pub(super) operands: Vec<Raw<'a>>,
}

impl<'a> RawInstruction<'a> {
    /// Returns whether the opcode has this part.
    pub(super) fn has(&self, part: &str) -> bool {
        self.opcode.split('.').skip(1).any(|p| p == part)
    }

    /// Returns the first part of the opcode.
    pub(super) fn stem(&self) -> &'a str {
        self.opcode.split('.').next().unwrap_or(self.opcode)
    }

    /// Returns the value of the first part of the opcode that is among the choices.
    pub(super) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        self.opcode
            .split('.')
            .skip(1)
            .find_map(|p| choices.iter().find(|(name, _)| *name == p))
            .map(|&(_, value)| value)
    }

    /// Returns the types in the opcode, in their order.
    pub(super) fn types(&self) -> Vec<Ty> {
        self.opcode.split('.').skip(1).filter_map(Ty::parse).collect()
    }
}

/// A statement of a function.
#[derive(Clone, Debug)]
pub(super) enum Statement<'a> {
    /// The beginning of a block.
    Open,
    /// The end of a block.
    Close,
    Label(&'a str),
    /// A table of branch targets.
    Targets(&'a str, Vec<&'a str>),
    Declare(Declaration<'a>),
    Loc(Loc),
    Instruction(RawInstruction<'a>),
}

/// A function or kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) line: u32,
    /// Set for a kernel.
    pub(super) entry: bool,
    pub(super) returns: Vec<Declaration<'a>>,
    pub(super) params: Vec<Declaration<'a>>,
    pub(super) max_threads: Option<[u32; 3]>,
    pub(super) exact_threads: Option<[u32; 3]>,
    /// The statements; `None` if the module only declares the function.
    pub(super) body: Option<Vec<Statement<'a>>>,
}

/// A module.
#[derive(Debug, Default)]
pub(super) struct RawModule<'a> {
    pub(super) target: u32,
    pub(super) is_exact: bool,
    pub(super) version: (u32, u32),
    pub(super) files: Vec<(u32, &'a str)>,
    pub(super) variables: Vec<Declaration<'a>>,
    pub(super) functions: Vec<Function<'a>>,
}
