"""Measures both sides of a comparison in turn."""

import json
import os
import statistics
import subprocess
import time

SECONDS = float(os.environ.get("SECONDS_EACH", "0.4"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
MIN_RUNS = 7
HERTZ = os.sysconf("SC_CLK_TCK")


class Ours:
    """The benchmark `compare_cpu`, which answers each line, a request, with a line."""

    def __init__(self, program, threads):
        self.threads = threads
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def times(self, request):
        """Returns the times of the runs, or None if the program refuses the request."""
        self.process.stdin.write(
            json.dumps({**request, "threads": self.threads, "seconds": SECONDS}) + "\n"
        )
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return None if "refused" in answer else answer


def times_of(run):
    """Returns the times of a peer's runs in ms, as benches/compare_cpu/main.rs does."""
    for k in range(2):
        run(k)
    start, times = time.perf_counter(), []
    while len(times) < MIN_RUNS or time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        run(len(times))
        times.append((time.perf_counter() - before) * 1e3)
    return times


def busy(pids):
    """Returns the CPU seconds of the whole machine, and those of these processes."""
    fields = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    own = 0
    for pid in pids:
        stat = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        own += int(stat[11]) + int(stat[12])
    return (sum(fields) - fields[3] - fields[4]) / HERTZ, own / HERTZ


def compare(ours, request, peers):
    """Measures a cell. `peers` has names and functions of the number of a set. Returns the medians
    over all rounds in milliseconds, without bagdot if it refused the request, and the number of
    CPUs that other processes used meanwhile."""
    pids = (os.getpid(), ours.process.pid)
    runs = {name: lambda run=run: times_of(run) for name, run in peers.items()}
    if ours.times(request):
        runs["bagdot"] = lambda: ours.times(request)
    for run in peers.values():  # the first run compiles
        run(0)
    times = {name: [] for name in runs}
    (all_before, own_before), start = busy(pids), time.perf_counter()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name] += run()
    (all_after, own_after), wall = busy(pids), time.perf_counter() - start
    others = max(0.0, (all_after - all_before) - (own_after - own_before)) / wall
    return {name: statistics.median(of) for name, of in times.items()}, others
