#!/usr/bin/env bash
# Builds the C library and runs all its tests: test.sh [--no-cuda] [--no-jax]
#
# It needs Rust, gcc, g++, cmake, pkg-config and valgrind; nvcc for the part on the stand-in driver
# (scripts/nvcc.sh installs it; --no-cuda leaves both out); and python3 with pip, from which JAX
# comes, for the part on TVM-FFI (--no-jax leaves it out). Everything it makes lies in target/.
# BAGDOT_EMULATOR is a libbagdot_emulator.so that the caller has built, BAGDOT_JAX_PYTHON a python
# with tests/requirements.txt installed: each saves a minute or two.
set -euo pipefail
cd "$(dirname "$0")"
with_cuda=1 with_jax=1
for argument; do
    case $argument in
    --no-cuda) with_cuda=0 ;;
    --no-jax) with_jax=0 ;;
    *) echo "usage: test.sh [--no-cuda] [--no-jax]" >&2 && exit 2 ;;
    esac
done
for program in gcc g++ cmake pkg-config valgrind; do
    command -v "$program" > /dev/null && continue
    echo "$program is missing: apt-get install gcc g++ cmake pkg-config valgrind" >&2
    exit 1
done
step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
prefix=$target/installed work=$target/c_tests
rm -rf "$prefix" "$work"
mkdir -p "$work"

[ "$with_cuda" = 1 ] || export NVCC=none

step "the library, installed"
./install.sh "$prefix" dev

step "the header is that of the library"
cargo run --quiet -p bagdot-capi-header -- --check

step lints
cargo fmt --all --check
cargo clippy --quiet --workspace --all-targets -- -D warnings

step "unit tests"
cargo test --quiet --lib

step "C, by pkg-config"
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
read -ra flags <<< "$(pkg-config --cflags bagdot) -std=c11 -Wall -Wextra -Werror -O1 -g"
read -ra libs <<< "$(pkg-config --libs bagdot)"
read -ra static_libs <<< "$(pkg-config --static --libs-only-other --libs-only-l bagdot)"
static_libs=("${static_libs[@]/-lbagdot/$prefix/lib/libbagdot.a}")
rpath=-Wl,-rpath,$prefix/lib
for program in examples/embedding tests/{ops,threads,tvm,graph}; do
    name=$(basename "$program")
    gcc "${flags[@]}" "$program.c" "${libs[@]}" -ldl -lm -pthread "$rpath" -o "$work/$name"
    gcc "${flags[@]}" "$program.c" "${static_libs[@]}" -ldl -lm -o "$work/${name}_static"
    gcc "${flags[@]}" -fsanitize=address,undefined -fno-sanitize-recover "$program.c" \
        "${libs[@]}" -ldl -lm -pthread "$rpath" -o "$work/${name}_sanitized"
done
on_cpu=(embedding ops threads tvm)
for name in "${on_cpu[@]}"; do
    "$work/$name"
    "$work/${name}_static"
done

step "C, with sanitizers"
for name in "${on_cpu[@]}"; do "$work/${name}_sanitized"; done

step "C++, by CMake"
cmake -S examples -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_CXX_FLAGS="-Wall -Wextra -Werror" > "$work/cmake.log"
cmake --build "$work/cmake" > "$work/cmake_build.log" || { cat "$work/cmake_build.log"; exit 1; }
for name in embedding embedding_static; do "$work/cmake/$name"; done

# Threads of a pool may still be asleep when the process ends: their stacks are not lost.
step "under valgrind"
for name in "${on_cpu[@]}" cmake/embedding; do
    valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite "$work/$name"
done

if [ "$with_cuda" = 1 ]; then
    step "the stand-in driver"
    # It has its own target folder unless the caller has built it.
    stand_in=${BAGDOT_EMULATOR:-}
    if [ -z "$stand_in" ]; then
        cargo build --quiet --manifest-path ../Cargo.toml -p bagdot-emulator --lib \
            --target-dir "$target/stand_in"
        stand_in=$target/stand_in/debug/libbagdot_emulator.so
    fi
    mkdir -p "$work/driver"
    ln -sf "$stand_in" "$work/driver/libcuda.so"
    ln -sf "$stand_in" "$work/driver/libcuda.so.1"
    for name in embedding embedding_static ops tvm graph cmake/embedding; do
        LD_LIBRARY_PATH=$work/driver "$work/$name" cuda
    done
fi

if [ "$with_jax" = 1 ]; then
    step "JAX, by TVM-FFI"
    python=${BAGDOT_JAX_PYTHON:-}
    if [ -z "$python" ]; then
        python3 -m venv "$target/jax"
        "$target/jax/bin/pip" install --quiet -r tests/requirements.txt
        python=$target/jax/bin/python
    fi
    BAGDOT_LIBRARY=$prefix/lib/libbagdot.so "$python" tests/test_jax.py
fi
step "all passed"
