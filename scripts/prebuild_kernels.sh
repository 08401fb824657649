#!/usr/bin/env bash
# Compiles the kernels into prebuilt/: the images that `cargo package` puts into the
# package, so that whoever depends on bagdot needs no nvcc. build.rs uses them if there is no nvcc
# and the hash beside them is that of the sources. They are not kept in git, so that cargo counts
# them as uncommitted: see that `git status` is clean, then `cargo publish --allow-dirty`.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${NVCC:-}${CUDA_HOME:-}${CUDA_PATH:-}" ]; then
    scripts/nvcc.sh > /dev/null
fi
BAGDOT_REQUIRE_NVCC=1 BAGDOT_PREBUILD_DIR=prebuilt \
    cargo check --quiet --lib --no-default-features --features cuda
[ -s prebuilt/hash ] || { echo "prebuilt was not made" >&2; exit 1; }
# No path of this machine may be published.
if grep -rqF "$PWD" prebuilt; then
    echo "prebuilt names $PWD" >&2
    exit 1
fi
du -sh prebuilt
