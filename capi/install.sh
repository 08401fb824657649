#!/usr/bin/env bash
# Builds the C library and installs it: install.sh PREFIX [release|dev]
#
# It puts bagdot.h and bagdot.hpp into PREFIX/include, libbagdot.so and libbagdot.a into PREFIX/lib,
# and what pkg-config and CMake need to find them below PREFIX/lib. NVCC=none leaves out the CUDA
# kernels, which otherwise need nvcc: see scripts/nvcc.sh.
set -euo pipefail
prefix=${1:?usage: install.sh PREFIX [release|dev]}
profile=${2:-release}
mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
cd "$(dirname "$0")"

# The system libraries that the static library needs, as rustc --print native-static-libs says.
static_libs="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"
cargo build --lib --profile "$profile"

target=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
abi=$(sed -n 's/.*BAGDOT_ABI_VERSION: u32 = \([0-9]*\);/\1/p' src/context.rs)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
fill() {
    sed -e "s|@PREFIX@|$prefix|" -e "s|@VERSION@|$version|" -e "s|@ABI@|$abi|" \
        -e "s|@STATIC_LIBS@|$static_libs|" "$1"
}
mkdir -p "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake/bagdot"
install -m 644 include/bagdot.h include/bagdot.hpp "$prefix/include"
install -m 755 "$target/libbagdot.so" "$prefix/lib/libbagdot.so.$abi"
ln -sf "libbagdot.so.$abi" "$prefix/lib/libbagdot.so"
install -m 644 "$target/libbagdot.a" "$prefix/lib"
fill bagdot.pc.in > "$prefix/lib/pkgconfig/bagdot.pc"
fill cmake/bagdotConfig.cmake.in > "$prefix/lib/cmake/bagdot/bagdotConfig.cmake"
fill cmake/bagdotConfigVersion.cmake.in > "$prefix/lib/cmake/bagdot/bagdotConfigVersion.cmake"
echo "bagdot $version in $prefix"
