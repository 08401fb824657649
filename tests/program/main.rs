//! The tests of the `bagdot` program. They are apart from those of the library, so that no generic
//! code is compiled for them.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Helpers that modules share are `pub`.
#![allow(unreachable_pub)]

mod cli;
mod common;
#[cfg(target_os = "linux")]
mod crash;
mod evaluation;
mod files;
mod help;
mod hostile;
mod init;
mod interchange;
mod measure;
mod onward;
mod precision;
mod report;
mod signals;
mod sizes;
mod unknown;
