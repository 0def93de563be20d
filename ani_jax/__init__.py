"""Inference privacy in JAX: clients that send less, and attacks that prove it.

Public names resolve on first use, so that ``import ani_jax.losses`` stays as light as the losses themselves.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Batch": "ani_jax.types",
    "Data": "ani_jax.types",
    "Evidence": "ani_jax.records",
    "Knowledge": "ani_jax.types",
    "Pairs": "ani_jax.data.pairs",
    "Release": "ani_jax.types",
    "Source": "ani_jax.types",
    "Task": "ani_jax.types",
    "audit": "ani_jax.evaluation.audit",
    "criterion": "ani_jax.information.criterion",
    "fragment": "ani_jax.reporting.shown",
    "save": "ani_jax.reporting.shown",
    "verdict": "ani_jax.reporting.shown",
}

# Names that __getattr__ makes.
# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "Batch",
    "Data",
    "Evidence",
    "Knowledge",
    "Pairs",
    "Release",
    "Source",
    "Task",
    "audit",
    "criterion",
    "data",
    "fragment",
    "losses",
    "save",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name in ("data", "losses"):
        return importlib.import_module(f"ani_jax.{name}")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ani_jax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
