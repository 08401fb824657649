#!/usr/bin/env bash
# Runs bagdot's tests on the GPU of this machine; needs only its driver. Part of the bundle that
# scripts/gpu_bundle.sh makes.
#
#   run.sh [RESULTS]
#       RESULTS  the file for the outcome of every run; default: results.json
#
# The steps are:
#   tests      all tests that use the GPU
#   sanitizer  the tests of the CUDA backend under memcheck, racecheck and initcheck, without those
#              that have `large` in their name; if compute-sanitizer is installed
#   benches    the benchmarks; if there is a python3, compare.py writes them into benchmarks.json
#              beside RESULTS, with the times of PyTorch if that is installed. The default choice
#              is to take about 8 minutes, of which PyTorch takes two: an estimate, not yet measured
#
# Environment variables:
#   BAGDOT_BUNDLE_STEPS     the steps to run; default: tests sanitizer benches
#   BAGDOT_BUNDLE_MODULES   the modules of tests to run; default: all that use the GPU
#   BAGDOT_BUNDLE_BENCHES   the benchmarks to run: `all`, or words `NAME` or `NAME:REGEX`. The
#                           expression, which cannot contain spaces, chooses among the shapes, or
#                           among whole names if it contains /cuda/. Default: see below
#   BAGDOT_BUNDLE_PEERS     eager, compile (torch.compile besides, which takes minutes) or none;
#                           default: eager
#   BAGDOT_BUNDLE_TIMEOUT   seconds for each module of tests and each benchmark; default: 600
#   BAGDOT_BUNDLE_EMULATED  1 runs everything on the stand-in driver, if the bundle has it, to try
#                           this script
#   COMPUTE_SANITIZER       the path of compute-sanitizer
#
# For example, the benchmarks that no record has yet:
#
#   BAGDOT_BUNDLE_STEPS=benches BAGDOT_BUNDLE_BENCHES='stream elementwise step_parts:bf16
#       embedding_bag:(t10|max) sparse_update:(t10|sgd|adagrad|adam) interaction:f192' ./run.sh
#
# The output of each run is in logs/. The status is 0 only if nothing failed.
set -uo pipefail
results=$(realpath -m "${1:-results.json}")
cd "$(dirname "$0")" || exit 2
here=$PWD
mkdir -p logs || exit 2
limit=${BAGDOT_BUNDLE_TIMEOUT:-600}
steps=" ${BAGDOT_BUNDLE_STEPS:-tests sanitizer benches} "
wants() { [[ $steps == *" $1 "* ]]; }

unset BAGDOT_EMULATE BAGDOT_REQUIRE_CUDA
export BAGDOT_GOLDEN_DIR=$here/golden
if [ "${BAGDOT_BUNDLE_EMULATED:-}" = 1 ]; then
    export BAGDOT_EMULATE=1
    device=emulator driver=none
else
    export BAGDOT_REQUIRE_CUDA=1
    if [ -e programs/libbagdot_emulator.so ]; then
        echo "this bundle is for trying run.sh: set BAGDOT_BUNDLE_EMULATED=1," \
            "or make a bundle without --with-emulator" >&2
        exit 2
    fi
    # Prints a property of the first device, which is the one that the tests use.
    query() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2> /dev/null | head -1; }
    device=$(query name) driver=$(query driver_version)
fi

# Prints a JSON string.
quoted() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}

failed=0
runs=()
# run TOOL PROGRAM COMMAND...: runs the command and notes the outcome.
run() {
    local tool=$1 program=$2 start=$SECONDS status log outcome summary
    shift 2
    log=logs/$program.$tool.log
    timeout "$limit" "$@" > "$log" 2>&1 < /dev/null
    status=$?
    summary=$(grep -E '^test result: |ERROR SUMMARY: |RACECHECK SUMMARY: ' "$log" | tr '\n' ' ')
    outcome=pass
    # A program that ran no test has shown nothing, whatever its status.
    if [ "$status" != 0 ] || ! grep -qE '^test result: ok\. [1-9]|time: +\[' "$log"; then
        outcome=fail
        failed=$((failed + 1))
    fi
    local seconds=$((SECONDS - start))
    printf '%-4s %-10s %-24s %4d s  %s\n' "$outcome" "$tool" "$program" "$seconds" "$summary"
    if [ "$outcome" = fail ]; then tail -40 "$log" | sed 's/^/    /'; fi
    runs+=("{\"tool\": $(quoted "$tool"), \"program\": $(quoted "$program"), \
\"outcome\": \"$outcome\", \"status\": $status, \"seconds\": $seconds, \
\"summary\": $(quoted "$summary")}")
}

all_tests=$(programs/suite --list --format terse | sed -n 's/: test$//p')
# The tests of the CUDA backend: those in modules named `cuda` or `X_cuda`, and in a module `cuda`
# of others.
cuda_tests=$(grep -E '^cuda::|_cuda::|::cuda::' <<< "$all_tests")
mapfile -t modules < <(sed 's/::.*//' <<< "$cuda_tests" | sort -u)
if [ "${#modules[@]}" -le 1 ]; then
    echo "programs/suite lists no tests of the CUDA backend" >&2
    exit 2
fi
if [ -n "${BAGDOT_BUNDLE_MODULES:-}" ]; then
    read -ra chosen <<< "$BAGDOT_BUNDLE_MODULES"
    for module in "${chosen[@]}"; do
        if [[ " ${modules[*]} " != *" $module "* ]]; then
            echo "BAGDOT_BUNDLE_MODULES: $module is none of: ${modules[*]}" >&2
            exit 2
        fi
    done
    modules=("${chosen[@]}")
fi
# The seconds are estimates, not yet measured.
benches=(
    stream                                # 12
    'embedding_bag:(f32|bf16)'            # 55
    'sparse_update:(zipf|sgd|t10.*adam)'  # 90; index_sort of uniform ids is left out
    'interaction:(b65536|f192)'           # 30
    elementwise                           # 35
    'linear:m16384.n1024.k1024'           # 25
    predict:bf16                          # 12
    train_step:bf16                       # 35
    step_parts:bf16                       # 75
)
case "${BAGDOT_BUNDLE_BENCHES:-}" in
    "") ;;
    # These two measure CPUs alone.
    all) mapfile -t benches < <(ls --ignore=floors --ignore=readers benches) ;;
    # Line breaks separate words, too.
    *) mapfile -t benches < <(tr -s '[:space:]' '\n' <<< "$BAGDOT_BUNDLE_BENCHES" | grep .) ;;
esac
case "${BAGDOT_BUNDLE_PEERS:-eager}" in
    eager) peers=() ;;
    compile) peers=(--compile) ;;
    none) peers=(--no-pytorch) ;;
    *)
        echo "BAGDOT_BUNDLE_PEERS: $BAGDOT_BUNDLE_PEERS is none of: eager compile none" >&2
        exit 2
        ;;
esac
if wants benches && [ "${BAGDOT_BUNDLE_EMULATED:-}" != 1 ]; then
    for choice in "${benches[@]}"; do
        if [ ! -x "benches/${choice%%:*}" ]; then
            echo "BAGDOT_BUNDLE_BENCHES: ${choice%%:*} is none of: $(cd benches && echo *)" >&2
            exit 2
        fi
    done
fi

if wants tests; then
    for module in "${modules[@]}"; do
        mapfile -t tests < <(grep "^$module::" <<< "$all_tests")
        run tests "$module" programs/suite --exact "${tests[@]}"
    done
fi

sanitizer=${COMPUTE_SANITIZER:-$(command -v compute-sanitizer)}
if [ -z "$sanitizer" ] && [ -x /usr/local/cuda/bin/compute-sanitizer ]; then
    sanitizer=/usr/local/cuda/bin/compute-sanitizer
fi
if ! wants sanitizer; then
    sanitizer=
elif [ -n "$sanitizer" ]; then
    for module in "${modules[@]}"; do
        mapfile -t tests < <(grep "^$module::" <<< "$cuda_tests" | grep -v large)
        # Without a name the program would run all of its tests.
        [ "${#tests[@]}" -gt 0 ] || continue
        for tool in memcheck racecheck initcheck; do
            options=()
            # Tests provoke errors of the API: these are no findings.
            if [ "$tool" = memcheck ]; then options=(--report-api-errors no); fi
            # One test at a time, else a report cannot be told from that of another.
            run "$tool" "$module" "$sanitizer" --tool "$tool" --error-exitcode 99 "${options[@]}" \
                programs/suite --exact "${tests[@]}" --test-threads 1
        done
    done
else
    echo "compute-sanitizer is not installed: its checks are left out"
fi

if wants benches && [ "${BAGDOT_BUNDLE_EMULATED:-}" != 1 ]; then
    export CRITERION_HOME=$here/criterion
    for choice in "${benches[@]}"; do
        bench=${choice%%:*} filter=/cuda/
        if [ "$bench" != "$choice" ]; then
            filter=${choice#*:}
            [[ $filter == */cuda/* ]] || filter="/cuda/.*$filter"
        fi
        run bench "$bench" "benches/$bench" --bench "$filter"
    done
    if command -v python3 > /dev/null; then
        timeout "$limit" python3 compare.py criterion "$(dirname "$results")/benchmarks.json" \
            "${peers[@]}" || failed=$((failed + 1))
    fi
fi

{
    printf '{\n  "device": %s,\n' "$(quoted "${device:-unknown}")"
    printf '  "driver": %s,\n' "$(quoted "${driver:-unknown}")"
    printf '  "date": "%s",\n  "commit": %s,\n' "$(date -u +%FT%TZ)" "$(quoted "$(cat commit)")"
    printf '  "compute_sanitizer": %s,\n' "$([ -n "$sanitizer" ] && echo true || echo false)"
    printf '  "failed": %d,\n  "runs": [\n' "$failed"
    for ((i = 0; i < ${#runs[@]}; i++)); do
        printf '    %s%s\n' "${runs[i]}" "$([ $((i + 1)) -lt ${#runs[@]} ] && echo ,)"
    done
    printf '  ]\n}\n'
} > "$results" || exit 2
echo "${#runs[@]} runs, $failed failed: $results"
[ "$failed" = 0 ]
