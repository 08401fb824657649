"""Compares bagdot with PyTorch from Python, on the same tensors and ids, and prints a table.

    python benchmarks/compare_torch.py [--threads 1 2] [--rounds 7] [--seconds 0.4]

Both sides run in turn, in blocks of at least `seconds`; a time is the median of the rounds, and a
ratio the median of the ratios of the rounds, so that a slower phase of the machine counts for both.
A ratio above 1 says that bagdot is faster. Stop everything else on the machine before.

The shape is 26 tables of 100,000 rows of 64, and 2048 samples with bags of 1 or 20 ids. PyTorch
looks up in 26 calls, or in one call on the joined table, whose output is then of another layout
([T * B, D], not [B, T * D]). A step is forward, backward and SGD, in PyTorch with sparse gradients.
"""

import argparse
import datetime
import platform
import statistics
import time

import torch
from torch import nn

import bagdot.torch as bt
from bagdot import ops

TABLES, ROWS, DIM, BATCH = 26, 100_000, 64, 2048


def block(call, seconds):
    """Returns the time of a call in seconds, as the mean over a block of calls."""
    call()
    calls, start = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return elapsed / calls


def compare(name, sides, arguments):
    """Prints the medians of all sides, and the ratio of the others to the first."""
    times = [[block(call, arguments.seconds) for call in sides.values()]
             for _ in range(arguments.rounds)]
    for number, side in enumerate(sides):
        median = statistics.median(row[number] for row in times)
        ratio = statistics.median(row[number] / row[0] for row in times)
        text = "" if number == 0 else f"{ratio:8.2f}"
        print(f"{name:<34} {side:<30} {median * 1e3:10.4f} {text}", flush=True)


def data(length):
    torch.manual_seed(0)
    flat = torch.randn(TABLES * ROWS * DIM) * 0.1
    ids = torch.randint(0, ROWS, (TABLES * BATCH * length,))
    offsets = torch.arange(0, TABLES * BATCH * length + 1, length)
    return flat, ids, offsets


def calls(arguments):
    weight, out = torch.randn(1000, 8), torch.empty(2, 8)
    ids, offsets = torch.tensor([7, 9, 7, 3]), torch.tensor([0, 2, 4])
    tables, spec = ops.Tables([(1000, 8)]), bt.table_spec([(1000, 8)])
    lookup = nn.functional.embedding_bag

    def of_torch():
        lookup(ids, weight, offsets, mode="sum", include_last_offset=True)

    sides = {
        "bagdot.ops, out given": lambda: ops.embedding_bag(tables, weight, ids, offsets, out=out),
        "bagdot.ops, new output": lambda: ops.embedding_bag(tables, weight, ids, offsets),
        "bagdot.torch": lambda: bt.embedding_bag(weight, ids, offsets, spec),
        "torch": of_torch,
    }
    with torch.no_grad():
        compare("call: 2 bags of 2 ids, D 8", sides, arguments)


def forward(length, dtype, arguments):
    flat, ids, offsets = data(length)
    flat = flat.to(dtype)
    tables = flat.view(TABLES, ROWS, DIM)
    per_table = ids.view(TABLES, -1)
    bags = torch.arange(0, BATCH * length + 1, length)
    linear = (per_table + torch.arange(TABLES)[:, None] * ROWS).flatten()
    joined = flat.view(TABLES * ROWS, DIM)
    layout = ops.Tables([(ROWS, DIM)] * TABLES)
    spec = bt.table_spec([(ROWS, DIM)] * TABLES)
    out = torch.empty(BATCH, TABLES * DIM)
    apart = [table.clone() for table in tables]
    lookup = nn.functional.embedding_bag

    def of_torch():
        for t in range(TABLES):
            lookup(per_table[t], tables[t], bags, mode="sum", include_last_offset=True)

    def in_one_call():
        lookup(linear, joined, offsets, mode="sum", include_last_offset=True)

    def in_one_call_to_rows():
        pooled = lookup(linear, joined, offsets, mode="sum", include_last_offset=True)
        pooled.view(TABLES, BATCH, DIM).transpose(0, 1).reshape(BATCH, TABLES * DIM)

    sides = {
        "bagdot.ops": lambda: ops.embedding_bag(layout, flat, ids, offsets, out=out),
        "bagdot.ops, tables apart": lambda: ops.embedding_bag(layout, apart, ids, offsets, out=out),
        "bagdot.torch": lambda: bt.embedding_bag(flat, ids, offsets, spec),
        "torch, 26 calls": of_torch,
        "torch, one call": in_one_call,
        "torch, one call, to [B, T D]": in_one_call_to_rows,
    }
    with torch.no_grad():
        compare(f"forward {str(dtype)[6:]} L {length}", sides, arguments)


def step(length, arguments):
    flat, ids, offsets = data(length)
    per_table = ids.view(TABLES, -1)
    bags = torch.arange(0, BATCH * length + 1, length)
    grad = torch.randn(BATCH, TABLES * DIM) * 1e-3
    grads = [part.contiguous() for part in grad.split(DIM, dim=1)]
    # Both sides update copies of the same tables.
    modules = nn.ModuleList(
        nn.EmbeddingBag.from_pretrained(
            table.clone(), freeze=False, mode="sum", sparse=True, include_last_offset=True
        )
        for table in flat.view(TABLES, ROWS, DIM)
    )
    sgd = torch.optim.SGD(modules.parameters(), lr=0.01)

    def of_torch():
        sgd.zero_grad()
        pooled = [module(per_table[t], bags) for t, module in enumerate(modules)]
        torch.autograd.backward(pooled, grads)
        sgd.step()

    sides = {}
    for optimizer in ("sgd", "rowwise_adagrad"):
        collection = bt.EmbeddingBagCollection([(ROWS, DIM)] * TABLES, optimizer=optimizer)
        collection.weights.data.copy_(flat)

        def of_bagdot(collection=collection):
            collection(ids, offsets=offsets).backward(grad)

        sides[f"bagdot.torch, {optimizer}"] = of_bagdot
    sides["torch, 26 x EmbeddingBag, sgd"] = of_torch
    compare(f"forward, backward, update L {length}", sides, arguments)


def machine():
    try:
        lines = open("/proc/cpuinfo").read().splitlines()
        return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4)
    arguments = parser.parse_args()
    print(f"{machine()}, {datetime.date.today()}, torch {torch.__version__}, milliseconds")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        ops.set_num_threads(threads)
        print(f"\n{threads} thread{'s' if threads > 1 else ''}{'':<57}median    ratio")
        calls(arguments)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for length in (1, 20):
                forward(length, dtype, arguments)
        for length in (1, 20):
            step(length, arguments)


if __name__ == "__main__":
    main()
