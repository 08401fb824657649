"""The shape of a comparison: tables, rows of each, dimension, and samples of a batch."""

import os

T, ROWS, D, B = (
    int(os.environ.get(name, default))
    for name, default in (("T", 26), ("ROWS", 100_000), ("D", 64), ("B", 2048))
)
