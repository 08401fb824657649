#!/usr/bin/env bash
# Packs the tests and benchmarks of the CUDA backend for a machine with a GPU that has neither Rust
# nor a network: target/gpu_bundle.tar.xz. There:
#     tar -xJf gpu_bundle.tar.xz && gpu_bundle/run.sh
# The stand-in driver is never packed, since where it is it could hide the real one, unless it is
# asked for: `--with-emulator` makes target/gpu_bundle_emulated.tar.xz, by which run.sh is tried
# where there is no GPU.
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

# One JSON object a line; those of test programs name the target and the file.
messages=$(BAGDOT_REQUIRE_NVCC=1 cargo test --no-run --quiet --package bagdot --test suite --message-format=json)
suite=$(sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p' <<< "$messages")
[ -n "$suite" ] || fail "cargo test --no-run names no program"
strip -o "$folder/programs/suite" "$suite"

# How fast they are on the stand-in driver says nothing.
if [ "$name" = gpu_bundle ]; then
    messages=$(BAGDOT_REQUIRE_NVCC=1 cargo bench --no-run --quiet --package bagdot --benches --message-format=json)
    while read -r executable; do
        program=$(basename "$executable")
        strip -o "$folder/benches/${program%-*}" "$executable"
    done < <(sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p' <<< "$messages")
    [ -e "$folder/benches/embedding_bag" ] || fail "the benchmarks of embedding_bag are missing"
    cp scripts/gpu_compare.py "$folder/compare.py"
    cp benches/common/models.json "$folder/models.json"
fi

cp scripts/gpu_run.sh "$folder/run.sh"
cp -r tests/golden "$folder/golden"
git describe --always --dirty --abbrev=12 > "$folder/commit" 2> /dev/null || echo unknown > "$folder/commit"
if [ "$name" = gpu_bundle_emulated ]; then
    for library in libbagdot_emulator.so libbagdot_emulator_cublaslt.so; do
        strip -o "$folder/programs/$library" "$(dirname "$suite")/$library"
    done
fi
# Every program has the same images in it: a dictionary that holds them all packs them once.
tar -C target -cf - "$name" | xz --threads 1 --lzma2=preset=2,dict=512MiB > "$folder.tar.xz"
size=$(stat -c %s "$folder.tar.xz")
[ "$size" -lt "$limit" ] || fail "$folder.tar.xz has $size bytes, $limit at most are wanted"
# glibc refuses programs that were linked against a later one.
glibc=$(find "$folder/programs" "$folder/benches" -type f -exec objdump -T {} + | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
echo "$folder.tar.xz: $((size / 1000)) kB, the tests and $(ls "$folder/benches" | wc -l) benchmarks, for x86-64 Linux with $glibc or later:"
ls "$folder/programs" "$folder/benches"
