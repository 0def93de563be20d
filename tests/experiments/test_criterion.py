import dataclasses
import pathlib
import subprocess
import sys

import pytest

from ani_jax.information.critics import Critics
from ani_jax.reporting import agreement
from ani_jax.training.loop import TrainConfig
from experiments import criterion, flags, runs

TRAIN = TrainConfig(batch_size=16, log_every=2, checkpoint_every=2)
CONFIG = flags.RunConfig("none", image_size=16, audit="smoke", options={"width": 4, "steps": 2}, train=TRAIN)
CRITICS = Critics(seeds=1, steps=5, width=8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    runs.execute(CONFIG, folder / "run", folder / "cache")
    return folder / "run"


@pytest.mark.slow
def test_a_finished_run_is_measured_once_for_every_setting(finished, monkeypatch):
    before = (finished / "evidence.json").read_bytes()
    (name, found), *rest = criterion.measured([finished], CRITICS, 1.0, {}).items()
    assert (name, rest) == (str(finished), [])
    assert found.criterion is not None
    assert found.criterion.information.noise == 1.0
    assert dataclasses.replace(found, criterion=None) == runs.load(finished).evidence
    assert (finished / "evidence.json").read_bytes() == before
    assert agreement.table({"run": found}).splitlines()[1].startswith("run ")
    monkeypatch.setattr(runs, "trained", None)
    assert criterion.measured([finished], CRITICS, 1.0, {}) == {name: found}
    with pytest.raises(TypeError):
        criterion.measured([finished], CRITICS, 2.0, {})


def test_a_folder_without_a_run_is_named_before_anything_is_measured(tmp_path):
    with pytest.raises(runs.WorkdirError, match="missing: holds no finished run"):
        criterion.measured([pathlib.Path(tmp_path / "missing")], CRITICS, 1.0, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "argument RUN: name at least one run folder"),
        (("--noise=0", "run"), "flag --noise=0.0: must be above 0 and finite"),
        (("--steps=0", "run"), "steps=0: must be 1 or more"),
    ],
)
def test_mistakes_cost_one_line(tmp_path, arguments, message):
    command = [sys.executable, "-m", "experiments.criterion", f"--cache_dir={tmp_path}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (2, f"ani_jax: {message}\n")
