"""The ids of batches: as a file, which bagdot reads, and as tensors for the peers."""

import functools
import os

import numpy as np
import torch

SETS = 4


def draw(random, rows, count, kind):
    """Draws ids. They are uniform, or Zipf: frequencies fall with the power 1.05 of the rank, and
    the rank of each row is random."""
    if kind == "uniform":
        return random.integers(0, rows, count)
    weights = 1.0 / np.arange(1, rows + 1) ** 1.05
    below = np.cumsum(weights) / weights.sum()
    ranks = np.searchsorted(below, random.random(count)).clip(0, rows - 1)
    return np.random.default_rng(12345).permutation(rows)[ranks]


@functools.lru_cache(maxsize=1)
def batches(num_tables, rows, batch_size, pooling_factor, kind, folder):
    """Returns the path of the file, the ids of each set, key-major, and the offsets of the bags."""
    random = np.random.default_rng(0)
    count = batch_size * pooling_factor
    sets = np.stack(
        [
            np.stack([draw(random, rows, count, kind) for _ in range(num_tables)])
            for _ in range(SETS)
        ]
    )
    # bagdot reads a file once, so that other contents need another name.
    path = os.path.join(folder, f"{kind}-{num_tables}-{rows}-{batch_size}-{pooling_factor}.bin")
    sets.astype("<i8").tofile(path)
    flat = [torch.from_numpy(ids.reshape(-1).astype(np.int64)) for ids in sets]
    return path, flat, torch.arange(0, num_tables * batch_size + 1) * pooling_factor


def read(request):
    """Reads what `batches` returned from the file of a request."""
    bags, length = request["num_tables"] * request["batch_size"], request["pooling_factor"]
    sets = np.fromfile(request["ids"], "<i8").reshape(-1, bags * length)
    return [torch.from_numpy(ids) for ids in sets], torch.arange(0, bags + 1) * length
