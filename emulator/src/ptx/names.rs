//! The names in a function, and their meaning.

use std::collections::HashMap;

use crate::ir::Special;

/// The place of a variable or parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Shared(u64),
    /// Dynamic shared memory. It follows the static one, whose size is known only when the whole
    /// kernel has been read.
    DynamicShared,
    Local(u64),
    KernelParam(u64),
    Variable(u32),
}

/// The names of one inlined function, those of the innermost block last.
#[derive(Default)]
pub(super) struct Scope<'a> {
    pub(super) registers: Vec<HashMap<&'a str, u32>>,
    /// The prefix of a declaration such as `%r<5>`, its first register and their number.
    pub(super) ranges: Vec<HashMap<&'a str, (u32, u32)>>,
    pub(super) places: Vec<HashMap<&'a str, Place>>,
    /// The labels of each table of branch targets.
    pub(super) targets: HashMap<&'a str, Vec<&'a str>>,
    /// The register that stands for the carry flag: register 0.
    pub(super) flag: u32,
}

impl<'a> Scope<'a> {
    pub(super) fn open(&mut self) {
        self.registers.push(HashMap::new());
        self.ranges.push(HashMap::new());
        self.places.push(HashMap::new());
    }

    pub(super) fn close(&mut self) {
        self.registers.pop();
        self.ranges.pop();
        self.places.pop();
    }

    pub(super) fn register(&self, name: &str) -> Option<u32> {
        if let Some(&found) = self.registers.iter().rev().find_map(|names| names.get(name)) {
            return Some(found);
        }
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, index) = (&name[..digits], name[digits..].parse::<u32>().ok()?);
        let &(first, count) = self.ranges.iter().rev().find_map(|ranges| ranges.get(prefix))?;
        (index < count).then_some(first + index)
    }

    pub(super) fn place(&self, name: &str) -> Option<Place> {
        self.places.iter().rev().find_map(|names| names.get(name)).copied()
    }

    pub(super) fn targets(&self, table: &str) -> Option<&[&'a str]> {
        self.targets.get(table).map(Vec::as_slice)
    }
}

/// Returns the value of a special register about clusters or grids. Each block is a cluster of its
/// own.
pub(super) fn cluster_of_one(name: &str) -> Option<u64> {
    let stem = name.split('.').next().unwrap_or(name);
    Some(match stem {
        "%cluster_nctaid" | "%cluster_nctarank" => 1,
        "%cluster_ctaid" | "%cluster_ctarank" | "%is_explicit_cluster" | "%gridid" => 0,
        _ => return None,
    })
}

/// Returns the special register of a name.
pub(super) fn special(name: &str) -> Option<Special> {
    let axis = |name: &str| match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    Some(match name {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::WarpCount,
        "WARP_SZ" => Special::WarpSize,
        "%lanemask_lt" => Special::MaskLt,
        "%lanemask_le" => Special::MaskLe,
        "%lanemask_gt" => Special::MaskGt,
        "%lanemask_ge" => Special::MaskGe,
        "%lanemask_eq" => Special::MaskEq,
        "%smid" => Special::Sm,
        "%nsmid" => Special::SmCount,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%clock" | "%clock64" | "%globaltimer" | "%clock_hi" | "%globaltimer_lo" => Special::Clock,
        _ => {
            let (stem, of) = name.split_once('.')?;
            match stem {
                "%tid" => Special::Tid(axis(of)?),
                "%ntid" => Special::Ntid(axis(of)?),
                "%ctaid" | "%clusterid" => Special::Ctaid(axis(of)?),
                "%nctaid" | "%nclusterid" => Special::Nctaid(axis(of)?),
                _ => return None,
            }
        }
    })
}
