"""The command in two processes on loopback: they train together, the main one audits and reports."""

import json
import os
import socket
import subprocess
import sys

import jax
import pytest

SMALL = (
    *("--defense=ani", "--width=4", "--network=cnn", "--pretraining_steps=4", "--steps=12"),
    *("--utility_budget=0.2", "--reference_steps=12", "--reference_width=4"),
)


@pytest.mark.slow
def test_two_processes_train_and_one_reports(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "NPROC": "32",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
    }
    command = [
        *(sys.executable, "-m", "experiments.main", *SMALL, "--image_size=16", "--batch_size=16", "--audit=preview"),
        *("--checkpoint_every=5", f"--coordinator_address=localhost:{port}", "--num_processes=2"),
        *(f"--workdir={tmp_path / 'run'}", f"--cache_dir={tmp_path / 'cache'}"),
    ]
    started = [
        subprocess.Popen(
            [*command, f"--process_id={number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    found = [process.communicate(timeout=1200) for process in started]
    assert [process.returncode for process in started] == [0, 0], found
    assert "report.html" in found[0][0]
    # Gloo's own C++ tells on the standard output of every process who is connected.
    assert [line for line in found[1][0].splitlines() if not line.startswith("[Gloo]")] == []
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 16
    assert json.loads((tmp_path / "run" / "evidence.json").read_text())["utility"]
