//! Executes kernels.
//!
//! From the bottom up: `known`, `clock` and `shadow` are the state of the checks; `memory`,
//! `shared`, `warp` and `block` are what a launch works on; `machine` is a launch with its operands
//! and reports. On it stand the instructions: `fence`, `access`, `atomic`, `copy`, `collective` and
//! `barrier`. `step` executes one instruction of one warp, and `run` a whole grid.

mod access;
mod atomic;
mod barrier;
mod block;
mod clock;
mod collective;
mod config;
mod copy;
mod fence;
mod known;
mod machine;
mod memory;
mod random;
mod run;
mod shadow;
mod shared;
mod special;
mod step;
mod warp;

pub(crate) use config::SM_COUNT;
pub(crate) use memory::Memory;
pub(crate) use random::Random;
pub(crate) use run::{LaunchArgs, launch};
pub(crate) use shadow::Run;

pub use config::{Config, Grid, Schedule};
