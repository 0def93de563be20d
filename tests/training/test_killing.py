"""Runs that are killed at random moments, their saves included, and started again; see killing.py."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from ani_jax.training.callbacks import Tell
from ani_jax.training.loop import TrainConfig, train
from experiments.machine import STOPPED

ROOT = pathlib.Path(__file__).parents[2]


def killed(folder, kills, processes, seed):
    script = pathlib.Path(__file__).with_name("killing.py")
    # Virtual devices deadlock in a small thread pool.
    devices = f"--xla_force_host_platform_device_count={2 if processes > 1 else 1}"
    cache = {
        "NPROC": "32",
        "XLA_FLAGS": devices,
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(script), str(folder), str(kills), str(processes), str(seed)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=3000, env=os.environ | cache, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def check(found, kills, processes):
    assert found["same"]
    assert len(found["runs"]) >= kills
    resumed = -1
    for run in found["runs"]:
        assert run["damaged"] == []
        # Told to end, a run saves and says so, unless it was at its end already; killed, it says nothing.
        assert set(run["codes"]) <= ({0, STOPPED} if run["kind"] == "SIGTERM" else {0, -9}), run
        step = int(run["said"].split("]")[0].rpartition("[")[2]) if "[" in run["said"] else resumed
        assert step >= resumed
        resumed = step
    assert found["runs"][-1]["codes"] == [0] * processes


def test_a_run_killed_three_times_ends_bit_identical(tmp_path):
    check(killed(tmp_path, 3, 1, seed=1), 3, 1)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_bit_identical(tmp_path):
    check(killed(tmp_path, 20, 1, seed=2), 20, 1)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(toy, toy_data, tmp_path):
    losses, config = [], TrainConfig(batch_size=8, log_every=5, checkpoint_every=5)

    def on_event(event):
        if event["kind"] == "metrics":
            losses.append(event["metrics"]["loss"])

    train(toy(steps=40, pretraining=20, stddev=0.0), toy_data, config, [Tell(on_event)])
    found = killed(tmp_path, 0, 2, seed=0)
    assert found["codes"] == [0, 0]
    assert len(found["losses"]) == len(losses)
    np.testing.assert_allclose(found["losses"][:2], losses[:2], atol=1e-4)


@pytest.mark.slow
def test_two_processes_killed_five_times_end_alike(tmp_path):
    check(killed(tmp_path, 5, 2, seed=3), 5, 2)
