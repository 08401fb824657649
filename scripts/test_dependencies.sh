#!/usr/bin/env bash
# Resolves the dependencies of a crate that uses bagdot beside candle and burn, both with CUDA, and
# expects one version of the CUDA bindings, cudarc, for all of them. Nothing is built.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { echo "test_dependencies: $*" >&2; exit 1; }

mkdir "$folder/src"
touch "$folder/src/lib.rs"
cat > "$folder/Cargo.toml" << END
[package]
name = "neighbour"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
bagdot = { path = "$PWD" }
# The newest releases at the time of writing; later ones may need other bindings.
burn = { version = "0.22.1", features = ["cuda"] }
candle-core = { version = "0.11.1", features = ["cuda"] }
END
cargo generate-lockfile --quiet --manifest-path "$folder/Cargo.toml"
# Prints the versions of a package in the lock file.
versions() {
    grep -A1 "^name = \"$1\"$" "$folder/Cargo.lock" | sed -n 's/^version = "\(.*\)"$/\1/p'
}
for name in burn candle-core cudarc; do echo "$name $(versions "$name" | xargs)"; done
[ "$(versions cudarc | wc -l)" = 1 ] || fail "there should be one version of cudarc"
