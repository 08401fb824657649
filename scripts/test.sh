#!/usr/bin/env bash
# Everything that must hold before a change goes in. Needs a Rust toolchain and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step format
cargo fmt --all --check

step lints, for every set of features
export RUSTFLAGS="${RUSTFLAGS:--D warnings}"
cargo clippy --all-targets -- -D warnings
for features in "" train cuda; do
    cargo clippy --lib --no-default-features --features "$features" -- -D warnings
done

step tests
cargo test

step documentation
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --features cuda

step "the README's commands"
scripts/readme_commands.sh

step package
cargo package --list --allow-dirty | sort > target/package-files.txt
for file in Cargo.toml README.md LICENSE-MIT LICENSE-APACHE src/lib.rs examples/clothing.toml data/clothing/reviews.csv.gz; do
    grep -qx "$file" target/package-files.txt || { echo "the package lacks $file"; exit 1; }
done
echo "$(wc -l < target/package-files.txt) files in the package"
