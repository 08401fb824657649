//! The address spaces of PTX, and where they lie among the generic addresses.

/// The memory that an instruction addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Local,
    Param,
    Generic,
}

/// The generic address at which the window of shared memory begins.
pub(crate) const SHARED_WINDOW: u64 = 1 << 40;
/// The generic address at which the window of local memory begins.
pub(crate) const LOCAL_WINDOW: u64 = 2 << 40;
/// The generic address at which the window of the kernel's parameters begins.
pub(crate) const PARAM_WINDOW: u64 = 3 << 40;
/// Bytes of each window.
const WINDOW_BYTES: u64 = 1 << 32;

impl Space {
    /// Returns the generic address at which the window of this space begins. Global addresses are
    /// generic ones as they are.
    pub(crate) fn window(self) -> u64 {
        match self {
            Self::Shared => SHARED_WINDOW,
            Self::Local => LOCAL_WINDOW,
            Self::Param => PARAM_WINDOW,
            Self::Global | Self::Generic => 0,
        }
    }

    /// Returns the space that a generic address lies in.
    pub(crate) fn of(address: u64) -> Self {
        [Self::Shared, Self::Local, Self::Param]
            .into_iter()
            .find(|space| address.wrapping_sub(space.window()) < WINDOW_BYTES)
            .unwrap_or(Self::Global)
    }
}
