//! cudarc opens "libcuda.so"; the loader answers with a library that is already there under that
//! SONAME. The file itself must never have that name: cargo puts its folder on the library path,
//! where it would hide a real driver.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
