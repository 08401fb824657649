#!/usr/bin/env python3
"""Draws docs/speed.svg, and writes the README's table of six rows, from the records in
benches/record.

    plot_speed.py           writes both
    plot_speed.py --check   fails if they are not those of the records

A row names the measurement that it shows, of bagdot and of the best peer in the same run. The table
stands in README.md between `<!-- speed -->` and `<!-- end -->`. Needs Python alone.
"""

import json
import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLOT = ROOT / "docs/speed.svg"
README = ROOT / "README.md"

CPU = "cpu/2026-11-27-awake.md"
H200 = "nvidia-h200/2026-11-28.json"
H200_MODELS = "nvidia-h200/2026-11-27-models.json"


def of_cpu(name):
    """Finds a row of the table for 2 threads. Returns the ms of bagdot and of the best peer, and
    the name of that."""
    table = (ROOT / "benches/record" / CPU).read_text().split("| 2 threads |")[1]
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    [(ours, peer, who)] = [row[2:5] for row in rows if row[1:2] == [name]]
    return float(ours), float(peer), who


def of_gpu(record, *benchmarks):
    """Finds benchmarks, whose times are added up. Returns what `of_cpu` does. The peer is that of
    the last one."""
    entries = json.loads((ROOT / "benches/record" / record).read_text())["benchmarks"]
    entries = {f"{entry['op']} {entry['shape']}": entry for entry in entries}
    found = [entries[benchmark] for benchmark in benchmarks]
    peers = {
        "PyTorch": found[-1].get("pytorch_ns"),
        "PyTorch eager": found[-1].get("pytorch_ns_of", {}).get("eager"),
        "cuBLASLt": entries.get(f"{benchmarks[-1]} cublaslt", {}).get("ns"),
    }
    peer, who = min((ns, who) for who, ns in peers.items() if ns)
    return sum(entry["ns"] for entry in found) / 1e6, peer / 1e6, who


def update(shape):
    """Names the sort and the update of SGD, which are one row: the peer does the work of both."""
    return [f"index_sort {shape}", f"sparse_update {shape} f32 sgd"]


SMALL, LARGE = "t26 r100000 d64 b2048", "t26 r100000 d128 b65536"
# The title of each group; its rows: the label, whether the README has the row, the measurement.
GROUPS = [
    (
        "Intel Xeon (Sapphire Rapids, AMX), 2026-11-27",
        [
            ("embedding_bag f32, L 1, Zipf", True, of_cpu("embedding forward f32 L 1 zipf")),
            (
                "embedding_bag f32, L 20, uniform",
                False,
                of_cpu("embedding forward f32 L 20 uniform"),
            ),
            ("embedding_bag f16, L 20, Zipf", False, of_cpu("embedding forward f16 L 20 zipf")),
            (
                "… with backward and SGD, L 20, Zipf",
                False,
                of_cpu("embedding forward, backward, sgd L 20 zipf"),
            ),
            (
                "… with row-wise Adagrad, L 20, Zipf",
                False,
                of_cpu("embedding forward, backward, row-wise adagrad L 20 zipf"),
            ),
            (
                "interaction, both directions, F 27, D 64",
                False,
                of_cpu("interaction forward, backward F 27 D 64"),
            ),
            ("training step f32, SGD", True, of_cpu("training step f32, sgd")),
            ("training step bf16, SGD", False, of_cpu("training step bf16, sgd")),
            ("inference f32", False, of_cpu("inference f32")),
            ("inference bf16", False, of_cpu("inference bf16")),
        ],
    ),
    (
        "NVIDIA H200, 2026-11-27 and 2026-11-28",
        [
            (
                "embedding_bag f32, D 64, B 2048, L 20, uniform",
                True,
                of_gpu(H200_MODELS, f"embedding_bag_forward {SMALL} l20 uniform f32"),
            ),
            (
                "embedding_bag f32, D 128, B 65,536, L 1, uniform",
                False,
                of_gpu(H200_MODELS, f"embedding_bag_forward {LARGE} l1 uniform f32"),
            ),
            (
                "sort + SGD update, D 64, B 2048, L 1, uniform",
                False,
                of_gpu(H200, *update(f"{SMALL} l1 uniform")),
            ),
            (
                "sort + SGD update, D 64, B 2048, L 1, Zipf",
                True,
                of_gpu(H200, *update(f"{SMALL} l1 zipf")),
            ),
            (
                "sort + SGD update, D 64, B 2048, L 20, Zipf",
                False,
                of_gpu(H200, *update(f"{SMALL} l20 zipf")),
            ),
            (
                "sort + SGD update, D 128, B 65,536, L 1, Zipf",
                False,
                of_gpu(H200, *update(f"{LARGE} l1 zipf")),
            ),
            (
                "interaction forward f32, F 27, D 64, B 2048",
                False,
                of_gpu(H200, "interaction_forward f27 d64 b2048 f32"),
            ),
            (
                "interaction backward bf16, D 128, B 65,536",
                False,
                of_gpu(H200, "interaction_backward f27 d128 b65536 bf16"),
            ),
            (
                "linear forward bf16, 16,384 × 1024 × 1024, own kernel",
                True,
                of_gpu(H200, "linear_forward m16384 n1024 k1024 bf16"),
            ),
            (
                "linear backward f32, 16,384 × 1024 × 1024, own kernel",
                False,
                of_gpu(H200, "linear_backward m16384 n1024 k1024 f32"),
            ),
            (
                "linear forward f32, 2048 × 1 × 256, own kernel",
                False,
                of_gpu(H200, "linear_forward m2048 n1 k256 f32"),
            ),
            (
                "training step, kaggle, f32, B 128",
                False,
                of_gpu(H200_MODELS, "train_step kaggle b128 uniform f32"),
            ),
            (
                "training step, mlperf, bf16, B 65,536",
                True,
                of_gpu(H200_MODELS, "train_step mlperf b65536 uniform bf16"),
            ),
            (
                "prediction, mlperf, f32, B 65,536",
                False,
                of_gpu(H200, "predict mlperf b65536 uniform f32"),
            ),
            (
                "prediction, terabyte, bf16, B 2048",
                False,
                of_gpu(H200, "predict terabyte b2048 uniform bf16"),
            ),
        ],
    ),
]


def time(ms):
    """Returns a time with three digits and its unit."""
    value, unit = (ms * 1e3, "µs") if ms < 0.3 else (ms, "ms")
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


# The plot, in pixels: bars between LEFT and RIGHT, on a logarithmic axis of ratios.
WIDTH, LEFT, RIGHT, ROW, FIRST = 1060, 390, 700, 22, 64
LEAST, MOST = 1 / 8, 8

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .page { fill: #ffffff; stroke: #d1d9e0; }
  .title { font-weight: 600; }
  .small { fill: #59636e; font-size: 12px; }
  .grid { stroke: #d1d9e0; }
  .one { stroke: #1f2328; stroke-width: 1.5; }
  .win { fill: #2563a8; }
  .loss { fill: #c2410c; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .page { fill: #0d1117; stroke: #3d444d; }
    .small { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .one { stroke: #f0f6fc; }
    .win { fill: #58a6ff; }
    .loss { fill: #f0883e; }
  }
"""


def x_of(ratio):
    share = math.log(ratio / LEAST) / math.log(MOST / LEAST)
    return round(LEFT + share * (RIGHT - LEFT), 1)


def text(x, y, words, style="", anchor="start"):
    return f'<text x="{x}" y="{y}" class="{style}" text-anchor="{anchor}">{words}</text>'


def bar(y, label, ours, peer, who):
    ratio = peer / ours
    assert LEAST < ratio < MOST, (label, ratio)
    style, one, end = "win" if ratio >= 1 else "loss", x_of(1), x_of(ratio)
    at, anchor = (end + 5, "start") if ratio >= 1 else (end - 5, "end")
    times = f"{time(ours)} beside {time(peer)}, {who}"
    return [
        text(LEFT - 12, y + 12, label, anchor="end"),
        f'<rect x="{min(one, end)}" y="{y}" width="{abs(end - one):.1f}" height="15" '
        f'class="{style}"/>',
        text(round(at, 1), y + 12, f"{ratio:.2f}", anchor=anchor),
        text(RIGHT + 32, y + 12, times, "small"),
    ]


def plot():
    y, bars = FIRST, []
    for title, rows in GROUPS:
        bars.append(text(16, y + 12, title, "title"))
        y += ROW + 2
        for label, _, (ours, peer, who) in rows:
            bars += bar(y, label, ours, peer, who)
            y += ROW
        y += 10
    bottom = y
    grid = []
    for ratio in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8):
        x, style = x_of(ratio), "one" if ratio == 1 else "grid"
        label = f"1/{1 / ratio:.0f}" if ratio < 1 else f"{ratio}"
        grid.append(f'<path d="M{x} {FIRST - 8}V{bottom}" class="{style}"/>')
        grid.append(text(x, bottom + 18, label, "small", "middle"))
    height = bottom + 32
    about = (
        "Bars of the ratio of the best peer's time to bagdot's, for ops and whole models on a CPU "
        "and a GPU. BENCHMARKS.md has the numbers as tables."
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-labelledby="title desc">',
        '<title id="title">Times of bagdot beside the best peer</title>',
        f'<desc id="desc">{about}</desc>',
        "<!-- Written by scripts/plot_speed.py from benches/record. -->",
        f"<style>{STYLE}</style>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6" class="page"/>',
        text(16, 28, "How many times as fast as the best peer bagdot is", "title"),
        text(16, 46, "right of 1: bagdot is faster; left of 1: it is slower", "small"),
        *grid,
        *bars,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def table():
    lines = ["| on | work | bagdot | best peer | ratio |", "|---|---|---|---|---|"]
    for (title, rows), device in zip(GROUPS, ("CPU", "GPU")):
        for label, is_in_readme, (ours, peer, who) in rows:
            if is_in_readme:
                cells = [device, label, time(ours), f"{time(peer)}, {who}", f"{peer / ours:.2f}"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    old = README.read_text()
    marked = re.compile(r"(<!-- speed -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marked.search(old):
        sys.exit("plot_speed: README.md lacks the comments around the table")
    new = {PLOT: plot(), README: marked.sub(lambda m: m[1] + table() + m[2], old)}
    if "--check" not in sys.argv:
        for path, content in new.items():
            path.write_text(content)
    for path, content in new.items():
        if not path.exists() or path.read_text() != content:
            name = path.relative_to(ROOT)
            sys.exit(f"plot_speed: {name} is not that of the records: run scripts/plot_speed.py")


if __name__ == "__main__":
    main()
