#!/usr/bin/env bash
# The package as its users get it: built without nvcc, its kernels run from the images that it
# carries, here on the stand-in driver. And what a build says and does that has neither nvcc nor
# images.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
target=$repository/target/package-test
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { echo "test_package: $*" >&2; exit 1; }

unset RUSTFLAGS # users have others, if any
scripts/prebuild_kernels.sh
cargo package --quiet --no-verify --allow-dirty --target-dir "$target"
crate=$target/package/bagdot-$version.crate
echo "$(du -h "$crate" | cut -f1) ($(stat -c %s "$crate") bytes): $crate"
# `-m`: in the package all files are of the same old date, by which cargo would take them for built.
tar -xzmf "$crate" -C "$folder"
mv "$folder/bagdot-$version" "$folder/bagdot"
[ -s "$folder/bagdot/kernels/prebuilt/hash" ] || fail "the package has no prebuilt images"
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
END

# No nvcc from here on, wherever it is.
unset NVCC CUDA_HOME CUDA_PATH BAGDOT_REQUIRE_NVCC BAGDOT_REQUIRE_CUDA
path=
while read -r -d : place; do
    [ -x "$place/nvcc" ] || path=$path${path:+:}$place
done <<< "$PATH:"
export PATH=$path
if [ -e /usr/local/cuda/bin/nvcc ]; then export NVCC=none; fi

# Builds the consumer, and tells what the build said besides its progress: that is indented.
# (`--quiet` would hide the warnings of build.rs.)
build() {
    local said status=0
    said=$(cd "$folder/consumer" && cargo build --color never --target-dir "$target" 2>&1) || status=$?
    if [ "$status" = 0 ]; then said=$(grep -vE '^ +(Compiling|Finished|Adding|Removing|Locking|Updating|Blocking|Downloading|Downloaded) ' <<< "$said"); fi
    printf '%s' "$said"
    return "$status"
}
run() {
    BAGDOT_EMULATE=1 "$target/debug/consumer" "$@"
}

said=$(build) || fail "the package does not build without nvcc:
$said"
[ -z "$said" ] || fail "the build says:
$said"
run kernels

# Images of other kernels than those of the package are worse than none.
echo >> "$folder/bagdot/kernels/embedding_bag.cu"
said=$(build) || fail "with images of other kernels the package does not build:
$said"
grep -q '^warning: .*kernels/prebuilt is not of these kernels' <<< "$said" || fail "images of other kernels were taken:
$said"

rm -r "$folder/bagdot/kernels/prebuilt"
said=$(build) || fail "without images the package does not build:
$said"
[ "$(grep -c '^warning' <<< "$said")" = 1 ] || fail "without images there should be one warning, but the build says:
$said"
grep -q '^warning: .*no nvcc: .*scripts/nvcc.sh' <<< "$said" || fail "without images the warning does not help:
$said"
run no-kernels

if said=$(BAGDOT_REQUIRE_NVCC=1 build); then fail "BAGDOT_REQUIRE_NVCC=1 builds without nvcc"; fi
grep -q 'error: no nvcc: ' <<< "$said" || fail "BAGDOT_REQUIRE_NVCC=1 fails, but not for want of nvcc:
$said"
echo "the package builds without nvcc; without images too, and says so"
