//! The known parts of opcodes. Decoders look for the parts that they handle; this list ensures that
//! no other part is ignored.

use crate::ir::Ty;

/// Parts of arithmetic opcodes.
const COMPUTING: &[&str] = &[
    "approx",
    "full",
    "rn",
    "rz",
    "rm",
    "rp",
    "rna",
    "rni",
    "rzi",
    "rmi",
    "rpi",
    "ftz",
    "noftz",
    "sat",
    "relu",
    "NaN",
    "lo",
    "hi",
    "wide",
    "cc",
    "shiftamt",
    "clamp",
    "wrap",
    "l",
    "r",
    "f4e",
    "b4e",
    "rc8",
    "ecl",
    "ecr",
    "rc16",
    "finite",
    "infinite",
    "number",
    "notanumber",
    "normal",
    "subnormal",
    "to",
    "fractional",
];
/// Parts of comparisons.
const COMPARING: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "ls", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu",
    "num", "nan", "and", "or", "xor",
];
/// Parts of memory accesses: spaces, orders, scopes, caches and vectors. Each block is a cluster of
/// its own, so that the scopes of cluster and block are the same.
const MEMORY: &[&str] = &[
    "global",
    "const",
    "shared",
    "shared::cta",
    "local",
    "param",
    "param::entry",
    "param::func",
    "volatile",
    "weak",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "sc",
    "mmio",
    "cta",
    "cluster",
    "gpu",
    "gl",
    "sys",
    "nc",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "v2",
    "v4",
    "v8",
    "L1",
    "L2",
];
/// Parts of atomic operations, barriers and warp instructions.
const TOGETHER: &[&str] = &[
    "add",
    "min",
    "max",
    "exch",
    "cas",
    "inc",
    "dec",
    "sync",
    "aligned",
    "warp",
    "arrive",
    "red",
    "popc",
    "up",
    "down",
    "bfly",
    "idx",
    "ballot",
    "any",
    "all",
    "uni",
    "async",
    "commit_group",
    "wait_group",
    "wait_all",
    "wait",
    "launch_dependents",
    "m16n8k4",
    "m16n8k8",
    "m16n8k16",
    "row",
    "col",
    "m8n8",
    "x1",
    "x2",
    "x4",
    "trans",
];

/// Returns whether all parts of an opcode after its stem are known.
pub(super) fn all_known(opcode: &str) -> bool {
    let known = |part: &str| {
        let hint = part.starts_with("L1::") || part.starts_with("L2::");
        hint || Ty::parse(part).is_some()
            || [COMPUTING, COMPARING, MEMORY, TOGETHER].iter().any(|all| all.contains(&part))
    };
    opcode.split('.').skip(1).all(known)
}
