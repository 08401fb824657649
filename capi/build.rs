//! Names the shared library after the version of its interface.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/context.rs");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libbagdot.so.{}", abi_version());
    }
}

/// Reads `BAGDOT_ABI_VERSION`.
fn abi_version() -> u32 {
    let source = fs::read_to_string(Path::new("src/context.rs")).unwrap_or_default();
    let number = source
        .split_once("BAGDOT_ABI_VERSION: u32 = ")
        .and_then(|(_, rest)| rest.split_once(';'))
        .and_then(|(number, _)| number.parse().ok());
    number.unwrap_or_else(|| {
        eprintln!("src/context.rs declares no BAGDOT_ABI_VERSION");
        std::process::exit(1)
    })
}
