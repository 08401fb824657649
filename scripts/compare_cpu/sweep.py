"""Measures the cost of work as it grows: one number of the shape changes at a time.

Arguments: PROGRAM THREADS SVG. Prints a table, and draws it.
"""

import datetime
import math
import os
import re
import subprocess
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
STANDARD = {"T": 26, "D": 64, "B": 2048, "ROWS": 100_000}
AXES = {
    "T": ("tables", (8, 26, 100)),
    "D": ("dimension", (16, 64, 128)),
    "B": ("batch size", (128, 2048, 16_384)),
    "ROWS": ("rows of a table", (10_000, 100_000, 1_000_000)),
}
WORKS = ("embedding forward f32 L 1 zipf", "training step f32, sgd")


def measured(program, threads, shape):
    """Returns for each work the ms of bagdot, those of the best peer, its name, the ratio, the
    percentage of the gather, and the CPUs that others used."""
    environment = {**os.environ, **{name: str(value) for name, value in shape.items()}}
    wanted = f"^({'|'.join(map(re.escape, WORKS))})$"
    command = [sys.executable, HERE, program, str(threads), wanted]
    lines = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {name: rest for name, *rest in cells}


def number(text):
    return math.nan if text == "-" else float(text)


def machine():
    lines = subprocess.run(
        ["lscpu"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("Model name")),
        "unknown CPU",
    )


def draw(results, threads, path):
    figure, plots = plt.subplots(
        len(WORKS), len(AXES), figsize=(13, 6), sharey="row", layout="constrained"
    )
    for work, row in zip(WORKS, plots):
        for (axis, (title, values)), plot in zip(AXES.items(), row):
            cells = [results[tuple({**STANDARD, axis: value}.values())][work] for value in values]
            plot.plot(values, [number(cell[0]) for cell in cells], "o-", label="bagdot")
            plot.plot(values, [number(cell[1]) for cell in cells], "s--", label="best peer")
            plot.set(xscale="log", yscale="log", xlabel=title)
            plot.set_xticks(values, [f"{value:,}" for value in values])
            plot.minorticks_off()
            plot.grid(alpha=0.3)
        row[0].set_ylabel(f"{work}\nms")
    plots[0][0].legend()
    shape = ", ".join(f"{AXES[axis][0]} {value:,}" for axis, value in STANDARD.items())
    figure.suptitle(
        f"{machine()}, {threads} threads, {datetime.date.today()}: "
        f"scripts/compare_cpu.sh --sweep {threads}\n"
        f"medians; where an axis does not say otherwise: {shape}",
        fontsize=10,
    )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    figure.savefig(path)


def main():
    program, threads, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    shapes = [{**STANDARD, axis: value} for axis, (_, values) in AXES.items() for value in values]
    print(
        f"| {' | '.join(AXES)} | {threads} threads | bagdot, ms | best peer, ms | peer | ratio "
        "| % of gather | other CPUs |",
        flush=True,
    )
    print("|---" * (len(AXES) + 7) + "|")
    results = {}
    for shape in shapes:
        key = tuple(shape.values())
        if key not in results:
            results[key] = measured(program, threads, shape)
            for work in WORKS:
                print("|", " | ".join([*map(str, key), work, *results[key][work]]), "|", flush=True)
    draw(results, threads, path)


main()
