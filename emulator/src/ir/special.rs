//! The special registers.

/// A special register: the hardware provides its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    WarpCount,
    WarpSize,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    MaskEq,
    Sm,
    SmCount,
    /// Bytes of dynamic shared memory.
    DynamicShared,
    /// The address of dynamic shared memory.
    DynamicStart,
    TotalShared,
    Clock,
}

impl Special {
    /// All special registers, in the order of [`Self::index`].
    pub(crate) const ALL: [Self; 27] = [
        Self::Tid(0),
        Self::Tid(1),
        Self::Tid(2),
        Self::Ntid(0),
        Self::Ntid(1),
        Self::Ntid(2),
        Self::Ctaid(0),
        Self::Ctaid(1),
        Self::Ctaid(2),
        Self::Nctaid(0),
        Self::Nctaid(1),
        Self::Nctaid(2),
        Self::Lane,
        Self::Warp,
        Self::WarpCount,
        Self::WarpSize,
        Self::MaskLt,
        Self::MaskLe,
        Self::MaskGt,
        Self::MaskGe,
        Self::MaskEq,
        Self::Sm,
        Self::SmCount,
        Self::DynamicShared,
        Self::DynamicStart,
        Self::TotalShared,
        Self::Clock,
    ];

    /// Returns the position in [`Self::ALL`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Tid(axis) => usize::from(axis),
            Self::Ntid(axis) => 3 + usize::from(axis),
            Self::Ctaid(axis) => 6 + usize::from(axis),
            Self::Nctaid(axis) => 9 + usize::from(axis),
            other => Self::ALL.iter().skip(12).position(|&one| one == other).map_or(0, |k| k + 12),
        }
    }
}
