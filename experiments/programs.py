"""Compiled programs are kept for later processes: by this one, or by those that it starts."""

import os
import pathlib

import jax

SETTINGS = {"jax_persistent_cache_min_compile_time_secs": 0.1, "jax_persistent_cache_min_entry_size_bytes": -1}
"""Nearly everything is worth keeping."""


def keep(cache: pathlib.Path) -> None:
    """Keeps this process's programs, unless the environment says where they are kept."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    for name, value in SETTINGS.items():
        jax.config.update(name, value)


def environment(cache: pathlib.Path) -> dict[str, str]:
    """The variables with which another process keeps its programs in the same place."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache / "compiled"))
    return {"JAX_COMPILATION_CACHE_DIR": folder, **{name.upper(): str(value) for name, value in SETTINGS.items()}}
