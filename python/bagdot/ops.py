"""The ops of bagdot on arrays of NumPy, PyTorch, JAX and every other library that speaks DLPack.

Nothing is copied on the way in. An output is written to `out`, or returned as a new array: one of
NumPy or PyTorch if the inputs are theirs, else a `bagdot.Array`, which `from_dlpack` of any library
views without a copy.

On CUDA an op runs on the current stream of the library that its arrays come from, and returns at
once; `synchronize` waits, and reports bad ids. Arrays of a library that cannot tell its stream are
exchanged by DLPack's rules, and the call waits for its op.
"""

from ._bagdot import (
    Array,
    Optimizer,
    Tables,
    cuda_devices,
    embedding_bag,
    embedding_bag_weight_grad,
    get_num_threads,
    interaction,
    interaction_backward,
    interaction_pairs,
    interaction_width,
    pooled_interaction,
    set_num_threads,
    sparse_update,
    synchronize,
)

__all__ = [
    "Array",
    "Optimizer",
    "Tables",
    "cuda_devices",
    "embedding_bag",
    "embedding_bag_weight_grad",
    "get_num_threads",
    "interaction",
    "interaction_backward",
    "interaction_pairs",
    "interaction_width",
    "pooled_interaction",
    "set_num_threads",
    "sparse_update",
    "synchronize",
]
