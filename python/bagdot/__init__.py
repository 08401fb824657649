"""Embedding bags, dot interaction and sparse updates as single ops, and models of click data.

- `bagdot.ops`: the ops on arrays of any library, without copies.
- `bagdot.torch`: the same as ops and modules of PyTorch; import it by its name.
- `bagdot.Classifier`: a model of a data frame, in the manner of scikit-learn and LightGBM.
"""

from __future__ import annotations

import os as _os
from typing import TYPE_CHECKING, Any

from . import ops
from ._bagdot import (
    Array,
    Optimizer,
    Tables,
    _after_fork,
    cuda_devices,
    get_num_threads,
    set_num_threads,
    synchronize,
)
from ._errors import IndexOutOfRange

if TYPE_CHECKING:
    from ._classifier import Classifier

__version__ = "0.1.0"

__all__ = [
    "Array",
    "Classifier",
    "IndexOutOfRange",
    "Optimizer",
    "Tables",
    "cuda_devices",
    "get_num_threads",
    "ops",
    "set_num_threads",
    "synchronize",
]

if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=_after_fork)


def __getattr__(name: str) -> Any:
    # The classifier needs NumPy, which the ops do not.
    if name == "Classifier":
        from ._classifier import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
