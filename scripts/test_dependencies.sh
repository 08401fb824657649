#!/usr/bin/env bash
# Resolves the dependencies of a crate that uses bagdot beside candle and burn, both with CUDA, and
# expects one version of the CUDA bindings, cudarc, for all of them. Then checks bagdot beside each
# way in which another crate can make cudarc find the driver, since cargo unites their features.
# Nothing is linked.
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

# The manifest of a crate that uses bagdot and asks cudarc for one more feature.
beside() {
    cat << END
[package]
name = "neighbour"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
bagdot = { path = "$PWD", default-features = false, features = ["cuda"] }
cudarc = { version = "0.19.10", default-features = false, features = ["$1"] }
END
}
# All checks share what they build, and need no kernels.
export CARGO_TARGET_DIR=$PWD/target/dependencies NVCC=none
for feature in dynamic-linking dynamic-loading fallback-dynamic-loading; do
    echo "checked beside cudarc with $feature"
    beside "$feature" > "$folder/Cargo.toml"
    rm -f "$folder/Cargo.lock"
    cargo check --quiet --manifest-path "$folder/Cargo.toml"
done
