"""Lookups, forward and with an update: torch.nn.EmbeddingBag and the table-batched modules of
FBGEMM."""

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
    return peers


def cells(folder):
    """Yields the name of each cell, the request to bagdot, and the peers."""
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
        for dtype in ("f32", "f16"):
            request = {**shape, "dtype": dtype, "optimizer": None}
            yield f"embedding forward {dtype} L {pooling_factor} {ids}", request, forward_peers(
                flat, offsets, dtype
            )
        for optimizer, (_, ours) in OPTIMIZERS.items():
            request = {**shape, "dtype": "f32", "optimizer": ours}
            name = f"embedding forward, backward, {optimizer} L {pooling_factor} {ids}"
            yield name, request, update_peers(flat, offsets, optimizer)
