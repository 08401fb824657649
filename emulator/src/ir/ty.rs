//! The types of PTX.

/// A type that an instruction gives to its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    BF16,
    F32,
    F64,
    Pred,
    Tf32,
    F16x2,
    BF16x2,
    U16x2,
    S16x2,
}

impl Ty {
    /// Returns the type that a part of an opcode names, if it names one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        use Ty::*;
        Some(match name {
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "bf16" => BF16,
            "f32" => F32,
            "f64" => F64,
            "pred" => Pred,
            "tf32" => Tf32,
            "f16x2" => F16x2,
            "bf16x2" => BF16x2,
            "u16x2" => U16x2,
            "s16x2" => S16x2,
            _ => return None,
        })
    }

    /// Returns the bytes of a value in memory.
    pub(crate) fn size(self) -> usize {
        use Ty::*;
        match self {
            B8 | U8 | S8 | Pred => 1,
            B16 | U16 | S16 | F16 | BF16 => 2,
            B32 | U32 | S32 | F32 | Tf32 | F16x2 | BF16x2 | U16x2 | S16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
        }
    }

    pub(crate) fn bits(self) -> u32 {
        self.size() as u32 * 8
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub(crate) fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::BF16 | Ty::F32 | Ty::F64 | Ty::Tf32)
    }

    /// Returns the type of the two halves of a packed type.
    pub(crate) fn half(self) -> Option<Self> {
        Some(match self {
            Ty::F16x2 => Ty::F16,
            Ty::BF16x2 => Ty::BF16,
            Ty::U16x2 => Ty::U16,
            Ty::S16x2 => Ty::S16,
            _ => return None,
        })
    }

    /// Returns the mask of the bits of a value.
    pub(crate) fn mask(self) -> u64 {
        match self {
            Ty::Pred => 1,
            _ => u64::MAX >> (64 - self.bits()),
        }
    }

    /// Returns the low bits as a number, sign-extended if the type is signed.
    pub(crate) fn extend(self, bits: u64) -> u64 {
        if self.signed() {
            let unused = 64 - self.bits();
            (((bits << unused) as i64) >> unused) as u64
        } else {
            bits & self.mask()
        }
    }
}
