"""Compiled programs are kept apart by cores; steps of a command fault no pages in, and without glibc nothing happens."""

import ctypes
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import process


@pytest.fixture
def one_core():
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_what_one_core_compiled_is_not_read_by_several(one_core, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    assert process.programs(pathlib.Path("cache")) == pathlib.Path("cache/compiled-1")


def test_the_environment_decides_where_it_says_something(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert process.programs(pathlib.Path("cache")) == pathlib.Path("elsewhere")


FAULTS = """
import resource
import jax, jax.numpy as jnp
from experiments import process
{keep}
step = jax.jit(lambda x: jnp.abs(x @ x.T).max(0))  # Its temporary array has 64 MB.
x = jnp.ones((4096, 8))
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step(x).block_until_ready()
before = count()
for _ in range(10):  # glibc may learn from a few, and a busy machine may take a few pages away.
    step(x).block_until_ready()
print(count() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_a_step_faults_no_pages_in():
    def faults(keep):
        code = FAULTS.format(keep=keep)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert faults("process.keep_memory()") < faults("") / 4


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not process.keep_memory()
