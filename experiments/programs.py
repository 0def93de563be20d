"""Compiled programs are kept for later processes: by this one, or by those that it starts."""

import os
import pathlib

import jax

SETTINGS = {"jax_persistent_cache_min_compile_time_secs": 0.1, "jax_persistent_cache_min_entry_size_bytes": -1}
"""Nearly everything is worth keeping."""


def keep(cache: pathlib.Path) -> None:
    """Keeps this process's programs, unless the environment says where they are kept."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder(cache)))
    for name, value in SETTINGS.items():
        jax.config.update(name, value)


def environment(cache: pathlib.Path) -> dict[str, str]:
    """The variables with which another process keeps its programs in the same place."""
    place = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder(cache)))
    return {"JAX_COMPILATION_CACHE_DIR": place, **{name.upper(): str(value) for name, value in SETTINGS.items()}}


def folder(cache: pathlib.Path) -> pathlib.Path:
    """Where programs are kept that may be read by a process of as many cores.

    XLA decides how the CPU's cores share a program when it compiles it, and jax does not name their number in what it looks
    programs up by: what a process of one core compiled stays on one core in a process of two, at half the speed.

    Example:
        >>> folder(pathlib.Path("cache")).name.startswith("compiled-")
        True
    """
    return cache / f"compiled-{cores()}"


def cores() -> int:
    """The cores that this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
