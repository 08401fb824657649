#!/usr/bin/env bash
# Runs the commands that the README shows in its `sh` blocks, in a copy of the working folder's
# state: they must all work as written. `scripts/test.sh` itself is left out, since it is what calls
# this.
set -euo pipefail
cd "$(dirname "$0")/.."
awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md | grep -v '^scripts/' | while read -r line; do
    printf '$ %s\n' "$line"
    bash -euo pipefail -c "$line" < /dev/null
done
