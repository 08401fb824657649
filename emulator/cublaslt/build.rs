//! Links the library with libcuda.so, the name under which the stand-in driver is loaded. The
//! loader then finds the symbols of the driver when it searches this library.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The linker needs a file of this name. It is not loaded from here.
    let needed = Path::new(&std::env::var_os("OUT_DIR").unwrap_or_default()).join("libcuda.so");
    let linked = Command::new("cc")
        .args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-Wl,-soname,libcuda.so", "-o"])
        .arg(&needed)
        .status();
    assert!(linked.is_ok_and(|status| status.success()), "cc cannot link an empty library");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcublasLt.so.13,--no-as-needed");
    println!("cargo:rustc-cdylib-link-arg={}", needed.display());
}
