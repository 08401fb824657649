#!/usr/bin/env bash
# Tests the package as its users get it: built without nvcc, it runs its kernels from the images
# that it carries, here on the stand-in driver. Then tests the messages and the behaviour of a build
# that has neither nvcc nor images.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
target=$repository/target/package-test
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { echo "test_package: $*" >&2; exit 1; }

scripts/prebuild_kernels.sh
cargo package --quiet --no-verify --allow-dirty --target-dir "$target"
crate=$target/package/bagdot-$version.crate
size=$(stat -c %s "$crate")
echo "$(du -h "$crate" | cut -f1) ($size bytes): $crate"
# The registry takes no larger ones.
[ "$size" -le 10000000 ] || fail "the package has more than 10 MB"
# `-m`: all files of a package have the same old date, and cargo would take them for built.
tar -xzmf "$crate" -C "$folder"
mv "$folder/bagdot-$version" "$folder/bagdot"
[ -s "$folder/bagdot/prebuilt/hash" ] || fail "the package has no prebuilt images"
for image in 80.cubin 80.older.cubin 90.older.cubin 80.ptx; do
    [ -s "$folder/bagdot/prebuilt/embedding_bag.$image" ] || fail "the package has no $image"
done
[ -s "$folder/bagdot/kernels/embedding_bag.cu" ] || fail "the package has no kernel sources"

# A crate that depends on the package. The emulator is a path of the repository: it is not
# published.
mkdir -p "$folder/consumer/src"
cp Cargo.lock "$folder/consumer/"
cp scripts/package_consumer.rs "$folder/consumer/src/main.rs"
cat > "$folder/consumer/Cargo.toml" << END
[package]
name = "consumer"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
bagdot = { path = "../bagdot", default-features = false, features = ["cuda"] }
bagdot-emulator = { path = "$repository/emulator" }

[profile.dev]
debug = false
END

# From here on there is no nvcc, and users have other flags, if any.
unset RUSTFLAGS NVCC CUDA_HOME CUDA_PATH BAGDOT_REQUIRE_NVCC BAGDOT_REQUIRE_CUDA BAGDOT_IMAGES
path=
while read -r -d : place; do
    [ -x "$place/nvcc" ] || path=$path${path:+:}$place
done <<< "$PATH:"
export PATH=$path
if [ -e /usr/local/cuda/bin/nvcc ]; then export NVCC=none; fi

# Builds the consumer, and prints the messages of the build besides its progress, which is indented.
# (`--quiet` would hide the warnings of build.rs.)
progress='Compiling|Finished|Adding|Removing|Locking|Updating|Blocking|Downloading|Downloaded'
build() {
    local said status=0
    said=$(cd "$folder/consumer" && cargo build --color never --target-dir "$target" 2>&1) ||
        status=$?
    if [ "$status" = 0 ]; then said=$(grep -vE "^ +($progress) " <<< "$said"); fi
    printf '%s' "$said"
    return "$status"
}
run() {
    BAGDOT_EMULATE=1 "$target/debug/consumer" "$@"
}
# expect PATTERN SAID MESSAGE: fails with the message unless a line of the output matches.
expect() {
    grep -q "$1" <<< "$2" || fail "$3:
$2"
}

said=$(build) || fail "the package does not build without nvcc:
$said"
[ -z "$said" ] || fail "the build says:
$said"
run kernels
# The oldest driver that is supported.
BAGDOT_EMULATE_DRIVER=11040 run kernels

# Images of other kernels than those of the package are worse than none.
echo >> "$folder/bagdot/kernels/embedding_bag.cu"
said=$(build) || fail "with images of other kernels the package does not build:
$said"
expect '^warning: .*prebuilt is not of these kernels' "$said" \
    "images of other kernels were taken"

rm -r "$folder/bagdot/prebuilt"
said=$(build) || fail "without images the package does not build:
$said"
[ "$(grep -c '^warning' <<< "$said")" = 1 ] ||
    fail "without images there should be one warning, but the build says:
$said"
expect '^warning: .*no nvcc: .*scripts/nvcc.sh' "$said" "without images the warning does not help"
run no-kernels

if said=$(BAGDOT_REQUIRE_NVCC=1 build); then fail "BAGDOT_REQUIRE_NVCC=1 builds without nvcc"; fi
expect 'error: no nvcc: ' "$said" "BAGDOT_REQUIRE_NVCC=1 fails, but not for want of nvcc"
echo "the package builds without nvcc; without images too, and says so"
