"""Trains the models of examples/clothing.toml with PyTorch.

Arguments: REVIEWS THREADS EPOCHS. Prints a line after the first step, and the seconds of each epoch
at the end. It leaves out dropout of words and the moving average, which cost bagdot more.
"""

import collections
import csv
import gzip
import json
import sys
import time

import numpy as np
import torch

D, BATCH_SIZE, MEMBERS, BINS = 16, 256, 3, 64


def numbered(counts, least):
    return {
        value: k
        for k, value in enumerate(
            value for value, count in counts.items() if value and count >= least
        )
    }


def read(path):
    """Reads the training rows: dense features, an id of each single-valued column, bags of words,
    labels; and the sizes of the tables."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    hashes = np.arange(len(rows), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(60)
    rows = [row for row, each in zip(rows, hashes) if each > 3]
    numbers = np.array([[float(row["age"]), float(row["positive_feedback"])] for row in rows])
    dense = numbers.copy()
    dense[:, 1] = np.log1p(dense[:, 1])
    dense = (dense - dense.mean(0)) / (dense.std(0) + 1e-8)
    columns, sizes = [], []
    for name in ("clothing_id", "division", "department", "class"):
        counts = collections.Counter(row[name] for row in rows)
        known = numbered(counts, 10)
        columns.append([known.get(row[name], -1) + 1 for row in rows])
        sizes.append(len(known) + 1)
    for of_column in numbers.T:
        bounds = np.unique(np.quantile(of_column, np.arange(1, BINS) / BINS))
        columns.append(np.searchsorted(bounds, of_column, side="right"))
        sizes.append(len(bounds) + 1)
    counts = collections.Counter(word for row in rows for word in row["words"].split(" "))
    known = numbered(counts, 5)
    bags = [[known[word] for word in row["words"].split(" ") if word in known] for row in rows]
    lengths = torch.tensor([len(bag) for bag in bags])
    words = torch.tensor([word for bag in bags for word in bag])
    labels = torch.tensor([float(row["recommended"]) for row in rows])
    ids = torch.from_numpy(np.stack(columns, 1).astype(np.int64))
    return (
        torch.from_numpy(dense.astype(np.float32)),
        ids,
        (words, lengths, lengths.cumsum(0) - lengths),
        labels,
        [*sizes, len(known)],
    )


class Dlrm(torch.nn.Module):
    def __init__(self, sizes):
        super().__init__()
        linear, relu = torch.nn.Linear, torch.nn.ReLU
        self.tables = torch.nn.ModuleList(
            torch.nn.EmbeddingBag(size, D, mode="sum") for size in sizes
        )
        count = len(sizes) + 1
        self.rows, self.cols = torch.tril_indices(count, count, -1)
        self.bottom = torch.nn.Sequential(linear(2, 32), relu(), linear(32, D), relu())
        width = count * D + len(self.rows)
        self.top = torch.nn.Sequential(
            linear(width, 64), relu(), linear(64, 32), relu(), linear(32, 1)
        )

    def forward(self, dense, ids, words, starts):
        *single, of_words = self.tables
        pooled = [table(ids[:, k : k + 1]) for k, table in enumerate(single)] + [
            of_words(words, starts)
        ]
        features = torch.stack([self.bottom(dense), *pooled], 1)
        products = torch.bmm(features, features.transpose(1, 2))
        return self.top(
            torch.cat([features.flatten(1), products[:, self.rows, self.cols]], 1)
        ).squeeze(1)


def bags_of(rows, words, lengths, starts):
    """Returns the words of these rows, and the start of the bag of each."""
    lengths = lengths[rows]
    ends = lengths.cumsum(0)
    places = torch.arange(int(ends[-1])) + (starts[rows] - (ends - lengths)).repeat_interleave(
        lengths
    )
    return words[places], ends - lengths


def main():
    path, threads, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    dense, ids, words, labels, sizes = read(path)
    loss_of = torch.nn.BCEWithLogitsLoss()
    members = [Dlrm(sizes) for _ in range(MEMBERS)]
    rules = [
        torch.optim.Adam(
            [
                {"params": member.tables.parameters(), "lr": 0.01, "weight_decay": 0.002},
                {"params": [*member.bottom.parameters(), *member.top.parameters()], "lr": 0.002},
            ],
            fused=True,
        )
        for member in members
    ]
    seconds, is_first = [], True
    for _ in range(epochs):
        start = time.perf_counter()
        for member, rule in zip(members, rules):
            for rows in torch.randperm(len(labels)).split(BATCH_SIZE):
                rule.zero_grad(set_to_none=True)
                loss_of(
                    member(dense[rows], ids[rows], *bags_of(rows, *words)), labels[rows]
                ).backward()
                rule.step()
                if is_first:
                    print("first step", flush=True)
                    is_first = False
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds))


main()
