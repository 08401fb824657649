//! Tables hold the element types that every backend knows.
use bagdot::{DType, Element};

#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Byte(u8);

impl Element for Byte {
    const DTYPE: DType = DType::F16;
    fn to_f32(self) -> f32 {
        f32::from(self.0)
    }
    fn from_f32(value: f32) -> Self {
        Self(value as u8)
    }
    fn from_f32_stochastic(value: f32, _random: u32) -> Self {
        Self(value as u8)
    }
}

fn main() {}
