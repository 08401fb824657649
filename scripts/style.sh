#!/usr/bin/env bash
# Checks the style: rustfmt, clang-format for kernels, at most 100 characters in a line, and at most
# 72 in the subject of a commit.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8 # else bytes are counted
failed=0
fail() {
    printf '%s\n%s\n' "style: $1" "$2" >&2
    failed=1
}

cargo fmt --all --check || fail "cargo fmt --all would change these" ""
rustfmt --edition 2024 --check scripts/*.rs || fail "rustfmt would change these" ""

clang_format=$(scripts/clang_format.sh)
mapfile -t kernels < <(git ls-files '*.cu' '*.cuh')
"$clang_format" --style=file:kernels/.clang-format --dry-run -Werror "${kernels[@]}" ||
    fail "$clang_format --style=file:kernels/.clang-format -i FILE would change these" ""

# An inline table of TOML cannot be broken into lines, so that only lines with comments count.
wide=$(git grep -nE '^.{101,}$' -- '*.rs' '*.cu' '*.cuh' '*.c' '*.sh' '*.py' || true)
wide+=$(git grep -nE '^.{101,}$' -- '*.toml' | grep -E '(:| )# ' || true)
[ -z "$wide" ] || fail "lines of more than 100 characters" "$wide"

# Earlier subjects are longer. A shallow clone may lack this commit.
first=212018cedfb70d3e9650d646b9e3e9e074fdea45
if git merge-base --is-ancestor "$first" HEAD 2> /dev/null; then
    subjects=$(git log --format='%h %s' "$first..HEAD" | grep -E '^[0-9a-f]+ .{73,}$' || true)
    [ -z "$subjects" ] || fail "subjects of commits of more than 72 characters" "$subjects"
fi
exit "$failed"
