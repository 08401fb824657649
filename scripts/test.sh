#!/usr/bin/env bash
# Runs everything that must hold before a change goes in, and prints the time of each step at the
# end. It needs Rust, gcc, and python3 with pip; no GPU.
#
# All steps build with the flags, variables and profile of a plain `cargo test`, so that nothing is
# compiled twice, and builds of contributors are used. Warnings are denied by the lints, which see
# the benchmarks, too; these are not built. Tests fail if there are no kernels.
set -euo pipefail
cd "$(dirname "$0")/.."

times=()
name=
started=0
# Notes the time of the step that has ended.
end_step() {
    if [ -n "$name" ]; then times+=("$(printf '%5d s  %s' $((SECONDS - started)) "$name")"); fi
    name=
}
step() {
    end_step
    name=$1 started=$SECONDS
    printf '\n== %s\n' "$name"
}
report() {
    local status=$?
    [ "$status" = 0 ] || name="$name: FAILED"
    end_step
    printf '\n== time of each step\n'
    printf '%s\n' "${times[@]}" "$(printf '%5d s  in all' "$SECONDS")"
}
trap report EXIT

step "the CUDA compiler"
scripts/nvcc.sh

step style
scripts/style.sh

step "tables and plot of the records"
python3 scripts/gpu_tables.py --check
python3 scripts/plot_speed.py --check

step "lints, for every set of features"
cargo clippy --workspace --all-targets -- -D warnings
# All targets are those that `cargo bench` runs; these two it runs only by name.
cargo clippy --bench compare_cpu --bench quality -- -D warnings
for features in "" serde train cuda; do
    cargo clippy --lib --no-default-features --features "$features" -- -D warnings
done

step "tests, built"
cargo test --workspace --test '*' --no-run

step tests
cargo test --workspace --test '*'

step "unit tests"
cargo test --workspace --lib

step "examples in the documentation"
cargo test --workspace --doc

step documentation
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

step "the README's commands"
scripts/readme_commands.sh

# The stand-in driver takes the place of the real one where the loader looks first. The README's
# commands have left a model.
step examples
for example in 01_embedding_bag 02_training_step 03_dlrm; do
    cargo run --quiet --example "$example"
done
mkdir -p target/stand_in
ln -sf ../debug/deps/libbagdot_emulator.so target/stand_in/libcuda.so
LD_LIBRARY_PATH=$PWD/target/stand_in cargo run --quiet --example 04_cuda
cargo run --quiet --example 05_predict runs/clothing

step "bundle for a GPU machine, tried on the stand-in driver"
scripts/gpu_bundle.sh --with-emulator
# The suite has run all of these tests by now: two modules show that the bundle finds its files and
# that run.sh works.
BAGDOT_BUNDLE_EMULATED=1 BAGDOT_BUNDLE_MODULES="cast golden" \
    target/gpu_bundle_emulated/run.sh target/gpu_bundle_emulated/results.json

step "dependencies beside candle and burn"
scripts/test_dependencies.sh

# The last step, since it writes into kernels/, after which cargo builds again what has them.
step "package, as its users get it"
scripts/test_package.sh
