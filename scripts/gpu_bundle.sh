#!/usr/bin/env bash
# Packs the tests and benchmarks of the CUDA backend for a machine with a GPU that has neither Rust
# nor a network, into target/gpu_bundle.tar.xz. On that machine:
#
#   tar -xJf gpu_bundle.tar.xz && gpu_bundle/run.sh
#
# The bundle has no stand-in driver, which could hide the real one. `--with-emulator` makes
# target/gpu_bundle_emulated.tar.xz, which has it, to try run.sh on a machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "gpu_bundle: $*" >&2; exit 1; }
case "${1:-}" in
    "") name=gpu_bundle ;;
    --with-emulator) name=gpu_bundle_emulated ;;
    *) fail "usage: $0 [--with-emulator]" ;;
esac
limit=$((60 * 1000 * 1000))
folder=target/$name
rm -rf "$folder" "$folder.tar.xz"
mkdir -p "$folder/programs" "$folder/benches"

# cargo prints a JSON object in each line; those of test programs name the target and the file.
messages=$(cargo test --no-run --quiet --package bagdot --test suite --message-format=json)
suite=$(sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p' \
    <<< "$messages")
[ -n "$suite" ] || fail "cargo test --no-run names no program"
grep -qa '\.entry embedding_bag_forward' "$suite" ||
    fail "the tests have no kernels: run scripts/nvcc.sh"
strip -o "$folder/programs/suite" "$suite"

# The speed of benchmarks on the stand-in driver says nothing.
if [ "$name" = gpu_bundle ]; then
    messages=$(cargo bench --no-run --quiet --package bagdot --benches --message-format=json)
    while read -r executable; do
        program=$(basename "$executable")
        strip -o "$folder/benches/${program%-*}" "$executable"
    done < <(sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p' <<< "$messages")
    [ -e "$folder/benches/embedding_bag" ] || fail "the benchmarks of embedding_bag are missing"
    grep -qa '\.entry stream_copy' "$folder/benches/stream" ||
        fail "the benchmark stream has no kernels: run scripts/nvcc.sh"
    cp scripts/gpu_compare.py "$folder/compare.py"
    cp benches/common/models.json "$folder/models.json"
fi

cp scripts/gpu_run.sh "$folder/run.sh"
cp -r tests/golden "$folder/golden"
commit=$(git describe --always --dirty --abbrev=12 2> /dev/null || echo unknown)
echo "$commit" > "$folder/commit"
if [ "$name" = gpu_bundle_emulated ]; then
    for library in libbagdot_emulator.so libbagdot_emulator_cublaslt.so; do
        strip -o "$folder/programs/$library" "$(dirname "$suite")/$library"
    done
fi
# Every program has the same images in it: xz packs them once if its dictionary holds them all.
tar -C target -cf - "$name" | xz --threads 1 --lzma2=preset=2,dict=512MiB > "$folder.tar.xz"
size=$(stat -c %s "$folder.tar.xz")
[ "$size" -lt "$limit" ] || fail "$folder.tar.xz has $size bytes, $limit at most are wanted"
# glibc refuses programs that were linked against a later one.
symbols=$(find "$folder/programs" "$folder/benches" -type f -exec objdump -T {} +)
glibc=$(grep -o 'GLIBC_[0-9.]*' <<< "$symbols" | sort -uV | tail -1)
benches=$(find "$folder/benches" -type f | wc -l)
echo "$folder.tar.xz: $((size / 1000)) kB, the tests and $benches benchmarks," \
    "for x86-64 Linux with $glibc or later:"
ls "$folder/programs" "$folder/benches"
