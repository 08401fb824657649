"""Prints the table of ops and models of scripts/compare_cpu.sh.

Arguments: PROGRAM THREADS [REGULAR EXPRESSION OF NAMES]
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

print(f"| {THREADS} threads | bagdot, ms | best peer, ms | peer | ratio | other CPUs |", flush=True)
print("|---|---|---|---|---|---|")
ours = measure.Ours(PROGRAM, THREADS)
with tempfile.TemporaryDirectory() as folder:
    for work in WORKS:
        for name, request, peers in work.cells(folder):
            if not re.search(WANTED, name):
                continue
            medians, others = measure.compare(ours, request, peers)
            mine = medians.pop("bagdot", None)
            best = min(medians, key=medians.get)
            times = (
                f"{mine:.3f} | {medians[best]:.3f} | {best} | {medians[best] / mine:.2f}"
                if mine
                else f"- | {medians[best]:.3f} | {best} | -"
            )
            print(f"| {name} | {times} | {others:.2f} |", flush=True)
