"""Runs the peers of a maker of CPUs, which need another version of torch than the others.

Arguments: NAME THREADS, where maker_NAME.py has `peers_of(request)`. It reads a request from each
line of its input, as the benchmark `compare_cpu` does, and answers with a line: the times of the
runs of each peer in milliseconds, or the reason of a refusal. It keeps the peers of the last line;
bagdot's memory is not their concern.
"""

import importlib
import json
import os
import sys

NAME, THREADS = sys.argv[1], int(sys.argv[2])
# Before torch is imported.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)

# Only answers go to the output; libraries print as well.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

maker = importlib.import_module(f"maker_{NAME}")

import measure  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(THREADS)

last, peers = None, {}
for line in sys.stdin:
    request = json.loads(line)
    request.pop("memory", None)
    try:
        if request != last:
            # The old peers are dropped first, so that large ones fit into memory.
            last, peers = None, {}
            last, peers = request, maker.peers_of(request)
        answer = {
            "times": {
                name: measure.times_of(run, request["seconds"]) for name, run in peers.items()
            }
        }
    except Exception as reason:
        print(f"{NAME} refused: {reason}", file=sys.stderr)
        answer = {"refused": str(reason)}
    print(json.dumps(answer), file=answers, flush=True)
