"""Measures the sides of a comparison in turn."""

import collections
import json
import os
import statistics
import subprocess
import time

SECONDS = float(os.environ.get("SECONDS_EACH", "0.4"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
MIN_RUNS = 7
HERTZ = os.sysconf("SC_CLK_TCK")


class Server:
    """A process that answers each line, a request, with a line: bagdot's benchmark `compare_cpu`,
    or maker.py, which runs the peers of a maker of CPUs."""

    def __init__(self, command, threads):
        self.threads = threads
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self, request):
        """Returns the answer, or None if the process refuses the request."""
        self.process.stdin.write(
            json.dumps({**request, "threads": self.threads, "seconds": SECONDS}) + "\n"
        )
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return None if "refused" in answer else answer


def times_of(run, seconds=SECONDS):
    """Returns the times of a peer's runs in ms, as benches/compare_cpu/main.rs does."""
    for k in range(2):
        run(k)
    start, times = time.perf_counter(), []
    while len(times) < MIN_RUNS or time.perf_counter() - start < seconds:
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


def compare(ours, makers, request, peers):
    """Measures a cell. `peers` has names and functions of the number of a set; `makers` are servers
    of further peers. Returns the medians over all rounds in milliseconds, without bagdot if it
    refused the request; the rate of bagdot as a share of that of the gather, or None if the work
    has none; and the number of CPUs that other processes used meanwhile."""
    servers = [ours, *makers]
    pids = (os.getpid(), *(server.process.pid for server in servers))
    runs = {name: lambda run=run: times_of(run) for name, run in peers.items()}
    # The first answers make the inputs, and the first runs compile.
    first, *firsts = [server.answer(request) for server in servers]
    makers = [maker for maker, answer in zip(makers, firsts) if answer]
    for run in peers.values():
        run(0)
    times = collections.defaultdict(list)
    (all_before, own_before), start = busy(pids), time.perf_counter()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name] += run()
        for maker in makers:
            for name, more in maker.answer(request)["times"].items():
                times[name] += more
        if first:
            answer = ours.answer(request)
            times["bagdot"] += answer["times"]
            times["gather"] += answer.get("gather", [])
    (all_after, own_after), wall = busy(pids), time.perf_counter() - start
    others = max(0.0, (all_after - all_before) - (own_after - own_before)) / wall
    gather = times.pop("gather", None)
    medians = {name: statistics.median(of) for name, of in times.items()}
    share = None
    if gather:
        bytes_moved, bytes_gathered = answer["bytes"]
        share = bytes_moved / medians["bagdot"] * statistics.median(gather) / bytes_gathered
    return medians, share, others
