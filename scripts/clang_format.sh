#!/usr/bin/env bash
# Installs a pinned clang-format into .tools/ unless it is there, and prints its path. It needs
# python3 with pip. An argument names another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.tools}
wheel=clang-format==23.1.5
stamp=$folder/clang-format-installed
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wheel" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --no-deps --no-cache-dir --upgrade --target "$folder" "$wheel" >&2
    printf '%s\n' "$wheel" > "$stamp"
fi
realpath "$folder/clang_format/data/bin/clang-format"
