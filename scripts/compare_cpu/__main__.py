"""Prints the table of ops and models of scripts/compare_cpu.sh.

Arguments: PROGRAM THREADS [REGULAR EXPRESSION OF NAMES]

The variable MAKER names the peers of the CPU's maker, if it is set and not "none", and
MAKER_PYTHON is the Python that has them.
"""

import os
import re
import sys
import tempfile

PROGRAM, THREADS = sys.argv[1], int(sys.argv[2])
WANTED = sys.argv[3] if len(sys.argv) > 3 else ""
# Before torch is imported.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)

import torch  # noqa: E402

torch.set_num_threads(THREADS)

import dlrm  # noqa: E402
import embedding  # noqa: E402
import interaction  # noqa: E402
import measure  # noqa: E402

WORKS = (embedding, interaction, dlrm)

print(
    f"| {THREADS} threads | bagdot, ms | best peer, ms | peer | ratio | % of gather | other CPUs |",
    flush=True,
)
print("|---|---|---|---|---|---|---|")
ours, makers = measure.Server([PROGRAM], THREADS), []
if os.environ.get("MAKER", "none") != "none":
    maker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "maker.py")
    command = [os.environ["MAKER_PYTHON"], maker, os.environ["MAKER"], str(THREADS)]
    makers.append(measure.Server(command, THREADS))
with tempfile.TemporaryDirectory() as folder:
    for work in WORKS:
        for name, request, peers in work.cells(folder):
            if not re.search(WANTED, name):
                continue
            medians, share, others = measure.compare(ours, makers, request, peers)
            mine = medians.pop("bagdot", None)
            best = min(medians, key=medians.get)
            times = (
                f"{mine:.3f} | {medians[best]:.3f} | {best} | {medians[best] / mine:.2f}"
                if mine
                else f"- | {medians[best]:.3f} | {best} | -"
            )
            of_gather = f"{100 * share:.0f}" if share else ""
            print(f"| {name} | {times} | {of_gather} | {others:.2f} |", flush=True)
            if os.environ.get("ALL_PEERS"):
                for peer in sorted(medians, key=medians.get):
                    print(f"{peer}: {medians[peer]:.3f} ms", file=sys.stderr, flush=True)
