//! Where ops run.

pub mod cpu;
