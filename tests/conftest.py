"""Strict JAX for every test: rank promotion raises, warnings are errors (pyproject), several devices, little memory."""

import ctypes
import functools
import gc
import os
import pathlib
import resource
import tempfile
import threading

# Virtual CPU devices deadlock in a small thread pool, so both are set before jax starts.
os.environ.setdefault("NPROC", "32")
# scikit-learn's threads wait for one another where workers share the cores: a test of a second took seven minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Programs of tests are small and run once or twice: not to optimise them takes a cold suite from 1,414 s to 1,199.
os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0")
)

import jax
import jaxtyping
import pytest
from jax._src.interpreters import mlir

from tests import shapes

CACHE = pathlib.Path(
    os.environ.get("JAX_COMPILATION_CACHE_DIR", pathlib.Path(tempfile.gettempdir()) / "ani_jax_test_cache")
)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
# The workers compile the same thousand small operations: 60 ms each, against 5 ms from the disk.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")

# jax keeps each program's text, each in an MLIR context of its own: 1.1 of the 1.4 MB that a small program takes. A context
# takes no locks, and compilers let go of Python's: so one a thread.
_contexts = functools.cache(lambda thread, make=mlir.make_ir_context: make())
mlir.make_ir_context = lambda: _contexts(threading.get_ident())

jaxtyping.install_import_hook(shapes.FLOORS, "tests.shapes.checked")

PEAK = 4.0
"""Gigabytes that a worker may take, so that two fit a small laptop."""

MAPS, ROOM = 25_000, 1.5
"""Past so many memory maps, of which Linux grants 65,530, or gigabytes a worker drops its programs between two files."""


@pytest.fixture(autouse=True)
def _own_words(request):
    """A test of what is refused reads the library's own words, as its users do, before the hook's."""
    jaxtyping.config.update("jaxtyping_disable", "refuse" in request.node.name)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="session")
def _light():
    """Fails the last test of a worker that took more than ``PEAK``."""
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if peak > PEAK:
        pytest.fail(f"a worker took {peak:.2f} GB at its peak: expected at most {PEAK}", pytrace=False)


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """Every compiled program takes a dozen of the memory maps that Linux grants a process; past them the compiler crashes."""
    yield
    own = pathlib.Path("/proc/self")
    if not own.exists():
        return
    maps = (own / "maps").read_bytes().count(b"\n")
    resident = int((own / "statm").read_text().split()[1]) * resource.getpagesize() / 2**30
    if maps > MAPS or resident > ROOM:
        jax.clear_caches()
        gc.collect()
        # What is free goes back to the system, not to the next file's peak.
        ctypes.CDLL(None).malloc_trim(0)
