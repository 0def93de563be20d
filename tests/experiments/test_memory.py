"""Steps of a command fault no pages in; without glibc nothing happens."""

import ctypes
import subprocess
import sys

import pytest

from experiments import memory

FAULTS = """
import resource
import jax, jax.numpy as jnp
from experiments import memory
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

    assert faults("memory.keep()") < faults("") / 4


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not memory.keep()
