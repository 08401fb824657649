#!/usr/bin/env bash
# Compares the CPU backend with its peers (torch, FBGEMM, and what the CPU's maker adds to torch) on
# this machine: all sides get the same ids and run in turn. Prints medians and their ratios.
#
#   scripts/compare_cpu.sh [THREADS...]       prints the tables; default: 1 2
#   scripts/compare_cpu.sh --sweep [THREADS]  draws the cost of work as it grows into
#                                             benches/record/cpu/, without the maker's peers;
#                                             default: 2
#
# Environment variables:
#   ONLY           a regular expression: only rows whose names match it, such as "forward f16"
#   T, ROWS, D, B  the shape: tables, rows of a table, dimension, batch size
#   ROUNDS         how often all sides run in turn
#   SECONDS_EACH   the time of each run, at least
#   ALL_PEERS      if it is set, the times of all peers follow each row, on standard error
#   PEERS          the folder into which the peers are installed once (about 6 GB, and as much for
#                  the maker's in a folder beside it); default: ~/.cache/bagdot-peers
#   MAKER          the maker's peers: zentorch (AMD), ipex (Intel) or none; default: by lscpu
#
# "On torch's memory" says that bagdot's inputs and outputs are in memory as torch allocates it,
# where the peers' always are; all other rows have them in bagdot's own.
#
# "% of gather" is the rate of bytes as a share of that of the floor of lookups, a loop that gathers
# and sums the same rows and does nothing else (src/backend/cpu/floor.rs), in the same run.
#
# "Other CPUs" is the number of CPUs that other processes used meanwhile: a row counts if it is
# close to 0.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/bagdot-peers}

python=$(scripts/peers.sh)

cpu=$(lscpu 2>/dev/null || true)
if [ -z "${MAKER:-}" ]; then
    MAKER=none
    case $cpu in
        # zentorch changes nothing without AVX-512.
        *AuthenticAMD*avx512f*) MAKER=zentorch ;;
        *AuthenticAMD*) echo "zentorch is left out: this CPU has no AVX-512" >&2 ;;
        *GenuineIntel*) MAKER=ipex ;;
    esac
fi
# The makers' packages need other versions of torch, so that each has an environment of its own.
case $MAKER in
    none) packages=() ;;
    zentorch) packages=(torch==2.14.0 zentorch==2.14.0.1) ;;
    ipex) packages=(torch==2.8.0 intel_extension_for_pytorch==2.8.0) ;;
    *) echo "MAKER is $MAKER, but must be zentorch, ipex or none" >&2 && exit 1 ;;
esac
if [ "$MAKER" != none ] && [ ! -e "$peers-$MAKER/READY" ]; then
    python3 -m venv "$peers-$MAKER"
    "$peers-$MAKER/bin/pip" install --quiet "${packages[@]}"
    touch "$peers-$MAKER/READY"
fi
export MAKER MAKER_PYTHON=$peers-$MAKER/bin/python

# The profile is `release`, which users build with. `cargo bench` would take `bench`, which has no
# link-time optimisation. Programs of benchmarks have a hash in their names.
messages=$(cargo build --quiet --release --no-default-features --features cli \
    --bench compare_cpu --bin bagdot --message-format=json-render-diagnostics)
executable() {
    sed -n 's/.*"kind":\["'"$1"'"\].*"executable":"\([^"]*\)".*/\1/p' <<< "$messages"
}
tool=$(executable bench)
bagdot=$(executable bin)

if [ "${1:-}" = --sweep ]; then
    # The tables of the largest shapes leave no memory for those of another process.
    export MAKER=none
    exec "$python" scripts/compare_cpu/sweep.py "$tool" "${2:-2}" \
        "benches/record/cpu/$(date +%F).svg"
fi
# Only with "madvise" do bagdot's buffers have huge pages where torch's tensors have none.
huge_pages=/sys/kernel/mm/transparent_hugepage/enabled
[ ! -e "$huge_pages" ] || printf 'Huge pages: %s\n\n' "$(cat "$huge_pages")"
for threads in "${@:-1 2}"; do
    for count in $threads; do
        "$python" scripts/compare_cpu "$tool" "$count" "${ONLY:-}"
        if [ -z "${ONLY:-}" ]; then
            "$python" scripts/compare_cpu/program.py "$bagdot" "$count"
        fi
    done
done
