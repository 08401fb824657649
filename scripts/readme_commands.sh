#!/usr/bin/env bash
# Runs the commands that the README shows in its `sh` blocks: all of them must work as written. The
# scripts among them are left out, since one of them calls this one.
set -euo pipefail
cd "$(dirname "$0")/.."
blocks=$(awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md)
grep -v '^scripts/' <<< "$blocks" | while read -r line; do
    printf '$ %s\n' "$line"
    bash -euo pipefail -c "$line" < /dev/null
done
