//! bagdot for C, C++ and everything that calls C: a function for each op, on the CPU and on CUDA.
//!
//! cbindgen (`header/`) makes `include/bagdot.h` of this crate; `docs/c.md` is the guide. Each op
//! has a file with the name that it has in the library. `device.rs` makes the views that ops take
//! of the caller's pointers, `types.rs` has the structs that several ops share.
//!
//! Every function of the interface runs inside [`error::guard`], so that no panic leaves the
//! library, and says under *Safety* what its caller promises. What can be checked without reading
//! memory that the caller did not name is checked: null and misaligned pointers, sizes, types.

// An interface of C has names of its own, and its functions have more arguments than those of Rust.
#![allow(non_camel_case_types, clippy::upper_case_acronyms, clippy::too_many_arguments)]

pub mod cast;
pub mod context;
pub mod dense_update;
pub mod device;
pub mod embedding_bag;
pub mod error;
pub mod finite_check;
pub mod head;
pub mod index_sort;
pub mod interaction;
pub mod linear;
pub mod loss;
pub mod moving_average;
pub mod pooled_interaction;
pub mod sparse_update;
pub mod tables;
#[cfg(target_os = "linux")]
pub mod tvm_ffi;
pub mod types;
