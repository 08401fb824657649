"""Pairwise dot products, forward and with their gradients: torch's batched product with a gather of
the triangle, and TorchRec's module."""

import torch
from ids import SETS
from shape import B, T
from torchrec.models.dlrm import InteractionArch


def rows_of(features, dense, pairs):
    products = torch.bmm(features, features.transpose(1, 2))
    return torch.cat([dense, products.flatten(1).index_select(1, pairs)], 1)


def indexed(features, dense, rows, cols):
    products = torch.bmm(features, features.transpose(1, 2))
    return torch.cat([dense, products[:, rows, cols]], 1)


def peers_of(dim, backward):
    """Returns the peers. Their features lie side by side already, which suits them best."""
    sets = [torch.rand(B, T + 1, dim) * 2 - 1 for _ in range(SETS)]
    rows, cols = torch.tril_indices(T + 1, T + 1, -1)
    pairs = rows * (T + 1) + cols
    grad = torch.rand(B, dim + len(pairs)) * 2 - 1
    arch, compiled = InteractionArch(num_sparse_features=T), torch.compile(rows_of)
    forwards = {
        "torch, tril index": lambda x: indexed(x, x[:, 0], rows, cols),
        "torch, index_select": lambda x: rows_of(x, x[:, 0], pairs),
        "torch.compile": lambda x: compiled(x, x[:, 0], pairs),
        "TorchRec": lambda x: arch(x[:, 0], x[:, 1:]),
    }

    def forward_only(forward):
        def run(k):
            with torch.no_grad():
                forward(sets[k % SETS])

        return run

    def both(forward):
        def run(k):
            x = sets[k % SETS].detach().requires_grad_()
            forward(x).backward(grad)

        return run

    return {
        name: (both if backward else forward_only)(forward) for name, forward in forwards.items()
    }


def cells(_folder):
    """Yields the name of each cell, the request to bagdot, and the peers."""
    for backward in (False, True):
        for dim in (64, 128):
            request = {
                "work": "interaction",
                "num_sparse": T,
                "dim": dim,
                "batch_size": B,
                "dtype": "f32",
                "backward": backward,
            }
            passes = "forward, backward" if backward else "forward"
            yield f"interaction {passes} F {T + 1} D {dim}", request, peers_of(dim, backward)
