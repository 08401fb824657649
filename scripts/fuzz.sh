#!/usr/bin/env bash
# Fuzzes readers, configurations, manifests, model files and the arguments of ops, with new seeds
# each time. It is for whoever changes one of them.
#
#   scripts/fuzz.sh [SECONDS] [TARGET]
#       SECONDS  the time for each target; default: 60
#       TARGET   a target, such as delimited_text; default: all
#
# An input that fails is added to tests/corpus, which every run of the tests replays.
set -euo pipefail
cd "$(dirname "$0")/.."

export BAGDOT_FUZZ_SECONDS="${1:-60}"
cargo test --test suite -- --nocapture "fuzz::${2:-}" "hostile_arguments::${2:-}"
