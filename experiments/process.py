"""What a process is started with: freed memory stays with it, compiled programs are kept for later ones."""

import ctypes
import os
from pathlib import Path

SETTINGS = {"jax_persistent_cache_min_compile_time_secs": 0, "jax_persistent_cache_min_entry_size_bytes": -1}
"""Every program is worth keeping: a small one takes 60 ms to compile and 5 ms to read."""
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Names of ``mallopt``'s parameters, from glibc's malloc.h."""


def keep_memory() -> bool:
    """Tells the C library, before the first array, to keep what is freed; whether it did. Only glibc does.

    XLA allocates a step's temporary arrays anew each time. glibc takes blocks that large from the kernel, gives them back, and
    every page is then faulted in and zeroed again at every step: 25,000 faults in a step of ``none``, which takes 0.85 of the
    time without them (two cores, jax 0.10.2).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # One arena: others cannot grow beyond 64 MiB. All of a step's temporary arrays are one block; an audit's images are larger.
    return all(mallopt(*pair) for pair in ((ARENA_MAX, 1), (MMAP_THRESHOLD, 384 << 20), (TRIM_THRESHOLD, 2**31 - 1)))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def programs(cache: Path) -> Path:
    """Where programs are kept that may be read by a process of as many cores, unless the environment says where.

    XLA decides how the CPU's cores share a program when it compiles it, and jax does not name their number in what it looks
    programs up by: what a process of one core compiled stays on one core in a process of two, at half the speed.
    """
    return Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", cache / f"compiled-{cores()}"))


def keep_programs(cache: Path) -> None:
    """Keeps this process's programs."""
    import jax  # A side of the benchmark that is PyTorch's does without.

    for name, value in {"jax_compilation_cache_dir": str(programs(cache)), **SETTINGS}.items():
        jax.config.update(name, value)
