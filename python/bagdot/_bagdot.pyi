"""The native module."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, overload

class SupportsDLPack(Protocol):
    """An array of NumPy, PyTorch, JAX or any other library that speaks DLPack."""

    def __dlpack__(self, *arguments: Any, **options: Any) -> Any: ...
    def __dlpack_device__(self) -> Any: ...

_Out = TypeVar("_Out", bound=SupportsDLPack)
_Weights = SupportsDLPack | Sequence[SupportsDLPack]

class Array:
    """An array in memory of bagdot, which every library can view without a copy."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def __array_interface__(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...

class Tables:
    """The sizes of some tables, and the features that look them up."""

    def __new__(
        cls,
        shapes: Sequence[tuple[int, int]],
        *,
        pooling: str | Sequence[str] | None = None,
        features: Sequence[int] | None = None,
        padding_idx: int | Sequence[int | None] | None = None,
    ) -> Tables: ...
    @property
    def shapes(self) -> list[tuple[int, int]]: ...
    @property
    def features(self) -> list[int]: ...
    @property
    def pooling(self) -> list[str]: ...
    @property
    def padding_idx(self) -> list[int | None]: ...
    @property
    def num_weights(self) -> int: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def weight_offsets(self) -> list[int]: ...
    @property
    def column_offsets(self) -> list[int]: ...
    @property
    def has_max(self) -> bool: ...

class Optimizer:
    """The rule of a step on the rows that a batch looks up."""

    def __new__(
        cls,
        kind: str,
        learning_rate: float,
        *,
        eps: float | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        max_gradient: float | None = None,
        stochastic_rounding: int | None = None,
    ) -> Optimizer: ...
    @property
    def learning_rate(self) -> float: ...
    def state_sizes(self, tables: Tables) -> list[int]: ...

class Frame:
    """A data frame: columns of one length."""

    @staticmethod
    def from_arrow(object: Any) -> Frame: ...
    @staticmethod
    def from_matrix(names: list[str], matrix: SupportsDLPack) -> Frame: ...
    def columns(self) -> list[tuple[str, str]]: ...
    def __len__(self) -> int: ...
    def write(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[tuple[str, str | None]],
        labels: tuple[str, tuple[str, ...], bytes] | None = None,
    ) -> None: ...

class Model:
    """A trained model, opened from a directory."""

    def __new__(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Model: ...
    @property
    def manifest(self) -> str: ...
    def predict(self, frame: Frame) -> tuple[Array, list[str]]: ...

def train(
    config: str,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    device: str = "cpu",
    threads: int | None = None,
    on_evaluation: Callable[[str], object] | None = None,
) -> list[str]: ...
def set_num_threads(threads: int) -> None: ...
def get_num_threads() -> int: ...
def synchronize(device: int = 0) -> None: ...
def cuda_devices() -> list[str]: ...
def _after_fork() -> None: ...
@overload
def embedding_bag(
    tables: Tables,
    weights: _Weights,
    indices: SupportsDLPack,
    offsets: SupportsDLPack | None,
    per_sample_weights: SupportsDLPack | None,
    out: _Out,
    *,
    argmax: SupportsDLPack | None = None,
    batch_size: int | None = None,
    include_last_offset: bool = True,
) -> _Out: ...
@overload
def embedding_bag(
    tables: Tables,
    weights: _Weights,
    indices: SupportsDLPack,
    offsets: SupportsDLPack | None = None,
    per_sample_weights: SupportsDLPack | None = None,
    out: Any = None,
    *,
    argmax: SupportsDLPack | None = None,
    batch_size: int | None = None,
    include_last_offset: bool = True,
) -> Any: ...
def embedding_bag_weight_grad(
    tables: Tables,
    weights: _Weights,
    indices: SupportsDLPack,
    offsets: SupportsDLPack | None,
    grad_output: SupportsDLPack,
    out: Any = None,
    *,
    batch_size: int | None = None,
    include_last_offset: bool = True,
) -> Any: ...
def interaction(
    dense: SupportsDLPack | None,
    sparse: SupportsDLPack,
    out: Any = None,
    *,
    dim: int | None = None,
    kind: str = "dot",
    pair_order: str = "lower",
    include_self: bool = False,
    append_sparse: bool = False,
    pad_to: int = 1,
) -> Any: ...
def interaction_backward(
    grad_output: SupportsDLPack,
    dense: SupportsDLPack | None,
    sparse: SupportsDLPack,
    out_dense: Any = None,
    out_sparse: Any = None,
    *,
    dim: int | None = None,
    kind: str = "dot",
    pair_order: str = "lower",
    include_self: bool = False,
    append_sparse: bool = False,
    pad_to: int = 1,
) -> tuple[Any, Any]: ...
def interaction_width(
    has_dense: bool,
    num_sparse: int,
    dim: int,
    *,
    kind: str = "dot",
    pair_order: str = "lower",
    include_self: bool = False,
    append_sparse: bool = False,
    pad_to: int = 1,
) -> int: ...
def interaction_pairs(
    num_features: int, *, pair_order: str = "lower", include_self: bool = False
) -> list[tuple[int, int]]: ...
def pooled_interaction(
    tables: Tables,
    weights: _Weights,
    indices: SupportsDLPack,
    offsets: SupportsDLPack | None,
    dense: SupportsDLPack,
    per_sample_weights: SupportsDLPack | None = None,
    out: Any = None,
    *,
    pooled: Any = None,
    keep_pooled: bool = False,
    batch_size: int | None = None,
    include_last_offset: bool = True,
    kind: str = "dot",
    pair_order: str = "lower",
    include_self: bool = False,
    append_sparse: bool = False,
    pad_to: int = 1,
) -> tuple[Any, Any]: ...
def sparse_update(
    tables: Tables,
    weights: _Weights,
    indices: SupportsDLPack,
    offsets: SupportsDLPack | None,
    grad_output: SupportsDLPack,
    optimizer: Optimizer,
    state: Sequence[SupportsDLPack] | None = None,
    *,
    per_sample_weights: SupportsDLPack | None = None,
    argmax: SupportsDLPack | None = None,
    loss_scale: float = 1.0,
    learning_rate: float | None = None,
    step: int | None = None,
    batch_size: int | None = None,
    include_last_offset: bool = True,
) -> None: ...
