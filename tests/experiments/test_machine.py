"""Flags about the machine, and what a signal does."""

import os
import signal
import subprocess
import sys

import pytest

from ani_jax.config import RunConfig
from ani_jax.training.checkpoint import MANIFEST
from ani_jax.training.config import TrainConfig
from ani_jax.training.loop import Stopped
from experiments import runs
from experiments.machine import Machine, Told


def test_the_first_signal_is_a_question_and_the_second_has_its_usual_effect():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        told = Told(signal.SIGUSR1)
        assert not told()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert told()
        assert heard == []
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_resume_must_and_never_refuse_what_they_say(tmp_path):
    runs.check_resume(tmp_path, "auto")
    runs.check_resume(tmp_path, "never")
    with pytest.raises(runs.WorkdirError, match=r"resume=must: .* holds no checkpoint to go on from"):
        runs.check_resume(tmp_path, "must")
    step = tmp_path / "checkpoints" / "30"
    step.mkdir(parents=True)
    (step / MANIFEST).write_text("{}")
    runs.check_resume(tmp_path, "must")
    with pytest.raises(runs.WorkdirError, match=r"resume=never: .* holds a run at step 30; name another workdir"):
        runs.check_resume(tmp_path, "never")
    (step / MANIFEST).unlink()
    (tmp_path / "evidence.json").write_text("{}")
    with pytest.raises(runs.WorkdirError, match="holds a finished run"):
        runs.check_resume(tmp_path, "never")


def test_nothing_is_trained_where_resuming_is_refused(tmp_path):
    with pytest.raises(runs.WorkdirError, match="resume=must"):
        runs.execute(RunConfig(defense="none"), tmp_path / "run", tmp_path, machine=Machine(resume="must"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_told_to_end_at_once_keeps_what_it_did(tmp_path):
    config = RunConfig(defense="none", options={"width": 1, "steps": 4}, image_size=16, train=TrainConfig(batch_size=8))
    with pytest.raises(Stopped, match="step 1 of 4"):
        runs.execute(config, tmp_path, tmp_path / "cache", machine=Machine(stop=lambda: True))
    assert (tmp_path / "checkpoints" / "1" / MANIFEST).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parallel=pipes"], "flag --parallel=pipes: value should be one of <auto|jit|pmap|sharding>"),
        (["--num_processes=2"], "flag --num_processes=2: must be given together with --coordinator_address=HOST:PORT"),
        (
            ["--coordinator_address=localhost:1", "--num_processes=2", "--process_id=2"],
            "flag --coordinator_address=localhost:1: needs --num_processes=N and --process_id from 0 to N - 1",
        ),
        (
            ["--parallel=pmap", "--batch_size=12"],
            "flag --batch_size=12: must be a multiple of 8, the number of devices",
        ),
        (["--clip=-1"], "flag --clip=-1.0: must be a finite number, 0 or more"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(arguments, message):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-m", "experiments.main", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
