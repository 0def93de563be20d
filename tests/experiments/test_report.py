"""Reports of finished runs: side by side, by seed, and by criterion."""

import dataclasses
import subprocess
import sys

import pytest

from ani_jax.config import RunConfig
from ani_jax.information.critics import Critics
from ani_jax.reporting import agreement
from ani_jax.training.loop import TrainConfig
from experiments import report, runs

TRAIN = TrainConfig(batch_size=16, log_every=2, checkpoint_every=2)
CONFIG = RunConfig("none", image_size=16, audit="preview", options={"width": 4, "steps": 2}, train=TRAIN)
MISSING = "workdir=missing: holds no finished run ([Errno 2] No such file or directory: 'missing/config.json')"
CRITICS = Critics(seeds=1, steps=5, width=8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    runs.execute(CONFIG, folder / "run", folder / "cache")
    return folder / "run"


@pytest.mark.slow
def test_a_finished_run_is_measured_once_for_every_setting(finished, monkeypatch):
    before = (finished / "evidence.json").read_bytes()
    run = runs.load(finished)
    found = report.with_criterion(run, CRITICS, 1.0)
    assert found.criterion is not None
    assert found.criterion.information.noise == 1.0
    assert dataclasses.replace(found, criterion=None) == runs.load(finished).evidence
    assert (finished / "evidence.json").read_bytes() == before
    assert agreement.table({"run": found}).splitlines()[1].startswith("run ")
    monkeypatch.setattr(runs, "trained", None)
    assert report.with_criterion(run, CRITICS, 1.0) == found
    with pytest.raises(TypeError):
        report.with_criterion(run, CRITICS, 2.0)


def command(*arguments, cache):
    command = [sys.executable, "-m", "experiments.report", f"--cache_dir={cache}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_runs_are_reported_by_run_seed_and_criterion(finished, tmp_path):
    done = command(finished, cache=tmp_path)
    assert done.stdout.endswith(f"report: {finished / 'report.html'}\n")
    # An undefended run is its own reference, where it lies in the cache.
    place = runs.reference_folder(CONFIG, tmp_path)
    runs.execute(CONFIG.reference(), place, tmp_path)
    done = command("--by=seed", f"--out={tmp_path / 'out'}", finished, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"summary.csv", "summary.svg"}
    assert done.stdout.splitlines()[0].split() == ["variant", "quantity", "mean", "[95%]", "change", "[95%]", "seeds"]
    done = command("--by=criterion", "--critics=1", "--steps=5", finished, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith(f"{finished} ")
    assert done.stderr.splitlines() == ["ani_jax: none: criterion"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "argument RUN: name at least one run folder"),
        (
            ("missing",),
            MISSING,
        ),
        (
            ("--by=seed", "missing"),
            MISSING,
        ),
        (("--by=criterion", "--noise=0", "run"), "flag --noise=0.0: must be above 0 and finite"),
        (("--by=criterion", "--steps=0", "run"), "flag --steps is 0, it must be 1 or more"),
        (("--noise=2", "run"), "flag --noise=2.0: does not go with --by=run"),
        (("--by=size", "run"), "flag --by=size: value should be one of <run|seed|criterion>"),
    ],
)
def test_mistakes_cost_one_line(tmp_path, arguments, message):
    done = command(*arguments, cache=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"ani_jax: {message}\n")
