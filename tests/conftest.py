"""Strict JAX for every test: rank promotion raises, warnings are errors (pyproject), several devices, a compilation cache."""

import gc
import os
import pathlib
import tempfile

# Virtual CPU devices deadlock in a small thread pool, so both are set before jax starts.
os.environ.setdefault("NPROC", "32")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

CACHE = pathlib.Path(
    os.environ.get("JAX_COMPILATION_CACHE_DIR", pathlib.Path(tempfile.gettempdir()) / "ani_jax_test_cache")
)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")


MAPS = 25_000
"""Linux grants 65,530."""


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """Every compiled program takes a dozen of the memory maps that Linux grants a process; past them the compiler crashes."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
        gc.collect()
