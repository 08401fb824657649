#!/usr/bin/env bash
# Compares the CPU backend with its peers (torch, FBGEMM) on this machine: the same ids, both sides
# in turn, medians and their ratios.
#   scripts/compare_cpu.sh [THREADS...]            default: 1 2 scripts/compare_cpu.sh --sweep
#   [THREADS]       what work costs as it grows, drawn into benches/record/cpu/; default: 2
# ONLY="forward f16" measures the rows whose names match it; T, ROWS, D and B change the shape;
# ROUNDS and SECONDS_EACH how long is measured. The peers are installed once, into PEERS (default:
# ~/.cache/bagdot-peers; about 6 GB). "Other CPUs" is how many CPUs other processes used meanwhile:
# a row counts where it is close to 0.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/bagdot-peers}

if [ ! -e "$peers/READY" ]; then
    python3 -m venv "$peers"
    "$peers/bin/pip" install --quiet torch==2.14.1 tensordict==0.15.3 torchmetrics==1.0.3 pyre-extensions==0.0.32 tqdm orjson pandas==3.1.1 \
        scipy==1.17.1 matplotlib==3.11.2
    # torchrec asks for the build of FBGEMM for GPUs, which is not wanted here.
    "$peers/bin/pip" install --quiet --no-deps fbgemm-gpu-cpu==1.9.0 torchrec==1.9.2
    touch "$peers/READY"
fi
cargo build --quiet --release --no-default-features --features cli --example compare_cpu --bin bagdot

target=${CARGO_TARGET_DIR:-target}
if [ "${1:-}" = --sweep ]; then
    exec "$peers/bin/python" scripts/compare_cpu/sweep.py "$target/release/examples/compare_cpu" "${2:-2}" "benches/record/cpu/$(date +%F).svg"
fi
for threads in "${@:-1 2}"; do
    for count in $threads; do
        "$peers/bin/python" scripts/compare_cpu "$target/release/examples/compare_cpu" "$count" "${ONLY:-}"
        [ -n "${ONLY:-}" ] || "$peers/bin/python" scripts/compare_cpu/program.py "$target/release/bagdot" "$count"
    done
done
