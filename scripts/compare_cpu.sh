#!/usr/bin/env bash
# Compares the CPU backend with its peers (torch, FBGEMM) on this machine: both sides get the same
# ids and run in turn. Prints medians and their ratios.
#
#   scripts/compare_cpu.sh [THREADS...]       prints the tables; default: 1 2
#   scripts/compare_cpu.sh --sweep [THREADS]  draws the cost of work as it grows into
#                                             benches/record/cpu/; default: 2
#
# Environment variables:
#   ONLY           a regular expression: only rows whose names match it, such as "forward f16"
#   T, ROWS, D, B  the shape: tables, rows of a table, dimension, batch size
#   ROUNDS         how often both sides run in turn
#   SECONDS_EACH   the time of each run, at least
#   PEERS          the folder into which the peers are installed once (about 6 GB); default:
#                  ~/.cache/bagdot-peers
#
# "Other CPUs" is the number of CPUs that other processes used meanwhile: a row counts if it is
# close to 0.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/bagdot-peers}

if [ ! -e "$peers/READY" ]; then
    python3 -m venv "$peers"
    "$peers/bin/pip" install --quiet torch==2.14.1 tensordict==0.15.3 torchmetrics==1.0.3 \
        pyre-extensions==0.0.32 tqdm orjson pandas==3.1.1 scipy==1.17.1 matplotlib==3.11.2
    # torchrec depends on the build of FBGEMM for GPUs, which is not wanted here.
    "$peers/bin/pip" install --quiet --no-deps fbgemm-gpu-cpu==1.9.0 torchrec==1.9.2
    touch "$peers/READY"
fi
# The profile is `release`, which users build with. `cargo bench` would take `bench`, which has no
# link-time optimisation. Programs of benchmarks have a hash in their names.
messages=$(cargo build --quiet --release --no-default-features --features cli \
    --bench compare_cpu --bin bagdot --message-format=json-render-diagnostics)
executable() {
    sed -n 's/.*"kind":\["'"$1"'"\].*"executable":"\([^"]*\)".*/\1/p' <<< "$messages"
}
tool=$(executable bench)
bagdot=$(executable bin)

python=$peers/bin/python
if [ "${1:-}" = --sweep ]; then
    exec "$python" scripts/compare_cpu/sweep.py "$tool" "${2:-2}" \
        "benches/record/cpu/$(date +%F).svg"
fi
for threads in "${@:-1 2}"; do
    for count in $threads; do
        "$python" scripts/compare_cpu "$tool" "$count" "${ONLY:-}"
        if [ -z "${ONLY:-}" ]; then
            "$python" scripts/compare_cpu/program.py "$bagdot" "$count"
        fi
    done
done
