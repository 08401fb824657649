//! The Rust twins of the declarations in `kernels/params`: a module for each header there.
//! `build.rs` writes them; see `build/params.rs`.

use super::launch::{Kernel, KernelInfo, Parameters};
use super::pointer::{Ptr, PtrMut};

include!(concat!(env!("OUT_DIR"), "/params.rs"));
