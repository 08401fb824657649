//! Ids have the types that every backend knows.
use bagdot::Index;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Wide(u64);

impl Index for Wide {
    const MAX: u64 = u64::MAX;
    fn to_i64(self) -> i64 {
        self.0 as i64
    }
    fn from_usize(value: usize) -> Option<Self> {
        Some(Self(value as u64))
    }
}

fn main() {}
