//! The decoded form of kernels. A module is decoded once, when it is loaded; the executor never
//! reads text.

mod op;
mod space;
mod special;
mod ty;

use std::sync::Arc;

pub(crate) use op::*;
pub(crate) use space::*;
pub(crate) use special::Special;
pub(crate) use ty::Ty;

/// The 32 lanes of one register.
pub(crate) type Lanes = [u64; 32];

/// The predicate `@p` of an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub(crate) reg: u32,
    pub(crate) negated: bool,
}

/// An instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub(crate) guard: Option<Guard>,
    pub(crate) op: Op,
    /// The line of the PTX text.
    pub(crate) line: u32,
    /// The index into the locations of the module.
    pub(crate) location: u32,
    pub(crate) text: Box<str>,
}

/// A line of a source file, and the line of the call if its function was inlined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) file: Arc<str>,
    pub(crate) line: u32,
    pub(crate) caller: Option<(Arc<str>, u32)>,
}

/// A parameter of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) offset: usize,
    pub(crate) size: usize,
}

/// A kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) params: Vec<Param>,
    pub(crate) param_bytes: usize,
    pub(crate) registers: usize,
    pub(crate) code: Vec<Instruction>,
    /// The constants among the operands, each once.
    pub(crate) constants: Vec<u64>,
    pub(crate) locations: Arc<Vec<Location>>,
    pub(crate) static_shared: usize,
    pub(crate) local_bytes: usize,
    /// The most threads of a block, of `__launch_bounds__`.
    pub(crate) max_threads: Option<usize>,
    /// The extents that a block must have, of `.reqntid`.
    pub(crate) exact_threads: Option<[u32; 3]>,
}

impl Kernel {
    /// Returns the source location of an instruction.
    pub(crate) fn location(&self, pc: usize) -> Option<&Location> {
        self.locations.get(self.code.get(pc)?.location as usize)
    }

    /// Returns file and line of an instruction, for people.
    pub(crate) fn source(&self, pc: usize) -> String {
        match self.location(pc) {
            Some(at) if at.line > 0 => match &at.caller {
                Some((file, line)) => format!("{}:{} inlined at {file}:{line}", at.file, at.line),
                None => format!("{}:{}", at.file, at.line),
            },
            _ => "source line unknown".into(),
        }
    }
}

/// A `__device__` or `__constant__` variable.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) size: usize,
    pub(crate) bytes: Vec<u8>,
}

/// A module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Module {
    pub(crate) kernels: Vec<Arc<Kernel>>,
    pub(crate) variables: Vec<Variable>,
    /// The compute capability of `.target sm_NN`, times ten.
    pub(crate) target: u32,
    /// Set if the module runs on this capability alone, as that of `sm_90a` does.
    pub(crate) is_exact: bool,
    /// The PTX version of `.version`: major and minor.
    pub(crate) version: (u32, u32),
}
