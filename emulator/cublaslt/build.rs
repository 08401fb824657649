//! A library that needs libcuda.so, by which name the stand-in driver is loaded: symbols that are
//! looked for in the one are found in the other.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The linker wants to see what is needed. It is not loaded from here.
    let needed = Path::new(&std::env::var_os("OUT_DIR").unwrap_or_default()).join("libcuda.so");
    let linked = Command::new("cc")
        .args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-Wl,-soname,libcuda.so", "-o"])
        .arg(&needed)
        .status();
    assert!(linked.is_ok_and(|status| status.success()), "cc cannot link an empty library");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcublasLt.so.13,--no-as-needed");
    println!("cargo:rustc-cdylib-link-arg={}", needed.display());
}
