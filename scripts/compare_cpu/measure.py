"""Both sides of a comparison, measured in turn."""

import json
import os
import statistics
import subprocess
import time

SECONDS = float(os.environ.get("SECONDS_EACH", "0.4"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
LEAST_RUNS = 7
HERTZ = os.sysconf("SC_CLK_TCK")


class Ours:
    """The example program `compare_cpu`: a request a line, an answer a line."""

    def __init__(self, program, threads):
        self.threads = threads
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def times(self, request):
        """None where it cannot do what is asked; it says why."""
        self.process.stdin.write(json.dumps({**request, "threads": self.threads, "seconds": SECONDS}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return None if "refused" in answer else answer


def times_of(run):
    """The times of a peer's runs, in milliseconds: as in examples/compare_cpu/main.rs."""
    for k in range(2):
        run(k)
    start, times = time.perf_counter(), []
    while len(times) < LEAST_RUNS or time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        run(len(times))
        times.append((time.perf_counter() - before) * 1e3)
    return times


def busy(pids):
    """The CPU seconds of the whole machine, and those of these processes."""
    fields = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    own = 0
    for pid in pids:
        stat = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        own += int(stat[11]) + int(stat[12])
    return (sum(fields) - fields[3] - fields[4]) / HERTZ, own / HERTZ


def compare(ours, request, peers):
    """One cell: medians over all rounds in milliseconds, without ours where it was refused, and how many CPUs others used meanwhile. `peers`: names and functions of the set's number."""
    pids = (os.getpid(), ours.process.pid)
    runs = {name: lambda run=run: times_of(run) for name, run in peers.items()}
    if ours.times(request):
        runs["bagdot"] = lambda: ours.times(request)
    for run in peers.values():  # which compiles what is to be compiled
        run(0)
    times = {name: [] for name in runs}
    (all_before, own_before), start = busy(pids), time.perf_counter()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name] += run()
    (all_after, own_after), wall = busy(pids), time.perf_counter() - start
    others = max(0.0, (all_after - all_before) - (own_after - own_before)) / wall
    return {name: statistics.median(of) for name, of in times.items()}, others
