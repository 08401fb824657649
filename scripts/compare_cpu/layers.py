"""The layers of the models that are compared."""

import contextlib

import torch

NUM_DENSE = 13


def mlp(width, sizes, last):
    layers = []
    for size in sizes:
        layers += [torch.nn.Linear(width, size), torch.nn.ReLU()]
        width = size
    return torch.nn.Sequential(*(layers if last else layers[:-1]))


class Layers(torch.nn.Module):
    """A model without its tables."""

    def __init__(self, num_tables, bottom, top):
        super().__init__()
        self.features, self.dim = num_tables + 1, bottom[-1]
        rows, cols = torch.tril_indices(self.features, self.features, -1)
        self.register_buffer("pairs", rows * self.features + cols)
        self.bottom = mlp(NUM_DENSE, bottom, True)
        self.top = mlp(self.dim + len(rows), top, False)

    def interaction(self, dense, pooled):
        features = torch.cat(
            [dense.unsqueeze(1), pooled.view(-1, self.features - 1, self.dim).to(dense.dtype)], 1
        )
        products = torch.bmm(features, features.transpose(1, 2))
        return torch.cat([dense, products.flatten(1).index_select(1, self.pairs)], 1)

    def forward(self, dense, pooled):
        return self.top(self.interaction(self.bottom(dense), pooled))


def autocast(precision):
    return (
        torch.autocast("cpu", dtype=torch.bfloat16)
        if precision == "bf16"
        else contextlib.nullcontext()
    )
