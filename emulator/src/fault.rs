//! The faults of kernels, and their places.

use std::fmt;

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access that is not wholly inside one allocation.
    OutOfBounds,
    /// An access to memory that has been freed.
    UseAfterFree,
    /// An access whose address is not a multiple of its size.
    Misaligned,
    /// A read of bytes that nobody has written.
    Uninitialised,
    /// Two accesses to shared memory that nothing orders, at least one of them a write.
    SharedRace,
    /// Two accesses to global memory that nothing orders, at least one of them a write.
    GlobalRace,
    /// A read through the read-only cache of data that the same launch has written.
    ReadOnlyWritten,
    /// An access to the destination of an asynchronous copy that has not been waited for, or a
    /// write by the host to its source in pinned memory, or a free of that memory.
    CopyPending,
    /// A barrier that some threads of the block do not reach, or reach at another instruction.
    DivergentBarrier,
    /// A shuffle, vote, match, warp barrier or matrix instruction that a lane of its mask does not
    /// reach.
    DivergedCollective,
    /// A launch that executed more instructions than its limit.
    StepLimit,
    /// An opcode, or a form of one, that the emulator cannot execute.
    UnknownOpcode,
    /// A kernel that stopped itself (`trap`), as a failed assertion does.
    Trap,
}

impl FaultKind {
    /// Returns whether this is a race. A race often causes other faults.
    pub(crate) fn is_race(self) -> bool {
        matches!(self, Self::SharedRace | Self::GlobalRace)
    }

    /// Returns the name that reports begin with.
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

/// A fault, and the place where it appeared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind of the fault.
    pub kind: FaultKind,
    /// The kernel's name.
    pub kernel: String,
    /// The block's index in the grid.
    pub block: [u32; 3],
    /// The warp's index in the block.
    pub warp: u32,
    /// The index of the lane in the warp; the first of several.
    pub lane: u32,
    /// The line of the PTX text.
    pub ptx_line: u32,
    /// File and line of the CUDA source, if the module has line information.
    pub source: String,
    /// The text of the instruction.
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

/// A fault that an instruction reports. The executor adds the place.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: FaultKind,
    pub(crate) lane: u32,
    pub(crate) detail: String,
    /// The warp and the instruction of the fault, if they are not the ones that ran.
    pub(crate) place: Option<(usize, usize)>,
}

impl Problem {
    pub(crate) fn new(kind: FaultKind, lane: usize, detail: impl Into<String>) -> Self {
        Self { kind, lane: lane as u32, detail: detail.into(), place: None }
    }

    /// Returns the problem with another place.
    pub(crate) fn at(self, warp: usize, pc: usize) -> Self {
        Self { place: Some((warp, pc)), ..self }
    }
}
