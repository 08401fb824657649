"""The ops of bagdot as ops of PyTorch, and modules made of them.

`torch.ops.bagdot.*` have gradients and fake implementations, so that they work with autograd,
`torch.compile(fullgraph=True)`, autocast and, on CUDA, graphs and streams. Tables of float32,
float16 and bfloat16 run in bagdot; float64 runs in a slow reference, for `gradcheck`.

`EmbeddingBagCollection` holds the tables of a model in one buffer. With an `optimizer`, its
backward pass takes the step on the rows at once, and no gradient of the tables is made.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import ops as _ops
from ._bagdot import Optimizer, Tables

__all__ = [
    "Dlrm",
    "EmbeddingBagCollection",
    "TableConfig",
    "embedding_bag",
    "interaction",
    "pooled_interaction",
    "table_spec",
]

# --- The ops -----------------------------------------------------------------------------------
#
# Tables and optimizers are texts in the schemas, so that graphs that are saved carry them.

_library = torch.library.Library("bagdot", "DEF")


def _define(schema: str) -> None:
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


_define(
    "embedding_bag(Tensor weights, Tensor indices, Tensor offsets, Tensor? per_sample_weights, "
    "str tables) -> (Tensor, Tensor)"
)
_define(
    "embedding_bag_backward(Tensor grad, Tensor indices, Tensor offsets, "
    "Tensor? per_sample_weights, Tensor argmax, str tables) -> Tensor"
)
_define(
    "embedding_bag_weight_grad(Tensor grad, Tensor weights, Tensor indices, Tensor offsets, "
    "str tables) -> Tensor"
)
_define(
    "embedding_bag_step(Tensor placeholder, Tensor weights, Tensor? first, Tensor? second, "
    "Tensor step, Tensor learning_rate, Tensor indices, Tensor offsets, "
    "Tensor? per_sample_weights, str tables, str optimizer) -> (Tensor, Tensor)"
)
_define(
    "sparse_update_(Tensor(a!) weights, Tensor(b!)? first, Tensor(c!)? second, Tensor(d!) step, "
    "Tensor learning_rate, Tensor indices, Tensor offsets, Tensor grad, "
    "Tensor? per_sample_weights, Tensor argmax, str tables, str optimizer) -> ()"
)
_define(
    "interaction(Tensor dense, Tensor sparse, str kind, str pair_order, bool include_self, "
    "bool append_sparse, int pad_to) -> Tensor"
)
_define(
    "interaction_backward(Tensor grad, Tensor dense, Tensor sparse, str kind, str pair_order, "
    "bool include_self, bool append_sparse, int pad_to) -> (Tensor, Tensor)"
)
_define(
    "pooled_interaction(Tensor weights, Tensor indices, Tensor offsets, "
    "Tensor? per_sample_weights, Tensor dense, str tables, str kind, str pair_order, "
    "bool include_self, bool append_sparse, int pad_to) -> (Tensor, Tensor, Tensor)"
)


def table_spec(
    shapes: Sequence[tuple[int, int]],
    pooling: str | Sequence[str] = "sum",
    features: Sequence[int] | None = None,
    padding_idx: Sequence[int | None] | None = None,
) -> str:
    """Returns the text that describes tables and their features to the ops.

    `"1000x8,50x8;0:sum,1:mean:3"` are two tables, the first with a feature that is summed, the
    second with one whose mean leaves out the padding id 3.
    """
    numbers = range(len(shapes)) if features is None else features
    modes = [pooling] * len(numbers) if isinstance(pooling, str) else pooling
    paddings = [None] * len(numbers) if padding_idx is None else padding_idx
    tables = ",".join(f"{rows}x{dim}" for rows, dim in shapes)
    parts = []
    for table, mode, padding in zip(numbers, modes, paddings, strict=True):
        parts.append(f"{table}:{mode}" + ("" if padding is None else f":{padding}"))
    return f"{tables};{','.join(parts)}"


@functools.lru_cache(maxsize=None)
def _tables(spec: str) -> Tables:
    tables, features = spec.split(";")
    pairs = [table.split("x") for table in tables.split(",")]
    shapes = [(int(rows), int(dim)) for rows, dim in pairs]
    parts = [feature.split(":") for feature in features.split(",")]
    return Tables(
        shapes,
        features=[int(part[0]) for part in parts],
        pooling=[part[1] for part in parts],
        padding_idx=[int(part[2]) if len(part) > 2 else None for part in parts],
    )


@functools.lru_cache(maxsize=None)
def _num_features(spec: str) -> int:
    return spec.split(";")[1].count(",") + 1


@functools.lru_cache(maxsize=None)
def _optimizer(spec: str) -> Optimizer:
    """Reads `"adam eps=1e-08 weight_decay=0.1"`."""
    kind, *settings = spec.split()
    values: dict[str, Any] = {}
    for setting in settings:
        name, value = setting.split("=")
        if name in ("decoupled", "stochastic_rounding"):
            values[name] = int(value) if name == "stochastic_rounding" else value == "True"
        else:
            values[name] = float(value)
    return Optimizer(kind, values.pop("learning_rate", 0.0), **values)


if hasattr(Tensor, "__dlpack_c_exchange_api__"):

    def _raw(tensor: Any) -> Any:
        """Returns a tensor as ops take it."""
        return tensor

else:

    def _raw(tensor: Any) -> Any:
        """Returns a tensor as ops take it: earlier versions export none that has a gradient."""
        return None if tensor is None else tensor.detach()


def _batch_size(offsets: Tensor, spec: str) -> int:
    return (offsets.shape[0] - 1) // _num_features(spec)


def _sum_type(value: Tensor) -> torch.dtype:
    """Returns the type in which values of the type of `value` are summed."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _sources(like: Tensor, tables: Tables, batch_size: int) -> Tensor:
    if not tables.has_max:
        return like.new_empty(0, dtype=torch.int32)
    # Columns that are not pooled by max have no sources, and the op does not write them.
    return like.new_full((batch_size, tables.width), -1, dtype=torch.int32)


def _embedding_bag(
    weights: Tensor, indices: Tensor, offsets: Tensor, factors: Tensor | None, spec: str
) -> tuple[Tensor, Tensor]:
    tables = _tables(spec)
    batch_size = _batch_size(offsets, spec)
    argmax = _sources(weights, tables, batch_size)
    if weights.dtype == torch.float64:
        return _reference_lookup(weights, indices, offsets, factors, spec, argmax), argmax
    out = weights.new_empty((batch_size, tables.width), dtype=torch.float32)
    sources = argmax if tables.has_max else None
    _ops.embedding_bag(
        tables, _raw(weights), indices, offsets, _raw(factors), out, argmax=sources
    )
    return out, argmax


def _embedding_bag_fake(
    weights: Tensor, indices: Tensor, offsets: Tensor, factors: Tensor | None, spec: str
) -> tuple[Tensor, Tensor]:
    tables = _tables(spec)
    batch_size = _batch_size(offsets, spec)
    out = weights.new_empty((batch_size, tables.width), dtype=_sum_type(weights))
    return out, _sources(weights, tables, batch_size)


def _embedding_bag_backward(
    grad: Tensor,
    indices: Tensor,
    offsets: Tensor,
    factors: Tensor | None,
    argmax: Tensor,
    spec: str,
) -> Tensor:
    tables = _tables(spec)
    out = grad.new_zeros(tables.num_weights, dtype=_sum_type(grad))
    if grad.dtype == torch.float64:
        return _reference_grad(grad, indices, offsets, factors, argmax, spec, out)
    # One step of SGD with a rate of 1 from zero, against the negative gradient, is the gradient.
    _ops.sparse_update(
        tables,
        out,
        indices,
        offsets,
        -grad,
        _optimizer("sgd learning_rate=1"),
        per_sample_weights=_raw(factors),
        argmax=argmax if tables.has_max else None,
    )
    return out


def _embedding_bag_backward_fake(
    grad: Tensor,
    indices: Tensor,
    offsets: Tensor,
    factors: Tensor | None,
    argmax: Tensor,
    spec: str,
) -> Tensor:
    return grad.new_empty(_tables(spec).num_weights, dtype=_sum_type(grad))


def _embedding_bag_weight_grad(
    grad: Tensor, weights: Tensor, indices: Tensor, offsets: Tensor, spec: str
) -> Tensor:
    if weights.dtype == torch.float64:
        return _reference_weight_grad(grad, weights, indices, offsets, spec)
    out = grad.new_empty(indices.shape[0], dtype=_sum_type(grad))
    grad = grad.contiguous()
    _ops.embedding_bag_weight_grad(_tables(spec), _raw(weights), indices, offsets, grad, out)
    return out


def _embedding_bag_weight_grad_fake(
    grad: Tensor, weights: Tensor, indices: Tensor, offsets: Tensor, spec: str
) -> Tensor:
    return grad.new_empty(indices.shape[0], dtype=_sum_type(grad))


def _embedding_bag_step(
    placeholder: Tensor,
    weights: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    step: Tensor,
    learning_rate: Tensor,
    indices: Tensor,
    offsets: Tensor,
    factors: Tensor | None,
    spec: str,
    optimizer: str,
) -> tuple[Tensor, Tensor]:
    return _embedding_bag(weights, indices, offsets, factors, spec)


def _embedding_bag_step_fake(
    placeholder: Tensor,
    weights: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    step: Tensor,
    learning_rate: Tensor,
    indices: Tensor,
    offsets: Tensor,
    factors: Tensor | None,
    spec: str,
    optimizer: str,
) -> tuple[Tensor, Tensor]:
    return _embedding_bag_fake(weights, indices, offsets, factors, spec)


def _sparse_update(
    weights: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    step: Tensor,
    learning_rate: Tensor,
    indices: Tensor,
    offsets: Tensor,
    grad: Tensor,
    factors: Tensor | None,
    argmax: Tensor,
    spec: str,
    optimizer: str,
) -> None:
    tables = _tables(spec)
    number = int(step) + 1
    _ops.sparse_update(
        tables,
        _raw(weights),
        indices,
        offsets,
        grad.contiguous(),
        _optimizer(optimizer),
        [state for state in (first, second) if state is not None],
        per_sample_weights=_raw(factors),
        argmax=argmax if tables.has_max else None,
        learning_rate=float(learning_rate),
        step=number,
    )
    step.fill_(number)


def _sparse_update_fake(*arguments: Any) -> None:
    return None


def _interaction(
    dense: Tensor,
    sparse: Tensor,
    kind: str,
    pair_order: str,
    include_self: bool,
    append_sparse: bool,
    pad_to: int,
) -> Tensor:
    settings = (kind, pair_order, include_self, append_sparse, pad_to)
    if dense.dtype == torch.float64:
        return _reference_interaction(dense, sparse, *settings)
    out = _interaction_fake(dense, sparse, *settings)
    _ops.interaction(_rows(dense), _rows(sparse), out, **_named(*settings))
    return out


def _named(
    kind: str, pair_order: str, include_self: bool, append_sparse: bool, pad_to: int
) -> dict[str, Any]:
    return {
        "kind": kind,
        "pair_order": pair_order,
        "include_self": include_self,
        "append_sparse": append_sparse,
        "pad_to": pad_to,
    }


def _rows(matrix: Tensor) -> Tensor:
    """Returns a matrix whose rows have no gaps and do not overlap."""
    has_rows = matrix.stride(-1) == 1 and matrix.stride(0) >= matrix.shape[1]
    return _raw(matrix if has_rows else matrix.contiguous())


def _interaction_width(dense: Tensor, sparse: Tensor, *settings: Any) -> int:
    dim = dense.shape[1]
    if settings[0] == "cat":
        return dim + sparse.shape[1]
    return _ops.interaction_width(True, sparse.shape[1] // dim, dim, **_named(*settings))


def _interaction_fake(dense: Tensor, sparse: Tensor, *settings: Any) -> Tensor:
    width = _interaction_width(dense, sparse, *settings)
    return dense.new_empty((dense.shape[0], width))


def _interaction_backward(
    grad: Tensor, dense: Tensor, sparse: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    if dense.dtype == torch.float64:
        return _reference_interaction_grad(grad, dense, sparse, *settings)
    grad_dense, grad_sparse = torch.empty(dense.shape, dtype=dense.dtype, device=dense.device), (
        torch.empty(sparse.shape, dtype=sparse.dtype, device=sparse.device)
    )
    _ops.interaction_backward(
        _rows(grad), _rows(dense), _rows(sparse), grad_dense, grad_sparse, **_named(*settings)
    )
    return grad_dense, grad_sparse


def _interaction_backward_fake(
    grad: Tensor, dense: Tensor, sparse: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    return dense.new_empty(dense.shape), sparse.new_empty(sparse.shape)


def _pooled_interaction(
    weights: Tensor,
    indices: Tensor,
    offsets: Tensor,
    factors: Tensor | None,
    dense: Tensor,
    spec: str,
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    tables = _tables(spec)
    # The fused op has no sources of maxima, which a gradient needs.
    if weights.dtype == torch.float64 or tables.has_max:
        pooled, argmax = _embedding_bag(weights, indices, offsets, factors, spec)
        pooled = pooled.to(dense.dtype)
        return _interaction(dense, pooled, *settings), pooled, argmax
    batch_size = _batch_size(offsets, spec)
    pooled = dense.new_empty((batch_size, tables.width))
    out = dense.new_empty((batch_size, _interaction_width(dense, pooled, *settings)))
    _ops.pooled_interaction(
        tables,
        _raw(weights),
        indices,
        offsets,
        _rows(dense),
        _raw(factors),
        out,
        pooled=pooled,
        **_named(*settings),
    )
    return out, pooled, _sources(weights, tables, batch_size)


def _pooled_interaction_fake(
    weights: Tensor,
    indices: Tensor,
    offsets: Tensor,
    factors: Tensor | None,
    dense: Tensor,
    spec: str,
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    pooled, argmax = _embedding_bag_fake(weights, indices, offsets, factors, spec)
    return _interaction_fake(dense, pooled, *settings), pooled.to(dense.dtype), argmax


_implementations: list[tuple[str, Any, Any]] = [
    ("embedding_bag", _embedding_bag, _embedding_bag_fake),
    ("embedding_bag_backward", _embedding_bag_backward, _embedding_bag_backward_fake),
    ("embedding_bag_weight_grad", _embedding_bag_weight_grad, _embedding_bag_weight_grad_fake),
    ("embedding_bag_step", _embedding_bag_step, _embedding_bag_step_fake),
    ("sparse_update_", _sparse_update, _sparse_update_fake),
    ("interaction", _interaction, _interaction_fake),
    ("interaction_backward", _interaction_backward, _interaction_backward_fake),
    ("pooled_interaction", _pooled_interaction, _pooled_interaction_fake),
]
for _name, _function, _fake in _implementations:
    for _device in ("CPU", "CUDA"):
        _library.impl(_name, _function, _device)
    torch.library.register_fake(f"bagdot::{_name}", _fake, lib=_library)

# --- Their gradients ---------------------------------------------------------------------------


def _lookup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    weights, indices, offsets, factors, spec = inputs
    ctx.save_for_backward(weights, indices, offsets, factors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.spec = spec


def _lookup_grad(ctx: Any, grad: Tensor, _: Any) -> tuple:
    weights, indices, offsets, factors, argmax = ctx.saved_tensors
    to_weights = to_factors = None
    if ctx.needs_input_grad[0]:
        to_weights = torch.ops.bagdot.embedding_bag_backward(
            grad, indices, offsets, factors, argmax, ctx.spec
        ).to(weights.dtype)
        to_weights = to_weights.view(weights.shape)
    if ctx.needs_input_grad[3]:
        to_factors = torch.ops.bagdot.embedding_bag_weight_grad(
            grad, weights, indices, offsets, ctx.spec
        )
    return to_weights, None, None, to_factors, None


def _step_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    _, weights, first, second, step, rate, indices, offsets, factors, spec, optimizer = inputs
    # The backward pass changes these in place, on purpose, so that they are not saved as tensors
    # whose version autograd checks.
    ctx.changed = (weights, first, second, step)
    ctx.save_for_backward(rate, indices, offsets, factors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.texts = (spec, optimizer)


def _step_grad(ctx: Any, grad: Tensor, _: Any) -> tuple:
    rate, indices, offsets, factors, argmax = ctx.saved_tensors
    to_factors = None
    if ctx.needs_input_grad[8]:
        to_factors = torch.ops.bagdot.embedding_bag_weight_grad(
            grad, ctx.changed[0], indices, offsets, ctx.texts[0]
        )
    torch.ops.bagdot.sparse_update_(
        *ctx.changed, rate, indices, offsets, grad, factors, argmax, *ctx.texts
    )
    return (grad.new_zeros(1), *[None] * 7, to_factors, None, None)


def _interaction_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[2:]


def _interaction_grad(ctx: Any, grad: Tensor) -> tuple:
    grads = torch.ops.bagdot.interaction_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return (*grads, None, None, None, None, None)


def _fused_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    weights, indices, offsets, factors, dense, spec, *settings = inputs
    ctx.save_for_backward(weights, indices, offsets, factors, dense, output[1], output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.spec, ctx.settings = spec, settings


def _fused_grad(ctx: Any, grad: Tensor, grad_pooled: Tensor, _: Any) -> tuple:
    weights, indices, offsets, factors, dense, pooled, argmax = ctx.saved_tensors
    to_dense, to_pooled = torch.ops.bagdot.interaction_backward(
        grad, dense, pooled, *ctx.settings
    )
    to_pooled = to_pooled + grad_pooled
    to_weights = to_factors = None
    if ctx.needs_input_grad[0]:
        to_weights = torch.ops.bagdot.embedding_bag_backward(
            to_pooled, indices, offsets, factors, argmax, ctx.spec
        ).to(weights.dtype)
        to_weights = to_weights.view(weights.shape)
    if ctx.needs_input_grad[3]:
        to_factors = torch.ops.bagdot.embedding_bag_weight_grad(
            to_pooled, weights, indices, offsets, ctx.spec
        )
    return (to_weights, None, None, to_factors, to_dense, *[None] * 6)


_gradients: list[tuple[str, Any, Any]] = [
    ("embedding_bag", _lookup_grad, _lookup_context),
    ("embedding_bag_step", _step_grad, _step_context),
    ("interaction", _interaction_grad, _interaction_context),
    ("pooled_interaction", _fused_grad, _fused_context),
]
for _name, _grad, _context in _gradients:
    torch.library.register_autograd(
        f"bagdot::{_name}", _grad, setup_context=_context, lib=_library
    )

# Dot products run in the type of autocast, as matrix products do; lookups in that of the tables.
for _device in ("cpu", "cuda"):
    torch.library.register_autocast(
        "bagdot::interaction", _device, torch.bfloat16, lib=_library
    )

# --- Calls in eager mode ------------------------------------------------------------------------
#
# The dispatcher takes tens of microseconds for an op that is written in Python. Where nothing
# traces, transforms or watches ops, they are called directly, with the same gradients.


def _watchers() -> Any:
    """Returns functions that tell whether anything handles ops besides autograd, or None if this
    version of PyTorch has other ones."""
    try:
        return (
            torch._C._len_torch_dispatch_stack,
            torch._C._len_torch_function_stack,
            torch._C._functorch.peek_interpreter_stack,
            torch._C._get_tracing_state,
            torch._C._is_any_autocast_enabled,
            torch.autograd._profiler_enabled,  # type: ignore[attr-defined]
        )
    except AttributeError:
        return None


_WATCHERS = _watchers()
_PLAIN = (Tensor, nn.Parameter, type(None), str, bool, int)


def _differentiable(kernel: Any, context: Any, grad: Any) -> Any:
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = kernel(*inputs)
            context(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return grad(ctx, *grads)

    return Function.apply


def _call(name: str) -> Any:
    op = getattr(torch.ops.bagdot, name).default
    kernel = next(kernel for of, kernel, _ in _implementations if of == name)
    grad, context = next((g, context) for of, g, context in _gradients if of == name)
    with_grad = _differentiable(kernel, context, grad)

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling() or _WATCHERS is None:
            return op(*inputs)
        if any(watcher() for watcher in _WATCHERS):
            return op(*inputs)
        if not all(type(value) in _PLAIN for value in inputs):
            return op(*inputs)
        if torch.is_grad_enabled():
            tensors = [value for value in inputs if isinstance(value, Tensor)]
            if any(tensor.requires_grad for tensor in tensors):
                return with_grad(*inputs)
        return kernel(*inputs)

    return call


_call_lookup = _call("embedding_bag")
_call_step = _call("embedding_bag_step")
_call_interaction = _call("interaction")
_call_fused = _call("pooled_interaction")

# --- The reference in float64 ------------------------------------------------------------------


def _bags(indices: Tensor, offsets: Tensor, spec: str) -> Iterable[tuple]:
    """Yields each bag: feature, sample, table, positions of its ids without padding, pooling."""
    tables = _tables(spec)
    batch_size = _batch_size(offsets, spec)
    ends = offsets.tolist()
    for f, (table, pooling, padding) in enumerate(
        zip(tables.features, tables.pooling, tables.padding_idx, strict=True)
    ):
        for sample in range(batch_size):
            bag = f * batch_size + sample
            positions = [p for p in range(ends[bag], ends[bag + 1]) if indices[p] != padding]
            yield f, sample, table, positions, pooling


def _table_of(weights: Tensor, spec: str, table: int) -> Tensor:
    tables = _tables(spec)
    start, end = tables.weight_offsets[table : table + 2]
    return weights.view(-1)[start:end].view(tables.shapes[table])


def _reference_lookup(
    weights: Tensor,
    indices: Tensor,
    offsets: Tensor,
    factors: Tensor | None,
    spec: str,
    argmax: Tensor,
) -> Tensor:
    tables = _tables(spec)
    out = weights.new_zeros((_batch_size(offsets, spec), tables.width))
    starts = offsets.tolist()
    for f, sample, table, positions, pooling in _bags(indices, offsets, spec):
        columns = slice(*tables.column_offsets[f : f + 2])
        if tables.has_max:
            argmax[sample, columns] = -1
        if not positions:
            continue
        rows = _table_of(weights, spec, table)[indices[positions]]
        if pooling == "max":
            out[sample, columns], place = rows.max(0)
            first = starts[f * out.shape[0] + sample]
            places = torch.tensor(positions) - first
            argmax[sample, columns] = places[place].to(torch.int32)
            continue
        if factors is not None:
            rows = rows * factors[positions].to(rows.dtype)[:, None]
        out[sample, columns] = rows.sum(0) / (len(positions) if pooling == "mean" else 1)
    return out


def _reference_grad(
    grad: Tensor,
    indices: Tensor,
    offsets: Tensor,
    factors: Tensor | None,
    argmax: Tensor,
    spec: str,
    out: Tensor,
) -> Tensor:
    tables = _tables(spec)
    starts = offsets.tolist()
    for f, sample, table, positions, pooling in _bags(indices, offsets, spec):
        columns = slice(*tables.column_offsets[f : f + 2])
        to_table, g = _table_of(out, spec, table), grad[sample, columns]
        first = starts[f * grad.shape[0] + sample]
        for p in positions:
            if pooling == "max":
                to_table[indices[p]] += g * (argmax[sample, columns] == p - first)
                continue
            factor = 1.0 if factors is None else factors[p]
            to_table[indices[p]] += g * factor / (len(positions) if pooling == "mean" else 1)
    return out


def _reference_weight_grad(
    grad: Tensor, weights: Tensor, indices: Tensor, offsets: Tensor, spec: str
) -> Tensor:
    tables = _tables(spec)
    out = grad.new_zeros(indices.shape[0])
    for f, sample, table, positions, pooling in _bags(indices, offsets, spec):
        columns = slice(*tables.column_offsets[f : f + 2])
        for p in positions:
            row = _table_of(weights, spec, table)[indices[p]]
            out[p] = row.dot(grad[sample, columns])
            out[p] /= len(positions) if pooling == "mean" else 1
    return out


def _reference_parts(
    dense: Tensor,
    sparse: Tensor,
    kind: str,
    pair_order: str,
    include_self: bool,
    append_sparse: bool,
    pad_to: int,
) -> tuple[Tensor, list[int], list[int]]:
    features = torch.cat([dense, sparse], 1).view(dense.shape[0], -1, dense.shape[1])
    pairs = _ops.interaction_pairs(
        features.shape[1], pair_order=pair_order, include_self=include_self
    )
    return features, [i for i, _ in pairs], [j for _, j in pairs]


def _reference_interaction(dense: Tensor, sparse: Tensor, *settings: Any) -> Tensor:
    if settings[0] == "cat":
        return torch.cat([dense, sparse], 1)
    features, i, j = _reference_parts(dense, sparse, *settings)
    parts = [dense, (features[:, i] * features[:, j]).sum(2)]
    if settings[3]:
        parts.append(sparse)
    out = torch.cat(parts, 1)
    return nn.functional.pad(out, (0, -out.shape[1] % settings[4]))


def _reference_interaction_grad(
    grad: Tensor, dense: Tensor, sparse: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    dim = dense.shape[1]
    if settings[0] == "cat":
        return grad[:, :dim].clone(), grad[:, dim:].clone()
    features, i, j = _reference_parts(dense, sparse, *settings)
    of_pairs = grad[:, dim : dim + len(i), None]
    out = torch.zeros_like(features)
    out.index_add_(1, torch.tensor(i, dtype=torch.long), of_pairs * features[:, j])
    out.index_add_(1, torch.tensor(j, dtype=torch.long), of_pairs * features[:, i])
    out[:, 0] += grad[:, :dim]
    out = out.view(dense.shape[0], -1)
    to_dense, to_sparse = out[:, :dim].clone(), out[:, dim:].clone()
    if settings[3]:
        start = dim + len(i)
        to_sparse += grad[:, start : start + sparse.shape[1]]
    return to_dense, to_sparse


# --- Functions ---------------------------------------------------------------------------------


def embedding_bag(
    weights: Tensor,
    indices: Tensor,
    offsets: Tensor,
    tables: str,
    per_sample_weights: Tensor | None = None,
) -> Tensor:
    """Returns the pooled vectors of all bags, `[batch_size, width]`; see `table_spec`."""
    return _call_lookup(
        weights, indices, offsets, per_sample_weights, tables
    )[0]


def interaction(
    dense: Tensor,
    sparse: Tensor,
    *,
    kind: str = "dot",
    pair_order: str = "lower",
    include_self: bool = False,
    append_sparse: bool = False,
    pad_to: int = 1,
) -> Tensor:
    """Returns the interaction of `dense [B, D]` with the pooled vectors `[B, F * D]` or
    `[B, F, D]`: the dense vector, then the dot products of all pairs."""
    if sparse.dim() == 3:
        sparse = sparse.flatten(1)
    return _call_interaction(
        dense, sparse, kind, pair_order, include_self, append_sparse, pad_to
    )


def pooled_interaction(
    weights: Tensor,
    indices: Tensor,
    offsets: Tensor,
    dense: Tensor,
    tables: str,
    per_sample_weights: Tensor | None = None,
    *,
    kind: str = "dot",
    pair_order: str = "lower",
    include_self: bool = False,
    append_sparse: bool = False,
    pad_to: int = 1,
) -> Tensor:
    """Returns the interaction of the dense vectors with the pooled vectors of a lookup, which are
    of their type, in one pass over both."""
    return _call_fused(
        weights,
        indices,
        offsets,
        per_sample_weights,
        dense,
        tables,
        kind,
        pair_order,
        include_self,
        append_sparse,
        pad_to,
    )[0]


# --- Modules -----------------------------------------------------------------------------------


@dataclass
class TableConfig:
    """A table and the features that look it up. TorchRec's `EmbeddingBagConfig` does as well."""

    num_embeddings: int
    embedding_dim: int
    name: str = ""
    feature_names: list[str] = field(default_factory=list)
    pooling: Any = "sum"


def _config(table: Any, number: int) -> TableConfig:
    if isinstance(table, tuple):
        table = TableConfig(*table)
    name = table.name or f"t{number}"
    pooling = getattr(table.pooling, "value", table.pooling).lower()
    features = list(table.feature_names) or [name]
    return TableConfig(table.num_embeddings, table.embedding_dim, name, features, pooling)


_STATES = {"sgd": 0, "adagrad": 1, "rowwise_adagrad": 1, "adam": 2}


class EmbeddingBagCollection(nn.Module):
    """The embedding tables of a model, looked up in one call.

    `tables` are `TableConfig`s, TorchRec's `EmbeddingBagConfig`s, or pairs of rows and dimension.
    All tables lie in the flat parameter `weights`; `split_embedding_weights` views each of them.

    With an `optimizer` (`"sgd"`, `"adagrad"`, `"rowwise_adagrad"` or `"adam"`), the backward pass
    takes a step on the rows of the batch, and the tables have no `grad`. `settings` are those of
    `bagdot.Optimizer`. The learning rate is the buffer `learning_rate`, which may be changed at any
    time. Without an optimizer the tables have a dense gradient, as those of PyTorch.
    """

    weights: nn.Parameter

    def __init__(
        self,
        tables: Sequence[Any],
        *,
        optimizer: str | None = None,
        learning_rate: float = 0.01,
        device: Any = None,
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.tables = [_config(table, number) for number, table in enumerate(tables)]
        features = [
            (name, number) for number, t in enumerate(self.tables) for name in t.feature_names
        ]
        self.feature_names = [name for name, _ in features]
        shapes = [(t.num_embeddings, t.embedding_dim) for t in self.tables]
        self.spec = table_spec(
            shapes,
            [self.tables[number].pooling for _, number in features],
            [number for _, number in features],
        )
        layout = _tables(self.spec)
        self.widths = [self.tables[number].embedding_dim for _, number in features]
        self.optimizer = optimizer
        weights = torch.empty(layout.num_weights, device=device, dtype=dtype)
        self.weights = nn.Parameter(weights, requires_grad=optimizer is None)
        self.optimizer_spec = ""
        if optimizer is not None:
            texts = [f"{name}={value}" for name, value in settings.items() if value is not None]
            self.optimizer_spec = " ".join([optimizer, *texts])
            sizes = _optimizer(self.optimizer_spec).state_sizes(layout)
            for name, size in zip(["first", "second"], sizes, strict=False):
                state = torch.zeros(size, device=device)
                self.register_buffer(name, state, persistent=False)
            # They are read by the host.
            self.step = torch.zeros(1, dtype=torch.int64)
            self.learning_rate = torch.tensor(float(learning_rate), dtype=torch.float64)
            # A gradient reaches the tables if any input of the op wants one.
            self.placeholder = nn.Parameter(torch.zeros(1, device=device))
        elif settings:
            raise TypeError(f"settings without an optimizer: {', '.join(settings)}")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws every table uniformly from ±1 / sqrt(rows), as dlrm and TorchRec do."""
        for table in self.split_embedding_weights():
            bound = 1 / math.sqrt(table.shape[0])
            table.uniform_(-bound, bound)

    @torch.no_grad()
    def split_embedding_weights(self) -> list[Tensor]:
        """Returns a view of each table, `[num_embeddings, embedding_dim]`."""
        offsets = _tables(self.spec).weight_offsets
        weights = self.weights.detach()
        return [
            weights[start:end].view(t.num_embeddings, t.embedding_dim)
            for t, start, end in zip(self.tables, offsets, offsets[1:], strict=False)
        ]

    def extra_repr(self) -> str:
        text = f"{len(self.tables)} tables, {self.weights.numel()} weights"
        return f"{text}, {self.optimizer_spec}" if self.optimizer else text

    def forward(
        self,
        features: Any,
        lengths: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Any:
        """Looks up a batch: TorchRec's `KeyedJaggedTensor`, which gives a `KeyedTensor`; or ids
        with their key-major `lengths` or `offsets` (with the last one), which give the pooled
        vectors `[batch_size, width]`. Ids and lengths may be of different types.
        """
        if isinstance(features, Tensor):
            offsets = _offsets_of(lengths) if offsets is None else offsets
            return self._lookup(features, offsets, per_sample_weights)
        pooled = self._lookup(*self._inputs(features))
        from torchrec.sparse.jagged_tensor import KeyedTensor

        return KeyedTensor(self.feature_names, self.widths, pooled)

    def _inputs(self, features: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns ids, offsets and factors of a `KeyedJaggedTensor`, in the order of ours."""
        keys = features.keys()
        if keys != self.feature_names:
            features = features.permute([keys.index(name) for name in self.feature_names])
        offsets = _offsets_of(features.lengths())
        return features.values(), offsets, features.weights_or_none()

    def _lookup(self, indices: Tensor, offsets: Tensor, factors: Tensor | None) -> Tensor:
        if self.optimizer is None:
            return _call_lookup(
                self.weights, indices, offsets, factors, self.spec
            )[0]
        return _call_step(
            self.placeholder,
            self.weights,
            getattr(self, "first", None),
            getattr(self, "second", None),
            self.step,
            self.learning_rate,
            indices,
            offsets,
            factors,
            self.spec,
            self.optimizer_spec,
        )[0]

    # State dicts have a tensor for each table, under TorchRec's names.

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for table, weight in zip(self.tables, self.split_embedding_weights(), strict=True):
            destination[f"{prefix}embedding_bags.{table.name}.weight"] = weight

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        known = set()
        for number, (table, weight) in enumerate(
            zip(self.tables, self.split_embedding_weights(), strict=True)
        ):
            # The second name is that of a list of `torch.nn.EmbeddingBag`.
            names = [f"{prefix}embedding_bags.{table.name}.weight", f"{prefix}{number}.weight"]
            name = next((name for name in names if name in state_dict), None)
            if name is None:
                missing_keys.append(names[0])
                continue
            known.add(name)
            value = state_dict[name]
            if value.shape != weight.shape:
                error_msgs.append(
                    f"{name}: the shape is {tuple(value.shape)}, not {tuple(weight.shape)}"
                )
                continue
            weight.copy_(value)
        if strict:
            ours = [name for name in state_dict if name.startswith(prefix)]
            unexpected_keys.extend(name for name in ours if name not in known)

    def optimizer_state_dict(self) -> dict[str, Tensor]:
        """Returns the state of the optimizer: the number of the step, and `first` and `second` as
        `bagdot.Optimizer.state_sizes` counts them."""
        names = ["first", "second"][: _STATES.get(self.optimizer or "", 0)]
        return {"step": self.step.clone(), **{name: getattr(self, name) for name in names}}

    def load_optimizer_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `optimizer_state_dict` returned."""
        for name, own in self.optimizer_state_dict().items():
            (self.step if name == "step" else own).copy_(state[name])

    @classmethod
    def from_embedding_bags(
        cls, bags: Iterable[nn.EmbeddingBag], **arguments: Any
    ) -> EmbeddingBagCollection:
        """Makes a collection of copies of PyTorch's tables."""
        bags = list(bags)
        tables = [TableConfig(b.num_embeddings, b.embedding_dim, pooling=b.mode) for b in bags]
        arguments.setdefault("dtype", bags[0].weight.dtype)
        arguments.setdefault("device", bags[0].weight.device)
        collection = cls(tables, **arguments)
        for bag, weight in zip(bags, collection.split_embedding_weights(), strict=True):
            weight.copy_(bag.weight.detach())
        return collection

    def to_embedding_bags(self) -> nn.ModuleList:
        """Returns PyTorch's modules on the memory of these tables."""
        return nn.ModuleList(
            nn.EmbeddingBag.from_pretrained(
                weight, freeze=False, mode=table.pooling, include_last_offset=True
            )
            for table, weight in zip(self.tables, self.split_embedding_weights(), strict=True)
        )


def _offsets_of(lengths: Tensor | None) -> Tensor:
    if lengths is None:
        raise TypeError("pass `lengths` or `offsets` with the ids")
    return nn.functional.pad(torch.cumsum(lengths, 0), (1, 0))


def _mlp(sizes: Sequence[int], last_is_linear: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size, following in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(size, following), nn.ReLU()]
    return nn.Sequential(*(layers[:-1] if last_is_linear else layers))


class Dlrm(nn.Module):
    """A DLRM: `forward` returns one logit for each sample.

    `load_state_dict` takes those of this class, of facebookresearch/dlrm (`emb_l.0.weight`,
    `bot_l.0.weight`, ...) and of TorchRec's `DLRM`. The last two order the pairs of features
    differently; the columns of the first top layer are permuted to the order of this module, so
    that the logits are the same.
    """

    def __init__(
        self,
        num_dense: int,
        tables: Sequence[Any],
        bottom_mlp: Sequence[int],
        top_mlp: Sequence[int],
        *,
        pair_order: str = "lower",
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.embeddings = EmbeddingBagCollection(tables, **arguments)
        dims = {table.embedding_dim for table in self.embeddings.tables}
        if dims != {bottom_mlp[-1]}:
            raise ValueError(f"tables of {dims} columns, but bottom_mlp ends with {bottom_mlp[-1]}")
        if top_mlp[-1] != 1:
            raise ValueError(f"top_mlp ends with {top_mlp[-1]}, but must end with 1")
        self.pair_order = pair_order
        self.num_features = len(self.embeddings.feature_names)
        width = _ops.interaction_width(True, self.num_features, bottom_mlp[-1])
        self.bottom = _mlp([num_dense, *bottom_mlp], last_is_linear=False)
        self.top = _mlp([width, *top_mlp], last_is_linear=True)

    def forward(
        self,
        dense: Tensor,
        features: Any,
        lengths: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Returns the logits `[batch_size]`; `features` are those of `EmbeddingBagCollection`."""
        embeddings = self.embeddings
        if isinstance(features, Tensor):
            offsets = _offsets_of(lengths) if offsets is None else offsets
            indices = features
        else:
            indices, offsets, per_sample_weights = embeddings._inputs(features)
        vectors = self.bottom(dense)
        # Under autocast to float16 dot products run in bfloat16, those of the fused op would not.
        if torch.is_grad_enabled() or vectors.dtype not in (torch.float32, torch.bfloat16):
            pooled = embeddings._lookup(indices, offsets, per_sample_weights)
            pairs = interaction(vectors, pooled, pair_order=self.pair_order)
        else:
            pairs = pooled_interaction(
                embeddings.weights,
                indices,
                offsets,
                vectors,
                embeddings.spec,
                per_sample_weights,
                pair_order=self.pair_order,
            )
        return self.top(pairs).squeeze(1)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads a state dict of any of the three kinds."""
        state_dict = self._from_dlrm(state_dict) or self._from_torchrec(state_dict) or state_dict
        return super().load_state_dict(state_dict, strict, assign)

    def dlrm_state_dict(self) -> dict[str, Tensor]:
        """Returns a state dict for facebookresearch/dlrm's `DLRM_Net`."""
        names = {f"bottom.{n}": f"bot_l.{n}" for n in range(len(self.bottom))}
        names |= {f"top.{n}": f"top_l.{n}" for n in range(len(self.top))}
        for number, table in enumerate(self.embeddings.tables):
            names[f"embeddings.embedding_bags.{table.name}"] = f"emb_l.{number}"
        return self._renamed(names, "lower")

    def torchrec_state_dict(self) -> dict[str, Tensor]:
        """Returns a state dict for `torchrec.models.dlrm.DLRM`."""
        names = {
            f"bottom.{2 * n}": f"dense_arch.model._mlp.{n}._linear"
            for n in range(len(self.bottom) // 2)
        }
        hidden = len(self.top) // 2
        names |= {f"top.{2 * n}": f"over_arch.model.0._mlp.{n}._linear" for n in range(hidden)}
        names[f"top.{2 * hidden}"] = "over_arch.model.1"
        for table in self.embeddings.tables:
            names[f"embeddings.embedding_bags.{table.name}"] = (
                f"sparse_arch.embedding_bag_collection.embedding_bags.{table.name}"
            )
        return self._renamed(names, "upper")

    def _renamed(self, names: Mapping[str, str], pair_order: str) -> dict[str, Tensor]:
        state = {}
        for name, value in self.state_dict().items():
            stem, _, kind = name.rpartition(".")
            if stem in names:
                if name == "top.0.weight":
                    value = self._permuted(value, self.pair_order, pair_order)
                state[f"{names[stem]}.{kind}"] = value
        return state

    def _permuted(self, weight: Tensor, from_order: str, to_order: str) -> Tensor:
        """Permutes the columns of the first top layer from one order of the pairs to another."""
        if from_order == to_order:
            return weight
        count = self.num_features + 1
        have = _ops.interaction_pairs(count, pair_order=from_order)
        want = _ops.interaction_pairs(count, pair_order=to_order)
        places = {frozenset(pair): place for place, pair in enumerate(have)}
        dim = weight.shape[1] - len(have)
        columns = [*range(dim), *(dim + places[frozenset(pair)] for pair in want)]
        return weight[:, columns]

    def _from_dlrm(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        if not any(name.startswith("emb_l.") for name in state):
            return None
        found = {}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            if part == "emb_l":
                number, _, kind = rest.partition(".")
                table = self._table_name(int(number))
                found[f"embeddings.embedding_bags.{table}.{kind}"] = value
            elif part in ("bot_l", "top_l"):
                found[f"{'bottom' if part == 'bot_l' else 'top'}.{rest}"] = value
            else:
                found[name] = value
        return self._in_our_order(found, "lower")

    def _from_torchrec(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        # `DLRMTrain` has its model under this name.
        state = {name.removeprefix("model."): value for name, value in state.items()}
        tables = "sparse_arch.embedding_bag_collection.embedding_bags."
        if not any(name.startswith(tables) for name in state):
            return None
        found, names = {}, []
        ours = [table.name for table in self.embeddings.tables]
        names = [name[len(tables) :].rpartition(".")[0] for name in state if tables in name]
        by_name = set(names) == set(ours)
        hidden = len(self.top) // 2
        for name, value in state.items():
            stem, _, kind = name.rpartition(".")
            if name.startswith(tables):
                table = stem[len(tables) :]
                table = table if by_name else self._table_name(names.index(table))
                found[f"embeddings.embedding_bags.{table}.{kind}"] = value
            elif stem.startswith("dense_arch.model._mlp."):
                found[f"bottom.{2 * int(stem.split('.')[3])}.{kind}"] = value
            elif stem.startswith("over_arch.model.0._mlp."):
                found[f"top.{2 * int(stem.split('.')[4])}.{kind}"] = value
            elif stem == "over_arch.model.1":
                found[f"top.{2 * hidden}.{kind}"] = value
            else:
                found[name] = value
        return self._in_our_order(found, "upper")

    def _table_name(self, number: int) -> str:
        tables = self.embeddings.tables
        return tables[number].name if number < len(tables) else str(number)

    def _in_our_order(self, state: dict[str, Any], pair_order: str) -> dict[str, Any]:
        weight = state.get("top.0.weight")
        if weight is not None and weight.shape == self.top[0].weight.shape:
            state["top.0.weight"] = self._permuted(weight, pair_order, self.pair_order)
        # `placeholder` and the like are not part of any state dict.
        return state
