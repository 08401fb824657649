#!/usr/bin/env bash
# Builds the Python package and runs its tests, in a virtual environment that is made once.
#
#   scripts/test_python.sh [ARGUMENTS OF PYTEST...]
#
# Environment variables:
#   PYTHON  the interpreter of the environment; default: python3
#   VENV    the environment; default: .python/
#   PEERS   a folder of packages to use instead of installing PyTorch and TorchRec, such as
#           ~/.cache/bagdot-peers/lib/python3.11/site-packages
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-$PWD/.python}

if [ ! -e "$venv/READY" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    if [ -n "${PEERS:-}" ]; then
        site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        printf '%s\n' "$PEERS" > "$site/peers.pth"
    else
        "$venv/bin/pip" install --quiet torch numpy pandas
    fi
    "$venv/bin/pip" install --quiet "maturin>=1.9,<2" mypy pytest polars pyarrow scikit-learn jax
    touch "$venv/READY"
fi

cd python
cargo fmt --check
cargo clippy -- -D warnings
cargo build
# The tests take the module from the folder of the package, as `maturin develop` leaves it there.
target=$(cargo metadata --format-version 1 --no-deps |
    "$venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
ln -sf "$target/debug/lib_bagdot.so" bagdot/_bagdot.abi3.so
"$venv/bin/python" -m mypy --ignore-missing-imports bagdot
PYTHONPATH=. "$venv/bin/python" -m pytest "$@"
