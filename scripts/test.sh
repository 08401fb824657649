#!/usr/bin/env bash
# Everything that must hold before a change goes in. Needs Rust, gcc, and python3 with pip; no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "the CUDA compiler"
scripts/nvcc.sh
export BAGDOT_REQUIRE_NVCC=1

step format
cargo fmt --all --check

step lints, for every set of features
export RUSTFLAGS="${RUSTFLAGS:--D warnings}"
cargo clippy --workspace --all-targets -- -D warnings
for features in "" train cuda; do
    cargo clippy --lib --no-default-features --features "$features" -- -D warnings
done

step tests
cargo test --workspace

step documentation
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

step "the README's commands"
scripts/readme_commands.sh

step "package, as its users get it"
scripts/test_package.sh

step "bundle for a GPU machine, tried on the stand-in driver"
scripts/gpu_bundle.sh --with-emulator
BAGDOT_BUNDLE_EMULATED=1 target/gpu_bundle_emulated/run.sh target/gpu_bundle_emulated/results.json
