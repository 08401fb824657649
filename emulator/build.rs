//! Gives the library the SONAME libcuda.so. When cudarc opens "libcuda.so", the loader returns the
//! library that is already loaded under this SONAME. The file itself must never have this name:
//! cargo puts its folder on the library path, where it would hide a real driver.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
