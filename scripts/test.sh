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

step package
cargo package --list --allow-dirty | sort > target/package-files.txt
for file in Cargo.toml README.md LICENSE-MIT LICENSE-APACHE build.rs kernels/embedding_bag.cu src/lib.rs examples/clothing.toml data/clothing/reviews.csv.gz; do
    grep -qx "$file" target/package-files.txt || { echo "the package lacks $file"; exit 1; }
done
echo "$(wc -l < target/package-files.txt) files in the package"
