//! The Rust twins of the declarations in `kernels/params`: a module for each header there.
//! `build.rs` writes them; see `build/params.rs`.

use super::launch::{Kernel, KernelInfo, Parameters};
use super::pointer::{Ptr, PtrMut};

include!(concat!(env!("OUT_DIR"), "/params.rs"));

impl From<crate::dtype::DType> for dtype::DType {
    fn from(dtype: crate::dtype::DType) -> Self {
        match dtype {
            crate::dtype::DType::F32 => Self::F32,
            crate::dtype::DType::F16 => Self::F16,
            crate::dtype::DType::BF16 => Self::Bf16,
        }
    }
}
