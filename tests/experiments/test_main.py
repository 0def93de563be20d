"""The command from end to end, small: train, audit, report, kill, resume."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest

from ani_jax.config import RunConfig
from experiments import runs

SMALL = (
    "--width=4",
    "--expansion=8",
    "--steps=12",
    "--reference_steps=12",
    "--reference_width=4",
    "--checkpoint_every=3",
    "--log_every=3",
    "--audit=preview",
    "--batch_size=16",
    "--image_size=16",
)


def start(*arguments, cache, module="experiments.main"):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    command = [sys.executable, "-m", module, f"--cache_dir={cache}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process, code=0):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return output, errors


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    output, errors = finish(start("--defense=funnel", *SMALL, f"--workdir={folder}", cache=cache))
    # Outside a terminal it says what it is doing, the reference first.
    told = [line for line in errors.splitlines() if line.startswith("ani_jax: ")]
    assert told[0] == "ani_jax: first the undefended reference is trained, once for data and seed"
    assert told[1] == "ani_jax: none: training, 0 of 12"
    assert "ani_jax: funnel: training, 0 of 12" in told
    assert told[-1].startswith("ani_jax: funnel: ")
    return folder, output


def test_a_run_leaves_everything_behind(whole):
    folder, output = whole
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.json",
        "checkpoints",
        "metrics.jsonl",
        "evidence.json",
        "timing.json",
        "report.html",
        "tensorboard",
    } <= names
    assert "none" in output
    assert "funnel" in output
    assert f"--workdir={folder}" in output
    run = runs.load(folder)
    assert run.evidence.subject == "funnel"
    assert [entry["step"] for entry in run.metrics] == [3, 6, 9, 12]
    assert {"ink", "paper", "image"} == {result.target for result in run.evidence.attacks}
    html = (folder / "report.html").read_text()
    assert "funnel" in html
    assert "none" in html


def test_the_same_command_again_shows_the_finished_run(whole, cache):
    folder, output = whole
    before = (folder / "evidence.json").stat().st_mtime_ns
    again, _ = finish(start("--defense=funnel", *SMALL, f"--workdir={folder}", cache=cache))
    assert again == output
    assert (folder / "evidence.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_killed_run_ends_with_identical_parameters_and_evidence(whole, cache, tmp_path):
    folder, _ = whole
    process = start("--defense=funnel", *SMALL, f"--workdir={tmp_path}", cache=cache)
    deadline = time.monotonic() + 200
    while not (tmp_path / "checkpoints" / "3.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "evidence.json").exists()
    finish(start("--defense=funnel", *SMALL, f"--workdir={tmp_path}", cache=cache))
    assert checksums(folder) == checksums(tmp_path)
    assert (folder / "evidence.json").read_text() == (tmp_path / "evidence.json").read_text()
    assert (folder / "metrics.jsonl").read_text() == (tmp_path / "metrics.jsonl").read_text()


def checksums(folder: pathlib.Path):
    """The final state as plain arrays, read back through the library."""
    from ani_jax.defenses import registry
    from ani_jax.training.checkpoint import Checkpoints
    from ani_jax.training.state import init

    config = RunConfig.read((folder / "config.json").read_text())
    like = init(registry.build(config.defense, 10, (16, 16, 3), **config.options), jax.random.key(0))
    step, state = Checkpoints(folder / "checkpoints").restore(like)  # type: ignore[misc]
    return step, [leaf.tobytes() for leaf in map(jax.device_get, jax.tree.leaves(state.params))]


def test_another_config_over_the_folder_is_refused(whole, cache):
    folder, _ = whole
    _, errors = finish(start("--defense=funnel", *SMALL, "--beta=0.9", f"--workdir={folder}", cache=cache), code=2)
    assert "flag --workdir=" in errors
    assert "beta" in errors
    assert len(errors.strip().splitlines()) == 1


def test_damaged_checkpoints_are_refused_and_kept(whole, cache, tmp_path):
    folder, _ = whole
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "evidence.json").unlink()
    for manifest in (damaged / "checkpoints").glob("*/manifest.json"):
        manifest.write_text("{}")
    before = {path: path.read_bytes() for path in (damaged / "checkpoints").rglob("*") if path.is_file()}
    _, errors = finish(start("--defense=funnel", *SMALL, f"--workdir={damaged}", cache=cache), code=2)
    assert f"flag --workdir={damaged}: every checkpoint in it is damaged" in errors
    assert len(errors.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in (damaged / "checkpoints").rglob("*") if path.is_file()} == before


def test_report_is_rewritten_without_training(whole, tmp_path, cache):
    folder, _ = whole
    report = (folder / "report.html").read_text()
    references = next((cache / "references").iterdir())
    command = [sys.executable, "-m", "experiments.report", str(references), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "report.html" in result.stdout
    assert (folder / "report.html").read_text() == report
    missing = subprocess.run([*command[:-1], str(tmp_path)], capture_output=True, text=True, timeout=120, check=False)
    assert missing.returncode == 2
    assert "holds no finished run" in missing.stderr
    assert json.loads((folder / "timing.json").read_text())["train_s"] > 0


@pytest.mark.slow
def test_a_utility_budget_is_spent_and_reported(whole, cache, tmp_path):
    """The whole fixture is asked for only so that the undefended reference is there."""
    arguments = ("--defense=ani", "--utility_budget=0.05", "--width=4", "--steps=20", "--pretraining_steps=5")
    folder = tmp_path / "run"
    output, _ = finish(
        start(*arguments, *SMALL[3:], "--stddev_max=1", f"--workdir={folder}", cache=cache),
    )
    assert "utility budget of 5.0%: accuracy on test" in " ".join(output.split())
    assert "--utility_budget=0.05" in output
    run = runs.load(folder)
    assert {1, 4} == {result.queries for result in run.evidence.attacks}
    assert any("likelihood" in name for name in run.evidence.steps)
    assert "budget/log_multiplier" in run.metrics[-1]
    assert len(list((folder / "checkpoints").glob("*/metrics"))) == 1
