#!/usr/bin/env bash
# Builds everything through which other languages and programs use bagdot, and runs its tests: the
# Python package beside PyTorch and TorchRec, the C library with programs in C and C++ and with JAX,
# the adapters for candle and burn, and the files that other programs read. It comes after
# scripts/test.sh, whose program and kernels it uses.
#
# It needs Rust, gcc, and python3 with pip. It installs the rest itself: cmake, pkg-config and
# valgrind by apt if they are missing, Python's packages into the folder of scripts/peers.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

step "what the tests need"
missing=()
for program in cmake pkg-config valgrind; do
    command -v "$program" > /dev/null || missing+=("$program")
done
if [ "${#missing[@]}" != 0 ]; then
    apt-get update -qq
    apt-get install -y -qq "${missing[@]}" > /dev/null
fi
python=$(scripts/peers.sh)
scripts/nvcc.sh
# The kernels are those that the test command has compiled.
export BAGDOT_IMAGES=$PWD/target/images CARGO_TARGET_DIR=$PWD/target/adapters

# A test that is skipped for lack of a package is a test that failed.
tests() {
    "$python" -m pytest -q -rs "$@" | tee target/adapters/pytest.log
    ! grep -q "^SKIPPED" target/adapters/pytest.log
}

step "the Python package"
(cd python && cargo fmt --check && cargo clippy --quiet -- -D warnings)
rm -rf target/adapters/wheels
"$(dirname "$python")/maturin" build --quiet --profile dev --interpreter "$python" \
    --manifest-path python/Cargo.toml --out target/adapters/wheels
"$python" -m pip install --quiet --force-reinstall --no-deps target/adapters/wheels/*.whl
export BAGDOT_PROGRAM=$PWD/target/debug/bagdot
tests python/tests --ignore python/tests/test_cuda.py
"$python" -m mypy --ignore-missing-imports python/bagdot

step "the Python package on the stand-in driver"
mkdir -p target/stand_in
ln -sf ../debug/deps/libbagdot_emulator.so target/stand_in/libcuda.so
LD_LIBRARY_PATH=$PWD/target/stand_in tests python/tests/test_cuda.py

step "models as files of other programs"
BAGDOT=$BAGDOT_PROGRAM tests tests/interchange

step "the C library"
BAGDOT_EMULATOR=$PWD/target/debug/deps/libbagdot_emulator.so BAGDOT_JAX_PYTHON=$python \
    capi/test.sh

# Checks an adapter: format, lints, tests, documentation, and a few steps of its example.
adapter() {
    cargo fmt --check
    cargo clippy --quiet --all-targets -- -D warnings
    cargo test --quiet
    RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps
    cargo run --quiet --example train -- steps=5 rows=1000 batch=64
}

step "the adapter for candle"
(cd adapters/candle && adapter)
# candle's kernels are not needed to check types.
(cd adapters/candle && NVCC=none PATH=$PWD/tests:$PATH CUDA_COMPUTE_CAP=90 \
    cargo clippy --quiet --features cuda -- -D warnings)

step "the adapter for burn"
(cd adapters/burn && adapter)
