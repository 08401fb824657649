#!/usr/bin/env python3
"""Writes the tables of GPU measurements in BENCHMARKS.md from the records in benches/record.

    gpu_tables.py           writes the tables
    gpu_tables.py --check   fails if they are not those of the records

A table stands between two comments, `<!-- table KIND RECORD -->` and `<!-- end -->`. Needs Python
alone.

The floor of an op is the time in which the memory of the device, at its peak, moves the least
bytes: ids and bags once, outputs once, and each distinct row of a table once, however often the
batch names it. The number of distinct rows is the expectation for the ids that the benchmarks
draw (benches/common/mod.rs): uniform, or Zipf with the exponent 1.05.
"""

import functools
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "BENCHMARKS.md"
# Bytes a second, by the data sheets: HBM3e of the H200; HBM3 of the H100 SXM, whose name this is.
PEAKS = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12}
SIZES = {"f32": 4, "f16": 2, "bf16": 2, "tf32": 4}
ZIPF_EXPONENT = 1.05
# A letter and a number, but no type of elements.
NUMBERS = re.compile(r"\b([a-z])(\d+)\b(?<!f16)(?<!f32)")


class Record:
    """The benchmarks of a file in benches/record."""

    def __init__(self, path):
        found = json.loads((ROOT / path).read_text())
        self.peak = PEAKS[found["device"]]
        self.benchmarks = {(b["op"], b["shape"]): b for b in found["benchmarks"]}

    def of(self, op):
        """Returns the shapes and entries of an op, those of small numbers first."""
        found = [(shape, b) for (known, shape), b in self.benchmarks.items() if known == op]
        return sorted(found, key=lambda entry: [int(n) for _, n in NUMBERS.findall(entry[0])])


@functools.cache
def distinct_rows(rows, count, is_zipf):
    """Returns the expected number of distinct rows among `count` ids of a table."""
    if not is_zipf:
        return rows * (1 - (1 - 1 / rows) ** count)
    weights = [rank**-ZIPF_EXPONENT for rank in range(1, rows + 1)]
    total = sum(weights)
    return sum(1 - (1 - weight / total) ** count for weight in weights)


class Shape:
    """The numbers and words in the name of a benchmark: `t26 r100000 d64 b2048 l1 zipf f32`."""

    def __init__(self, name):
        self.words = name.split()
        for letter, number in NUMBERS.findall(name):
            setattr(self, letter, int(number))

    def ids(self):
        return self.t * self.b * self.l

    def bags(self):
        return self.t * self.b

    def rows(self):
        """Returns the expected number of distinct rows of all tables."""
        return self.t * distinct_rows(self.r, self.b * self.l, "zipf" in self.words)


def embedding_bag_bytes(shape):
    """Returns the bytes with a read of a row for each id, and with one for each distinct row."""
    row = shape.d * SIZES[shape.words[-1]]
    others = shape.ids() * 8 + (shape.bags() + 1) * 8 + shape.bags() * shape.d * 4
    return others + shape.ids() * row, others + shape.rows() * row


def index_sort_bytes(shape):
    """The order has two numbers of 4 bytes for each id, and 12 bytes for each distinct row."""
    others = (shape.ids() + shape.bags() + 1) * 8 + shape.ids() * 8
    return others + shape.ids() * 12, others + shape.rows() * 12


def sparse_update_bytes(shape):
    """Rows and their state are read and written. The order has 12 bytes for each distinct row,
    which the benchmark itself does not count."""
    row = 2 * 4 * (shape.d + ("rowwise_adagrad" in shape.words))
    others = shape.ids() * 8 + shape.bags() * shape.d * 4
    return others + shape.ids() * row, others + shape.rows() * (row + 12)


OPTIMIZERS = {"sgd": "SGD", "rowwise_adagrad": "row-wise Adagrad"}


def title(shape, *words):
    """Returns the words of a table for a shape of bags."""
    ids = "Zipf" if "zipf" in shape.words else "uniform"
    return ", ".join([f"D {shape.d}", f"B {shape.b}", f"L {shape.l}", ids, *words])


def us(ns, digits=1):
    return f"{ns / 1e3:.{digits}f}"


def ms(ns):
    return f"{ns / 1e6:#.3g}" if ns >= 1e6 else f"{ns / 1e6:.3f}"


def ratio(peer, ns):
    return f"{peer / ns:.2f}"


def percent(part):
    return f"{100 * part:.0f} %"


def of_floor(record, b, counted, least):
    """Returns the cells for time, GB/s, floor and percent of the floor."""
    assert abs(b.get("bytes", counted) / counted - 1) < 1e-3, (b, counted)
    floor = least / record.peak * 1e9
    digits = 2 if floor < 1e3 else 1
    return [us(b["ns"]), f"{counted / b['ns']:.0f}", us(floor, digits), percent(floor / b["ns"])]


def peer_cells(b):
    peer = b.get("pytorch_ns")
    return [us(peer), ratio(peer, b["ns"])] if peer else ["", ""]


FLOORS = ["µs", "GB/s, a read per id", "floor, µs", "of floor"]
PEER = ["PyTorch, µs", "ratio"]


def lookup(record):
    rows = []
    for name, b in record.of("embedding_bag_forward"):
        shape = Shape(name)
        cells = of_floor(record, b, *embedding_bag_bytes(shape))
        rows.append([title(shape, shape.words[-1]), *cells, *peer_cells(b)])
    return ["`embedding_bag` forward", *FLOORS, *PEER], rows


def sort_and_update(record):
    rows = []
    for name, update in record.of("sparse_update"):
        shape = Shape(name)
        sort = record.benchmarks["index_sort", " ".join(shape.words[:6])]
        both = {"ns": sort["ns"] + update["ns"], "pytorch_ns": update["pytorch_ns"]}
        parts = [us(b["ns"]) for b in (sort, update, both)]
        rows.append([title(shape, OPTIMIZERS[shape.words[-1]]), *parts, *peer_cells(both)])
    rows.sort(key=lambda row: "SGD" not in row[0])
    return ["f32 tables", "sort, µs", "update, µs", "sort + update, µs", *PEER], rows


def parts_of_update(record):
    rows = []
    for op, bytes_of in (("index_sort", index_sort_bytes), ("sparse_update", sparse_update_bytes)):
        for name, b in record.of(op):
            shape = Shape(name)
            optimizer = [OPTIMIZERS[word] for word in shape.words if word in OPTIMIZERS]
            label = f"`{op}`, {title(shape, *optimizer)}"
            rows.append([label, *of_floor(record, b, *bytes_of(shape))])
    return ["part", *FLOORS], rows


def interaction(record):
    rows = []
    for direction in ("forward", "backward"):
        for name, b in record.of(f"interaction_{direction}"):
            shape = Shape(name)
            floor = b["bytes"] / record.peak * 1e9
            label = f"{direction}, F {shape.f}, D {shape.d}, B {shape.b}, {shape.words[-1]}"
            cells = [us(b["ns"]), f"{b['bytes'] / b['ns']:.0f}", us(floor, 2)]
            rows.append([label, *cells, percent(floor / b["ns"]), *peer_cells(b)])
    return ["`interaction`", "µs", "GB/s", "floor, µs", "of floor", *PEER], rows


def linear(record):
    rows = []
    for direction in ("forward", "backward"):
        for name, b in record.of(f"linear_{direction}"):
            if name.endswith("cublaslt"):
                continue
            shape = Shape(name)
            label = f"{direction}, {shape.m} × {shape.n} × {shape.k}, {shape.words[-1]}"
            library = record.benchmarks.get((b["op"], f"{name} cublaslt"))
            peers = [p for p in (library and library["ns"], b["pytorch_ns"]) if p]
            library = us(library["ns"]) if library else ""
            best = ratio(min(peers), b["ns"])
            rows.append([label, us(b["ns"]), library, us(b["pytorch_ns"]), best])
    head = ["samples × outputs × inputs", "own kernels, µs", "cuBLASLt, µs", "PyTorch, µs", "ratio"]
    return head, rows


def models(record):
    rows = []
    for op, label in (("train_step", "training step"), ("predict", "prediction")):
        for name, b in record.of(op):
            model, batch, ids, kind = name.split()
            peer = b["pytorch_ns_of"]["eager"]
            staged = record.benchmarks.get(("train_staged", name)) if op == "train_step" else None
            words = f"{label}, `{model}`, B {batch[1:]}, {ids.replace('zipf', 'Zipf')}, {kind}"
            staged = ms(staged["ns"]) if staged else ""
            rows.append([words, ms(b["ns"]), staged, ms(peer), ratio(peer, b["ns"])])
    return ["", "ms", "from the host, ms", "PyTorch eager, ms", "ratio"], rows


KINDS = {
    "lookup": lookup,
    "sort-and-update": sort_and_update,
    "parts-of-update": parts_of_update,
    "interaction": interaction,
    "linear": linear,
    "models": models,
}


def table(kind, path):
    head, rows = KINDS[kind](Record(path))
    lines = [f"| {' | '.join(cells)} |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def main():
    old = PAGE.read_text()
    marked = re.compile(r"(<!-- table (\S+) (\S+) -->\n)(?:\|.*\n)*(<!-- end -->)")
    new = marked.sub(lambda m: m[1] + table(m[2], m[3]) + m[4], old)
    if new.count("<!-- table ") != len(marked.findall(new)):
        sys.exit("gpu_tables: a table of BENCHMARKS.md is not between its comments")
    if "--check" not in sys.argv:
        PAGE.write_text(new)
    elif new != old:
        sys.exit("gpu_tables: BENCHMARKS.md is not that of the records: run scripts/gpu_tables.py")


if __name__ == "__main__":
    main()
