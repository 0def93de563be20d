import os
import pathlib

import pytest

from experiments import programs


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
    alone = programs.environment(pathlib.Path("cache"))
    assert alone["JAX_COMPILATION_CACHE_DIR"] == "cache/compiled-1"


def test_the_environment_decides_where_it_says_something(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert programs.environment(pathlib.Path("cache"))["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
