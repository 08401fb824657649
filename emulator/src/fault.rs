//! What can be wrong with a kernel, and where.

use std::fmt;

/// The ways in which a kernel can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access that is not wholly inside one allocation.
    OutOfBounds,
    /// An access to memory that has been freed.
    UseAfterFree,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// A read of bytes that nobody has written.
    Uninitialised,
    /// Accesses to shared memory that nothing orders, one of them a write.
    SharedRace,
    /// Accesses to global memory that nothing orders, one of them a write.
    GlobalRace,
    /// A read through the read-only path of data that the same launch has written.
    ReadOnlyWritten,
    /// An access to the destination of an asynchronous copy that has not been waited for; of the
    /// host, to its source in pinned memory.
    CopyPending,
    /// A barrier that some threads of the block do not reach, or reach at another place of the
    /// code.
    DivergentBarrier,
    /// A shuffle, vote, match, matrix or warp barrier that a lane named in its mask does not reach.
    DivergedCollective,
    /// The launch ran longer than the limit.
    StepLimit,
    /// An opcode, or a form of one, that the emulator does not know.
    UnknownOpcode,
    /// The kernel gave up (`trap`).
    Trap,
}

impl FaultKind {
    /// Whether it is a race, which often causes what else is found.
    pub(crate) fn is_race(self) -> bool {
        matches!(self, Self::SharedRace | Self::GlobalRace)
    }

    /// The name that reports begin with.
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfBounds => "out of bounds",
            Self::UseAfterFree => "use after free",
            Self::Misaligned => "misaligned access",
            Self::Uninitialised => "uninitialised read",
            Self::SharedRace => "race in shared memory",
            Self::GlobalRace => "race in global memory",
            Self::ReadOnlyWritten => "read-only path to written data",
            Self::CopyPending => "asynchronous copy not waited for",
            Self::DivergentBarrier => "divergent barrier",
            Self::DivergedCollective => "diverged warp instruction",
            Self::StepLimit => "step limit",
            Self::UnknownOpcode => "unknown opcode",
            Self::Trap => "trap",
        }
    }
}

/// One thing that is wrong, and the place where it showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// The kernel's name.
    pub kernel: String,
    /// The block's index in the grid.
    pub block: [u32; 3],
    /// The warp's index in the block.
    pub warp: u32,
    /// The lane that it happened to, or the first of several.
    pub lane: u32,
    /// The line of the PTX text.
    pub ptx_line: u32,
    /// File and line of the CUDA source, as far as the module says them.
    pub source: String,
    /// The instruction.
    pub instruction: String,
    /// Addresses, sizes, and the other side of a race.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(
            f,
            "{}: kernel {}, block ({x}, {y}, {z}), warp {}, lane {}, PTX line {}, {}: `{}`: {}",
            self.kind.name(),
            self.kernel,
            self.warp,
            self.lane,
            self.ptx_line,
            self.source,
            self.instruction,
            self.detail
        )
    }
}

/// What an instruction reports; the executor adds the place.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: FaultKind,
    pub(crate) lane: u32,
    pub(crate) detail: String,
    /// Warp and instruction, where they are not those that ran.
    pub(crate) place: Option<(usize, usize)>,
}

impl Problem {
    pub(crate) fn new(kind: FaultKind, lane: usize, detail: impl Into<String>) -> Self {
        Self { kind, lane: lane as u32, detail: detail.into(), place: None }
    }

    pub(crate) fn at(self, warp: usize, pc: usize) -> Self {
        Self { place: Some((warp, pc)), ..self }
    }
}
