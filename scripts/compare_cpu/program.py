"""Compares `bagdot train examples/clothing.toml` with clothing.py, which trains such models.

Arguments: BAGDOT THREADS. This is a process of its own, without torch: the peak memory of a child
is never less than the memory of its parent when it began.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

CONFIG = "examples/clothing.toml"
EPOCHS, ROUNDS = 3, int(os.environ.get("ROUNDS", "3"))
MEBIBYTE = 1 << 20
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
REVIEWS = os.path.join(ROOT, "data", "clothing", "reviews.csv.gz")


def run(command, stream, awaited):
    """Runs a command. Returns the seconds until a line with `awaited` in it, the last line, and the
    peak memory in MiB."""
    start, seconds, line = time.perf_counter(), None, ""
    process = subprocess.Popen(
        command, text=True, **{"stdout": subprocess.DEVNULL, stream: subprocess.PIPE}
    )
    for line in getattr(process, stream):
        if seconds is None and awaited in line:
            seconds = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or seconds is None:
        raise RuntimeError(f"{command}: {line}")
    return seconds, line, usage.ru_maxrss * 1024 / MEBIBYTE


def ours(program, threads, folder):
    out = os.path.join(folder, "clothing")
    command = [
        program,
        "train",
        os.path.join(ROOT, CONFIG),
        "--epochs",
        str(EPOCHS),
        "--threads",
        str(threads),
        "--out",
        out,
    ]
    ready, _, memory = run(command, "stderr", "parameters")
    with open(os.path.join(out, "metrics.jsonl")) as file:
        records = [json.loads(line) for line in file]
    epochs = [record["seconds"] for record in records if "epoch" in record]
    return ready + epochs[0] / records[0]["step"], epochs, memory


def peer(threads):
    command = [
        sys.executable,
        os.path.join(HERE, "clothing.py"),
        REVIEWS,
        str(threads),
        str(EPOCHS),
    ]
    first_step, line, memory = run(command, "stdout", "first step")
    return first_step, json.loads(line), memory


def main():
    program, threads = sys.argv[1], int(sys.argv[2])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = [(ours(program, threads, folder), peer(threads)) for _ in range(ROUNDS)]
    print(f"\n| {threads} threads | bagdot | PyTorch | ratio |\n|---|---|---|---|")
    for name, mine, theirs in zip(
        ("s to the first step", "s for an epoch", "MiB at most"),
        *(zip(*side) for side in zip(*runs)),
    ):
        if name == "s for an epoch":
            mine, theirs = (
                [seconds for epochs in side for seconds in epochs] for side in (mine, theirs)
            )
        mine, theirs = statistics.median(mine), statistics.median(theirs)
        print(f"| {CONFIG}, {name} | {mine:.3f} | {theirs:.3f} | {theirs / mine:.2f} |")


main()
