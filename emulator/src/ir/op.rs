//! Operations and their operands.

use super::space::Space;
use super::special::Special;
use super::ty::Ty;

/// An operand that is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operand {
    Reg(u32),
    /// The negation of a predicate register.
    Not(u32),
    /// A number. Lowering replaces it with a constant of the kernel.
    Imm(u64),
    Const(u32),
    Special(Special),
    /// The address of a variable of the module.
    Variable(u32),
}

/// An address: an operand and an offset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Address {
    pub(crate) base: Operand,
    pub(crate) offset: u64,
}

/// The direction in which a result is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rounding {
    #[default]
    Nearest,
    NearestAway,
    Zero,
    Down,
    Up,
}

/// The modifiers of an arithmetic opcode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mods {
    pub(crate) rounding: Rounding,
    /// Set if denormal inputs and results of single precision become zero.
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    /// Set if a NaN among the inputs of min and max is the result.
    pub(crate) nan: bool,
    pub(crate) relu: bool,
}

/// An arithmetic or logic operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alu {
    Add,
    Sub,
    Mul,
    MulHi,
    MulWide,
    Mad,
    MadHi,
    MadWide,
    Mul24,
    Mad24,
    Fma,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Shl,
    Shr,
    Neg,
    Abs,
    Popc,
    Clz,
    Brev,
    Bfind,
    BfindShift,
    Bfe,
    Bfi,
    Bmsk,
    Prmt(PrmtMode),
    Lop3(u8),
    ShfL,
    ShfR,
    ShfLClamp,
    ShfRClamp,
    Selp,
    Slct,
    Mov,
    Sad,
    Dp4a,
    Rcp,
    Sqrt,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
    Copysign,
    Testp(FloatClass),
    AddressOf(Space),
    AddressIn(Space),
    IsSpace(Space),
}

/// An operation that reads or writes the carry flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHi,
}

/// The modifiers of an operation with a carry flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carry {
    pub(crate) op: CarryOp,
    pub(crate) ty: Ty,
    /// The register that stands for the flag.
    pub(crate) flag: u32,
    /// Set if the flag is read.
    pub(crate) takes: bool,
    /// Set if the flag is written.
    pub(crate) sets: bool,
}

/// The mode of `prmt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrmtMode {
    Index,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

/// The class of floating-point values that `testp` tests for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatClass {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// The relation that a comparison tests for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Num,
    Nan,
}

/// The operation that joins a comparison with a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// A comparison, joined with a predicate if the opcode says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compare {
    pub(crate) cmp: Cmp,
    /// Set if the comparison holds for NaNs.
    pub(crate) unordered: bool,
    pub(crate) ty: Ty,
    pub(crate) ftz: bool,
    pub(crate) a: Operand,
    pub(crate) b: Operand,
    pub(crate) join: Option<(Logic, Operand)>,
}

/// A conversion between types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convert {
    pub(crate) to: Ty,
    pub(crate) from: Ty,
    /// The direction in which the value is rounded to an integer first.
    pub(crate) integer: Option<Rounding>,
    pub(crate) mods: Mods,
}

/// The memory-order modifiers of a load or store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// Set for volatile, relaxed, acquire and release accesses. Two strong accesses never race.
    pub(crate) strong: bool,
    pub(crate) release: bool,
    /// Set for loads through the read-only cache.
    pub(crate) read_only: bool,
}

/// A load or store of 1 to 8 registers.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) space: Space,
    pub(crate) ty: Ty,
    pub(crate) access: Access,
    pub(crate) address: Address,
    pub(crate) values: Box<[Operand]>,
}

/// The operation of an atomic instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    Cas,
    Inc,
    Dec,
}

/// An atomic instruction.
#[derive(Clone, Debug)]
pub(crate) struct Atomic {
    pub(crate) space: Space,
    pub(crate) ty: Ty,
    pub(crate) op: AtomicOp,
    pub(crate) release: bool,
    pub(crate) address: Address,
    /// The register of the old value of each element, if it is wanted.
    pub(crate) old: Box<[Option<u32>]>,
    pub(crate) values: Box<[Operand]>,
    /// The new value of a compare-and-swap.
    pub(crate) swap: Option<Operand>,
}

/// The kind of a barrier instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    Count,
    And,
    Or,
}

/// A barrier instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier {
    pub(crate) kind: BarrierKind,
    pub(crate) id: Operand,
    /// The number of threads that it is for; `None` for all of the block.
    pub(crate) count: Option<Operand>,
    /// The register of the result and the predicate, in a reduction.
    pub(crate) reduce: Option<(u32, Operand)>,
}

/// The mode of a shuffle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

/// The mode of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    Ballot,
    Any,
    All,
    Uniform,
}

/// An instruction that lanes of a warp execute together: each waits for the others in its mask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Collective {
    Shuffle {
        mode: ShuffleMode,
        d: u32,
        found: Option<u32>,
        value: Operand,
        lane: Operand,
        clamp: Operand,
    },
    Vote {
        mode: VoteMode,
        d: u32,
        predicate: Operand,
    },
    Match {
        all: bool,
        mask: u64,
        d: u32,
        found: Option<u32>,
        value: Operand,
    },
    Redux {
        op: AtomicOp,
        ty: Ty,
        d: u32,
        value: Operand,
    },
    SyncWarp,
    LdMatrix {
        count: usize,
        transposed: bool,
        d: [u32; 4],
        address: Address,
    },
    Mma {
        shape: MmaShape,
        d: [u32; 4],
        a: [Operand; 4],
        b: [Operand; 2],
        c: [Operand; 4],
    },
}

/// The element type of a 16 x 8 matrix product, and its inner dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MmaShape {
    pub(crate) ty: Ty,
    pub(crate) k: usize,
    /// Set if accumulators are of half precision, two values in a register.
    pub(crate) half: bool,
}

/// An asynchronous copy from global to shared memory.
#[derive(Clone, Debug)]
pub(crate) struct CopyAsync {
    pub(crate) bytes: usize,
    pub(crate) to: Address,
    pub(crate) from: Address,
    /// The number of bytes that are read; the rest of the destination becomes zero.
    pub(crate) from_bytes: Option<Operand>,
    /// The predicate under which the whole destination becomes zero.
    pub(crate) ignore: Option<Operand>,
}

/// An operation. `d` is the register of the result.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Alu { op: Alu, ty: Ty, mods: Mods, d: u32, s: [Operand; 4] },
    Carry { carry: Carry, d: u32, s: [Operand; 3] },
    SetPredicate { compare: Compare, d: Option<u32>, opposite: Option<u32> },
    SetValue { compare: Compare, to: Ty, d: u32 },
    Convert { convert: Convert, d: u32, a: Operand, b: Option<Operand> },
    Pack { bits: u32, d: u32, parts: Box<[Operand]> },
    Unpack { bits: u32, parts: Box<[Option<u32>]>, a: Operand },
    Load(Transfer),
    Store(Transfer),
    Atomic(Atomic),
    Branch(u32),
    BranchIndexed(Box<[u32]>, Operand),
    Exit,
    Trap,
    Barrier(Barrier),
    Collective { what: Collective, mask: Operand },
    ActiveMask(u32),
    CopyAsync(CopyAsync),
    CopyCommit,
    CopyWait(Option<Operand>),
    Fence,
    Nothing,
    Unsupported(Box<str>),
}

impl Op {
    /// Calls `f` with all operands that are not predicates.
    pub(crate) fn for_each_value(&mut self, f: &mut impl FnMut(&mut Operand)) {
        match self {
            Op::Alu { s, .. } => s.iter_mut().for_each(f),
            Op::Carry { s, .. } => s.iter_mut().for_each(f),
            Op::SetPredicate { compare, .. } | Op::SetValue { compare, .. } => {
                f(&mut compare.a);
                f(&mut compare.b);
            }
            Op::Convert { a, b, .. } => {
                f(a);
                b.iter_mut().for_each(f);
            }
            Op::Pack { parts, .. } => parts.iter_mut().for_each(f),
            Op::Unpack { a, .. } => f(a),
            Op::Load(t) => f(&mut t.address.base),
            Op::Store(t) => {
                f(&mut t.address.base);
                t.values.iter_mut().for_each(f);
            }
            Op::Atomic(a) => {
                f(&mut a.address.base);
                a.values.iter_mut().for_each(&mut *f);
                a.swap.iter_mut().for_each(f);
            }
            Op::BranchIndexed(_, index) => f(index),
            Op::Barrier(b) => {
                f(&mut b.id);
                b.count.iter_mut().for_each(f);
            }
            Op::Collective { what, mask } => {
                f(mask);
                what.for_each_value(f);
            }
            Op::CopyAsync(copy) => {
                f(&mut copy.to.base);
                f(&mut copy.from.base);
                copy.from_bytes.iter_mut().for_each(f);
            }
            Op::CopyWait(keep) => keep.iter_mut().for_each(f),
            _ => {}
        }
    }
}

impl Collective {
    fn for_each_value(&mut self, f: &mut impl FnMut(&mut Operand)) {
        match self {
            Collective::Shuffle { value, lane, clamp, .. } => {
                [value, lane, clamp].into_iter().for_each(f)
            }
            Collective::Match { value, .. } | Collective::Redux { value, .. } => f(value),
            Collective::LdMatrix { address, .. } => f(&mut address.base),
            Collective::Mma { a, b, c, .. } => a.iter_mut().chain(b).chain(c).for_each(f),
            Collective::Vote { .. } | Collective::SyncWarp => {}
        }
    }
}
