"""Whole models, training steps and predictions: layers of torch, as they are and compiled, over its
own tables and those of FBGEMM."""

import itertools

import fbgemm_fix  # noqa: F401
import torch
from embedding import OPTIMIZERS, split, torch_tables
from fbgemm_gpu.split_embedding_configs import SparseType
from ids import SETS, batches
from layers import NUM_DENSE, Layers, autocast
from shape import B, D, ROWS, T

BOTTOM, TOP = [512, 256, D], [512, 512, 256, 1]


def torch_bags(ids, offsets):
    of_table, bag_starts = ids.view(T, -1), offsets[: len(offsets) // T]
    return torch.cat([bag(of_table[t], bag_starts) for t, bag in enumerate(torch_tables())], 1)


def tables_of(optimizer):
    """Returns the tables that have the optimizer: torch has no row-wise Adagrad."""
    tables = {"FBGEMM": split(OPTIMIZERS[optimizer][0], SparseType.FP32)}
    return {**tables, "torch": torch_bags} if optimizer == "sgd" else tables


def train_step(tables, layers, compiled, optimizer, precision, inputs):
    """Returns a step as people write it; FBGEMM's tables step in the backward pass."""
    rule = {"sgd": torch.optim.SGD, "row-wise adagrad": torch.optim.Adagrad}[optimizer]
    rules = [rule(layers.parameters(), lr=0.01)]
    if tables is torch_bags:
        rules.append(torch.optim.SGD([bag.weight for bag in torch_tables()], lr=0.01))
    loss_of = torch.nn.BCEWithLogitsLoss()

    def run(k):
        dense, ids, offsets, labels = inputs(k)
        with autocast(precision):
            logits = compiled(dense, tables(ids, offsets))
        for each in rules:
            each.zero_grad(set_to_none=True)
        loss_of(logits.float(), labels).backward()
        for each in rules:
            each.step()

    return run


def predict(tables, compiled, precision, inputs):
    def run(k):
        dense, ids, offsets, _ = inputs(k)
        with torch.no_grad(), autocast(precision):
            torch.sigmoid(compiled(dense, tables(ids, offsets)))

    return run


def peers_of(optimizer, precision, inputs):
    """Combines each table with each way to run the layers; trained layers are not shared."""
    peers = {}
    for (name, tables), is_compiled in itertools.product(
        tables_of(optimizer or "sgd").items(), (False, True)
    ):
        layers = Layers(T, BOTTOM, TOP)
        run = torch.compile(layers) if is_compiled else layers
        peers[" + ".join(dict.fromkeys(["torch.compile" if is_compiled else "torch", name]))] = (
            train_step(tables, layers, run, optimizer, precision, inputs)
            if optimizer
            else predict(tables, run, precision, inputs)
        )
    return peers


def cell(folder, name, batch_size, optimizer, precision):
    path, flat, offsets = batches(T, ROWS, batch_size, 1, "zipf", folder)
    dense = torch.rand(SETS, batch_size, NUM_DENSE)
    labels = (torch.rand(batch_size, 1) < 0.25).float()
    request = {
        "work": "dlrm",
        "num_dense": NUM_DENSE,
        "bottom_mlp": BOTTOM,
        "top_mlp": TOP,
        "num_tables": T,
        "num_embeddings": ROWS,
        "batch_size": batch_size,
        "pooling_factor": 1,
        "optimizer": optimizer and OPTIMIZERS[optimizer][1],
        "ids": path,
    }
    if precision == "bf16":
        request["precision"] = "bf16"
    return (
        name,
        request,
        peers_of(
            optimizer, precision, lambda k: (dense[k % SETS], flat[k % SETS], offsets, labels)
        ),
    )


def cells(folder):
    """Yields the name of each cell, the request to bagdot, and the peers."""
    for precision in ("f32", "bf16"):
        for optimizer in OPTIMIZERS:
            yield cell(folder, f"training step {precision}, {optimizer}", B, optimizer, precision)
        yield cell(folder, f"inference {precision}", B, None, precision)
    if torch.get_num_threads() == 1:
        for batch_size in (1, 16, 128):
            yield cell(folder, f"inference f32, batch {batch_size}", batch_size, None, "f32")
