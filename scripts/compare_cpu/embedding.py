"""Lookups, forward and with an update: torch.nn.EmbeddingBag for each table, one
torch.nn.functional.embedding_bag for all of them, and the table-batched modules of FBGEMM."""

import functools
import itertools
import logging
import os

import fbgemm_fix  # noqa: F401
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    DenseTableBatchedEmbeddingBagsCodegen,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from ids import SETS, batches
from shape import B, D, ROWS, T

logging.disable(logging.WARNING)

OPTIMIZERS = {
    "sgd": (EmbOptimType.EXACT_SGD, "sgd"),
    "row-wise adagrad": (EmbOptimType.EXACT_ROWWISE_ADAGRAD, {"rowwise_adagrad": {"eps": 1e-8}}),
}


@functools.cache
def split(optimizer, precision):
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, D, EmbeddingLocation.HOST, ComputeDevice.CPU)] * T,
        optimizer=optimizer,
        learning_rate=0.01,
        eps=1e-8,
        weights_precision=precision,
        output_dtype=SparseType.FP32,
        pooling_mode=PoolingMode.SUM,
    )
    tables.init_embedding_weights_uniform(-0.01, 0.01)
    return tables


# The peers share tables if they can, so that large ones fit into memory.


@functools.cache
def torch_tables():
    weights = split(EmbOptimType.EXACT_SGD, SparseType.FP32).split_embedding_weights()
    return [
        torch.nn.EmbeddingBag(ROWS, D, mode="sum", sparse=True, _weight=of_table)
        for of_table in weights
    ]


@functools.cache
def joined():
    """Returns the tables as a single one, whose rows are numbered through all tables."""
    weights = split(EmbOptimType.EXACT_SGD, SparseType.FP32).weights_host
    return torch.nn.Parameter(weights.detach().view(T * ROWS, D))


def joined_bags(flat, offsets):
    """Returns the lookups in the joined table. Linear ids are made beforehand, as those who write
    the data could do."""
    first_rows = (torch.arange(T) * ROWS).repeat_interleave(len(flat[0]) // T)
    linear, bag_starts = [ids + first_rows for ids in flat], offsets[:-1]
    return lambda k: torch.nn.functional.embedding_bag(
        linear[k % SETS], joined(), bag_starts, mode="sum", sparse=True
    )


@functools.cache
def dense():
    tables = DenseTableBatchedEmbeddingBagsCodegen(
        [(ROWS, D)] * T, pooling_mode=PoolingMode.SUM, use_cpu=True
    )
    tables.weights = torch.nn.Parameter(
        split(EmbOptimType.EXACT_SGD, SparseType.FP32).weights_host.detach()
    )
    return tables


@functools.cache
def nbit(precision):
    specs = [(f"t{t}", ROWS, D, precision, EmbeddingLocation.HOST) for t in range(T)]
    tables = IntNBitTableBatchedEmbeddingBagsCodegen(
        specs, device="cpu", output_dtype=SparseType.FP32
    )
    tables.fill_random_weights()
    return tables


def no_grad(run):
    def without(k):
        with torch.no_grad():
            run(k)

    return without


def forward_peers(flat, offsets, dtype):
    narrow, narrow_offsets = [ids.to(torch.int32) for ids in flat], offsets.to(torch.int32)
    precision = {"f32": SparseType.FP32, "f16": SparseType.FP16}[dtype]
    peers = {
        "FBGEMM split": lambda k: split(EmbOptimType.EXACT_SGD, precision)(flat[k % SETS], offsets)
    }
    # These modules have tables of their own.
    if 4 * T * ROWS * D * 4 < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        peers["FBGEMM inference"] = lambda k: nbit(precision)(narrow[k % SETS], narrow_offsets)
    if dtype == "f32":
        of_table, bag_starts = [ids.reshape(T, -1) for ids in flat], offsets[:B]
        peers["FBGEMM dense"] = lambda k: dense()(flat[k % SETS], offsets)
        peers["torch"] = lambda k: [
            bag(of_table[k % SETS][t], bag_starts) for t, bag in enumerate(torch_tables())
        ]
        # In f16, the sums of torch would be rounded to f16, which is other work.
        peers["torch, joined table"] = joined_bags(flat, offsets)
    return {name: no_grad(run) for name, run in peers.items()}


def update_peers(flat, offsets, optimizer):
    grad = torch.rand(B, T * D) * 2 - 1
    peers = {
        "FBGEMM split": lambda k: split(OPTIMIZERS[optimizer][0], SparseType.FP32)(
            flat[k % SETS], offsets
        ).backward(grad)
    }
    if optimizer == "sgd":
        of_table, bag_starts = [ids.reshape(T, -1) for ids in flat], offsets[:B]
        grads = [g.contiguous() for g in grad.split(D, 1)]
        rule = torch.optim.SGD([bag.weight for bag in torch_tables()], lr=0.01)

        def step(k):
            rule.zero_grad(set_to_none=True)
            torch.autograd.backward(
                [bag(of_table[k % SETS][t], bag_starts) for t, bag in enumerate(torch_tables())],
                grads,
            )
            rule.step()

        peers["torch"] = step
        lookup, grad_of_bags = joined_bags(flat, offsets), torch.cat(grads)
        rule_of_joined = torch.optim.SGD([joined()], lr=0.01)

        def step_joined(k):
            rule_of_joined.zero_grad(set_to_none=True)
            lookup(k).backward(grad_of_bags)
            rule_of_joined.step()

        peers["torch, joined table"] = step_joined
    return peers


def cells(folder):
    """Yields the name of each cell, the request to bagdot, and the peers. bagdot runs in its own
    memory, in huge pages, and then in memory as torch allocates it; the peers' is torch's."""
    for pooling_factor, ids in itertools.product((1, 20), ("uniform", "zipf")):
        path, flat, offsets = batches(T, ROWS, B, pooling_factor, ids, folder)
        shape = {
            "work": "embedding",
            "num_tables": T,
            "num_embeddings": ROWS,
            "dim": D,
            "batch_size": B,
            "pooling_factor": pooling_factor,
            "ids": path,
        }
        works = [(f"forward {dtype}", dtype, None, None) for dtype in ("f32", "f16")]
        works += [
            (f"forward, backward, {optimizer}", "f32", optimizer, ours)
            for optimizer, (_, ours) in OPTIMIZERS.items()
        ]
        for work, dtype, optimizer, ours in works:
            name = f"embedding {work} L {pooling_factor} {ids}"
            request = {**shape, "dtype": dtype, "optimizer": ours}
            peers = (
                update_peers(flat, offsets, optimizer)
                if optimizer
                else forward_peers(flat, offsets, dtype)
            )
            yield name, request, peers
            yield f"{name}, on torch's memory", {**request, "memory": "torch"}, peers
