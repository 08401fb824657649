#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "train")]
pub mod data;
mod dtype;
mod error;
mod jagged;
pub mod nn;
pub mod ops;
mod philox;
mod simd;
mod size;
#[cfg(feature = "train")]
pub mod train;

pub use backend::cpu::{Cpu, Simd};
#[cfg(feature = "cuda")]
pub use backend::cuda::Cuda;
pub use dtype::{DType, Element, Index, Scalar, bf16, f16};
pub use error::{Error, OffsetRule, Result};
pub use jagged::{Jagged, check_offsets};
pub use philox::{Philox, philox4x32};
