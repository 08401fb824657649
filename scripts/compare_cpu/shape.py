"""The shape that is compared: how many tables with how many rows of which dimension, and how many samples a batch has."""

import os

T, ROWS, D, B = (int(os.environ.get(name, default)) for name, default in (("T", 26), ("ROWS", 100_000), ("D", 64), ("B", 2048)))
